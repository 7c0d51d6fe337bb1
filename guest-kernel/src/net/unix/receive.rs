//! Receiving.

use super::data::Data;
use super::flight;
use super::{Directions, Identity, Incoming, Kind, Phase, Received, Socket, deadline, sleep};
use crate::errno::{Errno, Result};
use crate::fs::services::now;
use alloc::sync::Arc;
use linux_raw_sys::net::SO_TIMESTAMP;

/// The right to take out packets, which others wait for meanwhile.
struct Reading<'a>(&'a Socket);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.reading = false;
        let wakes = core::mem::take(&mut state.readers_wait);
        drop(state);
        if wakes {
            self.0.changed.wake_sleepers();
        }
    }
}

/// The front of the queue, for the time of a copy.
struct Front {
    number: u64,
    data: Data,
    start: usize,
    len: usize,
    sender: Arc<Socket>,
    identity: Option<Identity>,
}

impl Socket {
    /// `recvmsg(2)`.
    ///
    /// # Errors
    /// ENOTCONN, EINVAL, ECONNRESET, EAGAIN, EINTR, EFAULT.
    pub fn receive(&self, wanted: Incoming<'_>) -> Result<Received> {
        if self.kind == Kind::Stream {
            let mut received = self.receive_stream(wanted)?;
            // As on Linux, the end of a stream comes from nobody.
            if self.wants_identity() && received.identity.is_none() {
                received.identity = Some(Identity { pid: 0, user: 0, group: 0 });
            }
            return Ok(received);
        }
        let received = self.receive_message(wanted)?;
        let time = (received.is_message && self.options.is_on(SO_TIMESTAMP)).then(now);
        Ok(Received { time, ..received })
    }

    /// Waits for others who take out packets. That is not blocking in the sense of `O_NONBLOCK`.
    fn begin_reading(&self) -> Result<Reading<'_>> {
        self.changed.wait_until(|| {
            let mut state = self.state.lock();
            if state.reading {
                state.readers_wait = true;
                return None;
            }
            state.reading = true;
            Some(())
        })?;
        Ok(Reading(self))
    }

    /// Takes the bytes of a packet out for a copy; the packet stays in its place.
    fn take_front(&self, at: usize) -> Option<Front> {
        let mut state = self.state.lock();
        let packet = state.packets.get_mut(at)?;
        Some(Front {
            number: packet.number,
            data: core::mem::take(&mut packet.data),
            start: packet.start,
            len: packet.len,
            sender: packet.sender.clone(),
            identity: packet.identity,
        })
    }

    /// Puts them back, if the packet is still there.
    fn put_back(&self, at: usize, number: u64, data: Data) {
        let mut state = self.state.lock();
        if let Some(packet) = state.packets.get_mut(at).filter(|packet| packet.number == number) {
            packet.data = data;
        }
    }

    /// Why nothing can be read while no packet waits at `at`; `None` to sleep.
    fn why_nothing(&self, wait: bool) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Some(Err(error));
        }
        if state.shutdown.contains(Directions::RECEIVE) {
            // A socket for datagrams may yet receive some.
            let ended = wait || self.kind != Kind::Datagram;
            return Some(if ended { Ok(()) } else { Err(Errno::EAGAIN) });
        }
        (!wait).then_some(Err(Errno::EAGAIN))
    }

    fn sleep_for_packet(&self, at: usize, deadline: Option<u64>) -> Result<()> {
        sleep(&self.changed, deadline, || {
            let state = self.state.lock();
            let ready = state.packets.len() > at
                || state.error.is_some()
                || state.shutdown.contains(Directions::RECEIVE);
            ready.then_some(())
        })
    }

    fn receive_stream(&self, wanted: Incoming<'_>) -> Result<Received> {
        let Incoming { buffer, wait, peek, all } = wanted;
        if self.state.lock().phase != Phase::Connected {
            return Err(Errno::EINVAL);
        }
        let wants_identity = self.wants_identity();
        let size = buffer.remaining();
        let low = if all { size } else { self.options.receive_low().min(size) };
        let target = low.max(1);
        let deadline = deadline(self.options.receive_timeout());
        let mut received = Received::default();
        let mut first: Option<(Arc<Self>, Option<Identity>)> = None;
        let mut at = 0;
        // What a look passes over.
        let mut skip = if peek { self.options.peek_offset() } else { 0 };
        let mut reading = self.begin_reading()?;
        let result = loop {
            let Some(front) = self.take_front(at) else {
                if received.count >= target {
                    break Ok(());
                }
                if let Some(result) = self.why_nothing(wait) {
                    break result;
                }
                drop(reading);
                if let Err(error) = self.sleep_for_packet(at, deadline) {
                    return finish(received, first, wants_identity, Err(error));
                }
                reading = self.begin_reading()?;
                continue;
            };
            if skip > 0 && skip >= front.len - front.start {
                skip -= front.len - front.start;
                self.put_back(at, front.number, front.data);
                at += 1;
                continue;
            }
            // What others sent is not mixed with it, if it matters who sent it.
            let other = first.as_ref().is_some_and(|(_, identity)| *identity != front.identity);
            if wants_identity && other {
                self.put_back(at, front.number, front.data);
                break Ok(());
            }
            let Front { number, data, start, len, sender, identity } = front;
            first.get_or_insert((sender, identity));
            let start = start + core::mem::take(&mut skip);
            let want = (len - start).min(buffer.remaining());
            match data.copy_out(start, want, buffer) {
                Ok(count) if count == want => {}
                failed => {
                    // As on Linux, a piece that cannot be copied in full stays.
                    self.put_back(at, number, data);
                    break Err(failed.err().unwrap_or(Errno::EFAULT));
                }
            }
            received.count += want;
            if peek {
                self.options.move_peek_offset(want);
                let (copied, more) = self.look(at, number, data);
                received.files = copied;
                at += 1;
                if !received.files.is_empty() || !more || buffer.remaining() == 0 {
                    break Ok(());
                }
            } else {
                self.options.shift_peek_offset(want);
                let (files, is_over) = self.consume(number, data, want);
                received.files = files;
                if !is_over || !received.files.is_empty() || buffer.remaining() == 0 {
                    break Ok(());
                }
            }
        };
        drop(reading);
        finish(received, first, wants_identity, result)
    }

    /// After a look at a packet: copies of its files, and whether another follows.
    fn look(
        &self,
        at: usize,
        number: u64,
        data: Data,
    ) -> (alloc::vec::Vec<crate::fs::FileRef>, bool) {
        let flight = flight::lock();
        let mut state = self.state.lock();
        let more = state.packets.len() > at + 1;
        let Some(packet) = state.packets.get_mut(at).filter(|packet| packet.number == number)
        else {
            return (alloc::vec::Vec::new(), false);
        };
        packet.data = data;
        let files = packet.rights.as_ref().and_then(|rights| rights.copy(&flight).ok());
        (files.unwrap_or_default(), more)
    }

    /// Takes bytes out of the first packet: its files, and whether nothing is left of it.
    fn consume(
        &self,
        number: u64,
        data: Data,
        count: usize,
    ) -> (alloc::vec::Vec<crate::fs::FileRef>, bool) {
        let (rights, over) = {
            let mut state = self.state.lock();
            let Some(packet) = state.packets.front_mut().filter(|packet| packet.number == number)
            else {
                return (alloc::vec::Vec::new(), true);
            };
            packet.start += count;
            packet.data = data;
            let rights = packet.rights.take();
            let is_over = packet.start >= packet.len;
            (rights, if is_over { state.packets.pop_front() } else { None })
        };
        let is_over = over.is_some();
        drop(over);
        (rights.map(flight::land).unwrap_or_default(), is_over)
    }

    fn receive_message(&self, wanted: Incoming<'_>) -> Result<Received> {
        let Incoming { buffer, wait, peek, .. } = wanted;
        if self.kind == Kind::SeqPacket && self.state.lock().phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        let wants_identity = self.wants_identity();
        let deadline = deadline(self.options.receive_timeout());
        let (reading, at, skip) = loop {
            let reading = self.begin_reading()?;
            let waiting;
            {
                let mut state = self.state.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                // Where a look begins: behind whole messages, and within one.
                let mut skip = if peek { self.options.peek_offset() } else { 0 };
                let at = state.packets.iter().position(|packet| {
                    let is_behind = skip == 0 || skip < packet.len;
                    skip -= if is_behind { 0 } else { packet.len };
                    is_behind
                });
                if let Some(at) = at {
                    break (reading, at, skip);
                }
                waiting = state.packets.len();
            }
            match self.why_nothing(wait) {
                Some(result) => return result.map(|()| Received::default()),
                None => drop(reading),
            }
            self.sleep_for_packet(waiting, deadline)?;
        };
        if peek {
            let Some(Front { number, data, len, sender, identity, .. }) = self.take_front(at)
            else {
                return Err(Errno::EAGAIN);
            };
            let want = (len - skip).min(buffer.remaining());
            let copied = data.copy_out(skip, want, buffer);
            let (files, _) = self.look(at, number, data);
            drop(reading);
            let received = message(copied, want, len - skip)?;
            self.options.move_peek_offset(want);
            let received = Received { files, ..received };
            return finish(received, Some((sender, identity)), wants_identity, Ok(()));
        }
        let (packet, was_full) = {
            let mut state = self.state.lock();
            let was_full = state.is_full();
            (state.packets.pop_front(), was_full)
        };
        drop(reading);
        let mut packet = packet.ok_or(Errno::EAGAIN)?;
        if was_full {
            self.wake_senders();
        }
        self.options.shift_peek_offset(packet.len);
        let want = packet.len.min(buffer.remaining());
        let received = message(packet.data.copy_out(0, want, buffer), want, packet.len)?;
        let files = packet.rights.take().map(flight::land).unwrap_or_default();
        let first = (packet.sender.clone(), packet.identity);
        drop(packet);
        finish(Received { files, ..received }, Some(first), wants_identity, Ok(()))
    }
}

fn message(copied: Result<usize>, want: usize, length: usize) -> Result<Received> {
    match copied {
        Ok(count) if count == want => {
            Ok(Received { count, length, is_message: true, ..Received::default() })
        }
        Ok(_) => Err(Errno::EFAULT),
        Err(error) => Err(error),
    }
}

/// Adds who sent it. What was read counts more than an error that came after it.
fn finish(
    mut received: Received,
    first: Option<(Arc<Socket>, Option<Identity>)>,
    wants_identity: bool,
    result: Result<()>,
) -> Result<Received> {
    if received.count == 0 {
        result?;
    }
    if let Some((sender, identity)) = first {
        received.address = sender.address();
        if wants_identity {
            received.identity = Some(identity.unwrap_or(Identity::UNKNOWN));
        }
    }
    received.length = received.length.max(received.count);
    Ok(received)
}
