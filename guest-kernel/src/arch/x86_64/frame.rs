//! The registers of an interrupted program, as entry code leaves them on the kernel stack.

/// In the order of Linux's `pt_regs`. It lies at the top of a thread's kernel stack while the thread
/// is in the kernel.
///
/// A system call by SYSCALL leaves `r15` to `rbx`, `rcx` and `r11` unset until
/// [`super::entry`]'s slow path has saved them: handlers don't see the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "register names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Number of the system call, or the error code of an exception.
    pub code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Segment selectors, the same as Linux's, since programs can read them.
pub mod selector {
    /// Kernel code, 64-bit.
    pub const KERNEL_CODE: u16 = 0x10;
    /// Kernel data.
    pub const KERNEL_DATA: u16 = 0x18;
    /// User code, 32-bit; SYSRET's base.
    pub const USER_CODE_32: u16 = 0x23;
    /// User data.
    pub const USER_DATA: u16 = 0x2b;
    /// User code, 64-bit.
    pub const USER_CODE: u16 = 0x33;
    /// Task state segment.
    pub const TSS: u16 = 0x40;
}

/// Bits of RFLAGS (SDM volume 1, section 3.4.3).
pub mod rflags {
    /// Always one.
    pub const FIXED: u64 = 1 << 1;
    /// Trap flag.
    pub const TRAP: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const INTERRUPTS: u64 = 1 << 9;
    /// Direction flag.
    pub const DIRECTION: u64 = 1 << 10;
    /// I/O privilege level, both bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NESTED: u64 = 1 << 14;
    /// Resume flag.
    pub const RESUME: u64 = 1 << 16;
    /// Alignment check; SMAP's override.
    pub const ALIGNMENT: u64 = 1 << 18;
    /// Identification.
    pub const IDENTIFICATION: u64 = 1 << 21;
    /// OF, and CF, PF, AF, ZF, SF.
    const RESULTS: u64 = 1 << 11 | 0xd5;

    /// What ring 3 gets of a signal frame's value (Linux's `FIX_EFLAGS`), and what it keeps of the handler's.
    pub const fn of_signal_frame(value: u64, handler: u64) -> u64 {
        const ALLOWED: u64 = RESULTS | ALIGNMENT | RESUME | DIRECTION | TRAP;
        FIXED | INTERRUPTS | value & ALLOWED | handler & (NESTED | IDENTIFICATION)
    }

    /// What ring 3 gets of R11 after a system call: what it can set itself.
    pub const fn of_system_call(value: u64) -> u64 {
        const ALLOWED: u64 = RESULTS | ALIGNMENT | DIRECTION | TRAP | NESTED | IDENTIFICATION;
        FIXED | INTERRUPTS | value & ALLOWED
    }
}

impl TrapFrame {
    /// All registers zero.
    pub const ZERO: Self = Self {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        code: 0,
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
    };

    /// Whether the program was interrupted, not the kernel.
    pub fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }
}
