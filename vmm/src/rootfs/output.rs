//! A file that appears whole or not at all.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{RootfsError, reading, writing};
use super::progress::Progress;

/// How much is copied at a time.
const CHUNK: usize = 256 << 10;
/// What is zero in pieces of this size is left out: a hole in the image reads as zeroes.
const HOLE: usize = 4096;

/// A file in the making. It has no name, or one that goes away with this, until it is complete.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    /// Its name for the time being, where the file system has no files without one.
    temporary: Option<PathBuf>,
    buffer: Vec<u8>,
    /// What is shown meanwhile.
    pub progress: Progress,
}

/// A name next to `path` that no other process uses.
fn name_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Output {
    /// Begins a file that is going to be at `path`.
    ///
    /// # Errors
    ///
    /// If its directory cannot be written.
    pub fn create(path: &Path) -> Result<Self, RootfsError> {
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o666)
            .custom_flags(libc::O_TMPFILE)
            .open(directory_of(path));
        let (file, temporary) = match unnamed {
            Ok(file) => (file, None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                let name = name_beside(path);
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(&name);
                (file.map_err(writing(path))?, Some(name))
            }
            Err(error) => return Err(writing(path)(error)),
        };
        let buffer = vec![0; CHUNK];
        Ok(Self { file, path: path.to_owned(), temporary, buffer, progress: Progress::new() })
    }

    /// Writes bytes at an offset.
    ///
    /// # Errors
    ///
    /// Those of the host.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), RootfsError> {
        self.file.write_all_at(bytes, offset).map_err(writing(&self.path))
    }

    /// Makes the file this long.
    ///
    /// # Errors
    ///
    /// Those of the host.
    pub fn set_length(&self, length: u64) -> Result<(), RootfsError> {
        self.file.set_len(length).map_err(writing(&self.path))
    }

    /// Reads back what was written.
    ///
    /// # Errors
    ///
    /// Those of the host.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), RootfsError> {
        self.file.read_exact_at(bytes, offset).map_err(reading(&self.path))
    }

    /// Copies `length` bytes from a reader to an offset, but for zeroes; returns how many bytes there
    /// were.
    ///
    /// # Errors
    ///
    /// Those of the host; of reading as `source` says.
    pub fn copy(
        &mut self,
        mut reader: impl Read,
        source: impl Fn(io::Error) -> RootfsError,
        offset: u64,
        length: u64,
    ) -> Result<u64, RootfsError> {
        let mut done = 0;
        while done < length {
            let wanted = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            let count = fill(&mut reader, &mut self.buffer[..wanted]).map_err(&source)?;
            for (index, piece) in self.buffer[..count].chunks(HOLE).enumerate() {
                if piece.iter().any(|&byte| byte != 0) {
                    let at = offset + done + u64::try_from(index * HOLE).unwrap_or(0);
                    self.file.write_all_at(piece, at).map_err(writing(&self.path))?;
                }
            }
            let bytes = u64::try_from(count).unwrap_or(0);
            self.progress.advance(bytes);
            done += bytes;
            if count < wanted {
                break;
            }
        }
        Ok(done)
    }

    /// Writes all that a reader has to a file without a name, beside the output; returns it and its length.
    ///
    /// # Errors
    ///
    /// Those of the host; of reading as `source` says.
    pub fn spool(
        &mut self,
        reader: impl Read,
        source: impl Fn(io::Error) -> RootfsError,
    ) -> Result<(File, u64), RootfsError> {
        let mut name = self.path.clone().into_os_string();
        name.push(".spool");
        let mut spool = Self::create(Path::new(&name))?;
        if let Some(name) = spool.temporary.take() {
            fs::remove_file(&name).map_err(writing(&name))?;
        }
        let length = spool.copy(reader, source, 0, u64::MAX)?;
        spool.set_length(length)?;
        Ok((spool.file.try_clone().map_err(writing(&self.path))?, length))
    }

    /// Gives the file its name, in place of one that has it.
    ///
    /// # Errors
    ///
    /// Those of the host.
    pub fn finish(mut self) -> Result<File, RootfsError> {
        self.file.sync_data().map_err(writing(&self.path))?;
        let name = match &self.temporary {
            Some(name) => name.clone(),
            None => {
                let name = name_beside(&self.path);
                // What a process of this number left, which has been killed at the wrong moment.
                drop(fs::remove_file(&name));
                link(&self.file, &name).map_err(writing(&self.path))?;
                self.temporary = Some(name.clone());
                name
            }
        };
        fs::rename(&name, &self.path).map_err(writing(&self.path))?;
        self.temporary = None;
        self.file.try_clone().map_err(writing(&self.path))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            drop(fs::remove_file(name));
        }
    }
}

/// Reads until the buffer is full or there is no more.
pub fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Gives a file without a name one (open(2), `O_TMPFILE`).
fn link(file: &File, name: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(name.as_os_str().as_bytes())?;
    // SAFETY: both are C strings that live across the call.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
