//! POSIX message queues (`mq_overview(7)`): by their names, and what they count for.

mod file;
mod queue;

pub use file::Descriptor;
pub use queue::{Message, Notice, Notification, Queue};

use super::caller;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::metadata::PERMISSIONS;
use crate::fs::permission::Subject;
use crate::memory::frame;
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use linux_raw_sys::general::{O_CREAT, O_EXCL};

/// Messages that a queue holds if nothing else is asked for (`/proc/sys/fs/mqueue/msg_default`), and at
/// most (`msg_max`).
pub const MESSAGES: i64 = 10;
/// Bytes of a message, likewise (`msgsize_default`, `msgsize_max`).
pub const MESSAGE_SIZE: i64 = 8192;
/// Queues (`queues_max`).
pub const MAX_QUEUES: usize = 256;
/// The same limits with `CAP_SYS_RESOURCE` (Linux: `HARD_MSGMAX`, `HARD_MSGSIZEMAX`).
const HARD_LIMITS: (i64, i64) = (65_536, 16 << 20);
/// Priorities are below (Linux: `MQ_PRIO_MAX`).
pub const PRIORITIES: u32 = 32_768;
/// What Linux counts for each message, and for each priority (`struct msg_msg`, `struct
/// posix_msg_tree_node`).
const OVERHEAD: [u64; 2] = [48, 48];

/// What a queue holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Messages.
    pub messages: i64,
    /// Bytes of each.
    pub size: i64,
}

impl Attributes {
    /// Bytes that count against `RLIMIT_MSGQUEUE` (`getrlimit(2)`).
    fn charge(self) -> Result<u64> {
        let (Ok(messages), Ok(size)) = (u64::try_from(self.messages), u64::try_from(self.size))
        else {
            return Err(Errno::EINVAL);
        };
        let tree = messages * OVERHEAD[0] + messages.min(PRIORITIES.into()) * OVERHEAD[1];
        messages.checked_mul(size).and_then(|all| all.checked_add(tree)).ok_or(Errno::EOVERFLOW)
    }

    fn check(self, privileged: bool) -> Result<()> {
        let (messages, size) = if privileged { HARD_LIMITS } else { (MESSAGES, MESSAGE_SIZE) };
        let fits = (1..=messages).contains(&self.messages) && (1..=size).contains(&self.size);
        if fits { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// What is asked of `mq_open(3)`.
pub struct Request<'a> {
    /// The name, without a slash.
    pub name: Vec<u8>,
    /// `O_*`.
    pub flags: u32,
    /// Permissions of a new queue.
    pub mode: u32,
    /// How large a new queue is.
    pub attributes: Option<Attributes>,
    /// `RLIMIT_MSGQUEUE`.
    pub limit: u64,
    /// Who asks.
    pub subject: Subject<'a>,
}

static NAMES: SpinLock<BTreeMap<Vec<u8>, Arc<Queue>>> = SpinLock::new(BTreeMap::new());
/// All queues by their inode numbers, also those without a name that are still open.
static ALL: SpinLock<BTreeMap<u64, Weak<Queue>>> = SpinLock::new(BTreeMap::new());
/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// What the queues of users count for.
static CHARGES: SpinLock<BTreeMap<u32, u64>> = SpinLock::new(BTreeMap::new());
/// Queues that tell someone of messages.
static NOTIFICATIONS: AtomicUsize = AtomicUsize::new(0);

/// What a user's queue counts for, as long as it is there.
struct Charge {
    user: u32,
    bytes: u64,
}

impl Charge {
    fn new(user: u32, bytes: u64, limit: u64, privileged: bool) -> Result<Self> {
        let add = |count: usize| (privileged || count < MAX_QUEUES).then_some(count + 1);
        let counted = COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        counted.map_err(|_| Errno::ENOSPC)?;
        let mut charges = CHARGES.lock();
        let sum = charges.entry(user).or_insert(0);
        match sum.checked_add(bytes).filter(|&sum| sum <= limit) {
            Some(new) => {
                *sum = new;
                Ok(Self { user, bytes })
            }
            None => {
                if *sum == 0 {
                    charges.remove(&user);
                }
                COUNT.fetch_sub(1, Ordering::Relaxed);
                Err(Errno::EMFILE)
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        let mut charges = CHARGES.lock();
        if let Some(sum) = charges.get_mut(&self.user) {
            *sum -= self.bytes;
            if *sum == 0 {
                charges.remove(&self.user);
            }
        }
    }
}

/// Linux: `lookup_one_len`.
fn check_name(name: &[u8]) -> Result<()> {
    const LONGEST: usize = 255;
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > LONGEST => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// `mq_open(3)`: the queue, and whether it is new.
///
/// # Errors
/// As the man page says. Whether the caller may use a queue that was there is for it to check.
pub fn open(request: Request<'_>) -> Result<(Arc<Queue>, bool)> {
    check_name(&request.name)?;
    let found = NAMES.lock().get(&request.name).cloned();
    let found = match found {
        Some(found) => found,
        None if request.flags & O_CREAT == 0 => return Err(Errno::ENOENT),
        None => {
            let new = make(&request)?;
            let mut names = NAMES.lock();
            match names.get(&request.name) {
                // Someone was quicker.
                Some(found) => {
                    let found = found.clone();
                    drop(names);
                    found
                }
                None => {
                    names.insert(request.name, new.clone());
                    return Ok((new, true));
                }
            }
        }
    };
    let exclusive = O_CREAT | O_EXCL;
    if request.flags & exclusive == exclusive { Err(Errno::EEXIST) } else { Ok((found, false)) }
}

fn make(request: &Request<'_>) -> Result<Arc<Queue>> {
    frame::check_room()?;
    let privileged = request.subject.can(Capability::SysResource);
    let default = Attributes { messages: MESSAGES, size: MESSAGE_SIZE };
    let attributes = request.attributes.unwrap_or(default);
    attributes.check(privileged)?;
    let mut name = Vec::new();
    name.try_reserve_exact(request.name.len()).map_err(|_| Errno::ENOMEM)?;
    name.extend_from_slice(&request.name);
    let charge = Charge::new(caller().real.0, attributes.charge()?, request.limit, privileged)?;
    let owner = (request.subject.user, request.subject.group);
    let queue = Queue::new(name, attributes, request.mode & PERMISSIONS, owner, charge);
    ALL.lock().insert(queue.number, Arc::downgrade(&queue));
    Ok(queue)
}

/// `mq_unlink(3)`: the name goes, the queue with its last user.
///
/// # Errors
/// ENOENT, EACCES, ENAMETOOLONG; EPERM for who neither owns it nor has `CAP_FOWNER`.
pub fn unlink(name: &[u8], subject: &Subject<'_>) -> Result<()> {
    check_name(name)?;
    let mut names = NAMES.lock();
    let queue = names.get(name).ok_or(Errno::ENOENT)?;
    // The directory is root's, and sticky.
    if subject.user != 0 && subject.user != queue.owner.0 && !subject.can(Capability::Fowner) {
        return Err(Errno::EPERM);
    }
    queue.set_unlinked();
    let removed = names.remove(name);
    drop(names);
    drop(removed);
    Ok(())
}

/// A process has ended: it is told of nothing any more.
pub fn process_ended(pid: i32) {
    if NOTIFICATIONS.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut from = 0;
    // One after the other: the last reference to a queue may not be dropped under the lock.
    loop {
        let next =
            ALL.lock().range(from..).next().map(|(&number, queue)| (number, queue.upgrade()));
        let Some((number, queue)) = next else { return };
        if let Some(queue) = queue {
            queue.forget_notification(pid);
        }
        from = number + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_counts_as_the_man_page_says() {
        assert_eq!(Attributes { messages: 10, size: 8192 }.charge(), Ok(82_880));
        assert_eq!(
            Attributes { messages: 40_000, size: 1 }.charge(),
            Ok(40_000 * 49 + 32_768 * 48)
        );
        assert_eq!(Attributes { messages: 2, size: i64::MAX }.charge(), Err(Errno::EOVERFLOW));
        for (messages, size, plain, privileged) in [
            (10, 8192, true, true),
            (11, 1, false, true),
            (1, 8193, false, true),
            (65_536, 16 << 20, false, true),
            (65_537, 1, false, false),
            (0, 1, false, false),
            (1, -1, false, false),
        ] {
            let attributes = Attributes { messages, size };
            assert_eq!(attributes.check(false).is_ok(), plain, "{attributes:?}");
            assert_eq!(attributes.check(true).is_ok(), privileged, "{attributes:?}");
        }
    }

    #[test]
    fn a_users_queues_are_limited_together() {
        let charge = |bytes| Charge::new(77, bytes, 100, true);
        let first = charge(60).expect("room");
        assert!(charge(41).is_err());
        let second = charge(40).expect("room");
        drop(first);
        assert!(charge(60).is_ok());
        drop(second);
        assert!(!CHARGES.lock().contains_key(&77));
    }

    #[test]
    fn a_name_has_no_slash() {
        for (name, result) in [
            (b"name".as_slice(), Ok(())),
            (b"", Err(Errno::ENOENT)),
            (b"..", Err(Errno::EACCES)),
            (b"/name", Err(Errno::EACCES)),
            (&[b'x'; 255], Ok(())),
            (&[b'x'; 256], Err(Errno::ENAMETOOLONG)),
        ] {
            assert_eq!(check_name(name), result);
        }
    }
}
