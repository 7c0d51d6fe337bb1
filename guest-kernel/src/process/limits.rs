//! Resource limits (getrlimit(2)).

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

/// `RLIMIT_*` numbers that the kernel itself looks at.
pub mod resource {
    /// `RLIMIT_STACK`.
    pub const STACK: usize = 3;
    /// `RLIMIT_NOFILE`.
    pub const NOFILE: usize = 7;
    /// `RLIMIT_NPROC`.
    pub const NPROC: usize = 6;
    /// `RLIMIT_SIGPENDING`.
    pub const SIGPENDING: usize = 11;
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
        limits[4] = Limit::new(0, INFINITY); // core
        limits[resource::NPROC] = Limit::new(1024, 1024); // nproc
        limits[resource::NOFILE] = Limit::new(1024, 4096);
        limits[8] = Limit::new(8 << 20, 8 << 20); // memlock
        limits[resource::SIGPENDING] = Limit::new(1024, 1024); // sigpending
        limits[12] = Limit::new(819_200, 819_200); // msgqueue
        limits[13] = Limit::new(0, 0); // nice
        limits[14] = Limit::new(0, 0); // rtprio
        Self(limits)
    }
}
