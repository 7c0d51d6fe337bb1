//! AF_UNIX sockets (`unix(7)`): streams, datagrams and sequenced packets between processes.
//!
//! Whoever sends puts a [`Packet`] into the receiver's queue; there is nothing in between. What a
//! sender has on its way counts against its own `SO_SNDBUF` until it is read.
//!
//! An open file has an [`Endpoint`], whose end is the socket's end ([`Socket::release`]). Others (the
//! peer, packets, the tables of names) have the [`Socket`] itself, which may live on for a while.
//!
//! Locks: the list of what is in flight, then sockets (two only in ascending order of their
//! numbers, or a listener and then a connection that waits in its queue), then the tables of names.

mod address;
mod connection;
mod data;
mod file;
mod flight;
mod packet;
mod receive;
mod send;
mod table;

pub use file::Endpoint;
pub use table::text;

use super::options::{Facts, Options, Value};
use super::{Address, Ancillary, Directions, Identity, Incoming, Names, Outgoing, Received};
use crate::errno::{Errno, Result};
use crate::fs::Timestamp;
use crate::fs::services::{now, services};
use crate::fs::stream::Events;
use crate::memory::frame;
use crate::sched::{self, WaitQueue};
use crate::sync::{SpinLock, SpinLockGuard};
use address::Binding;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use linux_raw_sys::net::{
    AF_UNIX, SO_PASSCRED, SO_PEERCRED, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM,
    SOL_SOCKET,
};
use packet::Packet;

/// Datagrams that may wait at a socket (`/proc/sys/net/unix/max_dgram_qlen`), but for one.
pub const MAX_DATAGRAMS: usize = 10;

/// The types of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection that carries bytes.
    Stream,
    /// Messages to anybody.
    Datagram,
    /// A connection that carries messages.
    SeqPacket,
}

impl Kind {
    /// The type that a program asks for.
    ///
    /// # Errors
    /// ESOCKTNOSUPPORT.
    pub const fn from_number(number: u32) -> Result<Self> {
        match number {
            SOCK_STREAM => Ok(Self::Stream),
            // As Linux has it.
            SOCK_DGRAM | SOCK_RAW => Ok(Self::Datagram),
            SOCK_SEQPACKET => Ok(Self::SeqPacket),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    /// `SOCK_*`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::SeqPacket => 5,
        }
    }

    const fn is_connected_kind(self) -> bool {
        !matches!(self, Self::Datagram)
    }
}

/// How far a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Neither of the others.
    Idle,
    /// It accepts connections; so many may wait, but for one.
    Listening(usize),
    /// It has a peer.
    Connected,
}

/// What changes of a socket.
struct State {
    phase: Phase,
    address: Option<Address>,
    /// What has to be given up with the address; a connection that was accepted has only its
    /// listener's address.
    binding: Option<Binding>,
    /// Whom it sends to. A peer that has ended is still known, for its address.
    peer: Option<Arc<Socket>>,
    /// Who connected or listened.
    peer_identity: Option<Identity>,
    /// What does not happen any more.
    shutdown: Directions,
    /// To be told by the next call.
    error: Option<Errno>,
    /// Its file is closed.
    dead: bool,
    /// It has no file yet: it waits to be accepted.
    waits: bool,
    packets: VecDeque<Packet>,
    /// The number of the next packet.
    next_packet: u64,
    /// Connections that wait to be accepted.
    pending: VecDeque<Arc<Socket>>,
    /// Sockets for datagrams that are connected to this one.
    connected: Vec<Weak<Socket>>,
    /// Someone takes out packets.
    reading: bool,
    /// Others wait for that.
    readers_wait: bool,
}

/// A socket.
pub struct Socket {
    number: u64,
    kind: Kind,
    state: SpinLock<State>,
    options: Options,
    /// Those who wait for anything to change, but for those who wait for [`Self::room`].
    changed: WaitQueue,
    /// Those who wait to put something into its queues.
    room: WaitQueue,
    /// What it has sent and nobody has read, as `SO_SNDBUF` counts it.
    unread: AtomicUsize,
    permissions: AtomicU32,
    owner: (u32, u32),
    born: Timestamp,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0x2_0000);

impl Socket {
    /// A socket that is not connected to anything.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(kind: Kind) -> Result<Arc<Self>> {
        frame::check_room()?;
        let state = State {
            phase: Phase::Idle,
            address: None,
            binding: None,
            peer: None,
            peer_identity: None,
            shutdown: Directions(0),
            error: None,
            dead: false,
            waits: false,
            packets: VecDeque::new(),
            next_packet: 0,
            pending: VecDeque::new(),
            connected: Vec::new(),
            reading: false,
            readers_wait: false,
        };
        let caller = caller();
        let socket = Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            kind,
            state: SpinLock::new(state),
            options: Options::new(),
            changed: WaitQueue::new(),
            room: WaitQueue::new(),
            unread: AtomicUsize::new(0),
            permissions: AtomicU32::new(0o777),
            owner: (caller.effective.0, caller.effective.1),
            born: now(),
        });
        table::add(&socket);
        Ok(socket)
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn pair(kind: Kind) -> Result<[Arc<Self>; 2]> {
        let pair = [Self::new(kind)?, Self::new(kind)?];
        let identity = effective_identity();
        for (one, other) in [(0, 1), (1, 0)] {
            let mut state = pair[one].state.lock();
            state.peer = Some(pair[other].clone());
            state.peer_identity = Some(identity);
            state.phase = Phase::Connected;
            if kind == Kind::Datagram {
                state.remember_connected(&pair[other])?;
            }
        }
        Ok(pair)
    }

    fn facts(&self) -> Facts {
        Facts {
            domain: i32::try_from(AF_UNIX).unwrap_or(0),
            kind: self.kind.number().into(),
            protocol: 0,
            listens: matches!(self.state.lock().phase, Phase::Listening(_)),
        }
    }

    /// Whether messages that it sends or receives tell who sent them.
    fn wants_identity(&self) -> bool {
        self.options.is_on(SO_PASSCRED)
    }

    /// Whether `poll` finds room: a quarter of the buffer at most is taken.
    fn is_writable(&self) -> bool {
        self.unread.load(Ordering::Relaxed).saturating_mul(4) <= self.options.send_buffer()
    }

    /// Counts less for what it sent.
    fn credit(&self, charge: usize) {
        let before = self.unread.fetch_sub(charge, Ordering::Relaxed);
        let limit = self.options.send_buffer();
        // Like Linux, writers are woken only when there is room worth it.
        if (before - charge).saturating_mul(4) <= limit && before > 0 {
            self.changed.wake(Events::OUT);
        }
    }

    /// Takes the locks of two different sockets, in the order of their numbers.
    fn lock_both<'a>(
        &'a self,
        other: &'a Self,
    ) -> (SpinLockGuard<'a, State>, SpinLockGuard<'a, State>) {
        if self.number < other.number {
            let own = self.state.lock();
            (own, other.state.lock_in_order())
        } else {
            let others = other.state.lock();
            (self.state.lock_in_order(), others)
        }
    }

    fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }

    fn bind_to(self: &Arc<Self>, address: Address, binding: Binding) -> Result<()> {
        let mut state = self.state.lock();
        if state.address.is_some() {
            drop(state);
            address::release(&binding);
            return Err(Errno::EINVAL);
        }
        state.address = Some(address);
        state.binding = Some(binding);
        Ok(())
    }

    /// Takes any abstract name, if it has none.
    fn bind_to_any(self: &Arc<Self>) -> Result<()> {
        if self.state.lock().address.is_some() {
            return Ok(());
        }
        let (address, binding) = address::take_any(self)?;
        match self.bind_to(address, binding) {
            // Someone else was quicker, which is as good.
            Err(Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    fn bind_to_path(self: &Arc<Self>, path: &[u8], names: &Names<'_>) -> Result<()> {
        use crate::fs::metadata::{PERMISSIONS, S_IFSOCK};
        use crate::fs::path::{Last, walk};
        use crate::fs::{namespace, tmpfs::New};
        let address = address::of_path(path)?;
        let Names { context, subject } = names;
        let found = walk(&context.root, &context.directory, Vec::from(path), Last::Name, subject)?;
        if found.inode.is_some() {
            return Err(Errno::EADDRINUSE);
        }
        // On Linux the file is made and removed again.
        if self.state.lock().address.is_some() {
            return Err(Errno::EINVAL);
        }
        let permissions = self.permissions.load(Ordering::Relaxed) & PERMISSIONS;
        let new = New {
            mode: S_IFSOCK | permissions & !context.umask,
            user: subject.user,
            group: subject.group,
            special: 0,
            target: &[],
        };
        let inode = namespace::create(&found, new, subject).map_err(|error| match error {
            Errno::EEXIST => Errno::EADDRINUSE,
            error => error,
        })?;
        let binding = address::take_file(self, inode)?;
        self.bind_to(address, binding)
    }

    /// `bind(2)`.
    ///
    /// # Errors
    /// EINVAL, EADDRINUSE, and those of a path.
    pub fn bind(self: &Arc<Self>, address: &[u8], names: &Names<'_>) -> Result<()> {
        match address::parse(address)? {
            address::Parsed::Unnamed => self.bind_to_any(),
            address::Parsed::Path(path) => self.bind_to_path(path, names),
            address::Parsed::Abstract(name) => {
                if self.state.lock().address.is_some() {
                    return Err(Errno::EINVAL);
                }
                let (address, binding) = address::take_abstract(self, name)?;
                self.bind_to(address, binding)
            }
        }
    }

    /// The name that it has, if any.
    fn address(&self) -> Option<Address> {
        self.state.lock().address.clone()
    }

    fn get_option(&self, level: i32, name: u32) -> Result<Value> {
        if level.cast_unsigned() != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        if name == SO_PEERCRED {
            let identity = self.state.lock().peer_identity;
            return Ok(Value::Identity(identity.unwrap_or(Identity::NOBODY)));
        }
        self.options.get(name, self.facts(), || self.state.lock().error.take())
    }

    fn close_directions(&self, directions: Directions) {
        let peer = {
            let mut state = self.state.lock();
            state.shutdown = state.shutdown.with(directions);
            state.peer.clone().filter(|_| self.kind.is_connected_kind())
        };
        if let Some(peer) = peer {
            // What one side does not send, the other does not receive.
            let mirrored = Directions((directions.0 & 1) << 1 | directions.0 >> 1);
            let mut state = peer.state.lock();
            state.shutdown = state.shutdown.with(mirrored);
            drop(state);
            peer.changed.wake_all();
        }
        self.changed.wake_all();
        self.room.wake_all();
    }
}

impl State {
    /// Whether so much waits that nobody may add anything.
    fn is_full(&self) -> bool {
        match self.phase {
            Phase::Listening(backlog) => self.pending.len() > backlog,
            _ => self.packets.len() > MAX_DATAGRAMS,
        }
    }

    fn remember_connected(&mut self, socket: &Arc<Socket>) -> Result<()> {
        self.connected.retain(|other| other.strong_count() > 0);
        self.connected.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.connected.push(Arc::downgrade(socket));
        Ok(())
    }

    fn forget_connected(&mut self, socket: &Socket) {
        self.connected.retain(|other| !core::ptr::eq(other.as_ptr(), socket));
    }

    fn is_peer(&self, socket: &Socket) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.is(socket))
    }
}

/// Who makes the call.
fn caller() -> crate::fs::services::Caller {
    services().map(|services| services.caller()).unwrap_or_default()
}

/// Who makes the call, as the other end of a connection is told.
fn effective_identity() -> Identity {
    let caller = caller();
    Identity { pid: caller.pid, user: caller.effective.0, group: caller.effective.1 }
}

/// Who makes the call, as messages tell it.
fn real_identity() -> Identity {
    let caller = caller();
    Identity { pid: caller.pid, user: caller.real.0, group: caller.real.1 }
}

/// When a call that may wait so long gives up.
fn deadline(timeout: Option<u64>) -> Option<u64> {
    let now = services().map_or(0, |services| services.monotonic_ns());
    timeout.map(|ns| now.saturating_add(ns))
}

/// Sleeps until the condition gives a value; EAGAIN after the deadline.
fn sleep<T>(
    queue: &WaitQueue,
    deadline: Option<u64>,
    condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    sched::wait(&[queue], deadline, condition)?.ok_or(Errno::EAGAIN)
}

impl super::Socket for Endpoint {
    fn bind(&self, address: &[u8], names: &Names<'_>) -> Result<()> {
        self.socket().bind(address, names)
    }

    fn listen(&self, backlog: u32) -> Result<()> {
        self.socket().listen(backlog)
    }

    fn accept(&self, wait: bool) -> Result<crate::fs::stream::StreamRef> {
        self.socket().accept(wait).map(Endpoint::open)
    }

    fn connect(&self, address: &[u8], names: &Names<'_>, wait: bool) -> Result<()> {
        self.socket().connect(address, names, wait)
    }

    fn send(&self, message: Outgoing<'_>) -> Result<usize> {
        self.socket().send(message)
    }

    fn receive(&self, wanted: Incoming<'_>) -> Result<Received> {
        self.socket().receive(wanted)
    }

    fn shutdown(&self, directions: Directions) -> Result<()> {
        self.socket().close_directions(directions);
        Ok(())
    }

    fn name(&self) -> Address {
        self.socket().address().unwrap_or_else(address::unnamed)
    }

    fn peer_name(&self) -> Result<Address> {
        let peer = self.socket().state.lock().peer.clone().ok_or(Errno::ENOTCONN)?;
        Ok(peer.address().unwrap_or_else(address::unnamed))
    }

    fn option(&self, level: i32, name: u32) -> Result<Value> {
        self.socket().get_option(level, name)
    }

    fn set_option(&self, level: i32, name: u32, value: &[u8], privileged: bool) -> Result<()> {
        if level.cast_unsigned() != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        self.socket().options.set(name, value, privileged)
    }

    fn take_error(&self) -> Option<Errno> {
        self.socket().state.lock().error.take()
    }

    fn set_error(&self, error: Errno) {
        self.socket().state.lock().error = Some(error);
        self.socket().changed.wake_all();
    }

    fn signals_broken_pipe(&self) -> bool {
        self.socket().kind == Kind::Stream
    }

    fn as_unix(&self) -> Option<&Arc<Socket>> {
        Some(self.socket())
    }
}
