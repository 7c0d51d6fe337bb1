//! What /proc tells of processes and the machine. The `process` module fills it in.

use super::context::Context;
use super::file_table::FileTable;
use crate::errno::Result;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A process, as /proc shows it.
pub trait ProcessFacts: Send + Sync {
    /// Numbers for stat, statm and status.
    fn status(&self) -> ProcessStatus;

    /// The program's path.
    fn executable(&self) -> Vec<u8>;

    /// The descriptors.
    fn files(&self) -> Arc<SpinLock<FileTable>>;

    /// Working directory and root.
    ///
    /// # Errors
    /// ENOENT if it has ended.
    fn context(&self) -> Result<Context>;

    /// The arguments, each followed by NUL, read from the process's memory.
    ///
    /// # Errors
    /// EFAULT if they are gone.
    fn arguments(&self) -> Result<Vec<u8>>;

    /// The environment at the start, each string followed by NUL.
    ///
    /// # Errors
    /// EFAULT if it is gone.
    fn environment(&self) -> Result<Vec<u8>>;

    /// The auxiliary vector as it was passed, read from the process's memory.
    ///
    /// # Errors
    /// EFAULT if it is gone.
    fn auxiliary_vector(&self) -> Result<Vec<u8>>;

    /// The areas of the address space, in ascending order.
    ///
    /// # Errors
    /// ENOMEM.
    fn areas(&self) -> Result<Vec<Area>>;

    /// Soft and hard limits, in the order of the `RLIMIT_` numbers; `u64::MAX` is "unlimited".
    fn limits(&self) -> [(u64, u64); 16];

    /// The ids of its threads, in ascending order.
    fn thread_ids(&self) -> Vec<u32>;
}

/// An area of an address space (`/proc/PID/maps`).
#[derive(Clone)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub execute: bool,
    /// Whether writes are seen by others.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Device and inode number of the file, or zeroes.
    pub file: (u64, u64),
    /// The file's path, `[heap]`, `[stack]`, `[vdso]` or nothing.
    pub name: Vec<u8>,
}

/// A process in numbers (`proc(5)`).
#[derive(Clone, Debug, Default)]
pub struct ProcessStatus {
    /// Name of the program, as `prctl(PR_SET_NAME)` may have changed it; NUL-padded.
    pub name: [u8; 16],
    /// `R`, `S`, `D`, `Z` or `T`.
    pub state: u8,
    /// Process ID.
    pub pid: u32,
    /// ID of the process that it is a thread of.
    pub thread_group: u32,
    /// ID of the parent.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Device number of its controlling terminal, or 0, and the process group in the foreground there,
    /// or -1.
    pub terminal: (u64, i32),
    /// Threads.
    pub threads: u32,
    /// Real, effective, saved and file system user ID.
    pub users: [u32; 4],
    /// Real, effective, saved and file system group ID.
    pub groups: [u32; 4],
    /// Supplementary groups.
    pub supplementary: Vec<u32>,
    /// Mapped memory in bytes.
    pub virtual_size: u64,
    /// Locked memory in bytes.
    pub locked: u64,
    /// Memory that is there, in pages.
    pub resident: u64,
    /// Of that, pages of files.
    pub resident_files: u64,
    /// Bytes of code.
    pub text_size: u64,
    /// Bytes of data and stack.
    pub data_size: u64,
    /// Where the code starts and ends.
    pub code: (u64, u64),
    /// Where the stack starts.
    pub stack: u64,
    /// Page faults.
    pub faults: u64,
    /// User and system time in clock ticks (hundredths of a second).
    pub times: (u64, u64),
    /// When it started, in clock ticks since the boot.
    pub start: u64,
    /// Nice value.
    pub nice: i32,
    /// `SCHED_*` number, and real-time priority.
    pub policy: (i32, u8),
    /// The CPU that it ran on last.
    pub cpu: u32,
    /// Capabilities: inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    /// Whether privileges cannot grow.
    pub no_new_privileges: bool,
    /// Signals that are pending for this thread alone.
    pub own_pending: u64,
    /// Signals: pending for the process, blocked, ignored and caught.
    pub signals: [u64; 4],
    /// Context switches: voluntary and not.
    pub switches: (u64, u64),
}

/// The machine, as /proc shows it.
#[derive(Clone, Debug, Default)]
pub struct MachineFacts {
    /// Nanoseconds since the boot.
    pub uptime_ns: u64,
    /// Nanoseconds that all CPUs were idle.
    pub idle_ns: u64,
    /// When the machine booted, in seconds since 1970.
    pub boot_time: i64,
    /// CPUs that run.
    pub cpus: u32,
    /// Their frequency in kHz.
    pub frequency_khz: u64,
    /// The CPU's vendor, family, model and stepping, from CPUID leaves 0 and 1.
    pub vendor: [u8; 12],
    /// Name of the CPU, from CPUID leaves 0x8000_0002 to 4; NUL-padded.
    pub model_name: Vec<u8>,
    /// EAX of CPUID leaf 1.
    pub signature: u32,
    /// Frames of RAM, free and in all.
    pub frames: (u64, u64),
    /// Processes that were made since the boot, and those that are runnable.
    pub processes: (u64, u32),
    /// Threads that exist.
    pub threads: u32,
    /// Highest process ID that was given.
    pub last_pid: u32,
    /// Context switches since the boot.
    pub switches: u64,
    /// Interrupts since the boot.
    pub interrupts: u64,
    /// What `uname(2)` says: system name, node name, release, version, machine.
    pub names: [&'static str; 5],
    /// The host name, if a program set one.
    pub host_name: Vec<u8>,
    /// The kernel command line.
    pub command_line: Vec<u8>,
}
