//! The operations, and what a thread leaves behind.

use super::pi;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::space::Access;
use crate::memory::{Frame, USER_END, UserPtr, usize_from};
use crate::process::{Pid, Thread, current, find_thread};
use crate::sched::{self, run};
use crate::sync::SpinLock;
use crate::time::{self, NANOSECONDS};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use linux_raw_sys::general::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_CMP_REQUEUE_PI,
    FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_OWNER_DIED, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE,
    FUTEX_TID_MASK, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI, FUTEX_WAIT, FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI, FUTEX_WAITERS, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};

const BUCKETS: usize = 64;
/// Linux's `ROBUST_LIST_LIMIT`.
const ROBUST_LIMIT: usize = 2048;

/// Where a futex's word is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    /// Root of the page tables; 0 for memory that is shared.
    space: u64,
    /// Guest-virtual there, or guest-physical.
    address: u64,
}

impl Key {
    pub(super) fn bucket(self) -> usize {
        let mixed = (self.space ^ self.address.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize_from(mixed >> 58)
    }
}

/// A waiter that others can find.
pub(super) struct Sleeper {
    pub(super) thread: Arc<Thread>,
    /// Its wait may be over.
    pub(super) woken: AtomicBool,
    /// It was given the lock that it waits for.
    pub(super) granted: AtomicBool,
    /// Which bucket it is in; a requeue changes that.
    bucket: AtomicUsize,
}

impl Sleeper {
    pub(super) fn new(thread: Arc<Thread>, key: Key) -> Self {
        Self {
            thread,
            woken: AtomicBool::new(false),
            granted: AtomicBool::new(false),
            bucket: AtomicUsize::new(key.bucket()),
        }
    }

    /// Makes it look.
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        run::wake(&self.thread);
    }
}

pub(super) struct Waiting {
    pub(super) key: Key,
    pub(super) bits: u32,
    /// The lock that it waits for once it is moved there (`FUTEX_WAIT_REQUEUE_PI`).
    pub(super) lock: Option<Key>,
    pub(super) sleeper: Arc<Sleeper>,
}

pub(super) static TABLE: [SpinLock<Vec<Waiting>>; BUCKETS] =
    [const { SpinLock::new(Vec::new()) }; BUCKETS];

/// A word in memory, and what it is known by. If that is where it is in RAM, it stays there while this
/// exists.
pub(super) struct Word {
    pub(super) key: Key,
    address: u64,
    #[expect(dead_code, reason = "held")]
    frame: Option<Frame>,
}

impl Word {
    pub(super) fn find(address: u64, private: bool, access: Access) -> Result<Self> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let me = current();
        if private {
            // Known by its address alone: whether something is there, only those ask that read it.
            if address >= USER_END {
                return Err(Errno::EFAULT);
            }
            let key = Key { space: me.memory().root().0, address };
            return Ok(Self { key, address, frame: None });
        }
        let (physical, frame) = me.memory().pin(address, access)?;
        let shared = me.memory().is_shared(address);
        let key = if shared {
            Key { space: 0, address: physical.0 }
        } else {
            Key { space: me.memory().root().0, address }
        };
        Ok(Self { key, address, frame })
    }

    /// Its value now: not what was in a page that another has replaced since (`fork`).
    pub(super) fn value(&self) -> Result<u32> {
        let load = |word: &AtomicU32| word.load(Ordering::SeqCst);
        current().memory().with_word(self.address, Access::Read, load)
    }

    /// Changes it if `change` gives a new value; returns the old one, and whether it was changed.
    pub(super) fn update(&self, change: impl Fn(u32) -> Option<u32>) -> Result<(u32, bool)> {
        let update = |word: &AtomicU32| {
            let result = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &change);
            (result.unwrap_or_else(|old| old), result.is_ok())
        };
        current().memory().with_word(self.address, Access::Write, update)
    }

    /// Changes it from one value to another; whether it had the first.
    pub(super) fn replace(&self, old: u32, new: u32) -> Result<bool> {
        Ok(self.update(|value| (value == old).then_some(new))?.1)
    }
}

/// When a wait ends.
pub(super) fn deadline(
    operation: u32,
    timeout: UserPtr<[i64; 2]>,
    absolute: bool,
) -> Result<Option<u64>> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let [seconds, nanoseconds] = timeout.read()?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u64::try_from(nanoseconds)
        .ok()
        .filter(|&nanoseconds| nanoseconds < NANOSECONDS)
        .ok_or(Errno::EINVAL)?;
    let ns = seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds);
    if absolute {
        // Continued by the same time; what an interrupted call has left is not for another.
        current().resume_deadline.store(0, Ordering::Relaxed);
    }
    Ok(Some(if !absolute {
        current().deadline(time::monotonic_ns().saturating_add(ns))
    } else if operation & FUTEX_CLOCK_REALTIME != 0 {
        let offset = time::realtime_ns().saturating_sub(time::monotonic_ns());
        ns.saturating_sub(offset).max(1)
    } else {
        ns.max(1)
    }))
}

/// Waits while the word has the value.
fn wait(address: u64, private: bool, value: u32, bits: u32, deadline: Option<u64>) -> Result<()> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let word = Word::find(address, private, Access::Read)?;
    let bucket = word.key.bucket();
    let sleeper = Arc::new(Sleeper::new(me.to_arc(), word.key));
    {
        let mut waiting = TABLE[bucket].lock();
        // Whoever wakes takes the lock after changing the word.
        if word.value()? != value {
            return Err(Errno::EAGAIN);
        }
        waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        waiting.push(Waiting { key: word.key, bits, lock: None, sleeper: sleeper.clone() });
    }
    let result = sched::wait(&[], deadline, || sleeper.woken.load(Ordering::SeqCst).then_some(()));
    if matches!(result, Ok(Some(()))) {
        return Ok(());
    }
    if leave(&sleeper) {
        return Ok(());
    }
    match result {
        Ok(_) => Err(Errno::ETIMEDOUT),
        Err(error) => Err(error),
    }
}

/// Takes a waiter out of its queue; whether it was woken before that.
pub(super) fn leave(sleeper: &Arc<Sleeper>) -> bool {
    loop {
        let bucket = sleeper.bucket.load(Ordering::SeqCst);
        let mut waiting = TABLE[bucket].lock();
        if sleeper.woken.load(Ordering::SeqCst) {
            return true;
        }
        let place = waiting.iter().position(|one| Arc::ptr_eq(&one.sleeper, sleeper));
        if let Some(place) = place {
            let removed = waiting.remove(place);
            drop(waiting);
            drop(removed);
            return false;
        }
        // It was just moved to another bucket.
    }
}

/// Wakes up to `count` waiters of a key; returns how many.
///
/// # Errors
/// EINVAL if one of them waits for a lock with priority inheritance, or to be moved to one.
fn wake_key(key: Key, count: usize, bits: u32) -> Result<usize> {
    let mut woken = 0;
    loop {
        // All at once, before the first of them runs: one that waits for a word twice is woken twice.
        let mut first = None;
        let mut rest = Vec::new();
        let mut found_lock = false;
        let complete = {
            let mut waiting = TABLE[key.bucket()].lock();
            let mut at = 0;
            loop {
                let Some(one) = waiting.get(at).filter(|_| woken < count) else { break true };
                if one.key != key || one.bits & bits == 0 {
                    at += 1;
                    continue;
                }
                if one.lock.is_some() {
                    found_lock = true;
                    break true;
                }
                if first.is_some() && rest.try_reserve(1).is_err() {
                    break false;
                }
                let sleeper = waiting.remove(at).sleeper;
                sleeper.woken.store(true, Ordering::SeqCst);
                if first.is_none() {
                    first = Some(sleeper);
                } else {
                    rest.push(sleeper);
                }
                woken += 1;
            }
        };
        for sleeper in first.iter().chain(&rest) {
            run::wake(&sleeper.thread);
        }
        if found_lock || complete && woken < count && pi::is_contended(key) {
            return Err(Errno::EINVAL);
        }
        if complete {
            return Ok(woken);
        }
    }
}

fn wake(address: u64, private: bool, count: u32, bits: u32) -> Result<usize> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let word = Word::find(address, private, Access::Read)?;
    // Zero still wakes one, as on Linux.
    wake_key(word.key, usize_from(count.into()).max(1), bits)
}

/// Wakes some waiters and lets others wait for another word.
fn requeue(from: &Word, to: &Word, expected: Option<u32>, wakes: u32, moves: u32) -> Result<usize> {
    let (first, second) = (from.key.bucket(), to.key.bucket());
    let mut woken = Vec::new();
    let total = {
        let mut source;
        let mut target;
        // In the order of the table, so that two of these don't wait for each other.
        if first == second {
            source = TABLE[first].lock();
            target = None;
        } else if first < second {
            source = TABLE[first].lock();
            target = Some(TABLE[second].lock_in_order());
        } else {
            target = Some(TABLE[second].lock());
            source = TABLE[first].lock_in_order();
        }
        if let Some(expected) = expected
            && from.value()? != expected
        {
            return Err(Errno::EAGAIN);
        }
        if source.iter().any(|one| one.key == from.key && one.lock.is_some()) {
            return Err(Errno::EINVAL);
        }
        if pi::is_contended(from.key) {
            return Err(Errno::EINVAL);
        }
        let count = source.iter().filter(|one| one.key == from.key).count();
        woken.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        if let Some(target) = &mut target {
            target.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        }
        let mut moved = 0;
        let mut at = 0;
        while at < source.len() {
            if source[at].key != from.key {
                at += 1;
            } else if woken.len() < usize_from(wakes.into()) {
                let taken = source.remove(at);
                taken.sleeper.woken.store(true, Ordering::SeqCst);
                woken.push(taken.sleeper);
            } else if moved < usize_from(moves.into()) {
                moved += 1;
                let mut taken = source.remove(at);
                taken.key = to.key;
                taken.sleeper.bucket.store(second, Ordering::SeqCst);
                match &mut target {
                    Some(target) => target.push(taken),
                    // Behind those that it is among already; not looked at again, as its key differs
                    // unless both words are the same.
                    None if from.key == to.key => {
                        source.insert(at, taken);
                        at += 1;
                    }
                    None => source.push(taken),
                }
            } else {
                break;
            }
        }
        woken.len() + moved
    };
    for sleeper in woken {
        run::wake(&sleeper.thread);
    }
    Ok(total)
}

/// `FUTEX_WAKE_OP`: changes the second word, and wakes its waiters if its old value compares so.
fn wake_operation(
    address: u64,
    address2: u64,
    private: bool,
    counts: (u32, u32),
    operation: u32,
) -> Result<usize> {
    let first = Word::find(address, private, Access::Read)?;
    let second = Word::find(address2, private, Access::Write)?;
    let signed = |shift: u32| (operation << (20 - shift)).cast_signed() >> 20;
    let (kind, compare) = (operation >> 28, operation >> 24 & 0xf);
    let mut argument = signed(12).cast_unsigned();
    let against = signed(0);
    const SHIFT: u32 = 8;
    if kind & SHIFT != 0 {
        argument = 1_u32.wrapping_shl(argument);
    }
    let change = |old: u32| match kind & 7 {
        0 => Some(argument),
        1 => Some(old.wrapping_add(argument)),
        2 => Some(old | argument),
        3 => Some(old & !argument),
        4 => Some(old ^ argument),
        _ => None,
    };
    let (old, changed) = second.update(change)?;
    if !changed {
        return Err(Errno::ENOSYS);
    }
    let old = old.cast_signed();
    let holds = match compare {
        0 => old == against,
        1 => old != against,
        2 => old < against,
        3 => old <= against,
        4 => old > against,
        5 => old >= against,
        _ => return Err(Errno::ENOSYS),
    };
    let mut woken = wake_key(first.key, usize_from(counts.0.into()).max(1), u32::MAX)?;
    if holds {
        woken += wake_key(second.key, usize_from(counts.1.into()).max(1), u32::MAX)?;
    }
    Ok(woken)
}

/// `futex(2)`.
///
/// # Errors
/// As the man page says.
pub fn futex(
    address: UserPtr<u32>,
    operation: u32,
    value: u32,
    timeout: UserPtr<[i64; 2]>,
    address2: UserPtr<u32>,
    value3: u32,
) -> Result<usize> {
    let private = operation & FUTEX_PRIVATE_FLAG != 0;
    let kind = operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    const HAVE_CLOCK: [u32; 3] = [FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2];
    if operation & FUTEX_CLOCK_REALTIME != 0 && !HAVE_CLOCK.contains(&kind) {
        return Err(Errno::ENOSYS);
    }
    let at = address.address();
    // In place of the timeout, some operations have a second count.
    let [a, b, c, d, ..] = timeout.address().to_le_bytes();
    let count2 = u32::from_le_bytes([a, b, c, d]);
    let any = FUTEX_BITSET_MATCH_ANY;
    match kind {
        FUTEX_WAIT => {
            let deadline = deadline(operation, timeout, false)?;
            wait(at, private, value, any, deadline).map(|()| 0)
        }
        FUTEX_WAIT_BITSET => {
            let deadline = deadline(operation, timeout, true)?;
            wait(at, private, value, value3, deadline).map(|()| 0)
        }
        FUTEX_WAKE => wake(at, private, value, any),
        FUTEX_WAKE_BITSET => wake(at, private, value, value3),
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            if value.cast_signed() < 0 || count2.cast_signed() < 0 {
                return Err(Errno::EINVAL);
            }
            let from = Word::find(at, private, Access::Read)?;
            let to = Word::find(address2.address(), private, Access::Read)?;
            let expected = (kind == FUTEX_CMP_REQUEUE).then_some(value3);
            requeue(&from, &to, expected, value, count2)
        }
        FUTEX_WAKE_OP => wake_operation(at, address2.address(), private, (value, count2), value3),
        FUTEX_LOCK_PI => {
            let deadline = deadline(operation | FUTEX_CLOCK_REALTIME, timeout, true)?;
            pi::lock(at, private, deadline, false).map(|()| 0)
        }
        FUTEX_LOCK_PI2 => {
            let deadline = deadline(operation, timeout, true)?;
            pi::lock(at, private, deadline, false).map(|()| 0)
        }
        FUTEX_TRYLOCK_PI => pi::lock(at, private, None, true).map(|()| 0),
        FUTEX_UNLOCK_PI => pi::unlock(at, private).map(|()| 0),
        FUTEX_WAIT_REQUEUE_PI => {
            let deadline = deadline(operation, timeout, true)?;
            pi::wait_requeue(at, private, value, deadline, address2.address()).map(|()| 0)
        }
        FUTEX_CMP_REQUEUE_PI => {
            // One is woken if it can have the lock, never more.
            if value != 1 || count2.cast_signed() < 0 || at == address2.address() {
                return Err(Errno::EINVAL);
            }
            let from = Word::find(at, private, Access::Read)?;
            let to = Word::find(address2.address(), private, Access::Write)?;
            pi::requeue(&from, &to, value3, count2)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// `set_robust_list(2)`.
///
/// # Errors
/// EINVAL for another size of the head.
pub fn set_robust_list(head: UserPtr<u64>, length: usize) -> Result<()> {
    if length != 24 {
        return Err(Errno::EINVAL);
    }
    current().robust_list.store(head.address(), Ordering::Relaxed);
    Ok(())
}

/// `get_robust_list(2)`.
///
/// # Errors
/// As the man page says.
pub fn get_robust_list(tid: Pid, head: UserPtr<u64>, length: UserPtr<u64>) -> Result<()> {
    let me = current();
    let thread = if tid == 0 { me.to_arc() } else { find_thread(tid).ok_or(Errno::ESRCH)? };
    let who = me.credentials();
    if !who.can(Capability::SysPtrace) && thread.credentials().uid != who.euid {
        return Err(Errno::EPERM);
    }
    length.write(24)?;
    head.write(thread.robust_list.load(Ordering::Relaxed))
}

/// The running thread gives up its memory, by its end or by `execve`: locks that it holds are marked,
/// and whoever waits for its id to be cleared is woken (set_robust_list(2), set_tid_address(2)).
pub fn leave_memory(ends: bool) {
    let me = current();
    me.rseq.register(None);
    me.release_concurrency_id();
    let head = me.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        // What cannot be read ends the list.
        let _ = walk_robust_list(head);
    }
    pi::give_up_all(&me, ends);
    let address = me.clear_child_tid.swap(0, Ordering::Relaxed);
    if address != 0 && UserPtr::new(address).write(0_i32).is_ok() {
        let _ = wake(address, false, 1, FUTEX_BITSET_MATCH_ANY);
    }
}

fn walk_robust_list(head: u64) -> Result<()> {
    let field = |index: usize| UserPtr::<u64>::new(head).element(index).read();
    let (mut entry, offset, pending) = (field(0)?, field(1)?, field(2)?);
    let pending_lock = pending & !1;
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = UserPtr::<u64>::new(entry & !1).read();
        if entry & !1 != pending_lock {
            give_up_lock(entry, offset, false)?;
        }
        entry = next?;
    }
    if pending_lock != 0 {
        give_up_lock(pending, offset, true)?;
    }
    Ok(())
}

/// Marks the lock of a list's entry if it is the running thread's. Bit 0 of the entry says that the lock
/// inherits priorities: such a one is handed on later, with all others ([`pi::give_up_all`]).
fn give_up_lock(entry: u64, offset: u64, pending: bool) -> Result<()> {
    let inherits = entry & 1 != 0;
    let word = Word::find((entry & !1).wrapping_add(offset), false, Access::Write)?;
    let tid = current().tid().cast_unsigned();
    let (value, marked) = word.update(|value| {
        (value & FUTEX_TID_MASK == tid).then_some(value & FUTEX_WAITERS | FUTEX_OWNER_DIED)
    })?;
    let wakes = if marked {
        value & FUTEX_WAITERS != 0
    } else {
        // Between unlocking and waking: the wake-up happens here.
        pending && value & FUTEX_TID_MASK == 0
    };
    if wakes && !inherits {
        // Who made an ordinary lock one that inherits is not woken, as on Linux.
        let _ = wake_key(word.key, 1, u32::MAX);
    }
    Ok(())
}
