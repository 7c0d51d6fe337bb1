//! The serial port: early messages and panics of the kernel, from the guest only.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// How much of the end of the kernel's text is kept.
const KEPT: usize = 8192;

/// The port has no interrupt line: the kernel writes and never waits.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Keeps the end of what is written, and copies it to standard error if asked to.
struct Log {
    kept: Vec<u8>,
    line: Vec<u8>,
    echo: bool,
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Twice the bound before the older half goes: each byte is moved once at most.
        if self.kept.len() + bytes.len() > 2 * KEPT {
            self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        }
        self.kept.extend_from_slice(bytes);
        if self.echo {
            self.line.extend_from_slice(bytes);
            if self.line.ends_with(b"\n") || self.line.len() >= KEPT {
                // A log that cannot be written anywhere must not stop the program.
                let _ = io::stderr().write_all(&self.line);
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A 16550 whose output is kept for error messages.
pub struct SerialPort(Mutex<Serial<NoInterrupt, NoEvents, Log>>);

impl Default for SerialPort {
    fn default() -> Self {
        Self::new(false)
    }
}

impl SerialPort {
    /// A port; `echo` sends its output to standard error, line by line.
    pub fn new(echo: bool) -> Self {
        let log = Log { kept: Vec::new(), line: Vec::new(), echo };
        Self(Mutex::new(Serial::new(NoInterrupt, log)))
    }

    /// The guest writes to a register, once for each byte.
    pub fn write(&self, register: u16, data: &[u8]) {
        let mut serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in data {
            // Neither the trigger nor the log fails, and a full loopback buffer is the guest's loss.
            let _ = serial.write(register.to_le_bytes()[0], byte);
        }
    }

    /// The guest reads a register, once for each byte.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        let mut serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            *byte = serial.read(register.to_le_bytes()[0]);
        }
    }

    /// The end of what the kernel wrote.
    pub fn text(&self) -> String {
        let serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &serial.writer().kept;
        String::from_utf8_lossy(&kept[kept.len().saturating_sub(KEPT)..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE_STATUS: u16 = 5;
    const TRANSMITTER_EMPTY: u8 = 0x60;

    #[test]
    fn transmitter_is_always_ready() {
        let mut status = [0];
        SerialPort::default().read(LINE_STATUS, &mut status);
        assert_eq!(status[0] & TRANSMITTER_EMPTY, TRANSMITTER_EMPTY);
    }

    #[test]
    fn only_the_end_of_much_text_is_kept() {
        let port = SerialPort::default();
        for _ in 0..KEPT {
            port.write(0, b"0123456");
        }
        port.write(0, b"end");
        let text = port.text();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("0123456end"));
    }

    #[test]
    fn any_register_takes_any_byte() {
        let port = SerialPort::default();
        for register in 0..8 {
            for byte in 0..=255 {
                port.write(register, &[byte]);
                port.read(register, &mut [0]);
            }
        }
    }
}
