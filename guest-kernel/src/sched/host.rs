//! Waiting in tests on the host, which have one thread: another of the host's makes the condition true.

use super::queue::WaitQueue;
use super::task::RUNNABLE;
pub use super::task::{Policy, Task};
use crate::errno::{Errno, Result};
use crate::process::Thread;
use core::sync::atomic::Ordering;

/// Waits until the condition gives a value, or for `deadline` nanoseconds: then `None`.
///
/// # Errors
/// None.
pub fn wait<T>(
    _queues: &[&WaitQueue],
    deadline: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(Some(value));
        }
        let elapsed = u64::try_from(start.elapsed().as_nanos()).map_err(|_| Errno::EINTR)?;
        if deadline.is_some_and(|deadline| elapsed >= deadline) {
            return Ok(None);
        }
        std::thread::yield_now();
    }
}

/// Waits until the condition gives a value.
pub fn wait_in_any_case<T>(_queue: &WaitQueue, mut condition: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = condition() {
            return value;
        }
        std::thread::yield_now();
    }
}

/// Waits until the condition gives a value.
///
/// # Errors
/// None.
pub fn wait_killable<T>(queue: &WaitQueue, condition: impl FnMut() -> Option<T>) -> Result<T> {
    wait(&[queue], None, condition)?.ok_or(Errno::EINTR)
}

/// Lets a sleeping thread run.
pub fn wake(thread: &Thread) {
    thread.task.state.store(RUNNABLE, Ordering::SeqCst);
}

impl crate::time::timers::Expire for Thread {
    fn expire(&self) {
        wake(self);
    }
}
