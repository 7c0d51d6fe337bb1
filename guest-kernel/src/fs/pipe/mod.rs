//! Pipes and FIFOs (`pipe(7)`).
//!
//! The bytes are in pages, of which a pipe has a limited number; small writes share one. A program's
//! memory is copied with the lock released: whoever copies has reserved its side of the pipe
//! (`reading`, `writing`), and the pages it works on belong to it until it is done. That also makes
//! writes of up to PIPE_BUF bytes atomic.

mod ring;
mod transfer;

use super::Timestamp;
use super::metadata::{Metadata, S_IFIFO, devices};
use super::services::now;
use super::source::Source;
use super::stream::{Events, Stream};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE_SIZE, UserPtr, UserReader, UserWriter};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::ioctl::FIONREAD;
use ring::{Buffer, Ring};

/// Bytes that a pipe can be made to hold without privileges (`/proc/sys/fs/pipe-max-size`).
pub const MAX_CAPACITY: usize = 1 << 20;
/// Bytes that any pipe can be made to hold (Linux: `round_pipe_size`).
const LARGEST: usize = 1 << 31;

/// What changes of a pipe.
struct PipeState {
    ring: Ring,
    readers: usize,
    writers: usize,
    /// How often the pipe was opened for reading and for writing: an opener of a FIFO waits for
    /// the other side to come, even if it is gone again.
    opened: [u64; 2],
    reading: bool,
    writing: bool,
}

/// A pipe.
pub struct Pipe {
    state: SpinLock<PipeState>,
    /// Those who wait for bytes, for the other side to come, or to be the one who reads.
    readers: WaitQueue,
    /// Those who wait for room, or to be the one who writes.
    writers: WaitQueue,
    number: u64,
    born: Timestamp,
    /// Permission bits, for a pipe without a name.
    permissions: AtomicU32,
}

/// What an open file does with a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Reads from it.
    pub read: bool,
    /// Writes to it.
    pub write: bool,
}

/// An end of a pipe, as an open file has it.
pub struct End {
    pipe: Arc<Pipe>,
    access: Access,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0x1_0000);

impl PipeState {
    /// Whether there is something to read; `false` at the end.
    fn content(&self) -> Result<bool> {
        match (self.ring.is_empty(), self.writers) {
            (false, _) => Ok(true),
            (true, 0) => Ok(false),
            (true, _) => Err(Errno::EAGAIN),
        }
    }

    /// Whether a page can be added.
    fn room(&self) -> Result<()> {
        if self.readers == 0 {
            Err(Errno::EPIPE)
        } else if self.ring.is_full() {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    }
}

impl Pipe {
    /// A pipe with neither readers nor writers.
    pub fn new() -> Arc<Self> {
        let state = PipeState {
            ring: Ring::new(),
            readers: 0,
            writers: 0,
            opened: [0; 2],
            reading: false,
            writing: false,
        };
        Arc::new(Self {
            state: SpinLock::new(state),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            born: now(),
            permissions: AtomicU32::new(0o600),
        })
    }

    /// The reading and the writing end of a new pipe.
    pub fn pair() -> (Arc<End>, Arc<End>) {
        let pipe = Self::new();
        let reader = End::new(pipe.clone(), Access { read: true, write: false });
        (reader, End::new(pipe, Access { read: false, write: true }))
    }

    /// Reserves the reading side of a pipe that is not empty, or finds its end.
    fn begin_read(&self) -> Option<Result<bool>> {
        let mut state = self.state.lock();
        if state.reading {
            return None;
        }
        let content = state.content();
        state.reading = content == Ok(true);
        Some(content)
    }

    /// Gives the reading side back.
    fn end_read(&self, was_full: bool) {
        self.state.lock().reading = false;
        // Another reader may be next, which is no event; to writers it is one if there was no room.
        self.readers.wake_sleepers();
        if was_full {
            self.writers.wake(Events::OUT);
        } else {
            self.writers.wake_sleepers();
        }
    }

    /// Reads like a program.
    ///
    /// # Errors
    /// EAGAIN if there is nothing and `wait` is false, EINTR, EFAULT.
    pub fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        // Waiting for another reader to finish is no blocking in the sense of O_NONBLOCK.
        let begun = self.readers.wait_until(|| match self.begin_read() {
            Some(Err(Errno::EAGAIN)) if wait => None,
            begun => begun,
        })??;
        if !begun {
            return Ok(0);
        }
        let mut was_full = false;
        let mut done = 0;
        let mut failed = None;
        while buffer.remaining() > 0 {
            let first = self.state.lock().ring.get(0).map(|first| first.part(first.len));
            let Some(Buffer { frame, start, len, packet, .. }) = first else { break };
            let want = len.min(buffer.remaining());
            match buffer.write(frame.bytes(start, want)) {
                Ok(count) if count == want => {
                    drop(frame);
                    let mut state = self.state.lock();
                    was_full |= state.ring.is_full();
                    state.ring.consume(count, true);
                    done += count;
                }
                // As on Linux, a fault in the middle takes nothing out of the pipe.
                other => {
                    failed = Some(other.err().unwrap_or(Errno::EFAULT));
                    break;
                }
            }
            if packet {
                break;
            }
        }
        self.end_read(was_full);
        match failed {
            Some(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Reserves the writing side of a pipe that has room for at least the beginning of so many bytes:
    /// on the last page, if `joins`, or on a new one.
    fn begin_write(&self, count: usize, joins: bool) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.writing {
            return None;
        }
        let grows = joins && state.ring.can_grow(count % PAGE_SIZE);
        let room = match state.room() {
            Err(Errno::EAGAIN) if grows => Ok(()),
            room => room,
        };
        state.writing = room.is_ok();
        Some(room)
    }

    /// Gives the writing side back.
    fn end_write(&self, any: bool) {
        self.state.lock().writing = false;
        if any {
            // Each write is an event to readers, also if there was something to read before.
            self.readers.wake(Events::IN);
        }
        self.writers.wake_sleepers();
    }

    fn write(&self, data: &mut impl Source, wait: bool, packets: bool) -> Result<usize> {
        let mut done = 0;
        while data.remaining() > 0 {
            // Linux looks for room on the last page once, before the first byte.
            let joins = done == 0;
            let begun =
                self.writers.wait_until(|| match self.begin_write(data.remaining(), joins) {
                    Some(Err(Errno::EAGAIN)) if wait => None,
                    begun => begun,
                });
            if let Err(error) = begun.and_then(|begun| begun) {
                return if done == 0 { Err(error) } else { Ok(done) };
            }
            let step = self.fill(data, joins, packets);
            self.end_write(matches!(step, Ok(1..)));
            match step {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies in as much as there is room for.
    fn fill(&self, data: &mut impl Source, joins: bool, packets: bool) -> Result<usize> {
        let mut done = 0;
        let odd = data.remaining() % PAGE_SIZE;
        let last = {
            let state = self.state.lock();
            if joins && state.ring.can_grow(odd) { state.ring.back() } else { None }
        };
        if let Some((frame, at)) = last {
            // What the program does not have in full is not written at all, as on Linux.
            if data.read_to_frame(&frame, at, odd)? < odd {
                return Err(Errno::EFAULT);
            }
            self.state.lock().ring.grow(frame, at, odd)?;
            done = odd;
        }
        while data.remaining() > 0 && !self.state.lock().ring.is_full() {
            match self.fill_page(data, packets) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn fill_page(&self, data: &mut impl Source, packet: bool) -> Result<usize> {
        let len = data.remaining().min(PAGE_SIZE);
        let frame = self.state.lock().ring.page()?;
        if data.read_to_frame(&frame, 0, len)? < len {
            return Err(Errno::EFAULT);
        }
        self.state.lock().ring.push(Buffer { frame, start: 0, len, packet, grows: !packet })?;
        Ok(len)
    }

    /// Bytes that it can hold (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.state.lock().ring.capacity()
    }

    /// Changes that; returns what it is then (`F_SETPIPE_SZ`).
    ///
    /// # Errors
    /// EBUSY if more is in the pipe, EPERM beyond the limit without privileges, EINVAL, EINTR.
    pub fn set_capacity(&self, bytes: usize, privileged: bool) -> Result<usize> {
        if bytes > LARGEST {
            return Err(Errno::EINVAL);
        }
        let bytes = bytes.max(PAGE_SIZE).next_power_of_two();
        if bytes > MAX_CAPACITY.max(self.capacity()) && !privileged {
            return Err(Errno::EPERM);
        }
        // Who is about to add pages counts on the slots.
        self.writers.wait_until(|| {
            let mut state = self.state.lock();
            if state.writing { None } else { Some(state.ring.set_slots(bytes / PAGE_SIZE)) }
        })??;
        self.writers.wake_all();
        Ok(bytes)
    }

    /// Bytes that can be read now.
    pub fn length(&self) -> usize {
        self.state.lock().ring.length()
    }
}

impl End {
    /// Opens a pipe.
    pub fn new(pipe: Arc<Pipe>, access: Access) -> Arc<Self> {
        let mut state = pipe.state.lock();
        state.readers += usize::from(access.read);
        state.writers += usize::from(access.write);
        state.opened[0] += u64::from(access.read);
        state.opened[1] += u64::from(access.write);
        drop(state);
        pipe.readers.wake_all();
        pipe.writers.wake_all();
        Arc::new(Self { pipe, access })
    }

    /// Opens a FIFO: waits until someone has the other side open (`fifo(7)`).
    ///
    /// # Errors
    /// ENXIO if there is no reader and a writer does not want to wait, EINTR.
    pub fn open_fifo(pipe: Arc<Pipe>, access: Access, wait: bool) -> Result<Arc<Self>> {
        if access == (Access { read: false, write: true })
            && !wait
            && pipe.state.lock().readers == 0
        {
            return Err(Errno::ENXIO);
        }
        let other = match access {
            Access { read: true, write: true } => None,
            Access { read: true, .. } => Some(1),
            _ => Some(0),
        };
        let before = pipe.state.lock().opened;
        let end = Self::new(pipe, access);
        if let (Some(other), true) = (other, wait) {
            let pipe = &end.pipe;
            pipe.readers.wait_until(|| {
                let state = pipe.state.lock();
                let there = if other == 0 { state.readers } else { state.writers };
                (there > 0 || state.opened[other] != before[other]).then_some(())
            })?;
        }
        Ok(end)
    }

    /// The pipe.
    pub const fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.access.read);
        state.writers -= usize::from(self.access.write);
        if state.readers == 0 && state.writers == 0 {
            // A FIFO that nobody has open is empty.
            state.ring.clear();
        }
        let is_last =
            (self.access.read && state.readers == 0) || (self.access.write && state.writers == 0);
        drop(state);
        if is_last {
            self.pipe.readers.wake_all();
            self.pipe.writers.wake_all();
        }
    }
}

impl Stream for End {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        self.pipe.read(buffer, wait)
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.pipe.write(data, wait, false)
    }

    fn write_packets(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.pipe.write(data, wait, true)
    }

    fn write_kernel(&self, mut bytes: &[u8], wait: bool) -> Result<usize> {
        self.pipe.write(&mut bytes, wait, false)
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            device: devices::PIPE,
            number: self.pipe.number,
            mode: S_IFIFO | self.pipe.permissions.load(Ordering::Relaxed),
            links: 1,
            accessed: self.pipe.born,
            modified: self.pipe.born,
            changed: self.pipe.born,
            ..Metadata::default()
        }
    }

    fn set_permissions(&self, mode: u32) -> Result<()> {
        self.pipe.permissions.store(mode, Ordering::Relaxed);
        Ok(())
    }

    fn name(&self) -> Vec<u8> {
        alloc::format!("pipe:[{}]", self.pipe.number).into_bytes()
    }

    fn poll(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::default();
        if self.access.read {
            events = events.with(Events::IN.when(!state.ring.is_empty()));
            events = events.with(Events::HANGUP.when(state.writers == 0 && state.opened[1] > 0));
        }
        if self.access.write {
            events = events.with(Events::OUT.when(!state.ring.is_full()));
            events = events.with(Events::ERROR.when(state.readers == 0));
        }
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(if self.access.read { &self.pipe.readers } else { &self.pipe.writers })
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = i32::try_from(self.pipe.length()).unwrap_or(i32::MAX);
        UserPtr::<i32>::new(argument).write(count)?;
        Ok(0)
    }

    fn as_pipe(&self) -> Option<&Arc<Pipe>> {
        Some(&self.pipe)
    }
}
