//! Names: getdents(2), mkdir(2), unlink(2), rename(2), link(2), readlink(2), getcwd(2), chdir(2)...

use super::caller::{Caller, any_file, check_flags, file, read_path};
use super::{AT_FDCWD, Fd};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::listing::{self, Layout};
use crate::fs::metadata::{
    PERMISSIONS, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISVTX,
};
use crate::fs::namespace::{self, Rename};
use crate::fs::path::{Last, walk};
use crate::fs::permission::EXECUTE;
use crate::fs::tmpfs::New;
use crate::fs::{Context, Inode, Location};
use crate::memory::{UserPtr, UserWriter};
use crate::process::current;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, IN_ACCESS, RENAME_EXCHANGE, RENAME_NOREPLACE,
};

fn list(fd: Fd, entries: UserPtr<u8>, count: usize, layout: Layout) -> Result<usize> {
    let file = file(fd)?;
    let _turn = file.hold_position();
    // Only the lower half of the register counts: it is an unsigned int.
    let (bytes, next) = listing::entries(&file, count & 0xffff_ffff, layout)?;
    file.notify(IN_ACCESS);
    let mut buffer = UserWriter::new(entries.address(), bytes.len());
    if !bytes.is_empty() && buffer.write_slice(&bytes)? < bytes.len() {
        return Err(Errno::EFAULT);
    }
    file.set_offset(next);
    Ok(bytes.len())
}

/// `getdents64(2)`.
///
/// # Errors
/// As the man page says.
pub fn getdents64(fd: Fd, entries: UserPtr<u8>, count: usize) -> Result<usize> {
    list(fd, entries, count, Layout::Dirent64)
}

/// `getdents(2)`.
///
/// # Errors
/// As the man page says.
pub fn getdents(fd: Fd, entries: UserPtr<u8>, count: usize) -> Result<usize> {
    list(fd, entries, count, Layout::Dirent)
}

/// Makes a file that is not a regular one opened by `open`.
fn make(directory: Fd, path: UserPtr<u8>, mode: u32, special: u64, target: &[u8]) -> Result<()> {
    let caller = Caller::get();
    let subject = caller.subject();
    let found = caller.walk(directory, path, Last::Name)?;
    let mode = if target.is_empty() { mode & !caller.context.umask } else { mode };
    let new = New { mode, user: subject.user, group: subject.group, special, target };
    namespace::create(&found, new, &subject).map(|_| ())
}

/// `mkdir(2)`.
///
/// # Errors
/// As the man page says.
pub fn mkdir(path: UserPtr<u8>, mode: u32) -> Result<()> {
    mkdirat(AT_FDCWD, path, mode)
}

/// `mkdirat(2)`.
///
/// # Errors
/// As the man page says.
pub fn mkdirat(directory: Fd, path: UserPtr<u8>, mode: u32) -> Result<()> {
    make(directory, path, S_IFDIR | mode & (0o777 | S_ISVTX), 0, b"")
}

/// `mknod(2)`.
///
/// # Errors
/// As the man page says.
pub fn mknod(path: UserPtr<u8>, mode: u32, device: u64) -> Result<()> {
    mknodat(AT_FDCWD, path, mode, device)
}

/// `mknodat(2)`.
///
/// # Errors
/// As the man page says; EPERM for devices, which no one may make here.
pub fn mknodat(directory: Fd, path: UserPtr<u8>, mode: u32, _device: u64) -> Result<()> {
    let kind = match mode & S_IFMT {
        0 => S_IFREG,
        S_IFDIR | S_IFCHR | S_IFBLK => return Err(Errno::EPERM),
        kind @ (S_IFREG | S_IFIFO | S_IFSOCK) => kind,
        _ => return Err(Errno::EINVAL),
    };
    make(directory, path, kind | mode & PERMISSIONS, 0, b"")
}

/// `symlink(2)`.
///
/// # Errors
/// As the man page says.
pub fn symlink(target: UserPtr<u8>, path: UserPtr<u8>) -> Result<()> {
    symlinkat(target, AT_FDCWD, path)
}

/// `symlinkat(2)`.
///
/// # Errors
/// As the man page says.
pub fn symlinkat(target: UserPtr<u8>, directory: Fd, path: UserPtr<u8>) -> Result<()> {
    let target = read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    make(directory, path, S_IFLNK | 0o777, 0, &target)
}

/// `readlink(2)`.
///
/// # Errors
/// As the man page says.
pub fn readlink(path: UserPtr<u8>, buffer: UserPtr<u8>, size: usize) -> Result<usize> {
    readlinkat(AT_FDCWD, path, buffer, size)
}

/// `readlinkat(2)`.
///
/// # Errors
/// As the man page says.
pub fn readlinkat(
    directory: Fd,
    path: UserPtr<u8>,
    buffer: UserPtr<u8>,
    size: usize,
) -> Result<usize> {
    // The size is an int.
    if size == 0 || size > 0x7fff_ffff {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::get();
    let path = read_path(path)?;
    let root = &caller.context.root;
    let text = if path.is_empty() {
        if directory == AT_FDCWD {
            return Err(Errno::ENOENT);
        }
        // A link that was opened by O_PATH | O_NOFOLLOW; for anything else there is no path.
        any_file(directory)?.inode().link_text(root).map_err(|error| match error {
            Errno::EINVAL => Errno::ENOENT,
            error => error,
        })?
    } else {
        let start = caller.start(directory, &path)?;
        walk(root, &start, path, Last::Keep, &caller.subject())?.existing()?.link_text(root)?
    };
    let count = text.len().min(size);
    let written = UserWriter::new(buffer.address(), count).write_slice(&text[..count])?;
    if written < count { Err(Errno::EFAULT) } else { Ok(count) }
}

/// `unlink(2)`.
///
/// # Errors
/// As the man page says.
pub fn unlink(path: UserPtr<u8>) -> Result<()> {
    unlinkat(AT_FDCWD, path, 0)
}

/// `rmdir(2)`.
///
/// # Errors
/// As the man page says.
pub fn rmdir(path: UserPtr<u8>) -> Result<()> {
    unlinkat(AT_FDCWD, path, AT_REMOVEDIR)
}

/// `unlinkat(2)`.
///
/// # Errors
/// As the man page says.
pub fn unlinkat(directory: Fd, path: UserPtr<u8>, flags: u32) -> Result<()> {
    check_flags(flags, AT_REMOVEDIR)?;
    let caller = Caller::get();
    let found = caller.walk(directory, path, Last::Name)?;
    namespace::remove(&found, flags & AT_REMOVEDIR != 0, &caller.subject())
}

/// `rename(2)`.
///
/// # Errors
/// As the man page says.
pub fn rename(old: UserPtr<u8>, new: UserPtr<u8>) -> Result<()> {
    renameat2(AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `renameat(2)`.
///
/// # Errors
/// As the man page says.
pub fn renameat(
    old_directory: Fd,
    old: UserPtr<u8>,
    new_directory: Fd,
    new: UserPtr<u8>,
) -> Result<()> {
    renameat2(old_directory, old, new_directory, new, 0)
}

/// `renameat2(2)`, but for whiteouts.
///
/// # Errors
/// As the man page says.
pub fn renameat2(
    old_directory: Fd,
    old: UserPtr<u8>,
    new_directory: Fd,
    new: UserPtr<u8>,
    flags: u32,
) -> Result<()> {
    let how = match flags {
        0 => Rename::Replace,
        RENAME_NOREPLACE => Rename::New,
        RENAME_EXCHANGE => Rename::Exchange,
        _ => return Err(Errno::EINVAL),
    };
    let caller = Caller::get();
    let old = caller.walk(old_directory, old, Last::Name)?;
    let new = caller.walk(new_directory, new, Last::Name)?;
    namespace::rename(&old, &new, how, &caller.subject())
}

/// `link(2)`.
///
/// # Errors
/// As the man page says.
pub fn link(old: UserPtr<u8>, new: UserPtr<u8>) -> Result<()> {
    linkat(AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `linkat(2)`.
///
/// # Errors
/// As the man page says.
pub fn linkat(
    old_directory: Fd,
    old: UserPtr<u8>,
    new_directory: Fd,
    new: UserPtr<u8>,
    flags: u32,
) -> Result<()> {
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::get();
    let follow = if flags & AT_SYMLINK_FOLLOW != 0 {
        0
    } else {
        linux_raw_sys::general::AT_SYMLINK_NOFOLLOW
    };
    let located = caller.locate(old_directory, old, follow | flags & AT_EMPTY_PATH)?;
    let (file, mount) = (located.inode, located.mount.as_ref());
    let found = caller.walk(new_directory, new, Last::Name)?;
    if flags != 0 {
        // A file that is named by a descriptor, itself or through /proc/self/fd, may have no name yet.
        return namespace::link_unnamed(&file, mount, &found, &caller.subject());
    }
    namespace::link(&file, mount, &found, &caller.subject())
}

/// `getcwd(2)`, the system call: it returns the length with the NUL.
///
/// # Errors
/// As the man page says.
pub fn getcwd(buffer: UserPtr<u8>, size: usize) -> Result<usize> {
    let context: Context = current().fs().lock().clone();
    let mut path = context.working_directory()?;
    path.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    path.push(0);
    if path.len() > size {
        return Err(Errno::ERANGE);
    }
    let written = UserWriter::new(buffer.address(), path.len()).write_slice(&path)?;
    if written < path.len() { Err(Errno::EFAULT) } else { Ok(path.len()) }
}

fn change(set: impl FnOnce(&mut Context, Location), location: Location) {
    // What was there before is dropped after the lock.
    let process = current();
    let mut context = process.fs().lock().clone();
    set(&mut context, location);
    let old = core::mem::replace(&mut *process.fs().lock(), context);
    drop(old);
}

fn check_directory(caller: &Caller, inode: &Inode) -> Result<()> {
    if !inode.is_directory()? {
        return Err(Errno::ENOTDIR);
    }
    caller.subject().check(inode, EXECUTE)
}

/// `chdir(2)`.
///
/// # Errors
/// As the man page says.
pub fn chdir(path: UserPtr<u8>) -> Result<()> {
    let caller = Caller::get();
    let location = caller.walk(AT_FDCWD, path, Last::Follow)?.location()?;
    check_directory(&caller, &location.inode)?;
    change(|context, location| context.directory = location, location);
    Ok(())
}

/// `fchdir(2)`.
///
/// # Errors
/// As the man page says.
pub fn fchdir(fd: Fd) -> Result<()> {
    let file = any_file(fd)?;
    check_directory(&Caller::get(), file.inode())?;
    let location = file.location().ok_or(Errno::ENOTDIR)?;
    change(|context, location| context.directory = location, location);
    Ok(())
}

/// `chroot(2)`.
///
/// # Errors
/// As the man page says.
pub fn chroot(path: UserPtr<u8>) -> Result<()> {
    let caller = Caller::get();
    let location = caller.walk(AT_FDCWD, path, Last::Follow)?.location()?;
    check_directory(&caller, &location.inode)?;
    current().credentials().need(Capability::SysChroot)?;
    change(|context, location| context.root = location, location);
    Ok(())
}
