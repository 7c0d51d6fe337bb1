//! Files and directories of the host, added to a root image.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::error::ImageError;
use super::path::GuestPath;
use super::tree::{Attributes, Content, Tree};

/// Files from this size on, of more than a page, are mapped; below it, copying is cheaper.
const MAP_FROM: u64 = 4097;
/// So many files are mapped at most, well below the usual limits for open files (1024) and mappings;
/// any more are copied.
const MAX_MAPPED: usize = 512;

/// Adds files of the host to a tree.
#[derive(Debug, Default)]
pub struct HostFiles {
    mapped: usize,
}

impl HostFiles {
    /// Adds a file, or a directory with all that is in it. A symbolic link stands for what it leads
    /// to; those inside a directory are kept as links.
    ///
    /// # Errors
    ///
    /// If something cannot be read, is not a file, directory or link, or its place is taken.
    pub fn add(
        &mut self,
        tree: &mut Tree,
        host: &Path,
        guest: &GuestPath,
    ) -> Result<(), ImageError> {
        let file = open(host).map_err(unreadable(host))?;
        let metadata = file.metadata().map_err(unreadable(host))?;
        if metadata.is_dir() {
            self.add_directory(tree, host, guest, &metadata)
        } else {
            self.add_opened(tree, host, file, guest)
        }
    }

    /// Adds a regular file that is open already.
    ///
    /// # Errors
    ///
    /// As for [`HostFiles::add`].
    pub fn add_opened(
        &mut self,
        tree: &mut Tree,
        host: &Path,
        file: File,
        guest: &GuestPath,
    ) -> Result<(), ImageError> {
        let metadata = file.metadata().map_err(unreadable(host))?;
        if !metadata.is_file() {
            return Err(ImageError::SpecialFile(host.to_owned()));
        }
        let length = metadata.len();
        let content = if length >= MAP_FROM && self.mapped < MAX_MAPPED {
            self.mapped += 1;
            Content::Mapped { file, length }
        } else {
            Content::Bytes(read(&file, length, host)?.into())
        };
        tree.add_file(guest, content, attributes(&metadata))
    }

    fn add_directory(
        &mut self,
        tree: &mut Tree,
        host: &Path,
        guest: &GuestPath,
        metadata: &Metadata,
    ) -> Result<(), ImageError> {
        tree.add_directory(guest, attributes(metadata))?;
        for entry in fs::read_dir(host).map_err(unreadable(host))? {
            let entry = entry.map_err(unreadable(host))?;
            let path = entry.path();
            let guest = guest.join(entry.file_name().as_bytes())?;
            let file_type = entry.file_type().map_err(unreadable(&path))?;
            if file_type.is_symlink() {
                let target = fs::read_link(&path).map_err(unreadable(&path))?;
                let metadata = entry.metadata().map_err(unreadable(&path))?;
                let content = Content::Symlink(target.into_os_string().into_vec());
                tree.add_file(&guest, content, attributes(&metadata))?;
            } else {
                self.add(tree, &path, &guest)?;
            }
        }
        Ok(())
    }
}

/// Opens a file for reading without waiting for the other end of a FIFO.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn read(file: &File, length: u64, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // Whoever looked at the file before may have left its offset anywhere.
    let mut file = file;
    file.rewind().map_err(unreadable(path))?;
    file.take(length).read_to_end(&mut bytes).map_err(unreadable(path))?;
    if u64::try_from(bytes.len()) == Ok(length) {
        Ok(bytes)
    } else {
        Err(ImageError::Changed(path.to_owned()))
    }
}

fn attributes(metadata: &Metadata) -> Attributes {
    // Times before 1970 become 1970.
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Attributes {
        permissions: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        user: 0,
        group: 0,
        modified: Some((seconds, nanoseconds)),
        origin: Some((metadata.dev(), metadata.ino())),
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Read { path: path.to_owned(), source }
}
