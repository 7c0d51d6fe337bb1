//! Signals: dispositions, masks, and what happens by default.

use airlock_abi::exit::Exit;

/// Signal numbers of Linux on x86-64 (signal(7)).
#[expect(missing_docs, reason = "the names say it")]
pub mod number {
    pub const SIGHUP: u8 = 1;
    pub const SIGINT: u8 = 2;
    pub const SIGQUIT: u8 = 3;
    pub const SIGILL: u8 = 4;
    pub const SIGTRAP: u8 = 5;
    pub const SIGABRT: u8 = 6;
    pub const SIGBUS: u8 = 7;
    pub const SIGFPE: u8 = 8;
    pub const SIGKILL: u8 = 9;
    pub const SIGUSR1: u8 = 10;
    pub const SIGSEGV: u8 = 11;
    pub const SIGUSR2: u8 = 12;
    pub const SIGPIPE: u8 = 13;
    pub const SIGALRM: u8 = 14;
    pub const SIGTERM: u8 = 15;
    pub const SIGCHLD: u8 = 17;
    pub const SIGCONT: u8 = 18;
    pub const SIGSTOP: u8 = 19;
    pub const SIGTSTP: u8 = 20;
    pub const SIGTTIN: u8 = 21;
    pub const SIGTTOU: u8 = 22;
    pub const SIGURG: u8 = 23;
    pub const SIGXFSZ: u8 = 25;
    pub const SIGWINCH: u8 = 28;
    pub const SIGSYS: u8 = 31;
    /// Highest number.
    pub const LAST: u8 = 64;
}

/// What went wrong with an instruction of a program, as a signal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Signal number.
    pub signal: u8,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
}

impl Fault {
    const fn new(signal: u8, code: i32) -> Self {
        Self { signal, code, address: 0 }
    }

    /// SEGV_MAPERR.
    pub const UNMAPPED: Self = Self::new(number::SIGSEGV, 1);
    /// SEGV_ACCERR.
    pub const ACCESS: Self = Self::new(number::SIGSEGV, 2);
    /// SI_KERNEL: general protection has no address.
    pub const GENERAL: Self = Self::new(number::SIGSEGV, 0x80);
    /// BUS_ADRERR.
    pub const BUS: Self = Self::new(number::SIGBUS, 2);
    /// BUS_ADRALN.
    pub const ALIGNMENT: Self = Self::new(number::SIGBUS, 1);
    /// ILL_ILLOPN.
    pub const OPCODE: Self = Self::new(number::SIGILL, 2);
    /// FPE_INTDIV.
    pub const DIVIDE: Self = Self::new(number::SIGFPE, 1);
    /// FPE_FLTINV; Linux derives the exact code from the FPU's status.
    pub const FLOATING_POINT: Self = Self::new(number::SIGFPE, 7);
    /// TRAP_TRACE.
    pub const TRACE: Self = Self::new(number::SIGTRAP, 2);
    /// SI_KERNEL.
    pub const BREAKPOINT: Self = Self::new(number::SIGTRAP, 0x80);
    /// The page could not be had: Linux's OOM killer sends SIGKILL.
    pub const OUT_OF_MEMORY: Self = Self::new(number::SIGKILL, 0x80);

    /// The same with `si_addr`.
    #[must_use]
    pub const fn at(self, address: u64) -> Self {
        Self { address, ..self }
    }
}

/// What a signal does to a process that has not said otherwise (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// The process ends, with or without a core dump that is not written here anyway.
    Terminate,
    /// Nothing.
    Ignore,
    /// The process stops.
    Stop,
    /// The process continues if it was stopped.
    Continue,
}

/// The default action of a signal.
pub const fn default_action(signal: u8) -> DefaultAction {
    match signal {
        number::SIGCHLD | number::SIGURG | number::SIGWINCH => DefaultAction::Ignore,
        number::SIGCONT => DefaultAction::Continue,
        number::SIGSTOP | number::SIGTSTP | number::SIGTTIN | number::SIGTTOU => DefaultAction::Stop,
        _ => DefaultAction::Terminate,
    }
}

/// An instruction of the program failed: the signal is delivered, or ends it.
#[cfg(target_os = "none")]
pub fn fault(_frame: &mut crate::arch::TrapFrame, fault: Fault) {
    crate::process::exit_machine(Exit::Signaled(fault.signal));
}

const _: Option<Exit> = None;
