//! Files that are events: eventfd(2), timerfd_create(2), signalfd(2).

use super::Fd;
use super::caller::{add_stream, check_flags, file};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::event::{EventCounter, Setting, TimerFile, TimerSetting};
use crate::memory::UserPtr;
use crate::process::{SignalFile, current};
use crate::time::timespec::Timespec;
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_ALARM,
    EFD_SEMAPHORE, O_CLOEXEC, O_NONBLOCK, O_RDWR, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET,
};

/// `eventfd(2)`.
///
/// # Errors
/// As the man page says.
pub fn eventfd(value: u32) -> Result<i32> {
    eventfd2(value, 0)
}

/// `eventfd(2)` with flags.
///
/// # Errors
/// As the man page says.
pub fn eventfd2(value: u32, flags: u32) -> Result<i32> {
    check_flags(flags, EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK)?;
    let counter = EventCounter::new(value, flags & EFD_SEMAPHORE != 0);
    add_stream(counter, O_RDWR | flags & (O_CLOEXEC | O_NONBLOCK))
}

/// `timerfd_create(2)`. The machine is never suspended, so that the alarm clocks have nothing to wake it
/// from.
///
/// # Errors
/// As the man page says.
pub fn timerfd_create(clock: u32, flags: u32) -> Result<i32> {
    check_flags(flags, O_CLOEXEC | O_NONBLOCK)?;
    let is_alarm = matches!(clock, CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM);
    let realtime = match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_ALARM => true,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => false,
        _ => return Err(Errno::EINVAL),
    };
    if is_alarm && !current().can(Capability::WakeAlarm) {
        return Err(Errno::EPERM);
    }
    add_stream(TimerFile::new(realtime), O_RDWR | flags)
}

/// Does something with the timer behind a descriptor.
fn with_timer<T>(fd: Fd, act: impl FnOnce(&TimerFile) -> Result<T>) -> Result<T> {
    let file = file(fd)?;
    let timer = file.as_stream().and_then(|stream| stream.as_any()?.downcast_ref());
    act(timer.ok_or(Errno::EINVAL)?)
}

/// `struct itimerspec`: the interval first.
type IntervalAndValue = [Timespec; 2];

fn to_program(setting: Setting) -> IntervalAndValue {
    [Timespec::from_ns(setting.interval), Timespec::from_ns(setting.value)]
}

/// `timerfd_settime(2)`.
///
/// # Errors
/// As the man page says.
pub fn timerfd_settime(
    fd: Fd,
    flags: u32,
    new: UserPtr<IntervalAndValue>,
    old: UserPtr<IntervalAndValue>,
) -> Result<()> {
    let [interval, value] = new.read()?;
    check_flags(flags, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)?;
    let setting = Setting { value: value.to_ns()?, interval: interval.to_ns()? };
    let new = TimerSetting {
        setting,
        absolute: flags & TFD_TIMER_ABSTIME != 0,
        cancel_on_set: flags & TFD_TIMER_CANCEL_ON_SET != 0,
    };
    let before = with_timer(fd, |timer| timer.set(new))?;
    old.non_null().map_or(Ok(()), |old| old.write(to_program(before)))
}

/// `timerfd_gettime(2)`.
///
/// # Errors
/// As the man page says.
pub fn timerfd_gettime(fd: Fd, value: UserPtr<IntervalAndValue>) -> Result<()> {
    value.write(to_program(with_timer(fd, TimerFile::get)?))
}

/// `signalfd(2)`.
///
/// # Errors
/// As the man page says.
pub fn signalfd(fd: Fd, mask: UserPtr<u64>, mask_size: usize) -> Result<i32> {
    signalfd4(fd, mask, mask_size, 0)
}

/// `signalfd(2)` with flags.
///
/// # Errors
/// As the man page says.
pub fn signalfd4(fd: Fd, mask: UserPtr<u64>, mask_size: usize, flags: u32) -> Result<i32> {
    if mask_size != size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let set = mask.read()?;
    check_flags(flags, O_CLOEXEC | O_NONBLOCK)?;
    if fd.0 == -1 {
        return add_stream(SignalFile::new(set), O_RDWR | flags);
    }
    let open = file(fd)?;
    let known = open.as_stream().and_then(|stream| stream.as_any()?.downcast_ref::<SignalFile>());
    known.ok_or(Errno::EINVAL)?.set(set);
    Ok(fd.0)
}
