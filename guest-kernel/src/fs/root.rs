//! The root file system: the image below, memory above.
//!
//! To the program it is one ordinary file system. A file of the image keeps its identity when it is
//! changed: its inode number stays, and everyone who has it open sees the change. So a file of the
//! image is always [`Inode::Image`], and [`FileSystem::changed`] says whether a [`Node`] took its
//! place. Before the first change there is nothing to look up, and nothing was built.

use super::erofs::Image;
use super::inode::Inode;
use super::metadata::{S_IFDIR, S_ISVTX};
use super::tmpfs::{New, Node};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, PhysAddr, SharedBytes, frame};
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How much memory files take, and may take.
pub struct Usage {
    bytes: AtomicU64,
    limit: u64,
}

impl Usage {
    /// Takes a share of the limit.
    ///
    /// # Errors
    /// ENOSPC beyond it.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        let add = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        match self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(Errno::ENOSPC),
        }
    }

    /// Takes a share, even beyond the limit.
    pub fn charge_anyway(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives a share back.
    pub fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so much could be charged now.
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.limit.saturating_sub(self.used())
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken.
    pub const fn limit(&self) -> u64 {
        self.limit
    }
}

/// A mounted root file system.
pub struct FileSystem {
    image: Image,
    /// Changed files of the image, by inode number.
    changed: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Whether there are any.
    any_changed: AtomicBool,
    next_number: AtomicU64,
    /// Taken, before the lock of any directory, by whoever changes the tree.
    pub(super) tree: SpinLock<()>,
    /// Memory that files take.
    pub usage: Usage,
    /// /dev/shm, once someone asked for it.
    shared_memory: SpinLock<Option<Inode>>,
}

impl FileSystem {
    /// Mounts an image; returns the root directory. Half of RAM may hold changes.
    ///
    /// # Errors
    /// EINVAL, EUCLEAN as for [`Image::open`].
    pub fn mount(bytes: SharedBytes<'static>, start: PhysAddr) -> Result<Inode> {
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
    ) -> Result<Inode> {
        let image = Image::open(bytes, start)?;
        // A mount lasts as long as the kernel.
        let file_system: &'static Self = Box::leak(Box::new(Self {
            image,
            changed: SpinLock::new(BTreeMap::new()),
            any_changed: AtomicBool::new(false),
            next_number: AtomicU64::new(image.first_free_number()),
            tree: SpinLock::new(()),
            usage: Usage { bytes: AtomicU64::new(0), limit },
            shared_memory: SpinLock::new(None),
        }));
        Ok(Inode::Image(file_system, image.root()))
    }

    /// The root directory.
    pub const fn root(&'static self) -> Inode {
        Inode::Image(self, self.image.root())
    }

    /// The directory of ordinary files that is /dev/shm; made at its first use.
    ///
    /// # Errors
    /// ENOSPC.
    pub(super) fn shared_memory(&'static self, parent: Inode) -> Result<Inode> {
        let mut directory = self.shared_memory.lock();
        if let Some(directory) = &*directory {
            return Ok(directory.clone());
        }
        let new =
            New { mode: S_IFDIR | S_ISVTX | 0o777, user: 0, group: 0, special: 0, target: &[] };
        let node = Node::new(self, &new, &parent)?;
        node.change(|attributes| attributes.links = 2);
        Ok(directory.insert(Inode::Memory(node)).clone())
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
