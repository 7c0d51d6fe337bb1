//! /dev: the devices that every program expects (`null(4)`, `full(4)`, `random(4)`, `tty(4)`).

use super::super::services::services;
use super::super::stream::{Seek, Stream};
use super::terminals::{self, Terminal};
use super::{Entry, Kind, Target, directory, link};
use crate::errno::{Errno, Result};
use crate::memory::{UserReader, UserWriter};
use alloc::vec::Vec;

/// The tree.
pub(super) static ROOT: Entry = Entry { mode: 0o755, ..directory(1, "dev", ENTRIES) };

static ENTRIES: &[Entry] = &[
    device(2, "null", 1, 3, &Null),
    device(3, "zero", 1, 5, &Zero),
    device(4, "full", 1, 7, &Full),
    device(5, "random", 1, 8, &Random { can_poll: true }),
    device(6, "urandom", 1, 9, &Random { can_poll: false }),
    terminals::device(7, "tty", 5, 0, Terminal::Controlling),
    Entry { mode: 0o600, ..terminals::device(8, "console", 5, 1, Terminal::Console) },
    link(9, "fd", |_| path(b"/proc/self/fd")),
    link(10, "stdin", |_| path(b"/proc/self/fd/0")),
    link(11, "stdout", |_| path(b"/proc/self/fd/1")),
    link(12, "stderr", |_| path(b"/proc/self/fd/2")),
    Entry { mode: 0o755, ..directory(13, "shm", &[]) },
    Entry { mode: 0o755, ..directory(14, "pts", &[]) },
    terminals::device(15, "ptmx", 5, 2, Terminal::Multiplexer),
];

const fn device(
    number: u16,
    name: &'static str,
    major: u32,
    minor: u32,
    stream: &'static (dyn Stream + Sync),
) -> Entry {
    Entry { number, name, mode: 0o666, kind: Kind::Device(major, minor, stream) }
}

pub(super) fn path(path: &[u8]) -> Result<Target> {
    Ok(Target::Path(Vec::from(path)))
}

/// Nothing to read; everything written is gone.
struct Null;

impl Stream for Null {
    fn can_poll(&self) -> bool {
        false
    }

    fn read(&self, _: &mut UserWriter, _: bool) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, data: &mut UserReader, _: bool) -> Result<usize> {
        // Not looked at: a wrong address is no error here, nor on Linux.
        Ok(data.remaining())
    }

    fn write_kernel(&self, bytes: &[u8], _: bool) -> Result<usize> {
        Ok(bytes.len())
    }

    fn seek(&self) -> Seek {
        Seek::Ignored
    }
}

/// Endless zeroes.
struct Zero;

impl Stream for Zero {
    fn can_poll(&self) -> bool {
        false
    }

    fn read(&self, buffer: &mut UserWriter, _: bool) -> Result<usize> {
        buffer.write_zeroes(buffer.remaining())
    }

    fn write(&self, data: &mut UserReader, _: bool) -> Result<usize> {
        Ok(data.remaining())
    }

    fn write_kernel(&self, bytes: &[u8], _: bool) -> Result<usize> {
        Ok(bytes.len())
    }

    fn seek(&self) -> Seek {
        Seek::Ignored
    }
}

/// Endless zeroes on a full disk.
struct Full;

impl Stream for Full {
    fn can_poll(&self) -> bool {
        false
    }

    fn read(&self, buffer: &mut UserWriter, _: bool) -> Result<usize> {
        buffer.write_zeroes(buffer.remaining())
    }

    fn write(&self, _: &mut UserReader, _: bool) -> Result<usize> {
        Err(Errno::ENOSPC)
    }

    fn write_kernel(&self, _: &[u8], _: bool) -> Result<usize> {
        Err(Errno::ENOSPC)
    }

    fn seek(&self) -> Seek {
        Seek::Ignored
    }
}

/// Endless entropy.
struct Random {
    can_poll: bool,
}

impl Stream for Random {
    fn can_poll(&self) -> bool {
        self.can_poll
    }

    /// The entropy ioctls (random(4)) do not exist; Linux says EINVAL, not ENOTTY.
    fn ioctl(&self, _request: u32, _argument: u64) -> Result<i32> {
        Err(Errno::EINVAL)
    }

    fn read(&self, buffer: &mut UserWriter, _: bool) -> Result<usize> {
        let services = services().ok_or(Errno::EIO)?;
        let mut done = 0;
        while buffer.remaining() > 0 {
            let mut bytes = [0; 256];
            let len = bytes.len().min(buffer.remaining());
            services.random(&mut bytes[..len]);
            match buffer.write_slice(&bytes[..len]) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Takes what it is given. It is not counted as entropy, so it need not be mixed in.
    fn write(&self, data: &mut UserReader, _: bool) -> Result<usize> {
        Ok(data.remaining())
    }

    fn write_kernel(&self, bytes: &[u8], _: bool) -> Result<usize> {
        Ok(bytes.len())
    }

    fn seek(&self) -> Seek {
        Seek::Ignored
    }
}
