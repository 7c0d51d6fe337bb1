//! pipe(2).

use super::caller::check_flags;
use crate::errno::{Errno, Result};
use crate::fs::pipe::Pipe;
use crate::fs::stream::StreamRef;
use crate::fs::{FileRef, Inode, OpenFile};
use crate::memory::UserPtr;
use crate::process::current;
use alloc::sync::Arc;
use linux_raw_sys::general::{O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDONLY, O_WRONLY};

/// `pipe(2)`.
///
/// # Errors
/// As the man page says.
pub fn pipe(fds: UserPtr<[i32; 2]>) -> Result<()> {
    pipe2(fds, 0)
}

/// `pipe2(2)`.
///
/// # Errors
/// As the man page says.
pub fn pipe2(fds: UserPtr<[i32; 2]>, flags: u32) -> Result<()> {
    check_flags(flags, O_CLOEXEC | O_DIRECT | O_NONBLOCK)?;
    let (reader, writer) = Pipe::pair();
    let file = |stream: StreamRef, access: u32| -> FileRef {
        let inode = Inode::Stream(stream.clone());
        Arc::new(OpenFile::stream(stream, inode, access | flags & O_NONBLOCK))
    };
    // It is the writer who makes packets.
    let pair = [
        file(StreamRef::Shared(reader), O_RDONLY),
        file(StreamRef::Shared(writer), O_WRONLY | flags & O_DIRECT),
    ];
    add_pair(pair, flags & O_CLOEXEC != 0, fds)
}

/// Gives descriptors to two files, and tells the program; or to none of them.
pub(super) fn add_pair(pair: [FileRef; 2], close: bool, fds: UserPtr<[i32; 2]>) -> Result<()> {
    let [first, second] = pair;
    let process = current();
    let (first, second) = {
        let mut files = process.files().lock();
        let first = files.add(first, close)?;
        match files.add(second, close) {
            Ok(second) => (first, second),
            Err(error) => {
                let first = files.remove(first);
                drop(files);
                drop(first);
                return Err(error);
            }
        }
    };
    let written = fds.write([first, second]);
    if written.is_err() {
        for fd in [first, second] {
            let file = process.files().lock().remove(fd);
            drop(file);
        }
        return Err(Errno::EFAULT);
    }
    Ok(())
}
