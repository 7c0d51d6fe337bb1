//! Virtqueues as devices use them: chains out, used buffers in, every claim of the guest bounded.

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::memory::{DeviceMemory, Segment};

/// A chain with more segments than this is refused; Linux's drivers stay far below.
const MAX_SEGMENTS: usize = 256;

/// A queue that its driver has broken; the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The rings are not, or no longer, usable.
    #[error("the rings of a virtqueue are unusable: {0}")]
    Rings(virtio_queue::Error),
    /// A chain with too many segments.
    #[error("a descriptor chain has more than {MAX_SEGMENTS} segments")]
    TooLong,
}

/// A buffer that the driver made available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Index of its first descriptor, which names it when it is used.
    pub head: u16,
    /// What the device reads.
    pub readable: Vec<Segment>,
    /// What the device writes.
    pub writable: Vec<Segment>,
}

/// What the driver programs through the transport before it enables a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Number of descriptors.
    pub size: u32,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
}

/// A virtqueue.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    /// Whether the driver has to hear of buffers used since this was last asked.
    used_any: bool,
}

impl VirtQueue {
    /// A queue that is not enabled, of at most `max_size` descriptors, a power of two.
    pub fn new(max_size: u16) -> Self {
        Self {
            queue: Queue::new(max_size).expect("device queue sizes are powers of two"),
            used_any: false,
        }
    }

    /// Largest size.
    pub fn max_size(&self) -> u16 {
        self.queue.max_size()
    }

    /// Whether the driver has enabled the queue.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// Enables the queue if what the driver programmed is sound; says whether it was.
    pub fn enable(&mut self, registers: QueueRegisters, memory: &DeviceMemory) -> bool {
        let Ok(size) = u16::try_from(registers.size) else { return false };
        let count = usize::from(size);
        let ram = memory.ram.as_ref();
        // Sizes and alignments: virtio 1.2, section 2.7.
        let inside = ram.check_range(
            GuestAddress(registers.descriptors),
            16 * count,
            Permissions::ReadWrite,
        ) && ram.check_range(
            GuestAddress(registers.available),
            6 + 2 * count,
            Permissions::ReadWrite,
        ) && ram.check_range(
            GuestAddress(registers.used),
            6 + 8 * count,
            Permissions::ReadWrite,
        );
        let sound = inside
            // The library takes an available ring at address 0 for an unset one.
            && registers.available != 0
            && self.queue.try_set_size(size).is_ok()
            && self.queue.try_set_desc_table_address(GuestAddress(registers.descriptors)).is_ok()
            && self.queue.try_set_avail_ring_address(GuestAddress(registers.available)).is_ok()
            && self.queue.try_set_used_ring_address(GuestAddress(registers.used)).is_ok();
        self.queue.set_ready(sound);
        sound
    }

    /// Back to the state of a new queue.
    pub fn reset(&mut self) {
        self.queue.reset();
        self.used_any = false;
    }

    /// Takes the next available buffer.
    fn pop(&mut self, memory: &DeviceMemory) -> Result<Option<Chain>, QueueError> {
        let ram = memory.ram.as_ref();
        let mut available = self.queue.iter(ram).map_err(QueueError::Rings)?;
        let Some(descriptors) = available.next() else { return Ok(None) };
        let mut chain =
            Chain { head: descriptors.head_index(), readable: Vec::new(), writable: Vec::new() };
        for (count, descriptor) in descriptors.enumerate() {
            if count == MAX_SEGMENTS {
                return Err(QueueError::TooLong);
            }
            let segment = Segment { address: descriptor.addr().0, length: descriptor.len() };
            if descriptor.is_write_only() { &mut chain.writable } else { &mut chain.readable }
                .push(segment);
        }
        Ok(Some(chain))
    }

    /// Returns a buffer to the driver, with `length` bytes written to it.
    fn push(&mut self, memory: &DeviceMemory, head: u16, length: u32) -> Result<(), QueueError> {
        self.queue.add_used(memory.ram.as_ref(), head, length).map_err(QueueError::Rings)?;
        self.used_any = true;
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was used since the last call.
    pub fn take_interrupt(&mut self, memory: &DeviceMemory) -> bool {
        if !std::mem::take(&mut self.used_any) {
            return false;
        }
        // virtio 1.2, section 2.7.7: the flag is only a hint, but one that saves a wake-up. The fence
        // is that of the library's own check, which does not know the flag.
        let needed = self.queue.needs_notification(memory.ram.as_ref()).unwrap_or(true);
        let flags: u16 = memory.ram.read_obj(GuestAddress(self.queue.avail_ring())).unwrap_or(0);
        needed && u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
    }
}

/// All queues of a device, with the memory that they live in.
pub struct Queues<'a> {
    queues: &'a mut [VirtQueue],
    /// Guest memory.
    pub memory: &'a DeviceMemory,
}

impl<'a> Queues<'a> {
    /// Queues as a transport holds them.
    pub const fn new(queues: &'a mut [VirtQueue], memory: &'a DeviceMemory) -> Self {
        Self { queues, memory }
    }

    /// Takes the next buffer of a queue, if it is enabled and has one.
    ///
    /// # Errors
    ///
    /// When the driver broke the queue.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain>, QueueError> {
        match self.queues.get_mut(queue) {
            Some(queue) if queue.ready() => queue.pop(self.memory),
            _ => Ok(None),
        }
    }

    /// Returns a buffer to the driver, with `length` bytes written from its start on.
    ///
    /// # Errors
    ///
    /// When the driver broke the queue.
    pub fn push(&mut self, queue: usize, head: u16, length: u32) -> Result<(), QueueError> {
        match self.queues.get_mut(queue) {
            Some(queue) if queue.ready() => queue.push(self.memory, head, length),
            // Disabled since: the driver no longer looks.
            _ => Ok(()),
        }
    }
}
