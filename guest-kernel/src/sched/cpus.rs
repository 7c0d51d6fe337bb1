//! The vCPUs together: how those beside the first start, where threads go, and how one tells another.

use super::run::{self, Task};
use crate::arch::cpu::{self, Cpu, MAX_CPUS};
use crate::arch::instruction;
use crate::arch::{TrapFrame, apic, entry, native, probe};
use crate::errno::{Errno, Result};
use crate::memory::frame::{self, Content};
use crate::memory::{PhysAddr, usize_from};
use crate::process::Thread;
use crate::sync::Wait;
use airlock_abi::layout::CPU_START_PORT;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Stack of the vCPU that is being started (guest-virtual), for `arch`'s entry code.
pub static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// Stacks of secondary vCPUs: 2^2 frames.
const STACK_ORDER: usize = 2;
/// How long a secondary vCPU may take to appear, in nanoseconds.
const START_LIMIT: u64 = 1_000_000_000;

static RUNNING: AtomicU32 = AtomicU32::new(1);

/// vCPUs that run threads.
#[inline]
pub fn count() -> u32 {
    RUNNING.load(Ordering::Acquire)
}

/// A block of frames as a stack: its top (guest-virtual).
fn make_stack() -> Option<u64> {
    let stack = frame::allocate_block(STACK_ORDER, Content::Overwritten)?;
    Some(stack.to_pointer().expose_provenance() as u64 + (4096 << STACK_ORDER))
}

/// Starts the other vCPUs, one after the other; they wait for threads.
pub fn start_secondaries(wanted: u64) {
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).min(MAX_CPUS);
    let Some(stack) = make_stack() else {
        crate::log!("no memory for a second vCPU");
        return;
    };
    Cpu::current().idle_stack.store(stack, Ordering::Relaxed);
    for index in 1..wanted {
        if let Err(error) = start_secondary(index) {
            crate::log!("vCPU {index} does not start: {error}");
            break;
        }
    }
    run::publish_load();
}

fn start_secondary(index: u32) -> Result<()> {
    run::prepare_queue(index)?;
    let stack = make_stack().ok_or(Errno::ENOMEM)?;
    cpu::prepare_secondary(index).ok_or(Errno::ENOMEM)?;
    cpu::by_index(index).idle_stack.store(stack, Ordering::Relaxed);
    SECONDARY_STACK.store(stack, Ordering::Release);
    // SAFETY: the VMM starts the vCPU at the kernel's entry, where its stack waits.
    unsafe { instruction::write_port(CPU_START_PORT, index) };
    let start = crate::time::monotonic_ns();
    while count() == index {
        core::hint::spin_loop();
        if crate::time::monotonic_ns() - start > START_LIMIT {
            return Err(Errno::ETIMEDOUT);
        }
    }
    Ok(())
}

/// What a secondary vCPU does: it waits for threads.
pub fn secondary() -> ! {
    crate::boot::enable_features_on_secondary();
    apic::enable();
    crate::memory::space::leave();
    RUNNING.fetch_add(1, Ordering::AcqRel);
    run::wait_for_thread()
}

/// Prepares the stack on which a vCPU waits when it has no thread; returns RSP for `switch_stacks`.
pub fn stack_without_thread(cpu: &Cpu) -> u64 {
    extern "C" fn begin() -> ! {
        run::finish_switch();
        run::wait_for_thread()
    }
    // `switch_stacks` pops R15, R14, R13, R12, RBP, RBX and returns.
    let words = [0, 0, 0, 0, 0, begin as *const () as u64, entry::thread_start as *const () as u64];
    let rsp = cpu.idle_stack.load(Ordering::Relaxed) - size_of_val(&words) as u64;
    // SAFETY: the stack is this vCPU's, and whoever was on it has left it for good.
    unsafe { core::ptr::with_exposed_provenance_mut::<[u64; 7]>(usize_from(rsp)).write(words) };
    rsp
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
pub fn interrupt(cpu: u32) {
    if cpu != Cpu::current().index() {
        cpu::by_index(cpu).call();
    }
}

/// The vCPU for a thread that becomes ready: the one that it was on, if that has nothing to do; else
/// another that has not; else that with the least.
pub fn choose(task: &Task) -> u32 {
    let count = count();
    let last = task.cpu();
    if count == 1 {
        return last;
    }
    let mut best = (u32::MAX, last);
    for step in 0..count {
        let cpu = (last + step) % count;
        if task.allows(cpu) {
            let load = run::load(cpu);
            if load == 0 {
                return cpu;
            }
            if load < best.0 {
                best = (load, cpu);
            }
        }
    }
    best.1
}

/// A vCPU that has nothing to do and may run the thread.
pub fn idle(task: &Task) -> Option<u32> {
    (0..count()).find(|&cpu| run::load(cpu) == 0 && task.allows(cpu))
}

/// Lets the other vCPUs that have an address space loaded forget its translations, and waits until they
/// have: afterwards no processor uses what the tables said before. It is a barrier for their memory
/// accesses, too. Halted ones are left alone unless `even_halted`: they forget, and have passed a barrier,
/// before they run a thread.
pub fn forget(root: PhysAddr, even_halted: bool) {
    // Tables first, then who uses them; whoever begins to use them does it in the other order.
    fence(Ordering::SeqCst);
    let here = Cpu::current().index();
    let count = count();
    let uses = |index: &u32| *index != here && cpu::by_index(*index).uses(root);
    let mut asked = [0_u64; MAX_CPUS as usize / 64 + 1];
    for index in (0..count).filter(uses) {
        if cpu::by_index(index).ask_to_forget(even_halted) {
            asked[index as usize / 64] |= 1 << (index % 64);
        }
    }
    for index in 0..count {
        if asked[index as usize / 64] >> (index % 64) & 1 != 0 {
            let cpu = cpu::by_index(index);
            let number = cpu.asked_so_far();
            let mut wait = Wait::default();
            while !cpu.has_forgotten(number) {
                wait.a_moment();
            }
        }
    }
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
