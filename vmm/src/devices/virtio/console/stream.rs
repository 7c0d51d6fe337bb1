//! The host's side of a port: a file that is read or written without ever waiting for it.
//!
//! The files are the user's: a pipe, a terminal, a regular file, shared with other processes. So
//! setting `O_NONBLOCK`, which all of them would see, is not an option. Terminals are opened once
//! more, with that flag for ourselves. Pipes and sockets take `RWF_NOWAIT` for each call. What takes
//! neither (pipes of older kernels, a terminal without /proc) is asked by `poll(2)` first and then
//! gets no more than a pipe has room for when it says that it has room.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::super::memory::IoVectors;

/// How a file is kept from making us wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It never waits long: regular files, `/dev/null` and its like, terminals opened for ourselves.
    Direct,
    /// Each call says that it must not wait.
    NoWait,
    /// A call is made only if `poll(2)` says that it will not wait.
    Poll,
}

/// At most this much at a time in [`Manner::Poll`]: what a pipe with any room has room for.
const POLLED_CHUNK: usize = 4096;
/// At most this much at a time otherwise, so that others get their turn.
const CHUNK: usize = 1 << 20;
/// Major number of `/dev/null`, `/dev/zero`, `/dev/full`, `/dev/urandom` (Linux's devices.txt).
const MEMORY_DEVICES: u32 = 1;

/// An open file of the host.
#[derive(Debug)]
pub struct Stream {
    file: RawFd,
    manner: Manner,
    /// What `file` is, if it was opened here.
    _own: Option<OwnedFd>,
}

/// Opens a terminal once more, so that it can be told not to make us wait.
fn reopen_terminal(file: RawFd) -> Option<OwnedFd> {
    // SAFETY: asks about a file descriptor, whatever it is.
    if unsafe { libc::isatty(file) } != 1 {
        return None;
    }
    let options = libc::O_NONBLOCK | libc::O_NOCTTY;
    let path = format!("/proc/self/fd/{file}");
    // A terminal may be open for one direction only.
    [(true, true), (true, false), (false, true)].into_iter().find_map(|(read, write)| {
        let opened = File::options().read(read).write(write).custom_flags(options).open(&path);
        opened.ok().map(OwnedFd::from)
    })
}

/// What `poll(2)` is asked.
#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl Stream {
    /// Uses a file that stays open for as long as this lives.
    pub fn new(file: RawFd) -> Self {
        if let Some(own) = reopen_terminal(file) {
            return Self { file: own.as_raw_fd(), manner: Manner::Direct, _own: Some(own) };
        }
        let mut status = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `status` has room for what fstat writes.
        let known = unsafe { libc::fstat(file, status.as_mut_ptr()) } == 0;
        let manner = if known {
            // SAFETY: fstat succeeded, so it has filled the structure.
            let status = unsafe { status.assume_init() };
            match status.st_mode & libc::S_IFMT {
                libc::S_IFIFO | libc::S_IFSOCK => Manner::NoWait,
                libc::S_IFCHR if libc::major(status.st_rdev) != MEMORY_DEVICES => Manner::Poll,
                _ => Manner::Direct,
            }
        } else {
            // The first use will tell what is wrong with it.
            Manner::Direct
        };
        Self { file, manner, _own: None }
    }

    /// The file.
    pub const fn file(&self) -> RawFd {
        self.file
    }

    /// epoll cannot watch this file: it is used directly from now on.
    pub const fn cannot_wait(&mut self) {
        self.manner = Manner::Direct;
    }

    /// How many bytes to offer the host at once.
    pub const fn chunk(&self) -> usize {
        match self.manner {
            Manner::Poll => POLLED_CHUNK,
            Manner::Direct | Manner::NoWait => CHUNK,
        }
    }

    /// Reads what there is.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, when there is nothing yet; otherwise what the host says.
    pub fn read(&mut self, buffers: &IoVectors<'_>) -> io::Result<usize> {
        self.transfer(Direction::Read, buffers)
    }

    /// Writes as much as the host takes.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, when the host takes nothing now; otherwise what the host says.
    pub fn write(&mut self, buffers: &IoVectors<'_>) -> io::Result<usize> {
        self.transfer(Direction::Write, buffers)
    }

    fn transfer(&mut self, direction: Direction, buffers: &IoVectors<'_>) -> io::Result<usize> {
        if self.manner == Manner::NoWait {
            match self.call(direction, buffers, libc::RWF_NOWAIT) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.manner = Manner::Poll
                }
                result => return result,
            }
        }
        if self.manner == Manner::Poll && !self.would_not_wait(direction) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.call(direction, buffers, 0)
    }

    fn call(
        &self,
        direction: Direction,
        buffers: &IoVectors<'_>,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let vectors = buffers.as_slice();
        let number = match direction {
            Direction::Read => libc::SYS_preadv2,
            Direction::Write => libc::SYS_pwritev2,
        };
        // An offset of -1 is the file's own position (readv(2)); the system call takes it in halves.
        let position: libc::c_long = -1;
        // SAFETY: the vectors point into guest memory, which is mapped for as long as they live;
        // nothing in this program keeps a reference to it.
        let result = unsafe {
            libc::syscall(
                number,
                self.file,
                vectors.as_ptr(),
                vectors.len(),
                position,
                position,
                flags,
            )
        };
        if let Ok(count) = usize::try_from(result) {
            return Ok(count);
        }
        // A signal means that the machine ends; the caller has to get a chance to see that.
        Err(match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
            error => error,
        })
    }

    fn would_not_wait(&self, direction: Direction) -> bool {
        let events = match direction {
            Direction::Read => libc::POLLIN,
            Direction::Write => libc::POLLOUT,
        };
        let mut poll = libc::pollfd { fd: self.file, events, revents: 0 };
        // SAFETY: one valid structure, and no time to wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) != 0 }
    }
}
