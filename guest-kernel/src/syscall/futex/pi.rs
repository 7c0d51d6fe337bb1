//! Futexes with priority inheritance (futex(2), "Priority-inheritance futexes"): locks whose word holds the
//! owner's thread id, and which are handed from one thread to the next.
//!
//! One lock guards all that is known of owners, since a chain of owners that wait leads from futex to
//! futex. It is taken only where threads contend, and where they end.
//!
//! An owner inherits the class of the first of those who wait for it, and hands it on to who owns what it
//! waits for itself ([`pass_on`]).

use super::operations::{Key, Sleeper, TABLE, Waiting, Word};
use super::ownership::{CHAIN_LIMIT, Ownership};
use crate::errno::{Errno, Result};
use crate::memory::space::Access;
use crate::memory::usize_from;
use crate::process::{INIT, Pid, Thread, current, find_thread};
use crate::sched::ready::FAIR;
use crate::sched::{self, run};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use linux_raw_sys::general::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS,
};

static OWNERSHIP: SpinLock<Ownership<Key, Arc<Sleeper>>> = SpinLock::new(Ownership::new());

/// Somebody has waited for a lock.
static USED: AtomicBool = AtomicBool::new(false);

/// What comes of trying to get a lock without waiting.
enum Attempt {
    /// It is the thread's.
    Taken,
    /// It is another's; `None` if that has died, and who is next has not taken it yet.
    Held(Option<Pid>),
    /// The word has changed meanwhile.
    Changed,
}

/// A lock's word, as it was read, and the thread that it names.
struct Glance {
    value: u32,
    owner: Option<Arc<Thread>>,
}

impl Glance {
    /// Before the lock of owners is taken: that of the process table comes first.
    fn at(word: &Word) -> Result<Self> {
        let value = word.value()?;
        let owner = tid_in(value).and_then(find_thread);
        Ok(Self { value, owner })
    }
}

/// The thread id in a word; `None` for 0.
fn tid_in(value: u32) -> Option<Pid> {
    match (value & FUTEX_TID_MASK).cast_signed() {
        0 => None,
        tid => Some(tid),
    }
}

/// A thread's place among those that wait: real-time threads by priority, then all others.
fn class(thread: &Thread) -> u8 {
    thread.task.rank().class
}

/// Those who wait for a thread's locks have changed, or what they inherit has: lets it run as the first of them
/// would, and the owner of what it waits for, and so on. Each step looks at what is true now, so that it does not
/// matter who else does the same at the same time.
fn pass_on(owner: Option<Pid>) {
    let mut next = owner;
    for _ in 0..CHAIN_LIMIT {
        let Some(thread) = next.and_then(find_thread) else { return };
        next = pass_on_to(&thread);
    }
}

/// One step of [`pass_on`]; returns who is next.
fn pass_on_to(thread: &Thread) -> Option<Pid> {
    let tid = thread.tid();
    let (changed, next) = {
        let mut ownership = OWNERSHIP.lock();
        let changed = thread.task.inherit(ownership.inherited(tid, FAIR));
        (changed, ownership.change_class(tid, class(thread)))
    };
    if changed {
        run::reorder(thread);
    }
    next
}

/// A thread's policy or priority has changed: so has what others inherit from it.
pub fn priority_changed(thread: &Thread) {
    if USED.load(Ordering::SeqCst) {
        let next = OWNERSHIP.lock().change_class(thread.tid(), class(thread));
        pass_on(next);
    }
}

/// Whether threads wait for a word as for an ordinary futex.
fn has_plain_waiters(key: Key) -> bool {
    TABLE[key.bucket()].lock().iter().any(|one| one.key == key)
}

/// Whether threads wait for the lock at a key.
pub(super) fn is_contended(key: Key) -> bool {
    // Every wake-up asks, and most programs have no such lock.
    USED.load(Ordering::SeqCst) && OWNERSHIP.lock().is_contended(key)
}

/// Gives a thread the lock if it is free (Linux's `futex_lock_pi_atomic`).
fn attempt(
    ownership: &Ownership<Key, Arc<Sleeper>>,
    word: &Word,
    glance: &Glance,
    tid: Pid,
    mark: bool,
) -> Result<Attempt> {
    let value = glance.value;
    if word.value()? != value {
        return Ok(Attempt::Changed);
    }
    let named = tid_in(value);
    if named == Some(tid) {
        return Err(Errno::EDEADLK);
    }
    if let Some(owner) = ownership.owner(word.key) {
        // The word of a lock whose owner has died is written by the next one.
        let agrees =
            owner.is_none() || named == owner || (named.is_none() && value & FUTEX_OWNER_DIED != 0);
        return if agrees { Ok(Attempt::Held(owner)) } else { Err(Errno::EINVAL) };
    }
    let new = match named {
        None => {
            let waiters = if mark { FUTEX_WAITERS } else { 0 };
            value & FUTEX_OWNER_DIED | tid.cast_unsigned() | waiters
        }
        Some(_) => value | FUTEX_WAITERS,
    };
    if !word.replace(value, new)? {
        return Ok(Attempt::Changed);
    }
    match (named, &glance.owner) {
        (None, _) => Ok(Attempt::Taken),
        // A thread of the kernel, like all that Linux does not let own a lock.
        (Some(INIT), _) => Err(Errno::EPERM),
        (Some(_), Some(owner)) if !owner.gave_up_locks.load(Ordering::SeqCst) => {
            Ok(Attempt::Held(named))
        }
        (Some(_), _) => Err(Errno::ESRCH),
    }
}

/// Takes a lock, waiting for it unless `try_only`.
pub(super) fn lock(
    address: u64,
    private: bool,
    deadline: Option<u64>,
    try_only: bool,
) -> Result<()> {
    let word = Word::find(address, private, Access::Write)?;
    let me = current();
    USED.store(true, Ordering::SeqCst);
    let sleeper = loop {
        if has_plain_waiters(word.key) {
            return Err(Errno::EINVAL);
        }
        let glance = Glance::at(&word)?;
        let sleeper = Arc::new(Sleeper::new(me.to_arc(), word.key));
        let mut ownership = OWNERSHIP.lock();
        match attempt(&ownership, &word, &glance, me.tid(), false)? {
            Attempt::Taken => return Ok(()),
            Attempt::Changed => {}
            Attempt::Held(_) if try_only => return Err(Errno::EAGAIN),
            Attempt::Held(owner) => {
                ownership.block(word.key, owner, me.tid(), class(&me), sleeper.clone())?;
                drop(ownership);
                pass_on(owner);
                break sleeper;
            }
        }
    };
    loop {
        let result = sleep(&sleeper, deadline);
        if let Some(result) = settle(&word, &sleeper, result) {
            return result;
        }
    }
}

fn sleep(sleeper: &Sleeper, deadline: Option<u64>) -> Result<Option<()>> {
    sched::wait(&[], deadline, || sleeper.woken.load(Ordering::SeqCst).then_some(()))
}

/// After a sleep of one that waits for a lock: whether it has it now, or gives up; `None` to sleep on.
fn settle(word: &Word, sleeper: &Arc<Sleeper>, slept: Result<Option<()>>) -> Option<Result<()>> {
    let tid = current().tid();
    let mut ownership = OWNERSHIP.lock();
    if sleeper.granted.load(Ordering::SeqCst) {
        return Some(Ok(()));
    }
    let mut failure = match slept {
        Ok(Some(())) => None,
        Ok(None) => Some(Errno::ETIMEDOUT),
        Err(error) => Some(error),
    };
    let next = ownership.next(word.key).is_some_and(|(next, _)| next == tid);
    if next && ownership.owner(word.key) == Some(None) {
        // The owner died: who takes its place says so in the word.
        let new = tid.cast_unsigned() | FUTEX_WAITERS | FUTEX_OWNER_DIED;
        match word.update(|_| Some(new)) {
            Ok(_) => {
                ownership.inherit(word.key, tid);
                drop(ownership);
                pass_on(Some(tid));
                return Some(Ok(()));
            }
            Err(error) => failure = Some(error),
        }
    }
    let Some(error) = failure else {
        sleeper.woken.store(false, Ordering::SeqCst);
        return None;
    };
    let owner = ownership.owner(word.key).flatten();
    let heir = ownership.give_up(word.key, tid).cloned();
    drop(ownership);
    pass_on(owner);
    if let Some(heir) = heir {
        heir.wake();
    }
    Some(Err(error))
}

/// Gives a lock to the next, or frees it.
pub(super) fn unlock(address: u64, private: bool) -> Result<()> {
    let word = Word::find(address, private, Access::Write)?;
    let tid = current().tid();
    loop {
        let value = word.value()?;
        if tid_in(value) != Some(tid) {
            return Err(Errno::EPERM);
        }
        if has_plain_waiters(word.key) {
            return Err(Errno::EINVAL);
        }
        let mut ownership = OWNERSHIP.lock();
        let next = match ownership.owner(word.key) {
            Some(Some(owner)) if owner == tid => ownership.next(word.key).map(|(next, _)| next),
            Some(_) => return Err(Errno::EINVAL),
            None => None,
        };
        let new = next.map_or(0, |next| next.cast_unsigned() | FUTEX_WAITERS);
        if !word.replace(value, new)? {
            continue;
        }
        let next = next.and_then(|_| ownership.hand_over(word.key));
        if let Some(next) = &next {
            next.granted.store(true, Ordering::SeqCst);
        }
        drop(ownership);
        if let Some(next) = next {
            // Before it runs, so that it need not wait for the one whose priority came from it.
            pass_on(Some(next.thread.tid()));
            pass_on(Some(tid));
            next.wake();
        }
        return Ok(());
    }
}

/// The thread owns no lock any more: who waits for one of its locks finds that out.
pub(super) fn give_up_all(thread: &Thread, ends: bool) {
    let tid = thread.tid();
    let mut abandoned = false;
    loop {
        let mut ownership = OWNERSHIP.lock();
        if ends {
            thread.gave_up_locks.store(true, Ordering::SeqCst);
        }
        let Some(heir) = ownership.abandon(tid).cloned() else { break };
        drop(ownership);
        heir.wake();
        abandoned = true;
    }
    if abandoned {
        pass_on_to(thread);
    }
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits for a word until it is moved to the lock at another, and then for that.
pub(super) fn wait_requeue(
    address: u64,
    private: bool,
    value: u32,
    deadline: Option<u64>,
    address2: u64,
) -> Result<()> {
    if address == address2 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let lock = Word::find(address2, private, Access::Write)?;
    let word = Word::find(address, private, Access::Read)?;
    let sleeper = Arc::new(Sleeper::new(me.to_arc(), word.key));
    USED.store(true, Ordering::SeqCst);
    let bucket = &TABLE[word.key.bucket()];
    {
        let mut waiting = bucket.lock();
        if word.value()? != value {
            return Err(Errno::EAGAIN);
        }
        if word.key == lock.key {
            return Err(Errno::EINVAL);
        }
        waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        waiting.push(Waiting {
            key: word.key,
            bits: FUTEX_BITSET_MATCH_ANY,
            lock: Some(lock.key),
            sleeper: sleeper.clone(),
        });
    }
    let mut slept = sleep(&sleeper, deadline);
    let removed = {
        let mut waiting = bucket.lock();
        let place = waiting.iter().position(|one| Arc::ptr_eq(&one.sleeper, &sleeper));
        place.map(|place| waiting.remove(place))
    };
    if removed.is_some() {
        return match slept {
            Ok(Some(())) => Err(Errno::EAGAIN),
            Ok(None) => Err(Errno::ETIMEDOUT),
            Err(error) => Err(error),
        };
    }
    loop {
        if let Some(result) = settle(&lock, &sleeper, slept) {
            // Once moved, the wait cannot begin again: the first word has changed.
            return result.map_err(|error| match error {
                Errno::EINTR => Errno::EAGAIN,
                error => error,
            });
        }
        slept = sleep(&sleeper, deadline);
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: lets those who wait for a word wait for a lock; the first gets it if it is free.
pub(super) fn requeue(from: &Word, to: &Word, expected: u32, moves: u32) -> Result<usize> {
    if from.key == to.key {
        return Err(Errno::EINVAL);
    }
    loop {
        let plain = has_plain_waiters(to.key);
        let glance = Glance::at(to)?;
        let mut waiting = TABLE[from.key.bucket()].lock();
        if from.value()? != expected {
            return Err(Errno::EAGAIN);
        }
        let Some(at) = waiting.iter().position(|one| one.key == from.key) else { return Ok(0) };
        if plain || waiting[at].lock != Some(to.key) {
            return Err(Errno::EINVAL);
        }
        let mut ownership = OWNERSHIP.lock();
        let first = waiting[at].sleeper.thread.tid();
        let mut count = 0;
        let mut granted = None;
        let owner = match attempt(&ownership, to, &glance, first, moves > 0)? {
            Attempt::Changed => continue,
            Attempt::Held(owner) => owner,
            Attempt::Taken => {
                let taken = waiting.remove(at).sleeper;
                taken.granted.store(true, Ordering::SeqCst);
                granted = Some(taken);
                count = 1;
                Some(first)
            }
        };
        let result = move_waiters(&mut waiting, &mut ownership, (from.key, to.key), owner, {
            usize_from(moves.into()) + 1 - count
        });
        drop(ownership);
        drop(waiting);
        pass_on(owner);
        if let Some(granted) = granted {
            granted.wake();
        }
        return result.map(|moved| moved + count);
    }
}

/// Moves up to `limit` waiters from one word to the lock at another.
fn move_waiters(
    waiting: &mut Vec<Waiting>,
    ownership: &mut Ownership<Key, Arc<Sleeper>>,
    (from, to): (Key, Key),
    owner: Option<Pid>,
    limit: usize,
) -> Result<usize> {
    let mut moved = 0;
    while moved < limit {
        let Some(at) = waiting.iter().position(|one| one.key == from) else { break };
        if waiting[at].lock != Some(to) {
            return Err(Errno::EINVAL);
        }
        let sleeper = &waiting[at].sleeper;
        let thread = &sleeper.thread;
        ownership.block(to, owner, thread.tid(), class(thread), sleeper.clone())?;
        waiting.remove(at);
        moved += 1;
    }
    Ok(moved)
}
