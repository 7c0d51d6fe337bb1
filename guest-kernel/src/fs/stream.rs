//! Files that are not stored anywhere: pipes, terminals, devices.

use super::metadata::Metadata;
use super::pipe::Pipe;
use crate::errno::{Errno, Result};
use crate::memory::{UserReader, UserWriter};
use crate::sched::WaitQueue;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// What `poll(2)` tells of a file. The bits are those of `struct pollfd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(pub u16);

impl Events {
    /// There is something to read, or the end.
    pub const IN: Self = Self(0x1 | 0x40);
    /// Something out of the ordinary is to be read.
    pub const URGENT: Self = Self(0x2);
    /// A write would not block.
    pub const OUT: Self = Self(0x4 | 0x100);
    /// An error is pending, or nobody reads the other end.
    pub const ERROR: Self = Self(0x8);
    /// The other end is gone.
    pub const HANGUP: Self = Self(0x10);
    /// The other end sends nothing any more (`POLLRDHUP`).
    pub const READ_HANGUP: Self = Self(0x2000);
    /// A write of priority data would not block, which only sockets tell (`POLLWRBAND`).
    pub const OUT_BAND: Self = Self(0x200);

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set if the condition holds, else nothing.
    #[must_use]
    pub const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self(0) }
    }
}

/// What `lseek(2)` does to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// ESPIPE.
    No,
    /// Nothing: the offset means nothing and stays 0 (`/dev/null`).
    Ignored,
    /// The same, but there are no positions to read and write at (`eventfd`).
    Unpositioned,
}

impl Seek {
    /// Whether calls with a position of their own (`pread(2)`) work.
    pub const fn has_positions(self) -> bool {
        matches!(self, Self::Ignored)
    }
}

/// Something that is read and written without being stored.
pub trait Stream: Send + Sync {
    /// Reads what there is; waits for it if `wait`.
    ///
    /// # Errors
    /// EAGAIN if there is nothing and `wait` is false, EINTR, EFAULT, EINVAL if it is not readable.
    fn read(&self, _buffer: &mut UserWriter, _wait: bool) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes; waits for room if `wait`.
    ///
    /// # Errors
    /// EAGAIN if there is no room and `wait` is false, EPIPE, EINTR, EFAULT, EINVAL if it is not
    /// writable.
    fn write(&self, _data: &mut UserReader, _wait: bool) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// The same, and each write is a packet (`O_DIRECT` in pipe(2)).
    ///
    /// # Errors
    /// As for [`Self::write`].
    fn write_packets(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.write(data, wait)
    }

    /// Reads what there is into the kernel's memory, which is not empty; waits for it if `wait`.
    ///
    /// # Errors
    /// EINVAL if that is not possible, and as for [`Self::read`].
    fn read_kernel(&self, _target: &mut [u8], _wait: bool) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// The same as [`Self::write`] from the kernel's memory.
    ///
    /// # Errors
    /// As for [`Self::write`].
    fn write_kernel(&self, _bytes: &[u8], _wait: bool) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// What `fstat(2)` tells, for a stream that has no name in the tree.
    fn metadata(&self) -> Metadata {
        Metadata::default()
    }

    /// `fchmod(2)`, for a stream that has no name in the tree.
    ///
    /// # Errors
    /// EPERM if it has no permissions of its own.
    fn set_permissions(&self, _mode: u32) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// What /proc/self/fd/N shows, for a stream that has no name in the tree.
    fn name(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What `/proc/PID/fdinfo` has beyond what all files have: lines without the last line's end.
    fn details(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What a call would find now.
    fn poll(&self) -> Events {
        Events::IN.with(Events::OUT)
    }

    /// Whether it can be waited for (`epoll_ctl(2)`); what cannot is always ready.
    fn can_poll(&self) -> bool {
        true
    }

    /// Whom `poll(2)` waits with for [`Self::poll`] to change.
    fn queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// A process has closed a descriptor of it, if not the last one.
    fn closed_by(&self, _pid: i32) {}

    /// Why it cannot be opened now, if so.
    fn open_error(&self) -> Option<Errno> {
        None
    }

    /// The pipe, if it is an end of one.
    fn as_pipe(&self) -> Option<&Arc<Pipe>> {
        None
    }

    /// The socket, if it is one.
    fn as_socket(&self) -> Option<&dyn crate::net::Socket> {
        None
    }

    /// Whether a write that fails with EPIPE brings SIGPIPE, too.
    fn signals_broken_pipe(&self) -> bool {
        true
    }

    /// The stream itself, for calls that only work on one kind.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// What `lseek(2)` does.
    fn seek(&self) -> Seek {
        Seek::No
    }

    /// `ioctl(2)`: the request and its argument register.
    ///
    /// # Errors
    /// ENOTTY if the request means nothing to this stream.
    fn ioctl(&self, _request: u32, _argument: u64) -> Result<i32> {
        Err(Errno::ENOTTY)
    }
}

/// A stream, shared by those who have it open.
#[derive(Clone)]
pub enum StreamRef {
    /// One that always exists.
    Static(&'static (dyn Stream + 'static)),
    /// One that ends with its last user.
    Shared(Arc<dyn Stream>),
}

impl core::ops::Deref for StreamRef {
    type Target = dyn Stream;
    fn deref(&self) -> &(dyn Stream + 'static) {
        match self {
            Self::Static(stream) => *stream,
            Self::Shared(stream) => &**stream,
        }
    }
}
