//! What is mounted where (`mount_namespaces(7)`).
//!
//! A [`Mount`] shows a [`Superblock`], a mounted file system, or a part of it, at a place. Mounts are a
//! tree: a mount knows the place that it covers, and what is mounted in it. A path leads to a
//! [`Location`]: a file, and the mount by which it was reached. To find out that nothing is mounted on a
//! file takes no lock, since a mount has a bit for whatever could be covered in it.
//!
//! A mount lives as long as it is in the tree or someone uses it: an open file, a working directory.

mod attach;
mod list;
mod options;
mod superblock;
mod volumes;

pub use attach::{
    New, bind, change_propagation, move_to, new, pivot_root, reconfigure, remount, unmount,
};
pub use list::{mount_information, mounts};
pub use options::Tmpfs;
pub use superblock::{Builtin, Kind, Superblock};
pub use volumes::add_volume;

use super::inode::Inode;
use super::root::FileSystem;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Nothing can be changed by way of this mount.
pub const READ_ONLY: u32 = linux_raw_sys::general::MS_RDONLY;
/// Set-user-ID and set-group-ID bits count for nothing.
pub const NO_SUID: u32 = linux_raw_sys::general::MS_NOSUID;
/// Devices cannot be opened.
pub const NO_DEVICES: u32 = linux_raw_sys::general::MS_NODEV;
/// Programs cannot be executed.
pub const NO_EXECUTE: u32 = linux_raw_sys::general::MS_NOEXEC;
/// Flags that belong to a mount, not to the file system.
const OWN_FLAGS: u32 = READ_ONLY | NO_SUID | NO_DEVICES | NO_EXECUTE;
/// `fs.mount-max`: a program must not fill memory with mounts.
const MAX_MOUNTS: u32 = 10_000;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Held, before the locks of single mounts, by whoever changes the tree.
static TREE: SpinLock<()> = SpinLock::new(());

/// A file system, or a part of one, at a place in the tree.
pub struct Mount {
    id: u64,
    superblock: Arc<Superblock>,
    /// What is seen at the mount point.
    root: Inode,
    /// The path of that in the file system, when it was mounted.
    root_path: Vec<u8>,
    /// What `mount(2)` was given as the source.
    source: Vec<u8>,
    flags: AtomicU32,
    /// Whether it cannot be bound elsewhere (MS_UNBINDABLE).
    unbindable: AtomicBool,
    /// Whether nobody has used it since `umount2` with MNT_EXPIRE.
    expired: AtomicBool,
    /// Files that are open for writing.
    writers: AtomicU32,
    /// A bit for each inode on which something is mounted, see [`bit_of`].
    covered: AtomicU64,
    links: SpinLock<Links>,
}

/// Where a mount is in the tree.
struct Links {
    up: Option<Point>,
    /// What is mounted in it, and on which file.
    down: Vec<(Inode, Arc<Mount>)>,
}

/// A mount point.
#[derive(Clone)]
struct Point {
    mount: Weak<Mount>,
    inode: Inode,
    /// The directory that it is in, and its name there, neither of which can change as long as it is a
    /// mount point.
    parent: Inode,
    name: Vec<u8>,
}

/// A file, and the mount by which it was reached.
#[derive(Clone)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The file.
    pub inode: Inode,
}

/// A tree of mounts.
pub struct Namespace {
    root: SpinLock<Arc<Mount>>,
    /// How many mounts there are.
    count: AtomicU32,
    builtin: Builtin,
}

/// The bit that stands for an inode in [`Mount::covered`].
const fn bit_of(number: u64) -> u64 {
    1 << (number % 64)
}

impl Location {
    /// Whether both are the same file, reached by the same mount.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && self.inode.is(&other.inode)
    }

    /// Whether it is what a mount shows at its mount point.
    pub fn is_mount_root(&self) -> bool {
        self.inode.is(&self.mount.root)
    }

    /// What is seen here: goes on to what is mounted on it, and on that.
    pub fn enter(mut self) -> Self {
        while let Some(mount) = self.mount.on(&self.inode) {
            self = Self { inode: mount.root.clone(), mount };
        }
        self
    }
}

impl Mount {
    /// A mount that is not in the tree yet.
    fn detached(
        superblock: Arc<Superblock>,
        (root, root_path): (Inode, Vec<u8>),
        source: Vec<u8>,
        flags: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            superblock,
            root,
            root_path,
            source,
            flags: AtomicU32::new(flags & OWN_FLAGS),
            unbindable: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            writers: AtomicU32::new(0),
            covered: AtomicU64::new(0),
            links: SpinLock::new(Links { up: None, down: Vec::new() }),
        })
    }

    /// Its number, as `statx(2)` and /proc/self/mountinfo show it.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The file system.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What is seen at the mount point.
    pub const fn root(&self) -> &Inode {
        &self.root
    }

    /// `MS_*` flags of this mount.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Whether it has this flag.
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// Whether nothing can be changed by way of it.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.has(READ_ONLY) || self.superblock.is_read_only()
    }

    /// Whether anything may be changed by way of it.
    ///
    /// # Errors
    /// EROFS.
    #[inline]
    pub fn check_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// A file was opened for writing.
    pub(super) fn begin_writing(&self) {
        self.writers.fetch_add(1, Ordering::Relaxed);
    }

    /// It was closed.
    pub(super) fn end_writing(&self) {
        self.writers.fetch_sub(1, Ordering::Relaxed);
    }

    /// What is mounted on this file of the mount.
    #[inline]
    pub fn on(&self, inode: &Inode) -> Option<Arc<Self>> {
        if self.covered.load(Ordering::Acquire) & bit_of(inode.number()) == 0 {
            None
        } else {
            self.find_on(inode)
        }
    }

    #[cold]
    fn find_on(&self, inode: &Inode) -> Option<Arc<Self>> {
        let links = self.links.lock();
        links.down.iter().find(|(at, _)| at.is(inode)).map(|(_, mount)| mount.clone())
    }

    /// The place that it covers; none for the root of the tree, and for a mount that is in none.
    pub fn point(&self) -> Option<Location> {
        let links = self.links.lock();
        let point = links.up.as_ref()?;
        Some(Location { mount: point.mount.upgrade()?, inode: point.inode.clone() })
    }

    /// The directory that its mount point is in, and the mount point's name there.
    pub(super) fn named_point(&self) -> Option<(Location, Vec<u8>)> {
        let links = self.links.lock();
        let point = links.up.as_ref()?;
        let mount = point.mount.upgrade()?;
        Some((Location { mount, inode: point.parent.clone() }, point.name.clone()))
    }

    /// The mount that it is mounted in.
    fn above(&self) -> Option<Arc<Self>> {
        self.links.lock().up.as_ref()?.mount.upgrade()
    }

    /// The root of the tree that it is in.
    fn top(self: &Arc<Self>) -> Arc<Self> {
        let mut top = self.clone();
        while let Some(above) = top.above() {
            top = above;
        }
        top
    }
}

impl Namespace {
    /// The tree of the first process: the root file system, and those that are always there.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub fn first(file_system: &'static FileSystem) -> Result<(Arc<Self>, Location)> {
        let builtin = Builtin::new(file_system);
        let superblock = Superblock::of_root(file_system);
        let top = (file_system.root(), b"/".to_vec());
        let root = Mount::detached(Arc::new(superblock), top, b"overlay".to_vec(), 0);
        let location = Location { inode: file_system.root(), mount: root.clone() };
        let namespace =
            Arc::new(Self { root: SpinLock::new(root), count: AtomicU32::new(1), builtin });
        attach::attach_builtin(&namespace, &location)?;
        Ok((namespace, location))
    }

    /// The file systems of which there is one.
    pub const fn builtin(&self) -> &Builtin {
        &self.builtin
    }

    /// The directory of terminals, wherever it is mounted now.
    pub fn terminals(&self) -> Option<Location> {
        let all = attach::subtree(&self.root()).ok()?;
        let is_it = |mount: &&Arc<Mount>| Arc::ptr_eq(&mount.superblock, &self.builtin.terminals);
        let mount = all.iter().find(is_it)?.clone();
        Some(Location { inode: mount.root.clone(), mount })
    }

    /// The mount that all others are in.
    pub fn root(&self) -> Arc<Mount> {
        self.root.lock().clone()
    }

    /// Whether a mount is in this tree.
    fn has(&self, mount: &Arc<Mount>) -> bool {
        Arc::ptr_eq(&mount.top(), &self.root())
    }
}
