//! Sending.

use super::data::{self, Data};
use super::flight::{self, Rights};
use super::packet::Packet;
use super::{
    Ancillary, Directions, Identity, Kind, Outgoing, Phase, Socket, State, address, caller,
    deadline, real_identity, sleep,
};
use crate::errno::{Errno, Result};
use crate::fs::source::Source;
use crate::fs::stream::Events;
use alloc::boxed::Box;
use alloc::sync::Arc;

impl Socket {
    /// `sendmsg(2)`.
    ///
    /// # Errors
    /// ENOTCONN, EISCONN, EOPNOTSUPP, EPIPE, EMSGSIZE, ECONNREFUSED, ECONNRESET, EAGAIN, EINTR, EFAULT,
    /// ENOMEM, ETOOMANYREFS, EPERM, and those of an address.
    pub fn send(self: &Arc<Self>, message: Outgoing<'_>) -> Result<usize> {
        match self.kind {
            Kind::Stream => self.send_stream(message),
            Kind::Datagram => self.send_datagram(message),
            Kind::SeqPacket => {
                let mut state = self.state.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if state.phase != Phase::Connected {
                    return Err(Errno::ENOTCONN);
                }
                drop(state);
                self.send_datagram(Outgoing { address: None, ..message })
            }
        }
    }

    /// Waits until what was sent leaves room for more.
    fn wait_for_room(&self, wait: bool, deadline: Option<u64>) -> Result<()> {
        sleep(&self.changed, deadline, || {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Some(Err(error));
            }
            if state.shutdown.contains(Directions::SEND) {
                return Some(Err(Errno::EPIPE));
            }
            let unread = self.unread.load(core::sync::atomic::Ordering::Relaxed);
            if unread < self.options.send_buffer() {
                return Some(Ok(()));
            }
            (!wait).then_some(Err(Errno::EAGAIN))
        })?
    }

    /// Who sends, if one of the two wants that known.
    fn identity_for(&self, other: &Self, given: Option<Identity>) -> Option<Identity> {
        if given.is_some() {
            return given;
        }
        (self.wants_identity() || other.wants_identity()).then(real_identity)
    }

    fn packet(self: &Arc<Self>, data: Data, len: usize, charge: usize) -> Packet {
        self.unread.fetch_add(charge, core::sync::atomic::Ordering::Relaxed);
        Packet {
            number: 0,
            data,
            start: 0,
            len,
            sender: self.clone(),
            charge,
            identity: None,
            rights: None,
        }
    }

    /// Puts a packet into this socket's queue, if `check` finds nothing against it.
    fn deliver(
        &self,
        mut packet: Packet,
        check: impl FnOnce(&State) -> Result<()>,
    ) -> core::result::Result<(), (Errno, Packet)> {
        let mut flight = packet.rights.is_some().then(flight::lock);
        let mut state = self.state.lock();
        if let Err(error) = check(&state) {
            return Err((error, packet));
        }
        if state.packets.try_reserve(1).is_err() {
            return Err((Errno::ENOMEM, packet));
        }
        packet.number = state.next_packet;
        state.next_packet += 1;
        if let (Some(flight), Some(rights)) = (&mut flight, &mut packet.rights) {
            flight.depart(rights);
        }
        state.packets.push_back(packet);
        drop(state);
        drop(flight);
        self.changed.wake(Events::IN);
        Ok(())
    }

    fn send_stream(self: &Arc<Self>, message: Outgoing<'_>) -> Result<usize> {
        let Outgoing { data, address, ancillary, wait } = message;
        let mut rights = rights(ancillary.files, ancillary.flight_limit)?;
        let peer = {
            let state = self.state.lock();
            if address.is_some() {
                let connected = state.phase == Phase::Connected;
                return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
            }
            let peer = state.peer.clone().ok_or(Errno::ENOTCONN)?;
            if state.shutdown.contains(Directions::SEND) {
                return Err(Errno::EPIPE);
            }
            peer
        };
        let deadline = deadline(self.options.send_timeout());
        let mut done = 0;
        while data.remaining() > 0 {
            match self.send_piece(&peer, data, &mut rights, ancillary.identity, wait, deadline) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn send_piece(
        self: &Arc<Self>,
        peer: &Arc<Self>,
        data: &mut dyn Source,
        rights: &mut Option<Box<Rights>>,
        identity: Option<Identity>,
        wait: bool,
        deadline: Option<u64>,
    ) -> Result<usize> {
        self.wait_for_room(wait, deadline)?;
        // At least two pieces fit into the buffer.
        let limit = (self.options.send_buffer() / 2).saturating_sub(64).max(1);
        let len = data.remaining().min(limit).min(data::MAX_PIECE);
        let bytes = Data::copy_in(data, len)?;
        let mut packet = self.packet(bytes, len, data::charge_of_piece(len));
        packet.identity = self.identity_for(peer, identity);
        packet.rights = rights.take();
        let delivered = peer.deliver(packet, |state| {
            let refuses = state.dead || state.shutdown.contains(Directions::RECEIVE);
            if refuses { Err(Errno::EPIPE) } else { Ok(()) }
        });
        match delivered {
            Ok(()) => Ok(len),
            Err((error, packet)) => {
                drop(packet);
                Err(error)
            }
        }
    }

    fn send_datagram(self: &Arc<Self>, message: Outgoing<'_>) -> Result<usize> {
        let Outgoing { data, address, ancillary, wait } = message;
        let Ancillary { files, identity, flight_limit } = ancillary;
        let mut peer = None;
        match address {
            Some((address, _)) => {
                if address::parse(address)? == address::Parsed::Unnamed {
                    return Err(Errno::EINVAL);
                }
            }
            None => {
                peer = self.state.lock().peer.clone();
                if peer.is_none() {
                    return Err(Errno::ENOTCONN);
                }
            }
        }
        if self.wants_identity() {
            self.bind_to_any()?;
        }
        let len = data.remaining();
        if len > self.options.send_buffer() - 32 {
            return Err(Errno::EMSGSIZE);
        }
        let deadline = deadline(self.options.send_timeout());
        self.wait_for_room(wait, deadline)?;
        let rights = rights(files, flight_limit)?;
        let bytes = Data::copy_in(data, len)?;
        let mut packet = self.packet(bytes, len, data::charge_of_datagram(len));
        packet.rights = rights;
        loop {
            let other = match (peer.take(), address) {
                (Some(peer), _) => peer,
                (None, Some((address, names))) => address::find(address, names, self)?,
                (None, None) => return Err(Errno::ECONNRESET),
            };
            packet.identity = self.identity_for(&other, identity);
            let (error, returned) =
                match other.deliver(packet, |state| self.may_send(&other, state)) {
                    Ok(()) => return Ok(len),
                    Err(refused) => refused,
                };
            packet = returned;
            match error {
                Errno::EAGAIN if wait => {
                    sleep(&other.room, deadline, || {
                        let state = other.state.lock();
                        (state.dead || !state.is_full()).then_some(())
                    })?;
                    // A peer is asked again, a name is looked up again.
                    peer = address.is_none().then_some(other);
                }
                Errno::ESTALE => self.find_dead(&other, address.is_some())?,
                error => return Err(error),
            }
        }
    }

    /// Whether a datagram may be put into another's queue now: EAGAIN if that is full, ESTALE if the
    /// other has ended.
    fn may_send(&self, other: &Self, state: &State) -> Result<()> {
        let is_mutual = state.is_peer(self);
        if state.peer.is_some() && !is_mutual {
            return Err(Errno::EPERM);
        }
        if state.dead {
            return Err(Errno::ESTALE);
        }
        if state.shutdown.contains(Directions::RECEIVE) {
            return Err(Errno::EPIPE);
        }
        if !is_mutual && !self.is(other) && state.is_full() {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// The receiver of a datagram has ended; nothing if another may be found by its name.
    fn find_dead(&self, other: &Arc<Self>, has_address: bool) -> Result<()> {
        if self.kind == Kind::SeqPacket {
            return Err(Errno::EPIPE);
        }
        let was_peer = {
            let mut state = self.state.lock();
            let was_peer = state.is_peer(other);
            if was_peer {
                state.peer = None;
                state.phase = Phase::Idle;
            }
            was_peer
        };
        if was_peer {
            self.lose_peer(other);
            return Err(Errno::ECONNREFUSED);
        }
        if has_address { Ok(()) } else { Err(Errno::ECONNRESET) }
    }
}

fn rights(
    files: alloc::vec::Vec<crate::fs::FileRef>,
    limit: Option<u64>,
) -> Result<Option<Box<Rights>>> {
    Rights::new(files, caller().real.0, limit)
}
