//! Signals: dispositions, masks, and what happens by default.

use alloc::boxed::Box;

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
    /// SI_KERNEL: a non-canonical stack address.
    pub const STACK: Self = Self::new(number::SIGBUS, 0x80);
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
        number::SIGSTOP | number::SIGTSTP | number::SIGTTIN | number::SIGTTOU => {
            DefaultAction::Stop
        }
        _ => DefaultAction::Terminate,
    }
}

/// `SA_*` and `SIG_*` values.
pub mod action {
    /// `SIG_DFL`.
    pub const DEFAULT: u64 = 0;
    /// `SIG_IGN`.
    pub const IGNORE: u64 = 1;
    /// `SA_SIGINFO`.
    pub const SIGINFO: u64 = 4;
    /// `SA_ONSTACK`.
    pub const ONSTACK: u64 = 0x0800_0000;
    /// `SA_RESTART`.
    pub const RESTART: u64 = 0x1000_0000;
    /// `SA_NODEFER`.
    pub const NODEFER: u64 = 0x4000_0000;
    /// `SA_RESETHAND`.
    pub const RESETHAND: u64 = 0x8000_0000;
    /// `SA_RESTORER`.
    pub const RESTORER: u64 = 0x0400_0000;
}

/// `struct sigaction` of the kernel's interface (sigaction(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Action {
    /// Address of the handler, or `SIG_DFL` or `SIG_IGN`.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked while it runs.
    pub mask: u64,
}

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlternateStack {
    /// Lowest address.
    pub start: u64,
    /// `SS_*`.
    pub flags: u32,
    /// Always zero.
    pub padding: u32,
    /// Bytes.
    pub size: u64,
}

impl AlternateStack {
    /// Whether a program with this RSP runs on the stack.
    pub fn contains(&self, rsp: u64) -> bool {
        self.flags & STACK_DISABLED == 0 && rsp > self.start && rsp - self.start <= self.size
    }
}

/// `SS_DISABLE`.
pub const STACK_DISABLED: u32 = 2;

/// A signal with what `siginfo_t` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Information {
    /// Number.
    pub signal: u8,
    /// `si_code`.
    pub code: i32,
    /// `si_addr` of a fault, or `si_pid` and `si_uid` (low and high half) of a sender.
    pub value: u64,
}

/// What a process does with signals, which it blocks, and which wait.
///
/// What most programs never use is only there once it is used.
pub struct Signals {
    actions: Option<Box<[Action; number::LAST as usize]>>,
    /// Blocked signals: bit 0 is signal 1.
    pub mask: u64,
    /// Signals that were sent and not yet taken.
    pending: u64,
    information: Option<Box<[Option<Information>; number::LAST as usize]>>,
    /// `sigaltstack`.
    pub stack: AlternateStack,
    /// The mask to return to after `rt_sigsuspend` or `ppoll`, which a handler's frame takes over.
    pub saved_mask: Option<u64>,
}

/// The bit of a signal in a set.
pub const fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// Signals that can be neither blocked nor handled.
pub const UNBLOCKABLE: u64 = bit(number::SIGKILL) | bit(number::SIGSTOP);

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}

impl Signals {
    /// Everything as by default.
    pub const fn new() -> Self {
        Self {
            actions: None,
            mask: 0,
            pending: 0,
            information: None,
            stack: AlternateStack { start: 0, flags: STACK_DISABLED, padding: 0, size: 0 },
            saved_mask: None,
        }
    }

    /// What happens on a signal (1 to 64).
    pub fn action(&self, signal: u8) -> Action {
        self.actions
            .as_ref()
            .map_or_else(Action::default, |actions| actions[usize::from(signal) - 1])
    }

    /// Changes what happens on a signal (1 to 64).
    pub fn set_action(&mut self, signal: u8, action: Action) {
        let actions = self
            .actions
            .get_or_insert_with(|| Box::new([Action::default(); number::LAST as usize]));
        actions[usize::from(signal) - 1] = Action { mask: action.mask & !UNBLOCKABLE, ..action };
        if self.is_ignored(signal) {
            self.pending &= !bit(signal);
        }
    }

    /// Whether the signal would do nothing.
    pub fn is_ignored(&self, signal: u8) -> bool {
        match self.action(signal).handler {
            action::IGNORE => true,
            action::DEFAULT => {
                // No one could continue a process that stops: nobody is outside of its session. Linux
                // does not let the members of such orphaned process groups stop either.
                !matches!(default_action(signal), DefaultAction::Terminate)
            }
            _ => false,
        }
    }

    /// Adds a signal to those that wait, unless it is ignored and not blocked.
    pub fn send(&mut self, information: Information) {
        let signal = information.signal;
        if self.is_ignored(signal) && self.mask & bit(signal) == 0 {
            return;
        }
        if self.pending & bit(signal) == 0 {
            self.pending |= bit(signal);
            self.remember(information);
        }
    }

    /// A signal that is to be taken now, the lowest number first; it goes on waiting.
    pub fn deliverable(&self) -> Option<u8> {
        let set = self.pending & !self.mask;
        u8::try_from(set.trailing_zeros()).ok().filter(|&index| index < 64).map(|index| index + 1)
    }

    /// Takes a signal out of those that wait.
    pub fn take(&mut self, signal: u8) -> Option<Information> {
        if self.pending & bit(signal) == 0 {
            return None;
        }
        self.pending &= !bit(signal);
        self.information.as_mut()?[usize::from(signal) - 1].take()
    }

    /// Signals that wait (sigpending(2)).
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// A fault: the signal is not held back by a mask or by being ignored (Linux's
    /// `force_sig_info`): then it ends the process.
    pub fn force(&mut self, information: Information) {
        let signal = information.signal;
        let ignored = self.action(signal).handler == action::IGNORE;
        if ignored || self.mask & bit(signal) != 0 {
            self.set_action(signal, Action::default());
            self.mask &= !bit(signal);
        }
        self.pending |= bit(signal);
        self.remember(information);
    }

    fn remember(&mut self, information: Information) {
        let slots = self.information.get_or_insert_with(|| Box::new([None; number::LAST as usize]));
        slots[usize::from(information.signal) - 1] = Some(information);
    }
}

/// An instruction of the program failed: the signal is delivered before the program goes on.
#[cfg(target_os = "none")]
pub fn fault(_frame: &mut crate::arch::TrapFrame, fault: Fault) {
    let information = Information { signal: fault.signal, code: fault.code, value: fault.address };
    crate::process::current().signals.lock().force(information);
    crate::arch::Cpu::current().request_work();
}

/// What a signal frame needs at most, for AT_MINSIGSTKSZ.
pub const MINIMUM_STACK: u64 = 2048;
