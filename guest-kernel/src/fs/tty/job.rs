//! Controlling terminals, and job control (credentials(7), "Sessions" and what follows).
//!
//! Which terminal is whose is known on both sides: a process has its controlling terminal, and the
//! terminal its session and the process group in the foreground.

use super::super::services::services;
use super::Tty;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::signal::number::{SIGCONT, SIGHUP, SIGTTIN, SIGTTOU};
use alloc::sync::Arc;

/// Who makes a call.
pub struct Caller {
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Whether it leads that.
    pub leads: bool,
    /// Its controlling terminal.
    pub terminal: Option<Arc<Tty>>,
}

impl Caller {
    /// Whether this is its controlling terminal.
    pub fn is_controlled_by(&self, tty: &Tty) -> bool {
        self.terminal.as_ref().is_some_and(|own| core::ptr::eq(&raw const **own, tty))
    }
}

/// What terminals need to know of processes.
pub trait Jobs: Sync {
    /// The process that makes the call.
    fn caller(&self) -> Caller;

    /// Its process group, if this is its controlling terminal.
    fn group_on(&self, tty: &Tty) -> Option<i32>;

    /// Its user, as far as files are concerned.
    fn file_user(&self) -> u32;

    /// Whether it has a capability.
    fn can(&self, capability: Capability) -> bool;

    /// Whether it blocks or ignores a signal.
    fn holds_back(&self, signal: u8) -> bool;

    /// Whether nobody could continue the members of a process group.
    fn is_orphaned(&self, group: i32) -> bool;

    /// Which session a process group belongs to.
    fn session_of(&self, group: i32) -> Option<i32>;

    /// Sends all members of a process group a signal: from the kernel, or from the caller.
    fn signal_group(&self, group: i32, signal: u8, from_kernel: bool);

    /// Gives the caller a controlling terminal.
    fn set_terminal(&self, tty: Option<Arc<Tty>>);

    /// Takes their controlling terminal from all processes of a session.
    fn take_terminal(&self, session: i32);

    /// The terminal of a session was hung up: it is no member's any more, and the leader is told.
    /// `group` was in the foreground, and will be told when the leader ends.
    fn hang_up(&self, session: i32, group: i32, tty: &Tty);

    /// The group that was in the foreground when the caller's terminal was hung up; asked once.
    fn take_old_group(&self) -> i32;
}

/// The rest of the kernel; nothing in tests and before the first program.
pub fn jobs() -> Option<&'static dyn Jobs> {
    services()?.jobs()
}

pub(super) fn signal_group(group: i32, signal: u8, from_kernel: bool) {
    if group > 0
        && let Some(jobs) = jobs()
    {
        jobs.signal_group(group, signal, from_kernel);
    }
}

pub(super) fn hang_up_session(session: i32, group: i32, tty: &Tty) {
    if session > 0
        && let Some(jobs) = jobs()
    {
        jobs.hang_up(session, group, tty);
    }
}

fn can(capability: Capability) -> bool {
    jobs().is_none_or(|jobs| jobs.can(capability))
}

/// Whether the caller may do what this capability is for.
///
/// # Errors
/// The error, if not.
pub(super) fn need(capability: Capability, error: Errno) -> Result<()> {
    if can(capability) { Ok(()) } else { Err(error) }
}

/// Whether the caller may read from its controlling terminal (SIGTTIN), or change it (SIGTTOU): else its
/// group is stopped, and EINTR lets the call begin again.
///
/// # Errors
/// EINTR, EIO if nobody could continue it, or if it reads and takes no signal.
pub(super) fn check(tty: &Tty, signal: u8) -> Result<()> {
    let Some(jobs) = jobs() else { return Ok(()) };
    let Some(own) = jobs.group_on(tty) else { return Ok(()) };
    let foreground = tty.foreground();
    if foreground == 0 || foreground == own {
        return Ok(());
    }
    if jobs.holds_back(signal) {
        return if signal == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
    }
    if jobs.is_orphaned(own) {
        return Err(Errno::EIO);
    }
    jobs.signal_group(own, signal, true);
    Err(Errno::EINTR)
}

/// Whether the caller may change the terminal.
///
/// # Errors
/// As for [`check`].
pub(super) fn check_change(tty: &Tty) -> Result<()> {
    check(tty, SIGTTOU)
}

/// A leader without a terminal opens one that nobody has: it becomes its controlling terminal.
pub(super) fn opened(tty: &Arc<Tty>, readable: bool) {
    let Some(jobs) = jobs() else { return };
    let caller = jobs.caller();
    if caller.leads && caller.terminal.is_none() && readable {
        control(jobs, &caller, tty);
    }
}

/// Makes it the caller's; false if somebody else was quicker.
fn control(jobs: &dyn Jobs, caller: &Caller, tty: &Arc<Tty>) -> bool {
    {
        let mut state = tty.state.lock();
        if state.session != 0 {
            return false;
        }
        (state.session, state.group) = (caller.session, caller.group);
    }
    jobs.set_terminal(Some(tty.clone()));
    true
}

/// TIOCSCTTY.
///
/// # Errors
/// EPERM.
pub(super) fn acquire(tty: &Arc<Tty>, steal: bool, readable: bool) -> Result<()> {
    let jobs = jobs().ok_or(Errno::EIO)?;
    let caller = jobs.caller();
    let session = tty.state.lock().session;
    if caller.leads && session == caller.session {
        return Ok(());
    }
    if !caller.leads || caller.terminal.is_some() {
        return Err(Errno::EPERM);
    }
    if session != 0 {
        if !(steal && can(Capability::SysAdmin)) {
            return Err(Errno::EPERM);
        }
        jobs.take_terminal(session);
        tty.detach();
    }
    if !readable {
        need(Capability::SysAdmin, Errno::EPERM)?;
    }
    if control(jobs, &caller, tty) { Ok(()) } else { Err(Errno::EPERM) }
}

/// TIOCNOTTY.
///
/// # Errors
/// ENOTTY if it is not the caller's controlling terminal.
pub(super) fn give_up(tty: &Tty) -> Result<()> {
    let jobs = jobs().ok_or(Errno::ENOTTY)?;
    if jobs.group_on(tty).is_none() {
        return Err(Errno::ENOTTY);
    }
    leave(jobs, false);
    jobs.set_terminal(None);
    Ok(())
}

/// The caller gives up its controlling terminal, perhaps because it `ends`. With a leader's, all of its
/// session's are gone, and the group in the foreground is hung up.
pub fn leave(jobs: &dyn Jobs, ends: bool) {
    let caller = jobs.caller();
    if !caller.leads {
        return;
    }
    let hang_up = |group: i32, continues: bool, from_kernel: bool| {
        if group > 0 {
            jobs.signal_group(group, SIGHUP, from_kernel);
            if continues {
                jobs.signal_group(group, SIGCONT, from_kernel);
            }
        }
    };
    let Some(tty) = &caller.terminal else {
        if ends {
            hang_up(jobs.take_old_group(), true, true);
        }
        return;
    };
    hang_up(tty.foreground(), !ends, ends);
    tty.detach();
    jobs.take_old_group();
    jobs.take_terminal(caller.session);
}

/// Sets the foreground process group (TIOCSPGRP).
///
/// # Errors
/// ENOTTY if it is not the caller's controlling terminal, ESRCH, EPERM for a group of another session,
/// EINTR.
pub(super) fn set_foreground(tty: &Tty, group: impl FnOnce() -> Result<i32>) -> Result<()> {
    let jobs = jobs().ok_or(Errno::ENOTTY)?;
    check_change(tty).map_err(|error| if error == Errno::EIO { Errno::ENOTTY } else { error })?;
    let group = group()?;
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let caller = jobs.caller();
    if !caller.is_controlled_by(tty) || tty.state.lock().session != caller.session {
        return Err(Errno::ENOTTY);
    }
    match jobs.session_of(group) {
        None => return Err(Errno::ESRCH),
        Some(session) if session != caller.session => return Err(Errno::EPERM),
        Some(_) => {}
    }
    tty.state.lock().group = group;
    Ok(())
}

impl Tty {
    /// Belongs to no session any more.
    fn detach(&self) {
        let mut state = self.state.lock();
        (state.session, state.group) = (0, 0);
    }

    /// Makes it the controlling terminal of the first program.
    pub fn attach(&self, leader: i32) {
        let mut state = self.state.lock();
        (state.session, state.group) = (leader, leader);
    }
}
