//! Times as programs write them, and which of them Linux accepts.

use super::NANOSECONDS;
use crate::errno::{Errno, Result};
use crate::memory::user::Plain;

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timespec {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds, below a second in a valid time.
    pub tv_nsec: i64,
}

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeval {
    /// Seconds.
    pub tv_sec: i64,
    /// Microseconds, below a second in a valid time.
    pub tv_usec: i64,
}

// SAFETY: two 64-bit integers each, without a gap.
unsafe impl Plain for Timespec {}
// SAFETY: as above.
unsafe impl Plain for Timeval {}

/// The latest time that a clock can be set to, so that thirty years of uptime remain before 64-bit
/// nanoseconds end: Linux's `TIME_SETTOD_SEC_MAX`.
const SETTABLE_SECONDS: i64 = i64::MAX / 1_000_000_000 - 30 * 365 * 24 * 3600;

impl Timespec {
    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        let (tv_sec, tv_nsec) = ((ns / NANOSECONDS), (ns % NANOSECONDS));
        Self { tv_sec: tv_sec.cast_signed(), tv_nsec: tv_nsec.cast_signed() }
    }

    /// As nanoseconds; a time beyond 292 years is 292 years.
    ///
    /// # Errors
    /// EINVAL if it is negative, or has a second or more of nanoseconds.
    pub fn to_ns(self) -> Result<u64> {
        if !(0..1_000_000_000).contains(&self.tv_nsec) {
            return Err(Errno::EINVAL);
        }
        let seconds = u64::try_from(self.tv_sec).map_err(|_| Errno::EINVAL)?;
        let ns = seconds.saturating_mul(NANOSECONDS).saturating_add(self.tv_nsec.cast_unsigned());
        Ok(ns.min(i64::MAX.cast_unsigned()))
    }

    /// As nanoseconds that the time of day can be set to.
    ///
    /// # Errors
    /// EINVAL if it is no valid time, or too late.
    pub fn to_settable_ns(self) -> Result<u64> {
        if self.tv_sec >= SETTABLE_SECONDS {
            return Err(Errno::EINVAL);
        }
        self.to_ns()
    }
}

impl Timeval {
    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        let Timespec { tv_sec, tv_nsec } = Timespec::from_ns(ns);
        Self { tv_sec, tv_usec: tv_nsec / 1000 }
    }

    /// With nanoseconds for microseconds.
    ///
    /// # Errors
    /// EINVAL if there is a second or more of microseconds, or fewer than none.
    pub fn to_timespec(self) -> Result<Timespec> {
        if !(0..1_000_000).contains(&self.tv_usec) {
            return Err(Errno::EINVAL);
        }
        Ok(Timespec { tv_sec: self.tv_sec, tv_nsec: self.tv_usec * 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(tv_sec: i64, tv_nsec: i64) -> Timespec {
        Timespec { tv_sec, tv_nsec }
    }

    #[test]
    fn nanoseconds_become_a_time_and_back() {
        for ns in [0, 1, 999_999_999, 1_000_000_000, 1_790_000_000_123_456_789] {
            assert_eq!(Timespec::from_ns(ns).to_ns(), Ok(ns));
        }
        assert_eq!(Timespec::from_ns(1_999_999_999), time(1, 999_999_999));
        assert_eq!(Timeval::from_ns(1_999_999_999), Timeval { tv_sec: 1, tv_usec: 999_999 });
    }

    #[test]
    fn invalid_times_are_refused() {
        for invalid in [time(-1, 0), time(0, -1), time(0, 1_000_000_000), time(0, i64::MIN)] {
            assert_eq!(invalid.to_ns(), Err(Errno::EINVAL));
        }
        assert_eq!(time(i64::MAX, 999_999_999).to_ns(), Ok(i64::MAX.cast_unsigned()));
        for tv_usec in [-1, 1_000_000, i64::MAX] {
            assert_eq!(Timeval { tv_sec: 0, tv_usec }.to_timespec(), Err(Errno::EINVAL));
        }
        assert_eq!(Timeval { tv_sec: 5, tv_usec: 7 }.to_timespec(), Ok(time(5, 7000)));
    }

    #[test]
    fn the_clock_is_not_set_to_the_end_of_time() {
        assert_eq!(time(1_800_000_000, 5).to_settable_ns(), Ok(1_800_000_000_000_000_005));
        assert!(time(SETTABLE_SECONDS - 1, 0).to_settable_ns().is_ok());
        assert_eq!(time(SETTABLE_SECONDS, 0).to_settable_ns(), Err(Errno::EINVAL));
        assert_eq!(time(-1, 0).to_settable_ns(), Err(Errno::EINVAL));
    }
}
