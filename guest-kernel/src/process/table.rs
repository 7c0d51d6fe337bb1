//! All processes and threads by id.

use super::{INIT, Pid, Process, Thread};
use crate::errno::{Errno, Result};
use crate::sync::{SpinLock, SpinLockGuard};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Linux's default `/proc/sys/kernel/pid_max`: ids are below.
pub const PID_MAX: Pid = 32768;
/// Ids that are not given out again after the first round (Linux's `RESERVED_PIDS`).
const RESERVED: Pid = 300;

/// What an id stands for: a thread, and a process if it is or was that of its first thread.
#[derive(Default)]
struct Slot {
    process: Option<Arc<Process>>,
    thread: Option<Arc<Thread>>,
}

/// The table, while locked. Family relations change only then.
pub struct Table {
    slots: BTreeMap<Pid, Slot>,
    next: Pid,
    /// Whether all ids have been given out once, so that one may still be some group's.
    wrapped: bool,
    processes: usize,
    threads: usize,
    last: Pid,
}

static TABLE: SpinLock<Table> = SpinLock::new(Table {
    slots: BTreeMap::new(),
    next: super::FIRST + 1,
    wrapped: false,
    processes: 0,
    threads: 0,
    last: super::FIRST,
});

/// Locks the table.
pub fn lock() -> SpinLockGuard<'static, Table> {
    TABLE.lock()
}

/// The process with this id.
pub fn find(pid: Pid) -> Option<Arc<Process>> {
    TABLE.lock().slots.get(&pid)?.process.clone()
}

/// The thread with this id.
pub fn find_thread(tid: Pid) -> Option<Arc<Thread>> {
    TABLE.lock().slots.get(&tid)?.thread.clone()
}

/// The process with the lowest id from this one on.
pub fn next(from: Pid) -> Option<Arc<Process>> {
    TABLE.lock().slots.range(from..).find_map(|(_, slot)| slot.process.clone())
}

/// The ids of all processes, in ascending order.
pub fn all() -> Vec<Pid> {
    let table = TABLE.lock();
    table.slots.iter().filter(|(_, slot)| slot.process.is_some()).map(|(&pid, _)| pid).collect()
}

/// Processes and threads that exist, and the id given out last.
pub fn counts() -> (usize, usize, Pid) {
    let table = TABLE.lock();
    (table.processes, table.threads, table.last)
}

/// Adds the first process.
pub(super) fn insert_first(process: Arc<Process>, thread: Arc<Thread>) {
    let mut table = TABLE.lock();
    // Tests on the host start many first processes.
    table.slots.clear();
    (table.processes, table.threads) = (1, 1);
    let pid = process.pid;
    table.slots.insert(pid, Slot { process: Some(process), thread: Some(thread) });
}

/// Takes an id that nobody has.
///
/// # Errors
/// EAGAIN if all are taken.
pub fn allocate() -> Result<Pid> {
    let mut table = TABLE.lock();
    for _ in 0..PID_MAX {
        let pid = table.next;
        table.next += 1;
        if table.next >= PID_MAX {
            table.next = RESERVED;
            table.wrapped = true;
        }
        if table.slots.contains_key(&pid) {
            continue;
        }
        let in_use = |process: &Arc<Process>| process.group() == pid || process.session() == pid;
        if table.wrapped
            && table.slots.values().filter_map(|slot| slot.process.as_ref()).any(in_use)
        {
            continue;
        }
        table.slots.insert(pid, Slot::default());
        table.last = pid;
        return Ok(pid);
    }
    Err(Errno::EAGAIN)
}

/// Gives back an id that was allocated and not used.
pub fn free(pid: Pid) {
    TABLE.lock().slots.remove(&pid);
}

impl Table {
    /// The process with this id.
    pub fn process(&self, pid: Pid) -> Option<&Arc<Process>> {
        self.slots.get(&pid)?.process.as_ref()
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.slots.values().filter_map(|slot| slot.process.as_ref())
    }

    /// Lets an id stand for a new thread, and its process if that is new.
    pub fn insert(&mut self, thread: &Arc<Thread>, process: Option<&Arc<Process>>) {
        self.threads += 1;
        self.processes += usize::from(process.is_some());
        let slot = Slot { process: process.cloned(), thread: Some(thread.clone()) };
        self.slots.insert(thread.tid(), slot);
    }

    /// A thread has ended; its id is free unless a process has it.
    pub fn remove_thread(&mut self, tid: Pid) -> Option<Arc<Thread>> {
        let slot = self.slots.get_mut(&tid)?;
        let thread = slot.thread.take()?;
        self.threads -= 1;
        if slot.process.is_none() {
            self.slots.remove(&tid);
        }
        Some(thread)
    }

    /// A process was waited for; `None` if another was quicker.
    pub fn remove_process(&mut self, process: &Arc<Process>) -> Option<Arc<Process>> {
        let slot = self.slots.get_mut(&process.pid)?;
        let process = slot.process.take_if(|own| Arc::ptr_eq(own, process))?;
        self.processes -= 1;
        if slot.thread.is_none() {
            self.slots.remove(&process.pid);
        }
        Some(process)
    }

    /// After `execve` by another than the first thread: it takes over the process's id.
    pub fn rename_thread(&mut self, old: Pid, renamed: &Arc<Thread>) -> Option<Arc<Thread>> {
        let before = self.slots.get_mut(&old).and_then(|slot| slot.thread.take());
        if self.slots.get(&old).is_some_and(|slot| slot.process.is_none()) {
            self.slots.remove(&old);
        }
        let slot = self.slots.entry(renamed.tid()).or_default();
        slot.thread = Some(renamed.clone());
        before
    }

    /// The members of a process group.
    pub fn group(&self, group: Pid) -> Vec<Arc<Process>> {
        self.processes().filter(|process| process.group() == group).cloned().collect()
    }

    /// The members of a session.
    pub fn session(&self, session: Pid) -> Vec<Arc<Process>> {
        self.processes().filter(|process| process.session() == session).cloned().collect()
    }

    /// Whether nobody in the session could continue the group's stopped members: no member has a
    /// parent in another group of the same session (setpgid(2)).
    pub fn is_orphaned(&self, group: Pid, without: Option<Pid>) -> bool {
        !self.processes().any(|member| {
            member.group() == group
                && Some(member.pid) != without
                && !member.is_zombie()
                && member.parent() != INIT
                && self.process(member.parent()).is_some_and(|parent| {
                    parent.group() != group && parent.session() == member.session()
                })
        })
    }
}
