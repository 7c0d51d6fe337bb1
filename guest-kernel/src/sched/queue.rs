//! Those who wait for one kind of event.
//!
//! A [`Waiter`] is linked into a queue while its thread looks for its condition and sleeps; it lies on
//! that thread's stack, so that waiting allocates nothing.

use super::run;
use super::watch::{Reach, WatchList};
use crate::errno::{Errno, Result};
use crate::fs::stream::Events;
use crate::process::Thread;
use crate::sync::SpinLock;
use core::ptr::null_mut;

/// Threads that sleep until something changes, and others who are told when it does.
pub struct WaitQueue {
    sleepers: SpinLock<List>,
    /// Those who are told, and do not wait.
    watchers: WatchList,
}

impl core::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("WaitQueue")
    }
}

struct List {
    first: *mut Waiter,
}

// SAFETY: the list is only followed under its lock, and a waiter stays where it is while it is linked.
unsafe impl Send for List {}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread in a queue.
pub struct Waiter {
    thread: *const Thread,
    next: *mut Waiter,
    previous: *mut Waiter,
}

impl Waiter {
    /// For the running thread, in no queue yet.
    pub fn new() -> Self {
        Self {
            thread: core::ptr::from_ref(&*crate::process::current()),
            next: null_mut(),
            previous: null_mut(),
        }
    }
}

impl Default for Waiter {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// A queue on which nobody waits.
    pub const fn new() -> Self {
        Self { sleepers: SpinLock::new(List { first: null_mut() }), watchers: WatchList::new() }
    }

    /// Sleeps until the condition gives a value.
    ///
    /// # Errors
    /// EINTR if a signal is to be delivered first.
    pub fn wait_until<T>(&self, condition: impl FnMut() -> Option<T>) -> Result<T> {
        super::wait(&[self], None, condition)?.ok_or(Errno::EINTR)
    }

    /// Those who are told of every wake-up.
    pub const fn watchers(&self) -> &WatchList {
        &self.watchers
    }

    /// Makes those who wait look again, and tells all who watch: anything may have happened.
    pub fn wake_all(&self) {
        self.wake_sleepers();
        self.watchers.notify(Events::default(), Reach::All);
    }

    /// The same, but watchers only care if they wait for one of `events`, and one of those who do not
    /// want to be told all at once is enough.
    pub fn wake(&self, events: Events) {
        self.wake_sleepers();
        self.watchers.notify(events, Reach::One);
    }

    /// Makes those who wait look again for something that is no event to those who watch.
    pub fn wake_sleepers(&self) {
        let list = self.sleepers.lock();
        let mut at = list.first;
        while !at.is_null() {
            // SAFETY: a linked waiter and its thread live until they unlink themselves, which takes the
            // lock that we hold.
            let waiter = unsafe { &*at };
            // SAFETY: as above.
            run::wake(unsafe { &*waiter.thread });
            at = waiter.next;
        }
    }

    /// Links a waiter.
    ///
    /// # Safety
    /// The waiter stays where it is, untouched, until [`Self::remove`] has unlinked it from this queue.
    pub unsafe fn add(&self, waiter: *mut Waiter) {
        let mut list = self.sleepers.lock();
        // SAFETY: by the contract; neighbours are linked, and so alive.
        unsafe {
            (*waiter).previous = null_mut();
            (*waiter).next = list.first;
            if !list.first.is_null() {
                (*list.first).previous = waiter;
            }
        }
        list.first = waiter;
    }

    /// Unlinks a waiter.
    ///
    /// # Safety
    /// It was linked into this queue by [`Self::add`].
    pub unsafe fn remove(&self, waiter: *mut Waiter) {
        let mut list = self.sleepers.lock();
        // SAFETY: by the contract; neighbours are linked, and so alive.
        unsafe {
            let (next, previous) = ((*waiter).next, (*waiter).previous);
            if previous.is_null() {
                list.first = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }
}
