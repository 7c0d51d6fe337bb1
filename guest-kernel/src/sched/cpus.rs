//! The vCPUs beside the first: how they start, and where threads go.

use super::run::{self, Task};
use crate::arch::cpu::{self, Cpu, MAX_CPUS};
use crate::arch::{TrapFrame, apic, entry, native, probe};
use crate::memory::frame::{self, Content};
use crate::process::Thread;
use airlock_abi::layout::CPU_START_PORT;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Stack of the vCPU that is being started (guest-virtual), for `arch`'s entry code.
pub static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// Stacks of secondary vCPUs: 2^2 frames.
const STACK_ORDER: usize = 2;
/// How long a secondary vCPU may take to appear, in nanoseconds.
const START_LIMIT: u64 = 1_000_000_000;

static RUNNING: AtomicU32 = AtomicU32::new(1);

/// vCPUs that run.
pub fn running() -> u32 {
    RUNNING.load(Ordering::Acquire)
}

/// vCPUs that threads run on.
pub fn count() -> u32 {
    1
}

/// Starts the other vCPUs, one after the other; they idle until there is something for them.
pub fn start_secondaries(count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX).min(MAX_CPUS);
    for index in 1..count {
        let Some(stack) = frame::allocate_block(STACK_ORDER, Content::Overwritten) else {
            crate::log!("vCPU {index}: no memory for its stack");
            return;
        };
        let top = stack.to_pointer().expose_provenance() as u64 + (4096 << STACK_ORDER);
        if cpu::prepare_secondary(index).is_none() {
            return;
        }
        SECONDARY_STACK.store(top, Ordering::Release);
        // SAFETY: the VMM starts the vCPU at the kernel's entry, where its stack waits.
        unsafe { cpu::write_port(CPU_START_PORT, index) };
        let start = crate::time::monotonic_ns();
        while running() == index {
            core::hint::spin_loop();
            if crate::time::monotonic_ns() - start > START_LIMIT {
                crate::log!("vCPU {index} does not start");
                return;
            }
        }
    }
}

/// What a secondary vCPU does.
pub fn secondary() -> ! {
    crate::boot::enable_features_on_secondary();
    apic::enable();
    RUNNING.fetch_add(1, Ordering::AcqRel);
    loop {
        cpu::wait_for_interrupt();
    }
}

/// Makes a thread look at its work soon if it is running.
pub fn notify(thread: &Thread) {
    let index = thread.task.cpu();
    let cpu = cpu::by_index(index);
    if core::ptr::eq(cpu.thread.load(Ordering::SeqCst), thread) {
        cpu.request_work();
        if index != Cpu::current().index() {
            interrupt(index);
        }
    }
}

/// Makes a vCPU look at its queue and its work.
pub fn interrupt(_cpu: u32) {}

/// The vCPU for a thread that becomes ready.
pub fn choose(_task: &Task) -> u32 {
    Cpu::current().index()
}

/// A thread runs for the first time.
///
/// # Safety
/// The frame is a complete ring 3 state at the top of the running stack.
pub unsafe extern "C" fn first_run(frame: *mut TrapFrame) -> ! {
    run::finish_switch();
    if probe::syscall_faults() {
        // Interpreted: the kernel's root may be loaded, with which no program must run.
        // SAFETY: by the contract, and the switch to the thread has set the roots.
        unsafe { native::enter(frame) }
    }
    // SAFETY: by the contract.
    unsafe { entry::return_to_user(frame) }
}
