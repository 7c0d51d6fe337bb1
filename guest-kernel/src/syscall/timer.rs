//! Timers that send signals: alarm(2), getitimer(2), timer_create(2) and its kin.

use super::time;
use crate::errno::{Errno, Result};
use crate::fs::event::Setting;
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::timers::{Effect, Interval, Source, Timer};
use crate::process::{self, current, resource};
use crate::signal::number;
use crate::time::NANOSECONDS;
use crate::time::clock::{Clock, ClockId, CpuClock, CpuTime};
use crate::time::timespec::{Timespec, Timeval};
use alloc::sync::Arc;

/// `TIMER_ABSTIME`.
const TIMER_ABSTIME: u32 = 1;

/// `SIGEV_*`.
mod notify {
    pub const SIGNAL: i32 = 0;
    pub const NONE: i32 = 1;
    pub const THREAD: i32 = 2;
    pub const THREAD_ID: i32 = 4;
}

/// `struct sigevent`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SignalEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: [i32; 11],
}

// SAFETY: integers without gaps.
unsafe impl Plain for SignalEvent {}

/// `struct itimerval`: the interval first.
type Timevals = [Timeval; 2];
/// `struct itimerspec`: the interval first.
type Timespecs = [Timespec; 2];

/// An interval timer of the caller, made if it is set for the first time.
fn interval_timer(which: Interval) -> Arc<Timer> {
    let me = current();
    let owner = Arc::downgrade(&me.process);
    let mut timers = me.timers.lock();
    timers.interval(which).unwrap_or_else(|| {
        let source = match which {
            Interval::Real => Source::Monotonic,
            Interval::Virtual => Source::Process(owner.clone(), CpuTime::User),
            Interval::Profiling => Source::Process(owner.clone(), CpuTime::UserAndSystem),
        };
        let timer = Timer::new(owner, source, Effect::Interval(which));
        timers.set_interval(which, timer.clone());
        timer
    })
}

/// alarm(2): the seconds that were left.
pub fn alarm(seconds: u32) -> Result<u64> {
    const HALF: u64 = NANOSECONDS / 2;
    let setting = Setting { value: u64::from(seconds) * NANOSECONDS, interval: 0 };
    let left = interval_timer(Interval::Real).set(setting, false)?.value;
    // As Linux: rounded, but something is never nothing.
    let rounded = (left + HALF) / NANOSECONDS;
    Ok(if left > 0 { rounded.max(1) } else { 0 })
}

fn timevals(setting: Setting) -> Timevals {
    [Timeval::from_ns(setting.interval), Timeval::from_ns(setting.value)]
}

/// getitimer(2).
pub fn getitimer(which: i32, value: UserPtr<Timevals>) -> Result<()> {
    let which = Interval::from_number(which).ok_or(Errno::EINVAL)?;
    let timer = current().timers.lock().interval(which);
    value.write(timevals(timer.map_or_else(Setting::default, |timer| timer.get())))
}

/// setitimer(2).
pub fn setitimer(which: i32, value: UserPtr<Timevals>, old: UserPtr<Timevals>) -> Result<()> {
    let setting = match value.non_null() {
        // Linux takes this for zeroes, too, and complains in its log.
        None => Setting::default(),
        Some(value) => {
            let [interval, value] = value.read()?;
            let ns = |time: Timeval| time.to_timespec()?.to_ns();
            Setting { interval: ns(interval)?, value: ns(value)? }
        }
    };
    let which = Interval::from_number(which).ok_or(Errno::EINVAL)?;
    let before = interval_timer(which).set(setting, false)?;
    old.non_null().map_or(Ok(()), |old| old.write(timevals(before)))
}

/// What a timer on a clock goes by.
fn source(clock: i32) -> Result<Source> {
    // CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM: there is no device that could wake the machine.
    if matches!(clock, 8 | 9) {
        return Err(Errno::EOPNOTSUPP);
    }
    match time::clock(clock)? {
        ClockId::Shared(Clock::Realtime | Clock::Tai) => Ok(Source::Realtime),
        ClockId::Shared(Clock::Monotonic | Clock::Boottime) => Ok(Source::Monotonic),
        ClockId::Shared(_) => Err(Errno::EOPNOTSUPP),
        ClockId::Cpu(CpuClock { pid: 0, thread: true, time }) => {
            Ok(Source::Thread(Arc::downgrade(&current().to_arc()), time))
        }
        ClockId::Cpu(CpuClock { pid: 0, thread: false, time }) => {
            Ok(Source::Process(Arc::downgrade(&current().process), time))
        }
        ClockId::Cpu(CpuClock { pid, thread: true, time }) => {
            let thread = process::find_thread(pid).ok_or(Errno::EINVAL)?;
            Ok(Source::Thread(Arc::downgrade(&thread), time))
        }
        ClockId::Cpu(CpuClock { pid, thread: false, time }) => {
            let process = process::find(pid).ok_or(Errno::EINVAL)?;
            Ok(Source::Process(Arc::downgrade(&process), time))
        }
    }
}

/// What a timer does, as `struct sigevent` says it.
fn effect(event: Option<SignalEvent>, id: i32) -> Result<Effect> {
    let Some(event) = event else {
        let value = u64::from(id.cast_unsigned());
        return Ok(Effect::Signal { signal: number::SIGALRM, id, value, thread: None });
    };
    let thread = match event.notify {
        notify::NONE => return Ok(Effect::Nothing),
        notify::SIGNAL | notify::THREAD => None,
        notify::THREAD_ID => {
            let me = current();
            let thread = process::find_thread(event.thread).filter(|thread| thread.pid == me.pid);
            Some(Arc::downgrade(&thread.ok_or(Errno::EINVAL)?))
        }
        _ => return Err(Errno::EINVAL),
    };
    let signal = u8::try_from(event.signal)
        .ok()
        .filter(|signal| (1..=number::LAST).contains(signal))
        .ok_or(Errno::EINVAL)?;
    Ok(Effect::Signal { signal, id, value: event.value, thread })
}

/// timer_create(2).
pub fn timer_create(clock: i32, event: UserPtr<SignalEvent>, timer: UserPtr<i32>) -> Result<()> {
    let event = event.non_null().map(|event| event.read()).transpose()?;
    let source = source(clock)?;
    let me = current();
    let limit = me.limits().lock().0[resource::SIGPENDING].soft;
    let id = me.timers.lock().new_id(limit)?;
    let new = Timer::new(Arc::downgrade(&me.process), source, effect(event, id)?);
    timer.write(id)?;
    me.timers.lock().add(id, new);
    Ok(())
}

fn created(id: i32) -> Result<Arc<Timer>> {
    current().timers.lock().created(id).ok_or(Errno::EINVAL)
}

fn timespecs(setting: Setting) -> Timespecs {
    [Timespec::from_ns(setting.interval), Timespec::from_ns(setting.value)]
}

/// timer_settime(2).
pub fn timer_settime(
    id: i32,
    flags: u32,
    new: UserPtr<Timespecs>,
    old: UserPtr<Timespecs>,
) -> Result<()> {
    let [interval, value] = new.non_null().ok_or(Errno::EINVAL)?.read()?;
    let setting = Setting { interval: interval.to_ns()?, value: value.to_ns()? };
    let before = created(id)?.set(setting, flags & TIMER_ABSTIME != 0)?;
    old.non_null().map_or(Ok(()), |old| old.write(timespecs(before)))
}

/// timer_gettime(2).
pub fn timer_gettime(id: i32, value: UserPtr<Timespecs>) -> Result<()> {
    value.write(timespecs(created(id)?.get()))
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(id: i32) -> Result<i32> {
    Ok(created(id)?.overrun())
}

/// timer_delete(2).
pub fn timer_delete(id: i32) -> Result<()> {
    let timer = current().timers.lock().remove(id);
    timer.map(drop).ok_or(Errno::EINVAL)
}
