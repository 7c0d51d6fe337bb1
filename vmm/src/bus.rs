//! Which device answers at which address.
//!
//! Lock order: the serial port's lock and a device window's lock are never held together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use airlock_abi::layout::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};

use crate::devices::serial::SerialPort;

/// How many accesses to nothing are logged; the others are only counted.
const LOGGED_UNKNOWN: u64 = 16;

/// Registers that a guest reads and writes.
pub trait Registers: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// The devices of a machine, by address.
#[derive(Default)]
pub struct Bus {
    /// The serial port.
    pub serial: SerialPort,
    /// Devices behind the virtio-mmio windows, first to last.
    pub windows: Vec<Arc<Mutex<dyn Registers>>>,
    unknown: AtomicU64,
}

impl Bus {
    /// A bus with these devices.
    pub const fn new(serial: SerialPort, windows: Vec<Arc<Mutex<dyn Registers>>>) -> Self {
        Self { serial, windows, unknown: AtomicU64::new(0) }
    }

    /// The device whose window has this address, and the offset in the window.
    fn window(&self, address: u64) -> Option<(&Mutex<dyn Registers>, u64)> {
        let distance = address.checked_sub(VIRTIO_MMIO_BASE)?;
        let index = usize::try_from(distance / VIRTIO_MMIO_SIZE).ok()?;
        Some((self.windows.get(index)?.as_ref(), distance % VIRTIO_MMIO_SIZE))
    }

    /// A guest reads memory that is not RAM.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.window(address) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => self.unknown_read("address", address, data),
        }
    }

    /// A guest writes memory that is not RAM.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.window(address) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
            }
            None => self.unknown_write("address", address),
        }
    }

    /// A read that no device answers: all ones, as on a real bus.
    pub fn unknown_read(&self, space: &str, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.count_unknown("read", space, address);
    }

    /// A write that no device takes is lost.
    pub fn unknown_write(&self, space: &str, address: u64) {
        self.count_unknown("write", space, address);
    }

    fn count_unknown(&self, access: &str, space: &str, address: u64) {
        let before = self.unknown.fetch_add(1, Ordering::Relaxed);
        if before < LOGGED_UNKNOWN {
            log::debug!("guest {access} at {space} {address:#x}, where there is nothing");
        }
    }

    /// How many accesses no device answered.
    pub fn unknown_accesses(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);

    impl Registers for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    #[test]
    fn windows_follow_each_other() {
        let first = Arc::new(Mutex::new(Echo(Vec::new())));
        let second = Arc::new(Mutex::new(Echo(Vec::new())));
        let bus = Bus::new(SerialPort::default(), vec![first.clone(), second.clone()]);
        bus.write(VIRTIO_MMIO_BASE + 0x50, &[1]);
        bus.write(VIRTIO_MMIO_BASE + VIRTIO_MMIO_SIZE + 0x70, &[2]);
        bus.write(VIRTIO_MMIO_BASE + 2 * VIRTIO_MMIO_SIZE, &[3]);
        bus.write(VIRTIO_MMIO_BASE - 1, &[4]);
        assert_eq!(first.lock().expect("not poisoned").0, [(0x50, vec![1])]);
        assert_eq!(second.lock().expect("not poisoned").0, [(0x70, vec![2])]);
        assert_eq!(bus.unknown_accesses(), 2);
        let mut data = [0; 2];
        bus.read(VIRTIO_MMIO_BASE + VIRTIO_MMIO_SIZE + 7, &mut data);
        assert_eq!(data, [7, 7]);
    }
}
