//! Changing what is known of files, and their length: chmod(2), chown(2), utimensat(2), truncate(2)...

use super::caller::{Caller, any_file, check_flags, file};
use super::{AT_FDCWD, Fd};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::inotify::{self, Located};
use crate::fs::metadata::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_ISGID, S_ISUID};
use crate::fs::permission::{Subject, WRITE};
use crate::fs::{Inode, Timestamp, check_writable, services};
use crate::memory::UserPtr;
use crate::process::current;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, IN_ACCESS,
    IN_ATTRIB, IN_MODIFY, UTIME_NOW, UTIME_OMIT,
};

/// `truncate(2)`.
///
/// # Errors
/// As the man page says.
pub fn truncate(path: UserPtr<u8>, length: i64) -> Result<()> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let caller = Caller::get();
    let located = caller.locate(AT_FDCWD, path, 0)?;
    let inode = &located.inode;
    match inode.mode()? & S_IFMT {
        S_IFREG => {}
        S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    located.check_writable()?;
    caller.subject().check(inode, WRITE)?;
    check_writable(inode)?;
    inode.truncate(length)?;
    located.notify(IN_MODIFY);
    Ok(())
}

/// `ftruncate(2)`.
///
/// # Errors
/// As the man page says.
pub fn ftruncate(fd: Fd, length: i64) -> Result<()> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let file = file(fd)?;
    if !file.is_writable() || !file.is_regular()? {
        return Err(Errno::EINVAL);
    }
    file.inode().truncate(length)?;
    file.notify(IN_MODIFY);
    Ok(())
}

/// `fallocate(2)`: allocating, with or without a change of the size, and punching holes.
///
/// # Errors
/// As the man page says; EOPNOTSUPP for the rest, as on Linux's tmpfs.
pub fn fallocate(fd: Fd, mode: u32, offset: i64, length: i64) -> Result<()> {
    let file = file(fd)?;
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let length = u64::try_from(length).ok().filter(|&length| length > 0).ok_or(Errno::EINVAL)?;
    check_flags(mode, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE).map_err(|_| Errno::EOPNOTSUPP)?;
    if mode == FALLOC_FL_PUNCH_HOLE {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    match file.inode().mode()? & S_IFMT {
        S_IFREG if file.is_regular()? => {}
        S_IFDIR => return Err(Errno::EISDIR),
        S_IFIFO => return Err(Errno::ESPIPE),
        _ => return Err(Errno::ENODEV),
    }
    let keep_size = mode & FALLOC_FL_KEEP_SIZE != 0;
    file.inode().allocate(offset, length, keep_size, mode & FALLOC_FL_PUNCH_HOLE != 0)?;
    file.notify(IN_MODIFY);
    Ok(())
}

fn change_mode(inode: &Inode, mode: u32, subject: &Subject<'_>) -> Result<()> {
    let metadata = inode.metadata()?;
    if metadata.mode & S_IFMT == S_IFLNK {
        return Err(Errno::EOPNOTSUPP);
    }
    subject.check_owner(metadata.user)?;
    let may_set_group = subject.is_in_group(metadata.group) || subject.can(Capability::Fsetid);
    inode.set_permissions(if may_set_group { mode } else { mode & !S_ISGID })
}

/// `chmod(2)`.
///
/// # Errors
/// As the man page says.
pub fn chmod(path: UserPtr<u8>, mode: u32) -> Result<()> {
    fchmodat2(AT_FDCWD, path, mode, 0)
}

/// `fchmod(2)`.
///
/// # Errors
/// As the man page says.
pub fn fchmod(fd: Fd, mode: u32) -> Result<()> {
    let file = file(fd)?;
    file.check_mount_writable()?;
    change_mode(file.inode(), mode, &Caller::get().subject())?;
    file.notify(IN_ATTRIB);
    Ok(())
}

/// `fchmodat(2)` without flags, as the system call has none.
///
/// # Errors
/// As the man page says.
pub fn fchmodat(directory: Fd, path: UserPtr<u8>, mode: u32) -> Result<()> {
    fchmodat2(directory, path, mode, 0)
}

/// `fchmodat2(2)`.
///
/// # Errors
/// As the man page says.
pub fn fchmodat2(directory: Fd, path: UserPtr<u8>, mode: u32, flags: u32) -> Result<()> {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::get();
    let located = caller.locate(directory, path, flags)?;
    located.check_writable()?;
    change_mode(&located.inode, mode, &caller.subject())?;
    located.notify(IN_ATTRIB);
    Ok(())
}

/// What -1 means for an ID: it stays.
const UNCHANGED: u32 = u32::MAX;

fn change_owner(inode: &Inode, user: u32, group: u32, subject: &Subject<'_>) -> Result<()> {
    let metadata = inode.metadata()?;
    if !subject.can(Capability::Chown) {
        let keeps_user = user == UNCHANGED || user == metadata.user;
        let keeps_group =
            group == UNCHANGED || group == metadata.group || subject.is_in_group(group);
        let changes_nothing = user == UNCHANGED && group == UNCHANGED;
        if !(changes_nothing || (subject.user == metadata.user && keeps_user && keeps_group)) {
            return Err(Errno::EPERM);
        }
    }
    inode.change_attributes(|attributes| {
        if user != UNCHANGED {
            attributes.user = user;
        }
        if group != UNCHANGED {
            attributes.group = group;
        }
        // A program must not run with the rights of an owner who did not set the bit.
        if attributes.mode & S_IFMT != S_IFDIR {
            attributes.mode &= !S_ISUID;
            if attributes.mode & 0o010 != 0 {
                attributes.mode &= !S_ISGID;
            }
        }
    })
}

/// `chown(2)`.
///
/// # Errors
/// As the man page says.
pub fn chown(path: UserPtr<u8>, user: u32, group: u32) -> Result<()> {
    fchownat(AT_FDCWD, path, user, group, 0)
}

/// `lchown(2)`.
///
/// # Errors
/// As the man page says.
pub fn lchown(path: UserPtr<u8>, user: u32, group: u32) -> Result<()> {
    fchownat(AT_FDCWD, path, user, group, AT_SYMLINK_NOFOLLOW)
}

/// `fchown(2)`.
///
/// # Errors
/// As the man page says.
pub fn fchown(fd: Fd, user: u32, group: u32) -> Result<()> {
    let file = file(fd)?;
    file.check_mount_writable()?;
    change_owner(file.inode(), user, group, &Caller::get().subject())?;
    file.notify(IN_ATTRIB);
    Ok(())
}

/// `fchownat(2)`.
///
/// # Errors
/// As the man page says.
pub fn fchownat(directory: Fd, path: UserPtr<u8>, user: u32, group: u32, flags: u32) -> Result<()> {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::get();
    let located = caller.locate(directory, path, flags)?;
    located.check_writable()?;
    change_owner(&located.inode, user, group, &caller.subject())?;
    located.notify(IN_ATTRIB);
    Ok(())
}

/// `umask(2)`.
pub fn umask(mask: u32) -> u32 {
    core::mem::replace(&mut current().fs().lock().umask, mask & 0o777)
}

/// `struct timespec`, `struct timeval` and `struct utimbuf` are all two of these.
pub type Pair = [i64; 2];

/// A new time stamp.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Now,
    Keep,
    At(Timestamp),
}

fn stamp_from_timespec([seconds, nanoseconds]: Pair) -> Result<Stamp> {
    match u32::try_from(nanoseconds) {
        Ok(UTIME_NOW) => Ok(Stamp::Now),
        Ok(UTIME_OMIT) => Ok(Stamp::Keep),
        Ok(nanoseconds @ 0..=999_999_999) => Ok(Stamp::At(Timestamp { seconds, nanoseconds })),
        _ => Err(Errno::EINVAL),
    }
}

fn stamp_from_timeval([seconds, microseconds]: Pair) -> Result<Stamp> {
    match u32::try_from(microseconds) {
        Ok(microseconds @ 0..=999_999) => {
            Ok(Stamp::At(Timestamp { seconds, nanoseconds: microseconds * 1000 }))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn change_times(inode: &Inode, stamps: [Stamp; 2], subject: &Subject<'_>) -> Result<()> {
    let [accessed, modified] = stamps;
    if stamps == [Stamp::Keep; 2] {
        return Ok(());
    }
    let owner = inode.metadata()?.user;
    if stamps == [Stamp::Now; 2] {
        // Whoever may write may also say so.
        if subject.check_owner(owner).is_err() {
            subject.check(inode, WRITE)?;
        }
    } else {
        subject.check_owner(owner)?;
    }
    let now = services::now();
    let apply = |stamp, field: &mut Timestamp| match stamp {
        Stamp::Now => *field = now,
        Stamp::Keep => {}
        Stamp::At(time) => *field = time,
    };
    inode.change_attributes(|attributes| {
        apply(accessed, &mut attributes.accessed);
        apply(modified, &mut attributes.modified);
    })
}

fn change_times_at(directory: Fd, path: UserPtr<u8>, stamps: [Stamp; 2], flags: u32) -> Result<()> {
    let caller = Caller::get();
    // Without a path it is the file behind the descriptor (futimens(3)).
    let located = if path.is_null() && directory != AT_FDCWD {
        check_flags(flags, 0)?;
        let file = file(directory)?;
        let place = if inotify::is_active() { file.place() } else { None };
        Located { inode: file.inode().clone(), place, mount: file.mount().cloned() }
    } else {
        caller.locate(directory, path, flags)?
    };
    located.check_writable()?;
    change_times(&located.inode, stamps, &caller.subject())?;
    match stamps.map(|stamp| stamp == Stamp::Keep) {
        [false, false] => located.notify(IN_ATTRIB),
        [false, true] => located.notify(IN_ACCESS),
        [true, false] => located.notify(IN_MODIFY),
        [true, true] => {}
    }
    Ok(())
}

fn read_stamps(
    times: UserPtr<Pair>,
    convert: impl Fn(Pair) -> Result<Stamp>,
) -> Result<[Stamp; 2]> {
    match times.non_null() {
        None => Ok([Stamp::Now; 2]),
        Some(times) => Ok([convert(times.read()?)?, convert(times.element(1).read()?)?]),
    }
}

/// `utimensat(2)`.
///
/// # Errors
/// As the man page says.
pub fn utimensat(directory: Fd, path: UserPtr<u8>, times: UserPtr<Pair>, flags: u32) -> Result<()> {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    change_times_at(directory, path, read_stamps(times, stamp_from_timespec)?, flags)
}

/// `utimes(2)`.
///
/// # Errors
/// As the man page says.
pub fn utimes(path: UserPtr<u8>, times: UserPtr<Pair>) -> Result<()> {
    futimesat(AT_FDCWD, path, times)
}

/// `futimesat(2)`.
///
/// # Errors
/// As the man page says.
pub fn futimesat(directory: Fd, path: UserPtr<u8>, times: UserPtr<Pair>) -> Result<()> {
    change_times_at(directory, path, read_stamps(times, stamp_from_timeval)?, 0)
}

/// `utime(2)`.
///
/// # Errors
/// As the man page says.
pub fn utime(path: UserPtr<u8>, times: UserPtr<Pair>) -> Result<()> {
    let stamps = match times.non_null() {
        None => [Stamp::Now; 2],
        Some(times) => {
            times.read()?.map(|seconds| Stamp::At(Timestamp { seconds, nanoseconds: 0 }))
        }
    };
    change_times_at(AT_FDCWD, path, stamps, 0)
}

/// `sync(2)`: files are in memory, so that nothing could be written back.
pub fn sync() {}

/// `fsync(2)`.
///
/// # Errors
/// EBADF, EINVAL for what cannot be synchronised.
pub fn fsync(fd: Fd) -> Result<()> {
    let file = file(fd)?;
    match file.inode() {
        _ if file.as_stream().is_some() => Err(Errno::EINVAL),
        Inode::Volume(node) => node.synchronise(),
        _ => Ok(()),
    }
}

/// `fdatasync(2)`.
///
/// # Errors
/// As for [`fsync`].
pub fn fdatasync(fd: Fd) -> Result<()> {
    fsync(fd)
}

/// `syncfs(2)`.
///
/// # Errors
/// EBADF.
pub fn syncfs(fd: Fd) -> Result<()> {
    file(fd).map(|_| ())
}

/// `posix_fadvise(2)`: all files are in memory, whatever the advice.
///
/// # Errors
/// EBADF, ESPIPE, EINVAL.
pub fn fadvise64(fd: Fd, _offset: i64, length: i64, advice: u32) -> Result<()> {
    let file = file(fd)?;
    if file.inode().mode()? & S_IFMT == S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    // POSIX_FADV_NORMAL (0) to POSIX_FADV_NOREUSE (5).
    if length < 0 || advice > 5 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `readahead(2)`: likewise.
///
/// # Errors
/// EBADF, EINVAL.
pub fn readahead(fd: Fd, _offset: i64, _count: usize) -> Result<()> {
    let file = file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if file.is_regular()? { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The answer for any attribute of a file that exists: there are none, and a namespace for users is not
/// offered (as on Linux's tmpfs before 6.6).
fn no_attribute(name: UserPtr<u8>) -> Result<usize> {
    let name = name.read_string(256, Errno::ERANGE)?;
    let is_offered = |prefix: &[u8]| name.starts_with(prefix);
    if name.is_empty() {
        Err(Errno::ERANGE)
    } else if is_offered(b"security.")
        || is_offered(b"trusted.")
        || is_offered(b"system.posix_acl_")
    {
        Err(Errno::ENODATA)
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}

/// `getxattr(2)`.
///
/// # Errors
/// As the man page says; there are no attributes.
pub fn getxattr(
    path: UserPtr<u8>,
    name: UserPtr<u8>,
    _value: UserPtr<u8>,
    _size: usize,
) -> Result<usize> {
    Caller::get().find(AT_FDCWD, path, 0)?;
    no_attribute(name)
}

/// `lgetxattr(2)`.
///
/// # Errors
/// As for [`getxattr`].
pub fn lgetxattr(
    path: UserPtr<u8>,
    name: UserPtr<u8>,
    _value: UserPtr<u8>,
    _size: usize,
) -> Result<usize> {
    Caller::get().find(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW)?;
    no_attribute(name)
}

/// `fgetxattr(2)`.
///
/// # Errors
/// As for [`getxattr`].
pub fn fgetxattr(fd: Fd, name: UserPtr<u8>, _value: UserPtr<u8>, _size: usize) -> Result<usize> {
    file(fd)?;
    no_attribute(name)
}

/// `setxattr(2)`: refused, as the file system has no extended attributes.
///
/// # Errors
/// EOPNOTSUPP for a file that exists.
pub fn setxattr(
    path: UserPtr<u8>,
    _name: UserPtr<u8>,
    _value: UserPtr<u8>,
    _size: usize,
    _flags: u32,
) -> Result<()> {
    Caller::get().find(AT_FDCWD, path, 0)?;
    Err(Errno::EOPNOTSUPP)
}

/// `listxattr(2)`: an empty list.
///
/// # Errors
/// As the man page says.
pub fn listxattr(path: UserPtr<u8>, _list: UserPtr<u8>, _size: usize) -> Result<usize> {
    Caller::get().find(AT_FDCWD, path, 0).map(|_| 0)
}

/// `llistxattr(2)`.
///
/// # Errors
/// As for [`listxattr`].
pub fn llistxattr(path: UserPtr<u8>, _list: UserPtr<u8>, _size: usize) -> Result<usize> {
    Caller::get().find(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).map(|_| 0)
}

/// `flistxattr(2)`.
///
/// # Errors
/// EBADF.
pub fn flistxattr(fd: Fd, _list: UserPtr<u8>, _size: usize) -> Result<usize> {
    any_file(fd).map(|_| 0)
}
