//! `open(2)`, apart from descriptors.

use super::context::Context;
use super::executing::check_writable;
use super::inode::Inode;
use super::inotify;
use super::metadata::{PERMISSIONS, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG};
use super::mount::{Location, NO_DEVICES};
use super::namespace;
use super::open_file::{FileRef, OpenFile};
use super::path::{Found, Last, walk};
use super::permission::{EXECUTE, READ, Subject, WRITE};
use super::pipe::{Access, End, Pipe};
use super::stream::StreamRef;
use super::tmpfs::New;
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    IN_MODIFY, IN_OPEN, O_ACCMODE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK,
    O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
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
    start: &Location,
    path: Vec<u8>,
    flags: u32,
    mode: u32,
    subject: &Subject<'_>,
) -> Result<FileRef> {
    let creates = flags & O_CREAT != 0 && flags & O_PATH == 0;
    let exclusive = creates && flags & O_EXCL != 0;
    let follows = flags & O_NOFOLLOW == 0 && !exclusive;
    let last = match (creates, follows) {
        (true, true) => Last::Create,
        (true, false) => Last::CreateNew,
        (false, true) => Last::Follow,
        (false, false) => Last::Keep,
    };
    let found = walk(&context.root, start, path, last, subject)?;
    if flags & O_TMPFILE == O_TMPFILE && flags & O_PATH == 0 {
        return create_unnamed(context, found, flags & !O_TMPFILE, mode, subject);
    }
    let Some(inode) = &found.inode else {
        if !creates {
            return Err(Errno::ENOENT);
        }
        found.check_writable()?;
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
        return finish(inode, kind, found, kept);
    }
    let writes = flags & O_ACCMODE != O_RDONLY;
    match kind {
        S_IFLNK => return Err(Errno::ELOOP),
        S_IFDIR if writes || creates || flags & O_TRUNC != 0 => return Err(Errno::EISDIR),
        _ => {}
    }
    if matches!(kind, S_IFCHR | S_IFBLK)
        && found.mount.as_ref().is_some_and(|mount| mount.has(NO_DEVICES))
    {
        return Err(Errno::EACCES);
    }
    if kind == S_IFREG && (writes || flags & O_TRUNC != 0) {
        found.check_writable()?;
    }
    subject.check(&inode, wanted(flags))?;
    if kind == S_IFREG && writes {
        check_writable(&inode)?;
    }
    if kind == S_IFREG && flags & O_TRUNC != 0 {
        // Truncating is writing, even for a file that is only opened for reading.
        if !writes {
            subject.check(&inode, WRITE)?;
            check_writable(&inode)?;
        }
        if inode.size()? > 0 {
            inode.truncate(0)?;
        }
        if inotify::is_active() {
            inotify::notify(&inode, Some((&found.parent, found.name.bytes())), IN_MODIFY);
        }
    }
    finish(inode, kind, found, flags)
}

fn wanted(flags: u32) -> u32 {
    match flags & O_ACCMODE {
        O_RDONLY => READ,
        O_WRONLY => WRITE,
        _ => READ | WRITE,
    }
}

fn create(
    context: &Context,
    found: Found,
    flags: u32,
    mode: u32,
    subject: &Subject<'_>,
) -> Result<FileRef> {
    let new = New {
        mode: S_IFREG | (mode & PERMISSIONS & !context.umask),
        user: subject.user,
        group: subject.group,
        special: 0,
        target: &[],
    };
    let (inode, kind) = match namespace::create(&found, new, subject) {
        // Someone else was quicker, and without O_EXCL that is as good.
        Err(Errno::EEXIST) if flags & O_EXCL == 0 => {
            let inode = found.parent.lookup(found.name.bytes())?;
            subject.check(&inode, wanted(flags))?;
            let kind = inode.mode()? & S_IFMT;
            (inode, kind)
        }
        result => (result?, S_IFREG),
    };
    finish(inode, kind, found, flags)
}

/// `O_TMPFILE`: a file without a name in this directory's file system.
fn create_unnamed(
    context: &Context,
    found: Found,
    flags: u32,
    mode: u32,
    subject: &Subject<'_>,
) -> Result<FileRef> {
    if flags & O_ACCMODE == O_RDONLY {
        return Err(Errno::EINVAL);
    }
    let directory = found.inode.clone().ok_or(Errno::ENOENT)?;
    if !directory.is_directory()? {
        return Err(Errno::ENOTDIR);
    }
    found.check_writable()?;
    subject.check(&directory, WRITE | EXECUTE)?;
    let new = New {
        mode: S_IFREG | (mode & PERMISSIONS & !context.umask),
        user: subject.user,
        group: subject.group,
        special: 0,
        target: &[],
    };
    let inode = namespace::create_unnamed(&directory, &new)?;
    finish(inode, S_IFREG, found, flags)
}

/// Connects the inode with what reads and writes go to.
fn finish(inode: Inode, kind: u32, found: Found, flags: u32) -> Result<FileRef> {
    let stream = if flags & O_PATH != 0 { None } else { stream_of(&inode, kind, flags)? };
    let flags = if flags & O_PATH != 0 { flags } else { flags & !TRANSIENT };
    let file = if let Inode::Stream(named) = &inode {
        let stream = stream.unwrap_or_else(|| named.clone());
        OpenFile::stream(stream, inode, flags)
    } else {
        OpenFile::new(inode, found, stream, flags)
    };
    file.notify(IN_OPEN);
    Ok(Arc::new(file))
}

fn stream_of(inode: &Inode, kind: u32, flags: u32) -> Result<Option<StreamRef>> {
    match inode {
        Inode::Synthetic(node) => {
            if let Some(opened) = node.open_terminal(flags) {
                return opened.map(Some);
            }
            let Some(device) = node.device() else { return Ok(None) };
            match device.open_error() {
                Some(error) => Err(error),
                None => Ok(Some(StreamRef::Static(device))),
            }
        }
        Inode::Stream(stream) => match stream.as_pipe() {
            // Through /proc/self/fd: another end of the same pipe.
            Some(pipe) => open_pipe(pipe.clone(), flags).map(Some),
            None => match stream.open_error() {
                Some(error) => Err(error),
                None => Ok(Some(stream.clone())),
            },
        },
        Inode::Volume(node) => match kind {
            S_IFREG | S_IFDIR => node.prepare(flags & O_ACCMODE != O_RDONLY).map(|()| None),
            _ => Err(Errno::ENXIO),
        },
        Inode::Image(..) | Inode::Memory(_) => match kind {
            S_IFREG | S_IFDIR => Ok(None),
            S_IFIFO => {
                let pipe = inode.node()?.pipe().ok_or(Errno::ENXIO)?;
                open_pipe(pipe, flags).map(Some)
            }
            // Devices are in /dev; a node elsewhere has no driver behind it.
            _ => Err(Errno::ENXIO),
        },
    }
}

fn open_pipe(pipe: Arc<Pipe>, flags: u32) -> Result<StreamRef> {
    let mode = flags & O_ACCMODE;
    let access = Access { read: mode != O_WRONLY, write: mode != O_RDONLY };
    let end = End::open_fifo(pipe, access, flags & O_NONBLOCK == 0)?;
    Ok(StreamRef::Shared(end))
}

/// Opens the three standard files of the first process, connected to the console's ports.
///
/// # Errors
/// ENOMEM.
pub fn standard_files() -> [FileRef; 3] {
    use super::console::{STDERR, STDIN, STDOUT};
    let open = |stream: &'static super::console::Console, flags| {
        let stream = StreamRef::Static(stream);
        let inode = Inode::Stream(stream.clone());
        Arc::new(OpenFile::stream(stream, inode, flags))
    };
    [open(&STDIN, O_RDONLY), open(&STDOUT, O_WRONLY), open(&STDERR, O_WRONLY)]
}

/// Opens the terminal, once, as all three standard files of the first process.
///
/// # Errors
/// ENXIO if there is no terminal.
pub fn terminal_files(context: &Context) -> Result<[FileRef; 3]> {
    let path = Vec::from(b"/dev/pts/0");
    let file = open(context, &context.root, path, O_RDWR | O_NOCTTY, 0, &Subject::ROOT)?;
    Ok([file.clone(), file.clone(), file])
}
