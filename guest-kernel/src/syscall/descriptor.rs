//! Descriptors: dup(2), fcntl(2), flock(2), ioctl(2).

use super::Fd;
use super::caller::{any_file, check_flags, file};
use super::locks::record_lock;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::permission::Subject;
use crate::fs::tty::{Master, Slave};
use crate::fs::{self, FileRef, Inode};
use crate::memory::UserPtr;
use crate::process::current;
use linux_raw_sys::general::{
    F_ADD_SEALS, F_DUPFD, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, F_GETLK, F_GETOWN,
    F_GETPIPE_SZ, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_SETFD, F_SETFL, F_SETLK, F_SETLKW,
    F_SETPIPE_SZ, FD_CLOEXEC, O_ACCMODE, O_CLOEXEC, O_DIRECT, O_LARGEFILE, O_NOCTTY, O_NONBLOCK,
};
use linux_raw_sys::ioctl::{FIOCLEX, FIONBIO, FIONCLEX, FIONREAD, TIOCGPTPEER};

/// `dup(2)`.
///
/// # Errors
/// EBADF, EMFILE.
pub fn dup(fd: Fd) -> Result<i32> {
    let process = current();
    let mut files = process.files().lock();
    let file = files.get(fd.0)?;
    files.add(file, false)
}

/// `dup2(2)`.
///
/// # Errors
/// EBADF.
pub fn dup2(old: Fd, new: Fd) -> Result<i32> {
    if old == new {
        any_file(old)?;
        return Ok(new.0);
    }
    replace(old, new, false)
}

/// `dup3(2)`.
///
/// # Errors
/// EBADF, EINVAL.
pub fn dup3(old: Fd, new: Fd, flags: u32) -> Result<i32> {
    check_flags(flags, O_CLOEXEC)?;
    if old == new {
        return Err(Errno::EINVAL);
    }
    replace(old, new, flags & O_CLOEXEC != 0)
}

fn replace(old: Fd, new: Fd, close_on_exec: bool) -> Result<i32> {
    let process = current();
    let before: Option<FileRef> = {
        let mut files = process.files().lock();
        let file = files.get(old.0)?;
        files.set(new.0, file, close_on_exec)?
    };
    if let Some(before) = before {
        before.closed_by(process.pid);
    }
    Ok(new.0)
}

/// `fcntl(2)`.
///
/// # Errors
/// As the man page says.
pub fn fcntl(fd: Fd, command: u32, argument: u64) -> Result<u64> {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    let value = u32::from_le_bytes([a, b, c, d]);
    let process = current();
    let file = any_file(fd)?;
    let works_on_paths = matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL);
    if file.is_path_only() && !works_on_paths {
        return Err(Errno::EBADF);
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let lowest = i32::from_le_bytes(value.to_le_bytes());
            let lowest = usize::try_from(lowest).map_err(|_| Errno::EINVAL)?;
            let close = command == F_DUPFD_CLOEXEC;
            let new = process.files().lock().add_from(lowest, file, close)?;
            u64::try_from(new).map_err(|_| Errno::EBADF)
        }
        F_GETFD => Ok(u64::from(process.files().lock().close_on_exec(fd.0)?)),
        F_SETFD => {
            process.files().lock().set_close_on_exec(fd.0, value & FD_CLOEXEC != 0)?;
            Ok(0)
        }
        F_GETFL => Ok(file.flags().into()),
        // There is no cache to go past, but pipes know packets.
        F_SETFL if value & O_DIRECT != 0 && !is_pipe(&file) => Err(Errno::EINVAL),
        F_SETFL => {
            file.set_flags(value);
            Ok(0)
        }
        F_GETPIPE_SZ | F_SETPIPE_SZ => {
            let stream = file.as_stream().ok_or(Errno::EBADF)?;
            let pipe = stream.as_pipe().ok_or(Errno::EBADF)?;
            let capacity = if command == F_GETPIPE_SZ {
                pipe.capacity()
            } else {
                let bytes = usize::try_from(value).map_err(|_| Errno::EINVAL)?;
                pipe.set_capacity(bytes, process.can(Capability::SysResource))?
            };
            Ok(capacity as u64)
        }
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            record_lock(fd, &file, command, UserPtr::new(argument)).map(|()| 0)
        }
        F_ADD_SEALS if !file.is_writable() => Err(Errno::EPERM),
        F_ADD_SEALS => file.inode().add_seals(value).map(|()| 0),
        F_GET_SEALS => file.inode().seals().map(u64::from),
        // No one has asked for signals about this file.
        F_GETOWN => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn is_pipe(file: &FileRef) -> bool {
    file.as_stream().is_some_and(|stream| stream.as_pipe().is_some())
}

/// `ioctl(2)`: what every file understands, and what streams do.
///
/// # Errors
/// As the man page says.
pub fn ioctl(fd: Fd, request: u32, argument: u64) -> Result<i32> {
    let file = file(fd)?;
    let process = current();
    match request {
        FIOCLEX | FIONCLEX => {
            process.files().lock().set_close_on_exec(fd.0, request == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => {
            let on = UserPtr::<i32>::new(argument).read()? != 0;
            let flags = file.flags() & !O_NONBLOCK;
            file.set_flags(flags | if on { O_NONBLOCK } else { 0 });
            Ok(0)
        }
        FIONREAD if file.is_regular()? => {
            let left = file.inode().size()?.saturating_sub(file.offset());
            UserPtr::<i32>::new(argument).write(i32::try_from(left).unwrap_or(i32::MAX))?;
            Ok(0)
        }
        TIOCGPTPEER => open_peer(&file, argument),
        _ => match file.as_stream() {
            Some(stream) => stream.ioctl(request, argument),
            None => Err(Errno::ENOTTY),
        },
    }
}

/// TIOCGPTPEER: opens the terminal of a master, whatever the caller could reach by a path.
fn open_peer(master: &FileRef, argument: u64) -> Result<i32> {
    let stream = master.as_stream().ok_or(Errno::ENOTTY)?;
    let any = stream.as_any().ok_or(Errno::ENOTTY)?;
    if any.is::<Slave>() {
        return Err(Errno::EIO);
    }
    let index = any.downcast_ref::<Master>().ok_or(Errno::ENOTTY)?.tty().index();
    if !matches!(master.inode(), Inode::Synthetic(_)) {
        return Err(Errno::ENOTTY);
    }
    let [a, b, c, d, ..] = argument.to_le_bytes();
    let flags = u32::from_le_bytes([a, b, c, d]);
    let path = alloc::format!("{index}").into_bytes();
    let context = current().fs().lock().clone();
    let start = context.mounts.terminals().ok_or(Errno::EIO)?;
    let opens = flags & (O_ACCMODE | O_NOCTTY | O_NONBLOCK) | O_LARGEFILE;
    let file = fs::open(&context, &start, path, opens, 0, &Subject::ROOT)?;
    let process = current();
    process.files().lock().add(file, flags & O_CLOEXEC != 0)
}
