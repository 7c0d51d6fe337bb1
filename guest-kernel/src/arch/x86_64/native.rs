//! Kernel code in ring 3, on host B.
//!
//! KVM interprets ring 0 there, at about a microsecond an instruction, and executes ring 3. So what
//! takes many instructions and needs no privilege runs in ring 3, with a page table root that grants it
//! the kernel's pages; no program can run meanwhile. Interrupts stay off, as in ring 0: the flag counts
//! in both.
//!
//! Nothing has to know in which ring it runs. An instruction that needs ring 0, or any other exception,
//! arrives at a handler, which changes the ring and lets the kernel repeat the instruction.

use super::frame::{TrapFrame, selector};
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether the kernel is in ring 3: then no program runs.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Whether an exception in ring 3 is the kernel's own.
#[inline]
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// The kernel has arrived in ring 3.
pub fn begin() {
    ACTIVE.store(true, Ordering::Relaxed);
}

/// An exception of the kernel's own in ring 3: it goes on in ring 0 where it was.
pub fn leave(frame: &mut TrapFrame) {
    ACTIVE.store(false, Ordering::Relaxed);
    frame.cs = selector::KERNEL_CODE.into();
    frame.ss = selector::KERNEL_DATA.into();
}

/// From here on the kernel is in ring 0.
pub fn end() {
    // SAFETY: interrupts are off in the kernel. In ring 3 the instruction is an exception, see above.
    unsafe { core::arch::asm!("cli", options(nostack)) };
}
