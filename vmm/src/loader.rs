//! Reads the guest kernel's ELF image: what goes where, and how vCPUs enter it.
//!
//! Pure functions over bytes. The image may come from a file that the user names, so nothing in it
//! is believed: every offset, size and address is checked where it is read.

use airlock_abi::boot::{self, EntryNote};
use airlock_abi::layout::{KERNEL_BASE, LOW_RAM_END};

/// Size of a page, on the host and in the guest.
pub const PAGE: u64 = 4096;
/// The same, for sizes in this process.
pub const PAGE_SIZE: usize = 4096;

/// Why an image is not a kernel that can be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file does not start with the ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// The file ends before something that it says it contains.
    #[error("it is truncated or damaged: its {0} lies beyond its end")]
    Truncated(&'static str),
    /// The class is not ELFCLASS64.
    #[error("it is not a 64-bit ELF file")]
    NotElf64,
    /// The machine is not x86-64, or the byte order not little-endian.
    #[error("it is not for x86-64")]
    WrongMachine,
    /// The type is not ET_EXEC.
    #[error("it is not a static executable linked to fixed addresses")]
    NotExecutable,
    /// The program headers have another size, or there are too many.
    #[error("its program headers are malformed")]
    BadHeaders,
    /// A segment's sizes or addresses make no sense.
    #[error("its segment at {0:#x} does not fit in guest memory or overlaps another")]
    BadSegment(u64),
    /// There is no segment to load.
    #[error("it has nothing to load")]
    Empty,
    /// There is no note that says how to enter it.
    #[error("it has no Airlock entry note, so it is not an Airlock guest kernel")]
    NoNote,
    /// The note is for another version of the boot protocol.
    #[error(
        "it speaks version {found} of the boot protocol, this airlock speaks version {expected}"
    )]
    WrongVersion {
        /// What the note says.
        found: u64,
        /// What this program needs.
        expected: u64,
    },
    /// The page tables are not in a segment.
    #[error("its page table root {0:#x} is not a page of one of its segments")]
    BadPageTable(u64),
}

/// A segment to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its bytes in the image.
    pub offset: usize,
    /// How many bytes the image has.
    pub file_size: usize,
    /// Guest-physical address.
    pub address: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub memory_size: u64,
    /// Whether the kernel writes to it.
    pub writable: bool,
}

impl Segment {
    /// First guest-physical address after the segment.
    pub const fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

/// A kernel image that has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// How vCPUs enter it.
    pub entry: EntryNote,
    /// Segments by ascending address, none overlapping.
    pub segments: Vec<Segment>,
}

/// The part of an image that the guest may use in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Offset of the first byte in the image.
    pub offset: usize,
    /// Size in bytes, a multiple of the page size.
    pub size: usize,
}

const ELF_HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const MAX_PROGRAM_HEADERS: usize = 32;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_W: u32 = 2;
const NOTE_DESCRIPTOR_SIZE: usize = 24;

fn bytes<const N: usize>(image: &[u8], offset: usize) -> Option<[u8; N]> {
    image.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn u16_at(image: &[u8], offset: usize) -> Option<u16> {
    bytes(image, offset).map(u16::from_le_bytes)
}

fn u32_at(image: &[u8], offset: usize) -> Option<u32> {
    bytes(image, offset).map(u32::from_le_bytes)
}

fn u64_at(image: &[u8], offset: usize) -> Option<u64> {
    bytes(image, offset).map(u64::from_le_bytes)
}

/// Reads a 64-bit file offset or size as the index that it is meant to be.
fn index_at(image: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(u64_at(image, offset)?).ok()
}

impl Kernel {
    /// Reads and checks an image.
    ///
    /// # Errors
    ///
    /// When the image is not an Airlock guest kernel that this program can start.
    pub fn parse(image: &[u8]) -> Result<Self, ImageError> {
        let headers = program_headers(image)?;
        let mut segments = Vec::new();
        let mut note = None;
        for header in headers {
            let kind = u32_at(header, 0).ok_or(ImageError::BadHeaders)?;
            match kind {
                PT_LOAD => segments.extend(segment(image, header)?),
                PT_NOTE if note.is_none() => {
                    let (offset, size) = file_range(image, header, "note")?;
                    note = find_note(&image[offset..offset + size]);
                }
                _ => {}
            }
        }
        let entry = note.ok_or(ImageError::NoNote)?;
        if entry.version != boot::VERSION {
            return Err(ImageError::WrongVersion { found: entry.version, expected: boot::VERSION });
        }
        segments.sort_by_key(|segment: &Segment| segment.address);
        if segments.is_empty() {
            return Err(ImageError::Empty);
        }
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
            return Err(ImageError::BadSegment(pair[1].address));
        }
        let root = entry.page_table;
        let held = |segment: &Segment| {
            root >= segment.address && root.saturating_add(PAGE) <= segment.end()
        };
        if root % PAGE != 0 || !segments.iter().any(held) {
            return Err(ImageError::BadPageTable(root));
        }
        Ok(Self { entry, segments })
    }

    /// First guest-physical address after the last segment.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(KERNEL_BASE, Segment::end)
    }

    /// The read-only pages, if the guest can use them where they are in `image`: they start at
    /// [`KERNEL_BASE`], lie in the image as they shall lie in memory, and only a writable segment
    /// follows, on the next page. `image` itself is taken to be page-aligned.
    pub fn in_place(&self, image: &[u8]) -> Option<InPlace> {
        let first = self.segments.first()?;
        let writable = self.segments.iter().position(|segment| segment.writable);
        let (read_only, rest) = self.segments.split_at(writable.unwrap_or(self.segments.len()));
        let last = read_only.last()?;
        let as_linked = |segment: &Segment| {
            let in_file =
                segment.offset.checked_sub(first.offset).and_then(|at| u64::try_from(at).ok());
            in_file == Some(segment.address - first.address)
                && u64::try_from(segment.file_size) == Ok(segment.memory_size)
        };
        let size = (last.end() - first.address).next_multiple_of(PAGE);
        let shape = first.address == KERNEL_BASE
            && u64::try_from(first.offset).ok()?.is_multiple_of(PAGE)
            && read_only.iter().all(as_linked)
            && rest
                .iter()
                .all(|segment| segment.writable && segment.address >= first.address + size);
        let size = usize::try_from(size).ok()?;
        let inside = first.offset.checked_add(size)? <= image.len();
        (shape && inside).then_some(InPlace { offset: first.offset, size })
    }
}

fn program_headers(image: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ImageError> {
    let header = image.get(..ELF_HEADER_SIZE);
    if image.get(..4) != Some(b"\x7fELF") {
        return Err(ImageError::NotElf);
    }
    let header = header.ok_or(ImageError::Truncated("ELF header"))?;
    if header[4] != ELFCLASS64 {
        return Err(ImageError::NotElf64);
    }
    if header[5] != ELFDATA2LSB || u16_at(header, 18) != Some(EM_X86_64) {
        return Err(ImageError::WrongMachine);
    }
    if u16_at(header, 16) != Some(ET_EXEC) {
        return Err(ImageError::NotExecutable);
    }
    let size = u16_at(header, 54).map(usize::from);
    let count = u16_at(header, 56).map_or(0, usize::from);
    if size != Some(PROGRAM_HEADER_SIZE) || count > MAX_PROGRAM_HEADERS {
        return Err(ImageError::BadHeaders);
    }
    let start = index_at(header, 32).ok_or(ImageError::BadHeaders)?;
    start
        .checked_add(count * PROGRAM_HEADER_SIZE)
        .and_then(|end| image.get(start..end))
        .map(|table| table.chunks_exact(PROGRAM_HEADER_SIZE))
        .ok_or(ImageError::Truncated("program header table"))
}

/// Offset and size of a program header's bytes, which exist in the image.
fn file_range(
    image: &[u8],
    header: &[u8],
    what: &'static str,
) -> Result<(usize, usize), ImageError> {
    let offset = index_at(header, 8).ok_or(ImageError::BadHeaders)?;
    let size = index_at(header, 32).ok_or(ImageError::BadHeaders)?;
    match offset.checked_add(size) {
        Some(end) if end <= image.len() => Ok((offset, size)),
        _ => Err(ImageError::Truncated(what)),
    }
}

/// The segment of a PT_LOAD header, unless it is empty.
fn segment(image: &[u8], header: &[u8]) -> Result<Option<Segment>, ImageError> {
    let flags = u32_at(header, 4).ok_or(ImageError::BadHeaders)?;
    let address = u64_at(header, 24).ok_or(ImageError::BadHeaders)?;
    let memory_size = u64_at(header, 40).ok_or(ImageError::BadHeaders)?;
    if memory_size == 0 {
        return Ok(None);
    }
    let (offset, file_size) = file_range(image, header, "segment")?;
    let end = address.checked_add(memory_size);
    let fits = address >= KERNEL_BASE && end.is_some_and(|end| end <= LOW_RAM_END);
    if !fits || u64::try_from(file_size).map_or(true, |size| size > memory_size) {
        return Err(ImageError::BadSegment(address));
    }
    Ok(Some(Segment { offset, file_size, address, memory_size, writable: flags & PF_W != 0 }))
}

/// Finds the direct-entry note among the notes of one PT_NOTE segment.
fn find_note(mut notes: &[u8]) -> Option<EntryNote> {
    // The gABI's layout: three words, then name and descriptor, each padded to four bytes.
    while notes.len() >= 12 {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let descriptor_size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..name_size.checked_add(12)?)?;
        let start = name_size.checked_next_multiple_of(4)?.checked_add(12)?;
        let descriptor = notes.get(start..start.checked_add(descriptor_size)?)?;
        let wanted = name.strip_suffix(&[0]) == Some(boot::NOTE_NAME.as_bytes());
        if wanted && kind == boot::NOTE_TYPE && descriptor.len() >= NOTE_DESCRIPTOR_SIZE {
            return Some(EntryNote {
                version: u64_at(descriptor, 0)?,
                entry: u64_at(descriptor, 8)?,
                page_table: u64_at(descriptor, 16)?,
            });
        }
        let next = start.checked_add(descriptor_size.checked_next_multiple_of(4)?)?;
        notes = notes.get(next..).unwrap_or(&[]);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends a program header: type, flags, offset, address, size in the file, size in memory.
    fn header(image: &mut Vec<u8>, kind: u32, flags: u32, rest: [u64; 4]) {
        let [offset, address, file_size, memory_size] = rest;
        image.extend(kind.to_le_bytes());
        image.extend(flags.to_le_bytes());
        for word in [offset, 0, address, file_size, memory_size, 4096] {
            image.extend(word.to_le_bytes());
        }
    }

    /// An image with these segments (flags, offset, address, size in the file, size in memory), whose
    /// page tables are where the last one begins.
    fn image(segments: &[(u32, [u64; 4])]) -> Vec<u8> {
        let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        for word in [0_u64, 64, 0] {
            image.extend(word.to_le_bytes());
        }
        let count = u16::try_from(segments.len() + 1).expect("few");
        for half in [0_u16, 0, 64, 56, count, 0, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        header(&mut image, PT_NOTE, 4, [0x400, 0, 44, 44]);
        for (flags, rest) in segments {
            header(&mut image, PT_LOAD, *flags, *rest);
        }
        image.resize(0x400, 0);
        for word in [8_u32, 24, boot::NOTE_TYPE] {
            image.extend(word.to_le_bytes());
        }
        image.extend(b"Airlock\0");
        let tables = segments.last().map_or(0, |(_, rest)| rest[1]);
        for word in [boot::VERSION, 0xffff_ffff_8000_0000, tables] {
            image.extend(word.to_le_bytes());
        }
        image.resize(0x8000, 0);
        image
    }

    const TEXT: (u32, [u64; 4]) = (5, [0x1000, KERNEL_BASE, 0x1800, 0x1800]);
    const CONSTANTS: (u32, [u64; 4]) = (4, [0x3000, KERNEL_BASE + 0x2000, 0x100, 0x100]);
    const DATA: (u32, [u64; 4]) = (6, [0x4000, KERNEL_BASE + 0x3000, 0x1000, 0x9000]);

    #[test]
    fn segments_and_entry_are_read() {
        let kernel = Kernel::parse(&image(&[TEXT, CONSTANTS, DATA])).expect("a kernel");
        assert_eq!(kernel.entry.entry, 0xffff_ffff_8000_0000);
        assert_eq!(kernel.entry.page_table, KERNEL_BASE + 0x3000);
        assert_eq!(kernel.segments.len(), 3);
        assert_eq!(kernel.end(), KERNEL_BASE + 0xc000);
    }

    #[test]
    fn read_only_pages_as_the_linker_makes_them_stay_in_place() {
        let image = image(&[TEXT, CONSTANTS, DATA]);
        let kernel = Kernel::parse(&image).expect("a kernel");
        assert_eq!(kernel.in_place(&image), Some(InPlace { offset: 0x1000, size: 0x3000 }));
        assert_eq!(kernel.in_place(&image[..0x3800]), None, "the last page is not whole");
    }

    #[test]
    fn other_shapes_are_copied() {
        let moved = (4, [0x3800, KERNEL_BASE + 0x2000, 0x100, 0x100]);
        let zeroed = (4, [0x3000, KERNEL_BASE + 0x2000, 0x100, 0x200]);
        let shared_page = (6, [0x4000, KERNEL_BASE + 0x2800, 0x800, 0x800]);
        let unaligned = (5, [0x1800, KERNEL_BASE, 0x1000, 0x1000]);
        let elsewhere = (5, [0x1000, KERNEL_BASE + 0x1000, 0x1000, 0x1000]);
        let after = (4, [0x5000, KERNEL_BASE + 0xd000, 0x1000, 0x1000]);
        for segments in [
            &[TEXT, moved, DATA][..],
            &[TEXT, zeroed, DATA],
            &[TEXT, CONSTANTS, shared_page],
            &[unaligned, DATA],
            &[elsewhere, DATA],
            &[DATA],
            &[TEXT, DATA, after],
        ] {
            let mut image = image(segments);
            // These are about places, not about page tables.
            image[0x400 + 36..0x400 + 44].copy_from_slice(&segments[0].1[1].to_le_bytes());
            let kernel = Kernel::parse(&image).expect("a kernel");
            assert_eq!(kernel.in_place(&image), None, "{segments:x?}");
        }
    }

    #[test]
    fn overlapping_and_misplaced_segments_are_refused() {
        let overlapping = (6, [0x4000, KERNEL_BASE + 0x1000, 0x1000, 0x1000]);
        let below = (6, [0x4000, KERNEL_BASE - 0x1000, 0x1000, 0x1000]);
        let beyond = (6, [0x4000, LOW_RAM_END - 0x1000, 0x1000, 0x2000]);
        let wrapping = (6, [0x4000, u64::MAX - 0xfff, 0x1000, 0x2000]);
        let shrinking = (6, [0x4000, KERNEL_BASE + 0x3000, 0x1000, 0x800]);
        for segment in [overlapping, below, beyond, wrapping, shrinking] {
            let result = Kernel::parse(&image(&[TEXT, segment]));
            assert!(matches!(result, Err(ImageError::BadSegment(_))), "{segment:x?}: {result:?}");
        }
        let outside = (6, [u64::MAX, KERNEL_BASE + 0x3000, 0x1000, 0x1000]);
        assert_eq!(Kernel::parse(&image(&[TEXT, outside])), Err(ImageError::Truncated("segment")));
    }

    #[test]
    fn any_prefix_and_any_flipped_byte_is_handled() {
        let good = image(&[TEXT, CONSTANTS, DATA]);
        for length in 0..0x500 {
            assert!(Kernel::parse(&good[..length]).is_err());
        }
        for offset in 0..0x440 {
            for flip in [0x01, 0x80, 0xff] {
                let mut image = good.clone();
                image[offset] ^= flip;
                if let Ok(kernel) = Kernel::parse(&image) {
                    let _ = kernel.in_place(&image);
                }
            }
        }
    }
}
