//! How a thread waits: linked into queues, it sleeps between looks at its condition.

use super::queue::{WaitQueue, Waiter};
use super::run;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Sleeps until the condition gives a value, or until the monotonic clock reads `deadline`
/// nanoseconds: then `None`. The condition is asked at first and after each wake-up of one of the
/// queues.
///
/// # Errors
/// EINTR if a signal is to be delivered first, ENOMEM.
pub fn wait<T>(
    queues: &[&WaitQueue],
    deadline: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    // Most calls need not wait at all.
    if let Some(value) = condition() {
        return Ok(Some(value));
    }
    if let &[queue] = queues {
        let mut waiter = Waiter::new();
        let waiter = &raw mut waiter;
        // SAFETY: the waiter stays on this stack until it is unlinked below.
        unsafe { queue.add(waiter) };
        let result = sleep(deadline, crate::process::signal_is_pending, condition);
        // SAFETY: linked above.
        unsafe { queue.remove(waiter) };
        return result;
    }
    let mut waiters: Vec<Waiter> = Vec::new();
    waiters.try_reserve_exact(queues.len()).map_err(|_| Errno::ENOMEM)?;
    waiters.extend(queues.iter().map(|_| Waiter::new()));
    let first = waiters.as_mut_ptr();
    for (index, queue) in queues.iter().enumerate() {
        // SAFETY: the vector has a waiter for each queue, and is not touched until they are unlinked.
        unsafe { queue.add(first.add(index)) };
    }
    let result = sleep(deadline, crate::process::signal_is_pending, condition);
    for (index, queue) in queues.iter().enumerate() {
        // SAFETY: linked above.
        unsafe { queue.remove(first.add(index)) };
    }
    result
}

/// Sleeps until the condition gives a value; no signal ends that but one that ends the process.
///
/// # Errors
/// EINTR if the thread is to end.
pub fn wait_killable<T>(queue: &WaitQueue, condition: impl FnMut() -> Option<T>) -> Result<T> {
    let mut waiter = Waiter::new();
    let waiter = &raw mut waiter;
    // SAFETY: the waiter stays on this stack until it is unlinked below.
    unsafe { queue.add(waiter) };
    let result = sleep(None, || crate::process::must_end().is_some(), condition);
    // SAFETY: linked above.
    unsafe { queue.remove(waiter) };
    result?.ok_or(Errno::EINTR)
}

/// Sleeps until the condition gives a value, whatever happens: for what ends by itself.
pub fn wait_in_any_case<T>(queue: &WaitQueue, mut condition: impl FnMut() -> Option<T>) -> T {
    if let Some(value) = condition() {
        return value;
    }
    let mut waiter = Waiter::new();
    let waiter = &raw mut waiter;
    // SAFETY: the waiter stays on this stack until it is unlinked below.
    unsafe { queue.add(waiter) };
    let value = loop {
        run::prepare_to_sleep();
        if let Some(value) = condition() {
            break value;
        }
        run::block();
    };
    run::stay_awake();
    // SAFETY: linked above.
    unsafe { queue.remove(waiter) };
    value
}

/// Sleeps between looks at the condition; whoever makes it true wakes the thread.
fn sleep<T>(
    deadline: Option<u64>,
    interrupted: impl Fn() -> bool,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    let mut alarm = run::Alarm::none();
    let result = loop {
        // From here on a wake-up is not lost: it turns the sleeper into one that runs.
        run::prepare_to_sleep();
        if let Some(value) = condition() {
            break Ok(Some(value));
        }
        if interrupted() {
            let me = crate::process::current();
            me.resume_deadline.store(deadline.unwrap_or(0), Ordering::Relaxed);
            break Err(Errno::EINTR);
        }
        if let Some(deadline) = deadline {
            if crate::time::monotonic_ns() >= deadline {
                break Ok(None);
            }
            if let Err(error) = alarm.set(deadline) {
                break Err(error);
            }
        }
        run::block();
    };
    run::stay_awake();
    result
}
