//! virtio over MMIO (virtio 1.2, sections 2.7 and 4.2): registers and split virtqueues.

use crate::arch::apic;
use crate::boot;
use crate::errno::{Errno, Result};
use crate::memory::frame::{self, Content};
use crate::memory::{PhysAddr, usize_from};
use airlock_abi::boot::flags;
use airlock_abi::console::ring;
use airlock_abi::layout::IRQ_VECTOR_BASE;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// Register offsets (section 4.2.2).
mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub const QUEUE_SELECT: u64 = 0x030;
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub const QUEUE_DRIVER: u64 = 0x090;
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    pub const CONFIG: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// Device status bits (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
}

/// `VIRTIO_F_VERSION_1`, among feature bits 32 to 63.
const VERSION_1: u32 = 1 << 0;

/// The registers of one device.
#[derive(Clone, Copy)]
pub struct Registers {
    base: PhysAddr,
    line: u32,
}

impl Registers {
    /// The first announced device of this kind (section 5).
    pub fn find(id: u32) -> Option<Self> {
        super::announced()
            .map(|device| Self { base: PhysAddr(device.base), line: device.line })
            .find(|device| device.read(register::DEVICE_ID) == id && device.is_virtio())
    }

    fn is_virtio(self) -> bool {
        self.read(register::MAGIC) == MAGIC && self.read(register::VERSION) == 2
    }

    fn pointer(self, offset: u64) -> *mut u32 {
        PhysAddr(self.base.0 + offset).to_pointer().cast()
    }

    fn read(self, offset: u64) -> u32 {
        // SAFETY: a register of a device that the command line announces, in the direct map. Devices
        // return a number and change no memory by being read.
        unsafe { self.pointer(offset).read_volatile() }
    }

    fn write(self, offset: u64, value: u32) {
        // SAFETY: as above. Queue addresses, the only way a device gets at memory, are those of
        // frames that stay allocated to it.
        unsafe { self.pointer(offset).write_volatile(value) };
    }

    /// The interrupt number.
    pub fn line(self) -> u32 {
        self.line
    }

    /// Those at this address, of a device that another has found and started.
    pub const fn of_started(base: PhysAddr, line: u32) -> Self {
        Self { base, line }
    }

    /// A queue that was enabled for us: its index, and its page.
    pub const fn enabled_queue(self, index: u32, memory: PhysAddr) -> Queue {
        Queue { registers: self, index, memory, used: 0 }
    }

    /// Resets the device and agrees on features; `wanted` are device-specific bits below 32.
    ///
    /// # Errors
    /// ENODEV if the device does not agree.
    pub fn negotiate(self, wanted: u32) -> Result<u32> {
        self.write(register::STATUS, 0);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        self.write(register::DEVICE_FEATURES_SELECT, 0);
        let features = self.read(register::DEVICE_FEATURES) & wanted;
        self.write(register::DRIVER_FEATURES_SELECT, 0);
        self.write(register::DRIVER_FEATURES, features);
        self.write(register::DRIVER_FEATURES_SELECT, 1);
        self.write(register::DRIVER_FEATURES, VERSION_1);
        let status = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write(register::STATUS, status);
        if self.read(register::STATUS) & status::FEATURES_OK == 0 {
            return Err(Errno::ENODEV);
        }
        if !boot::has_flag(flags::MSI) {
            let vector = u8::try_from(IRQ_VECTOR_BASE + self.line).map_err(|_| Errno::ENODEV)?;
            apic::route_line(self.line, vector);
        }
        Ok(features)
    }

    /// The driver is ready: the device may work.
    pub fn start(self) {
        let status = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.write(register::STATUS, status);
    }

    /// Makes a queue for the device.
    ///
    /// # Errors
    /// ENODEV if it has no such queue, ENOMEM.
    pub fn enable_queue(self, index: u32) -> Result<Queue> {
        self.write(register::QUEUE_SELECT, index);
        let size = self.read(register::QUEUE_SIZE_MAX).min(u32::from(Queue::SIZE));
        if size < u32::from(Queue::SIZE) {
            return Err(Errno::ENODEV);
        }
        let memory = frame::allocate_block(0, Content::Zeroes).ok_or(Errno::ENOMEM)?;
        self.write(register::QUEUE_SIZE, size);
        for (offset, part) in [
            (register::QUEUE_DESCRIPTORS, 0),
            (register::QUEUE_DRIVER, Queue::AVAILABLE),
            (register::QUEUE_DEVICE, Queue::USED),
        ] {
            let address = memory.0 + part as u64;
            let [low, high] = crate::arch::instruction::halves(address);
            self.write(offset, low);
            if high != 0 {
                // Reset left it 0.
                self.write(offset + 4, high);
            }
        }
        self.write(register::QUEUE_READY, 1);
        Ok(Queue { registers: self, index, memory, used: 0 })
    }

    /// Why the device interrupted (section 4.2.2: bit 0 a used buffer, bit 1 the configuration).
    pub fn acknowledge_interrupt(self) -> u32 {
        let status = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, status);
        status
    }

    /// A byte of the device's configuration.
    pub fn config_u8(self, offset: u64) -> u8 {
        // SAFETY: as for `read`; the configuration allows accesses of its fields' widths.
        unsafe { self.pointer(register::CONFIG + offset).cast::<u8>().read_volatile() }
    }

    /// A 16-bit number of the device's configuration.
    pub fn config_u16(self, offset: u64) -> u16 {
        // SAFETY: as for `read`; the configuration allows accesses of its fields' widths.
        unsafe { self.pointer(register::CONFIG + offset).cast::<u16>().read_volatile() }
    }
}

/// A piece of memory for the device.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: PhysAddr,
    /// Bytes.
    pub len: usize,
    /// Whether the device writes to it.
    pub writable: bool,
}

/// A split virtqueue (section 2.7) in one frame, with one chain in flight at a time.
pub struct Queue {
    registers: Registers,
    index: u32,
    memory: PhysAddr,
    /// Used entries seen.
    used: u16,
}

impl Queue {
    /// Descriptors.
    pub const SIZE: u16 = ring::SIZE;
    const AVAILABLE: usize = usize_from(ring::AVAILABLE);
    const USED: usize = usize_from(ring::USED);
    /// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
    const NO_INTERRUPT: u32 = 1;
    /// Bytes of the frame that the queue does not need: for a result, or small data.
    const SPARE: usize = 3072;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;

    /// Guest-physical address of 1 KiB that the queue leaves unused.
    pub fn spare(&self) -> PhysAddr {
        PhysAddr(self.memory.0 + Self::SPARE as u64)
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        PhysAddr(self.memory.0 + offset as u64).to_pointer().cast()
    }

    /// Flags and index of the available ring, in one word.
    fn available(&self) -> &AtomicU32 {
        // SAFETY: the first four bytes of the ring, in the queue's frame.
        unsafe { AtomicU32::from_ptr(self.at::<u32>(Self::AVAILABLE)) }
    }

    /// From now on the device shall interrupt when it returns a chain; one may be returned already.
    pub fn want_interrupt(&mut self) {
        self.available().fetch_and(!Self::NO_INTERRUPT, Ordering::SeqCst);
    }

    /// Gives the device a chain of buffers, at most [`Self::SIZE`], and tells it. `interrupt` says whether it
    /// shall interrupt when it returns them.
    pub fn submit(&mut self, buffers: impl ExactSizeIterator<Item = Buffer>, interrupt: bool) {
        let last = buffers.len().saturating_sub(1);
        for (index, buffer) in buffers.enumerate().take(usize::from(Self::SIZE)) {
            let next = if index < last { Self::NEXT } else { 0 };
            let write = if buffer.writable { Self::WRITE } else { 0 };
            let index = index as u64;
            let len = buffer.len as u64;
            // struct virtq_desc: address, then length, flags and next in one word.
            let word = len & 0xffff_ffff | u64::from(next | write) << 32 | (index + 1) << 48;
            // SAFETY: the descriptor lies in the queue's frame; the device does not look at it
            // before the chain is made available below.
            unsafe {
                let descriptor = self.at::<u64>(usize_from(index) * 16);
                descriptor.write_volatile(buffer.address.0);
                descriptor.add(1).write_volatile(word);
            }
        }
        // The chain always starts at descriptor 0, and every ring entry is 0 from the start.
        let available = self.available();
        let next = (available.load(Ordering::Relaxed) & !0xffff).wrapping_add(1 << 16);
        let flags = if interrupt { 0 } else { Self::NO_INTERRUPT };
        available.store(next | flags, Ordering::Release);
        fence(Ordering::SeqCst);
        self.registers.write(register::QUEUE_NOTIFY, self.index);
    }

    /// Whether the device has returned a chain that [`Self::take_used`] has not seen.
    pub fn has_used(&self) -> bool {
        // SAFETY: the index of the used ring, after its 16-bit flags.
        let used = unsafe { AtomicU16::from_ptr(self.at::<u16>(Self::USED + 2)) };
        used.load(Ordering::Acquire) != self.used
    }

    /// Takes back the chain in flight: how many bytes the device says it wrote.
    pub fn take_used(&mut self) -> Option<u32> {
        if !self.has_used() {
            return None;
        }
        let entry = usize::from(self.used % Self::SIZE);
        // SAFETY: `len` of the used ring's entry, which the device no longer writes.
        let len = unsafe { AtomicU32::from_ptr(self.at::<u32>(Self::USED + 4 + entry * 8 + 4)) };
        self.used = self.used.wrapping_add(1);
        Some(len.load(Ordering::Relaxed))
    }
}
