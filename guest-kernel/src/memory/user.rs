//! User memory is an allegation: an address from a register is only ever given to a copy that can
//! fault.
//!
//! [`copy_in`] and [`copy_out`] are the only way to a program's bytes. A page that is not there yet is
//! brought in by the page-fault handler in the middle of the copy; an address that has nothing behind
//! it, or that is the kernel's, ends the copy, and the caller learns how far it came. [`UserPtr`] is
//! for one value, [`UserWriter`] and [`UserReader`] for the buffers of `read` and `write` and
//! their kin, in one piece or in several (`readv`).

use super::address::{PAGE_SIZE, USER_END};
use super::bytes::SharedBytes;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// Types whose every bit pattern is valid and that have no padding: they can be copied in from a
/// program without a check, and out to one without telling it what the kernel's memory held.
///
/// # Safety
/// Both must be true of the type.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: integers, and structures of the Linux ABI that consist of integers without gaps.
        $(unsafe impl Plain for $type {})+
    };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize);

// SAFETY: an array has no padding that its elements don't have.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Copies bytes into the kernel; returns how many were readable from the first on.
///
/// # Safety
/// `target` is valid for writes of `len` bytes.
unsafe fn copy_in(target: *mut u8, source: u64, len: usize) -> usize {
    if !in_user_half(source, len) {
        return 0;
    }
    // SAFETY: the target by our contract; the source may fault, which the routine expects.
    len - unsafe {
        crate::arch::copy::copy(
            target,
            core::ptr::with_exposed_provenance(super::usize_from(source)),
            len,
        )
    }
}

/// Copies bytes to a program; returns how many were writable from the first on.
///
/// # Safety
/// `source` is valid for reads of `len` bytes.
unsafe fn copy_out(target: u64, source: *const u8, len: usize) -> usize {
    if !in_user_half(target, len) {
        return 0;
    }
    // SAFETY: the source by our contract; the target may fault, which the routine expects.
    len - unsafe {
        crate::arch::copy::copy(
            core::ptr::with_exposed_provenance_mut(super::usize_from(target)),
            source,
            len,
        )
    }
}

/// Linux's `access_ok`: the whole range must lie in the program's half, mapped or not.
fn in_user_half(start: u64, len: usize) -> bool {
    start.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// The address of a `T` in a program's memory, as the program says.
pub struct UserPtr<T>(u64, PhantomData<*mut T>);

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// The allegation that a `T` is at this address (guest-virtual).
    pub const fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// Whether the program passed NULL.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address (guest-virtual).
    pub const fn address(self) -> u64 {
        self.0
    }

    /// `None` for NULL.
    pub const fn non_null(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }

    /// The element `index` places on, as pointer arithmetic would have it.
    #[must_use]
    pub const fn element(self, index: usize) -> Self {
        Self::new(self.0.wrapping_add((index as u64).wrapping_mul(size_of::<T>() as u64)))
    }

    /// The same address as a pointer to something else.
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.0)
    }
}

impl<T: Plain> UserPtr<T> {
    /// Copies the value in.
    ///
    /// # Errors
    /// EFAULT if any byte of it cannot be read.
    pub fn read(self) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` has room for a T.
        let copied = unsafe { copy_in(value.as_mut_ptr().cast(), self.0, size_of::<T>()) };
        if copied < size_of::<T>() {
            return Err(Errno::EFAULT);
        }
        // SAFETY: all bytes are initialised, and every bit pattern is a valid `Plain` value.
        Ok(unsafe { value.assume_init() })
    }

    /// Copies the value out.
    ///
    /// # Errors
    /// EFAULT if any byte of it cannot be written.
    pub fn write(self, value: T) -> Result<()> {
        // SAFETY: `value` is a T without padding.
        let copied = unsafe { copy_out(self.0, (&raw const value).cast(), size_of::<T>()) };
        if copied < size_of::<T>() { Err(Errno::EFAULT) } else { Ok(()) }
    }
}

impl UserPtr<u8> {
    /// Copies in a string up to its NUL, which is not part of the result.
    ///
    /// # Errors
    /// EFAULT if memory ends before a NUL, `too_long` if there is none among the first `limit` bytes.
    pub fn read_string(self, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut string = Vec::new();
        let mut address = self.0;
        while string.len() < limit {
            // Up to the end of the page: what follows it may not be mapped, and need not be.
            let to_page_end = PAGE_SIZE - super::usize_from(address) % PAGE_SIZE;
            let mut chunk = [0; 64];
            let want = to_page_end.min(chunk.len()).min(limit - string.len());
            // SAFETY: `want` is at most the length of `chunk`.
            let copied = unsafe { copy_in(chunk.as_mut_ptr(), address, want) };
            let bytes = &chunk[..copied];
            if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
                string.try_reserve(end).map_err(|_| Errno::ENOMEM)?;
                string.extend_from_slice(&bytes[..end]);
                return Ok(string);
            }
            if copied < want {
                return Err(Errno::EFAULT);
            }
            string.try_reserve(copied).map_err(|_| Errno::ENOMEM)?;
            string.extend_from_slice(bytes);
            address += copied as u64;
        }
        Err(too_long)
    }
}

/// A contiguous piece of a program's memory, as the program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserSlice {
    /// Address of the first byte (guest-virtual).
    pub start: u64,
    /// Length in bytes.
    pub len: usize,
}

/// Where to continue among the pieces of a scattered buffer.
struct Cursor {
    first: UserSlice,
    rest: Vec<UserSlice>,
    /// Index in `rest` of the piece after `first`.
    next: usize,
    remaining: usize,
}

impl Cursor {
    fn one(slice: UserSlice) -> Self {
        Self { first: slice, rest: Vec::new(), next: 0, remaining: slice.len }
    }

    fn several(pieces: Vec<UserSlice>) -> Self {
        let remaining = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len));
        Self { first: UserSlice { start: 0, len: 0 }, rest: pieces, next: 0, remaining }
    }

    /// The current piece, which is not empty unless everything is done.
    fn piece(&mut self) -> UserSlice {
        while self.first.len == 0 && self.next < self.rest.len() {
            self.first = self.rest[self.next];
            self.next += 1;
        }
        self.first
    }

    fn advance(&mut self, count: usize) {
        self.first.start = self.first.start.wrapping_add(count as u64);
        self.first.len -= count;
        self.remaining -= count;
    }
}

/// A program's buffer that a call fills: `read`, `readv`, `getdents64`...
pub struct UserWriter(Cursor);

impl UserWriter {
    /// A buffer in one piece.
    pub fn new(start: u64, len: usize) -> Self {
        Self(Cursor::one(UserSlice { start, len }))
    }

    /// A buffer in several pieces, filled one after the other.
    pub fn scattered(pieces: Vec<UserSlice>) -> Self {
        Self(Cursor::several(pieces))
    }

    /// Bytes of room left.
    pub fn remaining(&self) -> usize {
        self.0.remaining
    }

    /// Takes no more than `limit` further bytes.
    pub fn limit(&mut self, limit: usize) {
        self.0.remaining = self.0.remaining.min(limit);
    }

    /// The next piece that will be written to, for a device that fills memory by itself.
    pub fn next_piece(&mut self) -> UserSlice {
        let mut piece = self.0.piece();
        piece.len = piece.len.min(self.0.remaining);
        piece
    }

    /// Notes that a device filled `count` bytes of [`Self::next_piece`].
    pub fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }

    /// Copies out as much as there is room for; returns how much that was.
    ///
    /// # Errors
    /// EFAULT if not even the first byte could be written. A fault later on is a short count, and
    /// the next call fails.
    pub fn write(&mut self, bytes: SharedBytes<'_>) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() && self.0.remaining > 0 {
            let piece = self.next_piece();
            let want = bytes.part(done, piece.len);
            // SAFETY: the bytes are readable by the contract of their type.
            let copied = unsafe { copy_out(piece.start, want.as_ptr(), want.len()) };
            self.0.advance(copied);
            done += copied;
            if copied < want.len() {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }

    /// The same from a slice.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn write_slice(&mut self, bytes: &[u8]) -> Result<usize> {
        self.write(SharedBytes::from_slice(bytes))
    }

    /// Writes up to `count` zeroes.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn write_zeroes(&mut self, count: usize) -> Result<usize> {
        static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let mut done = 0;
        while done < count && self.0.remaining > 0 {
            let want = (count - done).min(PAGE_SIZE);
            match self.write_slice(&ZEROES[..want]) {
                Ok(written) => done += written,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// A program's buffer that a call reads: `write`, `writev`...
pub struct UserReader(Cursor);

impl UserReader {
    /// A buffer in one piece.
    pub fn new(start: u64, len: usize) -> Self {
        Self(Cursor::one(UserSlice { start, len }))
    }

    /// A buffer in several pieces, read one after the other.
    pub fn scattered(pieces: Vec<UserSlice>) -> Self {
        Self(Cursor::several(pieces))
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.0.remaining
    }

    /// Gives no more than `limit` further bytes.
    pub fn limit(&mut self, limit: usize) {
        self.0.remaining = self.0.remaining.min(limit);
    }

    /// The next piece that will be read, for a device that reads memory by itself.
    pub fn next_piece(&mut self) -> UserSlice {
        let mut piece = self.0.piece();
        piece.len = piece.len.min(self.0.remaining);
        piece
    }

    /// Notes that a device read `count` bytes of [`Self::next_piece`].
    pub fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }

    /// Copies in as much as the target holds; returns how much that was.
    ///
    /// # Safety
    /// `target` is valid for writes of `len` bytes.
    ///
    /// # Errors
    /// EFAULT if not even the first byte could be read. A fault later on is a short count.
    pub unsafe fn read_raw(&mut self, target: *mut u8, len: usize) -> Result<usize> {
        let mut done = 0;
        while done < len && self.0.remaining > 0 {
            let piece = self.next_piece();
            let want = piece.len.min(len - done);
            // SAFETY: the target has `len` bytes by our contract, and done + want <= len.
            let copied = unsafe { copy_in(target.add(done), piece.start, want) };
            self.0.advance(copied);
            done += copied;
            if copied < want {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }

    /// Copies into a slice; returns how much that was.
    ///
    /// # Errors
    /// As for [`Self::read_raw`].
    pub fn read(&mut self, target: &mut [u8]) -> Result<usize> {
        // SAFETY: the slice is valid for its length.
        unsafe { self.read_raw(target.as_mut_ptr(), target.len()) }
    }

    /// Appends up to `len` bytes to a list, as far as it has room; returns how much that was.
    ///
    /// # Errors
    /// As for [`Self::read_raw`].
    pub fn read_to_vec(&mut self, target: &mut Vec<u8>, len: usize) -> Result<usize> {
        let old = target.len();
        let len = len.min(target.capacity() - old);
        // SAFETY: the list has room for `len` bytes behind those that it holds.
        let count = unsafe { self.read_raw(target.as_mut_ptr().add(old), len)? };
        // SAFETY: `count` more bytes were just written.
        unsafe { target.set_len(old + count) };
        Ok(count)
    }

    /// Copies into a frame from `offset`, as far as it reaches; returns how much that was.
    ///
    /// # Errors
    /// As for [`Self::read_raw`].
    pub fn read_to_frame(
        &mut self,
        frame: &super::frame::Frame,
        offset: usize,
        len: usize,
    ) -> Result<usize> {
        let offset = offset.min(PAGE_SIZE);
        // SAFETY: the range is clipped to the frame, which the caller holds.
        unsafe { self.read_raw(frame.as_ptr().add(offset), len.min(PAGE_SIZE - offset)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn address_of<T>(bytes: &[T]) -> u64 {
        bytes.as_ptr().expose_provenance() as u64
    }

    #[test]
    fn a_kernel_address_is_a_fault() {
        let pointer = UserPtr::<u64>::new(0xffff_8000_0000_0000);
        assert_eq!(pointer.read(), Err(Errno::EFAULT));
        assert_eq!(pointer.write(1), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(u64::MAX - 3).read(), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(USER_END - 4).read(), Err(Errno::EFAULT));
    }

    #[test]
    fn scattered_pieces_are_filled_in_order() {
        let (a, b) = (vec![0u8; 3], vec![0u8; 5]);
        let piece = |bytes: &[u8]| UserSlice { start: address_of(bytes), len: bytes.len() };
        let empty = UserSlice { start: 0, len: 0 };
        let mut writer = UserWriter::scattered(vec![piece(&a), empty, piece(&b)]);
        assert_eq!(writer.write_slice(b"abcd"), Ok(4));
        assert_eq!(writer.remaining(), 4);
        assert_eq!(writer.write_slice(b"efghij"), Ok(4));
        assert_eq!((a.as_slice(), b.as_slice()), (b"abc".as_slice(), b"defgh".as_slice()));
    }

    #[test]
    fn a_string_ends_at_its_nul_or_is_too_long() {
        let text = vec![b'x'; 100].into_iter().chain([0]).collect::<Vec<u8>>();
        let pointer = UserPtr::<u8>::new(address_of(&text));
        assert_eq!(pointer.read_string(101, Errno::ENAMETOOLONG).map(|s| s.len()), Ok(100));
        assert_eq!(pointer.read_string(100, Errno::ENAMETOOLONG), Err(Errno::ENAMETOOLONG));
    }
}
