//! Names of argument values: flags, commands, clocks.

use super::signals::SIGNALS;

/// A value and its name.
pub type Name = (u64, &'static str);

/// How the values of an argument are named.
pub enum Values {
    /// One of these.
    One(&'static [Name]),
    /// A combination of these.
    Flags {
        /// One of `field` in the bits of this mask, before the flags.
        mask: u64,
        /// Names of the values of the field.
        field: &'static [Name],
        /// The flags, in the order in which they are printed; one that consists of several bits
        /// stands before those.
        flags: &'static [Name],
        /// What stands for no flag at all.
        none: &'static str,
    },
}

/// The constants of these names, as the C library has them.
macro_rules! names {
    ($($name:ident),+ $(,)?) => {
        const { &[$(($crate::strace::values::number(libc::$name as i64), stringify!($name))),+] }
    };
}

pub(super) use names;

/// C's constants are `int`s and arguments 32 bits: their upper half is cut off.
pub const fn number(constant: i64) -> u64 {
    (constant & 0xffff_ffff).cast_unsigned()
}

const fn flags(flags: &'static [Name]) -> Values {
    Values::Flags { mask: 0, field: &[], flags, none: "0" }
}

const OPEN_FLAGS: &[Name] = names![
    O_CREAT,
    O_EXCL,
    O_NOCTTY,
    O_TRUNC,
    O_APPEND,
    O_NONBLOCK,
    O_SYNC,
    O_DSYNC,
    O_ASYNC,
    O_DIRECT,
    O_LARGEFILE,
    O_NOFOLLOW,
    O_NOATIME,
    O_CLOEXEC,
    O_PATH,
    O_TMPFILE,
    O_DIRECTORY,
];

/// Flags of `open(2)`, with the access mode in front.
pub const OPEN: Values = Values::Flags {
    mask: 3,
    field: &[(0, "O_RDONLY"), (1, "O_WRONLY"), (2, "O_RDWR"), (3, "O_ACCMODE")],
    flags: OPEN_FLAGS,
    none: "O_RDONLY",
};

/// Flags of `open(2)` where there is no access mode, as in `dup3(2)`.
pub const DESCRIPTOR: Values = flags(OPEN_FLAGS);

/// Descriptor flags of `fcntl(2)`.
pub const FD_FLAGS: Values = flags(names![FD_CLOEXEC]);

const PROTECTION: Values = Values::Flags {
    mask: 0,
    field: &[],
    flags: names![PROT_READ, PROT_WRITE, PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP],
    none: "PROT_NONE",
};

const MAP: Values = Values::Flags {
    mask: 0xf,
    field: names![MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE],
    flags: names![
        MAP_FIXED,
        MAP_ANONYMOUS,
        MAP_32BIT,
        MAP_NORESERVE,
        MAP_POPULATE,
        MAP_NONBLOCK,
        MAP_GROWSDOWN,
        MAP_DENYWRITE,
        MAP_EXECUTABLE,
        MAP_LOCKED,
        MAP_STACK,
        MAP_HUGETLB,
        MAP_SYNC,
        MAP_FIXED_NOREPLACE,
    ],
    none: "0",
};

const ACCESS: Values =
    Values::Flags { mask: 0, field: &[], flags: names![R_OK, W_OK, X_OK], none: "F_OK" };

const AT: &[Name] = names![AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH];

const CLOCK: Values = Values::One(names![
    CLOCK_REALTIME,
    CLOCK_MONOTONIC,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_THREAD_CPUTIME_ID,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME_COARSE,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_BOOTTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_TAI,
]);

const FCNTL: Values = Values::One(names![
    F_DUPFD,
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_SETFL,
    F_GETLK,
    F_SETLK,
    F_SETLKW,
    F_SETOWN,
    F_GETOWN,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_SETLEASE,
    F_GETLEASE,
    F_NOTIFY,
    F_DUPFD_CLOEXEC,
    F_SETPIPE_SZ,
    F_GETPIPE_SZ,
    F_ADD_SEALS,
    F_GET_SEALS,
]);

const IOCTL: Values = Values::One(names![
    TCGETS,
    TCSETS,
    TCSETSW,
    TCSETSF,
    TCGETA,
    TCSETA,
    TCSBRK,
    TCXONC,
    TCFLSH,
    TIOCEXCL,
    TIOCNXCL,
    TIOCSCTTY,
    TIOCGPGRP,
    TIOCSPGRP,
    TIOCOUTQ,
    TIOCSTI,
    TIOCGWINSZ,
    TIOCSWINSZ,
    FIONREAD,
    TIOCNOTTY,
    TIOCGSID,
    FIONBIO,
    FIOASYNC,
    FIOCLEX,
    FIONCLEX,
    TIOCSPTLCK,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCPKT,
    TIOCGPKT,
    TIOCSBRK,
    TIOCCBRK,
    TCSBRKP,
    TIOCGETD,
    TIOCSETD,
    TIOCGEXCL,
    TIOCGDEV,
    TIOCGLCKTRMIOS,
    TIOCSLCKTRMIOS,
    TCGETS2,
    TCSETS2,
    TCSETSW2,
    TCSETSF2,
]);

const ADVICE: Values = Values::One(names![
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_WILLNEED,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_REMOVE,
    MADV_DONTFORK,
    MADV_DOFORK,
    MADV_HWPOISON,
    MADV_MERGEABLE,
    MADV_UNMERGEABLE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_DONTDUMP,
    MADV_DODUMP,
]);

const RESOURCE: Values = Values::One(names![
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_DATA,
    RLIMIT_STACK,
    RLIMIT_CORE,
    RLIMIT_RSS,
    RLIMIT_NPROC,
    RLIMIT_NOFILE,
    RLIMIT_MEMLOCK,
    RLIMIT_AS,
    RLIMIT_LOCKS,
    RLIMIT_SIGPENDING,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_RTPRIO,
    RLIMIT_RTTIME,
]);

const PRCTL: Values = Values::One(names![
    PR_SET_PDEATHSIG,
    PR_GET_PDEATHSIG,
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    PR_GET_KEEPCAPS,
    PR_SET_KEEPCAPS,
    PR_SET_NAME,
    PR_GET_NAME,
    PR_GET_SECCOMP,
    PR_SET_SECCOMP,
    PR_CAPBSET_READ,
    PR_CAPBSET_DROP,
    PR_GET_TSC,
    PR_SET_TSC,
    PR_GET_SECUREBITS,
    PR_SET_SECUREBITS,
    PR_SET_TIMERSLACK,
    PR_GET_TIMERSLACK,
    PR_SET_CHILD_SUBREAPER,
    PR_GET_CHILD_SUBREAPER,
    PR_SET_NO_NEW_PRIVS,
    PR_GET_NO_NEW_PRIVS,
    PR_SET_THP_DISABLE,
    PR_GET_THP_DISABLE,
    PR_CAP_AMBIENT,
    PR_SET_VMA,
]);

const FAMILY: Values = Values::One(names![
    AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK, AF_ALG,
]);

const SOCKET_TYPE: Values = Values::Flags {
    mask: 0xf,
    field: names![SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET],
    flags: names![SOCK_CLOEXEC, SOCK_NONBLOCK],
    none: "0",
};

const CLONE: Values = Values::Flags {
    mask: 0xff,
    field: SIGNALS,
    flags: names![
        CLONE_VM,
        CLONE_FS,
        CLONE_FILES,
        CLONE_SIGHAND,
        CLONE_PIDFD,
        CLONE_PTRACE,
        CLONE_VFORK,
        CLONE_PARENT,
        CLONE_THREAD,
        CLONE_NEWNS,
        CLONE_SYSVSEM,
        CLONE_SETTLS,
        CLONE_PARENT_SETTID,
        CLONE_CHILD_CLEARTID,
        CLONE_UNTRACED,
        CLONE_CHILD_SETTID,
        CLONE_NEWCGROUP,
        CLONE_NEWUTS,
        CLONE_NEWIPC,
        CLONE_NEWUSER,
        CLONE_NEWPID,
        CLONE_NEWNET,
        CLONE_IO,
    ],
    none: "0",
};

const STATX_FLAGS: Values = Values::Flags {
    mask: 0x6000,
    field: names![AT_STATX_SYNC_AS_STAT, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC],
    flags: AT,
    none: "AT_STATX_SYNC_AS_STAT",
};

const STATX_MASK: Values = flags(names![
    STATX_ALL,
    STATX_BASIC_STATS,
    STATX_TYPE,
    STATX_MODE,
    STATX_NLINK,
    STATX_UID,
    STATX_GID,
    STATX_ATIME,
    STATX_MTIME,
    STATX_CTIME,
    STATX_INO,
    STATX_SIZE,
    STATX_BLOCKS,
    STATX_BTIME,
    STATX_MNT_ID,
]);

const FUTEX_CLOCK_REALTIME: u64 = 256;

const FUTEX: Values = Values::Flags {
    mask: 0xff,
    field: &[
        (0, "FUTEX_WAIT"),
        (1, "FUTEX_WAKE"),
        (3, "FUTEX_REQUEUE"),
        (4, "FUTEX_CMP_REQUEUE"),
        (5, "FUTEX_WAKE_OP"),
        (6, "FUTEX_LOCK_PI"),
        (7, "FUTEX_UNLOCK_PI"),
        (8, "FUTEX_TRYLOCK_PI"),
        (9, "FUTEX_WAIT_BITSET"),
        (10, "FUTEX_WAKE_BITSET"),
        (11, "FUTEX_WAIT_REQUEUE_PI"),
        (12, "FUTEX_CMP_REQUEUE_PI"),
        (13, "FUTEX_LOCK_PI2"),
        (128, "FUTEX_WAIT_PRIVATE"),
        (129, "FUTEX_WAKE_PRIVATE"),
        (131, "FUTEX_REQUEUE_PRIVATE"),
        (132, "FUTEX_CMP_REQUEUE_PRIVATE"),
        (133, "FUTEX_WAKE_OP_PRIVATE"),
        (134, "FUTEX_LOCK_PI_PRIVATE"),
        (135, "FUTEX_UNLOCK_PI_PRIVATE"),
        (136, "FUTEX_TRYLOCK_PI_PRIVATE"),
        (137, "FUTEX_WAIT_BITSET_PRIVATE"),
        (138, "FUTEX_WAKE_BITSET_PRIVATE"),
        (139, "FUTEX_WAIT_REQUEUE_PI_PRIVATE"),
        (140, "FUTEX_CMP_REQUEUE_PI_PRIVATE"),
        (141, "FUTEX_LOCK_PI2_PRIVATE"),
    ],
    flags: &[(FUTEX_CLOCK_REALTIME, "FUTEX_CLOCK_REALTIME")],
    none: "FUTEX_WAIT",
};

const ARCH_PRCTL: Values = Values::One(&[
    (0x1001, "ARCH_SET_GS"),
    (0x1002, "ARCH_SET_FS"),
    (0x1003, "ARCH_GET_FS"),
    (0x1004, "ARCH_GET_GS"),
    (0x1011, "ARCH_GET_CPUID"),
    (0x1012, "ARCH_SET_CPUID"),
    (0x5001, "ARCH_SHSTK_ENABLE"),
    (0x5002, "ARCH_SHSTK_DISABLE"),
]);

/// How the values of this argument of this call are named, if its kind does not say it all.
pub fn of(call: &str, argument: &str) -> Option<Values> {
    Some(match (call, argument) {
        ("lseek", "whence") => {
            Values::One(names![SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE])
        }
        ("mmap" | "mprotect" | "pkey_mprotect", "protection") => PROTECTION,
        ("mmap", "flags") => MAP,
        ("mremap", "flags") => flags(names![MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP]),
        ("msync", "flags") => flags(names![MS_ASYNC, MS_INVALIDATE, MS_SYNC]),
        ("madvise" | "process_madvise", "advice") => ADVICE,
        ("access" | "faccessat" | "faccessat2", "mode") => ACCESS,
        ("faccessat2", "flags") => {
            flags(names![AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH])
        }
        ("unlinkat", "flags") => flags(names![AT_REMOVEDIR]),
        (
            "newfstatat" | "fchownat" | "linkat" | "utimensat" | "execveat" | "fchmodat2"
            | "name_to_handle_at",
            "flags",
        ) => flags(AT),
        ("statx", "flags") => STATX_FLAGS,
        ("statx", "mask") => STATX_MASK,
        ("renameat2", "flags") => flags(names![RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT]),
        ("close_range", "flags") => {
            flags(&[(2, "CLOSE_RANGE_UNSHARE"), (4, "CLOSE_RANGE_CLOEXEC")])
        }
        ("fcntl", "command") => FCNTL,
        ("ioctl", "request") => IOCTL,
        ("flock", "operation") => flags(names![LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN]),
        ("getrandom", "flags") => flags(names![GRND_RANDOM, GRND_NONBLOCK, GRND_INSECURE]),
        ("memfd_create", "flags") => flags(names![MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB]),
        ("eventfd2", "flags") => flags(names![EFD_SEMAPHORE, EFD_CLOEXEC, EFD_NONBLOCK]),
        ("epoll_create1", "flags") => flags(names![EPOLL_CLOEXEC]),
        ("epoll_ctl", "operation") => {
            Values::One(names![EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD])
        }
        ("timerfd_create", "flags") => flags(names![TFD_CLOEXEC, TFD_NONBLOCK]),
        ("timerfd_settime", "flags") => flags(names![TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET]),
        ("signalfd4", "flags") => flags(names![SFD_CLOEXEC, SFD_NONBLOCK]),
        ("inotify_init1", "flags") => flags(names![IN_NONBLOCK, IN_CLOEXEC]),
        ("pidfd_open", "flags") => flags(&[(0o4000, "PIDFD_NONBLOCK")]),
        ("rt_sigprocmask", "how") => Values::One(names![SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK]),
        (_, "clock") => CLOCK,
        ("clock_nanosleep", "flags") => flags(names![TIMER_ABSTIME]),
        ("getrlimit" | "setrlimit" | "prlimit64", "resource") => RESOURCE,
        ("getrusage", "who") => Values::One(&[
            (0, "RUSAGE_SELF"),
            (0xffff_ffff, "RUSAGE_CHILDREN"),
            (1, "RUSAGE_THREAD"),
        ]),
        ("getitimer" | "setitimer", "which") => {
            Values::One(&[(0, "ITIMER_REAL"), (1, "ITIMER_VIRTUAL"), (2, "ITIMER_PROF")])
        }
        ("wait4", "options") => flags(names![WNOHANG, WUNTRACED, WCONTINUED]),
        ("waitid", "which") => {
            Values::One(&[(0, "P_ALL"), (1, "P_PID"), (2, "P_PGID"), (3, "P_PIDFD")])
        }
        ("waitid", "options") => flags(names![WNOHANG, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT]),
        ("clone", "flags") => CLONE,
        ("futex", "operation") => FUTEX,
        ("prctl", "option") => PRCTL,
        ("arch_prctl", "option") => ARCH_PRCTL,
        ("socket" | "socketpair", "domain") => FAMILY,
        ("socket" | "socketpair", "kind") => SOCKET_TYPE,
        ("accept4", "flags") => flags(names![SOCK_CLOEXEC, SOCK_NONBLOCK]),
        ("shutdown", "how") => Values::One(names![SHUT_RD, SHUT_WR, SHUT_RDWR]),
        ("sendto" | "recvfrom" | "sendmsg" | "recvmsg" | "sendmmsg" | "recvmmsg", "flags") => {
            flags(names![
                MSG_OOB,
                MSG_PEEK,
                MSG_DONTROUTE,
                MSG_CTRUNC,
                MSG_TRUNC,
                MSG_DONTWAIT,
                MSG_EOR,
                MSG_WAITALL,
                MSG_CONFIRM,
                MSG_ERRQUEUE,
                MSG_NOSIGNAL,
                MSG_MORE,
                MSG_CMSG_CLOEXEC,
            ])
        }
        _ => return None,
    })
}

impl Values {
    /// The name of a value, or those of its flags with `|` between them. What has no name is
    /// hexadecimal.
    pub fn name(&self, value: u64) -> String {
        let (parts, rest) = self.parts(value);
        match (parts.is_empty(), rest) {
            (false, 0) => parts.join("|"),
            (false, _) => format!("{}|{rest:#x}", parts.join("|")),
            (true, _) => match self.prefix() {
                "" => format!("{rest:#x}"),
                prefix => format!("{rest:#x} /* {prefix}??? */"),
            },
        }
    }

    /// The name of a value that has one by itself.
    pub fn exact(&self, value: u64) -> Option<&'static str> {
        match self.parts(value) {
            (parts, 0) if parts.len() == 1 => parts.first().copied(),
            _ => None,
        }
    }

    /// Splits a value into names and the bits that have none.
    fn parts(&self, value: u64) -> (Vec<&'static str>, u64) {
        let mut parts = Vec::new();
        let mut rest = value;
        match self {
            Self::One(names) => {
                if let Some(name) = names.iter().find(|name| name.0 == value) {
                    parts.push(name.1);
                    rest = 0;
                }
            }
            Self::Flags { none, .. } if value == 0 => parts.push(*none),
            Self::Flags { mask, field, flags, .. } => {
                if let Some(name) = field.iter().find(|name| name.0 == value & mask) {
                    parts.push(name.1);
                    rest &= !mask;
                }
                for &(flag, name) in *flags {
                    if rest & flag == flag && flag != 0 {
                        parts.push(name);
                        rest &= !flag;
                    }
                }
            }
        }
        (parts, rest)
    }

    /// What all names begin with, up to an underscore.
    fn prefix(&self) -> &'static str {
        let (names, others) = match self {
            Self::One(names) => (*names, [].as_slice()),
            Self::Flags { field, flags, .. } => (*flags, *field),
        };
        let Some(&(_, first)) = names.first() else { return "" };
        let mut prefix = first;
        while !names.iter().chain(others).all(|name| name.1.starts_with(prefix)) {
            prefix = prefix.get(..prefix.len() - 1).unwrap_or("");
        }
        prefix.rfind('_').and_then(|end| prefix.get(..=end)).unwrap_or("")
    }
}
