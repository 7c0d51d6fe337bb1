//! Who makes a call that takes a path, and where the path starts.

use super::{AT_FDCWD, Fd};
use crate::errno::{Errno, Result};
use crate::fs::inotify::{self, Located};
use crate::fs::path::{Found, Last, PATH_MAX, walk};
use crate::fs::permission::Subject;
use crate::fs::stream::{Stream, StreamRef};
use crate::fs::{Context, FileRef, Inode, Location, OpenFile};
use crate::memory::UserPtr;
use crate::process::{Credentials, current};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_CLOEXEC};

/// The file behind a descriptor, even if it only stands for a place (`O_PATH`).
pub fn any_file(fd: Fd) -> Result<FileRef> {
    current().files().lock().get(fd.0)
}

/// The file behind a descriptor that was opened to be used.
pub fn file(fd: Fd) -> Result<FileRef> {
    let file = any_file(fd)?;
    if file.is_path_only() { Err(Errno::EBADF) } else { Ok(file) }
}

/// Opens a stream that has no path, with the flags of `open(2)`: access mode, `O_NONBLOCK`, `O_CLOEXEC`.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn add_stream(stream: Arc<dyn Stream>, flags: u32) -> Result<i32> {
    let stream = StreamRef::Shared(stream);
    let inode = Inode::Stream(stream.clone());
    let file = Arc::new(OpenFile::stream(stream, inode, flags & !O_CLOEXEC));
    // Dropped, if it cannot be added, when the lock is released: a last close may wake others.
    let process = current();
    process.files().lock().add(file.clone(), flags & O_CLOEXEC != 0)
}

/// Copies in a path.
pub fn read_path(path: UserPtr<u8>) -> Result<Vec<u8>> {
    path.read_string(PATH_MAX, Errno::ENAMETOOLONG)
}

/// The calling process, as far as paths need it, at the time of the call.
pub struct Caller {
    /// Working directory, root and umask.
    pub context: Context,
    credentials: Credentials,
}

impl Caller {
    /// The process that makes the call.
    pub fn get() -> Self {
        let process = current();
        let context = process.fs().lock().clone();
        Self { context, credentials: process.credentials() }
    }

    /// Its rights.
    pub fn subject(&self) -> Subject<'_> {
        let credentials = &self.credentials;
        Subject {
            user: credentials.fsuid,
            group: credentials.fsgid,
            groups: credentials.groups(),
            capabilities: credentials.effective,
        }
    }

    /// Its rights by real instead of effective IDs (`access(2)`).
    pub fn real_subject(&self) -> Subject<'_> {
        let credentials = &self.credentials;
        Subject {
            user: credentials.uid,
            group: credentials.gid,
            groups: credentials.groups(),
            capabilities: credentials.effective_of_real(),
        }
    }

    /// The directory that `path` is relative to.
    ///
    /// # Errors
    /// EBADF, ENOTDIR.
    pub fn start(&self, directory: Fd, path: &[u8]) -> Result<Location> {
        if path.first() == Some(&b'/') || directory == AT_FDCWD {
            return Ok(self.context.directory.clone());
        }
        let file = any_file(directory)?;
        // An empty path does not go anywhere from there.
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if !file.inode().is_directory()? {
            return Err(Errno::ENOTDIR);
        }
        file.location().ok_or(Errno::ENOTDIR)
    }

    /// Walks along a path.
    ///
    /// # Errors
    /// As [`walk`], EFAULT.
    pub fn walk(&self, directory: Fd, path: UserPtr<u8>, last: Last) -> Result<Found> {
        let path = read_path(path)?;
        let start = self.start(directory, &path)?;
        walk(&self.context.root, &start, path, last, &self.subject())
    }

    /// The file that a path leads to, as the `AT_` flags say.
    ///
    /// # Errors
    /// As [`walk`], EFAULT.
    pub fn find(&self, directory: Fd, path: UserPtr<u8>, flags: u32) -> Result<Inode> {
        Ok(self.locate(directory, path, flags)?.inode)
    }

    /// The same, and where it is, for those who watch it or its directory.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub fn locate(&self, directory: Fd, path: UserPtr<u8>, flags: u32) -> Result<Located> {
        let path = read_path(path)?;
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            if directory == AT_FDCWD {
                let Location { mount, inode } = self.context.directory.clone();
                return Ok(Located { inode, place: None, mount: Some(mount) });
            }
            let file = any_file(directory)?;
            let place = if inotify::is_active() { file.place() } else { None };
            let mount = file.mount().cloned();
            return Ok(Located { inode: file.inode().clone(), place, mount });
        }
        let start = self.start(directory, &path)?;
        let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        Located::from_found(walk(&self.context.root, &start, path, last, &self.subject())?)
    }
}

/// EINVAL for flags that a call does not know.
pub fn check_flags(flags: u32, known: u32) -> Result<()> {
    if flags & !known == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}
