//! Advisory locks on whole files (`flock(2)`). They belong to open file descriptions.

use super::inode::Inode;
use super::open_file::{FileRef, OpenFile};
use crate::errno::{Errno, Result};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::vec::Vec;

/// A kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may have it too.
    Shared,
    /// Nobody else has one.
    Exclusive,
}

struct Lock {
    inode: Inode,
    /// The open file description, only compared.
    owner: usize,
    kind: Kind,
}

static LOCKS: SpinLock<Vec<Lock>> = SpinLock::new(Vec::new());
static WAITERS: WaitQueue = WaitQueue::new();

fn identity(file: &OpenFile) -> usize {
    core::ptr::from_ref(file).addr()
}

/// Locks a file, or changes the kind of the lock.
///
/// # Errors
/// EAGAIN (EWOULDBLOCK) if another description holds a lock that conflicts and `wait` is false,
/// EINTR, ENOMEM.
pub fn acquire(file: &FileRef, kind: Kind, wait: bool) -> Result<()> {
    // Changing the kind is not atomic: the old lock goes first (flock(2)).
    let attempt = || {
        let owner = identity(file);
        let mut locks = LOCKS.lock();
        if locks.iter().any(|lock| lock.owner == owner && lock.kind == kind) {
            return Some(Ok(()));
        }
        locks.retain(|lock| lock.owner != owner);
        let conflicts = |lock: &Lock| {
            (kind == Kind::Exclusive || lock.kind == Kind::Exclusive) && lock.inode.is(file.inode())
        };
        if locks.iter().any(conflicts) {
            return None;
        }
        if locks.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOMEM));
        }
        locks.push(Lock { inode: file.inode().clone(), owner, kind });
        file.set_locked();
        Some(Ok(()))
    };
    if wait { WAITERS.wait_until(attempt)? } else { attempt().unwrap_or(Err(Errno::EAGAIN)) }
}

/// Gives up a description's lock, if it has one.
pub fn release(file: &OpenFile) {
    let owner = identity(file);
    let removed = {
        let mut locks = LOCKS.lock();
        let at = locks.iter().position(|lock| lock.owner == owner);
        at.map(|at| locks.swap_remove(at))
    };
    // Dropped without the lock: the inode may be the last reference to a file.
    if removed.is_some() {
        WAITERS.wake_all();
    }
}
