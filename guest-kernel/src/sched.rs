//! Waiting. One program runs, so that whoever waits lets the vCPU halt until an interrupt comes, and
//! looks again: a condition becomes true by what an interrupt handler or another vCPU did.
//!
//! Ring 0 runs with interrupts off; they are taken in ring 3 and in [`wait`], where no lock is held.

use crate::errno::{Errno, Result};
use core::sync::atomic::AtomicU64;

#[cfg(target_os = "none")]
pub use hardware::*;

/// Stack of the vCPU that is being started (guest-virtual), for `arch`'s entry code.
pub static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// Those who wait for one kind of event.
#[derive(Debug, Default)]
pub struct WaitQueue(());

impl WaitQueue {
    /// A queue on which nobody waits.
    pub const fn new() -> Self {
        Self(())
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

    /// Makes those who wait look again.
    pub fn wake_all(&self) {
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
            crate::arch::apic::set_timer(deadline - now);
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
    use crate::arch::apic;
    use crate::arch::cpu::{self, MAX_CPUS};
    use crate::memory::frame::{self, Content};
    use airlock_abi::layout::CPU_START_PORT;
    use core::sync::atomic::{AtomicU32, Ordering};

    /// Stacks of secondary vCPUs: 2^2 frames.
    const STACK_ORDER: usize = 2;
    /// How long a secondary vCPU may take to appear, in nanoseconds.
    const START_LIMIT: u64 = 1_000_000_000;

    static RUNNING: AtomicU32 = AtomicU32::new(1);

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

    /// The local timer fired: whoever waits looks at the clock.
    pub fn timer() {}
}
