//! Clocks (`clock_gettime(2)`), made from the TSC that the VMM has calibrated.
//!
//! * [`tsc`]: ticks to nanoseconds and back
//! * [`vvar`]: the page that says how, which programs read too
//! * [`vdso`]: the code with which they do
//! * [`clock`]: the clocks by their ids
//! * [`timespec`]: times as programs write them
//! * [`timers`]: what shall happen at a time

pub mod clock;
pub mod timers;
pub mod timespec;
pub mod tsc;
pub mod vdso;
pub mod vvar;

pub use clock::{Clock, ClockId};

use crate::errno::{Errno, Result};
use crate::sched::WaitQueue;

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Rate of the ticks that `times(2)` and /proc/PID/stat count in, `sysconf(_SC_CLK_TCK)`.
pub const USER_HZ: u64 = 100;

/// The page `[vvar]` of every process, and the kernel's own account of time.
pub static VVAR: vvar::Vvar = vvar::Vvar::new();

/// Those who want to hear that the time of day was set.
pub static CLOCK_SET: WaitQueue = WaitQueue::new();

static FREQUENCY: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Ticks of the TSC per millisecond.
pub fn frequency_khz() -> u64 {
    FREQUENCY.load(core::sync::atomic::Ordering::Relaxed)
}

/// Nanoseconds since boot: `CLOCK_MONOTONIC`. 0 until [`VVAR`] was started.
pub fn monotonic_ns() -> u64 {
    VVAR.monotonic(tsc::read())
}

/// How long so many ticks of the TSC are, in nanoseconds.
pub fn tsc_ns(ticks: u64) -> u64 {
    match frequency_khz() {
        0 => 0,
        khz => u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(khz)).unwrap_or(u64::MAX),
    }
}

/// Nanoseconds since 1970: `CLOCK_REALTIME`.
pub fn realtime_ns() -> u64 {
    monotonic_ns().wrapping_add(VVAR.realtime_offset())
}

/// Sets the time of day.
///
/// # Errors
/// EINVAL if the machine would have been started before 1970.
pub fn set_realtime_ns(ns: u64) -> Result<()> {
    let offset = ns.checked_sub(monotonic_ns()).ok_or(Errno::EINVAL)?;
    VVAR.set_realtime_offset(offset);
    timers::clock_was_set();
    CLOCK_SET.wake_all();
    Ok(())
}

/// Starts the clocks: the TSC ticks at `khz`, and at the reading `tsc` the time of day was
/// `realtime_ns`.
pub fn start(khz: u64, tsc: u64, realtime_ns: u64) {
    FREQUENCY.store(khz, core::sync::atomic::Ordering::Relaxed);
    if let Some(scale) = tsc::Scale::from_khz(khz) {
        VVAR.start(scale, tsc, realtime_ns, true);
    }
}
