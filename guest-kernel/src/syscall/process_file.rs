//! Descriptors for processes: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2).

use super::Fd;
use super::caller::{add_stream, any_file};
use super::signal::{send, told, valid};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::memory::UserPtr;
use crate::process::{Pid, Process, ProcessFile, Thread, current, find, find_thread};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, O_RDWR};

/// Makes a descriptor for a process; `execve` closes it.
pub(super) fn add(process: Arc<Process>, flags: u32) -> Result<i32> {
    add_stream(ProcessFile::new(process), O_RDWR | O_CLOEXEC | flags)
}

fn process_of(file: &FileRef) -> Result<Option<Arc<Process>>> {
    let stream = file.as_stream().and_then(|stream| stream.as_any());
    let described = stream.and_then(|any| any.downcast_ref::<ProcessFile>());
    Ok(described.ok_or(Errno::EBADF)?.process().cloned())
}

/// The process behind a descriptor, unless it was waited for; and whether to wait for it.
pub(super) fn target(fd: Fd) -> Result<(Option<Arc<Process>>, bool)> {
    let file = any_file(fd)?;
    Ok((process_of(&file)?, file.flags() & O_NONBLOCK == 0))
}

/// `pidfd_open(2)`.
///
/// # Errors
/// As the man page says.
pub fn pidfd_open(pid: Pid, flags: u32) -> Result<i32> {
    if flags & !O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let process = match find(pid) {
        Some(process) => process,
        // Only processes have descriptors.
        None if find_thread(pid).is_some() => return Err(Errno::EINVAL),
        None => return Err(Errno::ESRCH),
    };
    add(process, flags)
}

/// `pidfd_send_signal(2)`.
///
/// # Errors
/// As the man page says.
pub fn pidfd_send_signal(fd: Fd, signal: i32, information: UserPtr<u8>, flags: u32) -> Result<()> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (process, _) = target(fd)?;
    let number = if signal == 0 { 0 } else { valid(signal)? };
    let process = process.ok_or(Errno::ESRCH)?;
    let information = match information.non_null() {
        None => None,
        Some(pointer) => {
            if pointer.cast::<i32>().read()? != signal {
                return Err(Errno::EINVAL);
            }
            Some(told(number, pointer, process.pid == current().pid)?)
        }
    };
    send(&process, signal, information)
}

/// Whether the caller may look into a process (ptrace(2), "Ptrace access mode checking").
///
/// # Errors
/// EPERM.
pub(super) fn check_access(thread: &Thread) -> Result<()> {
    let me = current();
    if thread.pid == me.pid {
        return Ok(());
    }
    let (mine, theirs) = (me.credentials(), thread.credentials());
    if mine.can(Capability::SysPtrace) {
        return Ok(());
    }
    let same = [theirs.euid, theirs.suid, theirs.uid].iter().all(|&id| id == mine.uid)
        && [theirs.egid, theirs.sgid, theirs.gid].iter().all(|&id| id == mine.gid);
    let open =
        thread.dumpable.load(Ordering::Relaxed) && theirs.permitted.is_within(mine.permitted);
    if same && open { Ok(()) } else { Err(Errno::EPERM) }
}

/// `pidfd_getfd(2)`.
///
/// # Errors
/// As the man page says.
pub fn pidfd_getfd(fd: Fd, wanted: i32, flags: u32) -> Result<i32> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (process, _) = target(fd)?;
    let thread = process.and_then(|process| process.main_thread()).ok_or(Errno::ESRCH)?;
    check_access(&thread)?;
    let files = thread.shared_files().ok_or(Errno::ESRCH)?;
    let file = files.lock().get(wanted)?;
    drop(files);
    let me = current();
    me.files().lock().add(file.clone(), true)
}
