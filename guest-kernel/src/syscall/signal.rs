//! Signals: sigaction(2) and its kin.

use crate::arch::Cpu;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{self, Pid, current};
use crate::sched::{WaitQueue, wait};
use crate::signal::{
    Action, AlternateStack, Information, STACK_DISABLED, UNBLOCKABLE, bit, number,
};
use crate::time;
use alloc::sync::Arc;

/// `sizeof(sigset_t)` in the kernel's interface.
const SET_SIZE: usize = 8;
/// `SI_USER`, `SI_TKILL`.
const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;
/// `SS_ONSTACK`, `SS_AUTODISARM`.
const SS_ONSTACK: u32 = 1;
/// Smallest alternate stack: what a frame needs at least, as Linux's `MINSIGSTKSZ`.
const MINSIGSTKSZ: u64 = 2048;

fn valid(signal: i32) -> Result<u8> {
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
    let process = current();
    let before = {
        let mut signals = process.signals.lock();
        let before = signals.action(signal);
        if let Some(action) = new {
            signals.set_action(signal, action);
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
    let process = current();
    let before = {
        let mut signals = process.signals.lock();
        let before = signals.mask;
        if let Some(set) = set {
            signals.mask = match how {
                SIG_BLOCK => before | set,
                SIG_UNBLOCK => before & !set,
                SIG_SETMASK => set,
                _ => return Err(Errno::EINVAL),
            } & !UNBLOCKABLE;
        }
        if signals.deliverable().is_some() {
            Cpu::current().request_work();
        }
        before
    };
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
    let pending = {
        let process = current();
        let signals = process.signals.lock();
        signals.pending() & signals.mask
    };
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

/// Sends a signal to a process; 0 only checks whether that would be allowed.
fn send(target: &process::Process, signal: i32, code: i32) -> Result<()> {
    if signal == 0 {
        return Ok(());
    }
    let signal = valid(signal)?;
    let sender = current();
    let uid = u64::from(sender.credentials().uid);
    let value = uid << 32 | u64::from(sender.pid.cast_unsigned());
    target.signals.lock().send(Information { signal, code, value });
    Cpu::current().request_work();
    Ok(())
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
    match pid {
        // Every process but PID 1 and the caller: there is none.
        -1 => Err(Errno::ESRCH),
        0 => send(&me, signal, SI_USER),
        group if group < 0 => {
            if group == Pid::MIN || me.group != -group {
                return Err(Errno::ESRCH);
            }
            send(&me, signal, SI_USER)
        }
        // PID 1 is the kernel itself and ignores signals, as Linux's init does by default.
        process::INIT => Ok(()),
        pid => send(&*find(pid)?, signal, SI_USER),
    }
}

fn find(pid: Pid) -> Result<Arc<process::Process>> {
    process::find(pid).ok_or(Errno::ESRCH)
}

/// `tkill(2)`.
///
/// # Errors
/// As the man page says.
pub fn tkill(tid: Pid, signal: i32) -> Result<()> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    if signal != 0 {
        valid(signal)?;
    }
    send(&*find(tid)?, signal, SI_TKILL)
}

/// `tgkill(2)`.
///
/// # Errors
/// As the man page says.
pub fn tgkill(group: Pid, tid: Pid, signal: i32) -> Result<()> {
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    if group != tid {
        return Err(Errno::ESRCH);
    }
    tkill(tid, signal)
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
    {
        let process = current();
        let mut signals = process.signals.lock();
        signals.saved_mask = Some(signals.mask);
        signals.mask = mask;
    }
    Cpu::current().request_work();
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
    let process = current();
    let take = || {
        let mut signals = process.signals.lock();
        let set = signals.pending() & wanted;
        let index = u8::try_from(set.trailing_zeros()).ok().filter(|&index| index < 64)?;
        signals.take(index + 1)
    };
    let taken = wait(&[], deadline, take)?.ok_or(Errno::EAGAIN)?;
    if let Some(pointer) = information.non_null() {
        let mut detail = [0; 14];
        detail[0] = taken.value;
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
