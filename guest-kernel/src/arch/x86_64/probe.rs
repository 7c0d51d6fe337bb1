//! Does SYSCALL change the ring here? Decided once at boot, by trying.
//!
//! Ring 3 executes one SYSCALL with LSTAR pointing at a stub for this purpose. On a processor with VMX
//! or SVM the stub runs. On host B the fetch of its first instruction faults in ring 3, and the fault
//! handler finds RIP at the stub. There, `int 0x80` raises #UD instead of using its gate and CPUID is
//! not intercepted, so the same finding turns on the paths for these two.

use super::cpu::{self, Cpu, msr};
use super::entry;
use super::frame::TrapFrame;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const PENDING: u8 = 0;
const SWITCHES: u8 = 1;
const FAULTS: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(PENDING);
/// Whether traces are wanted: which entry SYSCALL shall use.
static TRACED: AtomicBool = AtomicBool::new(false);

/// Chooses the entry that records every call.
pub fn set_traced() {
    TRACED.store(true, Ordering::Relaxed);
}

/// Whether SYSCALL leaves the processor in ring 3 (host B).
pub fn syscall_faults() -> bool {
    STATE.load(Ordering::Relaxed) == FAULTS
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

/// Enters ring 3 at `frame`, after having sent it to the `syscall` instruction at `probe_code`
/// (guest-virtual, executable by the program) first.
pub fn enter_user(mut frame: TrapFrame, probe_code: u64) -> ! {
    let start = crate::sched::cpus::current_start_frame();
    *start.lock() = frame;
    frame.rip = probe_code;
    // SAFETY: the frame is a complete ring 3 state.
    unsafe { entry::return_to_user(&raw const frame) }
}

/// SYSCALL reached ring 0 by itself.
pub extern "C" fn arrived_by_syscall() -> ! {
    STATE.store(SWITCHES, Ordering::Relaxed);
    enable_here();
    start_program()
}

/// Whether a fault is the probe's: an instruction fetch in ring 3 at the stub.
pub fn is_probe_fault(frame: &TrapFrame, address: u64) -> bool {
    STATE.load(Ordering::Relaxed) == PENDING
        && frame.from_user()
        && frame.rip == probe_target()
        && address == frame.rip
}

/// SYSCALL stayed in ring 3.
pub fn arrived_by_fault() -> ! {
    STATE.store(FAULTS, Ordering::Relaxed);
    crate::memory::frame::set_clearing_is_dear(true);
    enable_here();
    start_program()
}

/// Turns on what the probe found that this vCPU needs or can have.
pub fn enable_here() {
    if !syscall_faults() {
        enable_smap();
        return;
    }
    Cpu::current().syscall_faults.store(true, Ordering::Relaxed);
    // Without CPUID faulting, programs see the host's processor and use state that is not saved here.
    // SAFETY: host B has MSR_PLATFORM_INFO; bit 31 says that the other register exists.
    unsafe {
        if cpu::read_msr(msr::PLATFORM_INFO) & 1 << 31 != 0 {
            cpu::write_msr(msr::MISC_FEATURES_ENABLES, 1);
        }
    }
}

/// SMAP, where ring 0 is executed: host B may show it in CPUID, but its interpreter refuses STAC and
/// CLAC.
fn enable_smap() {
    const LEAF7_EBX_SMAP: u32 = 1 << 20;
    if cpu::cpuid(7, 0)[1] & LEAF7_EBX_SMAP != 0 {
        // SAFETY: CPUID has it, and user copies open it from the next instruction on.
        unsafe { cpu::set_cr4(cpu::cr4::SMAP) };
        super::copy::enable_smap();
    }
}

fn start_program() -> ! {
    // SAFETY: one of the two entries.
    unsafe { cpu::set_syscall_target(syscall_target()) };
    crate::sched::cpus::start_secondaries(crate::boot::cpus());
    let frame = *crate::sched::cpus::current_start_frame().lock();
    // SAFETY: a complete ring 3 state, made by `exec`.
    unsafe { entry::return_to_user(&raw const frame) }
}
