//! Opening and closing: open(2), close(2), close_range(2), memfd_create(2).

use super::caller::{Caller, check_flags, read_path};
use super::{AT_FDCWD, Fd};
use crate::errno::{Errno, Result};
use crate::fs::metadata::S_IFREG;
use crate::fs::tmpfs::{F_SEAL_EXEC, New};
use crate::fs::{self, OpenFile, namespace};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    F_SEAL_SEAL, MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGE_MASK, MFD_HUGE_SHIFT,
    MFD_HUGETLB, MFD_NOEXEC_SEAL, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY,
    O_DSYNC, O_EXCL, O_LARGEFILE, O_NOATIME, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDWR,
    O_SYNC, O_TMPFILE, O_TRUNC, O_WRONLY,
};

/// `linux/close_range.h`: nothing is shared with others any more.
const CLOSE_RANGE_UNSHARE: u32 = 2;
/// `linux/close_range.h`: the descriptors are only marked.
const CLOSE_RANGE_CLOEXEC: u32 = 4;
/// Flags that exist; `open` ignores others, `openat2` does not.
const KNOWN: u32 = O_ACCMODE
    | O_APPEND
    | O_CLOEXEC
    | O_CREAT
    | O_DIRECT
    | O_DIRECTORY
    | O_DSYNC
    | O_EXCL
    | O_LARGEFILE
    | O_NOATIME
    | O_NOCTTY
    | O_NOFOLLOW
    | O_NONBLOCK
    | O_PATH
    | O_SYNC
    | O_TMPFILE
    | O_TRUNC;
/// A label of a memory file is `memfd:` and up to so many bytes.
const MAX_LABEL: usize = 249;

/// `open(2)`.
///
/// # Errors
/// As the man page says.
pub fn open(path: UserPtr<u8>, flags: u32, mode: u32) -> Result<i32> {
    openat(AT_FDCWD, path, flags, mode)
}

/// `creat(2)`.
///
/// # Errors
/// As the man page says.
pub fn creat(path: UserPtr<u8>, mode: u32) -> Result<i32> {
    openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode)
}

/// `openat(2)`.
///
/// # Errors
/// As the man page says.
pub fn openat(directory: Fd, path: UserPtr<u8>, flags: u32, mode: u32) -> Result<i32> {
    let flags = flags & KNOWN;
    let flags = if flags & O_PATH != 0 {
        flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    } else {
        flags
    };
    // It never was clear what this should make; since Linux 6.4 it makes nothing.
    if flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    // The bit that tells O_TMPFILE from O_DIRECTORY means nothing alone.
    if flags & (O_TMPFILE & !O_DIRECTORY) != 0 && flags & O_DIRECTORY == 0 {
        return Err(Errno::EINVAL);
    }
    // No file here can be read or written past the (missing) cache.
    if flags & O_PATH == 0 && flags & O_DIRECT != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::get();
    let path = read_path(path)?;
    let start = caller.start(directory, &path)?;
    // As on Linux, every file opened by a 64-bit program shows O_LARGEFILE.
    let kept = flags | if flags & O_PATH == 0 { O_LARGEFILE } else { 0 };
    let file = fs::open(&caller.context, &start, path, kept, mode, &caller.subject())?;
    current().files().lock().add(file, flags & O_CLOEXEC != 0)
}

/// `struct open_how`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

// SAFETY: three integers without a gap.
unsafe impl Plain for OpenHow {}

/// `openat2(2)`, without the restrictions that `resolve` could ask for.
///
/// # Errors
/// As the man page says; EOPNOTSUPP for restrictions, as a kernel before Linux 5.6 had no such call.
pub fn openat2(
    directory: Fd,
    path: UserPtr<u8>,
    how: UserPtr<OpenHow>,
    size: usize,
) -> Result<i32> {
    if size < size_of::<OpenHow>() {
        return Err(Errno::EINVAL);
    }
    if size > crate::memory::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let OpenHow { flags, mode, resolve } = how.read()?;
    for at in size_of::<OpenHow>()..size {
        if how.cast::<u8>().element(at).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    check_flags(flags, KNOWN)?;
    let creates = flags & O_CREAT != 0 || flags & O_TMPFILE == O_TMPFILE;
    let mode = u32::try_from(mode).map_err(|_| Errno::EINVAL)?;
    if mode & !fs::metadata::PERMISSIONS != 0 || (mode != 0 && !creates) {
        return Err(Errno::EINVAL);
    }
    if flags & O_PATH != 0 && flags & !(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    if resolve != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    openat(directory, path, flags, mode)
}

/// `close(2)`.
///
/// # Errors
/// EBADF.
pub fn close(fd: Fd) -> Result<()> {
    // The lock is free again when the file is dropped.
    let process = current();
    let file = process.files().lock().remove(fd.0)?;
    file.closed_by(process.pid);
    drop(file);
    Ok(())
}

/// `close_range(2)`.
///
/// # Errors
/// EINVAL.
pub fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    check_flags(flags, CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE)?;
    if first > last {
        return Err(Errno::EINVAL);
    }
    // The table belongs to this process alone, so that there is nothing to unshare.
    let last = i32::try_from(last).unwrap_or(i32::MAX);
    let mut from = i32::try_from(first).unwrap_or(i32::MAX);
    let process = current();
    loop {
        let mut files = process.files().lock();
        let Some(fd) = files.next(from).filter(|&fd| fd <= last) else { return Ok(()) };
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            files.set_close_on_exec(fd, true)?;
        } else {
            let file = files.remove(fd)?;
            drop(files);
            file.closed_by(process.pid);
            drop(file);
        }
        let Some(next) = fd.checked_add(1) else { return Ok(()) };
        from = next;
    }
}

/// `memfd_create(2)`.
///
/// # Errors
/// EINVAL, EFAULT, EMFILE, ENOSPC; ENOSYS for huge pages, as on a Linux without CONFIG_HUGETLBFS.
pub fn memfd_create(name: UserPtr<u8>, flags: u32) -> Result<i32> {
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC | MFD_NOEXEC_SEAL;
    let sizes = MFD_HUGE_MASK << MFD_HUGE_SHIFT;
    let is_huge = flags & MFD_HUGETLB != 0;
    check_flags(flags, if is_huge { known | MFD_HUGETLB | sizes } else { known })?;
    let both = MFD_EXEC | MFD_NOEXEC_SEAL;
    if flags & both == both {
        return Err(Errno::EINVAL);
    }
    let name = name.read_string(MAX_LABEL + 1, Errno::EINVAL)?;
    if is_huge {
        return Err(Errno::ENOSYS);
    }
    let caller = Caller::get();
    let subject = caller.subject();
    let (mode, seals) = match (flags & MFD_NOEXEC_SEAL != 0, flags & MFD_ALLOW_SEALING != 0) {
        (true, _) => (0o666, F_SEAL_EXEC),
        (false, true) => (0o777, 0),
        (false, false) => (0o777, F_SEAL_SEAL),
    };
    let new = New {
        mode: S_IFREG | mode,
        user: subject.user,
        group: subject.group,
        special: 0,
        target: &[],
    };
    let mut label = Vec::new();
    label.try_reserve_exact(name.len() + 17).map_err(|_| Errno::ENOMEM)?;
    for part in [b"/memfd:".as_slice(), &name, b" (deleted)"] {
        label.extend_from_slice(part);
    }
    let inode = namespace::create_memfd(caller.context.mounts.root().root(), &new, label, seals)?;
    let file = Arc::new(OpenFile::unnamed(inode, O_RDWR | O_LARGEFILE));
    current().files().lock().add(file, flags & MFD_CLOEXEC != 0)
}
