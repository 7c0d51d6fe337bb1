//! Waiting for many files (`epoll(7)`).
//!
//! An [`EventPoll`] is a watcher of the queue of every file in it: a wake-up puts the file on the list
//! of what may be ready, and a wait asks only the files on that list. A file that is ready stays on it
//! (level), or leaves until the next wake-up (edge), or until it is asked for again (one shot).
//!
//! Locks, in the order of taking: [`nesting`]'s, the epoll's `scan`, those of files that are asked (which may
//! be an epoll's `scan`); and, on the way of a wake-up, those of the file, of its list of watchers, the
//! epoll's `table`, then of the list of its watchers. A last close takes none of `scan`, so that it can
//! happen anywhere.

mod nesting;
mod ready;

use super::event;
use super::metadata::Metadata;
use super::open_file::{FileRef, OpenFile};
use super::stream::{Events, Seek, Stream};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, UserPtr, frame};
use crate::sched;
use crate::sched::WaitQueue;
use crate::sched::watch::downgrade;
use crate::sync::{Lazy, SpinLock};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_raw_sys::general::{EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT};
pub use ready::Interest;
use ready::{Core, Item, MODES};

/// Events that are told without being asked for.
const ALWAYS: u32 = (Events::ERROR.0 | Events::HANGUP.0) as u32;
/// Events that are taken at once, with the lock held.
const BATCH: usize = 16;

/// `struct epoll_event`, which is packed: events, and the two halves of the data.
pub type UserEvent = [u32; 3];

/// Items of all epolls.
static ITEMS: AtomicU64 = AtomicU64::new(0);

/// How many items there may be: Linux allows them a 25th of memory at 200 bytes each
/// (`/proc/sys/fs/epoll/max_user_watches`).
pub fn max_items() -> u64 {
    frame::total() * PAGE / 25 / 200
}

/// An epoll; dropping it unregisters everything.
pub struct EventPoll {
    core: Arc<Core>,
    /// Taken by whoever changes what is watched or takes what is ready, so that each event is taken once.
    scan: SpinLock<()>,
}

/// The epolls that a file is in. It takes one word until there is one.
#[derive(Default)]
pub struct Memberships(Lazy<SpinLock<Vec<Weak<Item>>>>);

impl Memberships {
    /// In no epoll.
    pub const fn new() -> Self {
        Self(Lazy::new())
    }

    fn add(&self, item: &Arc<Item>) -> Result<()> {
        let mut list = self.0.get_or_make(|| SpinLock::new(Vec::new())).lock();
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        list.push(Arc::downgrade(item));
        Ok(())
    }

    fn remove(&self, item: &Arc<Item>) {
        let Some(list) = self.0.get() else { return };
        let mut list = list.lock();
        if let Some(at) =
            list.iter().position(|other| core::ptr::eq(other.as_ptr(), &raw const **item))
        {
            list.swap_remove(at);
        }
    }

    /// What epolls know of the file.
    fn items(&self) -> Result<Vec<Arc<Item>>> {
        let Some(list) = self.0.get() else { return Ok(Vec::new()) };
        let list = list.lock();
        let mut items = Vec::new();
        items.try_reserve_exact(list.len()).map_err(|_| Errno::ENOMEM)?;
        items.extend(list.iter().filter_map(Weak::upgrade));
        Ok(items)
    }

    /// Whether the file is in any epoll.
    fn is_empty(&self) -> bool {
        self.0.get().is_none_or(|list| list.lock().is_empty())
    }

    /// The last descriptor of the file was closed: it leaves all epolls.
    #[inline]
    pub fn leave(&mut self, stream: Option<&dyn Stream>) {
        if self.0.get().is_some() {
            self.leave_all(stream);
        }
    }

    #[cold]
    fn leave_all(&mut self, stream: Option<&dyn Stream>) {
        let Some(list) = self.0.get() else { return };
        let items = core::mem::take(&mut *list.lock());
        for item in items.iter().filter_map(Weak::upgrade) {
            forget(&item, stream);
        }
    }
}

/// Takes an item out of its epoll, and out of the queue of its file. Whoever calls this has taken it out
/// of the file's memberships.
fn forget(item: &Arc<Item>, stream: Option<&dyn Stream>) {
    unregister(item, stream);
    let removed = item.core.table.lock().remove(item);
    if removed.is_some() {
        ITEMS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a file forget an item.
fn unregister(item: &Arc<Item>, stream: Option<&dyn Stream>) {
    let Some(stream) = stream else { return };
    if let Some(queue) = stream.queue() {
        queue.watchers().unwatch(&downgrade(item));
    }
    if item.linked.swap(false, Ordering::Relaxed)
        && let Some(lower) = EventPoll::of_stream(stream)
    {
        item.core.nested.fetch_sub(1, Ordering::Relaxed);
        let mut parents = lower.core.parents.lock();
        let is_it = |parent: &Weak<Core>| core::ptr::eq(parent.as_ptr(), &raw const *item.core);
        if let Some(at) = parents.iter().position(is_it) {
            parents.swap_remove(at);
        }
    }
}

/// An event that was taken, and may have to be put back.
struct Taken {
    item: Arc<Item>,
    interest: Interest,
    events: u32,
}

impl EventPoll {
    /// An epoll without files.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { core: Arc::new(Core::default()), scan: SpinLock::new(()) })
    }

    fn of_stream(stream: &dyn Stream) -> Option<&Self> {
        stream.as_any()?.downcast_ref()
    }

    /// The epoll that a file is, if it is one.
    pub fn of(file: &OpenFile) -> Option<&Self> {
        Self::of_stream(&**file.as_stream()?)
    }

    fn core(&self) -> &Core {
        &self.core
    }

    /// `EPOLL_CTL_ADD`.
    ///
    /// # Errors
    /// EEXIST, ELOOP, EINVAL, ENOSPC, ENOMEM.
    pub fn add(&self, own: &FileRef, file: &FileRef, fd: i32, interest: Interest) -> Result<()> {
        let interest = Interest { events: interest.events | ALWAYS, ..interest };
        let lower = Self::of(file);
        if lower.is_none() && own.epolls().is_empty() {
            return self.insert(file, fd, interest, None);
        }
        let mut searches = nesting::NESTING.lock();
        if let Some(lower) = lower {
            nesting::check_link(&self.core, &lower.core, &mut searches)?;
        }
        self.insert(file, fd, interest, Some(&mut searches))
    }

    fn insert(
        &self,
        file: &FileRef,
        fd: i32,
        interest: Interest,
        searches: Option<&mut u64>,
    ) -> Result<()> {
        let _scan = self.scan.lock();
        let item = {
            let mut table = self.core.table.lock();
            if table.get((Arc::as_ptr(file), fd)).is_some() {
                return Err(Errno::EEXIST);
            }
            let add = |count: u64| (count < max_items()).then_some(count + 1);
            ITEMS
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
                .map_err(|_| Errno::ENOSPC)?;
            let item = table.insert(&self.core, file, fd, interest);
            item.inspect_err(|_| {
                ITEMS.fetch_sub(1, Ordering::Relaxed);
            })?
        };
        let exclusive = interest.events & EPOLLEXCLUSIVE != 0;
        let registered = self.register(&item, file, exclusive, searches);
        if registered.is_err() {
            Self::remove_item(&item, file);
            return registered;
        }
        self.look(&item, file, interest);
        Ok(())
    }

    /// Makes an item known to its file.
    fn register(
        &self,
        item: &Arc<Item>,
        file: &FileRef,
        exclusive: bool,
        searches: Option<&mut u64>,
    ) -> Result<()> {
        let lower = Self::of(file);
        if let Some(lower) = lower {
            let mut parents = lower.core.parents.lock();
            parents.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            parents.push(Arc::downgrade(&self.core));
            self.core.nested.fetch_add(1, Ordering::Relaxed);
            item.linked.store(true, Ordering::Relaxed);
        }
        file.epolls().add(item)?;
        match (searches, lower) {
            (Some(searches), Some(lower)) => nesting::check_ways_below(&lower.core, searches)?,
            (Some(_), None) => nesting::check_ways(file)?,
            (None, _) => {}
        }
        match file.as_stream().and_then(|stream| stream.queue()) {
            Some(queue) => queue.watchers().watch(downgrade(item), exclusive),
            None => Ok(()),
        }
    }

    fn remove_item(item: &Arc<Item>, file: &FileRef) {
        file.epolls().remove(item);
        forget(item, file.as_stream().map(|stream| &**stream));
    }

    /// Asks a file that was just added or changed.
    fn look(&self, item: &Arc<Item>, file: &FileRef, interest: Interest) {
        if u32::from(file.poll().0) & interest.events != 0 {
            self.core.make_ready(item);
        }
    }

    fn find(&self, file: &FileRef, fd: i32) -> Result<(Interest, Arc<Item>)> {
        self.core.table.lock().get((Arc::as_ptr(file), fd)).ok_or(Errno::ENOENT)
    }

    /// `EPOLL_CTL_MOD`.
    ///
    /// # Errors
    /// ENOENT, EINVAL for what is watched exclusively.
    pub fn modify(&self, file: &FileRef, fd: i32, interest: Interest) -> Result<()> {
        let interest = Interest { events: interest.events | ALWAYS, ..interest };
        let _scan = self.scan.lock();
        let (old, item) = self.find(file, fd)?;
        if old.events & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        self.core.table.lock().change(&item, |old| *old = interest);
        self.look(&item, file, interest);
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    ///
    /// # Errors
    /// ENOENT.
    pub fn remove(&self, file: &FileRef, fd: i32) -> Result<()> {
        let _scan = self.scan.lock();
        let (_, item) = self.find(file, fd)?;
        Self::remove_item(&item, file);
        Ok(())
    }

    /// `epoll_wait(2)`: waits until there are events or the deadline is over (at once if it is 0), and copies
    /// up to `max` of them out.
    ///
    /// # Errors
    /// EFAULT, EINTR.
    pub fn wait(
        &self,
        target: UserPtr<UserEvent>,
        max: usize,
        deadline: Option<u64>,
    ) -> Result<usize> {
        loop {
            if self.core.has_ready() {
                let count = self.collect(target, max)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            if deadline == Some(0) {
                return Ok(0);
            }
            let queues = [&self.core.queue];
            let ready = || self.core.has_ready().then_some(());
            let found = self.core.sleeping(|| sched::wait(&queues, deadline, ready))?;
            if found.is_none() {
                return Ok(0);
            }
        }
    }

    /// Copies out what is ready.
    fn collect(&self, target: UserPtr<UserEvent>, max: usize) -> Result<usize> {
        // What is put back meanwhile is for the next call.
        let end = self.core.table.lock().now();
        let mut done = 0;
        while done < max {
            let mut batch: [Option<Taken>; BATCH] = [const { None }; BATCH];
            let room = (max - done).min(BATCH);
            let ended = self.take_batch(&mut batch[..room], end);
            for at in 0..room {
                let Some(taken) = &batch[at] else { break };
                let [data, high] = [taken.interest.data, taken.interest.data >> 32].map(low_half);
                if target.element(done).write([taken.events, data, high]).is_err() {
                    self.put_back(&batch[at..]);
                    return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
                }
                done += 1;
            }
            if ended {
                break;
            }
        }
        // Others may have found the list empty while what goes back to it was off it.
        if self.core.has_sleepers() && self.core.has_ready() {
            self.core.queue.wake_sleepers();
        }
        Ok(done)
    }

    /// Takes events off the list; says whether the list has ended.
    fn take_batch(&self, batch: &mut [Option<Taken>], end: u64) -> bool {
        let _scan = self.scan.lock();
        let mut filled = 0;
        while filled < batch.len() {
            let Some((interest, item)) = self.core.table.lock().take(end) else { return true };
            let Some(file) = item.file.upgrade() else { continue };
            let events = u32::from(file.poll().0) & interest.events;
            if events == 0 {
                continue;
            }
            if interest.events & EPOLLONESHOT != 0 {
                self.core.table.lock().change(&item, |interest| interest.events &= MODES);
            } else if interest.events & EPOLLET == 0 {
                self.core.table.lock().append(&item);
            }
            batch[filled] = Some(Taken { item, interest, events });
            filled += 1;
        }
        false
    }

    /// Undoes the taking of events that could not be copied out.
    fn put_back(&self, batch: &[Option<Taken>]) {
        let _scan = self.scan.lock();
        let mut table = self.core.table.lock();
        for taken in batch.iter().rev().flatten() {
            let interest = taken.interest;
            if interest.events & EPOLLONESHOT != 0 {
                // Unless it was armed again meanwhile.
                let armed = |now: &mut Interest| {
                    if now.events & !MODES == 0 {
                        *now = interest;
                    }
                };
                table.change(&taken.item, armed);
            }
            table.put_back(&taken.item);
        }
        drop(table);
        self.core.queue.wake(Events::IN);
    }
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl Drop for EventPoll {
    fn drop(&mut self) {
        let table = core::mem::take(&mut *self.core.table.lock());
        for item in table.into_items() {
            ITEMS.fetch_sub(1, Ordering::Relaxed);
            // A file that is just being closed leaves by itself.
            if let Some(file) = item.file.upgrade() {
                file.epolls().remove(&item);
                unregister(&item, file.as_stream().map(|stream| &**stream));
            }
        }
    }
}

impl Stream for EventPoll {
    /// Whether a wait would find anything, for an epoll above this one.
    fn poll(&self) -> Events {
        // Epolls watch each other in no circle (`nesting`): those above come first.
        let _scan = self.scan.lock_in_order();
        let end = self.core.table.lock().now();
        loop {
            let Some((interest, item)) = self.core.table.lock().take(end) else {
                return Events::default();
            };
            let Some(file) = item.file.upgrade() else { continue };
            if u32::from(file.poll().0) & interest.events != 0 {
                self.core.table.lock().put_back(&item);
                // Whoever looked meanwhile, and was going to sleep, found the list empty. It was counted before it
                // looked: either it is seen here, or it saw the item.
                if self.core.has_sleepers() {
                    self.core.queue.wake_sleepers();
                }
                return Events::IN;
            }
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.core.queue)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        event::metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:[eventpoll]")
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
