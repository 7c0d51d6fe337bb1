//! The two ways in: directly in 64-bit mode under our own VMM, and by PVH under others.

use super::{cpu, probe};
use crate::boot;
use crate::memory::PhysAddr;
use airlock_abi::boot::{BootInfo, EntryNote, VERSION};
use airlock_abi::layout;
use core::arch::global_asm;

global_asm!(
    // airlock_abi::boot: the note that our VMM looks for.
    ".pushsection .note.airlock, \"a\", @note",
    ".balign 4",
    ".long 8, {note_size}, {note_type}",
    ".asciz \"Airlock\"",
    ".quad {version}, direct_entry, kernel_pml4 - {image_offset}",
    ".popsection",
    // XEN_ELFNOTE_PHYS32_ENTRY (18): 32-bit physical entry, EBX = hvm_start_info.
    ".pushsection .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long pvh_entry - {image_offset}",
    ".popsection",
    ".pushsection .text.entry, \"ax\", @progbits",
    ".global direct_entry",
    "direct_entry:",
    "    test esi, esi",
    "    jnz 1f",
    "    lea rsp, [rip + boot_stack_end]",
    "    call {start_first}",
    "    ud2",
    // A secondary vCPU finds its stack where the first left it.
    "1:  mov edi, esi",
    "    mov rsp, [rip + {secondary_stack}]",
    "    call {start_secondary}",
    "    ud2",
    // 32-bit, paging off. The temporary tables map the first GiB where it is, for the instructions
    // between CR0.PG and the jump to the kernel's own addresses.
    ".code32",
    "pvh_entry:",
    "    cld",
    "    mov eax, offset image_pdpt - {image_offset} + 3",
    "    mov [pvh_pml4 - {image_offset} + 511*8], eax",
    "    mov eax, offset direct_map_pdpt - {image_offset} + 3",
    "    mov [pvh_pml4 - {image_offset} + 256*8], eax",
    "    mov eax, offset pvh_pdpt - {image_offset} + 3",
    "    mov [pvh_pml4 - {image_offset}], eax",
    "    mov dword ptr [pvh_pdpt - {image_offset}], 0x83",
    "    mov eax, offset pvh_pml4 - {image_offset}",
    "    mov cr3, eax",
    "    mov eax, cr4",
    "    or eax, 0x6a0", // PAE, PGE, OSFXSR, OSXMMEXCPT
    "    mov cr4, eax",
    "    mov ecx, 0xc0000080",
    "    rdmsr",
    "    or eax, 0x901", // SCE, LME, NXE
    "    wrmsr",
    "    mov eax, 0x80010033", // PG, WP, NE, ET, MP, PE
    "    mov cr0, eax",
    "    lgdt [pvh_gdt_pointer - {image_offset}]",
    "    ljmp 0x10, offset pvh_long - {image_offset}",
    ".code64",
    "pvh_long:",
    "    mov eax, 0x18",
    "    mov ss, eax",
    "    xor eax, eax",
    "    mov ds, eax",
    "    mov es, eax",
    "    movabs rax, offset pvh_high",
    "    jmp rax",
    "pvh_high: mov eax, offset kernel_pml4 - {image_offset}",
    "    mov cr3, rax",
    "    lea rsp, [rip + boot_stack_end]",
    "    mov edi, ebx",
    "    call {start_pvh}",
    "    ud2",
    ".balign 8",
    "pvh_gdt: .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "pvh_gdt_pointer: .word 31",
    "    .long pvh_gdt - {image_offset}",
    ".popsection",
    ".pushsection .bss.pvh, \"aw\", @nobits",
    ".balign 4096",
    "pvh_pml4: .skip 4096",
    "pvh_pdpt: .skip 4096",
    ".popsection",
    note_size = const size_of::<EntryNote>(),
    note_type = const airlock_abi::boot::NOTE_TYPE,
    version = const VERSION,
    image_offset = const IMAGE_OFFSET,
    start_first = sym start_first,
    start_secondary = sym start_secondary,
    start_pvh = sym start_pvh,
    secondary_stack = sym crate::sched::cpus::SECONDARY_STACK,
);

/// Guest-virtual address at which guest-physical address 0 appears in the image's window.
const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;

/// First Rust code on vCPU 0 under our VMM.
extern "C" fn start_first(info: u64) -> ! {
    init_first();
    super::apic::enable();
    // SAFETY: the first vCPU is set up. The VMM passes the guest-physical address of a BootInfo that
    // stays untouched.
    unsafe { probe::start(PhysAddr(info).to_pointer().cast::<BootInfo>()) }
}

/// First Rust code under a VMM that speaks PVH.
extern "C" fn start_pvh(start_info: u64) -> ! {
    init_first();
    // SAFETY: the address is what the PVH protocol put in EBX.
    let info = unsafe { boot::pvh::boot_info(start_info, kernel_end()) };
    super::apic::choose_mode();
    super::apic::enable();
    // SAFETY: the first vCPU is set up.
    unsafe { probe::start(info) }
}

fn init_first() {
    unsafe extern "C" {
        static boot_stack_end: u8;
    }
    let stack = (&raw const boot_stack_end).expose_provenance() as u64;
    // SAFETY: the first thing that vCPU 0 does.
    unsafe { cpu::init(0, stack, probe::probe_target()) };
}

/// First guest-physical address behind the kernel image.
fn kernel_end() -> u64 {
    unsafe extern "C" {
        static kernel_end: u8;
    }
    image_address(&raw const kernel_end).0
}

/// Guest-physical address of something in the kernel's image.
pub fn image_address<T>(pointer: *const T) -> PhysAddr {
    PhysAddr(pointer.expose_provenance() as u64 - IMAGE_OFFSET)
}

/// First Rust code on the other vCPUs.
extern "C" fn start_secondary(index: u32) -> ! {
    let stack = crate::sched::cpus::SECONDARY_STACK.load(core::sync::atomic::Ordering::Acquire);
    // SAFETY: the first thing that this vCPU does; vCPU 0 prepared its block and checked the index.
    unsafe { cpu::init(index, stack, probe::syscall_target()) };
    probe::enable_here();
    crate::sched::cpus::secondary()
}

const _: () = assert!(layout::KERNEL_BASE == 0x10_0000, "build.rs links the kernel there");
