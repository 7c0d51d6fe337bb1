//! Sending signals, and taking them.

use super::{Process, Thread, current, resource, timers};
use crate::errno::{Errno, Result};
use crate::signal::{
    Actions, Information, Pending, REAL_TIME, STOPPING, action, bit, first_of, number,
};
use airlock_abi::exit::Exit;
use alloc::sync::Arc;

/// `SI_USER`.
pub const SI_USER: i32 = 0;

/// Whether the thread has a signal that it does not block.
pub fn deliverable(thread: &Thread) -> bool {
    let own = thread.signals.lock();
    (own.pending.set() | thread.pending.lock().set()) & !own.mask != 0
}

/// Takes the next signal that the thread does not block; its own come first.
pub fn take(thread: &Thread) -> Option<Information> {
    let mask = thread.signals.lock().mask;
    take_of(thread, !mask)
}

/// Takes a signal of a set, whether it is blocked or not (`sigtimedwait`, `signalfd`).
pub fn take_of(thread: &Thread, set: u64) -> Option<Information> {
    let mut own = thread.signals.lock();
    let mut taken = first_of(own.pending.set() & set).and_then(|signal| own.pending.take(signal));
    if taken.is_none() {
        let mut shared = thread.process.pending.lock();
        taken = first_of(shared.set() & set).and_then(|signal| shared.take(signal));
    }
    drop(own);
    if let Some(information) = &mut taken {
        timers::signal_taken(&thread.process, information);
    }
    taken
}

/// Signals that wait for the thread, blocked or not.
pub fn pending(thread: &Thread) -> u64 {
    thread.signals.lock().pending.set() | thread.process.pending.lock().set()
}

/// Before a signal is added: a stop undoes a continuation and the other way round, and the end of a
/// process is decided at once.
fn prepare(process: &Process, signal: u8) {
    let against = match signal {
        number::SIGCONT => STOPPING,
        signal if bit(signal) & STOPPING != 0 => bit(number::SIGCONT),
        _ => 0,
    };
    if against != 0 {
        process.pending.lock().discard(against);
        for thread in process.threads() {
            thread.signals.lock().pending.discard(against);
        }
    }
    match signal {
        number::SIGCONT => process.resume(),
        number::SIGKILL => process.doom(Exit::Signaled(signal)),
        _ => {}
    }
}

fn ignores(actions: &Actions, signal: u8) -> bool {
    signal != number::SIGKILL && actions.is_ignored(signal)
}

fn limit(process: &Process) -> u64 {
    process.limits().lock().0[resource::SIGPENDING].soft
}

/// Sends a signal to whichever thread of a process takes it.
///
/// # Errors
/// EAGAIN if a queued signal with a value finds no room.
pub fn send_to_process(process: &Process, information: Information) -> Result<()> {
    let add = |pending: &mut Pending| pending.add(information, limit(process));
    let room = add_to_process(process, information.signal, add);
    has_room(room, &information)
}

/// Sends a signal to one thread.
///
/// # Errors
/// EAGAIN if a queued signal with a value finds no room.
pub fn send_to_thread(thread: &Thread, information: Information) -> Result<()> {
    let add = |pending: &mut Pending| pending.add(information, limit(&thread.process));
    let room = add_to_thread(thread, information.signal, add);
    has_room(room, &information)
}

/// Sends the signal of a timer to a process, or one thread of it; false if it is ignored. A timer has one signal
/// underway at most, which neither a limit nor another signal of the number keeps out.
pub fn send_by_timer(process: &Process, thread: Option<&Thread>, information: Information) -> bool {
    let add = |pending: &mut Pending| match information.code {
        super::timers::SI_TIMER => pending.add_of_timer(information),
        _ => pending.add(information, u64::MAX),
    };
    let signal = information.signal;
    match thread {
        Some(thread) => add_to_thread(thread, signal, add),
        None => add_to_process(process, signal, add),
    }
    .is_some()
}

fn has_room(room: Option<bool>, information: &Information) -> Result<()> {
    let must_have = information.signal >= REAL_TIME && information.code != SI_USER;
    if room == Some(false) && must_have { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// Adds a signal to those of a process and lets somebody take it; `None` if it is ignored, else what `add` says.
fn add_to_process(
    process: &Process,
    signal: u8,
    add: impl FnOnce(&mut Pending) -> bool,
) -> Option<bool> {
    let actions = process.shared_actions()?;
    prepare(process, signal);
    let ignored = ignores(&actions.lock(), signal);
    let takes = |thread: &&Arc<Thread>| thread.signals.lock().mask & bit(signal) == 0;
    if ignored && process.main_thread().is_none_or(|thread| takes(&&thread)) {
        return None;
    }
    let room = add(&mut process.pending.lock());
    // The first thread that does not block it; if all do, those who wait for it look. The signal is there before
    // the threads are looked at: one that ends, or blocks it, from now on lets the others know (`retarget`).
    let threads = process.threads();
    match threads.iter().find(takes) {
        Some(thread) => thread.notify(),
        None => threads.iter().for_each(|thread| thread.notify()),
    }
    process.signal_events.wake_all();
    super::signal_file::notify();
    Some(room)
}

/// The same for one thread.
fn add_to_thread(
    thread: &Thread,
    signal: u8,
    add: impl FnOnce(&mut Pending) -> bool,
) -> Option<bool> {
    let actions = thread.process.shared_actions()?;
    prepare(&thread.process, signal);
    let ignored = ignores(&actions.lock(), signal);
    let room = {
        let mut own = thread.signals.lock();
        if ignored && own.mask & bit(signal) == 0 {
            return None;
        }
        add(&mut own.pending)
    };
    thread.notify();
    thread.process.signal_events.wake_all();
    super::signal_file::notify();
    Some(room)
}

/// A fault of the running thread: the signal is not held back by a mask or by being ignored (Linux's
/// `force_sig_info`): then it ends the process.
pub fn force(information: Information) {
    let me = current();
    let signal = information.signal;
    if signal == number::SIGKILL {
        me.doom(Exit::Signaled(signal));
        return;
    }
    let mut own = me.signals.lock();
    let mut actions = me.actions().lock();
    let ignored = actions.action(signal).handler == action::IGNORE;
    if ignored || own.mask & bit(signal) != 0 {
        actions.set_action(signal, crate::signal::Action::default());
        own.mask &= !bit(signal);
    }
    drop(actions);
    own.pending.add(information, u64::MAX);
    drop(own);
    me.notify();
}

/// A signal is ignored from now on: those that wait are forgotten.
pub fn discard_ignored(process: &Process, signal: u8) {
    process.pending.lock().discard(bit(signal));
    for thread in process.threads() {
        thread.signals.lock().pending.discard(bit(signal));
    }
}

/// Someone else must take the signals that a thread was chosen for and will not take.
pub fn retarget(process: &Process) {
    if !process.pending.lock().is_empty() {
        for thread in process.threads() {
            thread.notify();
        }
    }
}

/// The running thread's mask was `before`: the signals that it was chosen for and blocks from now on are for
/// others.
pub fn mask_changed(before: u64) {
    let me = current();
    if me.signals.lock().mask & !before != 0 {
        retarget(&me.process);
    }
}

/// Sends a signal to every process of a group; false if it has none.
pub fn send_to_group(group: super::Pid, information: Information) -> bool {
    let members = super::table::lock().group(group);
    for member in &members {
        let _ = send_to_process(member, information);
    }
    !members.is_empty()
}
