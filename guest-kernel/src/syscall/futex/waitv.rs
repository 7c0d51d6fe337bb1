//! futex_waitv(2): waiting for the first of several futexes.

use super::operations::{Sleeper, TABLE, Waiting, Word, deadline, leave};
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::memory::space::Access;
use crate::process::current;
use crate::sched;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_32, FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME,
    FUTEX_PRIVATE_FLAG,
};

/// Linux's `FUTEX_WAITV_MAX`.
const MAX: u32 = 128;

/// One of the futexes, and the caller's place among its waiters.
struct Member {
    word: Word,
    expected: u32,
    sleeper: Arc<Sleeper>,
}

impl Member {
    /// Checks an element of the caller's array.
    fn new([value, address, rest]: [u64; 3]) -> Result<Self> {
        // `val`, `uaddr`, then `flags` and `__reserved` of 32 bits each. Values are of 32 bits.
        let [a, b, c, d, ..] = value.to_le_bytes();
        let flags = u32::try_from(rest).map_err(|_| Errno::EINVAL)?;
        if flags & !(FUTEX_32 | FUTEX_PRIVATE_FLAG) != 0 || flags & FUTEX_32 == 0 {
            return Err(Errno::EINVAL);
        }
        let word = Word::find(address, flags & FUTEX_PRIVATE_FLAG != 0, Access::Read)?;
        let sleeper = Arc::new(Sleeper::new(current().to_arc(), word.key));
        Ok(Self { word, expected: u32::from_le_bytes([a, b, c, d]), sleeper })
    }

    /// Adds the caller to the waiters.
    ///
    /// # Errors
    /// EAGAIN if the word has another value.
    fn join(&self) -> Result<()> {
        let key = self.word.key;
        let mut waiting = TABLE[key.bucket()].lock();
        // Whoever wakes takes the lock after changing the word.
        if self.word.value()? != self.expected {
            return Err(Errno::EAGAIN);
        }
        waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let sleeper = self.sleeper.clone();
        waiting.push(Waiting { key, bits: FUTEX_BITSET_MATCH_ANY, lock: None, sleeper });
        Ok(())
    }
}

/// Leaves all queues; returns the last futex that woke the caller, as Linux does.
fn leave_all(members: &[Member]) -> Option<usize> {
    let mut woken_by = None;
    for (index, member) in members.iter().enumerate() {
        if leave(&member.sleeper) {
            woken_by = Some(index);
        }
    }
    woken_by
}

/// `futex_waitv(2)`: returns which futex woke the caller.
///
/// # Errors
/// As for `FUTEX_WAIT`; EINVAL for flags, counts and clocks that there are not.
pub fn futex_waitv(
    waiters: UserPtr<[u64; 3]>,
    count: u32,
    flags: u32,
    timeout: UserPtr<[i64; 2]>,
    clock: u32,
) -> Result<usize> {
    if flags != 0 || count == 0 || count > MAX || waiters.non_null().is_none() {
        return Err(Errno::EINVAL);
    }
    let deadline = match clock {
        _ if timeout.non_null().is_none() => None,
        CLOCK_REALTIME => deadline(FUTEX_CLOCK_REALTIME, timeout, true)?,
        CLOCK_MONOTONIC => deadline(0, timeout, true)?,
        _ => return Err(Errno::EINVAL),
    };
    let count = crate::memory::usize_from(count.into());
    let mut given: Vec<[u64; 3]> = Vec::new();
    let mut members: Vec<Member> = Vec::new();
    given.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    members.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        given.push(waiters.element(index).read()?);
    }
    for element in given {
        members.push(Member::new(element)?);
    }
    for (index, member) in members.iter().enumerate() {
        if let Err(error) = member.join() {
            // One of those before may have been woken for meanwhile.
            return leave_all(&members[..index]).ok_or(error);
        }
    }
    let woken = || members.iter().any(|member| member.sleeper.woken.load(Ordering::SeqCst));
    let result = sched::wait(&[], deadline, || woken().then_some(()));
    match (leave_all(&members), result) {
        (Some(index), _) => Ok(index),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(Errno::ETIMEDOUT),
    }
}
