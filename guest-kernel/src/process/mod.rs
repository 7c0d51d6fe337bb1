//! Processes: the table, and what the running one owns.

mod credentials;
mod facts;
mod limits;

pub use credentials::Credentials;
pub use limits::{Limit, Limits, resource};

use crate::fs;
use crate::memory::space::AddressSpace;
use crate::signal::Signals;
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// A process id.
pub type Pid = i32;

/// PID 1 adopts orphans; the kernel itself plays it, and the first program is the next one.
pub const INIT: Pid = 1;
/// The first program's id.
pub const FIRST: Pid = 2;

/// What the program was started as.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// `/proc/PID/comm`: at most 15 bytes.
    pub name: Vec<u8>,
    /// `/proc/PID/exe`.
    pub path: Vec<u8>,
    /// The auxiliary vector, for `/proc/PID/auxv`: where it is (guest-virtual) and its length.
    pub auxiliary: (u64, u64),
}

/// One process. Threads share it.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Its process group and session.
    pub group: Pid,
    memory: Arc<AddressSpace>,
    files: SpinLock<fs::FileTable>,
    fs: SpinLock<fs::Context>,
    credentials: SpinLock<Credentials>,
    limits: SpinLock<Limits>,
    /// Dispositions, mask and pending signals.
    pub signals: SpinLock<Signals>,
    /// What it runs.
    pub program: SpinLock<Program>,
    /// Monotonic nanoseconds at its start.
    pub start_ns: u64,
    /// `set_tid_address`: cleared when the thread ends (guest-virtual).
    pub clear_child_tid: AtomicU64,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: AtomicBool,
    /// Page faults that were handled without a device, for `getrusage`.
    pub minor_faults: AtomicU64,
}

/// What a new process is made of.
pub struct New {
    /// Its address space.
    pub memory: Arc<AddressSpace>,
    /// Its descriptors.
    pub files: fs::FileTable,
    /// Its root and working directory.
    pub fs: fs::Context,
    /// What it runs.
    pub program: Program,
    /// Monotonic nanoseconds now.
    pub start_ns: u64,
}

impl Process {
    /// The first process of the machine.
    pub fn first(new: New) -> Self {
        Self {
            pid: FIRST,
            parent: INIT,
            group: FIRST,
            memory: new.memory,
            files: SpinLock::new(new.files),
            fs: SpinLock::new(new.fs),
            credentials: SpinLock::new(Credentials::root()),
            limits: SpinLock::new(Limits::default()),
            signals: SpinLock::new(Signals::new()),
            program: SpinLock::new(new.program),
            start_ns: new.start_ns,
            clear_child_tid: AtomicU64::new(0),
            no_new_privileges: AtomicBool::new(false),
            minor_faults: AtomicU64::new(0),
        }
    }

    /// Its address space.
    pub fn memory(&self) -> &AddressSpace {
        &self.memory
    }

    /// Its descriptors.
    pub fn files(&self) -> &SpinLock<fs::FileTable> {
        &self.files
    }

    /// Its root, working directory and umask.
    pub fn fs(&self) -> &SpinLock<fs::Context> {
        &self.fs
    }

    /// Who it is.
    pub fn credentials(&self) -> Credentials {
        self.credentials.lock().clone()
    }

    /// Changes who it is.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock() = credentials;
    }

    /// Its resource limits.
    pub fn limits(&self) -> &SpinLock<Limits> {
        &self.limits
    }
}

/// All processes by id.
static TABLE: SpinLock<BTreeMap<Pid, Arc<Process>>> = SpinLock::new(BTreeMap::new());

/// The process with this id.
pub fn find(pid: Pid) -> Option<Arc<Process>> {
    TABLE.lock().get(&pid).cloned()
}

/// All ids, in ascending order.
pub fn all() -> Vec<Pid> {
    TABLE.lock().keys().copied().collect()
}

/// The process that runs on this vCPU. Only one does in this kernel so far.
static CURRENT: AtomicPtr<Process> = AtomicPtr::new(core::ptr::null_mut());

/// Adds a process to the table and makes it the one that runs.
pub fn adopt(process: Process) {
    let process = Arc::new(process);
    CURRENT.store(Arc::as_ptr(&process).cast_mut(), Ordering::Release);
    TABLE.lock().insert(process.pid, process);
}

/// The running process, for as long as a system call or fault of its own is being handled.
#[derive(Clone, Copy)]
pub struct Current(core::marker::PhantomData<*const Process>);

impl Deref for Current {
    type Target = Process;
    #[inline]
    fn deref(&self) -> &Process {
        // SAFETY: the running process stays in the table, which holds a reference, until it ends; and
        // a process does not end in the middle of its own call.
        unsafe { &*CURRENT.load(Ordering::Relaxed) }
    }
}

/// The running process.
///
/// # Panics
/// Before there is one, in debug builds.
#[inline]
pub fn current() -> Current {
    debug_assert!(!CURRENT.load(Ordering::Relaxed).is_null(), "no process runs yet");
    Current(core::marker::PhantomData)
}

/// Whether there is a running process yet.
pub fn exists() -> bool {
    !CURRENT.load(Ordering::Relaxed).is_null()
}

/// Whether the running process has a signal to take, so that it must not go on sleeping.
pub fn signal_is_pending() -> bool {
    current().signals.lock().deliverable().is_some()
}

/// The running process ends, and with it, as it is the first, the machine.
#[cfg(target_os = "none")]
pub fn end(exit: airlock_abi::exit::Exit) -> ! {
    crate::syscall::record_end(exit);
    exit_machine(exit)
}

/// Ends the machine with the program's fate.
#[cfg(target_os = "none")]
pub fn exit_machine(exit: airlock_abi::exit::Exit) -> ! {
    // SAFETY: the exit device ends the machine.
    unsafe { crate::arch::cpu::write_port(airlock_abi::layout::EXIT_PORT, exit.to_word()) };
    crate::arch::cpu::halt_forever()
}
