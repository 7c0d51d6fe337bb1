//! The PVH boot protocol: what another VMM tells (Xen's `hvm/start_info.h`), as our boot block.

use crate::memory::{PAGE, PhysAddr, page_ceil};
use airlock_abi::boot::{BootInfo, MAGIC, Range, StartedConsole, VERSION, flags};
use airlock_abi::layout::KERNEL_BASE;

const START_MAGIC: u32 = 0x336e_c578;
const MEMORY_RAM: u32 = 1;

/// `hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_modlist_entry`.
#[repr(C)]
struct Module {
    start: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// `hvm_memmap_table_entry`.
#[repr(C)]
struct MemoryEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The block that is filled in; it lives in the kernel's image.
static mut INFO: BootInfo = BootInfo {
    magic: MAGIC,
    version: VERSION,
    flags: flags::VERBOSE,
    cpus: 1,
    free: [Range { start: 0, len: 0 }; 2],
    root_image: Range { start: 0, len: 0 },
    console: StartedConsole { registers: 0, interrupt: 0, output: 0, errors: 0 },
    command_line: Range { start: 0, len: 0 },
    program: Range { start: 0, len: 0 },
    arguments: Range { start: 0, len: 0 },
    environment: Range { start: 0, len: 0 },
    directory: Range { start: 0, len: 0 },
    user: 0,
    group: 0,
    groups: Range { start: 0, len: 0 },
    cpuid: Range { start: 0, len: 0 },
    tsc_khz: 0,
    tsc: 0,
    realtime_ns: 0,
    seed: [0; 32],
    first_random: [0; 64],
};
/// NUL-separated arguments, made from the command line.
static mut ARGUMENTS: [u8; 4096] = [0; 4096];

/// Builds the boot block.
///
/// The command line says what to run: `init=/PATH`, and what follows ` -- ` are its arguments.
///
/// # Safety
/// `start_info` is what the VMM passed in EBX; called once, before anything else uses memory.
pub unsafe fn boot_info(start_info: u64, kernel_end: u64) -> &'static BootInfo {
    // SAFETY: the protocol says that this structure is there.
    let start = unsafe { &*PhysAddr(start_info).to_pointer().cast::<StartInfo>() };
    assert!(start.magic == START_MAGIC && start.version >= 1, "not a PVH start_info");
    // SAFETY: this runs once, on the only vCPU.
    let info = unsafe { (&raw mut INFO).as_mut() }.expect("a static has an address");
    assert!(start.modules > 0, "no root image: pass an EROFS image as the initrd");
    // SAFETY: the list has `modules` entries.
    let module = unsafe { &*PhysAddr(start.module_list).to_pointer().cast::<Module>() };
    info.root_image = Range { start: module.start, len: module.size };
    let map = PhysAddr(start.memory_map).to_pointer().cast::<MemoryEntry>();
    for index in 0..start.memory_map_entries as usize {
        // SAFETY: the map has this many entries.
        let entry = unsafe { &*map.add(index) };
        let mut range = (entry.start, entry.start + entry.size);
        if entry.kind != MEMORY_RAM || range.1 <= KERNEL_BASE {
            continue;
        }
        if range.0 < kernel_end && kernel_end < range.1 {
            range.0 = kernel_end;
        }
        if range.0 <= module.start && module.start < range.1 {
            // QEMU puts the module at the top: what is above it is lost.
            range.1 = module.start;
        }
        let start = page_ceil(range.0).unwrap_or(u64::MAX);
        let slot = usize::from(info.free[0].len != 0);
        if info.free[slot].len == 0 && range.1 > start + PAGE {
            info.free[slot] = Range { start, len: range.1 - start };
        }
    }
    let line = PhysAddr(start.command_line).to_pointer();
    let mut len = 0;
    // SAFETY: the command line ends with NUL.
    while unsafe { line.add(len).read() } != 0 {
        len += 1;
    }
    info.command_line = Range { start: start.command_line, len: len as u64 };
    // SAFETY: the bytes just counted.
    let line = unsafe { core::slice::from_raw_parts(line, len) };
    parse(info, line);
    (info.tsc_khz, info.realtime_ns) = crate::drivers::platform::calibrate();
    info.tsc = crate::arch::instruction::read_tsc();
    let entropy = crate::drivers::platform::entropy();
    info.seed = entropy.0;
    info.first_random = entropy.1;
    info
}

fn parse(info: &mut BootInfo, line: &'static [u8]) {
    let (options, rest) = match line.windows(4).position(|window| window == b" -- ") {
        Some(at) => (&line[..at], &line[at + 4..]),
        None => (line, &line[..0]),
    };
    let mut program: &[u8] = b"/init";
    for word in options.split(|&byte| byte == b' ') {
        if let Some(path) = word.strip_prefix(b"init=") {
            program = path;
        }
    }
    let physical = |bytes: &[u8]| Range {
        start: PhysAddr::from_pointer(bytes.as_ptr()).0,
        len: bytes.len() as u64,
    };
    // SAFETY: this runs once, on the only vCPU.
    let arguments = unsafe { (&raw mut ARGUMENTS).as_mut() }.expect("a static has an address");
    let mut at = 0;
    for word in core::iter::once(program)
        .chain(rest.split(|&byte| byte == b' ').filter(|word| !word.is_empty()))
    {
        if at + word.len() + 1 > arguments.len() {
            break;
        }
        arguments[at..at + word.len()].copy_from_slice(word);
        at += word.len() + 1;
    }
    // The image's window of the address space is not the direct map; the difference is fixed.
    const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;
    info.arguments = Range {
        start: arguments.as_ptr().expose_provenance() as u64 - IMAGE_OFFSET,
        len: at as u64,
    };
    info.program = if program == b"/init" { info.arguments } else { physical(program) };
    if program == b"/init" {
        info.program.len = 5;
    }
}
