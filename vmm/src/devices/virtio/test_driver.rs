//! The driver's side of a device, for tests: it programs the registers and fills rings in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Bytes, GuestAddress};

use super::memory::{DeviceMemory, tests::memory};
use super::mmio::{Transport, register};
use super::{Device, Notify};
use crate::bus::Registers;

/// Counts notifications.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU32>);

impl Notify for Counter {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    /// How often it was notified since this was last asked.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

/// Descriptor flags.
pub const NEXT: u16 = 1;
/// See [`NEXT`].
pub const WRITE: u16 = 2;

/// Number of descriptors that the driver uses.
pub const SIZE: u16 = 8;
const QUEUE_STRIDE: u64 = 0x400;
const AVAILABLE: u64 = 0x100;
const USED: u64 = 0x200;

/// A device and its driver.
pub struct Driver<D> {
    /// The device.
    pub transport: Transport<D, Counter, Counter>,
    /// Memory that both use.
    pub memory: DeviceMemory,
    /// Interrupts.
    pub interrupts: Counter,
    /// Calls for the event loop.
    pub wakes: Counter,
}

impl<D: Device> Driver<D> {
    /// A driver that has done nothing yet.
    pub fn new(device: D) -> Self {
        let memory = memory();
        let (interrupts, wakes) = (Counter::default(), Counter::default());
        let transport = Transport::new(device, memory.clone(), interrupts.clone(), wakes.clone());
        Self { transport, memory, interrupts, wakes }
    }

    /// A driver that has accepted features and enabled these queues.
    pub fn running(device: D, features: u32, queues: &[u16]) -> Self {
        let mut driver = Self::new(device);
        driver.negotiate(u64::from(features) | 1 << VIRTIO_F_VERSION_1);
        queues.iter().for_each(|queue| driver.enable(*queue));
        driver.write(register::STATUS, 0xf);
        driver
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Accepts features; the status says whether the device agrees.
    pub fn negotiate(&mut self, features: u64) {
        self.write(register::STATUS, 1);
        self.write(register::STATUS, 3);
        for (selector, shift) in [(0, 0), (1, 32)] {
            self.write(register::DRIVER_FEATURES_SEL, selector);
            self.write(
                register::DRIVER_FEATURES,
                u32::try_from(features >> shift & 0xffff_ffff).expect("32 bits"),
            );
        }
        self.write(register::STATUS, 0xb);
    }

    /// Where a queue's rings are.
    pub fn rings(queue: u16) -> u64 {
        0x1000 + u64::from(queue) * QUEUE_STRIDE
    }

    /// Programs and enables a queue.
    pub fn enable(&mut self, queue: u16) {
        let rings = Self::rings(queue);
        self.program(queue, SIZE.into(), [rings, rings + AVAILABLE, rings + USED]);
    }

    /// Programs a queue as told, and enables it; says whether it is.
    pub fn program(&mut self, queue: u16, size: u32, addresses: [u64; 3]) -> bool {
        self.write(register::QUEUE_SEL, queue.into());
        self.write(register::QUEUE_NUM, size);
        let registers =
            [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW];
        for (low, address) in registers.into_iter().zip(addresses) {
            self.write(low, u32::try_from(address & 0xffff_ffff).expect("32 bits"));
            self.write(low + 4, u32::try_from(address >> 32).expect("32 bits"));
        }
        self.write(register::QUEUE_READY, 1);
        self.read(register::QUEUE_READY) == 1
    }

    /// Stores something in memory.
    pub fn store<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.ram.write_obj(value, GuestAddress(address)).expect("RAM");
    }

    /// Loads something from memory.
    pub fn load<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.ram.read_obj(GuestAddress(address)).expect("RAM")
    }

    /// Stores bytes in memory.
    pub fn store_bytes(&self, address: u64, bytes: &[u8]) {
        self.memory.ram.write_slice(bytes, GuestAddress(address)).expect("RAM");
    }

    /// Loads bytes from memory.
    pub fn load_bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.ram.read_slice(&mut bytes, GuestAddress(address)).expect("RAM");
        bytes
    }

    /// Makes descriptors available as one chain that begins with the first, without a notification.
    pub fn post(&self, queue: u16, first: u16, descriptors: &[Descriptor]) {
        let rings = Self::rings(queue);
        for (index, (address, length, flags, next)) in (u64::from(first)..).zip(descriptors) {
            let at = rings + 16 * index;
            self.store(at, *address);
            self.store(at + 8, *length);
            self.store(at + 12, *flags);
            self.store(at + 14, *next);
        }
        let index: u16 = self.load(rings + AVAILABLE + 2);
        self.store(rings + AVAILABLE + 4 + 2 * u64::from(index % SIZE), first);
        self.store(rings + AVAILABLE + 2, index.wrapping_add(1));
    }

    /// Notifies the device.
    pub fn notify(&mut self, queue: u16) {
        self.write(register::QUEUE_NOTIFY, queue.into());
    }

    /// Buffers that the device has used, ever: the head and length of the last, and their number.
    pub fn used(&self, queue: u16) -> (u16, Option<(u32, u32)>) {
        let rings = Self::rings(queue);
        let count: u16 = self.load(rings + USED + 2);
        let last = count.checked_sub(1).map(|index| {
            let at = rings + USED + 4 + 8 * u64::from(index % SIZE);
            (self.load(at), self.load(at + 4))
        });
        (count, last)
    }

    /// Asks for no interrupts from a queue.
    pub fn suppress(&self, queue: u16) {
        self.store(Self::rings(queue) + AVAILABLE, 1_u16);
    }
}
