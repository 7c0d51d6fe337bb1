//! The clocks by their ids (`clock_gettime(2)`).

use super::{VVAR, monotonic_ns};

/// What a `clockid_t` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// A clock of the machine.
    Shared(Clock),
    /// A clock of CPU time.
    Cpu(CpuClock),
}

impl ClockId {
    /// The clock with this id.
    pub const fn from_id(id: i32) -> Option<Self> {
        Some(match id {
            2 => Self::Cpu(CpuClock { pid: 0, thread: false, time: CpuTime::Scheduled }),
            3 => Self::Cpu(CpuClock { pid: 0, thread: true, time: CpuTime::Scheduled }),
            0.. => match Clock::from_id(id.cast_unsigned()) {
                Some(clock) => Self::Shared(clock),
                None => return None,
            },
            _ => match CpuClock::from_id(id) {
                Some(clock) => Self::Cpu(clock),
                None => return None,
            },
        })
    }
}

/// A clock of the machine.
///
/// `CLOCK_REALTIME_ALARM` and `CLOCK_BOOTTIME_ALARM` need a device that wakes the machine; as on every
/// Linux machine without one, they do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time of day; can be set.
    Realtime,
    /// Time since boot.
    Monotonic,
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
    /// The clock with this id.
    pub const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::Realtime,
            1 => Self::Monotonic,
            4 => Self::MonotonicRaw,
            5 => Self::RealtimeCoarse,
            6 => Self::MonotonicCoarse,
            7 => Self::Boottime,
            11 => Self::Tai,
            _ => return None,
        })
    }

    /// Whether it follows the time of day; else it counts from boot.
    pub const fn is_realtime(self) -> bool {
        matches!(self, Self::Realtime | Self::RealtimeCoarse | Self::Tai)
    }

    /// Whether a thread can sleep by it (`clock_nanosleep(2)`).
    pub const fn can_sleep(self) -> bool {
        matches!(self, Self::Realtime | Self::Monotonic | Self::Boottime | Self::Tai)
    }

    /// What it shows, in nanoseconds.
    pub fn now(self) -> u64 {
        monotonic_ns().wrapping_add(self.offset())
    }

    /// Nanoseconds by which it is ahead of the monotonic clock.
    pub fn offset(self) -> u64 {
        if self.is_realtime() { VVAR.realtime_offset() } else { 0 }
    }
}

/// A clock of CPU time: that of a process or thread (`clock_getcpuclockid(3)`), as its negative id
/// says, or that of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuClock {
    /// Process or thread; 0 is the caller.
    pub pid: i32,
    /// Whether `pid` is a thread, and its own time alone is meant.
    pub thread: bool,
    /// What is counted.
    pub time: CpuTime,
}

/// Kinds of CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuTime {
    /// In user mode and in the kernel, counted in ticks (`CPUCLOCK_PROF`).
    UserAndSystem,
    /// In user mode, counted in ticks (`CPUCLOCK_VIRT`).
    User,
    /// In user mode and in the kernel, counted in nanoseconds (`CPUCLOCK_SCHED`).
    Scheduled,
}

impl CpuClock {
    /// The clock with this id: the complement of the process in bits 31:3, bit 2 set for a thread, the
    /// kind of time in bits 1:0. Kind 3 is a clock device (`CLOCKFD`), of which there are none.
    pub const fn from_id(id: i32) -> Option<Self> {
        if id >= 0 {
            return None;
        }
        let time = match id & 3 {
            0 => CpuTime::UserAndSystem,
            1 => CpuTime::User,
            2 => CpuTime::Scheduled,
            _ => return None,
        };
        Some(Self { pid: !(id >> 3), thread: id & 4 != 0, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_linux() {
        let shared = |id| match ClockId::from_id(id) {
            Some(ClockId::Shared(clock)) => Some(clock),
            _ => None,
        };
        assert_eq!(shared(0), Some(Clock::Realtime));
        assert_eq!(shared(7), Some(Clock::Boottime));
        for unknown in [2, 3, 8, 9, 10, 12, i32::MAX, i32::MIN, -1] {
            assert_eq!(shared(unknown), None, "{unknown}");
        }
        let own = |thread| CpuClock { pid: 0, thread, time: CpuTime::Scheduled };
        assert_eq!(ClockId::from_id(2), Some(ClockId::Cpu(own(false))));
        assert_eq!(ClockId::from_id(3), Some(ClockId::Cpu(own(true))));
        assert_eq!(ClockId::from_id(10), None);
    }

    #[test]
    fn clocks_of_processes_are_decoded_as_the_c_library_makes_them() {
        // clock_getcpuclockid(7) is (~7 << 3) | 2, pthread_getcpuclockid() of thread 7 (~7 << 3) | 6.
        let process = CpuClock { pid: 7, thread: false, time: CpuTime::Scheduled };
        assert_eq!(CpuClock::from_id(!7 << 3 | 2), Some(process));
        assert_eq!(CpuClock::from_id(!7 << 3 | 6), Some(CpuClock { thread: true, ..process }));
        assert_eq!(CpuClock::from_id(!0 << 3 | 2), Some(CpuClock { pid: 0, ..process }));
        assert_eq!(CpuClock::from_id(!7 << 3 | 3), None);
        assert_eq!(CpuClock::from_id(2), None);
    }
}
