//! Clocks, sleeping and the time that a process has used: `clock_gettime(2)`, `gettimeofday(2)`,
//! `nanosleep(2)`, `clock_nanosleep(2)`, `times(2)`, `getrusage(2)`.

use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process;
use crate::sched;
use crate::time::clock::{ClockId, CpuClock};
use crate::time::timespec::{Timespec, Timeval};
use crate::time::{self, NANOSECONDS, USER_HZ, VVAR, usage};

/// `TIMER_ABSTIME`.
const TIMER_ABSTIME: u32 = 1;

/// clock_gettime(2).
pub fn clock_gettime(id: i32, time: UserPtr<Timespec>) -> Result<()> {
    time.write(Timespec::from_ns(read(clock(id)?)))
}

/// clock_getres(2).
pub fn clock_getres(id: i32, resolution: UserPtr<Timespec>) -> Result<()> {
    clock(id)?;
    match resolution.non_null() {
        Some(resolution) => resolution.write(Timespec::from_ns(1)),
        None => Ok(()),
    }
}

/// clock_settime(2).
pub fn clock_settime(id: i32, time: UserPtr<Timespec>) -> Result<()> {
    match clock(id)? {
        ClockId::Shared(time::Clock::Realtime) => {}
        // The clock of a process is there but may not be set; the caller's own has no such operation.
        ClockId::Cpu(_) if id < 0 => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    let ns = time.read()?.to_settable_ns()?;
    may_set_time()?;
    time::set_realtime_ns(ns)
}

/// gettimeofday(2).
pub fn gettimeofday(time: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> Result<()> {
    if let Some(time) = time.non_null() {
        time.write(Timeval::from_ns(time::realtime_ns()))?;
    }
    match zone.non_null() {
        Some(zone) => zone.write(Timezone::from_word(VVAR.zone())),
        None => Ok(()),
    }
}

/// settimeofday(2). The hardware clock is in UTC, so the first call with a zone alone does not move
/// the clock.
pub fn settimeofday(time: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> Result<()> {
    let time = match time.non_null() {
        Some(time) => Some(time.read()?.to_timespec()?),
        None => None,
    };
    let zone = match zone.non_null() {
        Some(zone) => Some(zone.read()?),
        None => None,
    };
    let ns = time.map(Timespec::to_settable_ns).transpose()?;
    may_set_time()?;
    if let Some(zone) = zone {
        if !(-15 * 60..=15 * 60).contains(&zone.minutes_west) {
            return Err(Errno::EINVAL);
        }
        VVAR.set_zone(zone.to_word());
    }
    ns.map_or(Ok(()), time::set_realtime_ns)
}

/// time(2).
pub fn time(result: UserPtr<i64>) -> Result<i64> {
    let seconds = Timespec::from_ns(time::realtime_ns()).tv_sec;
    if let Some(result) = result.non_null() {
        result.write(seconds)?;
    }
    Ok(seconds)
}

/// times(2). No child has ended yet, as there are none.
pub fn times(buffer: UserPtr<Tms>) -> Result<u64> {
    const TICK_NS: u64 = NANOSECONDS / USER_HZ;
    if let Some(buffer) = buffer.non_null() {
        let user = usage::cpu_ns(process::current().start_ns) / TICK_NS;
        buffer.write(Tms { user, ..Tms::default() })?;
    }
    Ok(time::monotonic_ns() / TICK_NS)
}

/// getrusage(2): Linux, too, leaves what is not here zero, but for the counts of blocks.
pub fn getrusage(who: i32, buffer: UserPtr<Usage>) -> Result<()> {
    const CHILDREN: i32 = -1;
    const PROCESS: i32 = 0;
    const THREAD: i32 = 1;
    buffer.write(match who {
        PROCESS | THREAD => own_usage(),
        CHILDREN => Usage::default(),
        _ => return Err(Errno::EINVAL),
    })
}

fn own_usage() -> Usage {
    const KIB_PER_PAGE: u64 = 4;
    let process = process::current();
    let (_, peak) = process.memory().resident();
    Usage {
        user: Timeval::from_ns(usage::cpu_ns(process.start_ns)),
        resident_peak_kib: peak * KIB_PER_PAGE,
        minor_faults: process.minor_faults.load(core::sync::atomic::Ordering::Relaxed),
        voluntary_switches: usage::voluntary_switches(),
        ..Usage::default()
    }
}

/// nanosleep(2).
pub fn nanosleep(requested: UserPtr<Timespec>, remaining: UserPtr<Timespec>) -> Result<()> {
    let ns = requested.read()?.to_ns()?;
    sleep_for(ClockId::Shared(time::Clock::Monotonic), ns, remaining)
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    id: i32,
    flags: u32,
    requested: UserPtr<Timespec>,
    remaining: UserPtr<Timespec>,
) -> Result<()> {
    /// `CLOCK_THREAD_CPUTIME_ID`.
    const OWN_THREAD: i32 = 3;
    let clock = clock(id)?;
    match clock {
        ClockId::Shared(clock) if !clock.can_sleep() => return Err(Errno::EOPNOTSUPP),
        ClockId::Cpu(_) if id == OWN_THREAD => return Err(Errno::EOPNOTSUPP),
        _ => {}
    }
    let ns = requested.read()?.to_ns()?;
    // A thread whose own time is to wake it would sleep for ever.
    if matches!(clock, ClockId::Cpu(CpuClock { thread: true, .. })) {
        return Err(Errno::EINVAL);
    }
    if flags & TIMER_ABSTIME != 0 {
        sleep_until(clock, ns)
    } else if matches!(clock, ClockId::Shared(_)) {
        // Setting the time of day has no effect on how long a relative sleep takes.
        sleep_for(ClockId::Shared(time::Clock::Monotonic), ns, remaining)
    } else {
        sleep_for(clock, ns, remaining)
    }
}

fn sleep_for(clock: ClockId, ns: u64, remaining: UserPtr<Timespec>) -> Result<()> {
    let target = read(clock).saturating_add(ns);
    let result = sleep_until(clock, target);
    if result == Err(Errno::EINTR) {
        let left = target.saturating_sub(read(clock));
        if left == 0 {
            return Ok(());
        }
        if let Some(remaining) = remaining.non_null() {
            remaining.write(Timespec::from_ns(left))?;
        }
    }
    result
}

/// Sleeps until the clock shows `target`.
///
/// The time of day cannot be set meanwhile but by the sleeper, as no other program runs; and for the
/// same reason, CPU time stands still, and only a signal ends a sleep that waits for it.
fn sleep_until(clock: ClockId, target: u64) -> Result<()> {
    let deadline = match clock {
        ClockId::Shared(clock) => Some(target.saturating_sub(clock.offset())),
        ClockId::Cpu(_) => None,
    };
    sched::wait(&[], deadline, || (read(clock) >= target).then_some(())).map(|_| ())
}

/// The clock with an id, of a process that exists.
fn clock(id: i32) -> Result<ClockId> {
    let clock = ClockId::from_id(id).ok_or(Errno::EINVAL)?;
    match clock {
        // As there is one process, and it has one thread, its clock is all there is.
        ClockId::Cpu(CpuClock { pid, .. }) if pid != 0 && pid != process::current().pid => {
            Err(Errno::EINVAL)
        }
        _ => Ok(clock),
    }
}

/// What a clock shows, in nanoseconds.
fn read(clock: ClockId) -> u64 {
    match clock {
        ClockId::Shared(clock) => clock.now(),
        ClockId::Cpu(_) => usage::cpu_ns(process::current().start_ns),
    }
}

fn may_set_time() -> Result<()> {
    if process::current().credentials().is_privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

/// `struct timezone`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timezone {
    /// Minutes west of Greenwich.
    pub minutes_west: i32,
    /// Kind of daylight saving time, which nobody looks at.
    pub dst: i32,
}

impl Timezone {
    /// From what the vDSO copies out as one word.
    const fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        Self {
            minutes_west: i32::from_le_bytes([a, b, c, d]),
            dst: i32::from_le_bytes([e, f, g, h]),
        }
    }

    const fn to_word(self) -> u64 {
        let ([a, b, c, d], [e, f, g, h]) = (self.minutes_west.to_le_bytes(), self.dst.to_le_bytes());
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// `struct tms`, in ticks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tms {
    /// User time of the process.
    pub user: u64,
    /// System time of the process.
    pub system: u64,
    /// User time of its children that it has waited for.
    pub children_user: u64,
    /// System time of those.
    pub children_system: u64,
}

/// `struct rusage`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User time.
    pub user: Timeval,
    /// System time.
    pub system: Timeval,
    /// Most memory that was resident at once, in KiB.
    pub resident_peak_kib: u64,
    /// Integral sizes of shared memory, data and stack, which Linux does not keep.
    pub sizes: [u64; 3],
    /// Page faults without a device.
    pub minor_faults: u64,
    /// Page faults that waited for a device.
    pub major_faults: u64,
    /// Swaps, which Linux does not count.
    pub swaps: u64,
    /// Times that a file system had to read and to write.
    pub blocks: [u64; 2],
    /// Messages and signals, which Linux does not count.
    pub messages: [u64; 3],
    /// Times that it gave the vCPU up.
    pub voluntary_switches: u64,
    /// Times that it lost the vCPU.
    pub involuntary_switches: u64,
}

// SAFETY: integers of 32 bits, without a gap.
unsafe impl Plain for Timezone {}
// SAFETY: integers of 64 bits, without a gap.
unsafe impl Plain for Tms {}
// SAFETY: integers of 64 bits, without a gap.
unsafe impl Plain for Usage {}

const _: () = assert!(size_of::<Usage>() == size_of::<linux_raw_sys::general::rusage>());
