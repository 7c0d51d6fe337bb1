//! The kernel in ring 3, on host B.
//!
//! KVM interprets ring 0 there, at about a microsecond an instruction, and executes ring 3. So on host B
//! the kernel runs in ring 3, too, with a page table root of its own that grants it its pages, and ring 0
//! is what is left here: a few instructions that lead from a program to the kernel and back.
//!
//! * Every address space has two roots with the same tables below: the programs' keeps ring 3 out of
//!   the kernel's half, the kernel's does not. While the kernel's is loaded no program runs.
//! * An exception or system call of a program arrives in ring 0 on the vCPU's small *monitor stack*. From
//!   there IRET leads to [`native_start`] in ring 3, at the top of the thread's kernel stack, where the
//!   [`TrapFrame`] is built and everything else happens. Breakpoint is the way back.
//! * Nothing else has to know in which ring the kernel runs. An instruction that needs ring 0 is an
//!   exception, and the kernel goes on with it in ring 0, interpreted, until the program is entered
//!   again. Interrupts are off throughout: RFLAGS.IF counts in both rings.
//! * Page faults of the kernel itself, when it copies to or from a program, are handled in ring 3 where
//!   they happen.
//!
//! What the monitor relies on: ring 3 can change neither CR3 nor the descriptor tables nor the program's
//! root; programs cannot see the monitor stack or the vCPU's block, and [`Native::active`] says on whose
//! behalf ring 3 runs.

use super::cpu::{self, Cpu};
use super::frame::{TrapFrame, rflags, selector};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of a monitor stack: two nested frames are the most that is ever on it.
const MONITOR_STACK: usize = 512;

/// What a vCPU needs to run the kernel in ring 3. Entry code uses the offsets.
#[repr(C, align(16))]
pub struct Native {
    stack: [u8; MONITOR_STACK],
    /// Directly above the stack: whether ring 3 runs the kernel, not a program.
    active: AtomicU64,
    /// RAX of what was interrupted.
    rax: AtomicU64,
    /// CR2, where host B keeps the kernel from reading it in ring 3.
    fault_address: AtomicU64,
    /// Roots of the current address space (guest-physical).
    user_root: AtomicU64,
    kernel_root: AtomicU64,
    /// Translations may have to be forgotten before the next copy to or from a program: [`HERE`],
    /// [`ELSEWHERE`].
    stale: AtomicU8,
    /// What IRET leads from the monitor to the kernel with: after an exception of a program...
    start: ReturnFrame,
    /// ...and of the kernel itself.
    nested: ReturnFrame,
}

#[repr(C)]
struct ReturnFrame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: AtomicU64,
    ss: u64,
    /// Its own address.
    this: u64,
}

impl ReturnFrame {
    const fn new() -> Self {
        Self { rip: 0, cs: 0, rflags: 0, rsp: AtomicU64::new(0), ss: 0, this: 0 }
    }

    fn fill(&mut self, target: unsafe extern "C" fn()) {
        self.rip = target as *const () as u64;
        self.cs = selector::USER_CODE.into();
        self.rflags = rflags::FIXED;
        self.ss = selector::USER_DATA.into();
        self.this = (&raw const *self).expose_provenance() as u64;
    }
}

impl Native {
    /// Not yet in use.
    #[expect(clippy::new_without_default, reason = "a constant")]
    pub const fn new() -> Self {
        Self {
            stack: [0; MONITOR_STACK],
            active: AtomicU64::new(0),
            rax: AtomicU64::new(0),
            fault_address: AtomicU64::new(0),
            user_root: AtomicU64::new(0),
            kernel_root: AtomicU64::new(0),
            stale: AtomicU8::new(0),
            start: ReturnFrame::new(),
            nested: ReturnFrame::new(),
        }
    }

    /// Fills in what entry code reads; returns the top of the monitor stack.
    pub fn prepare(&mut self) -> u64 {
        self.start.fill(native_start);
        self.nested.fill(native_nested);
        (&raw const self.active).expose_provenance() as u64
    }

    /// Makes the kernel start at `top` after an exception of a program.
    pub fn set_kernel_stack(&self, top: u64) {
        self.start.rsp.store(top, Ordering::Relaxed);
    }

    /// Chooses the address space.
    pub fn set_roots(&self, user: u64, kernel: u64) {
        self.user_root.store(user, Ordering::Relaxed);
        self.kernel_root.store(kernel, Ordering::Relaxed);
    }

    /// Address of the page fault that is being handled.
    pub fn fault_address(&self) -> u64 {
        self.fault_address.load(Ordering::Relaxed)
    }

    /// A translation has become wrong while the kernel is in ring 3. On the way back to the program all
    /// are forgotten; a copy to or from it meanwhile has to see to it.
    pub fn note_stale(&self) {
        self.stale.store(self.stale.load(Ordering::Relaxed) | HERE, Ordering::Relaxed);
    }

    /// The same, and another vCPU made it so: even a copy that is under way must not go on.
    pub fn note_stale_elsewhere(&self) {
        self.stale.store(self.stale.load(Ordering::Relaxed) | ELSEWHERE, Ordering::Relaxed);
    }

    /// Whether one of these was noted; not any more.
    pub fn take_stale(&self) -> bool {
        let stale = self.stale.load(Ordering::Relaxed) != 0;
        if stale {
            self.stale.store(0, Ordering::Relaxed);
        }
        stale
    }

    /// Whether the second was noted; then neither is any more.
    pub fn take_stale_elsewhere(&self) -> bool {
        self.stale.load(Ordering::Relaxed) & ELSEWHERE != 0 && self.take_stale()
    }
}

/// This vCPU changed a translation.
const HERE: u8 = 1;
/// Another one did.
const ELSEWHERE: u8 = 2;

/// The kernel has arrived in ring 3 for the first time.
pub fn begin() {
    Cpu::current().native.active.store(1, Ordering::Relaxed);
}

/// Whether this is executed in ring 3.
#[inline]
pub fn is_here() -> bool {
    let selector: u32;
    // SAFETY: reading a segment register has no effect.
    unsafe { asm!("mov {:e}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3 != 0
}

/// From here on the kernel is in ring 0, until a program is entered.
pub fn end() {
    // SAFETY: interrupts are off in the kernel. In ring 3 the instruction is an exception, see above.
    unsafe { asm!("cli", options(nostack)) };
}

/// Back to ring 3, where the kernel was before an instruction that needs ring 0.
pub fn resume() {
    // SAFETY: the routine preserves what a function must, and returns here with the kernel's root loaded.
    unsafe { native_resume() };
}

/// The same after work in ring 0 that is over, where the kernel runs in ring 3.
pub fn resume_if_used() {
    if super::probe::syscall_faults() && !is_here() {
        resume();
    }
}

/// Does what may need ring 0, and goes on in the ring that this is.
#[inline]
pub fn briefly<T>(act: impl FnOnce() -> T) -> T {
    let was_here = is_here();
    let result = act();
    if was_here && !is_here() {
        resume();
    }
    result
}

/// Loads the monitor's descriptor table on the vCPU that runs this.
pub fn load_table() {
    unsafe extern "C" {
        static native_idt: u8;
    }
    // SAFETY: the table describes the handlers below.
    unsafe { cpu::load_interrupt_table((&raw const native_idt).expose_provenance() as u64) };
}

unsafe extern "C" {
    fn native_start();
    fn native_nested();
    fn native_resume();
    fn native_enter(frame: *const TrapFrame) -> !;
}

/// Enters ring 3 at `frame`, as after an exception of the program.
///
/// # Safety
/// The frame is a ring 3 state at the top of the running thread's stack, and the roots are those of the
/// thread's address space.
pub unsafe fn enter(frame: *mut TrapFrame) -> ! {
    // Not always the same vCPU: the work may be to move to another.
    while Cpu::current().has_work() {
        // SAFETY: by the contract.
        crate::syscall::exit_work(unsafe { &mut *frame }, 0);
    }
    // SAFETY: by the contract.
    unsafe { native_enter(frame) }
}

const TOP: usize = offset_of!(Cpu, native) + offset_of!(Native, active);
/// From the highest word of an exception's frame, if it has an error code and a vector, to `active`.
const FRAME: usize = 7 * 8;

global_asm!(
    // --- Ring 0: on the monitor stack if it was ring 3 that was interrupted ---
    ".pushsection .text.entry, \"ax\", @progbits",
    // [rsp]: vector, error code, RIP, CS, RFLAGS, RSP, SS; then `active`.
    ".balign 64",
    "native_vector:",
    "    test byte ptr [rsp + 24], 3",
    "    jz ordinary_from_kernel",
    "    cmp byte ptr [rsp + {frame}], 0",
    "    jne 1f",
    "    swapgs",
    "    mov gs:[{rax}], rax",
    "2:  mov rax, gs:[{kernel_root}]",
    "    mov cr3, rax",
    "    mov byte ptr gs:[{active}], 1",
    "    mov rax, rsp",
    "    mov rsp, gs:[{start}]",
    "    iretq",
    // The kernel's own in ring 3: it goes on in ring 0, with the instruction that needs it.
    "1:  mov byte ptr gs:[{active}], 0",
    "    mov qword ptr [rsp + 24], {kernel_code}",
    "    mov qword ptr [rsp + 48], {kernel_data}",
    "    add rsp, 16",
    "    iretq",
    ".balign 64",
    "native_page_fault:",
    "    push 14",
    "    test byte ptr [rsp + 24], 3",
    "    jz 3f",
    "    cmp byte ptr [rsp + {frame}], 0",
    "    jne 4f",
    "    swapgs",
    "    mov gs:[{rax}], rax",
    "    mov rax, cr2",
    "    mov gs:[{fault_address}], rax",
    "    jmp 2b",
    // Of the kernel in ring 3: there it is handled, below where its stack ends. A fault of the code that
    // does so is not handled, or it would be for ever.
    "4:  cmp qword ptr [rsp + 16], offset native_code",
    "    jb 5f",
    "    cmp qword ptr [rsp + 16], offset native_code_end",
    "    jb 1b",
    "5:  mov gs:[{rax}], rax",
    "    mov rax, cr2",
    "    mov gs:[{fault_address}], rax",
    "    mov rax, [rsp + 40]",
    "    mov gs:[{nested_rsp}], rax",
    "    mov rax, rsp",
    "    mov rsp, gs:[{nested}]",
    "    iretq",
    // Of the kernel in ring 0.
    "3:  add rsp, 8",
    "    push rdi",
    "    push rsi",
    "    mov rdi, cr2",
    "    mov gs:[{fault_address}], rdi",
    "    mov esi, 14",
    "    jmp save_rest",
    // The kernel's way back to a program; or a program's breakpoint.
    ".balign 64",
    "native_breakpoint:",
    "    push 0",
    "    push 3",
    "    cmp byte ptr [rsp + {frame}], 0",
    "    je native_vector",
    "native_exit:",
    "    mov rax, gs:[{user_root}]",
    "    mov cr3, rax",
    "    mov byte ptr gs:[{active}], 0",
    "    mov rsp, gs:[{stack_top}]",
    "    mov rax, [rsp - {top_to_rax}]",
    "    sub rsp, 40",
    "    swapgs",
    "    iretq",
    // #DB, on a stack of its own, above whose top is the address of the vCPU's block: only a program's
    // counts.
    ".balign 64",
    "native_debug:",
    "    push 0",
    "    push 1",
    "    test byte ptr [rsp + 24], 3",
    "    jz 6f",
    "    push rax",
    "    mov rax, [rsp + {frame} + 8]",
    "    cmp byte ptr [rax + {active}], 0",
    "    pop rax",
    "    jne 6f",
    "    swapgs",
    "    mov gs:[{rax}], rax",
    "    jmp 2b",
    "6:  add rsp, 16",
    "    and dword ptr [rsp + 16], {not_trap}",
    "    iretq",
    // Ring 0 to ring 3, on the same stack.
    "native_resume:",
    "    mov rax, gs:[{kernel_root}]",
    "    mov cr3, rax",
    "    mov byte ptr gs:[{active}], 1",
    "    pop rdx",
    "    mov rcx, rsp",
    "    push {user_data}",
    "    push rcx",
    "    push 2",
    "    push {user_code}",
    "    push rdx",
    "    iretq",
    // --- Ring 3, executed; from `sti` and the like on perhaps in ring 0 ---
    // RAX: the exception's frame on the monitor stack. RSP: top of the thread's stack.
    ".balign 64",
    "native_code:",
    ".macro native_save",
    "    push qword ptr [rax + 48]",
    "    push qword ptr [rax + 40]",
    "    push qword ptr [rax + 32]",
    "    push qword ptr [rax + 24]",
    "    push qword ptr [rax + 16]",
    "    push qword ptr [rax + 8]",
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push rcx",
    "    push qword ptr gs:[{rax}]",
    "    push r8",
    "    push r9",
    "    push r10",
    "    push r11",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    mov rdi, rsp",
    "    mov esi, [rax]",
    "    cld",
    ".endm",
    ".macro native_restore",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rax",
    "    pop rcx",
    "    pop rdx",
    "    pop rsi",
    "    pop rdi",
    "    add rsp, 8",
    ".endm",
    ".global native_enter",
    "native_enter:",
    "    mov rsp, rdi",
    "    jmp native_leave",
    ".global native_start",
    "native_start:",
    "    native_save",
    "    sub rsp, 8",
    "    call {entered}",
    "    add rsp, 8",
    "native_leave:",
    "    native_restore",
    "    mov eax, cs", // the monitor restores RAX
    "    test al, 3",
    "    jz native_exit",
    "    int3",
    // RSP: where the kernel was interrupted.
    ".balign 16",
    ".global native_nested",
    "native_nested:",
    "    native_save",
    "    mov qword ptr [rsp + {frame_cs}], {kernel_code}",
    "    mov rbx, rsp",
    "    and rsp, -16",
    "    call {exception}",
    "    mov rsp, rbx",
    // Back in the ring that this is now.
    "    mov eax, cs",
    "    mov [rsp + {frame_cs}], rax",
    "    mov eax, ss",
    "    mov [rsp + {frame_ss}], rax",
    "    native_restore",
    "    iretq",
    "native_code_end:",
    // --- One 16-byte stub a vector; the table that the linker script writes counts on the size ---
    ".balign 16",
    ".global native_stubs",
    "native_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    .if vector == 1",
    "        jmp native_debug",
    "    .elseif vector == 2 || vector == 18",
    "        push 0",
    "        push vector",
    "        jmp anywhere_vector",
    "    .elseif vector == 3",
    "        jmp native_breakpoint",
    "    .elseif vector == 8",
    "        push vector",
    "        jmp anywhere_vector",
    "    .elseif vector == 14",
    "        jmp native_page_fault",
    "    .elseif vector == 10 || vector == 11 || vector == 12 || vector == 13 || vector == 17 || vector == 21",
    "        push vector",
    "        jmp native_vector",
    "    .else",
    "        push 0",
    "        push vector",
    "        jmp native_vector",
    "    .endif",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    ".popsection",
    frame = const FRAME,
    active = const TOP,
    rax = const offset_of!(Cpu, native) + offset_of!(Native, rax),
    fault_address = const offset_of!(Cpu, native) + offset_of!(Native, fault_address),
    user_root = const offset_of!(Cpu, native) + offset_of!(Native, user_root),
    kernel_root = const offset_of!(Cpu, native) + offset_of!(Native, kernel_root),
    start = const offset_of!(Cpu, native) + offset_of!(Native, start) + offset_of!(ReturnFrame, this),
    nested = const offset_of!(Cpu, native) + offset_of!(Native, nested) + offset_of!(ReturnFrame, this),
    nested_rsp = const offset_of!(Cpu, native) + offset_of!(Native, nested) + offset_of!(ReturnFrame, rsp),
    stack_top = const offset_of!(Cpu, stack_top),
    top_to_rax = const size_of::<TrapFrame>() - offset_of!(TrapFrame, rax),
    not_trap = const !(1 << 8),
    frame_cs = const offset_of!(TrapFrame, cs),
    frame_ss = const offset_of!(TrapFrame, ss),
    kernel_code = const selector::KERNEL_CODE,
    kernel_data = const selector::KERNEL_DATA,
    user_code = const selector::USER_CODE,
    user_data = const selector::USER_DATA,
    entered = sym entered,
    exception = sym super::trap::exception,
);

/// A program has entered the kernel, which is in ring 3; the frame is complete.
extern "C" fn entered(frame: &mut TrapFrame, vector: u32) {
    const PAGE_FAULT: u32 = 14;
    Cpu::current().native.stale.store(0, Ordering::Relaxed);
    // SYSCALL: the fetch of its target faulted, and RCX is where it returns to. A jump there with an RCX
    // that no SYSCALL leaves is a jump into the kernel.
    let is_call = vector == PAGE_FAULT
        && frame.rip == super::probe::syscall_target()
        && frame.rcx < crate::memory::USER_END;
    if is_call {
        frame.code = frame.rax;
        frame.rip = frame.rcx;
        frame.rflags = rflags::of_system_call(frame.r11);
        frame.rax = crate::syscall::whole_call(frame).cast_unsigned();
    } else {
        super::trap::exception(frame, vector);
    }
    // Not always the same vCPU: the work may be to move to another.
    while Cpu::current().has_work() {
        crate::syscall::exit_work(frame, is_call.into());
    }
}
