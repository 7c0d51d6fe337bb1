//! Moving bytes between pipes and other files without a program's memory (`splice(2)`, `tee(2)`,
//! `vmsplice(2)`).

use super::ring::Buffer;
use super::{Pipe, PipeState};
use crate::errno::{Errno, Result};
use crate::fs::stream::Events;
use crate::memory::{PAGE_SIZE, UserReader};
use crate::sync::SpinLockGuard;
use alloc::vec::Vec;

/// Bytes that are handed on at a time.
const MOST: usize = 16 * PAGE_SIZE;

/// Whether an attempt that found nothing to do sleeps: `None` then.
fn unless<T>(wait: bool, attempt: Result<T>) -> Option<Result<T>> {
    match attempt {
        Err(Errno::EAGAIN) if wait => None,
        attempt => Some(attempt),
    }
}

/// A list with room for so many bytes.
fn room(count: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    Ok(bytes)
}

impl Pipe {
    /// Gives bytes to `write` until `count` are done, it takes no more, or the pipe is empty.
    ///
    /// # Errors
    /// EAGAIN if it is empty and `wait` is false, EINTR, ENOMEM, and those of `write`.
    pub fn drain(
        &self,
        count: usize,
        wait: bool,
        mut write: impl FnMut(&[u8]) -> Result<usize>,
    ) -> Result<usize> {
        let mut bytes = room(count.min(MOST))?;
        let begun = self.readers.wait_until(|| match self.begin_read() {
            Some(Err(Errno::EAGAIN)) if wait => None,
            begun => begun,
        })??;
        if !begun {
            return Ok(0);
        }
        let mut done = Ok(0);
        let mut was_full = false;
        while let Ok(before) = done
            && before < count
        {
            bytes.clear();
            self.look(&mut bytes, (count - before).min(MOST));
            if bytes.is_empty() {
                break;
            }
            match write(&bytes) {
                Ok(written) => {
                    let mut state = self.state.lock();
                    was_full |= state.ring.is_full();
                    let mut left = written;
                    while left > 0
                        && let Some(first) = state.ring.get(0)
                    {
                        let part = left.min(first.len);
                        state.ring.consume(part, false);
                        left -= part;
                    }
                    done = Ok(before + written);
                    if written < bytes.len() {
                        break;
                    }
                }
                Err(error) if before == 0 => done = Err(error),
                Err(_) => break,
            }
        }
        self.end_read(was_full);
        done
    }

    /// Copies the first bytes, which stay.
    fn look(&self, bytes: &mut Vec<u8>, count: usize) {
        let mut at = 0;
        while bytes.len() < count {
            let part = match self.state.lock().ring.get(at) {
                Some(buffer) => buffer.part(count - bytes.len()),
                None => break,
            };
            let old = bytes.len();
            // There is room: nothing is allocated.
            bytes.resize(old + part.len, 0);
            part.frame.bytes(part.start, part.len).copy_to(&mut bytes[old..]);
            at += 1;
        }
    }

    /// Fills pages with what `read` gives, up to `count` bytes: as long as there are slots, and each page
    /// is full.
    ///
    /// # Errors
    /// EPIPE, EAGAIN if there is no slot and `wait` is false, EINTR, ENOMEM, and those of `read`.
    pub fn feed(
        &self,
        count: usize,
        wait: bool,
        mut read: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let mut bytes = room(count.min(MOST))?;
        self.begin_adding(wait)?;
        let mut done = Ok(0);
        while let Ok(before) = done
            && before < count
        {
            let slots = self.state.lock().ring.free_slots();
            let want = (count - before).min(slots.saturating_mul(PAGE_SIZE)).min(MOST);
            if want == 0 {
                break;
            }
            bytes.resize(want, 0);
            match read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => match self.add_pages(&bytes[..count]) {
                    Ok(()) => {
                        done = Ok(before + count);
                        if count < want {
                            break;
                        }
                    }
                    Err(error) if before == 0 => done = Err(error),
                    Err(_) => break,
                },
                Err(error) if before == 0 => done = Err(error),
                Err(_) => break,
            }
        }
        self.end_write(matches!(done, Ok(1..)));
        done
    }

    fn add_pages(&self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PAGE_SIZE) {
            let frame = self.state.lock().ring.page()?;
            frame.write(0, piece);
            let buffer = Buffer { frame, start: 0, len: piece.len(), packet: false, grows: false };
            self.state.lock().ring.push(buffer)?;
        }
        Ok(())
    }

    /// Adds a program's memory, of which each page is a page of the pipe: as long as there are slots.
    ///
    /// # Errors
    /// EPIPE, EAGAIN if there is no slot and `wait` is false, EINTR, EFAULT, ENOMEM.
    pub fn feed_memory(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        self.begin_adding(wait)?;
        let mut done = Ok(0);
        while let Ok(before) = done
            && data.remaining() > 0
            && !self.state.lock().ring.is_full()
        {
            match self.feed_page(data) {
                Ok(count) => done = Ok(before + count),
                Err(error) if before == 0 => done = Err(error),
                Err(_) => break,
            }
        }
        self.end_write(matches!(done, Ok(1..)));
        done
    }

    fn feed_page(&self, data: &mut UserReader) -> Result<usize> {
        let piece = data.next_piece();
        let offset = crate::memory::usize_from(piece.start) % PAGE_SIZE;
        let len = piece.len.min(PAGE_SIZE - offset);
        let frame = self.state.lock().ring.page()?;
        if data.read_to_frame(&frame, 0, len)? < len {
            return Err(Errno::EFAULT);
        }
        let buffer = Buffer { frame, start: 0, len, packet: false, grows: false };
        self.state.lock().ring.push(buffer)?;
        Ok(len)
    }

    /// Reserves the writing side of a pipe with a free slot.
    fn begin_adding(&self, wait: bool) -> Result<()> {
        self.writers.wait_until(|| {
            let mut state = self.state.lock();
            if state.writing {
                return None;
            }
            let room = state.room();
            state.writing = room.is_ok();
            unless(wait, room)
        })?
    }

    /// Moves up to `count` bytes to another pipe, or adds them there and leaves them here if `stay`.
    ///
    /// # Errors
    /// EAGAIN if there are no bytes, or no room, and `wait` is false; EPIPE, EINTR, ENOMEM.
    pub fn transfer(&self, target: &Self, count: usize, wait: bool, stay: bool) -> Result<usize> {
        loop {
            let readers = &self.readers;
            let any = readers.wait_until(|| {
                let state = self.state.lock();
                if state.reading { None } else { unless(wait, state.content()) }
            })??;
            target.writers.wait_until(|| {
                let state = target.state.lock();
                if state.writing { None } else { unless(wait, state.room()) }
            })??;
            if !any {
                return Ok(0);
            }
            // Both again, now together.
            let (mut from, mut to) = self.lock_both(target);
            if from.reading || to.writing || from.ring.is_empty() || to.room().is_err() {
                continue;
            }
            let was_full = from.ring.is_full();
            let done = move_buffers(&mut from, &mut to, count, stay);
            drop((from, to));
            if !stay && was_full {
                self.writers.wake(Events::OUT);
            } else {
                self.writers.wake_sleepers();
            }
            target.readers.wake(Events::IN);
            return done;
        }
    }

    /// Takes the locks of two different pipes, in the order of their numbers.
    fn lock_both<'a>(
        &'a self,
        other: &'a Self,
    ) -> (SpinLockGuard<'a, PipeState>, SpinLockGuard<'a, PipeState>) {
        if self.number < other.number {
            let own = self.state.lock();
            (own, other.state.lock_in_order())
        } else {
            let others = other.state.lock();
            (self.state.lock_in_order(), others)
        }
    }
}

fn move_buffers(
    from: &mut PipeState,
    to: &mut PipeState,
    count: usize,
    stay: bool,
) -> Result<usize> {
    let mut done = 0;
    let mut at = 0;
    while done < count && !to.ring.is_full() {
        // What cannot be added must not be taken.
        if let Err(error) = to.ring.reserve() {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        let buffer = if stay {
            at += 1;
            from.ring.get(at - 1).map(|buffer| buffer.part(count - done))
        } else {
            from.ring.take(count - done)
        };
        let Some(buffer) = buffer else { break };
        done += buffer.len;
        to.ring.push(buffer)?;
    }
    Ok(done)
}
