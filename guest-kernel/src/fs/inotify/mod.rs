//! Telling programs what happens to files (`inotify(7)`).
//!
//! Whatever changes or uses a file calls a function of this module; as long as nobody watches anything,
//! that is a look at one number ([`is_active`]). Watches are kept by what identifies a file, so that they
//! do not keep the file itself.

mod queue;
mod registry;

pub use queue::MAX_EVENTS;
pub use registry::max_watches;

use super::event::metadata;
use super::inode::Inode;
use super::metadata::Metadata;
use super::mount::Mount;
use super::path::{Found, Name, name_in};
use super::root::FileSystem;
use super::stream::{Events, Seek, Stream};
use super::tmpfs::Node;
use crate::errno::{Errno, Result};
use crate::memory::{UserPtr, UserWriter};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use linux_raw_sys::general::{
    IN_ATTRIB, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_ISDIR, IN_MOVE_SELF, IN_MOVED_FROM,
    IN_MOVED_TO,
};
use linux_raw_sys::ioctl::FIONREAD;
use queue::{Event, Queue};
use registry::{EXCLUDES_UNLINKED, News, WATCHES, key};

/// Instances that there may be (`/proc/sys/fs/inotify/max_user_instances`).
pub const MAX_INSTANCES: usize = 128;

static INSTANCES: AtomicUsize = AtomicUsize::new(0);
/// The cookie of the last renaming.
static COOKIE: AtomicU32 = AtomicU32::new(0);

/// An instance, as watches know it.
struct Instance {
    events: SpinLock<Queue>,
    queue: WaitQueue,
    last_number: AtomicI32,
}

impl Instance {
    fn push(&self, watch: i32, news: News<'_>) {
        let mut events = self.events.lock();
        match Event::new(watch, news) {
            Ok(event) => events.push(event),
            Err(_) => events.overflow(),
        }
        drop(events);
        self.queue.wake(Events::IN);
    }
}

/// An instance, as a program has it open; dropping it ends all its watches.
pub struct Inotify(Arc<Instance>);

impl Inotify {
    /// A new instance.
    ///
    /// # Errors
    /// EMFILE if there are too many.
    pub fn new() -> Result<Arc<Self>> {
        let add = |count: usize| (count < MAX_INSTANCES).then_some(count + 1);
        let added = INSTANCES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.map_err(|_| Errno::EMFILE)?;
        Ok(Arc::new(Self(Arc::new(Instance {
            events: SpinLock::new(Queue::default()),
            queue: WaitQueue::new(),
            last_number: AtomicI32::new(0),
        }))))
    }

    /// Watches a file, or changes how it is watched; returns the number of the watch.
    ///
    /// # Errors
    /// EEXIST, ENOSPC, ENOMEM.
    pub fn watch(&self, inode: &Inode, mask: u32) -> Result<i32> {
        registry::watch(&self.0, key(inode), mask)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// EINVAL if there is none of this number.
    pub fn unwatch(&self, number: i32) -> Result<()> {
        registry::unwatch(&self.0, number)
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        registry::close(&self.0);
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream for Inotify {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        let mut done = 0;
        loop {
            let taken = self.0.events.lock().take(buffer.remaining());
            match taken {
                Ok(Some(bytes)) => {
                    // What cannot be copied out is lost, as on Linux.
                    if buffer.write_slice(&bytes)? < bytes.len() {
                        return Err(Errno::EFAULT);
                    }
                    done += bytes.len();
                }
                Ok(None) | Err(_) if done > 0 => return Ok(done),
                Ok(None) if wait => {
                    let arrived = || (!self.0.events.lock().is_empty()).then_some(());
                    self.0.queue.wait_until(arrived)?;
                }
                Ok(None) => return Err(Errno::EAGAIN),
                Err(error) => return Err(error),
            }
        }
    }

    fn poll(&self) -> Events {
        Events::IN.when(!self.0.events.lock().is_empty())
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:inotify")
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = i32::try_from(self.0.events.lock().bytes()).unwrap_or(i32::MAX);
        UserPtr::<i32>::new(argument).write(count)?;
        Ok(0)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Whether anybody watches anything.
#[inline]
pub fn is_active() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

const fn news(mask: u32) -> News<'static> {
    News { mask, cookie: 0, name: b"", is_unlinked: false }
}

/// A file, and where a path or a descriptor found it.
pub struct Located {
    /// The file.
    pub inode: Inode,
    /// Directory and name.
    pub place: Option<(Inode, Name)>,
    /// The mount by which it was reached.
    pub mount: Option<Arc<Mount>>,
}

impl Located {
    /// What a walk has found.
    ///
    /// # Errors
    /// As [`Found::existing`].
    pub fn from_found(found: Found) -> Result<Self> {
        let place = is_active().then(|| (found.parent.clone(), found.name.clone()));
        let mount = found.mount.clone();
        Ok(Self { inode: found.existing()?, place, mount })
    }

    /// Whether it may be changed by way of the mount.
    ///
    /// # Errors
    /// EROFS.
    pub fn check_writable(&self) -> Result<()> {
        self.mount.as_ref().map_or(Ok(()), |mount| mount.check_writable())
    }

    /// Something happened to the file.
    #[inline]
    pub fn notify(&self, mask: u32) {
        if is_active() {
            let place = self.place.as_ref().map(|(parent, name)| (parent, name.bytes()));
            notify(&self.inode, place, mask);
        }
    }
}

/// Something happened to a file that was found by this name in this directory: those who watch either hear
/// of it.
#[cold]
pub fn notify(inode: &Inode, place: Option<(&Inode, &[u8])>, mask: u32) {
    let own = key(inode);
    if is_directory(inode) {
        let mask = mask | IN_ISDIR;
        notify_above(inode, mask);
        return registry::tell(own, news(mask));
    }
    let Some((parent, name)) = place.filter(|(_, name)| !name.is_empty()) else {
        return registry::tell(own, news(mask));
    };
    let is_unlinked = EXCLUDES_UNLINKED.load(Ordering::Relaxed)
        && !parent.lookup(name).is_ok_and(|there| there.is(inode));
    let news = News { is_unlinked, ..news(mask) };
    registry::tell_both(own, (key(parent), name), news);
}

fn is_directory(inode: &Inode) -> bool {
    match inode {
        // Without a look at the attributes.
        Inode::Memory(node) => node.directory().is_ok(),
        Inode::Stream(_) => false,
        _ => inode.is_directory().unwrap_or(false),
    }
}

/// Tells those who watch the directory that a directory is in. However it was found, it has one place.
fn notify_above(directory: &Inode, mask: u32) {
    let Ok(parent) = directory.parent() else { return };
    if parent.is(directory) || !registry::is_watched(key(&parent)) {
        return;
    }
    if let Ok(Some(name)) = name_in(&parent, directory) {
        registry::tell(key(&parent), News { name: &name, ..news(mask) });
    }
}

fn with_kind(mask: u32, is_directory: bool) -> u32 {
    if is_directory { mask | IN_ISDIR } else { mask }
}

/// A name was made for a new file.
#[inline]
pub fn created(parent: &Inode, name: &[u8], is_directory: bool) {
    if is_active() {
        let mask = with_kind(IN_CREATE, is_directory);
        registry::tell(key(parent), News { name, ..news(mask) });
    }
}

/// The number of a file's names changed.
#[inline]
pub fn links_changed(inode: &Inode) {
    if is_active() {
        registry::tell(key(inode), news(IN_ATTRIB));
    }
}

/// A name was removed.
#[inline]
pub fn deleted(parent: &Inode, name: &[u8], is_directory: bool) {
    if is_active() {
        let mask = with_kind(IN_DELETE, is_directory);
        registry::tell(key(parent), News { name, ..news(mask) });
    }
}

/// A file lost its last name; if nobody has it open, it is gone. `held` references are the caller's.
#[inline]
pub fn lost_last_name(inode: &Inode, node: &Arc<Node>, held: usize) {
    if is_active() && node.attributes().links == 0 {
        // A file of the image stays for those who have it open; who they are is not known.
        let is_open = matches!(inode, Inode::Memory(_)) && Arc::strong_count(node) > held;
        if !is_open {
            registry::gone(key(inode), news(IN_DELETE_SELF));
        }
    }
}

/// The last reference to a file without a name was dropped.
#[inline]
pub fn freed(file_system: &'static FileSystem, number: u64) {
    if is_active() {
        let tree = core::ptr::from_ref(file_system).addr() as u64;
        registry::gone((tree, number), news(IN_DELETE_SELF));
    }
}

/// A file was renamed; `victim` lost its name to it.
#[inline]
pub fn renamed(
    file: &Inode,
    is_directory: bool,
    from: (&Inode, &[u8]),
    to: (&Inode, &[u8]),
    victim: Option<&Inode>,
) {
    if is_active() {
        tell_renamed(file, is_directory, from, to, victim);
    }
}

#[cold]
fn tell_renamed(
    file: &Inode,
    is_directory: bool,
    (from, old): (&Inode, &[u8]),
    (to, new): (&Inode, &[u8]),
    victim: Option<&Inode>,
) {
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let tell = |directory: &Inode, name, mask| {
        let mask = with_kind(mask, is_directory);
        registry::tell(key(directory), News { name, cookie, ..news(mask) });
    };
    if !is_directory {
        registry::moved(key(file), (key(from), old), (key(to), new));
    }
    tell(from, old, IN_MOVED_FROM);
    tell(to, new, IN_MOVED_TO);
    if let Some(victim) = victim {
        links_changed(victim);
    }
    registry::tell(key(file), news(IN_MOVE_SELF));
}
