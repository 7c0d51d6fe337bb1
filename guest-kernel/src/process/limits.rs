//! Resource limits (getrlimit(2)).

use super::current;
use crate::capability::Capability;
use crate::memory::areas::Bounds;

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft limit may be raised.
    pub hard: u64,
}

/// `RLIM_INFINITY`.
pub const INFINITY: u64 = u64::MAX;

impl Limit {
    const fn new(soft: u64, hard: u64) -> Self {
        Self { soft, hard }
    }
}

/// `RLIMIT_*` numbers.
pub mod resource {
    /// `RLIMIT_CPU`, in seconds.
    pub const CPU: usize = 0;
    /// `RLIMIT_FSIZE`, in bytes.
    pub const FSIZE: usize = 1;
    /// `RLIMIT_DATA`, in bytes.
    pub const DATA: usize = 2;
    /// `RLIMIT_STACK`, in bytes.
    pub const STACK: usize = 3;
    /// `RLIMIT_CORE`, in bytes.
    pub const CORE: usize = 4;
    /// `RLIMIT_NPROC`.
    pub const NPROC: usize = 6;
    /// `RLIMIT_NOFILE`.
    pub const NOFILE: usize = 7;
    /// `RLIMIT_MEMLOCK`, in bytes.
    pub const MEMLOCK: usize = 8;
    /// `RLIMIT_AS`, in bytes.
    pub const AS: usize = 9;
    /// `RLIMIT_SIGPENDING`.
    pub const SIGPENDING: usize = 11;
    /// `RLIMIT_MSGQUEUE`, in bytes.
    pub const MSGQUEUE: usize = 12;
    /// `RLIMIT_NICE`: 20 minus the lowest nice value.
    pub const NICE: usize = 13;
    /// `RLIMIT_RTPRIO`.
    pub const RTPRIO: usize = 14;
    /// How many there are.
    pub const COUNT: usize = 16;
}

/// All limits of a process, by `RLIMIT_*` number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits(pub [Limit; resource::COUNT]);

impl Default for Limits {
    /// Those of a Linux process that nobody has limited.
    fn default() -> Self {
        let none = Limit::new(INFINITY, INFINITY);
        let mut limits = [none; resource::COUNT];
        limits[resource::STACK] = Limit::new(8 << 20, INFINITY);
        limits[resource::CORE] = Limit::new(0, INFINITY);
        limits[resource::NPROC] = Limit::new(1024, 1024);
        limits[resource::NOFILE] = Limit::new(1024, 4096);
        limits[resource::MEMLOCK] = Limit::new(8 << 20, 8 << 20);
        limits[resource::SIGPENDING] = Limit::new(1024, 1024);
        limits[resource::MSGQUEUE] = Limit::new(819_200, 819_200);
        limits[resource::NICE] = Limit::new(0, 0);
        limits[resource::RTPRIO] = Limit::new(0, 0);
        Self(limits)
    }
}

/// What the running process's limits leave it of memory.
pub fn bounds() -> Bounds {
    let me = current();
    let may_lock_all = me.can(Capability::IpcLock);
    let limits = me.limits().lock();
    let data = limits.0[resource::DATA];
    Bounds {
        total: limits.0[resource::AS].soft,
        // Linux: "workaround for Valgrind", which sets 0 and means only the heap.
        data: if data.soft == 0 { data.hard } else { data.soft },
        heap: data.soft,
        stack: limits.0[resource::STACK].soft,
        locked: if may_lock_all { INFINITY } else { limits.0[resource::MEMLOCK].soft },
    }
}
