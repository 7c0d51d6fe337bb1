//! What programs read.

use super::super::termios::DISABLED;
use super::Discipline;
use linux_raw_sys::general::{VEOF, VMIN, VTIME};

/// What a read has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it returns what there is.
    Ready,
    /// More input.
    Input,
    /// More input, or the end of so many tenths of a second.
    InputWithin(u8),
}

impl Discipline {
    /// Bytes that reads would return (FIONREAD).
    pub fn readable_bytes(&self) -> usize {
        if !self.reads_lines() {
            return self.len();
        }
        let lines = self.line_end.wrapping_sub(self.tail);
        let is_end = |at: usize| self.ends_line(at) && self.byte(at) == DISABLED;
        let ends = (0..lines).filter(|&at| is_end(self.tail.wrapping_add(at))).count();
        lines - ends
    }

    /// What `poll(2)` says.
    pub fn is_readable(&self) -> bool {
        if self.reads_lines() {
            return self.line_end != self.tail;
        }
        // Linux looks at VMIN only where no time limits the wait for it.
        let minimum = match self.termios.character(VTIME) {
            0 => usize::from(self.termios.character(VMIN)),
            _ => 1,
        };
        self.len() >= minimum.max(1)
    }

    /// What a read of `len` bytes has to wait for (termios(3), "Canonical and noncanonical mode").
    pub fn demand(&self, len: usize) -> Demand {
        if self.reads_lines() {
            return if self.line_end == self.tail { Demand::Input } else { Demand::Ready };
        }
        let available = self.len();
        if self.is_canonical() {
            return if available == 0 { Demand::Input } else { Demand::Ready };
        }
        let minimum = usize::from(self.termios.character(VMIN)).min(len);
        match (minimum, self.termios.character(VTIME)) {
            (0, 0) => Demand::Ready,
            (minimum, _) if available >= minimum.max(1) => Demand::Ready,
            (0, time) => Demand::InputWithin(time),
            (_, 0) => Demand::Input,
            // The clock runs from byte to byte.
            (_, time) if available > 0 => Demand::InputWithin(time),
            _ => Demand::Input,
        }
    }

    /// Whether a read that gives up waiting may return what there is.
    pub const fn has_part(&self) -> bool {
        !self.is_canonical() && self.len() > 0
    }

    /// Takes what one read returns into `buffer`. Nothing at all is the end of the file.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        if self.reads_lines() {
            return self.take_line(buffer);
        }
        let count = self.len().min(buffer.len());
        for byte in &mut buffer[..count] {
            *byte = self.byte(self.tail);
            self.tail = self.tail.wrapping_add(1);
        }
        // The end of the file, from whoever edits lines in our place.
        let is_end = count == 1 && self.len() == 0 && self.is_key(buffer[0], VEOF);
        if self.is_canonical() && is_end { 0 } else { count }
    }

    fn take_line(&mut self, buffer: &mut [u8]) -> usize {
        let mut count = 0;
        while self.tail != self.line_end {
            let ends = self.ends_line(self.tail);
            let byte = self.byte(self.tail);
            let is_end_of_file = ends && byte == DISABLED;
            // What does not fit is left for the next read, but for an end that nobody would see.
            if count == buffer.len() && !is_end_of_file {
                break;
            }
            if !is_end_of_file {
                buffer[count] = byte;
                count += 1;
            }
            self.mark_end(self.tail, false);
            self.tail = self.tail.wrapping_add(1);
            if ends {
                break;
            }
        }
        count
    }
}
