//! ELF executables (elf(5); System V ABI, AMD64 supplement).
//!
//! Every number in the file is the program's word. What Linux maps, this maps; what makes no sense is
//! ENOEXEC, EINVAL or ENOMEM as there, before the process has changed.

use super::{Entropy, Executable, partial_page};
use crate::errno::{Errno, Result};
use crate::fs::path::PATH_MAX;
use crate::memory::areas::{Area, AreaFlags, Backing, Label, Protection};
use crate::memory::space::{AddressSpace, Layout};
use crate::memory::{PAGE, USER_END, page_ceil, page_floor, usize_from};
use alloc::vec::Vec;

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_PHDR: u32 = 6;
const SEGMENT_STACK: u32 = 0x6474_e551;
const HEADER_SIZE: usize = 64;
const SEGMENT_SIZE: usize = 56;
/// Linux refuses program headers of more than a page... of 64 KiB.
const MAX_SEGMENTS: usize = 65536 / SEGMENT_SIZE;
/// Where a position-independent program goes: two thirds up, as on Linux, plus 28 random bits.
const DYNAMIC_BASE: u64 = page_floor(USER_END / 3 * 2);
const DYNAMIC_BITS: u32 = 28;
/// Pages of each segment that are mapped before the program starts.
const AHEAD: u64 = 16;

/// What the stack and the process need to know of a loaded program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// The program's first instruction (AT_ENTRY).
    pub entry: u64,
    /// The instruction to begin with: the interpreter's first, if there is one.
    pub start: u64,
    /// What was added to the interpreter's addresses (AT_BASE).
    pub interpreter: u64,
    /// Whether the program asks for a stack that can be executed (`PT_GNU_STACK`).
    pub executable_stack: bool,
    /// Where the program headers are in memory (AT_PHDR).
    pub headers: u64,
    /// How many there are (AT_PHNUM).
    pub header_count: u16,
    /// Code, for `/proc/PID/stat`.
    pub code: (u64, u64),
    /// Data, likewise.
    pub data: (u64, u64),
    /// End of the highest segment: the break starts above it.
    pub end: u64,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Segment {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            address: u64_at(bytes, 16),
            file_size: u64_at(bytes, 32),
            memory_size: u64_at(bytes, 40),
        }
    }

    fn protection(&self) -> Protection {
        let bit = |flag: u32, right: Protection| {
            if self.flags & flag != 0 { right } else { Protection(0) }
        };
        bit(4, Protection::READ).with(bit(2, Protection::WRITE)).with(bit(1, Protection::EXECUTE))
    }

    /// Page-aligned range in memory, relative to the program's base.
    fn range(&self) -> Result<(u64, u64)> {
        let end = self.address.checked_add(self.memory_size).and_then(page_ceil);
        match end {
            Some(end) if end <= USER_END && self.file_size <= self.memory_size => {
                Ok((page_floor(self.address), end))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// The headers of an ELF file that can be mapped.
struct Headers {
    /// Whether it may be at any address.
    dynamic: bool,
    /// First instruction, relative to the base.
    entry: u64,
    /// Where in the file the program headers are, and how many.
    offset: u64,
    count: u16,
    table: Vec<u8>,
}

impl Headers {
    /// Reads them; what is no ELF file for this machine is `unfit`.
    fn read(file: &Executable, unfit: Errno) -> Result<Self> {
        let mut header = [0; HEADER_SIZE];
        if file.read_at(0, &mut header)? < HEADER_SIZE
            || header[..4] != MAGIC
            || header[4] != CLASS_64
            || header[5] != LITTLE_ENDIAN
            || u16_at(&header, 18) != MACHINE_X86_64
            || usize::from(u16_at(&header, 54)) != SEGMENT_SIZE
        {
            return Err(unfit);
        }
        let dynamic = match u16_at(&header, 16) {
            TYPE_EXEC => false,
            TYPE_DYN => true,
            _ => return Err(unfit),
        };
        let offset = u64_at(&header, 32);
        let count = u16_at(&header, 56);
        if count == 0 || usize::from(count) > MAX_SEGMENTS {
            return Err(unfit);
        }
        let mut table = Vec::new();
        let table_size = usize::from(count) * SEGMENT_SIZE;
        table.try_reserve_exact(table_size).map_err(|_| Errno::ENOMEM)?;
        table.resize(table_size, 0);
        if file.read_at(offset, &mut table)? < table_size {
            return Err(unfit);
        }
        Ok(Self { dynamic, entry: u64_at(&header, 24), offset, count, table })
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.table.chunks_exact(SEGMENT_SIZE).map(Segment::parse)
    }

    /// The pages from the lowest segment to the highest, relative to the base.
    fn extent(&self) -> Result<(u64, u64)> {
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for segment in self.segments() {
            if segment.kind == SEGMENT_LOAD && segment.memory_size > 0 {
                let (start, end) = segment.range()?;
                lowest = lowest.min(start);
                highest = highest.max(end);
            }
        }
        if lowest < highest { Ok((lowest, highest)) } else { Err(Errno::EINVAL) }
    }

    /// The path of the interpreter, if the program has one: the dynamic linker.
    fn interpreter(&self, file: &Executable) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segments().find(|segment| segment.kind == SEGMENT_INTERPRETER)
        else {
            return Ok(None);
        };
        let len = usize::try_from(segment.file_size).unwrap_or(usize::MAX);
        if !(2..=PATH_MAX).contains(&len) {
            return Err(Errno::ENOEXEC);
        }
        let mut path = Vec::new();
        path.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        path.resize(len, 0);
        // Linux says EIO of a file that ends here.
        if file.read_at(segment.offset, &mut path)? < len {
            return Err(Errno::EIO);
        }
        if path.last() != Some(&0) {
            return Err(Errno::ENOEXEC);
        }
        let end = path.iter().position(|&byte| byte == 0).unwrap_or(len);
        path.truncate(end);
        Ok(Some(path))
    }

    /// Maps the segments, and says what is where.
    fn map(&self, space: &AddressSpace, file: &Executable, base: u64) -> Result<Loaded> {
        let entry = base.wrapping_add(self.entry);
        let mut loaded = Loaded {
            entry,
            start: entry,
            header_count: self.count,
            end: base + self.extent()?.1,
            code: (u64::MAX, 0),
            ..Loaded::default()
        };
        for segment in self.segments() {
            if segment.kind == SEGMENT_PHDR {
                loaded.headers = base.wrapping_add(segment.address);
            }
            if segment.kind == SEGMENT_STACK {
                loaded.executable_stack = segment.flags & 1 != 0;
            }
            if segment.kind != SEGMENT_LOAD || segment.memory_size == 0 {
                continue;
            }
            if loaded.headers == 0
                && (segment.offset..segment.offset.saturating_add(segment.file_size))
                    .contains(&self.offset)
            {
                loaded.headers = base + segment.address + (self.offset - segment.offset);
            }
            let (start, end) = (base + segment.address, base + segment.address + segment.file_size);
            if segment.flags & 1 != 0 {
                loaded.code = (loaded.code.0.min(start), loaded.code.1.max(end));
            } else {
                loaded.data = (start, loaded.data.1.max(end));
            }
            map_segment(space, file, &segment, base)?;
        }
        Ok(loaded)
    }
}

/// Maps the segments of a program into an empty address space, and those of its interpreter, which
/// `open` opens by its path.
///
/// # Errors
/// ENOEXEC if it is not a program for this machine, EINVAL or ENOMEM if it cannot be mapped; ELIBBAD
/// if its interpreter is not one, and what `open` says.
pub fn load(
    space: &AddressSpace,
    file: &Executable,
    open: &mut dyn FnMut(&[u8]) -> Result<Executable>,
    entropy: &mut Entropy<'_>,
) -> Result<Loaded> {
    let headers = Headers::read(file, Errno::ENOEXEC)?;
    let interpreter = match headers.interpreter(file)? {
        Some(path) => {
            let file = open(&path)?;
            Some((Headers::read(&file, Errno::ELIBBAD)?, file))
        }
        None => None,
    };
    let (lowest, highest) = headers.extent()?;
    let base = if headers.dynamic {
        let random = DYNAMIC_BASE + entropy.bits(DYNAMIC_BITS) * PAGE;
        if highest - lowest > USER_END - random {
            return Err(Errno::ENOMEM);
        }
        random - lowest
    } else {
        0
    };
    let mut loaded = headers.map(space, file, base)?;
    if let Some((headers, file)) = interpreter {
        let (lowest, highest) = headers.extent()?;
        loaded.interpreter = if headers.dynamic {
            // Where mmap would put it, as on Linux.
            space.find_free(highest - lowest)?.wrapping_sub(lowest)
        } else if space.is_free(lowest, highest) {
            0
        } else {
            return Err(Errno::EEXIST);
        };
        loaded.start = headers.map(space, &file, loaded.interpreter)?.entry;
    }
    Ok(loaded)
}

fn map_segment(
    space: &AddressSpace,
    file: &Executable,
    segment: &Segment,
    base: u64,
) -> Result<()> {
    let (start, end) = segment.range()?;
    let (start, end) = (base + start, base + end);
    let protection = segment.protection();
    let file_end = base + segment.address + segment.file_size;
    let mapped_end =
        if segment.file_size == 0 { start } else { page_ceil(file_end).ok_or(Errno::EINVAL)? };
    if mapped_end > start {
        let slack = segment.address % PAGE;
        if segment.offset % PAGE != slack {
            return Err(Errno::EINVAL);
        }
        let first_page = (segment.offset - slack) / PAGE;
        // Memory beyond the file's bytes is zero, also within their last page.
        let tail = usize_from(file_end % PAGE);
        let partial = tail != 0
            && segment.memory_size > segment.file_size
            && protection.contains(Protection::WRITE);
        let whole = (mapped_end - start) / PAGE - u64::from(partial);
        let area = Area {
            start,
            end: mapped_end,
            protection,
            allowed: Protection::ALL,
            shared: false,
            backing: Backing::Object { source: file.source.clone(), first_page },
            label: Label::File(file.label.clone()),
            flags: AreaFlags::NONE,
        };
        space.add(area, whole.min(AHEAD))?;
        if partial {
            let page = page_floor(file_end);
            let frame = partial_page(&file.source, first_page + (page - start) / PAGE, tail)?;
            space.install(page, frame, protection)?;
        }
    }
    if end > mapped_end {
        let area = Area {
            start: mapped_end,
            end,
            protection,
            allowed: Protection::ALL,
            shared: false,
            backing: Backing::Anonymous,
            label: Label::None,
            flags: AreaFlags::NONE,
        };
        space.add(area, 0)?;
    }
    Ok(())
}

/// Linux's 13 random bits of pages between a program and its heap.
const BREAK_BITS: u32 = 13;

/// Fills in where the heap and mappings go; the stack has been placed.
pub fn finish_layout(layout: &mut Layout, loaded: &Loaded, entropy: &mut Entropy<'_>) {
    layout.break_start = loaded.end + entropy.bits(BREAK_BITS) * PAGE;
    layout.break_end = layout.break_start;
    layout.code = if loaded.code.0 == u64::MAX { (0, 0) } else { loaded.code };
    layout.data = loaded.data;
}
