//! Processes and threads: what they own, who their relatives are, how they begin and end.
//!
//! * `thread`: what each thread has of its own, and which one runs
//! * [`table`]: all of them by id, families, groups and sessions
//! * `lifecycle`: what is decided of a process's life
//! * `ending`: ends, and who hears of them
//! * `signals`: sending
//! * `terminal`: controlling terminals
//! * `cpu_time`: user and system time
//! * `facts`: what /proc shows
//! * `rseq`: what is known of restartable sequences

mod cpu_limit;
mod cpu_time;
mod credentials;
mod descriptor;
#[cfg(target_os = "none")]
mod ending;
mod facts;
mod lifecycle;
mod limits;
#[cfg(target_os = "none")]
mod out_of_memory;
mod own;
mod rseq;
mod signal_file;
mod signals;
pub mod table;
mod terminal;
mod thread;
pub mod timers;

pub use cpu_limit::watch as watch_cpu_limit;
pub use cpu_time::Told;
pub use credentials::{Credentials, securebits};
pub use descriptor::ProcessFile;
#[cfg(target_os = "none")]
pub use ending::*;
pub use facts::ThreadFacts;
pub use lifecycle::*;
pub use limits::{Limit, Limits, bounds, resource};
#[cfg(target_os = "none")]
pub use out_of_memory::{relieve, relieve_copy, relieve_reserve};
pub use own::Own;
pub use rseq::{Rseq, RseqArea};
pub use signal_file::SignalFile;
pub use signals::*;
pub use table::{all, find, find_thread};
pub use terminal::JOBS;
pub use thread::{Current, NewRegisters, NewThread, Thread, current, exists};

use crate::fs;
use crate::fs::tty::Tty;
use crate::memory::PhysAddr;
use crate::memory::space::AddressSpace;
use crate::sched::WaitQueue;
use crate::sched::run::Task;
use crate::signal::{Actions, Pending};
use crate::sync::SpinLock;
use crate::time::clock::CpuTime;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

/// A process or thread id.
pub type Pid = i32;

/// PID 1 adopts orphans; the kernel itself plays it, and the first program is the next one.
pub const INIT: Pid = 1;
/// The first program's id.
pub const FIRST: Pid = 2;

/// What the program was started as.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// `/proc/PID/exe`.
    pub path: Vec<u8>,
    /// Keeps others from writing to the file.
    pub executing: Option<Arc<fs::Executing>>,
}

/// One process: what its threads share.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id; changes with the table's lock held, as do group and session.
    parent: AtomicI32,
    group: AtomicI32,
    session: AtomicI32,
    /// Its controlling terminal.
    terminal: SpinLock<Option<Arc<Tty>>>,
    /// The group in the foreground of the terminal that it led the session of, when that was hung up.
    old_foreground: AtomicI32,
    memory: Own<AddressSpace>,
    /// Guest-physical address of the root of its page tables; 0 when it has none any more.
    root: AtomicU64,
    actions: Own<SpinLock<Actions>>,
    /// Signals for whichever thread takes them.
    pub pending: SpinLock<Pending>,
    limits: SpinLock<Limits>,
    cpu_timer: cpu_limit::CpuTimer,
    /// Timers that send it signals.
    pub timers: SpinLock<timers::Timers>,
    /// What it runs.
    pub program: SpinLock<Program>,
    /// Monotonic nanoseconds at its start.
    pub start_ns: u64,
    /// Where threads of it wait for children.
    pub child_events: WaitQueue,
    /// Where others wait for its end (`pidfd_open`).
    pub end_events: WaitQueue,
    /// Where threads of it wait for signals that they block.
    pub signal_events: WaitQueue,
    /// Its threads and its end.
    life: SpinLock<Life>,
    /// Fast copy of "ends, or stops": its threads must not sleep on.
    attention: AtomicBool,
    /// Its children, alive or to be waited for.
    children: SpinLock<BTreeMap<Pid, Arc<Process>>>,
    /// The signal that tells its parent of its end; 0 for none.
    exit_signal: AtomicU8,
    /// `PR_SET_PDEATHSIG`.
    pub parent_death_signal: AtomicU8,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicBool,
    /// Whether it has called `execve` since it was forked, for `setpgid`.
    pub has_executed: AtomicBool,
    times_told: Told,
    /// What its children that were waited for used.
    pub children_usage: SpinLock<Usage>,
}

/// Resources that a process used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time in ticks of the TSC.
    pub ticks: u64,
    /// What of that the kernel ran for it.
    pub system: u64,
    /// Page faults without a device.
    pub minor_faults: u64,
    /// Most pages that were mapped.
    pub resident_peak: u64,
    /// Switches: voluntary and not.
    pub switches: [u64; 2],
}

impl Usage {
    /// CPU time of a kind, in ticks of the TSC.
    pub const fn ticks_of(&self, time: CpuTime) -> u64 {
        match time {
            CpuTime::User => self.ticks.saturating_sub(self.system),
            CpuTime::UserAndSystem | CpuTime::Scheduled => self.ticks,
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.ticks += other.ticks;
        self.system += other.system;
        self.minor_faults += other.minor_faults;
        self.resident_peak = self.resident_peak.max(other.resident_peak);
        for (mine, theirs) in self.switches.iter_mut().zip(other.switches) {
            *mine += theirs;
        }
    }
}

/// What a new process is made of.
pub struct New {
    /// Its id.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its controlling terminal.
    pub terminal: Option<Arc<Tty>>,
    /// Its address space.
    pub memory: Arc<AddressSpace>,
    /// What it does on signals.
    pub actions: Arc<SpinLock<Actions>>,
    /// Its limits.
    pub limits: Limits,
    /// What it runs.
    pub program: Program,
    /// The signal that tells its parent of its end; 0 for none.
    pub exit_signal: u8,
    /// Monotonic nanoseconds now.
    pub start_ns: u64,
}

impl Process {
    /// A process without threads.
    pub fn new(new: New) -> Self {
        let root = new.memory.root().0;
        Self {
            pid: new.pid,
            parent: AtomicI32::new(new.parent),
            group: AtomicI32::new(new.group),
            session: AtomicI32::new(new.session),
            terminal: SpinLock::new(new.terminal),
            old_foreground: AtomicI32::new(0),
            memory: Own::new(new.memory),
            root: AtomicU64::new(root),
            actions: Own::new(new.actions),
            pending: SpinLock::new(Pending::new()),
            limits: SpinLock::new(new.limits),
            cpu_timer: cpu_limit::CpuTimer::new(),
            timers: SpinLock::new(timers::Timers::new()),
            program: SpinLock::new(new.program),
            start_ns: new.start_ns,
            child_events: WaitQueue::new(),
            end_events: WaitQueue::new(),
            signal_events: WaitQueue::new(),
            life: SpinLock::new(Life::new()),
            attention: AtomicBool::new(false),
            children: SpinLock::new(BTreeMap::new()),
            exit_signal: AtomicU8::new(new.exit_signal),
            parent_death_signal: AtomicU8::new(0),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicBool::new(true),
            has_executed: AtomicBool::new(false),
            times_told: Told::default(),
            children_usage: SpinLock::new(Usage::default()),
        }
    }

    /// Its parent's id.
    pub fn parent(&self) -> Pid {
        self.parent.load(Ordering::Relaxed)
    }

    /// Its process group.
    pub fn group(&self) -> Pid {
        self.group.load(Ordering::Relaxed)
    }

    /// Its session.
    pub fn session(&self) -> Pid {
        self.session.load(Ordering::Relaxed)
    }

    /// Its address space; `None` once it has ended.
    pub fn shared_memory(&self) -> Option<Arc<AddressSpace>> {
        self.memory.share()
    }

    /// What it does on signals; `None` once it has ended.
    pub fn shared_actions(&self) -> Option<Arc<SpinLock<Actions>>> {
        self.actions.share()
    }

    /// Guest-physical address of the root of its page tables; 0 when it has none any more.
    pub fn root(&self) -> PhysAddr {
        PhysAddr(self.root.load(Ordering::Relaxed))
    }

    /// Its resource limits.
    pub fn limits(&self) -> &SpinLock<Limits> {
        &self.limits
    }
}

/// What the first process is made of.
pub struct First {
    /// Its address space.
    pub memory: Arc<AddressSpace>,
    /// Its descriptors.
    pub files: fs::FileTable,
    /// Its root and working directory.
    pub fs: fs::Context,
    /// Its controlling terminal.
    pub terminal: Option<Arc<Tty>>,
    /// Who it is.
    pub credentials: Credentials,
    /// What it runs.
    pub program: Program,
    /// Its name: at most 15 bytes count.
    pub name: Vec<u8>,
    /// Monotonic nanoseconds now.
    pub start_ns: u64,
}

/// A name of at most 15 bytes.
pub fn short_name(name: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    for (target, byte) in short[..15].iter_mut().zip(name) {
        *target = *byte;
    }
    short
}

/// Makes the first process of the machine, with a thread that runs already.
pub fn start_first(first: First) {
    let process = Arc::new(Process::new(New {
        pid: FIRST,
        parent: INIT,
        group: FIRST,
        session: FIRST,
        terminal: first.terminal,
        memory: first.memory,
        actions: Arc::new(SpinLock::new(Actions::new())),
        limits: Limits::default(),
        program: first.program,
        exit_signal: crate::signal::number::SIGCHLD,
        start_ns: first.start_ns,
    }));
    let thread = Arc::new(Thread::new(NewThread {
        tid: FIRST,
        process: process.clone(),
        task: Task::new(None),
        files: Arc::new(SpinLock::new(first.files)),
        fs: Arc::new(SpinLock::new(first.fs)),
        credentials: first.credentials,
        name: short_name(&first.name),
        timer_slack: thread::TIMER_SLACK_NS,
        io_priority: 0,
    }));
    process.life.lock().threads.push(thread.clone());
    table::insert_first(process, thread.clone());
    #[cfg(target_os = "none")]
    crate::sched::run::adopt_first(&thread);
    thread::make_current(thread);
}

/// Top of the stack that the first thread has had since boot (guest-virtual).
#[cfg(target_os = "none")]
pub fn first_stack_top() -> u64 {
    unsafe extern "C" {
        static boot_stack_end: u8;
    }
    (&raw const boot_stack_end).expose_provenance() as u64
}
