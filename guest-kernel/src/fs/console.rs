//! Standard input, output and error: console ports, seen as pipes.

use super::metadata::{Metadata, S_IFIFO, devices};
use super::services::services;
use super::stream::{Events, Stream};
use crate::errno::{Errno, Result};
use crate::memory::{UserPtr, UserReader, UserWriter};
use crate::sched::WaitQueue;
use airlock_abi::console::{PORT_STDERR, PORT_STDIN, PORT_STDOUT};
use alloc::vec::Vec;
use linux_raw_sys::ioctl::FIONREAD;

/// One of the three ports. To the program it is a pipe that someone else made.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    port: u32,
}

/// Standard input.
pub static STDIN: Console = Console { port: PORT_STDIN };
/// Standard output.
pub static STDOUT: Console = Console { port: PORT_STDOUT };
/// Standard error.
pub static STDERR: Console = Console { port: PORT_STDERR };

impl Console {
    const fn is_input(self) -> bool {
        self.port == PORT_STDIN
    }

    fn is_readable(self) -> bool {
        services().is_some_and(|services| services.console_readable(self.port))
    }
}

impl Stream for Console {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if !self.is_input() {
            return Err(Errno::EBADF);
        }
        if !wait && !self.is_readable() {
            return Err(Errno::EAGAIN);
        }
        services().ok_or(Errno::EIO)?.console_read(self.port, buffer)
    }

    fn write(&self, data: &mut UserReader, _wait: bool) -> Result<usize> {
        if self.is_input() {
            return Err(Errno::EBADF);
        }
        services().ok_or(Errno::EIO)?.console_write(self.port, data)
    }

    fn write_kernel(&self, bytes: &[u8], _wait: bool) -> Result<usize> {
        if self.is_input() {
            return Err(Errno::EBADF);
        }
        services().ok_or(Errno::EIO)?.console_write_kernel(self.port, bytes)
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            device: devices::PIPE,
            number: u64::from(self.port),
            mode: S_IFIFO | 0o600,
            links: 1,
            ..Metadata::default()
        }
    }

    fn name(&self) -> Vec<u8> {
        alloc::format!("pipe:[{}]", self.port).into_bytes()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        if self.is_input() {
            services().map(|services| services.console_queue(self.port))
        } else {
            None
        }
    }

    /// As of a pipe.
    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = if self.is_input() {
            services().ok_or(Errno::EIO)?.console_available(self.port)?
        } else {
            0
        };
        UserPtr::<i32>::new(argument).write(i32::try_from(count).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn poll(&self) -> Events {
        if self.is_input() { Events::IN.when(self.is_readable()) } else { Events::OUT }
    }
}
