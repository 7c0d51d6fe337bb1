//! The root file system: the image below, memory above.
//!
//! To the program it is one ordinary file system. A file of the image keeps its identity when it is
//! changed: its inode number stays, and everyone who has it open sees the change. So a file of the
//! image is always [`Inode::Image`], and [`FileSystem::changed`] says whether a [`Node`] took its
//! place. Before the first change there is nothing to look up, and nothing was built.

use super::erofs::Image;
use super::inode::Inode;
use super::metadata::{PERMISSIONS, S_IFDIR, device_number, devices};
use super::mount::{Location, Namespace, Tmpfs};
use super::tmpfs::{New, Node};
use super::usage::Usage;
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, PhysAddr, SharedBytes, frame};
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A file system whose changes are in memory: the root, and each tmpfs, which has no image below it.
pub struct FileSystem {
    image: Image,
    /// The device number of its files.
    device: u64,
    /// Changed files of the image, by inode number.
    changed: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Whether there are any.
    any_changed: AtomicBool,
    next_number: AtomicU64,
    /// Taken, before the lock of any directory, by whoever changes the tree.
    pub(super) tree: SpinLock<()>,
    /// Memory that files take.
    pub usage: Usage,
}

/// All file systems that were ever made for a tmpfs. One that nothing is left of serves the next, so that
/// there are never more than were mounted, or kept by open files, at one time.
static IN_MEMORY: SpinLock<Vec<&'static FileSystem>> = SpinLock::new(Vec::new());
/// The minor number of the first one's device.
const FIRST_DEVICE: u32 = 0x40;
/// The number of a root directory, as on Linux.
const ROOT_NUMBER: u64 = 1;

/// Bytes that the files of all of them take.
pub fn used_in_memory() -> u64 {
    IN_MEMORY.lock().iter().map(|file_system| file_system.usage.used()).sum()
}

impl FileSystem {
    /// Mounts an image, and what is always in it. Half of RAM may hold changes.
    ///
    /// # Errors
    /// EINVAL, EUCLEAN as for [`Image::open`].
    pub fn mount(
        bytes: SharedBytes<'static>,
        start: PhysAddr,
    ) -> Result<(Arc<Namespace>, Location)> {
        Self::mount_with_limit(bytes, start, frame::total() / 2 * PAGE)
    }

    /// The same with another limit on what changes may take, in bytes.
    ///
    /// # Errors
    /// As for [`Self::mount`].
    pub fn mount_with_limit(
        bytes: SharedBytes<'static>,
        start: PhysAddr,
        limit: u64,
    ) -> Result<(Arc<Namespace>, Location)> {
        let image = Image::open(bytes, start)?;
        let first = image.first_free_number();
        let file_system = Self::leak(image, devices::ROOT, first, Usage::of_bytes(limit));
        Namespace::first(file_system)
    }

    /// A file system lasts as long as the kernel, though its files do not.
    fn leak(image: Image, device: u64, first_number: u64, usage: Usage) -> &'static Self {
        Box::leak(Box::new(Self {
            image,
            device,
            changed: SpinLock::new(BTreeMap::new()),
            any_changed: AtomicBool::new(false),
            next_number: AtomicU64::new(first_number),
            tree: SpinLock::new(()),
            usage,
        }))
    }

    /// An empty file system in memory, and its root directory.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM.
    pub(super) fn in_memory(options: &Tmpfs) -> Result<(&'static Self, Inode)> {
        let mut all = IN_MEMORY.lock();
        let file_system = match all.iter().find(|other| other.usage.is_unused()) {
            Some(unused) => *unused,
            None => {
                frame::check_room()?;
                all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let index = u32::try_from(all.len()).map_err(|_| Errno::ENOSPC)?;
                let device = device_number(0, FIRST_DEVICE + index);
                let usage = Usage::of_bytes_and_nodes(0, 0);
                let new = Self::leak(Image::EMPTY, device, ROOT_NUMBER + 1, usage);
                all.push(new);
                new
            }
        };
        file_system.usage.set_limits(options.size(), options.nodes())?;
        let mode = S_IFDIR | options.mode & PERMISSIONS;
        let new = New { mode, user: options.user, group: options.group, special: 0, target: &[] };
        let root = Node::new_root(file_system, &new, ROOT_NUMBER)?;
        Ok((file_system, Inode::Memory(root)))
    }

    /// The root directory of the image.
    pub const fn root(&'static self) -> Inode {
        Inode::Image(self, self.image.root())
    }

    /// The device number of its files.
    pub const fn device(&self) -> u64 {
        self.device
    }

    /// The image below.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// What took the place of a file of the image, if it was changed.
    #[inline]
    pub fn changed(&self, number: u64) -> Option<Arc<Node>> {
        if self.any_changed.load(Ordering::Acquire) {
            self.changed.lock().get(&number).cloned()
        } else {
            None
        }
    }

    /// The same, after making it if there is none.
    ///
    /// # Errors
    /// ENOMEM, EUCLEAN.
    pub fn change(&'static self, number: u64) -> Result<Arc<Node>> {
        let mut changed = self.changed.lock();
        if let Some(node) = changed.get(&number) {
            return Ok(node.clone());
        }
        let node = Node::over(self, self.image, number)?;
        changed.insert(number, node.clone());
        self.any_changed.store(true, Ordering::Release);
        Ok(node)
    }

    /// A number for a new file.
    pub fn new_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}
