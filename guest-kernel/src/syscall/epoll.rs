//! Waiting for many files: epoll_create(2), epoll_ctl(2), epoll_wait(2).

use super::Fd;
use super::caller::{add_stream, check_flags, file};
use super::poll::{after, deadline_from_timespec, with_mask};
use crate::errno::{Errno, Result};
use crate::fs::epoll::{EventPoll, Interest, UserEvent};
use crate::memory::{USER_END, UserPtr};
use linux_raw_sys::general::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP,
    EPOLLIN, EPOLLOUT, EPOLLWAKEUP, O_CLOEXEC, O_RDWR,
};

/// What may be asked for together with `EPOLLEXCLUSIVE`.
const EXCLUSIVE: u32 =
    EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;

/// `epoll_create(2)`: the size means nothing, but must be one.
///
/// # Errors
/// As the man page says.
pub fn epoll_create(size: i32) -> Result<i32> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(0)
}

/// `epoll_create1(2)`.
///
/// # Errors
/// As the man page says.
pub fn epoll_create1(flags: u32) -> Result<i32> {
    check_flags(flags, O_CLOEXEC)?;
    add_stream(EventPoll::new(), O_RDWR | flags)
}

/// `epoll_ctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn epoll_ctl(epoll_fd: Fd, operation: i32, fd: Fd, event: UserPtr<UserEvent>) -> Result<()> {
    let operation = u32::try_from(operation).unwrap_or(0);
    let interest = if operation == EPOLL_CTL_DEL {
        Interest { events: 0, data: 0 }
    } else {
        let [events, low, high] = event.read()?;
        Interest { events, data: u64::from(high) << 32 | u64::from(low) }
    };
    let own = file(epoll_fd)?;
    let target = file(fd)?;
    if !target.can_poll() {
        return Err(Errno::EPERM);
    }
    let epoll = EventPoll::of(&own).ok_or(Errno::EINVAL)?;
    let is_exclusive = interest.events & EPOLLEXCLUSIVE != 0;
    let refuses_exclusive = match operation {
        EPOLL_CTL_ADD => EventPoll::of(&target).is_some() || interest.events & !EXCLUSIVE != 0,
        _ => operation == EPOLL_CTL_MOD,
    };
    if alloc::sync::Arc::ptr_eq(&own, &target) || is_exclusive && refuses_exclusive {
        return Err(Errno::EINVAL);
    }
    match operation {
        EPOLL_CTL_ADD => epoll.add(&own, &target, fd.0, interest),
        EPOLL_CTL_MOD => epoll.modify(&target, fd.0, interest),
        EPOLL_CTL_DEL => epoll.remove(&target, fd.0),
        _ => Err(Errno::EINVAL),
    }
}

/// Waits; a deadline of 0 does not.
fn wait_until(
    fd: Fd,
    events: UserPtr<UserEvent>,
    count: i32,
    deadline: Option<u64>,
) -> Result<usize> {
    /// Linux: `EP_MAX_EVENTS`.
    const MOST: usize = i32::MAX.unsigned_abs() as usize / size_of::<UserEvent>();
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count == 0 || count > MOST {
        return Err(Errno::EINVAL);
    }
    let len = (count * size_of::<UserEvent>()) as u64;
    if events.address().checked_add(len).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let file = file(fd)?;
    EventPoll::of(&file).ok_or(Errno::EINVAL)?.wait(events, count, deadline)
}

/// A negative number of milliseconds is no limit.
fn deadline_from_milliseconds(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| if ms == 0 { 0 } else { after(ms * 1_000_000) })
}

/// `epoll_wait(2)`.
///
/// # Errors
/// As the man page says.
pub fn epoll_wait(fd: Fd, events: UserPtr<UserEvent>, count: i32, timeout: i32) -> Result<usize> {
    wait_until(fd, events, count, deadline_from_milliseconds(timeout))
}

/// `epoll_pwait(2)`.
///
/// # Errors
/// As the man page says.
pub fn epoll_pwait(
    fd: Fd,
    events: UserPtr<UserEvent>,
    count: i32,
    timeout: i32,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let deadline = deadline_from_milliseconds(timeout);
    with_mask(mask, mask_size, || wait_until(fd, events, count, deadline))
}

/// `epoll_pwait2(2)`.
///
/// # Errors
/// As the man page says.
pub fn epoll_pwait2(
    fd: Fd,
    events: UserPtr<UserEvent>,
    count: i32,
    timeout: UserPtr<[i64; 2]>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let deadline = deadline_from_timespec(timeout)?;
    with_mask(mask, mask_size, || wait_until(fd, events, count, deadline))
}
