//! Does SYSCALL change the ring here? Decided once at boot, by trying.
//!
//! The first vCPU goes to ring 3 with tables that let it use the kernel's pages there, executes SYSCALL,
//! and looks in which ring the target was reached. On a processor with VMX or SVM that is ring 0, and
//! the kernel starts there. On host B it is ring 3: ring 0 is interpreted and ring 3 is executed, so the
//! kernel starts in ring 3, see [`super::native`]. There, `int 0x80` raises #UD instead of using its
//! gate and CPUID is not intercepted, so the same finding turns on the paths for these two.

use super::cpu::{self, Cpu};
use super::cpuid;
use super::frame::TrapFrame;
use super::instruction;
use super::instruction::msr;
use super::tlb;
use super::{entry, native};
use crate::memory::PhysAddr;
use airlock_abi::boot::BootInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether SYSCALL leaves the processor in ring 3.
static FAULTS: AtomicBool = AtomicBool::new(false);
/// Whether traces are wanted: which entry SYSCALL shall use.
static TRACED: AtomicBool = AtomicBool::new(false);

/// Chooses the entry that records every call.
pub fn set_traced() {
    TRACED.store(true, Ordering::Relaxed);
}

/// Whether SYSCALL leaves the processor in ring 3 (host B).
pub fn syscall_faults() -> bool {
    FAULTS.load(Ordering::Relaxed)
}

/// Where SYSCALL goes once the probe is done.
pub fn syscall_target() -> u64 {
    if TRACED.load(Ordering::Relaxed) {
        entry::syscall_entry_traced as *const () as u64
    } else {
        entry::syscall_entry as *const () as u64
    }
}

/// Where SYSCALL goes during the probe.
pub fn probe_target() -> u64 {
    entry::probe_entry as *const () as u64
}

/// Probes, and starts the kernel in the ring that is executed.
///
/// # Safety
/// On the first vCPU, once, when [`cpu::init`] is done and SYSCALL goes to [`probe_target`].
pub unsafe fn start(info: *const BootInfo) -> ! {
    unsafe extern "C" {
        static start_pml4: u8;
        static start_stack_end: u8;
    }
    // SAFETY: the root maps the kernel as it was, and grants ring 3 access while there is no program.
    unsafe { instruction::write_cr3(super::boot::image_address(&raw const start_pml4).0) };
    native::load_table();
    let stack = (&raw const start_stack_end).expose_provenance() as u64;
    // SAFETY: a stack that nothing else uses; the rest by our contract.
    unsafe { entry::probe_start(info, stack) }
}

/// SYSCALL reached its target, in this ring.
pub extern "C" fn arrived(info: &'static BootInfo, ring: u32) -> ! {
    unsafe extern "C" {
        static kernel_pml4: u8;
    }
    if ring == 0 {
        // SAFETY: the root maps the kernel as it was.
        unsafe { instruction::write_cr3(super::boot::image_address(&raw const kernel_pml4).0) };
        // The kernel's pages are global, and ring 3 could use those that the processor remembers.
        tlb::flush_everything();
        cpu::load_ordinary_table();
        Cpu::current().set_kernel_stack(Cpu::current().kernel_stack());
    } else {
        FAULTS.store(true, Ordering::Relaxed);
        crate::memory::frame::set_clearing_is_dear(true);
        native::begin();
    }
    crate::boot::start(info)
}

/// Enters ring 3 at `frame` with the address space at `root` (guest-physical): the first program.
///
/// # Safety
/// As for [`cpu::switch_space`]; the frame is a ring 3 state.
pub unsafe fn enter_user(frame: &TrapFrame, root: PhysAddr) -> ! {
    // SAFETY: by the contract; the target is one of the two entries.
    unsafe {
        Cpu::current().set_root(root);
        cpu::set_syscall_target(syscall_target());
    }
    enable_here();
    if crate::boot::cpus() > 1 {
        crate::sched::cpus::start_secondaries(crate::boot::cpus());
    }
    // SAFETY: a complete ring 3 state, made by `exec`.
    unsafe { entry::return_to_user(frame) }
}

/// Turns on what the probe found that this vCPU needs or can have.
pub fn enable_here() {
    if !syscall_faults() {
        enable_smap();
        return;
    }
    native::load_table();
    // Without CPUID faulting, programs see the host's processor and use state that is not saved here.
    // SAFETY: host B has MSR_PLATFORM_INFO; bit 31 says that the other register exists.
    unsafe {
        if instruction::read_msr(msr::PLATFORM_INFO) & 1 << 31 != 0 {
            instruction::write_msr(msr::MISC_FEATURES_ENABLES, 1);
        }
    }
}

/// SMAP, where ring 0 is executed: host B may show it in CPUID, but its interpreter refuses STAC and
/// CLAC.
fn enable_smap() {
    const LEAF7_EBX_SMAP: u32 = 1 << 20;
    if cpuid::cpuid(7, 0)[1] & LEAF7_EBX_SMAP != 0 {
        // SAFETY: CPUID has it, and user copies open it from the next instruction on.
        unsafe { instruction::set_cr4(instruction::cr4::SMAP) };
        super::copy::enable_smap();
    }
}
