//! How a virtual machine ends: whoever sees the end first says so, and everybody hears of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::Outcome;
use crate::error::Error;

/// The end of a machine, once there is one.
#[derive(Debug)]
pub struct Ending {
    ended: AtomicBool,
    result: Mutex<Option<Result<Outcome, Error>>>,
    event: EventFd,
}

impl Ending {
    /// A machine that has not ended.
    ///
    /// # Errors
    ///
    /// When the host has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { ended: AtomicBool::new(false), result: Mutex::new(None), event })
    }

    /// Ends the machine; only the first call counts.
    pub fn end(&self, result: Result<Outcome, Error>) {
        let mut slot = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.ended.swap(true, Ordering::AcqRel) {
            *slot = Some(result);
            // An eventfd that holds 1 at most never refuses a write.
            let _ = self.event.write(1);
        }
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Becomes readable when the machine ends.
    pub const fn event(&self) -> &EventFd {
        &self.event
    }

    /// Takes the result, if the machine has ended and no one has taken it.
    pub fn take(&self) -> Option<Result<Outcome, Error>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_end_counts() {
        let ending = Ending::new().expect("an eventfd");
        assert!(!ending.has_ended());
        ending.end(Ok(Outcome::Exited(3)));
        ending.end(Ok(Outcome::TimedOut));
        assert!(ending.has_ended());
        assert_eq!(ending.event().read().ok(), Some(1));
        assert!(matches!(ending.take(), Some(Ok(Outcome::Exited(3)))));
        assert!(ending.take().is_none());
        ending.end(Ok(Outcome::TimedOut));
        assert!(ending.take().is_none(), "a machine ends once");
    }
}
