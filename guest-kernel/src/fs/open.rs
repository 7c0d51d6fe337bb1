//! `open(2)`, apart from descriptors.

use super::context::Context;
use super::inode::Inode;
use super::metadata::{S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::open_file::{FileRef, OpenFile};
use super::path::{Found, Last, walk};
use super::permission::{READ, Subject, WRITE};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    O_ACCMODE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_PATH, O_RDONLY, O_TRUNC,
    O_WRONLY,
};

/// Flags that say what `open` does and are not kept with the file.
const TRANSIENT: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | linux_raw_sys::general::O_CLOEXEC;

/// Opens the file that `path` leads to from `start`, or makes it.
///
/// `flags` are those of `open(2)`; `mode` is that of a new file, from which the umask is taken.
///
/// # Errors
/// As `open(2)` says.
pub fn open(
    context: &Context,
    start: &Inode,
    path: Vec<u8>,
    flags: u32,
    mode: u32,
    subject: &Subject<'_>,
) -> Result<FileRef> {
    let creates = flags & O_CREAT != 0 && flags & O_PATH == 0;
    let exclusive = creates && flags & O_EXCL != 0;
    let last = match (flags & O_NOFOLLOW != 0, exclusive) {
        (_, true) => Last::Name,
        (true, false) => Last::Keep,
        (false, false) => Last::Follow,
    };
    let found = walk(&context.root, start, path, last, subject)?;
    if creates && found.slash {
        return Err(Errno::EISDIR);
    }
    let Some(inode) = &found.inode else {
        if !creates {
            return Err(Errno::ENOENT);
        }
        return create(context, found, flags, mode, subject);
    };
    if exclusive {
        return Err(Errno::EEXIST);
    }
    let kind = inode.mode()? & S_IFMT;
    if (found.slash || flags & O_DIRECTORY != 0) && kind != S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    let inode = inode.clone();
    if flags & O_PATH != 0 {
        // Only these flags mean anything together with O_PATH.
        let kept = flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
        return finish(inode, found, kept);
    }
    let writes = flags & O_ACCMODE != O_RDONLY;
    match kind {
        S_IFLNK => return Err(Errno::ELOOP),
        S_IFDIR if writes || creates || flags & O_TRUNC != 0 => return Err(Errno::EISDIR),
        _ => {}
    }
    subject.check(&inode, wanted(flags))?;
    if kind == S_IFREG && flags & O_TRUNC != 0 {
        // Truncating is writing, even for a file that is only opened for reading.
        if !writes {
            subject.check(&inode, WRITE)?;
        }
        if inode.size()? > 0 {
            inode.truncate(0)?;
        }
    }
    finish(inode, found, flags & !TRANSIENT)
}

fn wanted(flags: u32) -> u32 {
    match flags & O_ACCMODE {
        O_RDONLY => READ,
        O_WRONLY => WRITE,
        _ => READ | WRITE,
    }
}

fn create(
    _context: &Context,
    _found: Found,
    _flags: u32,
    _mode: u32,
    _subject: &Subject<'_>,
) -> Result<FileRef> {
    Err(Errno::EROFS)
}

fn finish(inode: Inode, found: Found, flags: u32) -> Result<FileRef> {
    let stream = match inode.mode()? & S_IFMT {
        _ if flags & O_PATH != 0 => None,
        S_IFREG | S_IFDIR => None,
        S_IFCHR => return Err(Errno::ENXIO),
        _ => return Err(Errno::ENXIO),
    };
    Ok(Arc::new(OpenFile::new(inode, found.parent, found.name, stream, flags)))
}

/// Opens the three standard files of the first process, connected to the console's ports.
///
/// # Errors
/// ENOMEM.
pub fn standard_files() -> [FileRef; 3] {
    use super::console::{STDERR, STDIN, STDOUT};
    use super::stream::StreamRef;
    let open = |stream: &'static super::console::Console, flags| {
        let stream = StreamRef::Static(stream);
        let inode = Inode::Stream(stream.clone());
        Arc::new(OpenFile::stream(stream, inode, flags))
    };
    [open(&STDIN, O_RDONLY), open(&STDOUT, O_WRONLY), open(&STDERR, O_WRONLY)]
}
