//! Who watches what.

use super::Instance;
use super::queue::Event;
use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::memory::{PAGE, frame};
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use linux_raw_sys::general::{
    IN_ALL_EVENTS, IN_EXCL_UNLINK, IN_IGNORED, IN_MASK_ADD, IN_MASK_CREATE, IN_ONESHOT,
};

/// What identifies a file: where it is stored, and its number there. Unlike a reference, it does not keep
/// the file.
pub(super) type Key = (u64, u64);

/// The key of a file.
pub(super) fn key(inode: &Inode) -> Key {
    let tree = match inode {
        Inode::Image(..) | Inode::Memory(_) => inode.file_system().map(core::ptr::from_ref),
        Inode::Synthetic(node) => return (node.metadata().device, node.number()),
        Inode::Volume(node) => return (node.device(), node.number()),
        Inode::Stream(stream) => {
            let metadata = stream.metadata();
            return (metadata.device, metadata.number);
        }
    };
    (tree.map_or(0, |tree| tree.addr() as u64), inode.number())
}

/// One file that one instance watches.
struct Watch {
    instance: Arc<Instance>,
    number: i32,
    mask: u32,
}

/// Where a file that somebody has open is now, though it was opened by another name.
struct Moved {
    from: (Key, Vec<u8>),
    to: (Key, Vec<u8>),
}

/// Renamings that are remembered.
const MAX_MOVED: usize = 1024;

struct Registry {
    watches: BTreeMap<Key, Vec<Watch>>,
    /// By instance and number.
    numbers: BTreeMap<(usize, i32), Key>,
    moved: BTreeMap<Key, Vec<Moved>>,
    moved_count: usize,
}

/// Taken with locks of the tree held, and before those of instances.
static REGISTRY: SpinLock<Registry> = SpinLock::new(Registry {
    watches: BTreeMap::new(),
    numbers: BTreeMap::new(),
    moved: BTreeMap::new(),
    moved_count: 0,
});

/// How many watches there are: without any, nothing else is looked at.
pub(super) static WATCHES: AtomicUsize = AtomicUsize::new(0);
/// Whether anybody ever wanted to hear nothing of files whose names are gone.
pub(super) static EXCLUDES_UNLINKED: AtomicBool = AtomicBool::new(false);

/// How many watches there may be: Linux allows them a hundredth of memory, at most a million.
pub fn max_watches() -> usize {
    let wanted = frame::total() * PAGE / 100 / 1300;
    usize::try_from(wanted.clamp(8192, 1 << 20)).unwrap_or(8192)
}

fn address(instance: &Arc<Instance>) -> usize {
    Arc::as_ptr(instance).addr()
}

/// A piece of news about a file.
#[derive(Clone, Copy)]
pub(super) struct News<'a> {
    /// Bits of the event.
    pub(super) mask: u32,
    pub(super) cookie: u32,
    /// The name of the file in the directory that is watched; empty if it is itself watched.
    pub(super) name: &'a [u8],
    /// Whether the name is gone.
    pub(super) is_unlinked: bool,
}

impl Registry {
    fn tell(&mut self, key: Key, news: News<'_>) {
        let Some(watches) = self.watches.get(&key) else { return };
        let mut once = 0;
        for watch in watches {
            let is_excluded = news.is_unlinked && watch.mask & IN_EXCL_UNLINK != 0;
            if watch.mask & news.mask & IN_ALL_EVENTS == 0 || is_excluded {
                continue;
            }
            watch.instance.push(watch.number, news);
            once += usize::from(watch.mask & IN_ONESHOT != 0);
        }
        for _ in 0..once {
            let told = |watch: &&Watch| {
                watch.mask & IN_ONESHOT != 0 && watch.mask & news.mask & IN_ALL_EVENTS != 0
            };
            let first = self.watches.get(&key).and_then(|watches| watches.iter().find(told));
            let Some((instance, number)) =
                first.map(|watch| (watch.instance.clone(), watch.number))
            else {
                return;
            };
            self.remove(&instance, number);
        }
    }

    /// Ends a watch, which is an event.
    fn remove(&mut self, instance: &Arc<Instance>, number: i32) -> bool {
        let Some(key) = self.numbers.remove(&(address(instance), number)) else { return false };
        if let Some(watches) = self.watches.get_mut(&key) {
            watches
                .retain(|watch| watch.number != number || !Arc::ptr_eq(&watch.instance, instance));
            if watches.is_empty() {
                self.watches.remove(&key);
            }
        }
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        let news = News { mask: IN_IGNORED, cookie: 0, name: b"", is_unlinked: false };
        instance.push(number, news);
        true
    }

    /// A number that the instance does not use, after the last one that it gave.
    fn new_number(&self, instance: &Arc<Instance>) -> i32 {
        let mut number = instance.last_number.load(Ordering::Relaxed);
        loop {
            number = number.checked_add(1).unwrap_or(1);
            if !self.numbers.contains_key(&(address(instance), number)) {
                instance.last_number.store(number, Ordering::Relaxed);
                return number;
            }
        }
    }
}

impl Event {
    pub(super) fn new(watch: i32, news: News<'_>) -> Result<Self> {
        let mut name = Vec::new();
        name.try_reserve_exact(news.name.len()).map_err(|_| Errno::ENOMEM)?;
        name.extend_from_slice(news.name);
        Ok(Self { watch, mask: news.mask, cookie: news.cookie, name })
    }
}

/// Tells those who watch a file.
pub(super) fn tell(key: Key, news: News<'_>) {
    REGISTRY.lock().tell(key, news);
}

/// Whether anybody watches a file.
pub(super) fn is_watched(key: Key) -> bool {
    REGISTRY.lock().watches.contains_key(&key)
}

/// Watches a file, or changes how it is watched; returns the watch's number.
///
/// # Errors
/// EEXIST, ENOSPC, ENOMEM.
pub(super) fn watch(instance: &Arc<Instance>, key: Key, wanted: u32) -> Result<i32> {
    let mask = wanted & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK);
    if mask & IN_EXCL_UNLINK != 0 {
        EXCLUDES_UNLINKED.store(true, Ordering::Relaxed);
    }
    let mut registry = REGISTRY.lock();
    let own = |watch: &&mut Watch| Arc::ptr_eq(&watch.instance, instance);
    let known = registry.watches.get_mut(&key).and_then(|watches| watches.iter_mut().find(own));
    if let Some(watch) = known {
        if wanted & IN_MASK_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        watch.mask = if wanted & IN_MASK_ADD != 0 { watch.mask | mask } else { mask };
        return Ok(watch.number);
    }
    if WATCHES.load(Ordering::Relaxed) >= max_watches() {
        return Err(Errno::ENOSPC);
    }
    let number = registry.new_number(instance);
    let watches = registry.watches.entry(key).or_default();
    watches.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    watches.push(Watch { instance: instance.clone(), number, mask });
    registry.numbers.insert((address(instance), number), key);
    WATCHES.fetch_add(1, Ordering::Relaxed);
    Ok(number)
}

/// Ends a watch.
///
/// # Errors
/// EINVAL if the instance has none of that number.
pub(super) fn unwatch(instance: &Arc<Instance>, number: i32) -> Result<()> {
    if REGISTRY.lock().remove(instance, number) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Ends all watches of an instance that nobody can read any more.
pub(super) fn close(instance: &Arc<Instance>) {
    loop {
        let mut registry = REGISTRY.lock();
        let own = (address(instance), 0)..=(address(instance), i32::MAX);
        let Some((&(_, number), _)) = registry.numbers.range(own).next() else { return };
        registry.remove(instance, number);
    }
}

/// A file is gone: the last that is heard of it.
pub(super) fn gone(key: Key, news: News<'_>) {
    let mut registry = REGISTRY.lock();
    if let Some(moved) = registry.moved.remove(&key) {
        registry.moved_count -= moved.len();
    }
    registry.tell(key, news);
    while let Some(watch) = registry.watches.get(&key).and_then(|watches| watches.first()) {
        let (instance, number) = (watch.instance.clone(), watch.number);
        registry.remove(&instance, number);
    }
}

/// Remembers that a file was renamed, for those who have it open by its old name.
pub(super) fn moved(file: Key, from: (Key, &[u8]), to: (Key, &[u8])) {
    let copy = |(key, name): (Key, &[u8])| (key, Vec::from(name));
    let mut registry = REGISTRY.lock();
    if registry.moved_count >= MAX_MOVED {
        registry.moved.clear();
        registry.moved_count = 0;
    }
    let list = registry.moved.entry(file).or_default();
    for moved in list.iter_mut() {
        if (moved.to.0, &*moved.to.1) == from {
            moved.to = copy(to);
        }
    }
    list.retain(|moved| (moved.from.0, &*moved.from.1) != from);
    list.push(Moved { from: copy(from), to: copy(to) });
    registry.moved_count = registry.moved.values().map(Vec::len).sum();
}

/// Tells those who watch the directory that a file is in now, and those who watch the file. It was opened by
/// this name in this directory.
pub(super) fn tell_both(file: Key, (parent, name): (Key, &[u8]), news: News<'_>) {
    let mut registry = REGISTRY.lock();
    let opened = |moved: &&Moved| (moved.from.0, &*moved.from.1) == (parent, name);
    let moved = if registry.moved_count == 0 {
        None
    } else {
        registry.moved.get(&file).and_then(|list| list.iter().find(opened))
    };
    match moved.map(|moved| moved.to.clone()) {
        Some((parent, name)) => registry.tell(parent, News { name: &name, ..news }),
        None => registry.tell(parent, News { name, ..news }),
    }
    registry.tell(file, News { is_unlinked: false, ..news });
}
