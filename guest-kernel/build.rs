//! Writes the linker script, with the page tables and the interrupt descriptor table that the linker
//! itself can fill in: it is the first to know every address.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

/// Guest-virtual address of guest-physical 0 in the kernel's own mapping (the top 2 GiB).
const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;
/// Guest-physical address of the image; `airlock_abi::layout::KERNEL_BASE`.
const KERNEL_BASE: u64 = 0x10_0000;

// Page table entry bits: SDM volume 3, section 4.5.4.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernel.ld");
    fs::write(&script, linker_script()).expect("the build directory is writable");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    println!("cargo::rustc-link-arg-bins=--build-id=none");
}

fn linker_script() -> String {
    format!(
        "\
ENTRY(direct_entry)
PHDRS {{
    text PT_LOAD FLAGS(5);
    rodata PT_LOAD FLAGS(4);
    data PT_LOAD FLAGS(6);
    note PT_NOTE FLAGS(4);
}}
image_offset = {IMAGE_OFFSET:#x};
SECTIONS {{
    . = {start:#x};
    .text : AT(ADDR(.text) - image_offset) {{ *(.text.entry) *(.text .text.*) }} :text
    . = ALIGN(4096);
    text_end = .;
    .rodata : AT(ADDR(.rodata) - image_offset) {{
        *(.rodata.page) . = ALIGN(4096);
        idt = .; {idt}
        native_idt = .; {native_idt}
        *(.rodata .rodata.*)
        . = ALIGN(8); exception_table = .; KEEP(*(.exception_table)) exception_table_end = .;
    }} :rodata
    .note : AT(ADDR(.note) - image_offset) {{ KEEP(*(.note.airlock)) KEEP(*(.note.pvh)) }} :rodata :note
    .eh_frame : AT(ADDR(.eh_frame) - image_offset) {{ *(.eh_frame .eh_frame.*) }} :rodata
    . = ALIGN(4096);
    rodata_end = .;
    .data : AT(ADDR(.data) - image_offset) {{
        page_tables = .;
        kernel_pml4 = .; {pml4}
        start_pml4 = .; {start_pml4}
        direct_map_pdpt = .; {direct_map}
        direct_map_pds = .; {direct_map_pds}
        image_pdpt = .; {image_pdpt}
        image_pd = .; {image_pd}
        image_pt = .; {image_pt}
        *(.data .data.*) *(.got .got.*)
    }} :data
    .bss (NOLOAD) : AT(ADDR(.bss) - image_offset) {{
        *(.bss .bss.* COMMON)
        . = ALIGN(4096);
        stack_area_pdpt = .; . += 4096;
        boot_stack_guard = .; . += 4096;
        boot_stack = .; . += 16384;
        boot_stack_end = .;
        start_stack_guard = .; . += 4096;
        . += 16384;
        start_stack_end = .;
    }} :data
    . = ALIGN(4096);
    kernel_end = .;
    ASSERT(kernel_end <= image_offset + 0x400000, \"the kernel outgrew its two page tables\")
    /DISCARD/ : {{ *(.comment) *(.gnu*) *(.note.GNU*) }}
}}
",
        start = IMAGE_OFFSET + KERNEL_BASE,
        idt = idt("vector_stubs"),
        native_idt = idt("native_stubs"),
        pml4 = pml4(0),
        start_pml4 = pml4(USER),
        direct_map = direct_map(),
        direct_map_pds = direct_map_pds(),
        image_pdpt = table(&[(510, "image_pd - image_offset".into(), BELOW_ROOT)]),
        image_pd = table(&[
            (0, "image_pt - image_offset".into(), BELOW_ROOT),
            (1, "image_pt + 4096 - image_offset".into(), BELOW_ROOT),
        ]),
        image_pt = image_pt(),
    )
}

/// A page table with a few entries.
fn table(entries: &[(usize, String, u64)]) -> String {
    let mut text = String::new();
    let mut next = 0;
    for (index, address, flags) in entries {
        write!(text, ". += {}; QUAD(({address}) + {flags:#x}) ", (index - next) * 8)
            .expect("a string grows");
        next = index + 1;
    }
    write!(text, ". += {};", (512 - next) * 8).expect("a string grows");
    text
}

/// Every entry below the roots grants ring 3 access; a root decides for all of them, since an access
/// needs the bit on every level (SDM volume 3, section 4.6.1).
const BELOW_ROOT: u64 = PRESENT | WRITABLE | USER | ACCESSED;

/// Slots: 273 the direct map, 510 kernel stacks, 511 the kernel image. Two roots lead to the same
/// tables: that of the kernel, which keeps ring 3 out, and the one that it starts with, where host B
/// executes it in ring 3 (`arch::native`).
fn pml4(user: u64) -> String {
    let flags = PRESENT | WRITABLE | ACCESSED | user;
    table(&[
        // Not present: where a root's second one is, see `memory::page_table`.
        (257, "start_pml4 - image_offset".into(), 0),
        (273, "direct_map_pdpt - image_offset".into(), flags),
        (510, "stack_area_pdpt - image_offset".into(), flags),
        (511, "image_pdpt - image_offset".into(), flags),
    ])
}

/// GiBs of physical memory that the direct map has from the start: the first (the kernel, and RAM),
/// the fourth (devices) and the root image's. `memory::direct_map` adds what else there is.
const DIRECT_GIBS: [usize; 3] = [0, 3, 256];

fn direct_map() -> String {
    let entries: Vec<_> = DIRECT_GIBS
        .iter()
        .enumerate()
        .map(|(number, &gib)| {
            let address = format!("direct_map_pds + {} - image_offset", number * 4096);
            (gib, address, BELOW_ROOT)
        })
        .collect();
    table(&entries)
}

/// Pages of 2 MiB, never executable: not every processor has pages of 1 GiB.
fn direct_map_pds() -> String {
    let flags = BELOW_ROOT | DIRTY | LARGE | GLOBAL | NO_EXECUTE;
    let entries = DIRECT_GIBS
        .iter()
        .flat_map(|&gib| (0..512).map(move |page| (gib as u64) << 30 | page << 21));
    entries.fold(String::new(), |mut text, address| {
        write!(text, "QUAD({:#x}) ", address | flags).expect("a string grows");
        text
    })
}

/// The first 4 MiB of the image's window, page by page with just the rights that each needs.
fn image_pt() -> String {
    let text_flags = PRESENT | USER | ACCESSED | GLOBAL;
    let rodata_flags = text_flags | NO_EXECUTE;
    let data_flags = rodata_flags | WRITABLE | DIRTY;
    (0..1024u64).fold(String::new(), |mut text, index| {
        let physical = index << 12;
        let address = IMAGE_OFFSET + physical;
        if physical < KERNEL_BASE {
            text.push_str("QUAD(0) ");
        } else {
            write!(
                text,
                "QUAD({address:#x} < text_end ? {:#x} : {address:#x} < rodata_end ? {:#x} : \
                 {address:#x} == boot_stack_guard ? 0 : {address:#x} == start_stack_guard ? 0 : \
                 {address:#x} < kernel_end ? {:#x} : 0) ",
                physical | text_flags,
                physical | rodata_flags,
                physical | data_flags
            )
            .expect("a string grows");
        }
        text
    })
}

/// Interrupt gates (SDM volume 3, figure 6-8) to 16-byte stubs of `arch::x86_64::entry` or `native`.
fn idt(stubs: &str) -> String {
    const KERNEL_CODE: u64 = 0x10;
    const INTERRUPT_GATE: u64 = 0x8e;
    const DPL3: u64 = 0x60;
    (0..256u64).fold(String::new(), |mut text, vector| {
        // #DB, NMI, #DF and #MC can strike where the stack is not the kernel's yet.
        let stack = match vector {
            1 => 1,
            2 => 2,
            8 => 3,
            18 => 4,
            _ => 0,
        };
        // int3, into and int 0x80 are for programs to use.
        let dpl = if matches!(vector, 3 | 4 | 0x80) { DPL3 } else { 0 };
        let fixed = KERNEL_CODE << 16 | stack << 32 | (INTERRUPT_GATE | dpl) << 40;
        let stub = format!("({stubs} + {})", vector * 16);
        write!(
            text,
            "QUAD(({stub} & 0xffff) | {fixed:#x} | ((({stub} >> 16) & 0xffff) << 48)) QUAD({stub} >> 32) "
        )
        .expect("a string grows");
        text
    })
}
