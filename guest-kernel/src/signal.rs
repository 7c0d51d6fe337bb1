//! Signals: dispositions, masks, and what happens by default.

use alloc::boxed::Box;
use alloc::vec::Vec;

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
    pub const SIGXCPU: u8 = 24;
    pub const SIGXFSZ: u8 = 25;
    pub const SIGVTALRM: u8 = 26;
    pub const SIGPROF: u8 = 27;
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
    /// `SA_NOCLDSTOP`.
    pub const NOCLDSTOP: u64 = 1;
    /// `SA_NOCLDWAIT`.
    pub const NOCLDWAIT: u64 = 2;
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
    /// None.
    pub const NONE: Self = Self { start: 0, flags: STACK_DISABLED, padding: 0, size: 0 };

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
    /// What follows in `siginfo_t` from offset 16: `si_addr` of a fault; `si_pid` and `si_uid` (low and
    /// high half) of a sender, then its `si_value`, or `si_status`, `si_utime` and `si_stime` of a child.
    pub detail: [u64; 4],
}

impl Information {
    /// One whose first word is all there is to tell.
    pub const fn new(signal: u8, code: i32, value: u64) -> Self {
        Self { signal, code, detail: [value, 0, 0, 0] }
    }
}

/// `SI_KERNEL`.
pub const SI_KERNEL: i32 = 0x80;

/// The bit of a signal in a set.
pub const fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// Signals that can be neither blocked nor handled.
pub const UNBLOCKABLE: u64 = bit(number::SIGKILL) | bit(number::SIGSTOP);
/// Signals that stop a process by default.
pub const STOPPING: u64 =
    bit(number::SIGSTOP) | bit(number::SIGTSTP) | bit(number::SIGTTIN) | bit(number::SIGTTOU);
/// Signals of the instruction that was just executed, which come before all others.
const SYNCHRONOUS: u64 = bit(number::SIGSEGV)
    | bit(number::SIGBUS)
    | bit(number::SIGILL)
    | bit(number::SIGTRAP)
    | bit(number::SIGFPE)
    | bit(number::SIGSYS);
/// The first signal that is queued as often as it is sent (`SIGRTMIN` of the kernel's interface).
pub const REAL_TIME: u8 = 32;

/// The lowest signal of a set, those of the last instruction first.
pub fn first_of(set: u64) -> Option<u8> {
    let set = if set & SYNCHRONOUS != 0 { set & SYNCHRONOUS } else { set };
    u8::try_from(set.trailing_zeros()).ok().filter(|&index| index < 64).map(|index| index + 1)
}

/// What a process does with signals. What most programs never use is only there once it is used.
#[derive(Clone, Default)]
pub struct Actions {
    table: Option<Box<[Action; number::LAST as usize]>>,
}

impl Actions {
    /// Everything as by default.
    pub const fn new() -> Self {
        Self { table: None }
    }

    /// What happens on a signal (1 to 64).
    pub fn action(&self, signal: u8) -> Action {
        self.table.as_ref().map_or_else(Action::default, |table| table[usize::from(signal) - 1])
    }

    /// Changes what happens on a signal (1 to 64).
    pub fn set_action(&mut self, signal: u8, action: Action) {
        let table =
            self.table.get_or_insert_with(|| Box::new([Action::default(); number::LAST as usize]));
        table[usize::from(signal) - 1] = Action { mask: action.mask & !UNBLOCKABLE, ..action };
    }

    /// Whether the signal would do nothing.
    pub fn is_ignored(&self, signal: u8) -> bool {
        match self.action(signal).handler {
            action::IGNORE => true,
            action::DEFAULT => {
                matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue)
            }
            _ => false,
        }
    }

    /// `execve`: handlers are gone, what is ignored stays ignored.
    pub fn reset_handlers(&mut self) {
        if let Some(table) = &mut self.table {
            for action in table.iter_mut() {
                let ignored = action.handler == action::IGNORE;
                let handler = if ignored { action::IGNORE } else { action::DEFAULT };
                *action = Action { handler, ..Action::default() };
            }
        }
    }
}

/// Signals that were sent and not yet taken.
#[derive(Default)]
pub struct Pending {
    set: u64,
    queue: Vec<Information>,
}

impl Pending {
    /// None.
    pub const fn new() -> Self {
        Self { set: 0, queue: Vec::new() }
    }

    /// Which there are.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// How many wait in the queue.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set == 0
    }

    /// Adds one; a standard signal that waits already is not added again. False if there is no room
    /// for what it tells: then only its number is known.
    pub fn add(&mut self, information: Information, limit: u64) -> bool {
        let signal = information.signal;
        if signal < REAL_TIME && self.set & bit(signal) != 0 {
            return true;
        }
        self.set |= bit(signal);
        if self.queue.len() as u64 >= limit || self.queue.try_reserve(1).is_err() {
            return false;
        }
        self.queue.push(information);
        true
    }

    /// Adds the signal of a timer, beside others of its number. False if there is no memory for what it
    /// tells.
    pub fn add_of_timer(&mut self, information: Information) -> bool {
        self.set |= bit(information.signal);
        let room = self.queue.try_reserve(1).is_ok();
        if room {
            self.queue.push(information);
        }
        room
    }

    /// Forgets the signals with this `si_code`.
    pub fn discard_code(&mut self, code: i32) {
        for at in (0..self.queue.len()).rev() {
            let Information { signal, code: its, .. } = self.queue[at];
            if its == code {
                self.queue.remove(at);
                if !self.queue.iter().any(|waiting| waiting.signal == signal) {
                    self.set &= !bit(signal);
                }
            }
        }
    }

    /// Takes a signal.
    pub fn take(&mut self, signal: u8) -> Option<Information> {
        if self.set & bit(signal) == 0 {
            return None;
        }
        let at = self.queue.iter().position(|waiting| waiting.signal == signal);
        let taken = at.map_or(Information::new(signal, 0, 0), |at| self.queue.remove(at));
        if !self.queue.iter().any(|waiting| waiting.signal == signal) {
            self.set &= !bit(signal);
        }
        Some(taken)
    }

    /// Forgets the signals of a set.
    pub fn discard(&mut self, set: u64) {
        if self.set & set != 0 {
            self.set &= !set;
            self.queue.retain(|waiting| bit(waiting.signal) & set == 0);
        }
    }
}

/// What each thread has of its own.
pub struct ThreadSignals {
    /// Blocked signals: bit 0 is signal 1.
    pub mask: u64,
    /// Signals for this thread alone.
    pub pending: Pending,
    /// `sigaltstack`.
    pub stack: AlternateStack,
    /// The mask to return to after `rt_sigsuspend` or `ppoll`, which a handler's frame takes over.
    pub saved_mask: Option<u64>,
}

impl ThreadSignals {
    /// Nothing blocked, nothing pending.
    pub const fn new() -> Self {
        Self { mask: 0, pending: Pending::new(), stack: AlternateStack::NONE, saved_mask: None }
    }
}

impl Default for ThreadSignals {
    fn default() -> Self {
        Self::new()
    }
}

/// An instruction of the program failed: the signal is delivered before the program goes on.
#[cfg(target_os = "none")]
pub fn fault(_frame: &mut crate::arch::TrapFrame, fault: Fault) {
    let information = Information::new(fault.signal, fault.code, fault.address);
    crate::process::force(information);
}

/// What a signal frame needs at most, for AT_MINSIGSTKSZ.
pub const MINIMUM_STACK: u64 = 2048;
