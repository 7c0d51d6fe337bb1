//! Signals: sigaction(2) and its kin.

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::SI_USER;
use crate::process::{self, Pid, current};
use crate::sched::{WaitQueue, wait};
use crate::signal::{
    Action, AlternateStack, Information, STACK_DISABLED, UNBLOCKABLE, bit, number,
};
use crate::time;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `sizeof(sigset_t)` in the kernel's interface.
const SET_SIZE: usize = 8;
/// `SI_TKILL`.
const SI_TKILL: i32 = -6;
/// `SS_ONSTACK`, `SS_AUTODISARM`.
const SS_ONSTACK: u32 = 1;
/// Smallest alternate stack: what a frame needs at least, as Linux's `MINSIGSTKSZ`.
const MINSIGSTKSZ: u64 = 2048;

pub(super) fn valid(signal: i32) -> Result<u8> {
    u8::try_from(signal)
        .ok()
        .filter(|signal| (1..=number::LAST).contains(signal))
        .ok_or(Errno::EINVAL)
}

/// `rt_sigaction(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_sigaction(
    signal: i32,
    new: UserPtr<Action>,
    old: UserPtr<Action>,
    size: usize,
) -> Result<()> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let signal = valid(signal)?;
    let new = new.non_null().map(UserPtr::read).transpose()?;
    if new.is_some() && bit(signal) & UNBLOCKABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let before = {
        let mut actions = me.actions().lock();
        let before = actions.action(signal);
        if let Some(action) = new {
            actions.set_action(signal, action);
            if actions.is_ignored(signal) {
                drop(actions);
                process::discard_ignored(&me, signal);
            }
        }
        before
    };
    if new.is_some() {
        crate::drivers::console::offer_signals();
    }
    old.non_null().map_or(Ok(()), |old| old.write(before))
}

/// `rt_sigprocmask(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_sigprocmask(how: i32, new: UserPtr<u64>, old: UserPtr<u64>, size: usize) -> Result<()> {
    const SIG_BLOCK: i32 = 0;
    const SIG_UNBLOCK: i32 = 1;
    const SIG_SETMASK: i32 = 2;
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = new.non_null().map(UserPtr::read).transpose()?;
    let me = current();
    let before = {
        let mut signals = me.signals.lock();
        let before = signals.mask;
        if let Some(set) = set {
            signals.mask = match how {
                SIG_BLOCK => before | set,
                SIG_UNBLOCK => before & !set,
                SIG_SETMASK => set,
                _ => return Err(Errno::EINVAL),
            } & !UNBLOCKABLE;
        }
        before
    };
    if set.is_some() {
        if process::deliverable(&me) {
            me.notify();
        }
        process::mask_changed(before);
    }
    if set.is_some_and(|set| set & !before != 0) && how != SIG_UNBLOCK {
        crate::drivers::console::offer_signals();
    }
    old.non_null().map_or(Ok(()), |old| old.write(before))
}

/// `rt_sigpending(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_sigpending(set: UserPtr<u64>, size: usize) -> Result<()> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let pending = process::pending(&me) & me.signals.lock().mask;
    set.write(pending)
}

/// `sigaltstack(2)`.
///
/// # Errors
/// As the man page says.
pub fn sigaltstack(new: UserPtr<AlternateStack>, old: UserPtr<AlternateStack>) -> Result<()> {
    let set = new.non_null().map(UserPtr::read).transpose()?;
    let process = current();
    let mut before = process.signals.lock().stack;
    let on_it = before.contains(crate::arch::cpu::program_rsp());
    if on_it {
        before.flags |= SS_ONSTACK;
    }
    if let Some(stack) = set {
        if on_it {
            return Err(Errno::EPERM);
        }
        let checked = match stack.flags {
            STACK_DISABLED => {
                AlternateStack { start: 0, flags: STACK_DISABLED, padding: 0, size: 0 }
            }
            0 | SS_ONSTACK if stack.size < MINSIGSTKSZ => return Err(Errno::ENOMEM),
            0 | SS_ONSTACK => AlternateStack { flags: 0, padding: 0, ..stack },
            _ => return Err(Errno::EINVAL),
        };
        process.signals.lock().stack = checked;
    }
    old.non_null().map_or(Ok(()), |old| old.write(before))
}

/// Whether the caller may send a signal to a process (kill(2)).
fn may_send(target: &process::Process, signal: u8) -> Result<()> {
    let me = current();
    let who = me.credentials();
    if who.can(Capability::Kill) || target.pid == me.pid {
        return Ok(());
    }
    let Some(thread) = target.main_thread() else { return Ok(()) };
    let other = thread.credentials();
    let allowed = [who.uid, who.euid].iter().any(|id| [other.uid, other.suid].contains(id))
        || (signal == number::SIGCONT && target.session() == me.session());
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// What a signal by the caller tells.
fn by_caller(signal: u8, code: i32) -> Information {
    let me = current();
    let uid = u64::from(me.credentials().uid);
    Information::new(signal, code, uid << 32 | u64::from(me.pid.cast_unsigned()))
}

/// Sends a signal to a process; 0 only checks whether that would be allowed.
pub(super) fn send(
    target: &process::Process,
    signal: i32,
    information: Option<Information>,
) -> Result<()> {
    let number = u8::try_from(signal).unwrap_or(0);
    may_send(target, number)?;
    if signal == 0 {
        return Ok(());
    }
    let information = information.unwrap_or_else(|| by_caller(number, SI_USER));
    process::send_to_process(target, information)
}

/// Sends a signal to all of these; fails if it could be sent to none.
fn send_to_all(targets: &[Arc<process::Process>], signal: i32) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let sent = send(target, signal, None);
        if result.is_err() {
            result = sent;
        }
    }
    result
}

/// `kill(2)`.
///
/// # Errors
/// As the man page says.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    if signal != 0 {
        valid(signal)?;
    }
    let me = current();
    let members = |group: Pid| process::table::lock().group(group);
    match pid {
        // Every process but PID 1 and the caller.
        -1 => {
            let others: Vec<_> = process::table::lock()
                .processes()
                .filter(|process| process.pid != me.pid)
                .cloned()
                .collect();
            send_to_all(&others, signal)
        }
        0 => send_to_all(&members(me.group()), signal),
        Pid::MIN => Err(Errno::ESRCH),
        group if group < 0 => send_to_all(&members(-group), signal),
        // PID 1 is the kernel itself and ignores signals, as Linux's init does by default.
        process::INIT => Ok(()),
        pid => send(&*process::find(pid).ok_or(Errno::ESRCH)?, signal, None),
    }
}

fn send_to_thread(group: Option<Pid>, tid: Pid, signal: i32) -> Result<()> {
    if signal != 0 {
        valid(signal)?;
    }
    let thread = process::find_thread(tid).ok_or(Errno::ESRCH)?;
    if group.is_some_and(|group| thread.pid != group) {
        return Err(Errno::ESRCH);
    }
    let number = u8::try_from(signal).unwrap_or(0);
    may_send(&thread.process, number)?;
    if signal == 0 {
        return Ok(());
    }
    process::send_to_thread(&thread, by_caller(number, SI_TKILL))
}

/// `tkill(2)`.
///
/// # Errors
/// As the man page says.
pub fn tkill(tid: Pid, signal: i32) -> Result<()> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_to_thread(None, tid, signal)
}

/// `tgkill(2)`.
///
/// # Errors
/// As the man page says.
pub fn tgkill(group: Pid, tid: Pid, signal: i32) -> Result<()> {
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_to_thread(Some(group), tid, signal)
}

/// What a program says that a signal tells; only the kernel and `kill` use codes from 0 on, and
/// SI_TKILL.
pub(super) fn told(signal: u8, information: UserPtr<u8>, to_self: bool) -> Result<Information> {
    let read: SignalInformation = information.cast().read()?;
    if (read.code >= 0 || read.code == SI_TKILL) && !to_self {
        return Err(Errno::EPERM);
    }
    let mut detail = [0; 4];
    detail.copy_from_slice(&read.detail[..4]);
    Ok(Information { signal, code: read.code, detail })
}

/// `rt_sigqueueinfo(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_sigqueueinfo(pid: Pid, signal: i32, information: UserPtr<u8>) -> Result<()> {
    let number = if signal == 0 { 0 } else { valid(signal)? };
    let information = told(number, information, pid == current().pid)?;
    let target = process::find(pid).ok_or(Errno::ESRCH)?;
    send(&target, signal, Some(information))
}

/// `rt_tgsigqueueinfo(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_tgsigqueueinfo(
    group: Pid,
    tid: Pid,
    signal: i32,
    information: UserPtr<u8>,
) -> Result<()> {
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let number = if signal == 0 { 0 } else { valid(signal)? };
    let information = told(number, information, group == current().pid)?;
    let thread = process::find_thread(tid).ok_or(Errno::ESRCH)?;
    if thread.pid != group {
        return Err(Errno::ESRCH);
    }
    may_send(&thread.process, number)?;
    if signal == 0 {
        return Ok(());
    }
    process::send_to_thread(&thread, information)
}

/// `pause(2)`.
///
/// # Errors
/// EINTR, always.
pub fn pause() -> Result<()> {
    let queue = WaitQueue::new();
    queue.wait_until(|| None::<()>)
}

/// `rt_sigsuspend(2)`.
///
/// # Errors
/// EINTR, always, but for a bad pointer or size.
pub fn rt_sigsuspend(set: UserPtr<u64>, size: usize) -> Result<()> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let mask = set.read()? & !UNBLOCKABLE;
    let before = {
        let process = current();
        let mut signals = process.signals.lock();
        let before = core::mem::replace(&mut signals.mask, mask);
        signals.saved_mask = Some(before);
        before
    };
    process::mask_changed(before);
    // A signal that waits already ends the call, too.
    current().notify();
    pause()
}

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

// SAFETY: two integers.
unsafe impl crate::memory::user::Plain for Timespec {}

/// The first 128 bytes of `siginfo_t`, as far as the kernel fills them.
#[repr(C)]
#[derive(Clone, Copy)]
struct SignalInformation {
    number: i32,
    error: i32,
    code: i32,
    padding: i32,
    detail: [u64; 14],
}

// SAFETY: integers without gaps.
unsafe impl crate::memory::user::Plain for SignalInformation {}

/// `rt_sigtimedwait(2)`.
///
/// # Errors
/// As the man page says.
pub fn rt_sigtimedwait(
    set: UserPtr<u64>,
    information: UserPtr<u8>,
    timeout: UserPtr<u8>,
    size: usize,
) -> Result<i32> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let wanted = set.read()? & !UNBLOCKABLE;
    let deadline = match timeout.non_null() {
        None => None,
        Some(pointer) => {
            let Timespec { seconds, nanoseconds } = pointer.cast::<Timespec>().read()?;
            if seconds < 0 || !(0..1_000_000_000).contains(&nanoseconds) {
                return Err(Errno::EINVAL);
            }
            let ns = seconds
                .cast_unsigned()
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds.cast_unsigned());
            Some(time::monotonic_ns().saturating_add(ns))
        }
    };
    let me = current();
    let take = || process::take_of(&me, wanted);
    let taken = wait(&[&me.signal_events], deadline, take)?.ok_or(Errno::EAGAIN)?;
    if let Some(pointer) = information.non_null() {
        let mut detail = [0; 14];
        detail[..4].copy_from_slice(&taken.detail);
        let number = taken.signal.into();
        pointer.cast().write(SignalInformation {
            number,
            error: 0,
            code: taken.code,
            padding: 0,
            detail,
        })?;
    }
    Ok(taken.signal.into())
}
