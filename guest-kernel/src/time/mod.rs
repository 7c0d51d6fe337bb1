//! Clocks (`clock_gettime(2)`), made from the TSC that the VMM has calibrated.
//!
//! * [`tsc`]: ticks to nanoseconds and back
//! * [`vvar`]: the page that says how, which programs read too
//! * [`vdso`]: the code with which they do

pub mod tsc;
pub mod vdso;
pub mod vvar;

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// The page `[vvar]` of every process, and the kernel's own account of time.
pub static VVAR: vvar::Vvar = vvar::Vvar::new();

/// A clock, named by its id in `clock_gettime(2)`.
///
/// `CLOCK_REALTIME_ALARM` and `CLOCK_BOOTTIME_ALARM` need a clock that wakes the machine; as on every
/// Linux machine without one, they do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time of day; can be set.
    Realtime,
    /// Time since boot.
    Monotonic,
    /// CPU time of the process.
    ProcessCpu,
    /// CPU time of the thread.
    ThreadCpu,
    /// Time since boot, never adjusted: the same as [`Self::Monotonic`], which is not either.
    MonotonicRaw,
    /// Time of day; as exact as [`Self::Realtime`], as there is no tick that it could be cheaper by.
    RealtimeCoarse,
    /// Time since boot, likewise.
    MonotonicCoarse,
    /// Time since boot, counting suspension, which never happens.
    Boottime,
    /// International atomic time; its distance to [`Self::Realtime`] is 0, as on every Linux machine
    /// until a daemon sets it.
    Tai,
}

impl Clock {
    /// The clock with this id, if Linux has one that does not belong to another process.
    pub const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::Realtime,
            1 => Self::Monotonic,
            2 => Self::ProcessCpu,
            3 => Self::ThreadCpu,
            4 => Self::MonotonicRaw,
            5 => Self::RealtimeCoarse,
            6 => Self::MonotonicCoarse,
            7 => Self::Boottime,
            11 => Self::Tai,
            _ => return None,
        })
    }

    /// Whether it follows the time of day.
    pub const fn is_realtime(self) -> bool {
        matches!(self, Self::Realtime | Self::RealtimeCoarse | Self::Tai)
    }

    /// Whether it counts from boot.
    pub const fn is_monotonic(self) -> bool {
        matches!(
            self,
            Self::Monotonic | Self::MonotonicRaw | Self::MonotonicCoarse | Self::Boottime
        )
    }
}

/// Nanoseconds since boot.
#[cfg(target_os = "none")]
pub fn monotonic_ns() -> u64 {
    VVAR.monotonic(crate::arch::cpu::read_tsc())
}

/// Nanoseconds since 1970.
#[cfg(target_os = "none")]
pub fn realtime_ns() -> u64 {
    monotonic_ns().wrapping_add(VVAR.realtime_offset())
}

/// Starts the clocks: the TSC ticks at `khz`, and at the reading `tsc` the time of day was
/// `realtime_ns`.
#[cfg(target_os = "none")]
pub fn start(khz: u64, tsc: u64, realtime_ns: u64) {
    if let Some(scale) = tsc::Scale::from_khz(khz) {
        VVAR.start(scale, tsc, realtime_ns, true);
    }
}
