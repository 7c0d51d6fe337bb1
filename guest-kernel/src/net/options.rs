//! Options that sockets of every family have (`socket(7)`).

use super::Identity;
use crate::errno::{Errno, Result};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::net::{
    SO_ACCEPTCONN, SO_BROADCAST, SO_DEBUG, SO_DOMAIN, SO_DONTROUTE, SO_ERROR, SO_KEEPALIVE,
    SO_LINGER, SO_OOBINLINE, SO_PASSCRED, SO_PEEK_OFF, SO_PRIORITY, SO_PROTOCOL, SO_RCVBUF,
    SO_RCVBUFFORCE, SO_RCVLOWAT, SO_RCVTIMEO, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF,
    SO_SNDBUFFORCE, SO_SNDLOWAT, SO_SNDTIMEO, SO_TIMESTAMP, SO_TYPE,
};

/// Buffers that a new socket has, as it tells them (`/proc/sys/net/core/wmem_default`).
pub const DEFAULT_BUFFER: u32 = 212_992;
/// What can be asked for without privileges (`/proc/sys/net/core/wmem_max`).
pub const MAX_BUFFER: u32 = 212_992;
/// Linux: `SOCK_MIN_SNDBUF`.
const MIN_SEND_BUFFER: u32 = 4608;
/// Linux: `SOCK_MIN_RCVBUF`.
const MIN_RECEIVE_BUFFER: u32 = 2304;

const NANOSECONDS: u64 = 1_000_000_000;

/// What `getsockopt` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An `int`.
    Int(i32),
    /// Two of them.
    Pair([i32; 2]),
    /// A `struct timeval`.
    Time([i64; 2]),
    /// A `struct ucred`.
    Identity(Identity),
}

/// Facts about a socket that options tell and that are not kept here.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// `AF_*`.
    pub domain: i32,
    /// `SOCK_*`.
    pub kind: i32,
    /// `IPPROTO_*`.
    pub protocol: i32,
    /// Whether it listens.
    pub listens: bool,
}

/// Options that are switched on and off: a bit for each.
const SWITCHES: [u32; 9] = [
    SO_DEBUG,
    SO_REUSEADDR,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_REUSEPORT,
    SO_PASSCRED,
    SO_TIMESTAMP,
];

/// The options of one socket.
pub struct Options {
    /// Which of [`SWITCHES`] are on.
    switches: AtomicU32,
    send_buffer: AtomicU32,
    receive_buffer: AtomicU32,
    receive_low: AtomicU32,
    priority: AtomicU32,
    /// Where a look begins; negative for at the start, always.
    peek_offset: AtomicI32,
    /// Seconds + 1; 0 for off.
    linger: AtomicU64,
    /// Nanoseconds that a call waits at most; 0 for without limit.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The options of a new socket.
    pub const fn new() -> Self {
        Self {
            switches: AtomicU32::new(0),
            send_buffer: AtomicU32::new(DEFAULT_BUFFER),
            receive_buffer: AtomicU32::new(DEFAULT_BUFFER),
            receive_low: AtomicU32::new(1),
            priority: AtomicU32::new(0),
            peek_offset: AtomicI32::new(-1),
            linger: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
        }
    }

    /// `SO_SNDBUF`.
    pub fn send_buffer(&self) -> usize {
        usize::try_from(self.send_buffer.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// `SO_RCVLOWAT`.
    pub fn receive_low(&self) -> usize {
        usize::try_from(self.receive_low.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Where a look (`MSG_PEEK`) begins, after that many bytes (`SO_PEEK_OFF`).
    pub fn peek_offset(&self) -> usize {
        usize::try_from(self.peek_offset.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// A look went on by so many bytes.
    pub fn move_peek_offset(&self, count: usize) {
        self.change_peek_offset(|offset| {
            offset.saturating_add(i32::try_from(count).unwrap_or(i32::MAX))
        });
    }

    /// So many bytes were taken from the start.
    pub fn shift_peek_offset(&self, count: usize) {
        self.change_peek_offset(|offset| {
            offset.saturating_sub(i32::try_from(count).unwrap_or(i32::MAX)).max(0)
        });
    }

    fn change_peek_offset(&self, change: impl Fn(i32) -> i32) {
        let change = |offset: i32| (offset >= 0).then(|| change(offset));
        let _ = self.peek_offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// `SO_RCVTIMEO` in nanoseconds, if there is one.
    pub fn receive_timeout(&self) -> Option<u64> {
        Some(self.receive_timeout.load(Ordering::Relaxed)).filter(|&ns| ns > 0)
    }

    /// `SO_SNDTIMEO` in nanoseconds, if there is one.
    pub fn send_timeout(&self) -> Option<u64> {
        Some(self.send_timeout.load(Ordering::Relaxed)).filter(|&ns| ns > 0)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: u32) -> bool {
        let bit = SWITCHES.iter().position(|&switch| switch == name);
        bit.is_some_and(|bit| self.switches.load(Ordering::Relaxed) >> bit & 1 != 0)
    }

    /// Takes over what an accepted connection has of its listener: whether it wants credentials.
    pub fn inherit(&self, listener: &Self) {
        if listener.is_on(SO_PASSCRED) {
            self.switch(SO_PASSCRED, true);
        }
    }

    fn switch(&self, name: u32, on: bool) {
        let Some(bit) = SWITCHES.iter().position(|&switch| switch == name) else { return };
        if on {
            self.switches.fetch_or(1 << bit, Ordering::Relaxed);
        } else {
            self.switches.fetch_and(!(1 << bit), Ordering::Relaxed);
        }
    }

    /// What `getsockopt` answers; `error` takes the pending error.
    ///
    /// # Errors
    /// ENOPROTOOPT.
    pub fn get(
        &self,
        name: u32,
        facts: Facts,
        error: impl FnOnce() -> Option<Errno>,
    ) -> Result<Value> {
        if SWITCHES.contains(&name) {
            return Ok(Value::Int(self.is_on(name).into()));
        }
        let number = |value: &AtomicU32| i32::try_from(value.load(Ordering::Relaxed)).unwrap_or(0);
        Ok(Value::Int(match name {
            SO_TYPE => facts.kind,
            SO_DOMAIN => facts.domain,
            SO_PROTOCOL => facts.protocol,
            SO_ACCEPTCONN => facts.listens.into(),
            SO_ERROR => error().map_or(0, |error| error.number().into()),
            SO_SNDBUF => number(&self.send_buffer),
            SO_RCVBUF => number(&self.receive_buffer),
            SO_RCVLOWAT => number(&self.receive_low),
            SO_SNDLOWAT => 1,
            SO_PRIORITY => number(&self.priority),
            SO_PEEK_OFF => self.peek_offset.load(Ordering::Relaxed),
            SO_LINGER => {
                let linger = self.linger.load(Ordering::Relaxed);
                let seconds = i32::try_from(linger.saturating_sub(1)).unwrap_or(i32::MAX);
                return Ok(Value::Pair([i32::from(linger > 0), seconds]));
            }
            SO_RCVTIMEO => return Ok(Value::Time(time(&self.receive_timeout))),
            SO_SNDTIMEO => return Ok(Value::Time(time(&self.send_timeout))),
            _ => return Err(Errno::ENOPROTOOPT),
        }))
    }

    /// What `setsockopt` does.
    ///
    /// # Errors
    /// ENOPROTOOPT, EINVAL if the value is too short, EDOM, EPERM.
    pub fn set(&self, name: u32, value: &[u8], privileged: bool) -> Result<()> {
        let number = i32::from_le_bytes(*value.first_chunk().ok_or(Errno::EINVAL)?);
        match name {
            // Debugging is for the privileged, and nobody here would look at it.
            SO_DEBUG if number != 0 && !privileged => return Err(Errno::EACCES),
            _ if SWITCHES.contains(&name) => self.switch(name, number != 0),
            SO_SNDBUF | SO_SNDBUFFORCE => {
                if name == SO_SNDBUFFORCE && !privileged {
                    return Err(Errno::EPERM);
                }
                self.send_buffer.store(doubled(number, MIN_SEND_BUFFER), Ordering::Relaxed);
            }
            SO_RCVBUF | SO_RCVBUFFORCE => {
                if name == SO_RCVBUFFORCE && !privileged {
                    return Err(Errno::EPERM);
                }
                self.receive_buffer.store(doubled(number, MIN_RECEIVE_BUFFER), Ordering::Relaxed);
            }
            SO_RCVLOWAT => {
                let low = u32::try_from(number).unwrap_or(i32::MAX.cast_unsigned());
                self.receive_low.store(low.max(1), Ordering::Relaxed);
            }
            SO_PRIORITY => {
                if !(0..=6).contains(&number) && !privileged {
                    return Err(Errno::EPERM);
                }
                self.priority.store(number.cast_unsigned(), Ordering::Relaxed);
            }
            SO_PEEK_OFF => self.peek_offset.store(number, Ordering::Relaxed),
            SO_LINGER => {
                let seconds = value.get(4..8).and_then(|bytes| bytes.first_chunk());
                let seconds = u32::from_le_bytes(*seconds.ok_or(Errno::EINVAL)?);
                let linger = if number == 0 { 0 } else { u64::from(seconds) + 1 };
                self.linger.store(linger, Ordering::Relaxed);
            }
            SO_RCVTIMEO => self.receive_timeout.store(timeout(value)?, Ordering::Relaxed),
            SO_SNDTIMEO => self.send_timeout.store(timeout(value)?, Ordering::Relaxed),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

/// Linux doubles what is asked for, as its own structures take space, too. Here even a privileged
/// program gets no more than the limit.
fn doubled(wanted: i32, least: u32) -> u32 {
    // A negative number is a large one.
    (wanted.cast_unsigned().min(MAX_BUFFER) * 2).max(least)
}

fn time(timeout: &AtomicU64) -> [i64; 2] {
    let ns = timeout.load(Ordering::Relaxed);
    let seconds = i64::try_from(ns / NANOSECONDS).unwrap_or(i64::MAX);
    [seconds, i64::try_from(ns % NANOSECONDS / 1000).unwrap_or(0)]
}

/// A `struct timeval` in nanoseconds; 0 waits without limit.
fn timeout(value: &[u8]) -> Result<u64> {
    let word = |at: usize| -> Result<i64> {
        let bytes = value.get(at..).and_then(|bytes| bytes.first_chunk());
        Ok(i64::from_le_bytes(*bytes.ok_or(Errno::EINVAL)?))
    };
    let (seconds, microseconds) = (word(0)?, word(8)?);
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EDOM);
    }
    // As on Linux, a time in the past does not wait at all: one nanosecond is as good as none.
    let Ok(seconds) = u64::try_from(seconds) else { return Ok(1) };
    let microseconds = u64::try_from(microseconds).map_err(|_| Errno::EDOM)?;
    Ok(seconds.saturating_mul(NANOSECONDS).saturating_add(microseconds * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_doubled_within_limits() {
        let options = Options::new();
        for (wanted, told) in [(10_000, 20_000), (1, 4608), (-1, 425_984), (i32::MAX, 425_984)] {
            assert_eq!(options.set(SO_SNDBUF, &wanted.to_le_bytes(), false), Ok(()));
            assert_eq!(options.send_buffer(), told);
        }
        assert_eq!(options.set(SO_SNDBUFFORCE, &[0; 4], false), Err(Errno::EPERM));
        assert_eq!(options.set(SO_SNDBUF, &[0; 3], false), Err(Errno::EINVAL));
    }

    #[test]
    fn a_timeout_is_a_timeval() {
        let value = |seconds: i64, microseconds: i64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&seconds.to_le_bytes());
            bytes[8..].copy_from_slice(&microseconds.to_le_bytes());
            bytes
        };
        assert_eq!(timeout(&value(1, 500_000)), Ok(1_500_000_000));
        assert_eq!(timeout(&value(0, 0)), Ok(0));
        assert_eq!(timeout(&value(-1, 0)), Ok(1));
        assert_eq!(timeout(&value(0, 1_000_000)), Err(Errno::EDOM));
        assert_eq!(timeout(&value(1, 1)[..15]), Err(Errno::EINVAL));
    }
}
