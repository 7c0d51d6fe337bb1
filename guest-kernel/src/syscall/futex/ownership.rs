//! Who owns the locks that have waiters, and who is next: the order and the chains of priority-inheritance
//! futexes, without the words in memory.
//!
//! A lock is known here as long as threads wait for it. Threads are known by their ids: one that ends
//! gives up its locks before its id is free.

use crate::errno::{Errno, Result};
use crate::process::Pid;
use alloc::vec::Vec;

/// Linux's `max_lock_depth`: a longer chain of owners that wait counts as a cycle.
pub(super) const CHAIN_LIMIT: usize = 1024;

struct Waiter<W> {
    /// The lower, the sooner it is next; equals in the order of their arrival.
    class: u8,
    tid: Pid,
    handle: W,
}

struct Lock<K, W> {
    key: K,
    /// `None` once the owner has died, until the next has taken it.
    owner: Option<Pid>,
    /// In the order in which they get the lock; never empty.
    waiters: Vec<Waiter<W>>,
}

/// All locks that have waiters.
pub(super) struct Ownership<K, W> {
    /// By key.
    locks: Vec<Lock<K, W>>,
    /// Which lock a thread waits for, by thread.
    blocked: Vec<(Pid, K)>,
}

impl<K: Ord + Copy, W> Ownership<K, W> {
    pub(super) const fn new() -> Self {
        Self { locks: Vec::new(), blocked: Vec::new() }
    }

    fn place(&self, key: K) -> core::result::Result<usize, usize> {
        self.locks.binary_search_by_key(&key, |lock| lock.key)
    }

    fn lock(&self, key: K) -> Option<&Lock<K, W>> {
        self.locks.get(self.place(key).ok()?)
    }

    fn waits_for(&self, tid: Pid) -> core::result::Result<usize, usize> {
        self.blocked.binary_search_by_key(&tid, |&(waiter, _)| waiter)
    }

    /// Whether threads wait for it.
    pub(super) fn is_contended(&self, key: K) -> bool {
        self.lock(key).is_some()
    }

    /// The owner of a lock that has waiters; `Some(None)` if that has died.
    pub(super) fn owner(&self, key: K) -> Option<Option<Pid>> {
        self.lock(key).map(|lock| lock.owner)
    }

    /// Who gets the lock next.
    pub(super) fn next(&self, key: K) -> Option<(Pid, &W)> {
        let first = self.lock(key)?.waiters.first()?;
        Some((first.tid, &first.handle))
    }

    /// Whether the thread would wait for itself if it waited for this owner.
    fn closes_cycle(&self, mut owner: Pid, waiter: Pid) -> bool {
        for _ in 0..CHAIN_LIMIT {
            if owner == waiter {
                return true;
            }
            let Ok(at) = self.waits_for(owner) else { return false };
            match self.owner(self.blocked[at].1) {
                Some(Some(next)) => owner = next,
                _ => return false,
            }
        }
        true
    }

    /// The class that a thread inherits: the first of those that wait for its locks; `otherwise` if none do.
    pub(super) fn inherited(&self, owner: Pid, otherwise: u8) -> u8 {
        let locks = self.locks.iter().filter(|lock| lock.owner == Some(owner));
        let first = locks.filter_map(|lock| lock.waiters.first());
        first.map(|waiter| waiter.class).min().unwrap_or(otherwise)
    }

    /// A thread's class is this now. If it waits for a lock, and that is news, it goes to its new place among
    /// those who wait, and the lock's owner, who may inherit something else from now on, is returned.
    pub(super) fn change_class(&mut self, tid: Pid, class: u8) -> Option<Pid> {
        let key = self.blocked[self.waits_for(tid).ok()?].1;
        let at = self.place(key).ok()?;
        let lock = &mut self.locks[at];
        let index = lock.waiters.iter().position(|waiter| waiter.tid == tid)?;
        if lock.waiters[index].class == class {
            return None;
        }
        let mut waiter = lock.waiters.remove(index);
        waiter.class = class;
        let behind = lock.waiters.partition_point(|other| other.class <= class);
        lock.waiters.insert(behind, waiter);
        lock.owner
    }

    /// Adds a waiter. The lock belongs to `owner` if nobody has waited for it so far.
    ///
    /// # Errors
    /// EDEADLK if the owner waits for the waiter, perhaps by way of others; ENOMEM.
    pub(super) fn block(
        &mut self,
        key: K,
        owner: Option<Pid>,
        tid: Pid,
        class: u8,
        handle: W,
    ) -> Result<()> {
        let place = self.place(key);
        let owner = place.map_or(owner, |at| self.locks[at].owner);
        if owner.is_some_and(|owner| self.closes_cycle(owner, tid)) {
            return Err(Errno::EDEADLK);
        }
        self.blocked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let waiter = Waiter { class, tid, handle };
        match place {
            Ok(at) => {
                let waiters = &mut self.locks[at].waiters;
                waiters.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let behind = waiters.partition_point(|other| other.class <= class);
                waiters.insert(behind, waiter);
            }
            Err(at) => {
                let mut waiters = Vec::new();
                waiters.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.locks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                waiters.push(waiter);
                self.locks.insert(at, Lock { key, owner, waiters });
            }
        }
        if let Err(at) = self.waits_for(tid) {
            self.blocked.insert(at, (tid, key));
        }
        Ok(())
    }

    /// Takes out a waiter; the lock is forgotten with the last one.
    fn take_out(&mut self, at: usize, index: usize) -> Waiter<W> {
        let lock = &mut self.locks[at];
        let waiter = lock.waiters.remove(index);
        if lock.waiters.is_empty() {
            self.locks.remove(at);
        }
        if let Ok(at) = self.waits_for(waiter.tid) {
            self.blocked.remove(at);
        }
        waiter
    }

    /// Gives a lock to the next.
    pub(super) fn hand_over(&mut self, key: K) -> Option<W> {
        let at = self.place(key).ok()?;
        let lock = &mut self.locks[at];
        lock.owner = lock.waiters.first().map(|next| next.tid);
        Some(self.take_out(at, 0).handle)
    }

    /// A waiter becomes the owner if it is the next one and the owner has died.
    pub(super) fn inherit(&mut self, key: K, tid: Pid) -> bool {
        let inherits =
            self.owner(key) == Some(None) && self.next(key).is_some_and(|(next, _)| next == tid);
        if inherits {
            self.hand_over(key);
        }
        inherits
    }

    /// A waiter gives up. Returns who inherits the lock, if that has no owner.
    pub(super) fn give_up(&mut self, key: K, tid: Pid) -> Option<&W> {
        let at = self.place(key).ok()?;
        let index = self.locks[at].waiters.iter().position(|waiter| waiter.tid == tid)?;
        self.take_out(at, index);
        let lock = self.lock(key)?;
        if lock.owner.is_none() { lock.waiters.first().map(|next| &next.handle) } else { None }
    }

    /// One of the locks that a thread owns loses its owner. Returns who inherits it; `None` if the thread
    /// owns no lock that has waiters.
    pub(super) fn abandon(&mut self, owner: Pid) -> Option<&W> {
        let lock = self.locks.iter_mut().find(|lock| lock.owner == Some(owner))?;
        lock.owner = None;
        lock.waiters.first().map(|next| &next.handle)
    }
}

#[cfg(test)]
mod tests;
