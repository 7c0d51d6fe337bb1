//! Sockets (`socket(2)`), apart from system calls.
//!
//! A [`Socket`] is what `bind`, `send` and their kin work on; it is a [`Stream`](crate::fs::stream::Stream)
//! as well, for `read` and `poll`. There is one family so far: [`unix`].

pub mod options;
pub mod unix;

use crate::errno::{Errno, Result};
use crate::fs::permission::Subject;
use crate::fs::source::{Sink, Source};
use crate::fs::stream::StreamRef;
use crate::fs::{self, FileRef, Timestamp};
use alloc::sync::Arc;
use alloc::vec::Vec;
use options::Value;

/// A socket address as programs pass it: the bytes of a `struct sockaddr`.
pub type Address = Arc<[u8]>;

/// Where the calling process looks for the paths in addresses, and with which rights.
pub struct Names<'a> {
    /// Root, working directory and file mode mask.
    pub context: &'a fs::Context,
    /// Its rights.
    pub subject: Subject<'a>,
}

/// Who sent a message (`struct ucred`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process ID.
    pub pid: i32,
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
}

impl Identity {
    /// The peer of a socket that has none.
    pub const NOBODY: Self = Self { pid: 0, user: u32::MAX, group: u32::MAX };
    /// The sender of a message that was sent before anyone wanted to know: Linux's overflow IDs.
    pub const UNKNOWN: Self = Self { pid: 0, user: 65_534, group: 65_534 };
}

/// What goes along with a message (`cmsg(3)`).
#[derive(Default)]
pub struct Ancillary {
    /// `SCM_RIGHTS`: open files.
    pub files: Vec<FileRef>,
    /// `SCM_CREDENTIALS`, as far as the sender said it.
    pub identity: Option<Identity>,
    /// Whether the sender may have as many files on their way as it likes, and if not, how many.
    pub flight_limit: Option<u64>,
}

/// A message to be sent.
pub struct Outgoing<'a> {
    /// Its bytes.
    pub data: &'a mut dyn Source,
    /// Where to, and how to find that; else the connected peer.
    pub address: Option<(&'a [u8], &'a Names<'a>)>,
    /// What goes along.
    pub ancillary: Ancillary,
    /// Whether to wait for room.
    pub wait: bool,
}

/// What is asked of a socket that receives.
pub struct Incoming<'a> {
    /// Where the bytes go.
    pub buffer: &'a mut dyn Sink,
    /// Whether to wait for them.
    pub wait: bool,
    /// Whether they stay (`MSG_PEEK`).
    pub peek: bool,
    /// Whether to wait until the buffer is full (`MSG_WAITALL`).
    pub all: bool,
}

/// What was received.
#[derive(Default)]
pub struct Received {
    /// Bytes in the buffer.
    pub count: usize,
    /// Length of the message, of which the buffer may not have held everything.
    pub length: usize,
    /// Whether it is a message, if an empty one, and not the end.
    pub is_message: bool,
    /// The sender's address, if it has one.
    pub address: Option<Address>,
    /// Who sent it, if the socket wants to know (`SO_PASSCRED`).
    pub identity: Option<Identity>,
    /// When it was received, if the socket wants to know (`SO_TIMESTAMP`).
    pub time: Option<Timestamp>,
    /// Open files that came along.
    pub files: Vec<FileRef>,
}

/// What `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions(pub u8);

impl Directions {
    /// Receiving.
    pub const RECEIVE: Self = Self(1);
    /// Sending.
    pub const SEND: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What system calls do with a socket.
pub trait Socket: Send + Sync {
    /// `bind(2)`.
    ///
    /// # Errors
    /// EINVAL, EADDRINUSE, and those of a path.
    fn bind(&self, address: &[u8], names: &Names<'_>) -> Result<()>;

    /// `listen(2)`.
    ///
    /// # Errors
    /// EOPNOTSUPP, EINVAL.
    fn listen(&self, backlog: u32) -> Result<()>;

    /// `accept(2)`: the next connection, and its address.
    ///
    /// # Errors
    /// EOPNOTSUPP, EINVAL, EAGAIN, EINTR.
    fn accept(&self, wait: bool) -> Result<StreamRef>;

    /// `connect(2)`.
    ///
    /// # Errors
    /// EINVAL, EISCONN, ECONNREFUSED, EPROTOTYPE, EAGAIN, EINTR, and those of a path.
    fn connect(&self, address: &[u8], names: &Names<'_>, wait: bool) -> Result<()>;

    /// `sendmsg(2)`. That nobody receives is EPIPE; SIGPIPE is the caller's business.
    ///
    /// # Errors
    /// ENOTCONN, EISCONN, EPIPE, EMSGSIZE, EAGAIN, EINTR, EFAULT, ENOMEM, ETOOMANYREFS.
    fn send(&self, message: Outgoing<'_>) -> Result<usize>;

    /// `recvmsg(2)`.
    ///
    /// # Errors
    /// ENOTCONN, EINVAL, ECONNRESET, EAGAIN, EINTR, EFAULT.
    fn receive(&self, wanted: Incoming<'_>) -> Result<Received>;

    /// `shutdown(2)`.
    ///
    /// # Errors
    /// ENOTCONN.
    fn shutdown(&self, directions: Directions) -> Result<()>;

    /// `getsockname(2)`.
    fn name(&self) -> Address;

    /// `getpeername(2)`.
    ///
    /// # Errors
    /// ENOTCONN.
    fn peer_name(&self) -> Result<Address>;

    /// `getsockopt(2)`.
    ///
    /// # Errors
    /// ENOPROTOOPT, EOPNOTSUPP.
    fn option(&self, level: i32, name: u32) -> Result<Value>;

    /// `setsockopt(2)`: the value is the first bytes of what the program passed.
    ///
    /// # Errors
    /// ENOPROTOOPT, EOPNOTSUPP, EINVAL, EDOM, EPERM.
    fn set_option(&self, level: i32, name: u32, value: &[u8], privileged: bool) -> Result<()>;

    /// The error that the next call is to tell, which then is told.
    fn take_error(&self) -> Option<Errno>;

    /// Leaves an error for the next call.
    fn set_error(&self, error: Errno);

    /// Whether writing to a broken connection brings SIGPIPE.
    fn signals_broken_pipe(&self) -> bool;

    /// The socket, if it is of this family.
    fn as_unix(&self) -> Option<&Arc<unix::Socket>> {
        None
    }
}
