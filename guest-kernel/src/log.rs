//! The kernel's log: to the serial port if `-v` asks for it, and always in a panic.

use crate::arch::serial::Serial;
use core::fmt::{self, Write};

/// Writes a line to the log.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        if $crate::boot::has_flag(airlock_abi::boot::flags::VERBOSE) {
            $crate::log::write(format_args!($($argument)*));
        }
    };
}

/// A line for the serial port, collected so that a VMM gets it with one exit.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(self.bytes.len()) {
            if self.len + chunk.len() > self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len..self.len + chunk.len()].copy_from_slice(chunk);
            self.len += chunk.len();
        }
        Ok(())
    }
}

impl Line {
    fn flush(&mut self) {
        Serial.write(&self.bytes[..self.len]);
        self.len = 0;
    }
}

/// Writes a line to the serial port.
pub fn write(arguments: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 256], len: 0 };
    // A line that cannot be formatted is cut short; there is nobody to tell.
    let _ = line.write_fmt(arguments);
    let _ = line.write_str("\n");
    line.flush();
}

/// Says where and why, and ends the machine.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    write(format_args!("kernel panic: {info}"));
    crate::process::exit_machine(airlock_abi::exit::Exit::Panicked)
}
