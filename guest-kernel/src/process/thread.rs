//! Threads: what each has of its own. What they share is [`super::Process`].

use super::own::Own;
use super::{Credentials, Pid, Process, Rseq, Told};
use crate::fs;
use crate::memory::space::AddressSpace;
use crate::sched::run::Task;
use crate::signal::{Actions, ThreadSignals};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU64, Ordering};

/// A thread. Always in an [`Arc`].
pub struct Thread {
    /// Its id; that of a process's first thread is the process's. `execve` may change it.
    tid: AtomicI32,
    /// What it belongs to.
    pub process: Arc<Process>,
    /// What the scheduler knows of it.
    pub task: Task,
    /// Mask and signals of its own.
    pub signals: SpinLock<ThreadSignals>,
    /// `set_tid_address`: cleared when the thread ends (guest-virtual).
    pub clear_child_tid: AtomicU64,
    /// `set_robust_list` (guest-virtual).
    pub robust_list: AtomicU64,
    /// Its restartable sequences.
    pub rseq: Rseq,
    /// It has ended as far as futexes are concerned: locks that name it have no owner.
    pub gave_up_locks: AtomicBool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: AtomicBool,
    /// `ioprio_set`; 0 if nobody has.
    pub io_priority: AtomicU16,
    /// `PR_SET_TIMERSLACK`: nanoseconds by which sleeps may be late; timers here are exact anyway.
    pub timer_slack: AtomicU64,
    /// What [`Self::timer_slack`] goes back to: that of the thread that made it.
    default_timer_slack: u64,
    /// User and system time, as they were told.
    pub(super) times_told: Told,
    /// Page faults that were handled without a device, for `getrusage`.
    pub minor_faults: AtomicU64,
    /// When the sleep of an interrupted call would have ended, for the call that begins again in its
    /// place; 0 for none.
    pub resume_deadline: AtomicU64,
    /// `/proc/PID/comm`: up to 15 bytes.
    pub name: SpinLock<[u8; 16]>,
    /// How the system call that it makes changes all of its registers; see [`NewRegisters`].
    pub new_registers: SpinLock<Option<NewRegisters>>,
    /// Something is to be done before it returns to ring 3.
    work: AtomicBool,
    pub(super) files: Own<SpinLock<fs::FileTable>>,
    pub(super) fs: Own<SpinLock<fs::Context>>,
    credentials: SpinLock<Credentials>,
    #[cfg(target_os = "none")]
    /// Who waits for it to leave the address space that it was lent (`vfork`).
    pub(super) borrower: SpinLock<Option<Arc<super::lifecycle::Loan>>>,
}

/// Registers that a system call leaves behind, beside its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewRegisters {
    /// Those of the signal frame on the program's stack (`rt_sigreturn`).
    OfSignalFrame,
    /// Those of a new program (`execve`).
    OfProgram {
        /// First instruction (guest-virtual).
        rip: u64,
        /// Where the arguments are (guest-virtual).
        rsp: u64,
    },
}

/// What a new thread is made of.
pub struct NewThread {
    /// Its id.
    pub tid: Pid,
    /// What it belongs to.
    pub process: Arc<Process>,
    /// Scheduling parameters.
    pub task: Task,
    /// Its descriptors.
    pub files: Arc<SpinLock<fs::FileTable>>,
    /// Its root and working directory.
    pub fs: Arc<SpinLock<fs::Context>>,
    /// Who it is.
    pub credentials: Credentials,
    /// Its name.
    pub name: [u8; 16],
    /// Nanoseconds by which sleeps may be late.
    pub timer_slack: u64,
    /// `ioprio_set`; 0 if nobody has.
    pub io_priority: u16,
}

/// Linux's default for `PR_SET_TIMERSLACK`.
pub const TIMER_SLACK_NS: u64 = 50_000;

impl Thread {
    /// A thread that has not started.
    pub fn new(new: NewThread) -> Self {
        Self {
            tid: AtomicI32::new(new.tid),
            process: new.process,
            task: new.task,
            signals: SpinLock::new(ThreadSignals::new()),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            rseq: Rseq::new(),
            gave_up_locks: AtomicBool::new(false),
            no_new_privileges: AtomicBool::new(false),
            io_priority: AtomicU16::new(new.io_priority),
            timer_slack: AtomicU64::new(new.timer_slack),
            default_timer_slack: new.timer_slack,
            times_told: Told::default(),
            minor_faults: AtomicU64::new(0),
            resume_deadline: AtomicU64::new(0),
            name: SpinLock::new(new.name),
            new_registers: SpinLock::new(None),
            work: AtomicBool::new(false),
            files: Own::new(new.files),
            fs: Own::new(new.fs),
            credentials: SpinLock::new(new.credentials),
            #[cfg(target_os = "none")]
            borrower: SpinLock::new(None),
        }
    }

    /// Its id.
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    /// `execve` by another than the first thread: it takes over the process's id.
    pub fn take_process_id(&self) {
        self.tid.store(self.process.pid, Ordering::Relaxed);
    }

    /// A reference of one's own.
    pub fn to_arc(&self) -> Arc<Self> {
        // SAFETY: threads are only ever made inside an `Arc`, which whoever calls this keeps alive.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }

    /// Changes its timer slack; 0 is the default.
    pub fn set_timer_slack(&self, ns: u64) {
        let ns = if ns.cast_signed() <= 0 { self.default_timer_slack } else { ns };
        self.timer_slack.store(ns, Ordering::Relaxed);
    }

    /// Who it is.
    pub fn credentials(&self) -> Credentials {
        self.credentials.lock().clone()
    }

    /// Whether it may do this.
    pub fn can(&self, capability: crate::capability::Capability) -> bool {
        self.credentials.lock().can(capability)
    }

    /// Changes who it is.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock() = credentials;
    }

    /// Its descriptors; `None` once it has ended.
    pub fn shared_files(&self) -> Option<Arc<SpinLock<fs::FileTable>>> {
        self.files.share()
    }

    /// Its root and working directory; `None` once it has ended.
    pub fn shared_fs(&self) -> Option<Arc<SpinLock<fs::Context>>> {
        self.fs.share()
    }

    /// Whether something is to be done before it returns to ring 3.
    pub fn has_work(&self) -> bool {
        self.work.load(Ordering::SeqCst)
    }

    /// Begins with that; more may come meanwhile, from other vCPUs, too: what is looked at afterwards is no
    /// older than the flag.
    pub fn take_work(&self) {
        self.work.swap(false, Ordering::SeqCst);
    }

    /// Makes the thread look at its signals, wherever it is.
    pub fn notify(&self) {
        self.work.store(true, Ordering::SeqCst);
        #[cfg(target_os = "none")]
        crate::sched::cpus::notify(self);
        crate::sched::run::wake(self);
    }
}

impl Deref for Thread {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The running thread, for as long as a system call or fault of its own is being handled.
#[derive(Clone, Copy)]
pub struct Current(core::marker::PhantomData<*const Thread>);

#[cfg(not(target_os = "none"))]
static CURRENT: core::sync::atomic::AtomicPtr<Thread> =
    core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());

#[cfg(target_os = "none")]
fn pointer() -> *const Thread {
    crate::arch::Cpu::current().thread.load(Ordering::Relaxed)
}

#[cfg(not(target_os = "none"))]
fn pointer() -> *const Thread {
    CURRENT.load(Ordering::Relaxed)
}

/// Makes a thread the one that runs here: the first, before any other exists.
pub(super) fn make_current(thread: Arc<Thread>) {
    let pointer = Arc::into_raw(thread).cast_mut();
    #[cfg(target_os = "none")]
    crate::arch::Cpu::current().thread.store(pointer, Ordering::Release);
    #[cfg(not(target_os = "none"))]
    CURRENT.store(pointer, Ordering::Release);
}

impl Deref for Current {
    type Target = Thread;
    #[inline]
    fn deref(&self) -> &Thread {
        // SAFETY: the vCPU holds a reference to the thread that runs.
        unsafe { &*pointer() }
    }
}

impl Current {
    /// Its address space.
    #[inline]
    pub fn memory(&self) -> &AddressSpace {
        // SAFETY: the running thread is one of the owners, and the only thread when it replaces it.
        unsafe { self.process.memory.get() }
    }

    /// Its descriptors.
    #[inline]
    pub fn files(&self) -> &SpinLock<fs::FileTable> {
        // SAFETY: the running thread is the owner.
        unsafe { self.files.get() }
    }

    /// Its root, working directory and umask.
    #[inline]
    pub fn fs(&self) -> &SpinLock<fs::Context> {
        // SAFETY: the running thread is the owner.
        unsafe { self.fs.get() }
    }

    /// What its process does on signals.
    #[inline]
    pub fn actions(&self) -> &SpinLock<Actions> {
        // SAFETY: the running thread is one of the owners, and the only thread when it replaces it.
        unsafe { self.process.actions.get() }
    }

    /// Replaces its address space, which the vCPU uses from then on; returns the old one.
    #[cfg(target_os = "none")]
    pub fn replace_memory(&self, new: Arc<AddressSpace>) -> Option<Arc<AddressSpace>> {
        let root = new.root();
        self.process.root.store(root.0, Ordering::Relaxed);
        // SAFETY: `execve` calls this in the only thread, and uses nothing of the old space.
        let old = unsafe { self.process.memory.replace(Some(new)) };
        // SAFETY: the root maps the kernel, and the process keeps the space.
        unsafe { crate::arch::Cpu::current().set_root(root) };
        crate::arch::native::resume_if_used();
        old
    }

    /// Changes what its process does on signals, no longer together with others.
    pub fn unshare_actions(&self, change: impl FnOnce(&mut Actions)) {
        let mut copy = self.actions().lock().clone();
        change(&mut copy);
        // SAFETY: `execve` calls this in the only thread, without a reference to the old ones.
        drop(unsafe { self.process.actions.replace(Some(Arc::new(SpinLock::new(copy)))) });
    }

    /// Makes its descriptors its own, if they are shared with others.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn unshare_files(&self) -> crate::errno::Result<()> {
        let Some(shared) = self.shared_files() else { return Ok(()) };
        // One reference is the thread's, one is ours.
        if Arc::strong_count(&shared) <= 2 {
            return Ok(());
        }
        let copy = shared.lock().try_clone()?;
        // SAFETY: no reference of `files` is in use.
        drop(unsafe { self.files.replace(Some(Arc::new(SpinLock::new(copy)))) });
        Ok(())
    }

    /// Makes its root, working directory and umask its own, if they are shared with others.
    pub fn unshare_fs(&self) {
        let copy = self.fs().lock().clone();
        // SAFETY: no reference of `fs` is in use.
        drop(unsafe { self.fs.replace(Some(Arc::new(SpinLock::new(copy)))) });
    }

    /// The deadline of the call that this one continues after an interruption, or a new one.
    pub fn deadline(&self, new: u64) -> u64 {
        match self.resume_deadline.swap(0, Ordering::Relaxed) {
            0 => new,
            kept => kept,
        }
    }
}

/// The running thread.
///
/// # Panics
/// Before there is one, in debug builds.
#[inline]
pub fn current() -> Current {
    debug_assert!(exists(), "no thread runs yet");
    Current(core::marker::PhantomData)
}

/// Whether there is a running thread yet.
pub fn exists() -> bool {
    !pointer().is_null()
}
