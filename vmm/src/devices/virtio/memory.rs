//! Guest memory as devices see it: segments of descriptor chains, checked where they are used.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// One descriptor's part of guest memory: a claim by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// Sum of the lengths; the queue keeps it below 2^32.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.length)).sum()
}

/// What a device may touch.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    /// Memory that devices write, and that holds the rings.
    pub ram: Arc<GuestMemoryMmap>,
    /// Memory that may be the source of a system call; see `crate::memory::GuestMemory::readable`.
    pub readable: Arc<GuestMemoryMmap>,
}

/// Arguments for `readv(2)` and `writev(2)` that point into guest memory.
pub struct IoVectors<'a> {
    vectors: Vec<libc::iovec>,
    memory: PhantomData<&'a GuestMemoryMmap>,
}

impl IoVectors<'_> {
    /// The array.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors
    }
}

/// Size of a page of guest memory.
const PAGE: u64 = 4096;

fn bad_address() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

/// Host addresses of up to `limit` bytes of the segments, without the first `skip`.
fn vectors<'a>(
    memory: &'a GuestMemoryMmap,
    segments: &[Segment],
    mut skip: u64,
    mut limit: usize,
) -> io::Result<IoVectors<'a>> {
    let mut vectors = Vec::with_capacity(segments.len());
    for segment in segments {
        let length = u64::from(segment.length);
        if skip >= length {
            skip -= length;
            continue;
        }
        let start = segment.address.checked_add(skip).ok_or_else(bad_address)?;
        let length = usize::try_from(length - skip).map_err(|_| bad_address())?.min(limit);
        skip = 0;
        limit -= length;
        // A segment may span two regions that touch.
        for slice in memory.get_slices(GuestAddress(start), length) {
            let slice = slice.map_err(|_| bad_address())?;
            let guard = slice.ptr_guard_mut();
            vectors.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
        }
        if limit == 0 {
            break;
        }
    }
    Ok(IoVectors { vectors, memory: PhantomData })
}

impl DeviceMemory {
    /// Where a system call may read up to `limit` bytes of the segments, without the first `skip`.
    ///
    /// # Errors
    ///
    /// EFAULT, if a segment is not in memory.
    pub fn sources(
        &self,
        segments: &[Segment],
        skip: u64,
        limit: usize,
    ) -> io::Result<IoVectors<'_>> {
        vectors(&self.readable, segments, skip, limit)
    }

    /// Where a system call may write up to `limit` bytes.
    ///
    /// # Errors
    ///
    /// EFAULT, if a segment is not in RAM.
    pub fn targets(&self, segments: &[Segment], limit: usize) -> io::Result<IoVectors<'_>> {
        vectors(&self.ram, segments, 0, limit)
    }

    /// Lets the host have the whole pages of the segments: they are zeroes when they are used again.
    ///
    /// # Errors
    ///
    /// EFAULT, if a segment is not in RAM: those before it are gone then.
    pub fn discard(&self, segments: &[Segment]) -> io::Result<()> {
        for segment in segments {
            let end = segment.address.checked_add(segment.length.into()).ok_or_else(bad_address)?;
            let start = segment.address.checked_next_multiple_of(PAGE).ok_or_else(bad_address)?;
            let length = (end - end % PAGE).saturating_sub(start);
            let length = usize::try_from(length).map_err(|_| bad_address())?;
            for slice in self.ram.get_slices(GuestAddress(start), length) {
                let slice = slice.map_err(|_| bad_address())?;
                let guard = slice.ptr_guard_mut();
                // SAFETY: pages of guest RAM, which is mapped as long as `self` lives, private and
                // anonymous. Nobody in this process refers to them but by volatile accesses, to which
                // their content may be anything.
                let result = unsafe {
                    libc::madvise(guard.as_ptr().cast(), slice.len(), libc::MADV_DONTNEED)
                };
                if result != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    }

    /// The same for pages whose numbers these bytes are, as le32. What is not in RAM is left out.
    pub fn discard_pages(&self, numbers: &[u8]) {
        for number in numbers.as_chunks().0 {
            let address = u64::from(u32::from_le_bytes(*number)) * PAGE;
            // A wrong claim concerns the guest alone.
            drop(self.discard(&[Segment { address, length: 4096 }]));
        }
    }

    /// Copies what the segments hold, if it is at most `limit` bytes and in RAM.
    ///
    /// # Errors
    ///
    /// EFAULT, if a segment is not in RAM; EMSGSIZE, if there is more than the limit.
    pub fn copy(&self, segments: &[Segment], limit: usize) -> io::Result<Vec<u8>> {
        let size = usize::try_from(total(segments)).ok().filter(|size| *size <= limit);
        let size = size.ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let mut bytes = vec![0; size];
        let mut rest = bytes.as_mut_slice();
        for segment in segments {
            let (part, after) =
                rest.split_at_mut(usize::try_from(segment.length).unwrap_or(usize::MAX));
            self.ram.read_slice(part, GuestAddress(segment.address)).map_err(|_| bad_address())?;
            rest = after;
        }
        Ok(bytes)
    }

    /// Stores bytes from the start of the segments on, as many as fit; returns how many did.
    ///
    /// # Errors
    ///
    /// EFAULT, if a segment is not in RAM.
    pub fn store(&self, segments: &[Segment], mut bytes: &[u8]) -> io::Result<u32> {
        let mut stored = 0;
        for segment in segments {
            let length = usize::try_from(segment.length).unwrap_or(usize::MAX).min(bytes.len());
            let (part, rest) = bytes.split_at(length);
            self.ram.write_slice(part, GuestAddress(segment.address)).map_err(|_| bad_address())?;
            stored += u32::try_from(length).map_err(|_| bad_address())?;
            bytes = rest;
        }
        Ok(stored)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use vm_memory::GuestRegionMmap;

    /// RAM of 64 KiB at 0 and of a page at 0x20000, and a page at 0x10000 that is only readable.
    pub fn memory() -> DeviceMemory {
        let region = |base, size| {
            let region = GuestRegionMmap::from_range(GuestAddress(base), size, None);
            Arc::new(region.expect("memory"))
        };
        let (low, constant, high) =
            (region(0, 0x1_0000), region(0x1_0000, 0x1000), region(0x2_0000, 0x1000));
        let collect = |regions| GuestMemoryMmap::from_arc_regions(regions).expect("they ascend");
        let ram = collect(vec![low.clone(), high.clone()]);
        let readable = collect(vec![low, constant, high]);
        DeviceMemory { ram: Arc::new(ram), readable: Arc::new(readable) }
    }

    fn lengths(vectors: &IoVectors<'_>) -> Vec<usize> {
        vectors.as_slice().iter().map(|vector| vector.iov_len).collect()
    }

    const SEGMENTS: [Segment; 3] = [
        Segment { address: 0x100, length: 10 },
        Segment { address: 0x200, length: 0 },
        Segment { address: 0xfff0, length: 0x20 },
    ];

    #[test]
    fn sources_skip_and_stop() {
        let memory = memory();
        let of = |skip, limit| lengths(&memory.sources(&SEGMENTS, skip, limit).expect("in memory"));
        assert_eq!(of(0, 100), [10, 16, 16]);
        assert_eq!(of(4, 100), [6, 16, 16]);
        assert_eq!(of(10, 100), [16, 16]);
        assert_eq!(of(30, 100), [12]);
        assert_eq!(of(42, 100), [0; 0]);
        assert_eq!(of(4, 8), [6, 2]);
    }

    #[test]
    fn devices_write_only_ram() {
        let memory = memory();
        assert_eq!(
            memory.targets(&SEGMENTS, 100).err().and_then(|e| e.raw_os_error()),
            Some(libc::EFAULT)
        );
        assert_eq!(
            memory.store(&SEGMENTS, &[1; 42]).err().and_then(|e| e.raw_os_error()),
            Some(libc::EFAULT)
        );
        assert!(memory.targets(&SEGMENTS[..2], 100).is_ok());
    }

    #[test]
    fn addresses_outside_memory_and_overflows_are_errors() {
        let memory = memory();
        for address in [0x1_1000, 0x2_0fff, u64::MAX, u64::MAX - 1, 1 << 40] {
            let segment = [Segment { address, length: 2 }];
            assert!(memory.sources(&segment, 0, 100).is_err(), "{address:#x}");
            assert!(
                memory.sources(&segment, 1, 100).is_err()
                    || address == 0x1_0fff
                    || address == 0x2_0fff - 1
            );
            assert!(memory.copy(&segment, 100).is_err());
        }
        let whole = [Segment { address: 0, length: u32::MAX }];
        assert!(memory.sources(&whole, 0, usize::MAX).is_err());
        assert_eq!(
            memory.copy(&whole, 4096).err().and_then(|e| e.raw_os_error()),
            Some(libc::EMSGSIZE)
        );
    }

    #[test]
    fn bytes_survive_the_way_through_guest_memory() {
        let memory = memory();
        let segments =
            [Segment { address: 0x10, length: 3 }, Segment { address: 0x2_0000, length: 9 }];
        assert_eq!(memory.store(&segments, b"hello world").expect("in RAM"), 11);
        assert_eq!(memory.copy(&segments, 12).expect("in RAM"), b"hello world\0");
    }
}
