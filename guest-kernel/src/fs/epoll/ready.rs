//! What one epoll watches, and the list of what may be ready.
//!
//! The list is a queue in the order of arrival, linked through the table of what is watched, so that a
//! wake-up from an interrupt needs no memory and removing needs no search.

use crate::errno::{Errno, Result};
use crate::fs::open_file::OpenFile;
use crate::fs::stream::Events;
use crate::sched::WaitQueue;
use crate::sched::watch::Watcher;
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::general::{
    EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLWAKEUP,
};

/// Bits of an event mask that say how to watch, not what for.
pub(super) const MODES: u32 = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

/// What is asked about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Events and modes (`EPOLLIN`...).
    pub events: u32,
    /// What the program wants to be told with an event.
    pub data: u64,
}

/// A file under a descriptor: what identifies an item of an epoll.
pub(super) type Key = (*const OpenFile, i32);

/// One file that one epoll watches: what the file and its queue know of that.
pub struct Item {
    pub(super) core: Arc<Core>,
    pub(super) file: Weak<OpenFile>,
    slot: usize,
    fd: i32,
    /// Whether it is one of the links between epolls that `nesting` knows.
    pub(super) linked: AtomicBool,
}

impl Item {
    fn key(&self) -> Key {
        (self.file.as_ptr(), self.fd)
    }
}

/// A place in the table.
enum Slot {
    Free { next: Option<usize> },
    Used(Watched),
}

struct Watched {
    item: Arc<Item>,
    interest: Interest,
    /// Its place in the list, if it is on it.
    link: Option<Link>,
}

#[derive(Clone, Copy)]
struct Link {
    before: Option<usize>,
    after: Option<usize>,
    /// When it came, so that a look at the list ends before what it has put back itself.
    ticket: u64,
}

/// The table and the list.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Option<usize>,
    by_key: BTreeMap<(usize, i32), usize>,
    first: Option<usize>,
    last: Option<usize>,
    next_ticket: u64,
}

impl Table {
    fn watched(&mut self, slot: usize) -> Option<&mut Watched> {
        match self.slots.get_mut(slot) {
            Some(Slot::Used(watched)) => Some(watched),
            _ => None,
        }
    }

    /// The place of an item that is still there.
    fn of(&mut self, item: &Item) -> Option<&mut Watched> {
        self.watched(item.slot).filter(|watched| core::ptr::eq(&raw const *watched.item, item))
    }

    fn find(&self, (file, fd): Key) -> Option<usize> {
        self.by_key.get(&(file.addr(), fd)).copied()
    }

    /// What is watched under this key: how, and the item.
    pub(super) fn get(&mut self, key: Key) -> Option<(Interest, Arc<Item>)> {
        let slot = self.find(key)?;
        self.watched(slot).map(|watched| (watched.interest, watched.item.clone()))
    }

    fn link(&mut self, slot: usize) -> Option<&mut Link> {
        self.watched(slot)?.link.as_mut()
    }

    /// Puts an item at the end of the list, if it is not on it.
    pub(super) fn append(&mut self, item: &Item) {
        let (last, ticket) = (self.last, self.next_ticket);
        let Some(watched) = self.of(item) else { return };
        if watched.link.is_some() {
            return;
        }
        watched.link = Some(Link { before: last, after: None, ticket });
        self.next_ticket += 1;
        match last {
            Some(last) => {
                if let Some(link) = self.link(last) {
                    link.after = Some(item.slot);
                }
            }
            None => self.first = Some(item.slot),
        }
        self.last = Some(item.slot);
    }

    /// Puts an item back to the front of the list.
    pub(super) fn put_back(&mut self, item: &Item) {
        self.unlink(item.slot);
        let first = self.first;
        let Some(watched) = self.of(item) else { return };
        watched.link = Some(Link { before: None, after: first, ticket: 0 });
        match first {
            Some(first) => {
                if let Some(link) = self.link(first) {
                    link.before = Some(item.slot);
                }
            }
            None => self.last = Some(item.slot),
        }
        self.first = Some(item.slot);
    }

    fn unlink(&mut self, slot: usize) {
        let Some(Link { before, after, .. }) =
            self.watched(slot).and_then(|watched| watched.link.take())
        else {
            return;
        };
        match before {
            None => self.first = after,
            Some(before) => {
                if let Some(link) = self.link(before) {
                    link.after = after;
                }
            }
        }
        match after {
            None => self.last = before,
            Some(after) => {
                if let Some(link) = self.link(after) {
                    link.before = before;
                }
            }
        }
    }

    /// Takes the first item off the list, unless it came after `end` was the next ticket.
    pub(super) fn take(&mut self, end: u64) -> Option<(Interest, Arc<Item>)> {
        let slot = self.first?;
        if self.link(slot)?.ticket >= end {
            return None;
        }
        self.unlink(slot);
        self.watched(slot).map(|watched| (watched.interest, watched.item.clone()))
    }

    /// The next ticket.
    pub(super) const fn now(&self) -> u64 {
        self.next_ticket
    }

    /// Adds a file; the caller knows that it is not watched under this descriptor.
    pub(super) fn insert(
        &mut self,
        core: &Arc<Core>,
        file: &Arc<OpenFile>,
        fd: i32,
        interest: Interest,
    ) -> Result<Arc<Item>> {
        let slot = match self.free {
            Some(slot) => slot,
            None => {
                self.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.slots.push(Slot::Free { next: None });
                self.slots.len() - 1
            }
        };
        let item = Arc::new(Item {
            core: core.clone(),
            file: Arc::downgrade(file),
            slot,
            fd,
            linked: AtomicBool::new(false),
        });
        let new = Slot::Used(Watched { item: item.clone(), interest, link: None });
        if let Slot::Free { next } = core::mem::replace(&mut self.slots[slot], new) {
            self.free = next;
        }
        let (address, fd) = item.key();
        self.by_key.insert((address.addr(), fd), slot);
        Ok(item)
    }

    /// Changes how an item is watched.
    pub(super) fn change(&mut self, item: &Item, change: impl FnOnce(&mut Interest)) {
        if let Some(watched) = self.of(item) {
            change(&mut watched.interest);
        }
    }

    /// Removes an item; says whether it was still there. The table's reference is returned, to be dropped
    /// without the lock.
    pub(super) fn remove(&mut self, item: &Item) -> Option<Arc<Item>> {
        self.of(item)?;
        self.unlink(item.slot);
        let (address, fd) = item.key();
        self.by_key.remove(&(address.addr(), fd));
        let free = Slot::Free { next: self.free };
        self.free = Some(item.slot);
        match core::mem::replace(&mut self.slots[item.slot], free) {
            Slot::Used(watched) => Some(watched.item),
            Slot::Free { .. } => None,
        }
    }

    /// The items of a table that nobody uses any more.
    pub(super) fn into_items(self) -> impl Iterator<Item = Arc<Item>> {
        self.slots.into_iter().filter_map(|slot| match slot {
            Slot::Used(watched) => Some(watched.item),
            Slot::Free { .. } => None,
        })
    }

    /// All items.
    pub(super) fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used(watched) => Some(&watched.item),
            Slot::Free { .. } => None,
        })
    }
}

/// The part of an epoll that its items refer to.
#[derive(Default)]
pub(super) struct Core {
    /// Never held while a file is asked or another lock of epoll is taken, but for that of an epoll that
    /// is watched (see `nesting`).
    pub(super) table: SpinLock<Table>,
    /// Those who wait for events, and the epolls that watch this one.
    pub(super) queue: WaitQueue,
    /// How many wait.
    sleepers: AtomicU32,
    /// Epolls that watch this one, once for each item.
    pub(super) parents: SpinLock<Vec<Weak<Self>>>,
    /// How many items are epolls.
    pub(super) nested: AtomicU32,
    /// A search's number and what it found here, see `nesting`.
    pub(super) mark: AtomicU64,
}

impl Core {
    /// Whether anything is on the list.
    pub(super) fn has_ready(&self) -> bool {
        self.table.lock().first.is_some()
    }

    /// Puts an item on the list, and wakes those who wait.
    pub(super) fn make_ready(&self, item: &Item) {
        self.table.lock().append(item);
        self.queue.wake(Events::IN);
    }

    /// Whether anybody waits.
    pub(super) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Ordering::SeqCst) > 0
    }

    /// Does something while being counted among those who wait.
    pub(super) fn sleeping<T>(&self, sleep: impl FnOnce() -> T) -> T {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let result = sleep();
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

impl Watcher for Item {
    fn notify(&self, events: Events) -> bool {
        let events = u32::from(events.0);
        let wanted = {
            let mut table = self.core.table.lock();
            let Some(watched) = table.of(self) else { return false };
            let wanted = watched.interest.events;
            // Without any event in its mask it is disabled, as after EPOLLONESHOT.
            if wanted & !MODES == 0 || events != 0 && events & wanted == 0 {
                return false;
            }
            table.append(self);
            wanted
        };
        let was_awaited = self.core.has_sleepers();
        self.core.queue.wake(Events::IN);
        was_awaited
            && match events & (EPOLLIN | EPOLLOUT) {
                0 => true,
                EPOLLIN => wanted & EPOLLIN != 0,
                EPOLLOUT => wanted & EPOLLOUT != 0,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::event::EventCounter;
    use crate::fs::stream::StreamRef;
    use crate::fs::{FileRef, Inode};
    use crate::numbers::Random;
    use std::collections::VecDeque;

    fn file() -> FileRef {
        let stream = StreamRef::Shared(EventCounter::new(0, false));
        Arc::new(OpenFile::stream(stream.clone(), Inode::Stream(stream), 0))
    }

    #[test]
    fn the_list_behaves_as_a_queue_without_duplicates() {
        let core = Arc::new(Core::default());
        let file = file();
        let interest = |fd| Interest { events: 1, data: fd };
        let mut items: Vec<Arc<Item>> = Vec::new();
        let mut model: VecDeque<i32> = VecDeque::new();
        let mut random = Random(1);
        let mut next_fd = 0;
        for _ in 0..20_000 {
            let mut table = core.table.lock();
            match random.index(6) {
                0 => {
                    let item = table.insert(&core, &file, next_fd, interest(7)).unwrap();
                    assert!(table.get(item.key()).is_some());
                    items.push(item);
                    next_fd += 1;
                }
                1 if !items.is_empty() => {
                    let item = items.swap_remove(random.index(items.len()));
                    assert!(table.remove(&item).is_some());
                    assert!(table.remove(&item).is_none() && table.get(item.key()).is_none());
                    model.retain(|&fd| fd != item.fd);
                    table.append(&item);
                }
                2 | 3 if !items.is_empty() => {
                    let item = &items[random.index(items.len())];
                    table.append(item);
                    if !model.contains(&item.fd) {
                        model.push_back(item.fd);
                    }
                }
                4 if !items.is_empty() => {
                    let item = &items[random.index(items.len())];
                    table.put_back(item);
                    model.retain(|&fd| fd != item.fd);
                    model.push_front(item.fd);
                }
                _ => {
                    let end = table.now();
                    let taken = table.take(end).map(|(_, item)| item.fd);
                    assert_eq!(taken, model.pop_front());
                }
            }
            assert_eq!(table.items().count(), items.len());
        }
        // What is put back during a look is not seen again by it.
        let mut table = core.table.lock();
        let end = table.now();
        let mut seen = Vec::new();
        while let Some((_, item)) = table.take(end) {
            seen.push(item.fd);
            table.append(&item);
        }
        assert_eq!(seen, Vec::from(model));
        drop(table);
        for item in items {
            core.table.lock().remove(&item);
        }
        assert_eq!(Arc::strong_count(&core), 1);
    }
}
