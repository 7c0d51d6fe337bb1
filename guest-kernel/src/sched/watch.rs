//! Watching a wait queue without waiting: whoever keeps a list of what is ready (`epoll(7)`) is told of
//! every wake-up, from wherever it happens.

use crate::errno::{Errno, Result};
use crate::fs::stream::Events;
use crate::sync::{Lazy, SpinLock};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Someone who is told of wake-ups.
pub trait Watcher: Send + Sync {
    /// One of `events` may be there now, or, if there are none in the set, any. Returns whether a
    /// sleeper was woken for it, so that no other exclusive watcher need be told.
    ///
    /// Called with interrupts off, by whoever wakes, perhaps with locks of the object that changed,
    /// and with the lock of the list. It must not sleep, ask the object, or watch and unwatch.
    fn notify(&self, events: Events) -> bool;
}

/// The watchers of a queue, which are registered until they unregister.
#[derive(Default)]
struct Watchers {
    /// Told of every wake-up, the latest first, as on Linux.
    shared: Vec<Weak<dyn Watcher>>,
    /// Told one after the other until one takes charge (`EPOLLEXCLUSIVE`).
    exclusive: Vec<Weak<dyn Watcher>>,
}

/// A list of watchers. It takes one word until somebody watches.
#[derive(Default)]
pub struct WatchList(Lazy<SpinLock<Watchers>>);

/// How many of the exclusive watchers a wake-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The first that takes charge.
    One,
    /// All of them: the event does not go away by being taken.
    All,
}

impl WatchList {
    /// A list of nobody.
    pub const fn new() -> Self {
        Self(Lazy::new())
    }

    /// Adds a watcher.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn watch(&self, watcher: Weak<dyn Watcher>, exclusive: bool) -> Result<()> {
        let mut watchers = self.0.get_or_make(|| SpinLock::new(Watchers::default())).lock();
        let list = if exclusive { &mut watchers.exclusive } else { &mut watchers.shared };
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        list.push(watcher);
        Ok(())
    }

    /// Removes a watcher. It may be told once more, by someone who is just doing so.
    pub fn unwatch(&self, watcher: &Weak<dyn Watcher>) {
        let Some(list) = self.0.get() else { return };
        let is_it =
            |other: &Weak<dyn Watcher>| core::ptr::addr_eq(other.as_ptr(), watcher.as_ptr());
        let mut watchers = list.lock();
        let Watchers { shared, exclusive } = &mut *watchers;
        for list in [shared, exclusive] {
            if let Some(at) = list.iter().position(is_it) {
                // In order, as the order decides whom an exclusive wake-up reaches.
                drop(list.remove(at));
                return;
            }
        }
    }

    /// Tells those who watch that `events` may be there, see [`Watcher::notify`].
    #[inline]
    pub fn notify(&self, events: Events, reach: Reach) {
        if let Some(watchers) = self.0.get() {
            // A watcher that wakes others has a list, too. Those below come first: no epoll watches itself.
            notify(&watchers.lock_in_order(), events, reach);
        }
    }
}

#[cold]
fn notify(watchers: &Watchers, events: Events, reach: Reach) {
    for watcher in watchers.shared.iter().rev().filter_map(Weak::upgrade) {
        watcher.notify(events);
    }
    for watcher in watchers.exclusive.iter().filter_map(Weak::upgrade) {
        if watcher.notify(events) && reach == Reach::One {
            return;
        }
    }
}

/// A reference to a watcher, as lists hold it.
pub fn downgrade<T: Watcher + 'static>(watcher: &Arc<T>) -> Weak<dyn Watcher> {
    let weak: Weak<T> = Arc::downgrade(watcher);
    weak
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Note(u32, bool, Arc<Mutex<Vec<u32>>>);

    impl Watcher for Note {
        fn notify(&self, _events: Events) -> bool {
            self.2.lock().unwrap().push(self.0);
            self.1
        }
    }

    #[test]
    fn all_shared_watchers_are_told_and_exclusive_ones_until_one_takes_charge() {
        let list = WatchList::new();
        list.notify(Events::IN, Reach::All);
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = |number, takes| Arc::new(Note(number, takes, told.clone()));
        let notes = [note(1, true), note(2, true), note(3, false), note(4, true), note(5, true)];
        for (index, note) in notes.iter().enumerate() {
            list.watch(downgrade(note), index >= 2).unwrap();
        }
        let after = |reach| {
            list.notify(Events::IN, reach);
            std::mem::take(&mut *told.lock().unwrap())
        };
        assert_eq!(after(Reach::One), [2, 1, 3, 4]);
        assert_eq!(after(Reach::All), [2, 1, 3, 4, 5]);
        list.unwatch(&downgrade(&notes[3]));
        list.unwatch(&downgrade(&notes[0]));
        assert_eq!(after(Reach::One), [2, 3, 5]);
        drop(notes);
        assert_eq!(after(Reach::All), [0; 0]);
    }
}
