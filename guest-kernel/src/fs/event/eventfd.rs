//! A counter to wait for (`eventfd(2)`).

use super::{metadata, write_count};
use crate::errno::{Errno, Result};
use crate::fs::metadata::Metadata;
use crate::fs::stream::{Events, Seek, Stream};
use crate::memory::{UserReader, UserWriter};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The highest value that a write can make; only the kernel itself counts to the one above, which is an
/// error to `poll`.
const MAX: u64 = u64::MAX - 1;

/// An eventfd.
pub struct EventCounter {
    count: SpinLock<u64>,
    /// Whether a read takes one instead of all.
    semaphore: bool,
    queue: WaitQueue,
}

impl EventCounter {
    /// A counter with this value.
    pub fn new(count: u32, semaphore: bool) -> Arc<Self> {
        let count = SpinLock::new(count.into());
        Arc::new(Self { count, semaphore, queue: WaitQueue::new() })
    }

    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.semaphore { (*count).min(1) } else { *count };
        *count -= taken;
        (taken > 0).then_some(taken)
    }

    fn add(&self, value: u64) -> Option<()> {
        let mut count = self.count.lock();
        *count = count.checked_add(value).filter(|&sum| sum <= MAX)?;
        Some(())
    }

    fn write_value(&self, value: u64, wait: bool) -> Result<()> {
        if value > MAX {
            return Err(Errno::EINVAL);
        }
        if self.add(value).is_none() {
            if !wait {
                return Err(Errno::EAGAIN);
            }
            self.queue.wait_until(|| self.add(value))?;
        }
        self.queue.wake(Events::IN);
        Ok(())
    }
}

impl Stream for EventCounter {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let taken = match self.take() {
            Some(taken) => taken,
            None if wait => self.queue.wait_until(|| self.take())?,
            None => return Err(Errno::EAGAIN),
        };
        self.queue.wake(Events::OUT);
        write_count(buffer, taken)
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        let mut bytes = [0; size_of::<u64>()];
        if data.remaining() < bytes.len() {
            return Err(Errno::EINVAL);
        }
        if data.read(&mut bytes)? < bytes.len() {
            return Err(Errno::EFAULT);
        }
        self.write_value(u64::from_ne_bytes(bytes), wait)?;
        Ok(bytes.len())
    }

    fn write_kernel(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        let value = bytes.first_chunk().ok_or(Errno::EINVAL)?;
        self.write_value(u64::from_ne_bytes(*value), wait)?;
        Ok(value.len())
    }

    fn poll(&self) -> Events {
        let count = *self.count.lock();
        Events::IN.when(count > 0).with(Events::OUT.when(count < MAX))
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:[eventfd]")
    }

    fn details(&self) -> Vec<u8> {
        alloc::format!("eventfd-count: {:16x}", *self.count.lock()).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semaphore_is_taken_one_by_one_and_a_counter_at_once() {
        let semaphore = EventCounter::new(3, true);
        assert_eq!([semaphore.take(), semaphore.take()], [Some(1); 2]);
        assert_eq!(semaphore.write_value(1, false), Ok(()));
        assert_eq!(
            [semaphore.take(), semaphore.take(), semaphore.take()],
            [Some(1), Some(1), None]
        );
        let counter = EventCounter::new(3, false);
        assert_eq!(counter.write_value(4, false), Ok(()));
        assert_eq!([counter.take(), counter.take()], [Some(7), None]);
    }

    #[test]
    fn a_counter_does_not_overflow() {
        let counter = EventCounter::new(1, false);
        assert_eq!(counter.write_value(u64::MAX, false), Err(Errno::EINVAL));
        assert_eq!(counter.write_value(MAX, false), Err(Errno::EAGAIN));
        assert_eq!(counter.write_value(MAX - 1, false), Ok(()));
        assert_eq!(counter.poll(), Events::IN);
        assert_eq!(counter.write_value(0, false), Ok(()));
        assert_eq!(counter.write_value(1, false), Err(Errno::EAGAIN));
        assert_eq!(counter.take(), Some(MAX));
        assert_eq!(counter.poll(), Events::OUT);
    }

    #[test]
    fn writers_and_readers_wait_for_each_other() {
        let counter = EventCounter::new(0, false);
        let (rounds, step) = (200, MAX / 2 + 1);
        std::thread::scope(|scope| {
            let writer = counter.clone();
            scope.spawn(move || {
                for _ in 0..rounds {
                    // Two of them do not fit.
                    writer.write_value(step, true).unwrap();
                }
            });
            for _ in 0..rounds {
                assert_eq!(counter.queue.wait_until(|| counter.take()), Ok(step));
            }
        });
        assert_eq!(counter.take(), None);
    }
}
