//! Waiting. One program runs, so that whoever waits lets the vCPU halt until an interrupt comes, and
//! looks again: a condition becomes true by what an interrupt handler or another vCPU did.
//!
//! Ring 0 runs with interrupts off; they are taken in ring 3 and in [`wait`], where no lock is held.

pub mod watch;

use crate::errno::{Errno, Result};
use crate::fs::stream::Events;
use core::sync::atomic::AtomicU64;
use watch::{Reach, WatchList};

#[cfg(target_os = "none")]
pub use hardware::*;

/// Stack of the vCPU that is being started (guest-virtual), for `arch`'s entry code.
pub static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// Those who wait for one kind of event.
#[derive(Default)]
pub struct WaitQueue {
    /// Those who are told, and do not wait.
    watchers: WatchList,
}

impl WaitQueue {
    /// A queue on which nobody waits.
    pub const fn new() -> Self {
        Self { watchers: WatchList::new() }
    }

    /// Those who are told of every wake-up.
    pub const fn watchers(&self) -> &WatchList {
        &self.watchers
    }

    /// Sleeps until the condition gives a value.
    ///
    /// # Errors
    /// EINTR if a signal is to be delivered first.
    pub fn wait_until<T>(&self, condition: impl FnMut() -> Option<T>) -> Result<T> {
        match wait(&[self], None, condition) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Errno::EINTR),
            Err(error) => Err(error),
        }
    }

    /// Makes those who wait look again, and tells all who watch: anything may have happened.
    pub fn wake_all(&self) {
        self.wake_sleepers();
        self.watchers.notify(Events::default(), Reach::All);
    }

    /// The same, but watchers only care if they wait for one of `events`, and one of those who do not
    /// want to be told all at once is enough.
    pub fn wake(&self, events: Events) {
        self.wake_sleepers();
        self.watchers.notify(events, Reach::One);
    }

    /// Makes those who wait look again for something that is no event to those who watch.
    pub fn wake_sleepers(&self) {
        // Whoever waits looks again after every interrupt, and the event came with one.
    }
}

/// Sleeps until the condition gives a value, or until the monotonic clock reads `deadline`
/// nanoseconds: then `None`.
///
/// # Errors
/// EINTR if a signal is to be delivered first.
#[cfg(target_os = "none")]
pub fn wait<T>(
    _queues: &[&WaitQueue],
    deadline: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    loop {
        if let Some(value) = condition() {
            return Ok(Some(value));
        }
        if crate::process::signal_is_pending() {
            return Err(Errno::EINTR);
        }
        if let Some(deadline) = deadline {
            let now = crate::time::monotonic_ns();
            if now >= deadline {
                return Ok(None);
            }
            let first = crate::time::timers::next().map_or(deadline, |next| next.min(deadline));
            crate::arch::apic::set_timer(first.saturating_sub(now).max(1));
        }
        let start = crate::time::monotonic_ns();
        crate::arch::cpu::wait_for_interrupt();
        crate::time::usage::waited_since(start);
    }
}

/// The same on the host, for tests.
///
/// # Errors
/// None.
#[cfg(not(target_os = "none"))]
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

#[cfg(target_os = "none")]
mod hardware {
    use super::SECONDARY_STACK;
    use crate::arch::cpu::{self, MAX_CPUS};
    use crate::arch::{TrapFrame, apic};
    use crate::memory::frame::{self, Content};
    use crate::sync::SpinLock;
    use crate::time::timers;
    use airlock_abi::layout::CPU_START_PORT;
    use core::sync::atomic::{AtomicU32, Ordering};

    /// Stacks of secondary vCPUs: 2^2 frames.
    const STACK_ORDER: usize = 2;
    /// How long a secondary vCPU may take to appear, in nanoseconds.
    const START_LIMIT: u64 = 1_000_000_000;

    static START_FRAME: SpinLock<TrapFrame> = SpinLock::new(TrapFrame::ZERO);
    static RUNNING: AtomicU32 = AtomicU32::new(1);

    /// The registers that the first program starts with.
    pub fn current_start_frame() -> &'static SpinLock<TrapFrame> {
        &START_FRAME
    }

    /// vCPUs that run.
    pub fn cpus() -> u32 {
        RUNNING.load(Ordering::Acquire)
    }

    /// Starts the other vCPUs, one after the other; they idle until there is something for them.
    pub fn start_secondaries(count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(MAX_CPUS);
        for index in 1..count {
            let Some(stack) = frame::allocate_block(STACK_ORDER, Content::Overwritten) else {
                crate::log!("vCPU {index}: no memory for its stack");
                return;
            };
            let top = stack.to_pointer().expose_provenance() as u64 + (4096 << STACK_ORDER);
            if cpu::prepare_secondary(index).is_none() {
                return;
            }
            SECONDARY_STACK.store(top, Ordering::Release);
            // SAFETY: the VMM starts the vCPU at the kernel's entry, where its stack waits.
            unsafe { cpu::write_port(CPU_START_PORT, index) };
            let start = crate::time::monotonic_ns();
            while cpus() == index {
                core::hint::spin_loop();
                if crate::time::monotonic_ns() - start > START_LIMIT {
                    crate::log!("vCPU {index} does not start");
                    return;
                }
            }
        }
    }

    /// What a secondary vCPU does.
    pub fn secondary() -> ! {
        crate::boot::enable_features_on_secondary();
        apic::enable();
        RUNNING.fetch_add(1, Ordering::AcqRel);
        loop {
            cpu::wait_for_interrupt();
        }
    }

    /// The local timer fired: whoever waits looks at the clock, and what the time has come for happens.
    pub fn timer() {
        if timers::next().is_some() {
            timers::run_expired(crate::time::monotonic_ns());
            timers::program();
        }
    }
}
