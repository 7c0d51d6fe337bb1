//! Pipes and FIFOs (`pipe(7)`).
//!
//! The bytes are a ring of frames. A program's memory is copied with the lock released: whoever
//! copies has reserved its side of the ring (`reading`, `writing`), and the bytes it works on belong to
//! it until it is done. That also makes writes of up to PIPE_BUF bytes atomic.

use super::Timestamp;
use super::metadata::{Metadata, S_IFIFO, devices};
use super::services::now;
use super::source::Source;
use super::stream::{Events, Stream};
use crate::errno::{Errno, Result};
use crate::memory::{Content, Frame, PAGE_SIZE, UserPtr, UserReader, UserWriter};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::ioctl::FIONREAD;

/// Writes of up to so many bytes are not mixed with others.
const PIPE_BUF: usize = 4096;
/// Pages of a new pipe.
const DEFAULT_PAGES: usize = 16;
/// No pipe is made larger (`/proc/sys/fs/pipe-max-size`).
const MAX_PAGES: usize = 256;

/// The ring: `length` bytes from `start`.
struct Ring {
    /// Made when first written to.
    frames: Vec<Option<Frame>>,
    pages: usize,
    start: usize,
    length: usize,
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
    ring: SpinLock<Ring>,
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

impl Ring {
    const fn capacity(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    const fn free(&self) -> usize {
        self.capacity() - self.length
    }

    /// Whether writers are told to wait for room.
    const fn is_full(&self) -> bool {
        self.free() < PIPE_BUF
    }

    /// The first bytes that can be read: a frame, and which part of it.
    fn front(&self) -> Option<(Frame, usize, usize)> {
        let at = self.start % PAGE_SIZE;
        let frame = self.frames.get(self.start / PAGE_SIZE)?.clone()?;
        Some((frame, at, self.length.min(PAGE_SIZE - at)))
    }

    /// The first room that can be written to.
    fn back(&mut self) -> Result<(Frame, usize, usize)> {
        let end = (self.start + self.length) % self.capacity();
        let at = end % PAGE_SIZE;
        if self.frames.is_empty() {
            self.frames.try_reserve_exact(self.pages).map_err(|_| Errno::ENOMEM)?;
            self.frames.resize(self.pages, None);
        }
        let slot = &mut self.frames[end / PAGE_SIZE];
        let frame = match slot {
            Some(frame) => frame.clone(),
            // A program only ever sees bytes that were written.
            None => slot.insert(Frame::allocate(Content::Overwritten)?).clone(),
        };
        Ok((frame, at, self.free().min(PAGE_SIZE - at)))
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count) % self.capacity();
        self.length -= count;
        if self.length == 0 && !self.writing {
            // The next bytes go to a page that is already there. (A writer that is copying has its
            // place already.)
            self.start = 0;
        }
    }
}

impl Pipe {
    /// A pipe with neither readers nor writers.
    pub fn new() -> Arc<Self> {
        let ring = Ring {
            frames: Vec::new(),
            pages: DEFAULT_PAGES,
            start: 0,
            length: 0,
            readers: 0,
            writers: 0,
            opened: [0; 2],
            reading: false,
            writing: false,
        };
        Arc::new(Self {
            ring: SpinLock::new(ring),
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
        let mut ring = self.ring.lock();
        if ring.reading {
            return None;
        }
        if ring.length == 0 {
            return if ring.writers == 0 { Some(Ok(false)) } else { Some(Err(Errno::EAGAIN)) };
        }
        ring.reading = true;
        Some(Ok(true))
    }

    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
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
        let mut done = Ok(0);
        while buffer.remaining() > 0 {
            let Some((frame, at, len)) = self.ring.lock().front().filter(|&(_, _, len)| len > 0)
            else {
                break;
            };
            let want = len.min(buffer.remaining());
            match (buffer.write(frame.bytes(at, len)), done) {
                // As on Linux, a fault in the middle takes nothing out of the pipe.
                (Ok(count), Ok(before)) if count < want => {
                    done = if before == 0 { Err(Errno::EFAULT) } else { Ok(before) };
                    break;
                }
                (Ok(count), Ok(before)) => {
                    let mut ring = self.ring.lock();
                    was_full |= ring.is_full();
                    ring.consume(count);
                    done = Ok(before + count);
                }
                (Err(error), Ok(0)) => {
                    done = Err(error);
                    break;
                }
                _ => break,
            }
        }
        self.ring.lock().reading = false;
        // Another reader may be next, which is no event; to writers it is one if there was no room.
        self.readers.wake_sleepers();
        if was_full {
            self.writers.wake(Events::OUT);
        } else {
            self.writers.wake_sleepers();
        }
        done
    }

    /// Reserves the writing side of a pipe that has room for `count` bytes.
    fn begin_write(&self, count: usize) -> Option<Result<()>> {
        let mut ring = self.ring.lock();
        if ring.writing {
            return None;
        }
        if ring.readers == 0 {
            return Some(Err(Errno::EPIPE));
        }
        // A small write goes in whole or not at all.
        let needed = if count <= PIPE_BUF { count } else { 1 };
        if ring.free() < needed {
            return Some(Err(Errno::EAGAIN));
        }
        ring.writing = true;
        Some(Ok(()))
    }

    fn write(&self, data: &mut impl Source, wait: bool) -> Result<usize> {
        let mut done = 0;
        while data.remaining() > 0 {
            let begun = self.writers.wait_until(|| match self.begin_write(data.remaining()) {
                Some(Err(Errno::EAGAIN)) if wait => None,
                begun => begun,
            });
            if let Err(error) = begun.and_then(|begun| begun) {
                return if done == 0 { Err(error) } else { Ok(done) };
            }
            let step = self.fill(data);
            self.ring.lock().writing = false;
            // Each write is an event to readers, also if there was something to read before.
            self.readers.wake(Events::IN);
            self.writers.wake_sleepers();
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
    fn fill(&self, data: &mut impl Source) -> Result<usize> {
        let mut done = 0;
        while data.remaining() > 0 {
            let room = self.ring.lock().back();
            let step = match room {
                Ok((_, _, 0)) => break,
                Ok((frame, at, len)) => {
                    // A page that the program does not have in full is not written at all, as on Linux.
                    let want = len.min(data.remaining());
                    match data.read_to_frame(&frame, at, len) {
                        Ok(count) if count < want => Err(Errno::EFAULT),
                        step => step,
                    }
                }
                Err(error) => Err(error),
            };
            match step {
                Ok(count) => {
                    self.ring.lock().length += count;
                    done += count;
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Bytes that it can hold (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.ring.lock().capacity()
    }

    /// Changes that; returns what it is then (`F_SETPIPE_SZ`).
    ///
    /// # Errors
    /// EBUSY if there are more bytes in the pipe, EPERM beyond the limit, EINVAL, ENOMEM.
    pub fn set_capacity(&self, bytes: usize) -> Result<usize> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1).checked_next_power_of_two();
        let pages = pages.ok_or(Errno::EINVAL)?;
        if pages > MAX_PAGES {
            return Err(Errno::EPERM);
        }
        let mut ring = self.ring.lock();
        if ring.reading || ring.writing || ring.length > pages * PAGE_SIZE {
            return Err(Errno::EBUSY);
        }
        // The pages in use move to the front, in order. The first may be used from its middle, and
        // its beginning by the last bytes of a full ring.
        let used = (ring.start % PAGE_SIZE + ring.length).div_ceil(PAGE_SIZE);
        if used > pages || used > ring.pages {
            return Err(Errno::EBUSY);
        }
        let mut frames = Vec::new();
        frames.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
        let first = ring.start / PAGE_SIZE;
        for index in 0..used {
            let at = (first + index) % ring.pages;
            frames.push(ring.frames.get_mut(at).and_then(Option::take));
        }
        frames.resize(pages, None);
        ring.frames = frames;
        ring.start %= PAGE_SIZE;
        ring.pages = pages;
        drop(ring);
        self.writers.wake_all();
        Ok(pages * PAGE_SIZE)
    }

    /// Bytes that can be read now.
    pub fn length(&self) -> usize {
        self.ring.lock().length
    }
}

impl End {
    /// Opens a pipe.
    pub fn new(pipe: Arc<Pipe>, access: Access) -> Arc<Self> {
        let mut ring = pipe.ring.lock();
        ring.readers += usize::from(access.read);
        ring.writers += usize::from(access.write);
        ring.opened[0] += u64::from(access.read);
        ring.opened[1] += u64::from(access.write);
        drop(ring);
        pipe.readers.wake_all();
        pipe.writers.wake_all();
        Arc::new(Self { pipe, access })
    }

    /// Opens a FIFO: waits until someone has the other side open (`fifo(7)`).
    ///
    /// # Errors
    /// ENXIO if there is no reader and a writer does not want to wait, EINTR.
    pub fn open_fifo(pipe: Arc<Pipe>, access: Access, wait: bool) -> Result<Arc<Self>> {
        if access == (Access { read: false, write: true }) && !wait && pipe.ring.lock().readers == 0
        {
            return Err(Errno::ENXIO);
        }
        let other = match access {
            Access { read: true, write: true } => None,
            Access { read: true, .. } => Some(1),
            _ => Some(0),
        };
        let before = pipe.ring.lock().opened;
        let end = Self::new(pipe, access);
        if let (Some(other), true) = (other, wait) {
            let pipe = &end.pipe;
            pipe.readers.wait_until(|| {
                let ring = pipe.ring.lock();
                let there = if other == 0 { ring.readers } else { ring.writers };
                (there > 0 || ring.opened[other] != before[other]).then_some(())
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
        let mut ring = self.pipe.ring.lock();
        ring.readers -= usize::from(self.access.read);
        ring.writers -= usize::from(self.access.write);
        if ring.readers == 0 && ring.writers == 0 {
            // A FIFO that nobody has open is empty.
            ring.frames = Vec::new();
            ring.start = 0;
            ring.length = 0;
        }
        let is_last =
            (self.access.read && ring.readers == 0) || (self.access.write && ring.writers == 0);
        drop(ring);
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
        self.pipe.write(data, wait)
    }

    fn write_kernel(&self, mut bytes: &[u8], wait: bool) -> Result<usize> {
        self.pipe.write(&mut bytes, wait)
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
        let ring = self.pipe.ring.lock();
        let mut events = Events::default();
        if self.access.read {
            events = events.with(Events::IN.when(ring.length > 0));
            events = events.with(Events::HANGUP.when(ring.writers == 0 && ring.opened[1] > 0));
        }
        if self.access.write {
            events = events.with(Events::OUT.when(!ring.is_full()));
            events = events.with(Events::ERROR.when(ring.readers == 0));
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
