//! virtio-balloon (virtio 1.2, section 5.5), for free page reporting alone.

use super::virtio::{Buffer, Queue, Registers};
use crate::memory::PhysAddr;
use crate::sync::SpinLock;

/// Device type (section 5).
const DEVICE_ID: u32 = 5;
/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u32 = 1 << 5;
/// Index of reporting_vq. Like Linux's driver and every device that it works with, this one counts only the
/// queues of features that are agreed on: those for inflating and deflating are always there.
const REPORTING_QUEUE: u32 = 2;

static QUEUE: SpinLock<Option<Queue>> = SpinLock::new(None);

/// Finds and starts the device; false if there is none that takes reports.
pub fn find() -> bool {
    let start = || {
        let registers = Registers::find(DEVICE_ID)?;
        let features = registers.negotiate(F_REPORTING).ok()?;
        if features & F_REPORTING == 0 {
            return None;
        }
        let queue = registers.enable_queue(REPORTING_QUEUE).ok()?;
        registers.start();
        Some(queue)
    };
    let queue = start();
    let found = queue.is_some();
    *QUEUE.lock() = queue;
    found
}

/// Reports memory: guest-physical addresses and bytes, at most 64 of them. No report may be in flight.
/// The content of the memory is gone from then on.
pub fn report(memory: impl ExactSizeIterator<Item = (PhysAddr, usize)>) {
    if let Some(queue) = &mut *QUEUE.lock() {
        let buffers = memory.map(|(address, len)| Buffer { address, len, writable: true });
        queue.submit(buffers, false);
    }
}

/// Whether the device is through with the report in flight. It is asked once for each.
pub fn has_answered() -> bool {
    QUEUE.lock().as_mut().is_some_and(|queue| queue.take_used().is_some())
}
