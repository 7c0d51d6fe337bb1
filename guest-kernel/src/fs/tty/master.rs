//! The other side of a pseudo-terminal (`pty(7)`): a program that plays the user.

use super::termios::Termios;
use super::{QUEUE_LIMIT, Side, Tty, ioctl, packet, registry, shrink};
use crate::errno::{Errno, Result};
use crate::fs::stream::{Events, Stream};
use crate::memory::{UserReader, UserWriter};
use crate::sched::WaitQueue;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Bytes that are copied at once.
const STEP: usize = 1024;

/// The master: there is one of each pseudo-terminal, and with it that ends.
pub struct Master {
    tty: Arc<Tty>,
}

/// Makes a pseudo-terminal.
///
/// # Errors
/// ENOSPC if there are too many, ENOMEM.
pub fn open_master() -> Result<Arc<Master>> {
    let tty = registry::allocate(|index| Tty::new(index, Side::Master, Termios::PSEUDO))?;
    Ok(Arc::new(Master { tty }))
}

impl Drop for Master {
    fn drop(&mut self) {
        self.tty.state.lock().master.open = false;
        self.tty.hang_up();
    }
}

impl Master {
    /// The terminal.
    pub const fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// Takes what a read returns into `bytes`; `None` if there is nothing yet.
    fn take(&self, bytes: &mut [u8]) -> Result<Option<usize>> {
        let mut state = self.tty.state.lock();
        let master = &mut state.master;
        if master.packet && master.status != 0 {
            bytes[0] = core::mem::take(&mut master.status);
            return Ok(Some(1));
        }
        if master.outgoing.is_empty() {
            return if state.left { Err(Errno::EIO) } else { Ok(None) };
        }
        let first = usize::from(master.packet);
        if master.packet {
            bytes[0] = packet::DATA;
        }
        let count = master.outgoing.len().min(bytes.len() - first);
        for (target, byte) in bytes[first..].iter_mut().zip(master.outgoing.drain(..count)) {
            *target = byte;
        }
        shrink(&mut master.outgoing);
        Ok(Some(first + count))
    }

    /// Gives the terminal bytes, as many as there is room for.
    fn put(&self, bytes: &[u8]) -> Result<usize> {
        let (count, outcome, group) = {
            let mut state = self.tty.state.lock();
            if state.master.stopped {
                return Ok(0);
            }
            let room = QUEUE_LIMIT.saturating_sub(state.master.incoming.len());
            let count = bytes.len().min(room);
            state.master.incoming.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
            state.master.incoming.extend(&bytes[..count]);
            let (outcome, group) = state.feed();
            (count, outcome, group)
        };
        if count > 0 {
            self.tty.settle(outcome, group);
        }
        Ok(count)
    }

    fn put_all(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.put(&bytes[done..]) {
                Ok(0) if !wait => return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) },
                Ok(count) => done += count,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
            if done < bytes.len()
                && wait
                && let Err(error) = self.tty.master_queue.wait_until(|| self.has_room())
            {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(done)
    }

    fn has_room(&self) -> Option<()> {
        let state = self.tty.state.lock();
        (state.master.incoming.len() < QUEUE_LIMIT && !state.master.stopped).then_some(())
    }
}

impl Stream for Master {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        let len = buffer.remaining().min(super::KEPT_OUTPUT);
        if len == 0 {
            return Ok(0);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        let count = match self.take(&mut bytes)? {
            Some(count) => count,
            None if !wait => return Err(Errno::EAGAIN),
            None => self.tty.master_queue.wait_until(|| self.take(&mut bytes).transpose())??,
        };
        // There is room again for output, and for echoes that found none.
        let (outcome, group) = self.tty.state.lock().feed();
        self.tty.settle(outcome, group);
        buffer.write_slice(&bytes[..count])
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        let mut done = 0;
        while data.remaining() > 0 {
            let mut bytes = [0; STEP];
            let step = data.read(&mut bytes).and_then(|count| {
                self.put_all(&bytes[..count], wait).map(|put| (put, put < count))
            });
            match step {
                Ok((count, ends)) => {
                    done += count;
                    if ends {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_kernel(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        self.put_all(bytes, wait)
    }

    fn poll(&self) -> Events {
        let state = self.tty.state.lock();
        let master = &state.master;
        let has_status = master.packet && master.status != 0;
        let room = master.incoming.len() < QUEUE_LIMIT && !master.stopped;
        Events::IN
            .when(has_status || !master.outgoing.is_empty())
            .with(Events::URGENT.when(has_status))
            .with(Events::HANGUP.when(state.left))
            .with(Events::OUT.when(room))
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.master_queue)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        ioctl::of_master(self, request, argument)
    }
}
