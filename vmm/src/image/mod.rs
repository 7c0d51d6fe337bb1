//! The root file system that a program sees: an EROFS image made for it alone.
//!
//! An image is a small file tree of Airlock's own, the program, and what the user adds. Files of the
//! host that are not tiny are not copied: the image says in which blocks they are, and their pages
//! are mapped there ([`crate::config::Piece::File`]).

pub(crate) mod erofs;
mod error;
mod host;
pub(crate) mod layout;
mod path;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::fs::File;
use std::path::Path;

use crate::config::RootImage;
pub use error::ImageError;
use host::HostFiles;
pub use host::open;
pub use path::GuestPath;
use tree::{Attributes, Content, Tree};

/// Directories of every image, with their permissions. The kernel mounts file systems of its own at
/// /dev and /proc.
const DIRECTORIES: [(&str, u16); 6] = [
    ("/bin", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/tmp", 0o1777),
];
/// Files of every image, unless the user gives others: there is one user.
const FILES: [(&str, &[u8]); 2] =
    [("/etc/group", b"root:x:0:\n"), ("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")];

/// A root image in the making.
#[derive(Debug)]
pub struct ImageBuilder {
    tree: Tree,
    host: HostFiles,
}

impl ImageBuilder {
    /// An image of the directories that every Linux root has.
    pub fn new() -> Self {
        let mut tree = Tree::new();
        for (path, permissions) in DIRECTORIES {
            // The constants are valid paths, and nothing can be in their way yet.
            let added = GuestPath::new(path.as_bytes())
                .and_then(|path| tree.add_directory(&path, Attributes::made_up(permissions)));
            debug_assert!(added.is_ok());
        }
        Self { tree, host: HostFiles::default() }
    }

    /// Adds a file or directory of the host, with its permissions and modification time; of a
    /// directory, all that is in it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or something else is at its place.
    pub fn add(&mut self, host: &Path, guest: &GuestPath) -> Result<(), ImageError> {
        self.host.add(&mut self.tree, host, guest)
    }

    /// Adds a regular file of the host that is open already; `host` is its name, for messages.
    ///
    /// # Errors
    ///
    /// As for [`ImageBuilder::add`].
    pub fn add_opened(
        &mut self,
        host: &Path,
        file: File,
        guest: &GuestPath,
    ) -> Result<(), ImageError> {
        self.host.add_opened(&mut self.tree, host, file, guest)
    }

    /// Adds a file of the host, unless its place in the guest is taken: what the user gave counts.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn add_missing(&mut self, host: &Path, guest: &GuestPath) -> Result<(), ImageError> {
        match self.host.add(&mut self.tree, host, guest) {
            Err(ImageError::Duplicate(_) | ImageError::NotADirectory(_)) => Ok(()),
            added => added,
        }
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// If something else is at its place.
    pub fn add_symlink(&mut self, guest: &GuestPath, target: &GuestPath) -> Result<(), ImageError> {
        let content = Content::Symlink(target.as_bytes().to_vec());
        self.tree.add_file(guest, content, Attributes::made_up(0o777))
    }

    /// Adds an executable that Airlock carries inside.
    ///
    /// # Errors
    ///
    /// If something else is at its place.
    pub fn add_embedded(
        &mut self,
        content: &'static [u8],
        guest: &GuestPath,
    ) -> Result<(), ImageError> {
        self.tree.add_file(guest, Content::Bytes(content.into()), Attributes::made_up(0o755))
    }

    /// Makes sure that a directory exists.
    ///
    /// # Errors
    ///
    /// If something else is at its place.
    pub fn add_directory(&mut self, guest: &GuestPath) -> Result<(), ImageError> {
        self.tree.add_directory(guest, Attributes::made_up(0o755))
    }

    /// The image, completed with the files that every Linux root has.
    ///
    /// # Errors
    ///
    /// If the user's files are in the way of that, or too large.
    pub fn build(mut self) -> Result<RootImage, ImageError> {
        for (path, content) in FILES {
            let path = GuestPath::new(path.as_bytes())?;
            if !self.tree.contains(&path) {
                self.tree.add_file(
                    &path,
                    Content::Bytes(content.into()),
                    Attributes::made_up(0o644),
                )?;
            }
        }
        layout::assemble(self.tree)
    }
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}
