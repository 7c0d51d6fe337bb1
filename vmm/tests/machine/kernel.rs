//! Builds kernels out of a few instructions: an ELF image with the entry note, identity-mapped page
//! tables and some zeroed memory, as the real kernel's linker makes it.

use airlock_abi::boot::{NOTE_NAME, NOTE_TYPE, VERSION};
use airlock_abi::layout::KERNEL_BASE;

const PAGE: usize = 4096;
/// Where guests find zeroed memory that they may write: after code page and page tables.
pub const SCRATCH: u64 = KERNEL_BASE + 0x1_0000;
const SCRATCH_SIZE: u64 = 0x1_0000;
const TABLES: u64 = KERNEL_BASE + 0x1000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 0x80;

fn word64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

/// PML4, PDPT and four page directories that map the first 4 GiB to themselves.
fn page_tables() -> Vec<u8> {
    let mut tables = Vec::new();
    let table = |index: u64| (TABLES + index * 0x1000) | PRESENT | WRITABLE;
    word64(&mut tables, table(1));
    tables.resize(PAGE, 0);
    (2..6).for_each(|directory| word64(&mut tables, table(directory)));
    tables.resize(2 * PAGE, 0);
    (0..2048).for_each(|page| word64(&mut tables, page << 21 | PRESENT | WRITABLE | LARGE));
    tables
}

/// A kernel image that runs `code`, which must fit in a page.
pub fn image(code: &[u8]) -> Vec<u8> {
    assert!(code.len() <= PAGE, "a guest is a page at most");
    let mut note = Vec::new();
    for word in [u32::try_from(NOTE_NAME.len() + 1).unwrap(), 24, NOTE_TYPE] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(NOTE_NAME.as_bytes());
    note.push(0);
    [VERSION, KERNEL_BASE, TABLES].into_iter().for_each(|word| word64(&mut note, word));

    let tables = page_tables();
    // type, flags, offset, address, file size, memory size
    let page = PAGE as u64;
    let scratch_end = SCRATCH + SCRATCH_SIZE;
    let headers = [
        (4_u32, 4_u32, 0x800, 0, note.len() as u64, note.len() as u64),
        (1, 5, page, KERNEL_BASE, code.len() as u64, code.len() as u64),
        (1, 6, 2 * page, TABLES, tables.len() as u64, scratch_end - TABLES),
    ];
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    word64(&mut image, KERNEL_BASE);
    word64(&mut image, 64);
    word64(&mut image, 0);
    for half in [0, 0, 64, 56, u16::try_from(headers.len()).unwrap(), 0, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    for (kind, flags, offset, address, file_size, memory_size) in headers {
        image.extend_from_slice(&kind.to_le_bytes());
        image.extend_from_slice(&flags.to_le_bytes());
        [offset, address, address, file_size, memory_size, 4]
            .into_iter()
            .for_each(|word| word64(&mut image, word));
    }
    image.resize(0x800, 0);
    image.extend_from_slice(&note);
    image.resize(PAGE, 0);
    image.extend_from_slice(code);
    image.resize(2 * PAGE, 0);
    image.extend_from_slice(&tables);
    image
}
