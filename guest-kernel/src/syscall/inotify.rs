//! Watching files: inotify_init(2), inotify_add_watch(2), inotify_rm_watch(2).

use super::caller::{Caller, add_stream, check_flags, file};
use super::{AT_FDCWD, Fd};
use crate::errno::{Errno, Result};
use crate::fs::inotify::Inotify;
use crate::fs::path::Last;
use crate::fs::permission::READ;
use crate::memory::UserPtr;
use linux_raw_sys::general::{
    IN_ALL_EVENTS, IN_DONT_FOLLOW, IN_EXCL_UNLINK, IN_IGNORED, IN_ISDIR, IN_MASK_ADD,
    IN_MASK_CREATE, IN_ONESHOT, IN_ONLYDIR, IN_Q_OVERFLOW, IN_UNMOUNT, O_CLOEXEC, O_NONBLOCK,
    O_RDONLY,
};

/// Bits that a mask may have (Linux: `ALL_INOTIFY_BITS`).
const KNOWN: u32 = IN_ALL_EVENTS
    | IN_UNMOUNT
    | IN_Q_OVERFLOW
    | IN_IGNORED
    | IN_ONLYDIR
    | IN_DONT_FOLLOW
    | IN_EXCL_UNLINK
    | IN_MASK_CREATE
    | IN_MASK_ADD
    | IN_ISDIR
    | IN_ONESHOT;

/// `inotify_init(2)`.
///
/// # Errors
/// As the man page says.
pub fn inotify_init() -> Result<i32> {
    inotify_init1(0)
}

/// `inotify_init1(2)`.
///
/// # Errors
/// As the man page says.
pub fn inotify_init1(flags: u32) -> Result<i32> {
    check_flags(flags, O_CLOEXEC | O_NONBLOCK)?;
    add_stream(Inotify::new()?, O_RDONLY | flags)
}

/// Does something with the instance behind a descriptor.
fn with_instance<T>(fd: Fd, act: impl FnOnce(&Inotify) -> Result<T>) -> Result<T> {
    let file = file(fd)?;
    let instance = file.as_stream().and_then(|stream| stream.as_any()?.downcast_ref());
    act(instance.ok_or(Errno::EINVAL)?)
}

/// `inotify_add_watch(2)`.
///
/// # Errors
/// As the man page says.
pub fn inotify_add_watch(fd: Fd, path: UserPtr<u8>, mask: u32) -> Result<i32> {
    if mask & !KNOWN != 0 || mask == 0 {
        return Err(Errno::EINVAL);
    }
    file(fd)?;
    if mask & IN_MASK_ADD != 0 && mask & IN_MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    with_instance(fd, |instance| {
        let caller = Caller::get();
        let last = if mask & IN_DONT_FOLLOW != 0 { Last::Keep } else { Last::Follow };
        let inode = caller.walk(AT_FDCWD, path, last)?.existing()?;
        if mask & IN_ONLYDIR != 0 && !inode.is_directory()? {
            return Err(Errno::ENOTDIR);
        }
        caller.subject().check(&inode, READ)?;
        instance.watch(&inode, mask)
    })
}

/// `inotify_rm_watch(2)`.
///
/// # Errors
/// As the man page says.
pub fn inotify_rm_watch(fd: Fd, watch: i32) -> Result<()> {
    with_instance(fd, |instance| instance.unwatch(watch))
}
