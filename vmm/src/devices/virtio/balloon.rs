//! virtio-balloon (virtio 1.2, section 5.5): memory that the guest does not use goes back to the host.
//!
//! The guest is never asked to give memory up; it reports what is free, as it likes
//! (`VIRTIO_BALLOON_F_REPORTING`), and takes it back by using it.

use std::os::fd::RawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vmm_sys_util::epoll::EventSet;

use super::queue::{QueueError, Queues};
use super::{Device, Progress};

/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u32 = 5;
/// inflateq: le32 numbers of pages that the driver gives up.
const INFLATE: usize = 0;
/// reporting_vq: buffers that are the free memory. Drivers count only the queues whose features are agreed on.
const REPORTING: usize = 2;
/// Most bytes of page numbers in one buffer.
const MAX_NUMBERS: usize = 4096;
/// How many buffers are served before others get their turn.
const TURN: usize = 4;

/// The device.
#[derive(Debug, Default)]
pub struct Balloon;

impl Device for Balloon {
    const TYPE: u32 = VIRTIO_ID_BALLOON;
    const QUEUE_SIZES: &'static [u16] = &[64, 64, 64];
    // The host does it at once, and a driver that waits needs no interrupt.
    const SERVED_BY_VCPU: bool = true;

    fn features(&self) -> u64 {
        1 << F_REPORTING
    }

    fn accept(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    // `num_pages`, that the guest shall give up, is 0. What it writes to `actual` nobody needs.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<Progress, QueueError> {
        for _ in 0..TURN {
            let Some(chain) = queues.pop(queue)? else { return Ok(Progress::Done) };
            // What is not RAM is no loss: the driver's claim is wrong, or the host keeps the memory.
            match queue {
                REPORTING => drop(queues.memory.discard(&chain.writable)),
                INFLATE => {
                    let numbers = queues.memory.copy(&chain.readable, MAX_NUMBERS);
                    drop(numbers.map(|numbers| queues.memory.discard_pages(&numbers)));
                }
                _ => {}
            }
            queues.push(queue, chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    fn interests(&self) -> Vec<(RawFd, EventSet)> {
        Vec::new()
    }

    fn ready(&mut self, _file: RawFd) -> Option<usize> {
        None
    }

    fn cannot_wait(&mut self, _file: RawFd) {}
}

#[cfg(test)]
mod tests {
    use super::super::test_driver::{Driver, NEXT, WRITE};
    use super::*;

    #[test]
    fn reported_memory_is_empty_and_what_is_not_whole_pages_stays() {
        let mut driver = Driver::running(Balloon, 1 << F_REPORTING, &[0, 1, 2]);
        for page in 0x4..0xa_u64 {
            driver.store(page * 0x1000 + 8, 0x5a5a_u64);
        }
        // A page; one page and two parts; what does not exist; nothing.
        driver.post(2, 0, &[(0x4000, 0x1000, WRITE | NEXT, 1), (0x5800, 0x2000, WRITE, 0)]);
        driver.post(2, 2, &[(0x9_0000, 0x1000, WRITE, 0)]);
        driver.post(2, 3, &[(0x9000, 0x1000, 0, 0)]);
        driver.notify(2);
        assert_eq!(driver.used(2).0, 3);
        let left: Vec<u64> = (0x4..0xa_u64).map(|page| driver.load(page * 0x1000 + 8)).collect();
        assert_eq!(left, [0, 0x5a5a, 0, 0x5a5a, 0x5a5a, 0x5a5a]);
    }

    #[test]
    fn inflating_gives_pages_by_number_and_deflating_needs_nothing() {
        let mut driver = Driver::running(Balloon, 0, &[0, 1]);
        for page in 0x8..0xb_u64 {
            driver.store(page * 0x1000, 7_u64);
        }
        driver.store(0x4000, [8_u32, u32::MAX, 10].map(u32::to_le));
        driver.post(0, 0, &[(0x4000, 12, 0, 0)]);
        driver.notify(0);
        driver.post(1, 0, &[(0x4000, 12, 0, 0)]);
        driver.notify(1);
        assert_eq!((driver.used(0).0, driver.used(1).0), (1, 1));
        let left: Vec<u64> = (0x8..0xb_u64).map(|page| driver.load(page * 0x1000)).collect();
        assert_eq!(left, [0, 7, 0]);
    }
}
