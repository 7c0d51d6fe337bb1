//! Waiting for several files: poll(2), select(2).

use super::Fd;
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::fs::{FileRef, stream::Events};
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::process::{self, current};
use crate::sched;
use crate::signal::UNBLOCKABLE;
use crate::time::timespec::{Timespec, Timeval};
use alloc::vec::Vec;
use linux_raw_sys::general::{POLLERR, POLLHUP, POLLNVAL};

const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: i64 = 1_000_000;

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

// SAFETY: integers without a gap.
unsafe impl Plain for PollFd {}

/// What is asked of one descriptor.
struct Asked {
    file: Option<FileRef>,
    /// Events that count, and those that always do.
    events: u16,
    /// Found at once: a descriptor that is not open.
    fixed: u16,
}

fn low(bits: u32) -> u16 {
    u16::from_le_bytes([bits.to_le_bytes()[0], bits.to_le_bytes()[1]])
}

impl Asked {
    fn found(&self) -> u16 {
        match &self.file {
            Some(file) => file.poll().0 & self.events,
            None => self.fixed,
        }
    }
}

/// Waits until something is found or the deadline is over; returns what was found of each.
fn wait(asked: &[Asked], deadline: Option<u64>) -> Result<Vec<u16>> {
    let mut queues = Vec::new();
    let mut found = Vec::new();
    queues.try_reserve_exact(asked.len()).map_err(|_| Errno::ENOMEM)?;
    found.try_reserve_exact(asked.len()).map_err(|_| Errno::ENOMEM)?;
    queues.extend(asked.iter().filter_map(|one| one.file.as_ref()?.as_stream()?.queue()));
    let ready = sched::wait(&queues, deadline, || {
        found.clear();
        found.extend(asked.iter().map(Asked::found));
        found.iter().any(|&events| events != 0).then_some(())
    })?;
    if ready.is_none() {
        found.fill(0);
    }
    Ok(found)
}

fn now() -> u64 {
    services().map_or(0, |services| services.monotonic_ns())
}

/// The deadline that is so many nanoseconds from now, or that of the call which this one continues.
pub(super) fn after(ns: u64) -> u64 {
    current().deadline(now().saturating_add(ns))
}

fn poll_until(fds: UserPtr<PollFd>, count: u32, deadline: Option<u64>) -> Result<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let process = current();
    if count > process.files().lock().limit() {
        return Err(Errno::EINVAL);
    }
    let mut asked = Vec::new();
    asked.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        let PollFd { fd, events, .. } = fds.element(index).read()?;
        let file = process.files().lock().get(fd).ok();
        let fixed = if fd >= 0 && file.is_none() { low(POLLNVAL) } else { 0 };
        asked.push(Asked { file, events: events | low(POLLERR | POLLHUP), fixed });
    }
    let found = wait(&asked, deadline)?;
    for (index, events) in found.iter().enumerate() {
        // Only the third field is written.
        let address = fds.element(index).address().wrapping_add(6);
        UserPtr::<u16>::new(address).write(*events)?;
    }
    Ok(found.iter().filter(|&&events| events != 0).count())
}

/// `poll(2)`.
///
/// # Errors
/// As the man page says.
pub fn poll(fds: UserPtr<PollFd>, count: u32, timeout: i32) -> Result<usize> {
    // A negative number of milliseconds is no limit.
    let deadline = u64::try_from(timeout).ok().map(|ms| match ms {
        0 => 0,
        ms => after(ms * 1_000_000),
    });
    poll_until(fds, count, deadline)
}

/// A `struct timespec` as a deadline; `None` waits without limit.
pub(super) fn deadline_from_timespec(timeout: UserPtr<[i64; 2]>) -> Result<Option<u64>> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let [tv_sec, tv_nsec] = timeout.read()?;
    let ns = Timespec { tv_sec, tv_nsec }.to_ns()?;
    Ok(Some(if ns == 0 { 0 } else { after(ns) }))
}

/// What is left until a deadline, in nanoseconds.
fn left(deadline: u64) -> u64 {
    deadline.saturating_sub(now())
}

/// Tells the program what is left of its timeout, as Linux does; that it cannot be written is ignored.
fn store_left(timeout: UserPtr<[i64; 2]>, deadline: Option<u64>, unit_ns: u64) {
    // A timeout of nothing stays that.
    if let (Some(timeout), Some(deadline @ 1..)) = (timeout.non_null(), deadline) {
        let ns = left(deadline);
        let seconds = i64::try_from(ns / NANOSECONDS).unwrap_or(i64::MAX);
        let rest = i64::try_from(ns % NANOSECONDS / unit_ns).unwrap_or(0);
        let _ = timeout.write([seconds, rest]);
    }
}

/// `ppoll(2)`.
///
/// # Errors
/// As the man page says.
pub fn ppoll(
    fds: UserPtr<PollFd>,
    count: u32,
    timeout: UserPtr<[i64; 2]>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let deadline = deadline_from_timespec(timeout)?;
    let result = with_mask(mask, mask_size, || poll_until(fds, count, deadline));
    store_left(timeout, deadline, 1);
    result
}

/// Runs a wait with another signal mask.
pub(super) fn with_mask<T>(
    mask: UserPtr<u64>,
    size: usize,
    wait: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(mask) = mask.non_null() else { return wait() };
    if size != size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let mask = mask.read()? & !UNBLOCKABLE;
    let process = current();
    let old = core::mem::replace(&mut process.signals.lock().mask, mask);
    crate::process::mask_changed(old);
    if process::deliverable(&process) {
        process.notify();
    }
    let result = wait();
    let mut signals = process.signals.lock();
    if matches!(result, Err(Errno::EINTR)) {
        // The signal is taken under the new mask; its handler returns to the old one.
        signals.saved_mask = Some(old);
    } else {
        signals.mask = old;
    }
    drop(signals);
    crate::process::mask_changed(mask);
    result
}

/// The three sets of a `select`, as bits of descriptors.
struct Sets {
    sets: [UserPtr<u64>; 3],
    /// Descriptors that count.
    count: usize,
}

/// Which events put a descriptor into which set (Linux: `POLLIN_SET`...).
const SELECT_EVENTS: [u16; 3] = [
    // Readable: also at the end and on errors, as a read would not block.
    Events::IN.0 | Events::HANGUP.0 | Events::ERROR.0 | 0x80,
    Events::OUT.0 | Events::ERROR.0 | 0x200,
    // POLLPRI
    0x2,
];

impl Sets {
    fn new(count: i32, sets: [UserPtr<u64>; 3]) -> Result<Self> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        let size = current().files().lock().size();
        Ok(Self { sets, count: count.min(size) })
    }

    /// Words of each set that count.
    const fn words(&self) -> usize {
        self.count.div_ceil(64)
    }

    fn read(&self) -> Result<Vec<(Fd, [bool; 3])>> {
        let mut wanted = Vec::new();
        for word in 0..self.words() {
            let mut bits = [0; 3];
            for (bits, set) in bits.iter_mut().zip(self.sets) {
                if let Some(set) = set.non_null() {
                    *bits = set.element(word).read()?;
                }
            }
            if bits == [0; 3] {
                continue;
            }
            for bit in 0..64.min(self.count - word * 64) {
                let fd = i32::try_from(word * 64 + bit).map_err(|_| Errno::EINVAL)?;
                let chosen = bits.map(|bits| bits >> bit & 1 != 0);
                if chosen.contains(&true) {
                    wanted.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    wanted.push((Fd(fd), chosen));
                }
            }
        }
        Ok(wanted)
    }

    fn write(&self, found: &[(Fd, [bool; 3])]) -> Result<()> {
        for word in 0..self.words() {
            let mut bits = [0u64; 3];
            for (fd, chosen) in found {
                let Ok(fd) = usize::try_from(fd.0) else { continue };
                if fd / 64 == word {
                    for (bits, chosen) in bits.iter_mut().zip(chosen) {
                        *bits |= u64::from(*chosen) << (fd % 64);
                    }
                }
            }
            for (bits, set) in bits.into_iter().zip(self.sets) {
                if let Some(set) = set.non_null() {
                    set.element(word).write(bits)?;
                }
            }
        }
        Ok(())
    }
}

fn select_until(count: i32, sets: [UserPtr<u64>; 3], deadline: Option<u64>) -> Result<usize> {
    let sets = Sets::new(count, sets)?;
    let wanted = sets.read()?;
    let process = current();
    let mut asked = Vec::new();
    asked.try_reserve_exact(wanted.len()).map_err(|_| Errno::ENOMEM)?;
    for (fd, chosen) in &wanted {
        let file = process.files().lock().get(fd.0)?;
        let events = SELECT_EVENTS.iter().zip(chosen).filter(|(_, chosen)| **chosen);
        let events = events.fold(0, |all, (events, _)| all | events);
        asked.push(Asked { file: Some(file), events, fixed: 0 });
    }
    let found = wait(&asked, deadline)?;
    let mut result = Vec::new();
    result.try_reserve_exact(wanted.len()).map_err(|_| Errno::ENOMEM)?;
    let mut total = 0;
    for ((fd, chosen), events) in wanted.into_iter().zip(found) {
        let mut is = [false; 3];
        for (index, is) in is.iter_mut().enumerate() {
            *is = chosen[index] && events & SELECT_EVENTS[index] != 0;
            total += usize::from(*is);
        }
        result.push((fd, is));
    }
    sets.write(&result)?;
    Ok(total)
}

/// `select(2)`.
///
/// # Errors
/// As the man page says.
pub fn select(
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<[i64; 2]>,
) -> Result<usize> {
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => {
            // More than a million microseconds are allowed here, as on Linux.
            let [seconds, microseconds] = timeout.read()?;
            let seconds = seconds.wrapping_add(microseconds / MICROSECONDS);
            let time = Timeval { tv_sec: seconds, tv_usec: microseconds % MICROSECONDS };
            let ns = time.to_timespec()?.to_ns()?;
            Some(if ns == 0 { 0 } else { after(ns) })
        }
    };
    let result = select_until(count, [read, write, except], deadline);
    store_left(timeout, deadline, 1000);
    result
}

/// `pselect(2)`; the last argument points to a mask and its size.
///
/// # Errors
/// As the man page says.
pub fn pselect6(
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<[i64; 2]>,
    mask: UserPtr<[u64; 2]>,
) -> Result<usize> {
    let (mask, size) = match mask.non_null() {
        None => (UserPtr::new(0), 0),
        Some(pair) => {
            let [address, size] = pair.read()?;
            (UserPtr::new(address), crate::memory::usize_from(size))
        }
    };
    let deadline = deadline_from_timespec(timeout)?;
    let result = with_mask(mask, size, || select_until(count, [read, write, except], deadline));
    store_left(timeout, deadline, 1);
    result
}
