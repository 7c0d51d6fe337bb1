//! What a file system in memory takes, and may take.

use crate::errno::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering};

/// What a file takes of a limit in bytes besides its pages.
const NODE_SIZE: u64 = 512;
/// What a name takes of it.
const NAME_SIZE: u64 = 256;

/// How much memory files take, and may take.
pub struct Usage {
    bytes: AtomicU64,
    limit: AtomicU64,
    nodes: AtomicU64,
    node_limit: AtomicU64,
    /// Whether files and names count as bytes, too. Where they do not, files are counted by themselves
    /// (tmpfs(5): `nr_inodes`).
    all_in_bytes: bool,
}

/// Takes a share of a limit.
fn take(counter: &AtomicU64, limit: &AtomicU64, share: u64) -> Result<()> {
    let limit = limit.load(Ordering::Relaxed);
    let add = |used: u64| used.checked_add(share).filter(|&sum| sum <= limit);
    match counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
        Ok(_) => Ok(()),
        Err(_) => Err(Errno::ENOSPC),
    }
}

impl Usage {
    /// One limit, in bytes, for all.
    pub const fn of_bytes(limit: u64) -> Self {
        Self::new(limit, u64::MAX, true)
    }

    /// A limit for content, in bytes, and one for the number of files.
    pub const fn of_bytes_and_nodes(limit: u64, nodes: u64) -> Self {
        Self::new(limit, nodes, false)
    }

    const fn new(limit: u64, nodes: u64, all_in_bytes: bool) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            nodes: AtomicU64::new(0),
            node_limit: AtomicU64::new(nodes),
            all_in_bytes,
        }
    }

    /// Takes a share of the limit for content.
    ///
    /// # Errors
    /// ENOSPC beyond it.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        take(&self.bytes, &self.limit, bytes)
    }

    /// Gives a share back.
    pub fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts a file.
    ///
    /// # Errors
    /// ENOSPC beyond the limit.
    pub fn charge_node(&self) -> Result<()> {
        if self.all_in_bytes {
            self.charge(NODE_SIZE)?;
            self.nodes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        } else {
            take(&self.nodes, &self.node_limit, 1)
        }
    }

    /// Counts a file, even beyond the limit.
    pub fn charge_node_anyway(&self) {
        self.nodes.fetch_add(1, Ordering::Relaxed);
        if self.all_in_bytes {
            self.bytes.fetch_add(NODE_SIZE, Ordering::Relaxed);
        }
    }

    /// A file is gone.
    pub fn release_node(&self) {
        if self.all_in_bytes {
            self.release(NODE_SIZE);
        }
        self.nodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a further name of a file, which Linux's tmpfs takes for another file.
    ///
    /// # Errors
    /// ENOSPC beyond the limit.
    pub fn charge_link(&self) -> Result<()> {
        if self.all_in_bytes { Ok(()) } else { take(&self.nodes, &self.node_limit, 1) }
    }

    /// Such a name is gone.
    pub fn release_link(&self) {
        if !self.all_in_bytes {
            self.nodes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a name.
    ///
    /// # Errors
    /// ENOSPC beyond the limit.
    pub fn charge_name(&self) -> Result<()> {
        if self.all_in_bytes { self.charge(NAME_SIZE) } else { Ok(()) }
    }

    /// So many names are gone.
    pub fn release_names(&self, count: u64) {
        if self.all_in_bytes {
            self.release(count * NAME_SIZE);
        }
    }

    /// Whether so much could be charged now.
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.limit().saturating_sub(self.used())
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Files that there are.
    pub fn nodes(&self) -> u64 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// How many there may be, and how many more.
    pub fn node_room(&self) -> (u64, u64) {
        if self.all_in_bytes {
            (self.limit() / NODE_SIZE, self.limit().saturating_sub(self.used()) / NODE_SIZE)
        } else {
            let limit = self.node_limit.load(Ordering::Relaxed);
            (limit, limit.saturating_sub(self.nodes()))
        }
    }

    /// Sets both limits.
    ///
    /// # Errors
    /// EINVAL if more is taken already.
    pub fn set_limits(&self, bytes: u64, nodes: u64) -> Result<()> {
        if self.used() > bytes || self.nodes() > nodes {
            return Err(Errno::EINVAL);
        }
        self.limit.store(bytes, Ordering::Relaxed);
        self.node_limit.store(nodes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether nothing is left of what there was.
    pub fn is_unused(&self) -> bool {
        self.nodes() == 0 && self.used() == 0
    }
}
