//! virtio-rng (virtio 1.2, section 5.4): random bytes from the host.

use std::os::fd::RawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vmm_sys_util::epoll::EventSet;

use super::queue::{QueueError, Queues};
use super::{Device, Progress};
use crate::entropy;

const QUEUE: usize = 0;
/// More than this is not given for one buffer; a driver that wants more asks again.
const MAX_BYTES: usize = 4096;
/// How many buffers are filled before others get their turn.
const TURN: usize = 16;

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

impl Device for Rng {
    const TYPE: u32 = VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[16];
    // Rare, and so the vCPU threads' seccomp filter need not know getrandom.
    const SERVED_BY_VCPU: bool = false;

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
            let filled = entropy::fill(&mut bytes[..wanted]).unwrap_or(0);
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
