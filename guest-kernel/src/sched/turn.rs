//! Mutual exclusion for what may take long, as it copies to or from a program: whoever comes second sleeps.

use super::queue::WaitQueue;
use core::sync::atomic::{AtomicU8, Ordering};

/// Nobody has it.
const FREE: u8 = 0;
/// Someone has it.
const TAKEN: u8 = 1;
/// Someone has it, and others may wait for it.
const AWAITED: u8 = 2;

/// What one thread has at a time. Whoever has it does not sleep, and so gives it back soon; page faults
/// never ask for one.
#[derive(Debug)]
pub struct Turn {
    state: AtomicU8,
    queue: WaitQueue,
}

/// Somebody's turn, until dropped.
pub struct Taken<'a>(&'a Turn);

impl Turn {
    /// Nobody's.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(FREE), queue: WaitQueue::new() }
    }

    /// Waits for it, whatever happens meanwhile.
    #[inline]
    pub fn take(&self) -> Taken<'_> {
        crate::sync::expect_none_held();
        let taken =
            self.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !taken {
            self.wait();
        }
        Taken(self)
    }

    #[cold]
    fn wait(&self) {
        // Whoever gives it back finds this state if it is given back after the look, and then wakes; before,
        // the look takes it. Having it in this state costs one wake-up too many.
        let look = || (self.state.swap(AWAITED, Ordering::SeqCst) == FREE).then_some(());
        super::wait_in_any_case(&self.queue, look);
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.state.swap(FREE, Ordering::SeqCst) == AWAITED {
            self.0.queue.wake_sleepers();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Turn;
    use std::cell::UnsafeCell;

    struct Shared(Turn, UnsafeCell<u64>);

    // SAFETY: the value is only used by whose turn it is.
    unsafe impl Sync for Shared {}

    #[test]
    fn one_has_it_at_a_time_and_nobody_waits_for_ever() {
        let shared = Shared(Turn::new(), UnsafeCell::new(0));
        let (rounds, threads) = (500, 4);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let shared = &shared;
                    for _ in 0..rounds {
                        let _turn = shared.0.take();
                        // SAFETY: it is this thread's turn.
                        let value = unsafe { &mut *shared.1.get() };
                        let old = *value;
                        std::thread::yield_now();
                        *value = old + 1;
                    }
                });
            }
        });
        assert_eq!(shared.1.into_inner(), rounds * threads);
    }
}
