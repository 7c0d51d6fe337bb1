//! Exceptions and interrupts, once their registers are saved.

use super::cpu::{self, Cpu};
use super::cpuid;
use super::frame::TrapFrame;
use super::instruction;
use super::tlb;
use super::{apic, copy, probe};
use crate::memory::space::Access;
use crate::memory::{USER_END, UserPtr};
use crate::signal::{self, Fault};
use airlock_abi::layout::IRQ_VECTOR_BASE;
use core::sync::atomic::Ordering;

// Vectors (SDM volume 3, table 6-1).
const DIVIDE_ERROR: u32 = 0;
const DEBUG: u32 = 1;
const BREAKPOINT: u32 = 3;
const OVERFLOW: u32 = 4;
const BOUND: u32 = 5;
const INVALID_OPCODE: u32 = 6;
const NOT_PRESENT: u32 = 11;
const STACK_FAULT: u32 = 12;
const GENERAL_PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;
const X87_ERROR: u32 = 16;
const ALIGNMENT_CHECK: u32 = 17;
const SIMD_ERROR: u32 = 19;
const LAST_EXCEPTION: u32 = 31;
const INT80: u32 = 0x80;

// Page-fault error code (SDM volume 3, figure 4-12).
const CODE_WRITE: u64 = 1 << 1;
const CODE_USER: u64 = 1 << 2;
const CODE_FETCH: u64 = 1 << 4;

/// Called by entry code for every vector but NMI, #DF and #MC.
pub extern "C" fn exception(frame: &mut TrapFrame, vector: u32) {
    match vector {
        PAGE_FAULT => page_fault(frame),
        INT80 => crate::syscall::int80(frame),
        0..=LAST_EXCEPTION if frame.from_user() => program_exception(frame, vector),
        0..=LAST_EXCEPTION => {
            panic!("exception {vector}, code {:#x}, at {:#x}", frame.code, frame.rip)
        }
        _ => {
            interrupt(vector, frame.from_user().then(|| was_in_kernel(frame)));
            if !frame.from_user() {
                frame.rip = cpu::behind_halt(frame.rip);
            }
        }
    }
}

fn page_fault(frame: &mut TrapFrame) {
    let address = cpu::fault_address();
    let user = frame.from_user();
    if user {
        Cpu::current().note_fault_rip(frame.rip);
    }
    let access = if frame.code & CODE_FETCH != 0 {
        Access::Execute
    } else if frame.code & CODE_WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    };
    let fixup = if user { None } else { copy::fixup(frame.rip) };
    if !user && fixup.is_none() {
        panic!("page fault at {address:#x}, code {:#x}, rip {:#x}", frame.code, frame.rip);
    }
    let touch =
        || crate::process::current().memory().fault(address, access, crate::process::bounds);
    let result = if user && frame.code & CODE_USER == 0 {
        // An instruction of the program, but an access with the rights of ring 0: QEMU reads the stack
        // of an IRET to ring 0 so, and no mapping would satisfy it.
        Err(Fault::GENERAL)
    } else if address < USER_END {
        touch()
    } else {
        Err(Fault::UNMAPPED)
    };
    // While this waited for a lock, another vCPU may have had translations forgotten, also of the copy that
    // goes on now.
    if !user && Cpu::current().native.take_stale_elsewhere() {
        tlb::reload_root();
    }
    match (result, fixup) {
        (Ok(()), _) => {
            crate::process::current().minor_faults.fetch_add(1, Ordering::Relaxed);
        }
        // The program touches it again, when a process that has much memory has ended.
        (Err(Fault::OUT_OF_MEMORY), None) => crate::process::relieve(),
        (Err(Fault::OUT_OF_MEMORY), Some(target)) => {
            if !crate::process::relieve_copy(|| touch().is_ok()) {
                frame.rip = target;
            }
        }
        (Err(_), Some(target)) => frame.rip = target,
        (Err(fault), None) => signal::fault(frame, fault.at(address)),
    }
}

fn program_exception(frame: &mut TrapFrame, vector: u32) {
    if probe::syscall_faults() {
        let code = UserPtr::<[u8; 2]>::new(frame.rip).read();
        match (vector, code) {
            // Host B: `int 0x80` raises #UD with RIP at the instruction.
            (INVALID_OPCODE, Ok([0xcd, 0x80])) => {
                frame.rip += 2;
                return crate::syscall::int80(frame);
            }
            // Host B: so does any other `int`, which a gate for ring 0 would refuse.
            (INVALID_OPCODE, Ok([0xcd, _])) => return signal::fault(frame, Fault::GENERAL),
            // Host B: CPUID faulting is on.
            (GENERAL_PROTECTION, Ok([0x0f, 0xa2])) => {
                frame.rip += 2;
                let [leaf, _] = instruction::halves(frame.rax);
                let [subleaf, _] = instruction::halves(frame.rcx);
                let answer = cpuid::cpuid(leaf, subleaf);
                [frame.rax, frame.rbx, frame.rcx, frame.rdx] = answer.map(u64::from);
                return;
            }
            _ => {}
        }
    }
    let rip = frame.rip;
    let fault = match vector {
        DIVIDE_ERROR => Fault::DIVIDE.at(rip),
        DEBUG => Fault::TRACE.at(rip),
        BREAKPOINT => Fault::BREAKPOINT,
        OVERFLOW | BOUND => Fault::GENERAL,
        INVALID_OPCODE => Fault::OPCODE.at(rip),
        X87_ERROR | SIMD_ERROR => Fault::FLOATING_POINT.at(rip),
        ALIGNMENT_CHECK => Fault::ALIGNMENT,
        NOT_PRESENT | STACK_FAULT => Fault::STACK,
        // #GP and the segment exceptions.
        _ => Fault::GENERAL,
    };
    signal::fault(frame, fault);
}

/// Whether an interrupt that is taken in a program was held back by the kernel, which has them off: then the program
/// has not executed an instruction since. After a system call RCX is where it returned to; a page fault returns to
/// the instruction that it came from.
fn was_in_kernel(frame: &TrapFrame) -> bool {
    frame.rcx == frame.rip || Cpu::current().take_fault_rip() == frame.rip
}

fn interrupt(vector: u32, in_kernel: Option<bool>) {
    if vector == u32::from(apic::TIMER_VECTOR) {
        crate::sched::run::timer(in_kernel);
    } else if (IRQ_VECTOR_BASE..u32::from(apic::TIMER_VECTOR)).contains(&vector) {
        crate::drivers::interrupt(vector - IRQ_VECTOR_BASE);
    }
    if vector == u32::from(apic::WAKE_VECTOR) {
        Cpu::current().answer();
        crate::sched::run::look_at_queue();
    }
    // A spurious interrupt gets no EOI.
    if vector != 0xff {
        apic::end_of_interrupt();
    }
}

/// Called by entry code for NMI, #DF and #MC, on their own stacks.
pub extern "C" fn anywhere(vector: u32, rip: u64, rsp: u64) {
    const NMI: u32 = 2;
    if vector == NMI {
        // Nobody sends one; QEMU's monitor can, and it means nothing.
        return;
    }
    let cpu = Cpu::current().index();
    panic!("exception {vector} on vCPU {cpu} at {rip:#x}, stack {rsp:#x} (kernel stack overflow?)");
}
