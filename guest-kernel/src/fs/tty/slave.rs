//! The side of a terminal that programs use.

use super::discipline::Demand;
use super::ioctl;
use super::output::LONGEST;
use super::{Side, Tty, job};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::fs::stream::{Events, Stream};
use crate::memory::{UserReader, UserWriter};
use crate::sched::{self, WaitQueue};
use crate::signal::number::SIGTTIN;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use linux_raw_sys::general::{O_ACCMODE, O_WRONLY, TOSTOP};

/// VTIME counts tenths of a second.
const TENTH_NS: u64 = 100_000_000;
/// Bytes of a program that are turned into what the screen shows at once.
const OUTPUT_STEP: usize = 512;

/// A terminal, as one open file has it.
pub struct Slave {
    tty: Arc<Tty>,
    /// Hang-ups that there had been when it was opened.
    hang_ups: u32,
    readable: bool,
}

/// Opens a terminal. Unless `free`, it may become the controlling terminal of who opens it.
///
/// # Errors
/// EIO if the other side is gone or has not unlocked it, EBUSY.
pub fn open_slave(tty: Arc<Tty>, flags: u32, free: bool) -> Result<Arc<Slave>> {
    let readable = flags & O_ACCMODE != O_WRONLY;
    let hang_ups = {
        let mut state = tty.state.lock();
        if tty.side == Side::Master && (!state.master.open || state.master.locked) {
            return Err(Errno::EIO);
        }
        if state.exclusive[0] {
            drop(state);
            job::need(Capability::SysAdmin, Errno::EBUSY)?;
            state = tty.state.lock();
        }
        state.opens += 1;
        state.left = false;
        state.hang_ups
    };
    if !free {
        job::opened(&tty, readable);
    }
    Ok(Arc::new(Slave { tty, hang_ups, readable }))
}

impl Drop for Slave {
    fn drop(&mut self) {
        let left = {
            let mut state = self.tty.state.lock();
            state.opens -= 1;
            state.left = state.opens == 0;
            state.left
        };
        if left {
            self.tty.master_queue.wake_all();
        }
    }
}

impl Slave {
    /// The terminal.
    pub const fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// Whether it was opened to be read.
    pub const fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether it was hung up since it was opened.
    pub fn is_hung_up(&self) -> bool {
        self.tty.state.lock().hang_ups != self.hang_ups
    }

    /// There is more room for what the user types, and for the echoes of it.
    fn taken(&self) {
        if self.tty.side == Side::Console {
            if let Some(services) = services() {
                services.terminal_listen();
            }
            return;
        }
        let (outcome, group) = self.tty.state.lock().feed();
        self.tty.settle(outcome, group);
    }

    /// Takes what a read returns; `None` if it was hung up.
    fn take(&self, bytes: &mut [u8]) -> Option<usize> {
        let mut state = self.tty.state.lock();
        (state.hang_ups == self.hang_ups).then(|| state.discipline.take(bytes))
    }

    /// Reads into the kernel's memory.
    fn read_bytes(&self, bytes: &mut [u8], wait: bool) -> Result<usize> {
        let mut waited = false;
        loop {
            let (demand, before) = {
                let mut state = self.tty.state.lock();
                if state.hang_ups != self.hang_ups {
                    // Whoever waits as the other side goes is told of an error, as on Linux.
                    let is_error = waited && self.tty.side == Side::Master && !state.master.open;
                    return if is_error { Err(Errno::EIO) } else { Ok(0) };
                }
                let demand = state.discipline.demand(bytes.len());
                if demand == Demand::Ready {
                    return Ok(state.discipline.take(bytes));
                }
                let part = state.discipline.has_part();
                if !wait {
                    // Less than VMIN is better than nothing to whoever does not wait.
                    return if part {
                        Ok(state.discipline.take(bytes))
                    } else {
                        Err(Errno::EAGAIN)
                    };
                }
                (demand, state.discipline.readable_bytes())
            };
            let deadline = match demand {
                Demand::InputWithin(tenths) => {
                    let now = services().ok_or(Errno::EIO)?.monotonic_ns();
                    Some(now + u64::from(tenths) * TENTH_NS)
                }
                Demand::Ready | Demand::Input => None,
            };
            let changed = || {
                let state = self.tty.state.lock();
                let ready = state.discipline.demand(bytes.len()) == Demand::Ready;
                let more = state.discipline.readable_bytes() != before;
                (ready || more || state.hang_ups != self.hang_ups).then_some(())
            };
            match sched::wait(&[&self.tty.queue], deadline, changed) {
                Ok(Some(())) => waited = true,
                Ok(None) => return Ok(self.take(bytes).unwrap_or(0)),
                Err(error) => {
                    let part = self.tty.state.lock().discipline.has_part();
                    return match self.take(bytes) {
                        Some(count) if part && count > 0 => Ok(count),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    fn check_write(&self) -> Result<()> {
        let stops = {
            let state = self.tty.state.lock();
            if state.hang_ups != self.hang_ups {
                return Err(Errno::EIO);
            }
            state.discipline.termios().has_local(TOSTOP)
        };
        if stops { job::check_change(&self.tty) } else { Ok(()) }
    }

    /// Writes all bytes, or as many as there is room for.
    fn put(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let step = match self.tty.side {
                Side::Console => self.put_to_screen(&bytes[done..], wait),
                Side::Master => self.put_to_master(&bytes[done..]),
            };
            match step {
                Ok(0) if !wait => return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) },
                Ok(count) => done += count,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
            if done < bytes.len()
                && wait
                && let Err(error) = sched::wait(&[&self.tty.queue], None, || self.has_room())
            {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(done)
    }

    fn has_room(&self) -> Option<()> {
        let state = self.tty.state.lock();
        let room = self.tty.side == Side::Console || state.output_room() >= LONGEST;
        let moves = room && !state.discipline.is_stopped();
        (moves || state.hang_ups != self.hang_ups).then_some(())
    }

    fn put_to_screen(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        let bytes = &bytes[..bytes.len().min(OUTPUT_STEP)];
        let mut screen = Vec::new();
        let count = {
            let mut state = self.tty.state.lock();
            if state.hang_ups != self.hang_ups {
                return Err(Errno::EIO);
            }
            state.discipline.show(bytes, &mut screen, LONGEST * OUTPUT_STEP)?
        };
        if !screen.is_empty() {
            services().ok_or(Errno::EIO)?.terminal_write(&screen, wait)?;
        }
        Ok(count)
    }

    fn put_to_master(&self, bytes: &[u8]) -> Result<usize> {
        let mut screen = Vec::new();
        let mut state = self.tty.state.lock();
        if state.hang_ups != self.hang_ups {
            return Err(Errno::EIO);
        }
        // What was typed before is shown before.
        state.show_echoes();
        let limit = state.output_room();
        let count = state.discipline.show(bytes, &mut screen, limit)?;
        state.master.outgoing.try_reserve(screen.len()).map_err(|_| Errno::ENOMEM)?;
        state.master.outgoing.extend(&screen);
        drop(state);
        if !screen.is_empty() {
            self.tty.master_queue.wake_all();
        }
        Ok(count)
    }
}

impl Stream for Slave {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if self.is_hung_up() {
            return Ok(0);
        }
        job::check(&self.tty, SIGTTIN)?;
        let len = buffer.remaining().min(super::discipline::CAPACITY);
        if len == 0 {
            return Ok(0);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        let count = self.read_bytes(&mut bytes, wait)?;
        self.taken();
        buffer.write_slice(&bytes[..count])
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.check_write()?;
        let mut done = 0;
        while data.remaining() > 0 {
            let mut bytes = [0; OUTPUT_STEP];
            let step = data
                .read(&mut bytes)
                .and_then(|count| self.put(&bytes[..count], wait).map(|put| (put, put < count)));
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
        self.check_write()?;
        self.put(bytes, wait)
    }

    fn poll(&self) -> Events {
        let state = self.tty.state.lock();
        if state.hang_ups == self.hang_ups {
            state.poll(self.tty.side)
        } else {
            Events::IN.with(Events::OUT).with(Events::ERROR).with(Events::HANGUP)
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.queue)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        ioctl::of_slave(self, request, argument)
    }
}
