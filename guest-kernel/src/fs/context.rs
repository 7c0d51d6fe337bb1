//! What a process brings to every path: its working directory, its root and its file mode mask.

use super::mount::{Location, Namespace};
use super::path::path_of;
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A process's place in the file system.
#[derive(Clone)]
pub struct Context {
    /// What `/` means.
    pub root: Location,
    /// The working directory.
    pub directory: Location,
    /// What is mounted where.
    pub mounts: Arc<Namespace>,
    /// Permission bits that new files do not get (`umask(2)`).
    pub umask: u32,
}

impl Context {
    /// The context of the first process.
    pub fn new((mounts, root): (Arc<Namespace>, Location)) -> Self {
        Self { directory: root.clone(), root, mounts, umask: 0o022 }
    }

    /// The working directory's path. Called on a copy, as it may search directories.
    ///
    /// # Errors
    /// ENOENT if the directory was removed, ENAMETOOLONG.
    pub fn working_directory(&self) -> Result<Vec<u8>> {
        path_of(&self.root, &self.directory)?.ok_or(Errno::ENOENT)
    }
}
