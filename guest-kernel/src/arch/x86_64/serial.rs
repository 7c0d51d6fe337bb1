//! The 16550 serial port: early messages and panics, without interrupts or buffers.

use super::cpu;
use airlock_abi::layout::SERIAL_PORT;
use core::fmt;

/// Writes text as it is; no set-up is needed on a virtual port.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the transmit register of a serial port; nothing else happens.
        unsafe { cpu::write_port_bytes(SERIAL_PORT, text.as_bytes()) };
        Ok(())
    }
}
