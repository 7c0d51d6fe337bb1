//! virtio-rng (virtio 1.2, section 5.4): random bytes from the host.

use std::os::fd::RawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vmm_sys_util::epoll::EventSet;

use super::queue::{QueueError, Queues};
use super::{Device, Progress};

const QUEUE: usize = 0;
/// More than this is not given for one buffer; a driver that wants more asks again.
const MAX_BYTES: usize = 4096;
/// How many buffers are filled before others get their turn.
const TURN: usize = 16;

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

/// Fills a buffer with random bytes; returns how many it got.
fn fill(buffer: &mut [u8]) -> usize {
    // SAFETY: the buffer is writable for its length.
    let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer.as_mut_ptr(), buffer.len(), 0) };
    usize::try_from(filled).unwrap_or(0)
}

impl Device for Rng {
    const TYPE: u32 = VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[16];

    fn features(&self) -> u64 {
        0
    }

    fn accept(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<Progress, QueueError> {
        for _ in 0..TURN {
            let Some(chain) = queues.pop(queue)? else { return Ok(Progress::Done) };
            let wanted = usize::try_from(super::memory::total(&chain.writable))
                .unwrap_or(MAX_BYTES)
                .min(MAX_BYTES);
            let mut bytes = [0; MAX_BYTES];
            let filled = fill(&mut bytes[..wanted]);
            // A buffer outside RAM gets nothing.
            let stored = queues.memory.store(&chain.writable, &bytes[..filled]).unwrap_or(0);
            queues.push(QUEUE, chain.head, stored)?;
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
