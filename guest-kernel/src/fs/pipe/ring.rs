//! What is in a pipe: pages, and which of their bytes.

use crate::errno::{Errno, Result};
use crate::memory::{Content, Frame, PAGE_SIZE};
use alloc::collections::VecDeque;

/// Pages of a new pipe.
const DEFAULT_SLOTS: usize = 16;
/// Pages that are kept for the next bytes, as Linux keeps them.
const SPARES: usize = 2;

/// A page, and which of its bytes are in the pipe.
pub struct Buffer {
    /// The page, which other pipes may have, too (`tee(2)`).
    pub frame: Frame,
    /// The first byte.
    pub start: usize,
    /// How many bytes.
    pub len: usize,
    /// Whether it is a packet, of which one `read` takes all (`O_DIRECT` in pipe(2)).
    pub packet: bool,
    /// Whether the next bytes may be added to it.
    pub grows: bool,
}

impl Buffer {
    /// The first `len` bytes as a buffer of their own.
    pub fn part(&self, len: usize) -> Self {
        Self { frame: self.frame.clone(), len: len.min(self.len), grows: false, ..*self }
    }

    const fn end(&self) -> usize {
        self.start + self.len
    }
}

/// The pages of a pipe in their order.
pub struct Ring {
    buffers: VecDeque<Buffer>,
    slots: usize,
    spares: [Option<Frame>; SPARES],
}

impl Ring {
    /// An empty one.
    pub const fn new() -> Self {
        Self { buffers: VecDeque::new(), slots: DEFAULT_SLOTS, spares: [None, None] }
    }

    /// Bytes that it holds at most.
    pub const fn capacity(&self) -> usize {
        self.slots * PAGE_SIZE
    }

    /// Changes how many pages it holds.
    ///
    /// # Errors
    /// EBUSY if more are in use.
    pub fn set_slots(&mut self, slots: usize) -> Result<()> {
        if self.buffers.len() > slots {
            return Err(Errno::EBUSY);
        }
        self.slots = slots;
        Ok(())
    }

    /// Bytes that are in it.
    pub fn length(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len).sum()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Whether no page can be added.
    pub fn is_full(&self) -> bool {
        self.buffers.len() >= self.slots
    }

    /// How many pages can be added.
    pub fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.buffers.len())
    }

    /// Whether so many bytes can be added to the last page.
    pub fn can_grow(&self, count: usize) -> bool {
        let fits = |last: &Buffer| last.grows && last.end() + count <= PAGE_SIZE;
        count > 0 && self.buffers.back().is_some_and(fits)
    }

    /// The last page, and where bytes are added to it.
    pub fn back(&self) -> Option<(Frame, usize)> {
        self.buffers.back().map(|last| (last.frame.clone(), last.end()))
    }

    /// The page at this place.
    pub fn get(&self, at: usize) -> Option<&Buffer> {
        self.buffers.get(at)
    }

    /// Adds bytes behind those of [`Self::back`]. If someone has read all of that meanwhile, they are
    /// all that is left of the page.
    pub fn grow(&mut self, frame: Frame, at: usize, count: usize) -> Result<()> {
        match self.buffers.back_mut() {
            Some(last) if last.frame.address() == frame.address() && last.end() == at => {
                last.len += count;
                Ok(())
            }
            _ => self.push(Buffer { frame, start: at, len: count, packet: false, grows: true }),
        }
    }

    /// Makes sure that the next [`Self::push`] succeeds.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn reserve(&mut self) -> Result<()> {
        self.buffers.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Adds a page. The caller has seen to it that there is a slot.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn push(&mut self, buffer: Buffer) -> Result<()> {
        self.reserve()?;
        self.buffers.push_back(buffer);
        Ok(())
    }

    /// A page to write to.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn page(&mut self) -> Result<Frame> {
        match self.spares.iter_mut().find_map(Option::take) {
            Some(frame) => Ok(frame),
            // A program only ever sees bytes that were written.
            None => Frame::allocate(Content::Overwritten),
        }
    }

    /// Takes bytes out of the first page. What is left of a packet is lost if `ends_packet`.
    pub fn consume(&mut self, count: usize, ends_packet: bool) {
        let Some(first) = self.buffers.front_mut() else { return };
        first.start += count;
        first.len -= count;
        if first.len == 0 || (first.packet && ends_packet) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(Buffer { frame, .. }) = self.buffers.pop_front()
            && frame.is_unique()
            && let Some(spare) = self.spares.iter_mut().find(|spare| spare.is_none())
        {
            *spare = Some(frame);
        }
    }

    /// Takes out up to `count` bytes, all of them from the first page.
    pub fn take(&mut self, count: usize) -> Option<Buffer> {
        let first = self.buffers.front_mut()?;
        if first.len <= count {
            return self.buffers.pop_front();
        }
        let part = first.part(count);
        first.start += count;
        first.len -= count;
        Some(part)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buffers = VecDeque::new();
        self.spares = [None, None];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(pieces: &[&[u8]]) -> Ring {
        crate::memory::frame::host::init();
        let mut ring = Ring::new();
        for piece in pieces {
            let frame = ring.page().expect("memory");
            frame.write(0, piece);
            let buffer = Buffer { frame, start: 0, len: piece.len(), packet: false, grows: true };
            ring.push(buffer).expect("memory");
        }
        ring
    }

    fn bytes(ring: &Ring) -> std::vec::Vec<u8> {
        let mut all = std::vec::Vec::new();
        for buffer in &ring.buffers {
            let mut part = std::vec![0; buffer.len];
            buffer.frame.bytes(buffer.start, buffer.len).copy_to(&mut part);
            all.extend(part);
        }
        all
    }

    #[test]
    fn bytes_are_added_to_the_last_page_while_they_fit() {
        let mut ring = ring(&[b"abc"]);
        assert!(ring.can_grow(PAGE_SIZE - 3) && !ring.can_grow(PAGE_SIZE - 2));
        let (frame, at) = ring.back().expect("a page");
        frame.write(at, b"de");
        assert_eq!(ring.grow(frame, at, 2), Ok(()));
        assert_eq!((ring.length(), bytes(&ring).as_slice()), (5, b"abcde".as_slice()));
        // Someone has read all of it before the bytes were added.
        let (frame, at) = ring.back().expect("a page");
        frame.write(at, b"f");
        ring.consume(5, false);
        assert_eq!(ring.grow(frame, at, 1), Ok(()));
        assert_eq!(bytes(&ring), b"f");
    }

    #[test]
    fn a_part_that_is_taken_leaves_the_rest() {
        let mut ring = ring(&[b"abc", b"de"]);
        let part = ring.take(2).expect("bytes");
        assert_eq!((part.start, part.len, part.grows), (0, 2, false));
        assert_eq!(bytes(&ring), b"cde");
        assert_eq!(ring.take(9).map(|part| part.len), Some(1));
        assert_eq!((ring.length(), ring.free_slots()), (2, 15));
        assert_eq!(ring.set_slots(0), Err(Errno::EBUSY));
    }

    #[test]
    fn a_packet_is_gone_with_its_first_bytes() {
        let mut ring = ring(&[b"abc", b"de"]);
        ring.buffers[0].packet = true;
        ring.consume(1, true);
        assert_eq!(bytes(&ring), b"de");
        // Its page is used again.
        assert!(ring.spares[0].is_some());
    }
}
