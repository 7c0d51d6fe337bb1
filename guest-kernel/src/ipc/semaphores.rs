//! Semaphores (`semget(2)`, `semop(2)`).
//!
//! Whoever has to wait leaves its operations in the set's queue; whoever changes a value carries out
//! those that have become possible, in the order in which they came.

use super::{Get, Object, Permissions, READ, Table, WRITE, caller_pid, seconds};
use crate::errno::{Errno, Result};
use crate::memory::frame;
use crate::process::Credentials;
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Semaphores of a set, of all sets, operations of a call, and sets (`/proc/sys/kernel/sem`).
pub const LIMITS: [usize; 4] = [32_000, 1_024_000_000, 500, 32_000];
/// Highest value (`SEMVMX`).
pub const MAX_VALUE: i32 = 32_767;
/// Highest adjustment (`SEMAEM`).
pub const MAX_UNDO: i32 = MAX_VALUE;

/// An operation (`struct sembuf`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which semaphore.
    pub index: u16,
    /// What is added; to wait for 0, nothing.
    pub change: i16,
    /// Whether it does not wait.
    pub no_wait: bool,
    /// Whether it is undone when the process ends.
    pub undo: bool,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: i32,
}

/// Operations that wait.
struct Waiting {
    ticket: u64,
    pid: i32,
    operations: Vec<Operation>,
    /// The first that is not possible.
    blocking: usize,
    /// Set when they are done or have failed.
    result: Option<Result<()>>,
}

struct State {
    permissions: Permissions,
    semaphores: Vec<Semaphore>,
    /// What is added when a process ends, by process.
    undo: BTreeMap<i32, Vec<i32>>,
    waiting: VecDeque<Waiting>,
    next_ticket: u64,
    operated: i64,
    changed: i64,
    removed: bool,
}

/// A set.
pub struct Set {
    state: SpinLock<State>,
    queue: WaitQueue,
    count: usize,
}

/// What `IPC_STAT` tells.
pub struct Status {
    /// Owner and permissions.
    pub permissions: Permissions,
    /// Last operation and change, in seconds since 1970.
    pub times: [i64; 2],
    /// How many semaphores there are.
    pub count: usize,
}

/// What of one semaphore is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Its value.
    Value,
    /// Who changed it last.
    Process,
    /// How many wait for it to grow.
    WaitingForMore,
    /// How many wait for 0.
    WaitingForZero,
}

enum Attempt {
    Done,
    Blocked(usize),
    Failed(Errno),
}

static SETS: Table<Set> = Table::new(LIMITS[3]);
/// Semaphores of all sets.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Adjustments that processes have, for all sets.
static UNDOS: AtomicUsize = AtomicUsize::new(0);

impl Object for Set {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        COUNT.fetch_sub(self.count, Ordering::Relaxed);
        UNDOS.fetch_sub(self.state.get_mut().undo.len(), Ordering::Relaxed);
    }
}

impl State {
    /// Carries out all operations, or none of them.
    fn attempt(&mut self, operations: &[Operation], pid: i32) -> Attempt {
        let mut failed = None;
        let mut done = 0;
        for operation in operations {
            let Some(semaphore) = self.semaphores.get_mut(usize::from(operation.index)) else {
                failed = Some(Attempt::Failed(Errno::EFBIG));
                break;
            };
            let change = i32::from(operation.change);
            let value = semaphore.value + change;
            if value < 0 || (change == 0 && value != 0) {
                failed = Some(if operation.no_wait {
                    Attempt::Failed(Errno::EAGAIN)
                } else {
                    Attempt::Blocked(done)
                });
                break;
            }
            if value > MAX_VALUE {
                failed = Some(Attempt::Failed(Errno::ERANGE));
                break;
            }
            if operation.undo
                && let Some(undo) = self.undo.get_mut(&pid)
            {
                let undo = &mut undo[usize::from(operation.index)];
                if !(-MAX_UNDO - 1..=MAX_UNDO).contains(&(*undo - change)) {
                    failed = Some(Attempt::Failed(Errno::ERANGE));
                    break;
                }
                *undo -= change;
            }
            semaphore.value = value;
            done += 1;
        }
        let Some(failed) = failed else {
            for operation in operations {
                self.semaphores[usize::from(operation.index)].pid = pid;
            }
            return Attempt::Done;
        };
        for operation in &operations[..done] {
            let change = i32::from(operation.change);
            self.semaphores[usize::from(operation.index)].value -= change;
            if operation.undo
                && let Some(undo) = self.undo.get_mut(&pid)
            {
                undo[usize::from(operation.index)] += change;
            }
        }
        failed
    }

    /// Carries out what others wait for, as far as it has become possible; says whether anything was.
    fn update(&mut self, now: i64) -> bool {
        let mut any = false;
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].result.is_some() {
                at += 1;
                continue;
            }
            let operations = core::mem::take(&mut self.waiting[at].operations);
            let pid = self.waiting[at].pid;
            let attempt = self.attempt(&operations, pid);
            let waiting = &mut self.waiting[at];
            let changes = operations.iter().any(|operation| operation.change != 0);
            waiting.operations = operations;
            at += 1;
            match attempt {
                Attempt::Done => {
                    waiting.result = Some(Ok(()));
                    self.operated = now;
                    any = true;
                    if changes {
                        // Those before it may have become possible, too.
                        at = 0;
                    }
                }
                Attempt::Blocked(blocking) => waiting.blocking = blocking,
                Attempt::Failed(error) => {
                    waiting.result = Some(Err(error));
                    any = true;
                }
            }
        }
        any
    }

    /// The values were set, so that nothing of what processes did before is to be undone.
    fn forget_undo(&mut self, index: Option<usize>) {
        for undo in self.undo.values_mut() {
            match index {
                Some(index) => undo[index] = 0,
                None => undo.fill(0),
            }
        }
    }
}

impl Set {
    fn new(count: usize, permissions: Permissions) -> Result<Arc<Self>> {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        frame::check_room_for(count * size_of::<Semaphore>())?;
        let mut semaphores = Vec::new();
        semaphores.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        semaphores.resize(count, Semaphore::default());
        let add = |sum: usize| sum.checked_add(count).filter(|&sum| sum <= LIMITS[1]);
        COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENOSPC)?;
        let state = State {
            permissions,
            semaphores,
            undo: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_ticket: 0,
            operated: 0,
            changed: seconds(),
            removed: false,
        };
        Ok(Arc::new(Self { state: SpinLock::new(state), queue: WaitQueue::new(), count }))
    }

    /// What `IPC_STAT` tells.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            permissions: state.permissions,
            times: [state.operated, state.changed],
            count: self.count,
        }
    }

    /// Makes room for what a process has to undo.
    fn prepare_undo(&self, pid: i32) -> Result<()> {
        if self.state.lock().undo.contains_key(&pid) {
            return Ok(());
        }
        frame::check_room_for(self.count * size_of::<i32>())?;
        let mut undo = Vec::new();
        undo.try_reserve_exact(self.count).map_err(|_| Errno::ENOMEM)?;
        undo.resize(self.count, 0);
        let mut state = self.state.lock();
        if let alloc::collections::btree_map::Entry::Vacant(entry) = state.undo.entry(pid) {
            entry.insert(undo);
            UNDOS.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn operate(&self, operations: Vec<Operation>, deadline: Option<u64>) -> Result<()> {
        let (now, pid) = (seconds(), caller_pid());
        let ticket = {
            let mut state = self.state.lock();
            if state.removed {
                return Err(Errno::EIDRM);
            }
            match state.attempt(&operations, pid) {
                Attempt::Failed(error) => return Err(error),
                Attempt::Done => {
                    state.operated = now;
                    let wakes = state.update(now);
                    drop(state);
                    if wakes {
                        self.queue.wake_all();
                    }
                    return Ok(());
                }
                Attempt::Blocked(blocking) => {
                    let ticket = state.next_ticket;
                    state.next_ticket += 1;
                    state.waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    state.waiting.push_back(Waiting {
                        ticket,
                        pid,
                        operations,
                        blocking,
                        result: None,
                    });
                    ticket
                }
            }
        };
        let slept = sched::wait(&[&self.queue], deadline, || {
            let state = self.state.lock();
            let own = state.waiting.iter().find(|waiting| waiting.ticket == ticket);
            let is_over = state.removed || own.is_none_or(|own| own.result.is_some());
            is_over.then_some(())
        });
        let (own, removed) = {
            let mut state = self.state.lock();
            let at = state.waiting.iter().position(|waiting| waiting.ticket == ticket);
            (at.and_then(|at| state.waiting.remove(at)), state.removed)
        };
        // What was done in the last moment is done.
        match (own.and_then(|own| own.result), slept) {
            (Some(result), _) => result,
            (None, _) if removed => Err(Errno::EIDRM),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(Errno::EAGAIN),
        }
    }
}

/// `semget(2)`.
///
/// # Errors
/// As the man page says.
pub fn get(get: &Get, count: usize, who: &Credentials) -> Result<i32> {
    if count > LIMITS[0] {
        return Err(Errno::EINVAL);
    }
    SETS.get(
        get,
        who,
        |permissions| Set::new(count, permissions),
        |set| if set.count < count { Err(Errno::EINVAL) } else { Ok(()) },
    )
}

/// `semop(2)`, `semtimedop(2)`.
///
/// # Errors
/// As the man page says.
pub fn operate(
    id: i32,
    operations: Vec<Operation>,
    deadline: Option<u64>,
    who: &Credentials,
) -> Result<()> {
    let set = SETS.find(id)?;
    if operations.iter().any(|operation| usize::from(operation.index) >= set.count) {
        return Err(Errno::EFBIG);
    }
    let changes = operations.iter().any(|operation| operation.change != 0);
    set.permissions().check(if changes { WRITE } else { READ }, who)?;
    if operations.iter().any(|operation| operation.undo) {
        set.prepare_undo(caller_pid())?;
    }
    set.operate(operations, deadline)
}

/// The set with this id, if the caller may do that.
///
/// # Errors
/// EINVAL, EACCES.
pub fn find(id: i32, wanted: u32, who: &Credentials) -> Result<Arc<Set>> {
    let set = SETS.find(id)?;
    set.permissions().check(wanted, who)?;
    Ok(set)
}

/// The set in this slot and its id; if `any`, also one that the caller may not read.
///
/// # Errors
/// EINVAL, EACCES.
pub fn at(index: i32, any: bool, who: &Credentials) -> Result<(i32, Arc<Set>)> {
    let (id, set) = SETS.at(index)?;
    if !any {
        set.permissions().check(READ, who)?;
    }
    Ok((id, set))
}

impl Set {
    /// `GETVAL` and its kin.
    ///
    /// # Errors
    /// EINVAL, EIDRM.
    pub fn query(&self, index: i32, query: Query) -> Result<i32> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        let state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let semaphore = state.semaphores.get(index).ok_or(Errno::EINVAL)?;
        let count = |for_zero: bool| {
            let waiting = state.waiting.iter().filter(|waiting| waiting.result.is_none());
            let blocking = waiting.filter_map(|waiting| waiting.operations.get(waiting.blocking));
            let count = blocking.filter(|operation| {
                usize::from(operation.index) == index && (operation.change == 0) == for_zero
            });
            i32::try_from(count.count()).unwrap_or(i32::MAX)
        };
        Ok(match query {
            Query::Value => semaphore.value,
            Query::Process => semaphore.pid,
            Query::WaitingForMore => count(false),
            Query::WaitingForZero => count(true),
        })
    }

    /// `GETALL`.
    ///
    /// # Errors
    /// EIDRM, ENOMEM.
    pub fn values(&self) -> Result<Vec<u16>> {
        let mut values = Vec::new();
        values.try_reserve_exact(self.count).map_err(|_| Errno::ENOMEM)?;
        let state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let value = |semaphore: &Semaphore| u16::try_from(semaphore.value).unwrap_or(u16::MAX);
        values.extend(state.semaphores.iter().map(value));
        Ok(values)
    }

    /// How many semaphores there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// `SETVAL`.
    ///
    /// # Errors
    /// EINVAL, EIDRM.
    pub fn set_value(&self, index: i32, value: i32) -> Result<()> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        let (now, pid) = (seconds(), caller_pid());
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        *state.semaphores.get_mut(index).ok_or(Errno::EINVAL)? = Semaphore { value, pid };
        state.forget_undo(Some(index));
        state.changed = now;
        let wakes = state.update(now);
        drop(state);
        if wakes {
            self.queue.wake_all();
        }
        Ok(())
    }

    /// `SETALL`: as many values as there are semaphores.
    ///
    /// # Errors
    /// EIDRM.
    pub fn set_values(&self, values: &[u16]) -> Result<()> {
        let (now, pid) = (seconds(), caller_pid());
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        for (semaphore, &value) in state.semaphores.iter_mut().zip(values) {
            *semaphore = Semaphore { value: value.into(), pid };
        }
        state.forget_undo(None);
        state.changed = now;
        let wakes = state.update(now);
        drop(state);
        if wakes {
            self.queue.wake_all();
        }
        Ok(())
    }
}

/// `IPC_RMID`.
///
/// # Errors
/// EINVAL, EPERM.
pub fn remove(id: i32, who: &Credentials) -> Result<()> {
    let set = SETS.find(id)?;
    set.permissions().check_owner(who)?;
    set.state.lock().removed = true;
    drop(SETS.remove(id));
    set.queue.wake_all();
    Ok(())
}

/// `IPC_SET`.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set(id: i32, user: u32, group: u32, mode: u32, who: &Credentials) -> Result<()> {
    let set = SETS.find(id)?;
    set.permissions().check_owner(who)?;
    let now = seconds();
    let mut state = set.state.lock();
    state.permissions.set(user, group, mode)?;
    state.changed = now;
    Ok(())
}

/// Sets, the highest slot in use, and semaphores of all sets.
pub fn usage() -> (usize, i32, usize) {
    let (used, highest) = SETS.usage();
    (used, highest, COUNT.load(Ordering::Relaxed))
}

/// All sets with their ids.
///
/// # Errors
/// ENOMEM.
pub fn all() -> Result<Vec<(i32, Arc<Set>)>> {
    SETS.all()
}

/// A process has ended: what it asked for is undone.
pub fn process_ended(pid: i32) {
    if UNDOS.load(Ordering::Relaxed) == 0 {
        return;
    }
    let now = seconds();
    let mut slot = 0;
    // One after the other, as a list of all could be more than there is memory for.
    while let Some((next, set)) = SETS.next(slot) {
        slot = next + 1;
        let mut state = set.state.lock();
        let Some(undo) = state.undo.remove(&pid) else { continue };
        UNDOS.fetch_sub(1, Ordering::Relaxed);
        for (semaphore, change) in state.semaphores.iter_mut().zip(&undo) {
            if *change != 0 {
                // Linux, too, stops at the limits.
                semaphore.value = (semaphore.value + change).clamp(0, MAX_VALUE);
                semaphore.pid = pid;
            }
        }
        state.operated = now;
        let wakes = state.update(now);
        drop(state);
        if wakes {
            set.queue.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(count: usize) -> Arc<Set> {
        crate::memory::frame::host::init();
        let permissions =
            Permissions { key: 0, user: 0, group: 0, creator: 0, creator_group: 0, mode: 0o600 };
        Set::new(count, permissions).expect("memory")
    }

    fn operation(index: u16, change: i16) -> Operation {
        Operation { index, change, no_wait: true, undo: false }
    }

    #[test]
    fn all_operations_are_done_or_none() {
        let set = set(2);
        assert_eq!(set.operate(std::vec![operation(0, 3), operation(1, 1)], None), Ok(()));
        let too_much = std::vec![operation(0, -2), operation(1, -2)];
        assert_eq!(set.operate(too_much, None), Err(Errno::EAGAIN));
        assert_eq!(set.values(), Ok(std::vec![3, 1]));
        assert_eq!(set.operate(std::vec![operation(0, 32_765)], None), Err(Errno::ERANGE));
        let and_zero = std::vec![operation(0, -3), operation(0, 0), operation(1, 1)];
        assert_eq!(set.operate(and_zero, None), Ok(()));
        assert_eq!(set.values(), Ok(std::vec![0, 2]));
    }

    #[test]
    fn an_undo_is_the_sum_of_what_was_done() {
        let set = set(1);
        set.prepare_undo(caller_pid()).expect("memory");
        let undone = |change| Operation { undo: true, ..operation(0, change) };
        assert_eq!(set.operate(std::vec![undone(5), undone(-2)], None), Ok(()));
        assert_eq!(set.state.lock().undo[&caller_pid()], [-3]);
        assert_eq!(set.operate(std::vec![undone(1), undone(-9)], None), Err(Errno::EAGAIN));
        assert_eq!(set.state.lock().undo[&caller_pid()], [-3]);
        set.set_value(0, 7).expect("a semaphore");
        assert_eq!(set.state.lock().undo[&caller_pid()], [0]);
    }

    #[test]
    fn who_waits_is_served_in_order() {
        let set = set(1);
        let mut state = set.state.lock();
        for (ticket, change) in [(0, -2), (1, -1), (2, 0)] {
            let operations = std::vec![Operation { no_wait: false, ..operation(0, change) }];
            let waiting = Waiting { ticket, pid: 1, operations, blocking: 0, result: None };
            state.waiting.push_back(waiting);
        }
        state.semaphores[0].value = 1;
        assert!(state.update(0));
        let done: Vec<_> = state.waiting.iter().map(|waiting| waiting.result.is_some()).collect();
        assert_eq!(done, [false, true, true]);
        state.semaphores[0].value = 2;
        assert!(state.update(0));
        assert_eq!(state.semaphores[0].value, 0);
        drop(state);
        assert_eq!(set.query(0, Query::WaitingForMore), Ok(0));
    }
}
