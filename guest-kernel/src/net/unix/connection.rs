//! Connections: listening, accepting, connecting, and the end of a socket.

use super::{
    Directions, Kind, Names, Phase, Socket, State, address, deadline, effective_identity, flight,
    sleep, table,
};
use crate::errno::{Errno, Result};
use crate::fs::stream::Events;
use alloc::sync::Arc;
use linux_raw_sys::net::AF_UNSPEC;

/// No more connections wait, whatever `listen` asks for (`/proc/sys/net/core/somaxconn`).
const MAX_BACKLOG: u32 = 4096;

impl Socket {
    /// `listen(2)`.
    ///
    /// # Errors
    /// EOPNOTSUPP for datagrams, EINVAL if it has no name or is connected.
    pub fn listen(&self, backlog: u32) -> Result<()> {
        if !self.kind.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        let identity = effective_identity();
        let mut state = self.state.lock();
        if state.address.is_none() || state.phase == Phase::Connected {
            return Err(Errno::EINVAL);
        }
        let backlog = crate::memory::usize_from(backlog.min(MAX_BACKLOG).into());
        state.phase = Phase::Listening(backlog);
        state.peer_identity = Some(identity);
        drop(state);
        self.room.wake_all();
        self.changed.wake_all();
        Ok(())
    }

    /// `accept(2)`.
    ///
    /// # Errors
    /// EOPNOTSUPP for datagrams, EINVAL if it does not listen, EAGAIN, EINTR.
    pub fn accept(&self, wait: bool) -> Result<Arc<Self>> {
        if !self.kind.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        let deadline = deadline(self.options.receive_timeout());
        let (socket, was_full) = sleep(&self.changed, deadline, || {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Listening(_)) {
                return Some(Err(Errno::EINVAL));
            }
            let was_full = state.is_full();
            if let Some(socket) = state.pending.pop_front() {
                return Some(Ok((socket, was_full)));
            }
            match (state.shutdown.contains(Directions::RECEIVE), wait) {
                (true, _) => Some(Err(Errno::EINVAL)),
                (false, false) => Some(Err(Errno::EAGAIN)),
                (false, true) => None,
            }
        })??;
        socket.state.lock().waits = false;
        if was_full {
            self.room.wake_all();
        }
        Ok(socket)
    }

    /// `connect(2)`.
    ///
    /// # Errors
    /// EINVAL, EISCONN, ECONNREFUSED, EPROTOTYPE, EPERM, EAGAIN, EINTR, ENOMEM, and those of a path.
    pub fn connect(self: &Arc<Self>, address: &[u8], names: &Names<'_>, wait: bool) -> Result<()> {
        if self.kind == Kind::Datagram {
            self.connect_datagrams(address, names)
        } else {
            self.connect_stream(address, names, wait)
        }
    }

    fn connect_stream(
        self: &Arc<Self>,
        address: &[u8],
        names: &Names<'_>,
        wait: bool,
    ) -> Result<()> {
        if address::parse(address)? == address::Parsed::Unnamed {
            return Err(Errno::EINVAL);
        }
        if self.wants_identity() {
            self.bind_to_any()?;
        }
        let deadline = deadline(self.options.send_timeout());
        // What the listener will accept.
        let accepted = Self::new(self.kind)?;
        let result = loop {
            let other = match address::find(address, names, self) {
                Ok(other) => other,
                Err(error) => break Err(error),
            };
            match self.connect_to(&other, &accepted) {
                Err(Errno::EAGAIN) if wait => {}
                Err(Errno::ESTALE) => continue,
                result => break result,
            }
            let slept = sleep(&other.room, deadline, || {
                let state = other.state.lock();
                (state.dead || !state.is_full()).then_some(())
            });
            if let Err(error) = slept {
                break Err(error);
            }
        };
        if result.is_err() {
            accepted.release();
        }
        result
    }

    /// Connects with a listener, which will accept `accepted`; EAGAIN if too many others wait there,
    /// ESTALE if it has just ended.
    fn connect_to(self: &Arc<Self>, other: &Arc<Self>, accepted: &Arc<Self>) -> Result<()> {
        if self.is(other) {
            let is_listening = matches!(self.state.lock().phase, Phase::Listening(_));
            return Err(if is_listening { Errno::EINVAL } else { Errno::ECONNREFUSED });
        }
        let identity = effective_identity();
        let (mut own, mut others) = self.lock_both(other);
        if others.dead {
            return Err(Errno::ESTALE);
        }
        let listens = matches!(others.phase, Phase::Listening(_));
        if !listens || others.shutdown.contains(Directions::RECEIVE) {
            return Err(Errno::ECONNREFUSED);
        }
        if others.is_full() {
            return Err(Errno::EAGAIN);
        }
        match own.phase {
            Phase::Idle => {}
            Phase::Connected => return Err(Errno::EISCONN),
            Phase::Listening(_) => return Err(Errno::EINVAL),
        }
        others.pending.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        {
            // Nobody else knows the new socket.
            let mut new = accepted.state.lock_in_order();
            new.peer = Some(self.clone());
            new.peer_identity = Some(identity);
            new.phase = Phase::Connected;
            new.waits = true;
            new.address.clone_from(&others.address);
        }
        accepted.options.inherit(&other.options);
        own.peer = Some(accepted.clone());
        own.peer_identity = others.peer_identity;
        own.phase = Phase::Connected;
        others.pending.push_back(accepted.clone());
        drop((own, others));
        other.changed.wake(Events::IN);
        self.changed.wake_all();
        Ok(())
    }

    fn connect_datagrams(self: &Arc<Self>, address: &[u8], names: &Names<'_>) -> Result<()> {
        let family = address.first_chunk().map(|family| u16::from_le_bytes(*family));
        let family = u32::from(family.ok_or(Errno::EINVAL)?);
        let other = if family == AF_UNSPEC {
            None
        } else {
            if address::parse(address)? == address::Parsed::Unnamed {
                return Err(Errno::EINVAL);
            }
            if self.wants_identity() {
                self.bind_to_any()?;
            }
            let other = address::find(address, names, self)?;
            let mut state = other.state.lock();
            if state.dead {
                return Err(Errno::ECONNREFUSED);
            }
            if state.peer.is_some() && !state.is_peer(self) {
                return Err(Errno::EPERM);
            }
            state.remember_connected(self)?;
            drop(state);
            Some(other)
        };
        let old = {
            let mut state = self.state.lock();
            state.phase = if other.is_some() { Phase::Connected } else { Phase::Idle };
            core::mem::replace(&mut state.peer, other.clone())
        };
        if let Some(old) = old
            && other.is_none_or(|other| !other.is(&old))
        {
            self.lose_peer(&old);
        }
        self.changed.wake_all();
        Ok(())
    }

    /// A socket for datagrams is not connected to `old` any more: what came from there is lost.
    pub(super) fn lose_peer(&self, old: &Arc<Self>) {
        let lost = core::mem::take(&mut self.state.lock().packets);
        let any = !lost.is_empty();
        drop(lost);
        let mut state = old.state.lock();
        state.forget_connected(self);
        let tells = any && !state.dead && state.is_peer(self);
        if tells {
            state.error = Some(Errno::ECONNRESET);
        }
        drop(state);
        if tells {
            old.changed.wake_all();
        }
        if any {
            self.wake_senders();
        }
    }

    /// There is room in the queue again: for those who wait for it, and those who poll.
    pub(super) fn wake_senders(&self) {
        self.room.wake_all();
        let mut at = 0;
        loop {
            let sender = {
                let state = self.state.lock();
                let Some(sender) = state.connected.get(at) else { return };
                sender.upgrade()
            };
            if let Some(sender) = sender {
                sender.changed.wake(Events::OUT);
            }
            at += 1;
        }
    }

    /// The file is closed.
    pub(super) fn release(&self) {
        let binding = self.state.lock().binding.take();
        if let Some(binding) = binding {
            address::release(&binding);
        }
        let (peer, packets, pending, connected) = {
            let mut state = self.state.lock();
            let State { peer, packets, pending, connected, .. } = &mut *state;
            let taken = (
                peer.take(),
                core::mem::take(packets),
                core::mem::take(pending),
                core::mem::take(connected),
            );
            state.dead = true;
            state.shutdown = Directions::BOTH;
            state.phase = Phase::Idle;
            taken
        };
        table::remove(self);
        if let Some(peer) = peer {
            let mut state = peer.state.lock();
            if self.kind == Kind::Datagram {
                state.forget_connected(self);
            } else {
                state.shutdown = Directions::BOTH;
                if !packets.is_empty() {
                    state.error = Some(Errno::ECONNRESET);
                }
            }
            drop(state);
            peer.changed.wake_all();
        }
        for waiting in pending {
            waiting.refuse();
        }
        drop(packets);
        for sender in connected.iter().filter_map(alloc::sync::Weak::upgrade) {
            sender.changed.wake_all();
        }
        self.room.wake_all();
        self.changed.wake_all();
        flight::collect();
    }

    /// Ends a connection that nobody has accepted.
    fn refuse(&self) {
        let peer = self.state.lock().peer.clone();
        self.release();
        if let Some(peer) = peer {
            peer.state.lock().error = Some(Errno::ECONNRESET);
            peer.changed.wake_all();
        }
    }
}
