//! Cuts a copy of the guest kernel to what runs, for the `airlock` executable to carry.
//!
//! Symbols and debug information lie behind the last segment of the file, so a copy that ends there
//! loads the same. It is padded to whole pages, since pages of it become guest memory as they are. The
//! whole file stays beside `airlock`, as `guest-kernel.elf`, for gdb.

use std::fs;
use std::path::Path;

const PAGE_SIZE: usize = 4096;

/// Offsets in a 64-bit ELF header and in a program header (System V gABI, chapters 4 and 5).
mod elf {
    pub const HEADER_SIZE: usize = 64;
    pub const CLASS_64_LITTLE_ENDIAN: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
    pub const PROGRAM_HEADERS: usize = 32;
    pub const SECTION_HEADERS: usize = 40;
    pub const PROGRAM_HEADER_SIZE: usize = 54;
    pub const PROGRAM_HEADER_COUNT: usize = 56;
    pub const SECTION_HEADER_COUNT: usize = 60;
    pub const SEGMENT_OFFSET: usize = 8;
    pub const SEGMENT_FILE_SIZE: usize = 32;
}

/// Writes `kernel.image` to `out`: the ELF file at `kernel` without sections.
pub fn embed(kernel: &Path, out: &Path) -> Result<(), String> {
    let whole =
        fs::read(kernel).map_err(|error| format!("cannot read {}: {error}", kernel.display()))?;
    let image = without_sections(&whole)
        .ok_or_else(|| format!("{} is not a 64-bit ELF file", kernel.display()))?;
    let to = out.join("kernel.image");
    fs::write(&to, image).map_err(|error| format!("cannot write {}: {error}", to.display()))?;

    // OUT_DIR is <profile>/build/<package>/out.
    if let Some(profile) = out.ancestors().nth(3) {
        let beside = profile.join("guest-kernel.elf");
        fs::write(&beside, whole)
            .map_err(|error| format!("cannot write {}: {error}", beside.display()))?;
    }
    Ok(())
}

fn without_sections(file: &[u8]) -> Option<Vec<u8>> {
    if !file.starts_with(&elf::CLASS_64_LITTLE_ENDIAN) {
        return None;
    }
    let table = usize::try_from(read_u64(file, elf::PROGRAM_HEADERS)?).ok()?;
    let size = usize::from(read_u16(file, elf::PROGRAM_HEADER_SIZE)?);
    let count = usize::from(read_u16(file, elf::PROGRAM_HEADER_COUNT)?);

    let mut end = elf::HEADER_SIZE.max(table.checked_add(size * count)?);
    for index in 0..count {
        let header = table + index * size;
        let offset = read_u64(file, header + elf::SEGMENT_OFFSET)?;
        let length = read_u64(file, header + elf::SEGMENT_FILE_SIZE)?;
        end = end.max(usize::try_from(offset.checked_add(length)?).ok()?);
    }

    let mut image = file.get(..end)?.to_vec();
    image.resize(image.len().next_multiple_of(PAGE_SIZE), 0);
    image[elf::SECTION_HEADERS..elf::SECTION_HEADERS + 8].fill(0);
    // e_shnum and e_shstrndx.
    image[elf::SECTION_HEADER_COUNT..elf::SECTION_HEADER_COUNT + 4].fill(0);
    Some(image)
}

fn read_u16(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn read_u64(file: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(file.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
