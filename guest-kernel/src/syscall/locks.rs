//! Advisory locks: flock(2), and the commands of fcntl(2) that lock bytes.

use super::Fd;
use super::caller::file;
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::fs::locks::{self, Kind, LAST, Range};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::current;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETLKW, F_UNLCK, F_WRLCK, LOCK_EX,
    LOCK_MAND, LOCK_NB, LOCK_SH, LOCK_UN, SEEK_CUR, SEEK_END, SEEK_SET,
};

/// `struct flock`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flock {
    kind: i16,
    whence: i16,
    padding: u32,
    start: i64,
    len: i64,
    pid: i32,
    padding2: u32,
}

// SAFETY: integers; the gaps are fields of their own.
unsafe impl Plain for Flock {}

/// `flock(2)`.
///
/// # Errors
/// As the man page says.
pub fn flock(fd: Fd, operation: u32) -> Result<()> {
    // What was once meant to be a mandatory lock does nothing, whatever the descriptor.
    if operation & LOCK_MAND != 0 {
        return Ok(());
    }
    let kind = match operation & !LOCK_NB {
        LOCK_SH => Some(Kind::Shared),
        LOCK_EX => Some(Kind::Exclusive),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    let file = file(fd)?;
    match kind {
        Some(kind) => locks::acquire(&file, kind, operation & LOCK_NB == 0),
        None => {
            locks::release(&file);
            Ok(())
        }
    }
}

/// First and last byte of what a `struct flock` means.
fn bytes(file: &FileRef, lock: &Flock) -> Result<(u64, u64)> {
    let base = match u32::try_from(lock.whence) {
        Ok(SEEK_SET) => 0,
        Ok(SEEK_CUR) => file.offset(),
        Ok(SEEK_END) => file.inode().size()?,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let from = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    match lock.len {
        0 => Ok((from, LAST)),
        len if len > 0 => {
            let end = start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?;
            Ok((from, u64::try_from(end).map_err(|_| Errno::EINVAL)?))
        }
        len => {
            // The bytes before.
            let first = start.checked_add(len).ok_or(Errno::EINVAL)?;
            let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
            Ok((first, from - 1))
        }
    }
}

/// `F_GETLK`, `F_SETLK`, `F_SETLKW`, and the same for open file descriptions.
///
/// # Errors
/// As fcntl(2) says.
pub fn record_lock(fd: Fd, file: &FileRef, command: u32, pointer: UserPtr<Flock>) -> Result<()> {
    let lock = pointer.read()?;
    let of_description = matches!(command, F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW);
    let kind = match u32::try_from(lock.kind) {
        Ok(F_RDLCK) => Some(Kind::Shared),
        Ok(F_WRLCK) => Some(Kind::Exclusive),
        Ok(F_UNLCK) => None,
        _ => return Err(Errno::EINVAL),
    };
    if command == F_GETLK && kind.is_none() {
        return Err(Errno::EINVAL);
    }
    let (start, end) = bytes(file, &lock)?;
    if of_description && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = locks::owner(file, of_description);
    let wanted = Range { start, end, kind: kind.unwrap_or(Kind::Shared), owner };
    if matches!(command, F_GETLK | F_OFD_GETLK) {
        return tell(pointer, lock, kind.and_then(|_| locks::test(file, &wanted)));
    }
    match kind {
        Some(Kind::Shared) if !file.is_readable() => return Err(Errno::EBADF),
        Some(Kind::Exclusive) if !file.is_writable() => return Err(Errno::EBADF),
        _ => {}
    }
    let waits = matches!(command, F_SETLKW | F_OFD_SETLKW);
    locks::set(file, &wanted, kind, waits)?;
    // Another thread may have closed the descriptor meanwhile, after which nobody would give the lock
    // back.
    let is_open = current().files().lock().get(fd.0).is_ok_and(|open| Arc::ptr_eq(&open, file));
    if kind.is_some() && !of_description && !is_open {
        locks::set(file, &wanted, None, false)?;
        return Err(Errno::EBADF);
    }
    Ok(())
}

/// Tells of the lock that is in the way, or that there is none.
fn tell(pointer: UserPtr<Flock>, lock: Flock, held: Option<Range>) -> Result<()> {
    let number = |kind: u32| i16::try_from(kind).unwrap_or(0);
    let Some(held) = held else {
        return pointer.write(Flock { kind: number(F_UNLCK), ..lock });
    };
    let (start, end) = (i64::try_from(held.start), i64::try_from(held.end));
    let start = start.map_err(|_| Errno::EOVERFLOW)?;
    let end = end.map_err(|_| Errno::EOVERFLOW)?;
    pointer.write(Flock {
        kind: number(if held.kind == Kind::Exclusive { F_WRLCK } else { F_RDLCK }),
        whence: number(SEEK_SET),
        start,
        len: if held.end == LAST { 0 } else { end - start + 1 },
        pid: match held.owner {
            locks::Owner::Process(pid) => pid,
            locks::Owner::File(_) => -1,
        },
        ..lock
    })
}
