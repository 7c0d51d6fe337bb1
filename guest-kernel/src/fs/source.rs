//! Where the bytes of a write come from, and those of a read go: a program's memory, or the kernel's
//! (`sendfile(2)`).

use crate::errno::Result;
use crate::memory::{Frame, SharedBytes, UserReader, UserWriter};
use alloc::vec::Vec;

/// Bytes to be written.
pub trait Source {
    /// How many are left.
    fn remaining(&self) -> usize;

    /// Gives no more than `limit` further bytes.
    fn limit(&mut self, limit: usize);

    /// Copies into a frame from `offset`, as far as it reaches; returns how many.
    ///
    /// # Errors
    /// EFAULT if not even the first byte could be read.
    fn read_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize>;

    /// Appends up to `len` bytes to a list, which has room for them; returns how many.
    ///
    /// # Errors
    /// As for [`Self::read_to_frame`].
    fn read_to_vec(&mut self, target: &mut Vec<u8>, len: usize) -> Result<usize>;
}

/// Where the bytes of a read go: a program's memory, or the kernel's (`splice(2)`).
pub trait Sink {
    /// How much room is left.
    fn remaining(&self) -> usize;

    /// Copies out as much as there is room for; returns how much that was.
    ///
    /// # Errors
    /// EFAULT if not even the first byte could be written.
    fn write(&mut self, bytes: SharedBytes<'_>) -> Result<usize>;
}

impl Sink for UserWriter {
    fn remaining(&self) -> usize {
        Self::remaining(self)
    }

    fn write(&mut self, bytes: SharedBytes<'_>) -> Result<usize> {
        Self::write(self, bytes)
    }
}

impl Sink for &mut [u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn write(&mut self, bytes: SharedBytes<'_>) -> Result<usize> {
        let count = bytes.copy_to(self);
        let all = core::mem::take(self);
        *self = &mut all[count..];
        Ok(count)
    }
}

impl Source for UserReader {
    fn remaining(&self) -> usize {
        Self::remaining(self)
    }

    fn limit(&mut self, limit: usize) {
        Self::limit(self, limit);
    }

    fn read_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize> {
        Self::read_to_frame(self, frame, offset, len)
    }

    fn read_to_vec(&mut self, target: &mut Vec<u8>, len: usize) -> Result<usize> {
        Self::read_to_vec(self, target, len)
    }
}

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn limit(&mut self, limit: usize) {
        *self = &self[..limit.min(self.len())];
    }

    fn read_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize> {
        let count = frame.write(offset, &self[..len.min(self.len())]);
        *self = &self[count..];
        Ok(count)
    }

    fn read_to_vec(&mut self, target: &mut Vec<u8>, len: usize) -> Result<usize> {
        let count = len.min(self.len()).min(target.capacity() - target.len());
        target.extend_from_slice(&self[..count]);
        *self = &self[count..];
        Ok(count)
    }
}
