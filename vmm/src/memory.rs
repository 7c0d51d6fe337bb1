//! Guest-physical memory: what lies where, and the memory slots that tell KVM.
//!
//! Nothing is touched that the guest does not touch: RAM is mapped lazily and without huge pages,
//! the kernel's read-only pages are those of our own executable, and the root image is put together
//! by mapping its pieces behind each other.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Arc;

use airlock_abi::boot::Range;
use airlock_abi::layout::{HIGH_RAM_BASE, KERNEL_BASE, LOW_RAM_END, ROOT_IMAGE_BASE};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, VolatileSlice,
};

use crate::config::{Piece, RootImage};
use crate::loader::{Kernel, PAGE, PAGE_SIZE};

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// `--mem` does not hold even the kernel.
    #[error(
        "{size} bytes of guest memory are too few: the kernel alone needs {needed} (use a larger --mem)"
    )]
    TooSmall {
        /// What was asked for.
        size: u64,
        /// What the kernel and its boot information take.
        needed: u64,
    },
    /// `--mem` exceeds the guest's address map.
    #[error(
        "{size} bytes of guest memory are too many: at most {limit} fit in the guest's address space (use a smaller --mem)"
    )]
    TooLarge {
        /// What was asked for.
        size: u64,
        /// The most that fits.
        limit: u64,
    },
    /// The host refuses the mapping.
    #[error("the host cannot map {size} bytes of guest memory (use a smaller --mem): {source}")]
    Map {
        /// Size of the mapping.
        size: u64,
        /// What mmap said.
        source: io::Error,
    },
    /// A piece of the root image cannot be mapped.
    #[error("cannot map {length} bytes of a file into the root image: {source}")]
    MapFile {
        /// Size of the piece.
        length: u64,
        /// What the host said.
        source: io::Error,
    },
    /// A file that is part of the root image is shorter than when it was looked at.
    #[error(
        "a file of the root image shrank from {expected} to {found} bytes while it was being mapped"
    )]
    Shrunk {
        /// The length that the image was made for.
        expected: u64,
        /// The length now.
        found: u64,
    },
    /// Guest memory could not be written while loading.
    #[error("cannot load the kernel into guest memory: {0}")]
    Load(#[from] vm_memory::GuestMemoryError),
}

/// A stretch of guest-physical memory, as KVM is told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Guest-physical address.
    pub guest: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address in this process.
    pub host: u64,
    /// Whether guest writes exit instead of changing it.
    pub read_only: bool,
}

/// All memory of a virtual machine.
#[derive(Debug)]
pub struct GuestMemory {
    /// What devices may write, and where rings lie: RAM only.
    pub ram: Arc<GuestMemoryMmap>,
    /// What devices may hand to the host as output: RAM, the kernel's constants and the root image.
    ///
    /// Only system calls may read through this. The root image is made of files of the user: when
    /// one is truncated meanwhile, a system call fails with EFAULT where an instruction would raise
    /// SIGBUS.
    pub readable: Arc<GuestMemoryMmap>,
    /// Memory slots, none overlapping.
    pub slots: Vec<Slot>,
    /// The root image, in guest-physical memory.
    pub root_image: Range,
    /// The kernel's read-only pages, if they are used in place.
    in_place: &'static [u8],
    _root: Mapping,
}

/// RAM regions of a machine: `size` bytes from `base` on, split at the hole below 4 GiB.
fn ram_ranges(base: u64, size: u64) -> Result<Vec<(u64, u64)>, MemoryError> {
    let low = size.min(LOW_RAM_END - base);
    let high = size - low;
    let limit = LOW_RAM_END - base + (ROOT_IMAGE_BASE - HIGH_RAM_BASE);
    if size > limit {
        return Err(MemoryError::TooLarge { size, limit });
    }
    let mut ranges = vec![(base, low)];
    if high > 0 {
        ranges.push((HIGH_RAM_BASE, high));
    }
    Ok(ranges)
}

impl GuestMemory {
    /// Maps memory, loads the kernel and lays out the root image.
    ///
    /// # Errors
    ///
    /// When the sizes do not fit or the host refuses.
    pub fn new(
        size: u64,
        kernel: &Kernel,
        image: KernelBytes<'_>,
        root: &RootImage,
    ) -> Result<Self, MemoryError> {
        let in_place = match image {
            KernelBytes::Constant(bytes) => {
                kernel.in_place(bytes).map(|found| &bytes[found.offset..][..found.size])
            }
            KernelBytes::Loaded(_) => None,
        };
        let in_place: &'static [u8] = in_place.unwrap_or_default();
        let in_place_size = to_u64(in_place.len());
        let ram_base = KERNEL_BASE + in_place_size;

        let mut regions = Vec::new();
        for (base, length) in ram_ranges(ram_base, size)? {
            regions.push(Arc::new(anonymous_region(base, length)?));
        }
        let ram = collection(regions.clone());

        let mut slots: Vec<Slot> = ram.iter().map(|region| slot(region, false)).collect();
        if !in_place.is_empty() {
            // SAFETY: the pages are static, `in_place` begins and ends with a page, and only `readable` holds
            // this region.
            let region = unsafe {
                borrowed_region(KERNEL_BASE, in_place.as_ptr().cast_mut(), in_place.len())
            };
            slots.push(slot(&region, true));
            regions.insert(0, Arc::new(region));
        }
        let needed = kernel.end().saturating_sub(ram_base).next_multiple_of(PAGE);
        if needed > size {
            return Err(MemoryError::TooSmall { size, needed });
        }
        for segment in &kernel.segments {
            if !in_place.is_empty() && !segment.writable {
                continue;
            }
            let bytes = &image.bytes()[segment.offset..segment.offset + segment.file_size];
            ram.write_slice(bytes, GuestAddress(segment.address))?;
        }

        let mapping = map_root_image(root)?;
        let root_image = Range { start: ROOT_IMAGE_BASE, len: to_u64(mapping.size) };
        if mapping.size > 0 {
            // SAFETY: the mapping lives in the same structure as all regions, and is dropped after them; only
            // `readable` holds this one.
            let region = unsafe { borrowed_region(ROOT_IMAGE_BASE, mapping.address, mapping.size) };
            slots.push(slot(&region, true));
            regions.push(Arc::new(region));
        }
        Ok(Self {
            ram: Arc::new(ram),
            readable: Arc::new(collection(regions)),
            slots,
            root_image,
            in_place,
            _root: mapping,
        })
    }

    /// Where RAM begins.
    pub fn ram_base(&self) -> u64 {
        self.ram.iter().next().map_or(KERNEL_BASE, |region| region.start_addr().0)
    }

    /// The page at a guest-physical address: of RAM, or for `reading` of any memory that the guest has.
    pub fn page(&self, address: u64, reading: bool) -> Option<VolatileSlice<'_>> {
        let length = usize::try_from(PAGE).ok()?;
        let memory = if reading { &self.readable } else { &self.ram };
        memory.get_slice(GuestAddress(address), length).ok()
    }

    /// Up to `limit` bytes of code at an address, if it is in the kernel or in RAM.
    ///
    /// Not in the root image: a file of it may shrink at any time.
    pub fn code(&self, address: u64, limit: usize) -> Vec<u8> {
        let offset =
            address.checked_sub(KERNEL_BASE).and_then(|offset| usize::try_from(offset).ok());
        if let Some(text) =
            offset.and_then(|offset| self.in_place.get(offset..)).filter(|text| !text.is_empty())
        {
            return text[..limit.min(text.len())].to_vec();
        }
        let mut bytes = vec![0; limit];
        let read = self.ram.read(&mut bytes, GuestAddress(address)).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// RAM from `used` on, the part of it that no one has touched.
    pub fn free(&self, used: u64) -> [Range; 2] {
        let mut free = [Range::default(); 2];
        for (range, region) in free.iter_mut().zip(self.ram.iter()) {
            let start = region.start_addr().0.max(used.next_multiple_of(PAGE));
            let end = region.start_addr().0 + region.len();
            *range = Range { start, len: end.saturating_sub(start) };
        }
        free
    }
}

/// The bytes of a kernel image.
#[derive(Clone, Copy, Debug)]
pub enum KernelBytes<'a> {
    /// Part of this executable, page-aligned: its read-only pages may be used in place.
    Constant(&'static [u8]),
    /// Read from somewhere: everything is copied.
    Loaded(&'a [u8]),
}

impl<'a> KernelBytes<'a> {
    /// The bytes.
    pub const fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Constant(bytes) => bytes,
            Self::Loaded(bytes) => bytes,
        }
    }
}

fn to_u64(size: usize) -> u64 {
    // This program is for x86-64 only.
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn collection(regions: Vec<Arc<GuestRegionMmap>>) -> GuestMemoryMmap {
    // They ascend and do not overlap, by construction.
    GuestMemoryMmap::from_arc_regions(regions).unwrap_or_default()
}

fn slot(region: &GuestRegionMmap, read_only: bool) -> Slot {
    Slot {
        guest: region.start_addr().0,
        size: region.len(),
        host: to_u64(region.as_ptr().addr()),
        read_only,
    }
}

fn anonymous_region(base: u64, length: u64) -> Result<GuestRegionMmap, MemoryError> {
    let refused = |source| MemoryError::Map { size: length, source };
    let size =
        usize::try_from(length).map_err(|_| refused(io::Error::from_raw_os_error(libc::ENOMEM)))?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let region = MmapRegion::build(None, size, libc::PROT_READ | libc::PROT_WRITE, flags)
        .map_err(|error| refused(io::Error::other(error)))?;
    // The guest touches little of its memory; a huge page would cost clearing 2 MiB for the first byte.
    // Kernels without huge pages refuse the advice, and need none.
    // SAFETY: the range is the mapping that was just made, and the advice does not change its contents.
    unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_NOHUGEPAGE) };
    // The address map ends far below 2^64.
    GuestRegionMmap::new(region, GuestAddress(base))
        .ok_or_else(|| refused(io::Error::from_raw_os_error(libc::EINVAL)))
}

/// A region over memory that somebody else owns.
///
/// # Safety
///
/// The memory must be mapped, page-aligned, for as long as the region lives, and nothing may write
/// through the region.
unsafe fn borrowed_region(base: u64, address: *mut u8, size: usize) -> GuestRegionMmap {
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    // SAFETY: the caller's promise.
    let region = unsafe { MmapRegion::build_raw(address, size, libc::PROT_READ, flags) };
    let region = region.expect("mappings are page-aligned");
    GuestRegionMmap::new(region, GuestAddress(base)).expect("the address map ends far below 2^64")
}

/// Pages that are unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    address: *mut u8,
    size: usize,
}

// SAFETY: the pages belong to the process, not to a thread, and are only handed out as addresses.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no access through a shared reference.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size > 0 {
            // SAFETY: the range was mapped by `map_root_image` and the regions over it are gone:
            // they live in the same structure as this.
            unsafe { libc::munmap(self.address.cast(), self.size) };
        }
    }
}

fn piece_length(piece: &Piece) -> u64 {
    match piece {
        Piece::Bytes(bytes) => to_u64(bytes.len()),
        Piece::File { length, .. } => *length,
    }
}

/// Maps the pieces one after the other.
fn map_root_image(root: &RootImage) -> Result<Mapping, MemoryError> {
    let too_large = |size| MemoryError::TooLarge { size, limit: ROOT_IMAGE_BASE };
    let mut total: u64 = 0;
    for piece in &root.pieces {
        let padded = piece_length(piece).checked_next_multiple_of(PAGE);
        total = padded
            .and_then(|padded| total.checked_add(padded))
            .ok_or_else(|| too_large(u64::MAX))?;
    }
    // The image has the upper half of what the kernel's direct map covers.
    if total > ROOT_IMAGE_BASE {
        return Err(too_large(total));
    }
    let size = usize::try_from(total).map_err(|_| too_large(total))?;
    if size == 0 {
        return Ok(Mapping { address: ptr::dangling_mut(), size });
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the host's choice overwrites nothing.
    let address = unsafe {
        libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if address == libc::MAP_FAILED {
        return Err(MemoryError::Map { size: total, source: io::Error::last_os_error() });
    }
    let mapping = Mapping { address: address.cast(), size };
    let mut offset = 0;
    for piece in &root.pieces {
        let length = usize::try_from(piece_length(piece)).map_err(|_| too_large(total))?;
        // SAFETY: `offset` plus the piece's padded length is at most the size of the mapping.
        let target = unsafe { mapping.address.add(offset) };
        match piece {
            Piece::Bytes(bytes) => {
                // SAFETY: the target has room for the bytes, as above, and is private to this function.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, length) };
            }
            // SAFETY: the target has room for the file, as above, and is private to this function.
            Piece::File { file, .. } => unsafe { map_file(file, length, target)? },
        }
        offset += length.next_multiple_of(PAGE_SIZE);
    }
    Ok(mapping)
}

/// Maps the first `length` bytes of a file at `target`, and zeroes behind them up to the next page.
///
/// # Safety
///
/// `target` must be page-aligned, and `length` bytes from there, rounded up to a page, must be
/// writable memory that nothing else refers to.
unsafe fn map_file(file: &File, length: usize, target: *mut u8) -> Result<(), MemoryError> {
    let failed = |source| MemoryError::MapFile { length: to_u64(length), source };
    let found = file.metadata().map_err(failed)?.len();
    let expected = to_u64(length);
    if found < expected {
        return Err(MemoryError::Shrunk { expected, found });
    }
    // The last page of a file is padded with zeroes by the host, unless the file goes on there.
    let mapped = if found == expected { length } else { length - length % PAGE_SIZE };
    if mapped > 0 {
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
        // SAFETY: the caller owns the pages that this replaces.
        let address = unsafe {
            libc::mmap(target.cast(), mapped, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
    }
    if mapped < length {
        // SAFETY: these pages were not replaced above, so they are still the caller's writable ones.
        let rest = unsafe { std::slice::from_raw_parts_mut(target.add(mapped), length - mapped) };
        file.read_exact_at(rest, to_u64(mapped)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use airlock_abi::boot::{EntryNote, VERSION};

    use super::*;
    use crate::loader::Segment;

    /// An open file with this content and no name.
    fn file(content: &[u8]) -> File {
        let mut file =
            vmm_sys_util::tempfile::TempFile::new().expect("a temporary file").into_file();
        file.write_all(content).expect("room for it");
        file
    }

    fn contents(mapping: &Mapping) -> &[u8] {
        // SAFETY: the mapping is readable for its size and lives as long as the slice.
        unsafe { std::slice::from_raw_parts(mapping.address, mapping.size) }
    }

    fn padded(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
        }
        bytes
    }

    #[test]
    fn pieces_follow_each_other_padded_with_zeroes() {
        let (text, exact) = (vec![1; 5000], vec![2; 8192]);
        let piece =
            |content: &[u8]| Piece::File { file: file(content), length: to_u64(content.len()) };
        let root = RootImage {
            pieces: vec![
                Piece::Bytes(vec![9; 100]),
                piece(&text),
                piece(&[]),
                piece(&exact),
                Piece::Bytes(Vec::new()),
                Piece::Bytes(vec![7; 4096]),
            ],
        };
        let mapping = map_root_image(&root).expect("an image");
        assert!(contents(&mapping) == padded(&[&[9; 100], &text, &exact, &[7; 4096]]));
    }

    #[test]
    fn only_the_promised_part_of_a_longer_file_is_seen() {
        for length in [0, 1, 4096, 5000] {
            let content = vec![1; 10_000];
            let root = RootImage { pieces: vec![Piece::File { file: file(&content), length }] };
            let mapping = map_root_image(&root).expect("an image");
            let promised = &content[..usize::try_from(length).expect("small")];
            assert!(contents(&mapping) == padded(&[promised]), "{length}");
        }
    }

    #[test]
    fn a_shorter_file_is_an_error() {
        let root = RootImage { pieces: vec![Piece::File { file: file(b"short"), length: 6 }] };
        assert!(matches!(
            map_root_image(&root),
            Err(MemoryError::Shrunk { expected: 6, found: 5 })
        ));
    }

    #[test]
    fn an_image_beyond_the_address_map_is_an_error() {
        for length in [ROOT_IMAGE_BASE + 1, u64::MAX - 4095, u64::MAX] {
            let root = RootImage { pieces: vec![Piece::File { file: file(b""), length }] };
            assert!(
                matches!(map_root_image(&root), Err(MemoryError::TooLarge { .. })),
                "{length:#x}"
            );
        }
    }

    #[test]
    fn ram_is_split_at_the_hole() {
        let base = KERNEL_BASE + 0x3000;
        let low = LOW_RAM_END - base;
        assert_eq!(ram_ranges(base, 4096).ok(), Some(vec![(base, 4096)]));
        assert_eq!(ram_ranges(base, low).ok(), Some(vec![(base, low)]));
        assert_eq!(
            ram_ranges(base, low + 4096).ok(),
            Some(vec![(base, low), (HIGH_RAM_BASE, 4096)])
        );
        assert!(matches!(ram_ranges(base, 1 << 40), Err(MemoryError::TooLarge { .. })));
    }

    /// A page of text, then a page of data of which half comes from the image, then three zeroed ones.
    fn kernel() -> Kernel {
        let segment = |offset, file_size, address, memory_size, writable| Segment {
            offset,
            file_size,
            address,
            memory_size,
            writable,
        };
        Kernel {
            entry: EntryNote { version: VERSION, entry: 0, page_table: KERNEL_BASE },
            segments: vec![
                segment(0x1000, 0x1000, KERNEL_BASE, 0x1000, false),
                segment(0x2000, 0x800, KERNEL_BASE + 0x1000, 0x4000, true),
            ],
        }
    }

    fn image() -> &'static [u8] {
        let memory: &'static mut [u8] = vec![0; 5 * PAGE_SIZE].leak();
        let offset = memory.as_ptr().align_offset(PAGE_SIZE);
        let image = &mut memory[offset..offset + 3 * PAGE_SIZE];
        image[0x1000..0x2000].fill(0x11);
        image[0x2000..0x2800].fill(0x22);
        image[0x2800..].fill(0x33);
        image
    }

    fn byte(memory: &GuestMemoryMmap, address: u64) -> Option<u8> {
        memory.read_obj(GuestAddress(address)).ok()
    }

    #[test]
    fn an_embedded_kernel_is_used_in_place() {
        let image = image();
        let root = RootImage { pieces: vec![Piece::Bytes(vec![0x77; 10])] };
        let memory = GuestMemory::new(1 << 20, &kernel(), KernelBytes::Constant(image), &root)
            .expect("memory");
        let text = memory
            .slots
            .iter()
            .find(|slot| slot.guest == KERNEL_BASE)
            .expect("a slot for the text");
        assert_eq!(
            (text.size, text.read_only, text.host),
            (4096, true, to_u64(image[0x1000..].as_ptr().addr()))
        );
        assert_eq!(memory.ram_base(), KERNEL_BASE + 0x1000);
        assert_eq!(byte(&memory.ram, KERNEL_BASE), None, "devices do not write the kernel");
        assert_eq!(byte(&memory.readable, KERNEL_BASE), Some(0x11));
        assert_eq!(byte(&memory.ram, KERNEL_BASE + 0x17ff), Some(0x22));
        assert_eq!(
            byte(&memory.ram, KERNEL_BASE + 0x1800),
            Some(0),
            "not what follows in the image"
        );
        assert_eq!(byte(&memory.ram, ROOT_IMAGE_BASE), None, "devices do not write the root image");
        assert_eq!(byte(&memory.readable, ROOT_IMAGE_BASE), Some(0x77));
        assert_eq!(memory.code(KERNEL_BASE + 0xffe, 15), [0x11; 2]);
        assert_eq!(memory.code(ROOT_IMAGE_BASE, 15), [0; 0]);
        let free = memory.free(kernel().end() + 10);
        assert_eq!(free[0], Range { start: KERNEL_BASE + 0x6000, len: (1 << 20) - 0x5000 });
        assert_eq!(free[1], Range::default());
    }

    #[test]
    fn another_kernel_is_copied() {
        let memory = GuestMemory::new(
            1 << 20,
            &kernel(),
            KernelBytes::Loaded(image()),
            &RootImage::default(),
        );
        let memory = memory.expect("memory");
        assert_eq!((memory.ram_base(), memory.slots.len()), (KERNEL_BASE, 1));
        assert_eq!(byte(&memory.ram, KERNEL_BASE), Some(0x11));
        assert_eq!(byte(&memory.ram, KERNEL_BASE + 0x17ff), Some(0x22));
        assert_eq!(byte(&memory.ram, KERNEL_BASE + 0x1800), Some(0));
        assert_eq!(memory.root_image.len, 0);
    }

    #[test]
    fn memory_must_hold_the_kernel() {
        for image in [KernelBytes::Constant(image()), KernelBytes::Loaded(image())] {
            let memory = GuestMemory::new(0x3000, &kernel(), image, &RootImage::default());
            assert!(matches!(memory, Err(MemoryError::TooSmall { size: 0x3000, .. })));
        }
    }
}
