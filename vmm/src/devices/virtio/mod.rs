//! virtio devices (virtio 1.2) and the MMIO transport that they share.

pub mod balloon;
pub mod console;
pub mod memory;
pub mod mmio;
pub mod ninep;
pub mod queue;
pub mod rng;
#[cfg(test)]
pub mod test_driver;

use std::os::fd::RawFd;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use queue::{QueueError, Queues};

/// Something that can be told to look: the guest, by an interrupt, or the event loop.
pub trait Notify: Send {
    /// Tells it. Telling it twice before it looks is as good as once.
    fn notify(&self);
}

impl Notify for EventFd {
    fn notify(&self) {
        // A counter so high that the write is refused has long been noticed.
        let _ = self.write(1);
    }
}

/// Whether a device has done all it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// There is nothing left to do, or it waits for the host.
    Done,
    /// A turn's share was done and there is more.
    More,
}

/// A virtio device behind a transport.
pub trait Device: Send {
    /// Device type (virtio 1.2, section 5).
    const TYPE: u32;
    /// Largest size of each queue.
    const QUEUE_SIZES: &'static [u16];
    /// Whether a vCPU that notifies the device serves it, or leaves that to the event loop.
    const SERVED_BY_VCPU: bool;

    /// Feature bits that the device offers, without those of the transport.
    fn features(&self) -> u64;

    /// The driver accepted these of the features and drives the device from now on.
    fn accept(&mut self, features: u64);

    /// Forgets the driver and everything that it asked for.
    fn reset(&mut self);

    /// The driver reads configuration; what the device does not fill reads as zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Does what can be done for a queue without waiting, at most a turn's share.
    ///
    /// # Errors
    ///
    /// When the queue is broken beyond what a result to the driver could tell.
    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<Progress, QueueError>;

    /// Host files that the device waits for, with what it waits for.
    fn interests(&self) -> Vec<(RawFd, EventSet)>;

    /// A host file has what the device waits for; returns the queue to process.
    fn ready(&mut self, file: RawFd) -> Option<usize>;

    /// The host cannot wait for this file: the device has to use it without waiting.
    fn cannot_wait(&mut self, file: RawFd);
}
