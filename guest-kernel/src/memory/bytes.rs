//! Memory that others may change at any time.

use core::marker::PhantomData;

/// Readable bytes in the direct map which a program, another vCPU or a device may be changing.
///
/// They are never borrowed as a slice, only copied, so that a change in between is a wrong byte and
/// not undefined behaviour.
#[derive(Clone, Copy)]
pub struct SharedBytes<'a> {
    start: *const u8,
    len: usize,
    owner: PhantomData<&'a ()>,
}

// SAFETY: the type only allows copies out of memory that stays mapped for 'a, from any thread.
unsafe impl Send for SharedBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes<'_> {}

impl<'a> SharedBytes<'a> {
    /// Describes `len` bytes from `start`.
    ///
    /// # Safety
    /// The bytes stay mapped and readable for `'a`.
    pub const unsafe fn new(start: *const u8, len: usize) -> Self {
        Self { start, len, owner: PhantomData }
    }

    /// Bytes that nobody changes can be treated alike.
    pub const fn from_slice(bytes: &'a [u8]) -> Self {
        Self { start: bytes.as_ptr(), len: bytes.len(), owner: PhantomData }
    }

    /// How many bytes there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they start, for a copy routine.
    pub const fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// The part from `from`, at most `len` bytes long; shorter or empty where the bytes end.
    #[must_use]
    pub fn part(&self, from: usize, len: usize) -> Self {
        let from = from.min(self.len);
        // SAFETY: from <= self.len, so the pointer stays within or one past the bytes.
        let start = unsafe { self.start.add(from) };
        Self { start, len: len.min(self.len - from), owner: PhantomData }
    }

    /// Copies as many bytes as both sides have; returns how many.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let count = self.len.min(target.len());
        // SAFETY: `count` bytes are readable here (by `new`'s contract) and writable in `target`,
        // which is exclusively borrowed and so cannot overlap memory that others change.
        unsafe { core::ptr::copy_nonoverlapping(self.start, target.as_mut_ptr(), count) };
        count
    }

    /// A little-endian number at `at`, if it lies inside.
    pub fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at.checked_add(N)? > self.len {
            return None;
        }
        // SAFETY: the N bytes from `at` lie inside; a byte array has no alignment or invalid values.
        Some(unsafe { self.start.add(at).cast::<[u8; N]>().read_unaligned() })
    }
}
