//! Advisory locks: on whole files (`flock(2)`), and on their bytes (`fcntl(2)`).
//!
//! A lock of `flock` belongs to an open file description and goes with it, as does a record lock that
//! was asked for so (`F_OFD_SETLK`). Other record locks belong to a process, and go when it closes any
//! descriptor of the file ([`closed`]) or ends.

mod ranges;

pub use ranges::{LAST, Range};

use super::inode::Inode;
use super::metadata::device_parts;
use super::open_file::{FileRef, OpenFile};
use super::services::services;
use crate::errno::{Errno, Result};
use crate::memory::frame;
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};
use ranges::Ranges;

/// A kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may have it too.
    Shared,
    /// Nobody else has one.
    Exclusive,
}

/// Whose a record lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process's.
    Process(i32),
    /// That of this open file description, which is only compared.
    File(usize),
}

/// A lock on a whole file.
struct Whole {
    owner: usize,
    kind: Kind,
    /// Who asked for it.
    pid: i32,
}

/// The locks on one file.
struct FileLocks {
    inode: Inode,
    wholes: Vec<Whole>,
    ranges: Ranges,
}

/// Which file: the kind of its inode, and its number.
type Key = (u64, u64);

struct Table {
    files: BTreeMap<Key, FileLocks>,
    /// Which process waits for which, as it waits for a record lock.
    waits: Vec<(i32, i32)>,
}

static TABLE: SpinLock<Table> = SpinLock::new(Table { files: BTreeMap::new(), waits: Vec::new() });
static WAITERS: WaitQueue = WaitQueue::new();
/// Files on which processes may have record locks, so that most closes need not look.
static FILES_WITH_RANGES: AtomicUsize = AtomicUsize::new(0);
/// How many others a chain of those who wait leads over (Linux: `MAX_DEADLK_ITERATIONS`).
const LONGEST_CHAIN: usize = 10;

fn identity(file: &OpenFile) -> usize {
    core::ptr::from_ref(file).addr()
}

fn pid() -> i32 {
    services().map_or(0, |services| services.caller().pid)
}

fn key_of(inode: &Inode) -> Key {
    inode.identity()
}

impl Table {
    /// The locks of a file, which can be added to.
    fn of(&mut self, inode: &Inode) -> &mut FileLocks {
        self.files.entry(key_of(inode)).or_insert_with(|| FileLocks {
            inode: inode.clone(),
            wholes: Vec::new(),
            ranges: Ranges::new(),
        })
    }

    /// Forgets a file without locks; gives what is to be dropped without the lock.
    fn tidy(&mut self, key: Key) -> Option<FileLocks> {
        let file = self.files.get(&key)?;
        if file.wholes.is_empty() && file.ranges.is_empty() {
            self.files.remove(&key)
        } else {
            None
        }
    }

    /// Whether a process that waits for `blocker` would wait for itself.
    fn would_deadlock(&self, waiter: i32, blocker: i32) -> bool {
        let mut at = blocker;
        for _ in 0..=LONGEST_CHAIN {
            if at == waiter {
                return true;
            }
            let Some(&(_, next)) = self.waits.iter().find(|(from, _)| *from == at) else {
                return false;
            };
            at = next;
        }
        false
    }
}

/// `flock(2)`: locks a file, or changes the kind of the lock.
///
/// # Errors
/// EAGAIN (EWOULDBLOCK) if another description holds a lock that conflicts and `wait` is false,
/// EINTR, ENOLCK.
pub fn acquire(file: &FileRef, kind: Kind, wait: bool) -> Result<()> {
    let (owner, pid) = (identity(file), pid());
    frame::check_room().map_err(|_| Errno::ENOLCK)?;
    // Changing the kind is not atomic: the old lock goes first (flock(2)).
    let lost = Cell::new(false);
    let attempt = || {
        let mut table = TABLE.lock();
        let locks = table.of(file.inode());
        if locks.wholes.iter().any(|lock| lock.owner == owner && lock.kind == kind) {
            return Some(Ok(()));
        }
        let before = locks.wholes.len();
        locks.wholes.retain(|lock| lock.owner != owner);
        if locks.wholes.len() < before {
            lost.set(true);
        }
        let conflicts = |lock: &Whole| kind == Kind::Exclusive || lock.kind == Kind::Exclusive;
        if locks.wholes.iter().any(conflicts) {
            return None;
        }
        if locks.wholes.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOLCK));
        }
        locks.wholes.push(Whole { owner, kind, pid });
        file.set_locked();
        Some(Ok(()))
    };
    let first = attempt();
    if lost.get() {
        WAITERS.wake_all();
    }
    match first {
        Some(result) => result,
        None if wait => WAITERS.wait_until(attempt)?,
        None => Err(Errno::EAGAIN),
    }
}

/// `flock(2)`: gives up a description's lock, if it has one.
pub fn release(file: &OpenFile) {
    let owner = identity(file);
    release_where(file, |locks| {
        let before = locks.wholes.len();
        locks.wholes.retain(|lock| lock.owner != owner);
        locks.wholes.len() < before
    });
}

fn release_where(file: &OpenFile, remove: impl FnOnce(&mut FileLocks) -> bool) {
    let key = key_of(file.inode());
    let (removed, empty) = {
        let mut table = TABLE.lock();
        let removed = table.files.get_mut(&key).is_some_and(|locks| {
            let was_empty = locks.ranges.is_empty();
            let removed = remove(locks);
            count(was_empty, locks.ranges.is_empty());
            removed
        });
        (removed, table.tidy(key))
    };
    // Dropped without the lock: the inode may be the last reference to a file.
    drop(empty);
    if removed {
        WAITERS.wake_all();
    }
}

/// A description ends, and with it its locks.
pub(super) fn description_ended(file: &OpenFile) {
    let owner = identity(file);
    release_where(file, |locks| {
        let before = locks.wholes.len();
        locks.wholes.retain(|lock| lock.owner != owner);
        locks.ranges.remove_all(Owner::File(owner)) || locks.wholes.len() < before
    });
}

/// A process has closed a descriptor of a file: its record locks on it go.
#[inline]
pub(super) fn closed(file: &OpenFile, pid: i32) {
    if FILES_WITH_RANGES.load(Ordering::Relaxed) > 0 {
        release_where(file, |locks| locks.ranges.remove_all(Owner::Process(pid)));
    }
}

/// A process has ended, and with it its record locks.
pub fn process_ended(pid: i32) {
    if FILES_WITH_RANGES.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut removed = false;
    // Dropped without the lock, one after the other.
    loop {
        let mut table = TABLE.lock();
        let mut empty = None;
        for (&key, locks) in &mut table.files {
            if locks.ranges.remove_all(Owner::Process(pid)) {
                count(false, locks.ranges.is_empty());
                removed = true;
                empty = Some(key);
                break;
            }
        }
        let Some(key) = empty else { break };
        let empty = table.tidy(key);
        drop(table);
        drop(empty);
    }
    if removed {
        WAITERS.wake_all();
    }
}

/// The owner of record locks that are asked for through a file.
pub fn owner(file: &FileRef, of_description: bool) -> Owner {
    if of_description { Owner::File(identity(file)) } else { Owner::Process(pid()) }
}

/// `F_GETLK`: the lock that keeps this one from being set.
pub fn test(file: &FileRef, wanted: &Range) -> Option<Range> {
    let table = TABLE.lock();
    table.files.get(&key_of(file.inode()))?.ranges.conflict(wanted).copied()
}

/// `F_SETLK`, `F_SETLKW`: sets a record lock, or removes one if there is no kind.
///
/// # Errors
/// EAGAIN if there is one that conflicts and `wait` is false, EDEADLK, EINTR, ENOLCK.
pub fn set(file: &FileRef, wanted: &Range, kind: Option<Kind>, wait: bool) -> Result<()> {
    frame::check_room().map_err(|_| Errno::ENOLCK)?;
    let mut is_noted = false;
    let attempt = || {
        let mut table = TABLE.lock();
        if is_noted {
            // Whom it waits for is looked up again.
            forget_wait(&mut table, wanted.owner);
            is_noted = false;
        }
        let locks = table.of(file.inode());
        let blocker = kind.and_then(|_| locks.ranges.conflict(wanted)).map(|held| held.owner);
        let Some(blocker) = blocker else {
            let was_empty = locks.ranges.is_empty();
            let result = locks.ranges.set(wanted, kind);
            let is_empty = locks.ranges.is_empty();
            count(was_empty, is_empty);
            if let Owner::File(_) = wanted.owner {
                file.set_locked();
            }
            return Some(result);
        };
        if !wait {
            return Some(Err(Errno::EAGAIN));
        }
        if let (Owner::Process(own), Owner::Process(other)) = (wanted.owner, blocker) {
            if table.would_deadlock(own, other) {
                return Some(Err(Errno::EDEADLK));
            }
            if table.waits.try_reserve(1).is_err() {
                return Some(Err(Errno::ENOLCK));
            }
            table.waits.push((own, other));
            is_noted = true;
        }
        None
    };
    let result = WAITERS.wait_until(attempt);
    let empty = {
        let mut table = TABLE.lock();
        if is_noted {
            forget_wait(&mut table, wanted.owner);
        }
        table.tidy(key_of(file.inode()))
    };
    drop(empty);
    let weaker = result??;
    if weaker {
        WAITERS.wake_all();
    }
    Ok(())
}

fn forget_wait(table: &mut Table, owner: Owner) {
    let at = table.waits.iter().position(|(waiter, _)| Owner::Process(*waiter) == owner);
    if let Some(at) = at {
        table.waits.swap_remove(at);
    }
}

fn count(was_empty: bool, is_empty: bool) {
    match (was_empty, is_empty) {
        (true, false) => FILES_WITH_RANGES.fetch_add(1, Ordering::Relaxed),
        (false, true) => FILES_WITH_RANGES.fetch_sub(1, Ordering::Relaxed),
        _ => 0,
    };
}

/// What `/proc/locks` shows.
///
/// # Errors
/// EUCLEAN, ENOMEM.
pub fn text() -> Result<Vec<u8>> {
    struct Line {
        kind: &'static str,
        exclusive: bool,
        pid: i32,
        inode: Inode,
        start: u64,
        end: u64,
    }
    let mut lines = Vec::new();
    {
        let table = TABLE.lock();
        for file in table.files.values() {
            let inode = &file.inode;
            let wholes = file.wholes.iter().map(|whole| Line {
                kind: "FLOCK ",
                exclusive: whole.kind == Kind::Exclusive,
                pid: whole.pid,
                inode: inode.clone(),
                start: 0,
                end: LAST,
            });
            let ranges = file.ranges.iter().map(|range| {
                let (kind, pid) = match range.owner {
                    Owner::Process(pid) => ("POSIX ", pid),
                    Owner::File(_) => ("OFDLCK", -1),
                };
                let exclusive = range.kind == Kind::Exclusive;
                Line {
                    kind,
                    exclusive,
                    pid,
                    inode: inode.clone(),
                    start: range.start,
                    end: range.end,
                }
            });
            for line in wholes.chain(ranges) {
                lines.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                lines.push(line);
            }
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let (major, minor) = device_parts(line.inode.metadata()?.device);
        let access = if line.exclusive { "WRITE" } else { "READ " };
        let Line { kind, pid, start, end, .. } = line;
        let node = line.inode.number();
        let number = number + 1;
        write!(
            text,
            "{number}: {kind} ADVISORY  {access} {pid} {major:02x}:{minor:02x}:{node} {start} "
        )
        .map_err(|_| Errno::ENOMEM)?;
        if *end == LAST {
            text.push_str("EOF\n");
        } else {
            writeln!(text, "{end}").map_err(|_| Errno::ENOMEM)?;
        }
    }
    Ok(text.into_bytes())
}
