//! Mounted file systems, apart from where they are mounted.

use super::super::inode::Inode;
use super::super::metadata::devices;
use super::super::ninep::Volume;
use super::super::root::FileSystem;
use super::super::synthetic::{self, Tree};
use super::options::Tmpfs;
use crate::errno::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

/// A mounted file system.
pub struct Superblock {
    kind: Kind,
    device: u64,
    root: Inode,
    read_only: AtomicBool,
}

/// What kind of file system it is. Another kind is added here, and its files as a variant of [`Inode`].
pub enum Kind {
    /// The image that the machine was started with, and the changes above it.
    Root,
    /// Files in memory.
    Tmpfs(&'static FileSystem, crate::sync::SpinLock<Tmpfs>),
    /// Files that the kernel makes up.
    Synthetic(Tree),
    /// A directory of the host.
    Volume(&'static Volume),
}

impl Superblock {
    pub(super) fn of_root(file_system: &'static FileSystem) -> Self {
        Self::with(Kind::Root, devices::ROOT, file_system.root())
    }

    /// A new tmpfs.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM.
    pub(super) fn tmpfs(options: Tmpfs) -> Result<Self> {
        let (file_system, root) = FileSystem::in_memory(&options)?;
        let kind = Kind::Tmpfs(file_system, crate::sync::SpinLock::new(options));
        Ok(Self::with(kind, file_system.device(), root))
    }

    pub(super) fn of_volume(volume: &'static Volume, root: Inode) -> Self {
        let superblock = Self::with(Kind::Volume(volume), volume.device(), root);
        superblock.set_read_only(volume.is_read_only());
        superblock
    }

    fn synthetic(file_system: &'static FileSystem, tree: Tree) -> Self {
        let device = match tree {
            Tree::Devices => devices::DEV,
            Tree::Processes => devices::PROC,
            Tree::System => devices::SYS,
            Tree::Terminals => devices::PTS,
        };
        Self::with(Kind::Synthetic(tree), device, synthetic::root(file_system, tree))
    }

    const fn with(kind: Kind, device: u64, root: Inode) -> Self {
        Self { kind, device, root, read_only: AtomicBool::new(false) }
    }

    /// Its kind.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The type, as `mount(2)` takes it.
    pub const fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Root => "overlay",
            Kind::Tmpfs(..) => "tmpfs",
            Kind::Synthetic(Tree::Devices) => "devtmpfs",
            Kind::Synthetic(Tree::Processes) => "proc",
            Kind::Synthetic(Tree::System) => "sysfs",
            Kind::Synthetic(Tree::Terminals) => "devpts",
            Kind::Volume(_) => "9p",
        }
    }

    /// The device number of its files.
    pub const fn device(&self) -> u64 {
        self.device
    }

    /// Its root directory.
    pub const fn root(&self) -> &Inode {
        &self.root
    }

    /// Whether nothing can be changed, by whatever mount.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Lets its files be changed, or not.
    ///
    /// # Errors
    /// EACCES for what the host lets nobody change.
    pub(super) fn allow_changes(&self, read_only: bool) -> Result<()> {
        if let Kind::Volume(volume) = &self.kind
            && volume.is_read_only()
            && !read_only
        {
            return Err(Errno::EACCES);
        }
        self.set_read_only(read_only);
        Ok(())
    }

    pub(super) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
    }

    /// Changes what `options` names (MS_REMOUNT).
    ///
    /// # Errors
    /// EINVAL for options that it does not know, or that contradict what is stored.
    pub(super) fn change(&self, options: &[u8]) -> Result<()> {
        match &self.kind {
            Kind::Tmpfs(file_system, own) => {
                let mut changed = *own.lock();
                changed.parse(options, false)?;
                file_system.usage.set_limits(changed.size(), changed.nodes())?;
                *own.lock() = changed;
                Ok(())
            }
            Kind::Root => {
                if options.is_empty() {
                    Ok(())
                } else {
                    Err(Errno::EINVAL)
                }
            }
            Kind::Synthetic(tree) => check_options(*tree, options),
            Kind::Volume(_) if options.is_empty() => Ok(()),
            Kind::Volume(_) => super::volumes::check_options(options),
        }
    }

    /// Its options, as /proc/self/mounts shows them after those of the mount.
    pub(super) fn show_options(&self, text: &mut String) -> core::fmt::Result {
        match &self.kind {
            Kind::Tmpfs(_, options) => options.lock().show(text),
            Kind::Synthetic(Tree::Terminals) => write!(text, ",gid=5,mode=620,ptmxmode=666"),
            Kind::Volume(_) => write!(text, ",access=client,trans=virtio"),
            Kind::Root | Kind::Synthetic(_) => Ok(()),
        }
    }
}

impl Drop for Superblock {
    fn drop(&mut self) {
        if let Kind::Tmpfs(..) = &self.kind
            && let Inode::Memory(root) = &self.root
        {
            root.take_apart();
        }
    }
}

/// Options of file systems that have none that could be changed: those that say what is so anyway.
pub(super) fn check_options(tree: Tree, options: &[u8]) -> Result<()> {
    let known: &[&[u8]] = match tree {
        Tree::Terminals => &[
            b"gid=5",
            b"mode=620",
            b"mode=0620",
            b"ptmxmode=666",
            b"ptmxmode=0666",
            b"newinstance",
        ],
        Tree::Devices => &[b"mode=755", b"mode=0755"],
        Tree::Processes => &[b"hidepid=0", b"hidepid=off"],
        Tree::System => &[],
    };
    let mut single = options.split(|&byte| byte == b',').filter(|option| !option.is_empty());
    if single.all(|option| known.contains(&option)) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The file systems of which there is one, however often they are mounted.
pub struct Builtin {
    pub(super) devices: Arc<Superblock>,
    pub(super) processes: Arc<Superblock>,
    pub(super) system: Arc<Superblock>,
    pub(super) terminals: Arc<Superblock>,
}

impl Builtin {
    pub(super) fn new(file_system: &'static FileSystem) -> Self {
        let make = |tree| Arc::new(Superblock::synthetic(file_system, tree));
        Self {
            devices: make(Tree::Devices),
            processes: make(Tree::Processes),
            system: make(Tree::System),
            terminals: make(Tree::Terminals),
        }
    }

    /// The one of this type.
    pub(super) fn find(&self, type_name: &[u8]) -> Option<&Arc<Superblock>> {
        [&self.devices, &self.processes, &self.system, &self.terminals]
            .into_iter()
            .find(|superblock| superblock.type_name().as_bytes() == type_name)
    }
}
