//! Waiting for children: wait4(2), waitid(2).

use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::{Change, Pid, Process, Usage, child, current};
use crate::signal::number;
use airlock_abi::exit::Exit;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    __WALL, __WCLONE, __WNOTHREAD, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WUNTRACED,
};

/// Which children are meant.
#[derive(Clone, Copy)]
enum Which {
    Any,
    Process(Pid),
    Group(Pid),
}

impl Which {
    fn includes(self, child: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Process(pid) => child.pid == pid,
            Self::Group(group) => child.group() == group,
        }
    }
}

/// What happened to a child.
#[derive(Clone, Copy)]
enum Event {
    Ended(Exit),
    Changed(Change),
}

impl Event {
    /// The status that `wait4` stores.
    fn status(self) -> i32 {
        match self {
            Self::Ended(Exit::Exited(status)) => i32::from(status) << 8,
            Self::Ended(Exit::Signaled(signal)) => signal.into(),
            Self::Ended(_) => 127 << 8,
            Self::Changed(Change::Stopped(signal)) => i32::from(signal) << 8 | 0x7f,
            Self::Changed(Change::Continued) => 0xffff,
        }
    }

    /// `si_code` and `si_status`.
    fn details(self) -> (i32, i32) {
        match self {
            Self::Ended(Exit::Exited(status)) => (child::EXITED, status.into()),
            Self::Ended(Exit::Signaled(signal)) => (child::KILLED, signal.into()),
            Self::Ended(_) => (child::EXITED, 127),
            Self::Changed(Change::Stopped(signal)) => (child::STOPPED, signal.into()),
            Self::Changed(Change::Continued) => (child::CONTINUED, number::SIGCONT.into()),
        }
    }
}

struct Found {
    child: Arc<Process>,
    event: Event,
    usage: Usage,
}

/// Looks for a child that something happened to; `Err(ECHILD)` if there is none to wait for.
fn look(which: Which, options: u32) -> Result<Option<Found>> {
    let me = current();
    let mut exists = false;
    let only = if let Which::Process(pid) = which { Some(pid) } else { None };
    let found = me.find_child(only, |child| {
        // __WCLONE waits for those that end with another signal than SIGCHLD, __WALL for both.
        let is_clone = child.exit_signal() != number::SIGCHLD;
        let kind = options & __WALL != 0 || is_clone == (options & __WCLONE != 0);
        if !which.includes(child) || !kind {
            return None;
        }
        exists = true;
        if let Some((exit, usage)) = child.ended() {
            let event = Event::Ended(exit);
            return (options & WEXITED != 0).then(|| Found { child: child.clone(), event, usage });
        }
        let wanted = |change| match change {
            Change::Stopped(_) => options & WUNTRACED != 0,
            Change::Continued => options & WCONTINUED != 0,
        };
        let change = child.change(wanted, options & WNOWAIT == 0)?;
        let (event, usage) = (Event::Changed(change), child.usage());
        Some(Found { child: child.clone(), event, usage })
    });
    match found {
        Some(found) => Ok(Some(found)),
        None if exists => Ok(None),
        None => Err(Errno::ECHILD),
    }
}

/// Waits for what the options ask for; `None` if they forbid to wait.
fn wait_for(which: Which, options: u32) -> Result<Option<Found>> {
    let me = current();
    loop {
        let found = if options & WNOHANG != 0 {
            look(which, options)
        } else {
            me.child_events
                .wait_until(|| match look(which, options) {
                    Ok(None) => None,
                    Ok(Some(found)) => Some(Ok(Some(found))),
                    Err(error) => Some(Err(error)),
                })
                .and_then(|found| found)
        }?;
        let Some(found) = found else { return Ok(None) };
        if matches!(found.event, Event::Ended(_)) && options & WNOWAIT == 0 {
            if !me.reap(&found.child) {
                // Another thread was quicker.
                continue;
            }
            let below = *found.child.children_usage.lock();
            let mut total = me.children_usage.lock();
            total.add(found.usage);
            total.add(below);
        }
        return Ok(Some(found));
    }
}

/// `wait4(2)`.
///
/// # Errors
/// As the man page says.
pub fn wait4(
    pid: Pid,
    status: UserPtr<i32>,
    options: u32,
    usage: UserPtr<super::time::Usage>,
) -> Result<Pid> {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL) != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        Pid::MIN => return Err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(current().group()),
        group if group < 0 => Which::Group(-group),
        pid => Which::Process(pid),
    };
    let Some(found) = wait_for(which, options | WEXITED)? else { return Ok(0) };
    if let Some(status) = status.non_null() {
        status.write(found.event.status())?;
    }
    if let Some(usage) = usage.non_null() {
        usage.write(super::time::usage_of(found.usage))?;
    }
    Ok(found.child.pid)
}

/// The part of `siginfo_t` that `waitid` fills: as for SIGCHLD, without times.
#[repr(C)]
#[derive(Clone, Copy)]
struct ChildInformation {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    status: i32,
}

// SAFETY: integers without gaps.
unsafe impl Plain for ChildInformation {}

/// `waitid(2)`.
///
/// # Errors
/// As the man page says.
pub fn waitid(
    kind: i32,
    id: Pid,
    information: UserPtr<u8>,
    options: u32,
    usage: UserPtr<super::time::Usage>,
) -> Result<()> {
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let known =
        WNOHANG | WNOWAIT | WEXITED | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL;
    if options & !known != 0 || options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut options = options;
    let mut gives_up = false;
    let which = match kind {
        P_PIDFD if id >= 0 => {
            let (process, waits) = super::process_file::target(super::Fd(id))?;
            // Its descriptor says not to wait (PIDFD_NONBLOCK).
            gives_up = !waits && options & WNOHANG == 0;
            options |= if gives_up { WNOHANG } else { 0 };
            Which::Process(process.ok_or(Errno::ECHILD)?.pid)
        }
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Process(id),
        P_PGID if id > 0 => Which::Group(id),
        P_PGID if id == 0 => Which::Group(current().group()),
        _ => return Err(Errno::EINVAL),
    };
    let found = wait_for(which, options)?;
    if gives_up && found.is_none() {
        return Err(Errno::EAGAIN);
    }
    if let (Some(usage), Some(found)) = (usage.non_null(), &found) {
        usage.write(super::time::usage_of(found.usage))?;
    }
    let Some(information) = information.non_null() else { return Ok(()) };
    let told = found.map_or(
        ChildInformation { signal: 0, error: 0, code: 0, padding: 0, pid: 0, uid: 0, status: 0 },
        |found| {
            let (code, status) = found.event.details();
            let uid = found.child.last_credentials(found.child.main_thread().as_deref()).uid;
            ChildInformation {
                signal: number::SIGCHLD.into(),
                error: 0,
                code,
                padding: 0,
                pid: found.child.pid,
                uid,
                status,
            }
        },
    );
    information.cast().write(told)
}
