//! A socket as an open file: reading, writing, polling, ioctls.

use super::{Ancillary, Directions, Incoming, Kind, Outgoing, Phase, Received, Socket};
use crate::errno::{Errno, Result};
use crate::fs::Metadata;
use crate::fs::metadata::{S_IFSOCK, devices};
use crate::fs::source::{Sink, Source};
use crate::fs::stream::{Events, Stream, StreamRef};
use crate::memory::{UserPtr, UserReader, UserWriter};
use crate::sched::WaitQueue;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::ioctl::{FIONREAD, TIOCOUTQ};

/// What an open file has of a socket; with it the socket ends.
pub struct Endpoint(Arc<Socket>);

impl Endpoint {
    /// The stream of a new open file.
    pub fn open(socket: Arc<Socket>) -> StreamRef {
        StreamRef::Shared(Arc::new(Self(socket)))
    }

    /// The socket.
    pub const fn socket(&self) -> &Arc<Socket> {
        &self.0
    }

    fn receive_plain(&self, buffer: &mut dyn Sink, wait: bool) -> Result<usize> {
        let wanted = Incoming { buffer, wait, peek: false, all: false };
        let Received { count, .. } = self.0.receive(wanted)?;
        Ok(count)
    }

    fn send_plain(&self, data: &mut dyn Source, wait: bool) -> Result<usize> {
        self.0.send(Outgoing { data, address: None, ancillary: Ancillary::default(), wait })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Socket {
    /// Bytes that `FIONREAD` tells of: all, or those of the first message.
    fn readable(&self) -> Result<usize> {
        let state = self.state.lock();
        if matches!(state.phase, Phase::Listening(_)) {
            return Err(Errno::EINVAL);
        }
        let mut lengths = state.packets.iter().map(|packet| packet.len - packet.start);
        Ok(if self.kind == Kind::Datagram { lengths.next().unwrap_or(0) } else { lengths.sum() })
    }

    fn events(&self) -> Events {
        let state = self.state.lock();
        let (phase, shutdown) = (state.phase, state.shutdown);
        let mut events = Events::ERROR.when(state.error.is_some());
        let ends = shutdown.contains(Directions::RECEIVE);
        events = events.with(Events::READ_HANGUP.with(Events::IN).when(ends));
        let is_idle = self.kind.is_connected_kind() && phase == Phase::Idle;
        let hangs_up = shutdown.contains(Directions::BOTH) || is_idle;
        events = events.with(Events::HANGUP.when(hangs_up));
        let has_some = !state.packets.is_empty() || !state.pending.is_empty();
        events = events.with(Events::IN.when(has_some));
        let peer = state.peer.clone().filter(|_| self.kind != Kind::Stream);
        drop(state);
        let mut writable = !matches!(phase, Phase::Listening(_)) && self.is_writable();
        if let (true, Some(peer)) = (writable, peer) {
            // A message has to fit into the receiver's queue, too.
            let state = peer.state.lock();
            writable = state.is_peer(self) || !state.is_full();
        }
        events.with(Events::OUT.with(Events::OUT_BAND).when(writable))
    }
}

impl Stream for Endpoint {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        self.receive_plain(buffer, wait)
    }

    fn read_kernel(&self, mut target: &mut [u8], wait: bool) -> Result<usize> {
        self.receive_plain(&mut target, wait)
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.send_plain(data, wait)
    }

    fn write_kernel(&self, mut bytes: &[u8], wait: bool) -> Result<usize> {
        self.send_plain(&mut bytes, wait)
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            device: devices::SOCKET,
            number: self.0.number,
            mode: S_IFSOCK | self.0.permissions.load(Ordering::Relaxed),
            links: 1,
            user: self.0.owner.0,
            group: self.0.owner.1,
            accessed: self.0.born,
            modified: self.0.born,
            changed: self.0.born,
            ..Metadata::default()
        }
    }

    fn set_permissions(&self, mode: u32) -> Result<()> {
        self.0.permissions.store(mode, Ordering::Relaxed);
        Ok(())
    }

    fn name(&self) -> Vec<u8> {
        alloc::format!("socket:[{}]", self.0.number).into_bytes()
    }

    fn poll(&self) -> Events {
        self.0.events()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.changed)
    }

    fn open_error(&self) -> Option<Errno> {
        // Not even through /proc/self/fd.
        Some(Errno::ENXIO)
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        let count = match request {
            FIONREAD => self.0.readable()?,
            // SIOCOUTQ has the same number.
            TIOCOUTQ => self.0.unread.load(Ordering::Relaxed),
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(argument).write(i32::try_from(count).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn as_socket(&self) -> Option<&dyn crate::net::Socket> {
        Some(self)
    }

    fn signals_broken_pipe(&self) -> bool {
        crate::net::Socket::signals_broken_pipe(self)
    }
}
