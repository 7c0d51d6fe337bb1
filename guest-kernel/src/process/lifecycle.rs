//! What is decided of a process's life: its threads, a stop, its end.

use super::{Credentials, Pid, Process, Thread, Usage, current, table};
use crate::sched::WaitQueue;
use crate::signal::{Information, action, number};
use airlock_abi::exit::Exit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A process's threads, and what is decided of its life.
pub struct Life {
    /// Threads that have not ended.
    pub threads: Vec<Arc<Thread>>,
    /// How the process ends, once that is decided.
    pub(super) exit: Option<Exit>,
    /// The thread that calls `execve`: all others end.
    pub(super) survivor: Option<Pid>,
    /// The signal that stopped it.
    stopped: Option<u8>,
    /// A stop, or that it went on, that its parent has not been told of by `wait`.
    unreported: Option<Change>,
    /// Whether all threads have ended.
    pub(super) zombie: bool,
    pub(super) usage: Usage,
    /// What threads used that have ended.
    pub(super) ended: Usage,
    /// How often they were found in user mode, and in the kernel.
    pub(super) ended_samples: [u64; 2],
    /// The name and the owner of the last thread, once that has ended.
    pub(super) last: ([u8; 16], Credentials),
}

/// What `wait` tells of a child that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This signal stopped it.
    Stopped(u8),
    /// It went on.
    Continued,
}

impl Life {
    /// A process without threads yet.
    pub(super) fn new() -> Self {
        Self {
            threads: Vec::new(),
            exit: None,
            survivor: None,
            stopped: None,
            unreported: None,
            zombie: false,
            usage: Usage::default(),
            ended: Usage::default(),
            ended_samples: [0; 2],
            last: ([0; 16], Credentials::default()),
        }
    }
}

/// Stops so far: as long as there was none, nobody has to be told that it will never go on.
pub(super) static STOPS: AtomicU64 = AtomicU64::new(0);

/// `vfork`: the parent waits until the child has done with its memory.
#[derive(Default)]
pub struct Loan {
    pub(super) over: AtomicBool,
    pub(super) queue: WaitQueue,
}

impl Loan {
    /// Whether the child is done.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Where the parent waits.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

/// `CLD_*` codes of SIGCHLD.
pub mod child {
    /// It ended by itself.
    pub const EXITED: i32 = 1;
    /// A signal killed it.
    pub const KILLED: i32 = 2;
    /// A signal stopped it.
    pub const STOPPED: i32 = 5;
    /// It went on.
    pub const CONTINUED: i32 = 6;
}

impl Process {
    /// Its threads.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.life.lock().threads.clone()
    }

    /// Its oldest thread that has not ended.
    pub fn main_thread(&self) -> Option<Arc<Thread>> {
        self.life.lock().threads.first().cloned()
    }

    /// The name of its thread, or of the last one that it had.
    pub fn last_name(&self, thread: Option<&Thread>) -> [u8; 16] {
        match thread {
            Some(thread) => *thread.name.lock(),
            None => self.life.lock().last.0,
        }
    }

    /// Who its thread is, or the last one that it had was.
    pub fn last_credentials(&self, thread: Option<&Thread>) -> Credentials {
        match thread {
            Some(thread) => thread.credentials(),
            None => self.life.lock().last.1.clone(),
        }
    }

    /// Whether its end is decided.
    pub fn is_ending(&self) -> bool {
        self.life.lock().exit.is_some()
    }

    /// Whether all its threads have ended.
    pub fn is_zombie(&self) -> bool {
        self.life.lock().zombie
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<(Exit, Usage)> {
        let life = self.life.lock();
        if life.zombie { Some((life.exit?, life.usage)) } else { None }
    }

    /// The signal that it is stopped by.
    pub fn stopped(&self) -> Option<u8> {
        self.life.lock().stopped
    }

    /// What its parent was not told of yet; `take` says that it now is.
    pub fn change(&self, wanted: impl Fn(Change) -> bool, take: bool) -> Option<Change> {
        let mut life = self.life.lock();
        let change = life.unreported.filter(|&change| wanted(change))?;
        if take {
            life.unreported = None;
        }
        Some(change)
    }

    /// Adds a thread that is about to start; false if the process is ending.
    pub fn add_thread(&self, thread: Arc<Thread>) -> bool {
        let mut life = self.life.lock();
        if life.exit.is_some() || life.survivor.is_some() || life.threads.try_reserve(1).is_err() {
            return false;
        }
        life.threads.push(thread);
        true
    }

    /// Decides how the process ends, unless that is decided; all its threads will notice.
    pub fn doom(&self, exit: Exit) {
        let mut life = self.life.lock();
        life.exit.get_or_insert(exit);
        life.stopped = None;
        self.attention.store(true, Ordering::SeqCst);
        let threads = life.threads.clone();
        drop(life);
        for thread in threads {
            thread.notify();
        }
    }

    /// Stops its threads on their way to ring 3.
    pub fn stop(&self, signal: u8) {
        let mut life = self.life.lock();
        if life.exit.is_some() || life.stopped.is_some() {
            return;
        }
        life.stopped = Some(signal);
        STOPS.fetch_add(1, Ordering::Relaxed);
        life.unreported = Some(Change::Stopped(signal));
        self.attention.store(true, Ordering::SeqCst);
        let threads = life.threads.clone();
        drop(life);
        for thread in threads {
            thread.notify();
        }
        self.tell_parent(child::STOPPED, signal.into());
    }

    /// Lets it go on if it is stopped.
    pub fn resume(&self) {
        let mut life = self.life.lock();
        if life.stopped.take().is_none() {
            return;
        }
        life.unreported = Some(Change::Continued);
        self.set_attention(&life);
        let threads = life.threads.clone();
        drop(life);
        for thread in threads {
            thread.notify();
        }
        self.tell_parent(child::CONTINUED, number::SIGCONT.into());
    }

    pub(super) fn set_attention(&self, life: &Life) {
        let needed = life.exit.is_some() || life.survivor.is_some() || life.stopped.is_some();
        self.attention.store(needed, Ordering::SeqCst);
    }

    /// Whether its threads shall look at what is decided of it.
    pub fn has_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// SIGCHLD for a stop or the end of one.
    fn tell_parent(&self, code: i32, status: i32) {
        let Some(parent) = table::find(self.parent()) else { return };
        let quiet = parent.shared_actions().is_none_or(|actions| {
            actions.lock().action(number::SIGCHLD).flags & action::NOCLDSTOP != 0
        });
        if !quiet {
            let information = self.child_information(number::SIGCHLD, code, status);
            // SIGCHLD needs no room: the number is enough.
            let _ = super::send_to_process(&parent, information);
        }
        parent.child_events.wake_all();
    }

    /// What SIGCHLD or `waitid` tells of it.
    pub fn child_information(&self, signal: u8, code: i32, status: i32) -> Information {
        let usage = self.life.lock().usage;
        let ticks = |ticks: u64| crate::time::tsc_ns(ticks) / (crate::time::NANOSECONDS / 100);
        let (user, system) = (ticks(usage.ticks - usage.system), ticks(usage.system));
        let uid = self.last_credentials(self.main_thread().as_deref()).uid;
        let who = u64::from(self.pid.cast_unsigned()) | u64::from(uid) << 32;
        let status = u64::from(status.cast_unsigned());
        Information { signal, code, detail: [who, status, user, system] }
    }

    /// Adopts a child.
    pub fn add_child(&self, child: Arc<Self>) {
        self.children.lock().insert(child.pid, child);
    }

    /// Calls `visit` for its children, or for the one with this id, until it gives a value.
    pub fn find_child<T>(
        &self,
        pid: Option<Pid>,
        mut visit: impl FnMut(&Arc<Self>) -> Option<T>,
    ) -> Option<T> {
        let children = self.children.lock();
        match pid {
            Some(pid) => visit(children.get(&pid)?),
            None => children.values().find_map(visit),
        }
    }

    /// Removes a child that has ended; false if another was quicker.
    pub fn reap(&self, child: &Arc<Self>) -> bool {
        let mut table = table::lock();
        let mut children = self.children.lock();
        if !children.get(&child.pid).is_some_and(|one| Arc::ptr_eq(one, child)) {
            return false;
        }
        let forgotten = children.remove(&child.pid);
        let removed = table.remove_process(child);
        drop(children);
        drop(table);
        drop((forgotten, removed));
        true
    }

    /// The signal that its parent gets at its end.
    pub fn exit_signal(&self) -> u8 {
        self.exit_signal.load(Ordering::Relaxed)
    }

    /// After `execve`, its end is told by SIGCHLD, whatever `clone` said.
    pub fn set_exit_signal(&self, signal: u8) {
        self.exit_signal.store(signal, Ordering::Relaxed);
    }

    /// Changes process group, with the table's lock held.
    pub fn set_group(&self, group: Pid, _table: &table::Table) {
        self.group.store(group, Ordering::Relaxed);
    }

    /// Changes session, with the table's lock held.
    pub fn set_session(&self, session: Pid, _table: &table::Table) {
        self.session.store(session, Ordering::Relaxed);
    }
}

/// Whether the running thread must not sleep on: its process ends or stops, or it has a signal.
pub fn signal_is_pending() -> bool {
    let me = current();
    (me.has_attention() && (must_end().is_some() || me.stopped().is_some()))
        || (me.has_work() && super::deliverable(&me))
}

/// Whether the running thread is to end, and how its process does.
pub fn must_end() -> Option<Exit> {
    let me = current();
    if !me.has_attention() {
        return None;
    }
    let life = me.life.lock();
    life.exit.or_else(|| {
        life.survivor
            .filter(|&survivor| survivor != me.tid())
            .map(|_| Exit::Signaled(number::SIGKILL))
    })
}
