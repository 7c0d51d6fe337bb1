//! Names of signals and of the reasons for them.

use super::values::{Name, Values, names};

/// The signals that have a name, by number.
pub const SIGNALS: &[Name] = names![
    SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV,
    SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN,
    SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS,
];

/// The name of a signal as the kernel numbers them, which reserves none of the real-time signals.
pub fn name(number: u32) -> String {
    match number {
        32 => "SIGRTMIN".to_owned(),
        33..=64 => format!("SIGRT_{}", number - 32),
        _ => Values::One(SIGNALS)
            .exact(number.into())
            .map_or_else(|| number.cast_signed().to_string(), str::to_owned),
    }
}

/// The name of a signal's `si_code` (`sigaction(2)`).
pub fn code_name(signal: u32, code: i32) -> String {
    let name = match code {
        0 => Some("SI_USER"),
        0x80 => Some("SI_KERNEL"),
        -1 => Some("SI_QUEUE"),
        -2 => Some("SI_TIMER"),
        -3 => Some("SI_MESGQ"),
        -4 => Some("SI_ASYNCIO"),
        -5 => Some("SI_SIGIO"),
        -6 => Some("SI_TKILL"),
        _ => None,
    };
    let number = u64::from(code.cast_unsigned());
    name.or_else(|| fault_codes(signal).and_then(|codes| codes.exact(number)))
        .map_or_else(|| code.to_string(), str::to_owned)
}

fn fault_codes(signal: u32) -> Option<Values> {
    Some(Values::One(match signal.cast_signed() {
        libc::SIGSEGV => {
            &[(1, "SEGV_MAPERR"), (2, "SEGV_ACCERR"), (3, "SEGV_BNDERR"), (4, "SEGV_PKUERR")]
        }
        libc::SIGBUS => &[(1, "BUS_ADRALN"), (2, "BUS_ADRERR"), (3, "BUS_OBJERR")],
        libc::SIGILL => &[
            (1, "ILL_ILLOPC"),
            (2, "ILL_ILLOPN"),
            (3, "ILL_ILLADR"),
            (4, "ILL_ILLTRP"),
            (5, "ILL_PRVOPC"),
            (6, "ILL_PRVREG"),
            (7, "ILL_COPROC"),
            (8, "ILL_BADSTK"),
        ],
        libc::SIGFPE => &[
            (1, "FPE_INTDIV"),
            (2, "FPE_INTOVF"),
            (3, "FPE_FLTDIV"),
            (4, "FPE_FLTOVF"),
            (5, "FPE_FLTUND"),
            (6, "FPE_FLTRES"),
            (7, "FPE_FLTINV"),
            (8, "FPE_FLTSUB"),
        ],
        libc::SIGTRAP => &[(1, "TRAP_BRKPT"), (2, "TRAP_TRACE"), (4, "TRAP_HWBKPT")],
        libc::SIGCHLD => &[
            (1, "CLD_EXITED"),
            (2, "CLD_KILLED"),
            (3, "CLD_DUMPED"),
            (4, "CLD_TRAPPED"),
            (5, "CLD_STOPPED"),
            (6, "CLD_CONTINUED"),
        ],
        libc::SIGSYS => &[(1, "SYS_SECCOMP"), (2, "SYS_USER_DISPATCH")],
        _ => return None,
    }))
}

/// Whether the kernel itself sent the signal for what an instruction did: it then has an address.
pub fn is_fault(signal: u32, code: i32) -> bool {
    code > 0
        && matches!(
            signal.cast_signed(),
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP
        )
}
