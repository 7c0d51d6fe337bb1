//! The 16550 serial port: early messages and panics, without interrupts or buffers.

use super::instruction;
use airlock_abi::layout::SERIAL_PORT;

/// The port; no set-up is needed on a virtual one.
pub struct Serial;

impl Serial {
    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) {
        // SAFETY: the transmit register of a serial port; nothing else happens.
        unsafe { instruction::write_port_bytes(SERIAL_PORT, bytes) };
    }
}
