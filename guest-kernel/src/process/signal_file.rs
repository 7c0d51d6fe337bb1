//! Signals that are read from a descriptor (`signalfd(2)`).
//!
//! What there is to read depends on who reads: the signals that wait for the calling thread and its
//! process. So all these files share one queue to wait in, and whoever waits looks for itself.

use super::{current, pending, take_of};
use crate::errno::{Errno, Result};
use crate::fs::metadata::Metadata;
use crate::fs::stream::{Events, Seek, Stream};
use crate::memory::UserWriter;
use crate::process::timers::SI_TIMER;
use crate::sched::WaitQueue;
use crate::signal::{Information, SI_KERNEL, UNBLOCKABLE, number};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of `struct signalfd_siginfo`.
const RECORD: usize = 128;

static QUEUE: WaitQueue = WaitQueue::new();
static FILES: AtomicUsize = AtomicUsize::new(0);

/// A signal was sent to someone.
pub(super) fn notify() {
    if FILES.load(Ordering::Relaxed) > 0 {
        QUEUE.wake_all();
    }
}

/// A signalfd: the set of signals that it is for.
pub struct SignalFile(AtomicU64);

impl SignalFile {
    /// For the signals of a set; those that cannot be blocked do not count.
    pub fn new(set: u64) -> Arc<Self> {
        FILES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(AtomicU64::new(set & !UNBLOCKABLE)))
    }

    /// Changes the set.
    pub fn set(&self, set: u64) {
        self.0.store(set & !UNBLOCKABLE, Ordering::Relaxed);
        QUEUE.wake_all();
    }

    fn take(&self) -> Option<Information> {
        take_of(&current(), self.0.load(Ordering::Relaxed))
    }
}

impl Drop for SignalFile {
    fn drop(&mut self) {
        FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A signal as `struct signalfd_siginfo` tells of it.
fn record(information: &Information) -> [u8; RECORD] {
    let Information { signal, code, detail } = *information;
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &u32::from(signal).to_le_bytes());
    put(8, &code.to_le_bytes());
    let [first, second, third, fourth] = detail.map(u64::to_le_bytes);
    let (low, high) = first.split_at(4);
    let is_fault = matches!(
        signal,
        number::SIGILL | number::SIGTRAP | number::SIGBUS | number::SIGFPE | number::SIGSEGV
    );
    match code {
        SI_TIMER => {
            put(24, low); // ssi_tid
            put(32, high); // ssi_overrun
            put(44, &second[..4]); // ssi_int
            put(48, &second); // ssi_ptr
        }
        1..SI_KERNEL if is_fault => put(72, &first), // ssi_addr
        _ => {
            put(12, low); // ssi_pid
            put(16, high); // ssi_uid
            if code < 0 {
                put(44, &second[..4]);
                put(48, &second);
            } else if signal == number::SIGCHLD && (1..SI_KERNEL).contains(&code) {
                put(40, &second[..4]); // ssi_status
                put(56, &third); // ssi_utime
                put(64, &fourth); // ssi_stime
            }
        }
    }
    bytes
}

impl Stream for SignalFile {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let mut next = Some(match self.take() {
            Some(information) => information,
            None if wait => QUEUE.wait_until(|| self.take())?,
            None => return Err(Errno::EAGAIN),
        });
        let mut done = 0;
        while let Some(information) = next {
            if buffer.write_slice(&record(&information))? < RECORD {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
            done += RECORD;
            next = if buffer.remaining() < RECORD { None } else { self.take() };
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        Events::IN.when(pending(&current()) & self.0.load(Ordering::Relaxed) != 0)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&QUEUE)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        crate::fs::event::metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:[signalfd]")
    }

    fn details(&self) -> Vec<u8> {
        alloc::format!("sigmask:\t{:016x}", self.0.load(Ordering::Relaxed)).into_bytes()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn records_have_what_their_kind_of_signal_tells() {
        let of = |signal, code, detail| record(&Information { signal, code, detail });
        let sent = of(number::SIGUSR1, 0, [7 | 1000 << 32, 5, 0, 0]);
        assert_eq!(
            [word(&sent, 0), word(&sent, 12), word(&sent, 16), word(&sent, 44)],
            [10, 7, 1000, 0]
        );
        let queued = of(40, -1, [7, 0x1_0000_0005, 0, 0]);
        assert_eq!([word(&queued, 8), word(&queued, 44), word(&queued, 52)], [u32::MAX, 5, 1]);
        let timer = of(number::SIGALRM, SI_TIMER, [3 | 9 << 32, 6, 0, 0]);
        assert_eq!([word(&timer, 24), word(&timer, 32), word(&timer, 12)], [3, 9, 0]);
        let child = of(number::SIGCHLD, 1, [7, 42, 11, 12]);
        assert_eq!([word(&child, 40), word(&child, 56), word(&child, 64)], [42, 11, 12]);
        let fault = of(number::SIGSEGV, 1, [0xdead, 0, 0, 0]);
        assert_eq!([word(&fault, 72), word(&fault, 12)], [0xdead, 0]);
    }
}
