//! What a process brings to every path: its working directory, its root and its file mode mask.

use super::inode::Inode;
use super::path::path_of;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// A process's place in the file system.
#[derive(Clone)]
pub struct Context {
    /// What `/` means.
    pub root: Inode,
    /// The working directory.
    pub directory: Inode,
    /// Permission bits that new files do not get (`umask(2)`).
    pub umask: u32,
}

impl Context {
    /// The context of the first process.
    pub fn new(root: Inode) -> Self {
        Self { directory: root.clone(), root, umask: 0o022 }
    }

    /// The working directory's path. Called on a copy, as it may search directories.
    ///
    /// # Errors
    /// ENOENT if the directory was removed, ENAMETOOLONG.
    pub fn working_directory(&self) -> Result<Vec<u8>> {
        path_of(&self.root, &self.directory)?.ok_or(Errno::ENOENT)
    }
}
