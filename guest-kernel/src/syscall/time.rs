//! Clocks, sleeping and the time that a process has used: `clock_gettime(2)`, `gettimeofday(2)`,
//! `nanosleep(2)`, `clock_nanosleep(2)`, `times(2)`, `getrusage(2)`.

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::{self, Process, Thread};
use crate::sched::{self, WaitQueue};
use crate::time::clock::{ClockId, CpuClock, CpuTime};
use crate::time::timespec::{Timespec, Timeval};
use crate::time::{self, NANOSECONDS, USER_HZ, VVAR};

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

/// times(2).
pub fn times(buffer: UserPtr<Tms>) -> Result<u64> {
    const TICK_NS: u64 = NANOSECONDS / USER_HZ;
    if let Some(buffer) = buffer.non_null() {
        let me = process::current();
        let ticks = |ticks: u64| time::tsc_ns(ticks) / TICK_NS;
        look_at_times();
        let (own, children) = (Process::usage(&me), *me.children_usage.lock());
        buffer.write(Tms {
            user: ticks(own.ticks_of(CpuTime::User)),
            system: ticks(own.system),
            children_user: ticks(children.ticks_of(CpuTime::User)),
            children_system: ticks(children.system),
        })?;
    }
    Ok(time::monotonic_ns() / TICK_NS)
}

/// getrusage(2): Linux, too, leaves what is not here zero, but for the counts of blocks.
pub fn getrusage(who: i32, buffer: UserPtr<Usage>) -> Result<()> {
    const CHILDREN: i32 = -1;
    const PROCESS: i32 = 0;
    const THREAD: i32 = 1;
    let me = process::current();
    look_at_times();
    buffer.write(match who {
        PROCESS => usage_of(Process::usage(&me)),
        THREAD => {
            let resident_peak = me.memory().resident().1;
            usage_of(process::Usage { resident_peak, ..Thread::usage(&me) })
        }
        CHILDREN => usage_of(*me.children_usage.lock()),
        _ => return Err(Errno::EINVAL),
    })
}

/// What a process used, as programs see it.
pub fn usage_of(used: process::Usage) -> Usage {
    const KIB_PER_PAGE: u64 = 4;
    Usage {
        user: Timeval::from_ns(time::tsc_ns(used.ticks_of(CpuTime::User))),
        system: Timeval::from_ns(time::tsc_ns(used.system)),
        resident_peak_kib: used.resident_peak * KIB_PER_PAGE,
        minor_faults: used.minor_faults,
        voluntary_switches: used.switches[0],
        involuntary_switches: used.switches[1],
        ..Usage::default()
    }
}

/// Who asks for user and system time may ask again: they shall be told apart from now on at the latest.
fn look_at_times() {
    #[cfg(target_os = "none")]
    sched::run::begin_samples();
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
    let is_own = |tid: i32| tid == 0 || tid == process::current().tid();
    if matches!(clock, ClockId::Cpu(CpuClock { pid, thread: true, .. }) if is_own(pid)) {
        return Err(Errno::EINVAL);
    }
    if flags & TIMER_ABSTIME != 0 {
        // A call that continues after a stop has the same time to wait for.
        process::current().deadline(0);
        sleep_until(clock, ns)
    } else if matches!(clock, ClockId::Shared(_)) {
        // Setting the time of day has no effect on how long a relative sleep takes.
        sleep_for(ClockId::Shared(time::Clock::Monotonic), ns, remaining)
    } else {
        sleep_for(clock, ns, remaining)
    }
}

fn sleep_for(clock: ClockId, ns: u64, remaining: UserPtr<Timespec>) -> Result<()> {
    // The call may continue one that a stop interrupted.
    let target = process::current().deadline(read(clock).saturating_add(ns));
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
/// Nobody watches clocks of CPU time: one is looked at when it can have come that far at the earliest, or, if
/// it stands still, ever more rarely.
fn sleep_until(clock: ClockId, target: u64) -> Result<()> {
    const LOOK_NS: [u64; 2] = [1_000_000, 64_000_000];
    /// Threads that are likely to add to a clock at once; with more, a look comes later.
    const CPUS: u64 = 4;
    let ClockId::Shared(shared) = clock else {
        let (mut seen, mut look) = (0, LOOK_NS[0]);
        loop {
            let now = read(clock);
            if now >= target {
                return Ok(());
            }
            look = if now == seen { (look * 2).min(LOOK_NS[1]) } else { LOOK_NS[0] };
            seen = now;
            let ns = (target - now) / CPUS;
            let deadline = time::monotonic_ns().saturating_add(ns.max(look));
            sched::wait(&[], Some(deadline), || None::<()>)?;
        }
    };
    let queues: &[&WaitQueue] = if shared.is_realtime() { &[&time::CLOCK_SET] } else { &[] };
    loop {
        // Setting the time of day moves the deadline.
        let offset = shared.offset();
        let over = || (shared.now() >= target || shared.offset() != offset).then_some(());
        sched::wait(queues, Some(target.saturating_sub(offset)), over)?;
        if shared.now() >= target {
            return Ok(());
        }
    }
}

/// The clock with an id, of a process that exists.
pub(super) fn clock(id: i32) -> Result<ClockId> {
    let clock = ClockId::from_id(id).ok_or(Errno::EINVAL)?;
    match clock {
        ClockId::Cpu(clock) if cpu_ticks(clock).is_none() => Err(Errno::EINVAL),
        _ => Ok(clock),
    }
}

/// CPU time of the process or thread that a clock is for, in ticks of the TSC; `None` if there is none,
/// or the thread is another process's.
fn cpu_ticks(clock: CpuClock) -> Option<u64> {
    let me = process::current();
    let usage = match (clock.pid, clock.thread) {
        // The usual question needs no more than this.
        (0, true) if clock.time == CpuTime::Scheduled => return Some(me.task.ticks()),
        (0, true) => Thread::usage(&me),
        (0, false) => Process::usage(&me),
        (tid, true) => {
            let thread = process::find_thread(tid).filter(|thread| thread.pid == me.pid)?;
            Thread::usage(&thread)
        }
        (pid, false) => process::find(pid)?.usage(),
    };
    Some(usage.ticks_of(clock.time))
}

/// What a clock shows, in nanoseconds.
fn read(clock: ClockId) -> u64 {
    match clock {
        ClockId::Shared(clock) => clock.now(),
        ClockId::Cpu(clock) => cpu_ticks(clock).map_or(0, time::tsc_ns),
    }
}

fn may_set_time() -> Result<()> {
    process::current().credentials().need(Capability::SysTime)
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
        let ([a, b, c, d], [e, f, g, h]) =
            (self.minutes_west.to_le_bytes(), self.dst.to_le_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::tsc::{self, Scale};
    use std::sync::Once;

    const BOOT: u64 = 1_790_000_000_123_456_789;
    /// Not the program's: copies fail.
    const KERNEL: u64 = 0xffff_8000_0000_0000;
    /// A clock of the calling process, as `clock_getcpuclockid(0)` names it.
    const OWN_PROCESS: i32 = !0 << 3 | 2;
    /// A clock of the calling thread.
    const OWN_THREAD: i32 = !0 << 3 | 6;

    fn start_clocks() {
        static START: Once = Once::new();
        START.call_once(|| {
            let scale = Scale::from_khz(2_600_000).unwrap();
            VVAR.start(scale, tsc::read(), BOOT, true);
        });
    }

    fn pointer<T>(value: &mut T) -> UserPtr<T> {
        UserPtr::new((&raw mut *value).expose_provenance().try_into().unwrap())
    }

    fn null<T>() -> UserPtr<T> {
        UserPtr::new(0)
    }

    fn bad<T>() -> UserPtr<T> {
        UserPtr::new(KERNEL)
    }

    fn time_of(id: i32) -> u64 {
        let mut time = Timespec::default();
        clock_gettime(id, pointer(&mut time)).unwrap();
        time.to_ns().unwrap()
    }

    #[test]
    fn clocks_show_the_time_since_boot_or_of_day() {
        start_clocks();
        for (id, offset) in [(0, BOOT), (1, 0), (4, 0), (5, BOOT), (6, 0), (7, 0), (11, BOOT)] {
            let before = time::monotonic_ns();
            let now = time_of(id) - offset;
            assert!(before <= now && now <= time::monotonic_ns(), "{id}");
        }
        let mut time = Timeval::default();
        let mut zone = Timezone { minutes_west: 7, dst: 7 };
        gettimeofday(pointer(&mut time), pointer(&mut zone)).unwrap();
        let seconds = super::time(null()).unwrap();
        assert!(time.tv_sec <= seconds && 1_790_000_000 <= time.tv_sec);
        assert_eq!(zone, Timezone { minutes_west: 0, dst: 0 });
        assert_eq!(gettimeofday(null(), null()), Ok(()));
        let mut stored = 0;
        let returned = super::time(pointer(&mut stored)).unwrap();
        assert_eq!(stored, returned);
        assert!(seconds <= returned);
        assert!(times(null()).unwrap() <= time::monotonic_ns() / 10_000_000);
    }

    #[test]
    fn clocks_that_do_not_exist_are_invalid() {
        for id in [8, 9, 10, 12, 99, i32::MAX, -1, -5] {
            assert_eq!(clock_gettime(id, bad()), Err(Errno::EINVAL), "{id}");
            assert_eq!(clock_getres(id, null()), Err(Errno::EINVAL), "{id}");
            assert_eq!(clock_settime(id, bad()), Err(Errno::EINVAL), "{id}");
            assert_eq!(clock_nanosleep(id, 0, bad(), null()), Err(Errno::EINVAL), "{id}");
        }
    }

    #[test]
    fn addresses_of_the_kernel_fault() {
        start_clocks();
        assert_eq!(clock_gettime(0, bad()), Err(Errno::EFAULT));
        assert_eq!(clock_getres(0, bad()), Err(Errno::EFAULT));
        assert_eq!(clock_settime(0, bad()), Err(Errno::EFAULT));
        assert_eq!(gettimeofday(bad(), null()), Err(Errno::EFAULT));
        assert_eq!(gettimeofday(null(), bad()), Err(Errno::EFAULT));
        assert_eq!(settimeofday(bad(), null()), Err(Errno::EFAULT));
        assert_eq!(settimeofday(null(), bad()), Err(Errno::EFAULT));
        assert_eq!(super::time(bad()), Err(Errno::EFAULT));
        assert_eq!(nanosleep(bad(), null()), Err(Errno::EFAULT));
        assert_eq!(clock_nanosleep(0, 0, bad(), null()), Err(Errno::EFAULT));
        assert_eq!(getrusage(2, bad()), Err(Errno::EINVAL));
        assert_eq!(getrusage(-1, bad()), Err(Errno::EFAULT));
    }

    #[test]
    fn the_resolution_is_a_nanosecond() {
        for id in [0, 1, 2, 3, 4, 5, 6, 7, 11, OWN_PROCESS, OWN_THREAD] {
            let mut resolution = Timespec::default();
            clock_getres(id, pointer(&mut resolution)).unwrap();
            assert_eq!(resolution, Timespec { tv_sec: 0, tv_nsec: 1 });
            assert_eq!(clock_getres(id, null()), Ok(()));
        }
    }

    #[test]
    fn only_the_time_of_day_can_be_set() {
        for id in [1, 2, 3, 4, 5, 6, 7, 11] {
            assert_eq!(clock_settime(id, bad()), Err(Errno::EINVAL), "{id}");
        }
        assert_eq!(clock_settime(OWN_PROCESS, bad()), Err(Errno::EPERM));
        for (tv_sec, tv_nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            let mut time = Timespec { tv_sec, tv_nsec };
            assert_eq!(clock_settime(0, pointer(&mut time)), Err(Errno::EINVAL));
            let mut time = Timeval { tv_sec, tv_usec: tv_nsec };
            assert_eq!(settimeofday(pointer(&mut time), null()), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn sleeping_takes_as_long_as_was_asked() {
        start_clocks();
        let mut request = Timespec { tv_sec: 0, tv_nsec: 3_000_000 };
        let start = time::monotonic_ns();
        nanosleep(pointer(&mut request), bad()).unwrap();
        assert!(time::monotonic_ns() >= start + 3_000_000);
        for id in [0, 1, 7, 11] {
            let target = time_of(id) + 2_000_000;
            let mut until = Timespec::from_ns(target);
            clock_nanosleep(id, TIMER_ABSTIME, pointer(&mut until), bad()).unwrap();
            assert!(time_of(id) >= target);
            let mut past = Timespec::from_ns(1);
            clock_nanosleep(id, TIMER_ABSTIME, pointer(&mut past), bad()).unwrap();
            clock_nanosleep(id, 0, pointer(&mut past), bad()).unwrap();
        }
    }

    #[test]
    fn sleeps_that_cannot_be_are_refused() {
        start_clocks();
        for id in [3, 4, 5, 6] {
            assert_eq!(clock_nanosleep(id, 0, bad(), null()), Err(Errno::EOPNOTSUPP), "{id}");
        }
        let mut request = Timespec { tv_sec: 0, tv_nsec: 1 };
        let own_thread = clock_nanosleep(OWN_THREAD, 0, pointer(&mut request), null());
        assert_eq!(own_thread, Err(Errno::EINVAL));
        for (tv_sec, tv_nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            let mut request = Timespec { tv_sec, tv_nsec };
            assert_eq!(nanosleep(pointer(&mut request), null()), Err(Errno::EINVAL));
            for flags in [0, TIMER_ABSTIME] {
                let slept = clock_nanosleep(1, flags, pointer(&mut request), null());
                assert_eq!(slept, Err(Errno::EINVAL));
            }
        }
    }
}
