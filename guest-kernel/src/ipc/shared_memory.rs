//! Shared memory segments (`shmget(2)`, `shmat(2)`).
//!
//! A segment's pages are frames that are made when they are first touched. Whoever maps it has an
//! [`Attachment`], of which each area of an address space holds a reference: their number is the number
//! of attaches, over forks and splits. With the last one of a segment that is to go, it goes.

use super::{Get, Object, Permissions, READ, Table, WRITE, caller_pid, seconds};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::{Content, Frame, PAGE, Page, PageSource, frame};
use crate::process::Credentials;
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Largest segment (`/proc/sys/kernel/shmmax`).
pub const MAX_SIZE: u64 = u64::MAX - (1 << 24);
/// Pages of all segments together (`/proc/sys/kernel/shmall`).
pub const MAX_PAGES: u64 = MAX_SIZE;
/// Segments (`/proc/sys/kernel/shmmni`).
pub const MAX_SEGMENTS: usize = 4096;
/// `SHM_DEST`: it goes with the last attach.
const REMOVED: u32 = 0o1000;
/// `SHM_LOCKED`.
const LOCKED: u32 = 0o2000;
/// `SHM_HUGETLB`.
const HUGE: u32 = 0o4000;

struct State {
    permissions: Permissions,
    pages: BTreeMap<u64, Frame>,
    attachments: Vec<Weak<Attachment>>,
    attached: i64,
    detached: i64,
    changed: i64,
    last: i32,
}

/// A segment.
pub struct Segment {
    size: u64,
    maker: i32,
    state: SpinLock<State>,
}

/// What `IPC_STAT` tells.
pub struct Status {
    /// Owner, permissions, flags.
    pub permissions: Permissions,
    /// Bytes.
    pub size: u64,
    /// Last attach, detach and change, in seconds since 1970.
    pub times: [i64; 3],
    /// Who made it, and who attached or detached last.
    pub processes: [i32; 2],
    /// Attaches.
    pub attaches: u64,
    /// Pages that are there.
    pub resident: u64,
}

/// What a process that maps the segment has.
pub struct Attachment {
    id: i32,
    segment: Arc<Segment>,
}

static SEGMENTS: Table<Segment> = Table::new(MAX_SEGMENTS);
/// Pages of all segments.
static PAGES: AtomicU64 = AtomicU64::new(0);

impl Object for Segment {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        PAGES.fetch_sub(self.size.div_ceil(PAGE), Ordering::Relaxed);
    }
}

impl State {
    /// Areas that map it, in all processes.
    fn attaches(&self) -> u64 {
        self.attachments.iter().map(|attachment| attachment.strong_count() as u64).sum()
    }
}

impl Segment {
    fn new(size: u64, permissions: Permissions) -> Result<Arc<Self>> {
        // Linux: what would be no file's size is none of a segment either (MAX_LFS_FILESIZE).
        if size == 0 || i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        let pages = size.div_ceil(PAGE);
        // What could never be there is not promised.
        if pages > frame::total() {
            return Err(Errno::ENOMEM);
        }
        let add = |sum: u64| sum.checked_add(pages).filter(|&sum| sum <= MAX_PAGES);
        PAGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENOSPC)?;
        let state = State {
            permissions,
            pages: BTreeMap::new(),
            attachments: Vec::new(),
            attached: 0,
            detached: 0,
            changed: seconds(),
            last: 0,
        };
        Ok(Arc::new(Self { size, maker: caller_pid(), state: SpinLock::new(state) }))
    }

    /// What `IPC_STAT` tells.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            permissions: state.permissions,
            size: self.size,
            times: [state.attached, state.detached, state.changed],
            processes: [self.maker, state.last],
            attaches: state.attaches(),
            resident: state.pages.len() as u64,
        }
    }
}

/// `shmget(2)`.
///
/// # Errors
/// As the man page says.
pub fn get(get: &Get, size: u64, who: &Credentials) -> Result<i32> {
    if get.flags & HUGE != 0 {
        // There is no pool of huge pages, as on a Linux where nobody has made one.
        return Err(Errno::ENOMEM);
    }
    SEGMENTS.get(
        get,
        who,
        |permissions| Segment::new(size, permissions),
        |segment| if segment.size < size { Err(Errno::EINVAL) } else { Ok(()) },
    )
}

/// How long a segment is, in bytes.
///
/// # Errors
/// EINVAL.
pub fn size(id: i32) -> Result<u64> {
    Ok(SEGMENTS.find(id)?.size)
}

/// The segment with this id, if the caller may read it.
///
/// # Errors
/// EINVAL, EACCES.
pub fn find(id: i32, who: &Credentials) -> Result<Arc<Segment>> {
    let segment = SEGMENTS.find(id)?;
    segment.permissions().check(READ, who)?;
    Ok(segment)
}

/// The segment in this slot and its id; if `any`, also one that the caller may not read.
///
/// # Errors
/// EINVAL, EACCES.
pub fn at(index: i32, any: bool, who: &Credentials) -> Result<(i32, Arc<Segment>)> {
    let (id, segment) = SEGMENTS.at(index)?;
    if !any {
        segment.permissions().check(READ, who)?;
    }
    Ok((id, segment))
}

/// Attaches a segment; the caller maps the result, or drops it.
///
/// # Errors
/// EINVAL, EACCES, EIDRM, ENOMEM.
pub fn attach(id: i32, wanted: u32, who: &Credentials) -> Result<(Arc<Attachment>, u64)> {
    let segment = SEGMENTS.find(id)?;
    segment.permissions().check(wanted, who)?;
    let attachment = Arc::new(Attachment { id, segment: segment.clone() });
    let (now, pid) = (seconds(), caller_pid());
    let mut state = segment.state.lock();
    state.attachments.retain(|attachment| attachment.strong_count() > 0);
    if state.permissions.mode & REMOVED != 0 && state.attachments.is_empty() {
        return Err(Errno::EIDRM);
    }
    state.attachments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    state.attachments.push(Arc::downgrade(&attachment));
    state.attached = now;
    state.last = pid;
    drop(state);
    Ok((attachment, segment.size))
}

impl Attachment {
    /// What /proc/PID/maps tells: the key and the id.
    pub fn label(&self) -> (i32, i32) {
        (self.segment.permissions().key, self.id)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let state = self.segment.state.lock();
        let goes = state.permissions.mode & REMOVED != 0 && state.attaches() == 0;
        drop(state);
        if goes {
            drop(SEGMENTS.remove(self.id));
        }
    }
}

impl PageSource for Attachment {
    fn page(&self, index: u64, _write: bool) -> Result<Page> {
        if index >= self.segment.size.div_ceil(PAGE) {
            return Err(Errno::EFAULT);
        }
        let mut state = self.segment.state.lock();
        if let Some(frame) = state.pages.get(&index) {
            return Ok(Page::Frame(frame.clone()));
        }
        let frame = Frame::allocate(Content::Zeroes)?;
        state.pages.insert(index, frame.clone());
        Ok(Page::Frame(frame))
    }

    fn is_segment(&self) -> bool {
        true
    }

    fn unmapped(&self) {
        let (now, pid) = (seconds(), caller_pid());
        let mut state = self.segment.state.lock();
        state.detached = now;
        state.last = pid;
    }
}

/// `IPC_RMID`: the segment goes now, or with the last attach.
///
/// # Errors
/// EINVAL, EPERM.
pub fn remove(id: i32, who: &Credentials) -> Result<()> {
    let segment = SEGMENTS.find(id)?;
    segment.permissions().check_owner(who)?;
    let mut state = segment.state.lock();
    let goes = state.attaches() == 0;
    state.permissions.mode |= REMOVED;
    state.permissions.key = super::PRIVATE;
    drop(state);
    if goes {
        drop(SEGMENTS.remove(id));
    }
    Ok(())
}

/// `IPC_SET`.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set(id: i32, user: u32, group: u32, mode: u32, who: &Credentials) -> Result<()> {
    let segment = SEGMENTS.find(id)?;
    segment.permissions().check_owner(who)?;
    let now = seconds();
    let mut state = segment.state.lock();
    state.permissions.set(user, group, mode)?;
    state.changed = now;
    Ok(())
}

/// `SHM_LOCK` and `SHM_UNLOCK`: memory is never swapped, so that only the flag changes.
///
/// # Errors
/// EINVAL; EPERM without CAP_IPC_LOCK, if the segment is not the caller's or it may lock nothing.
pub fn set_locked(id: i32, locked: bool, may_lock: bool, who: &Credentials) -> Result<()> {
    let segment = SEGMENTS.find(id)?;
    if !who.can(Capability::IpcLock) {
        let Permissions { user, creator, .. } = segment.permissions();
        if (who.euid != user && who.euid != creator) || (locked && !may_lock) {
            return Err(Errno::EPERM);
        }
    }
    let mut state = segment.state.lock();
    let mode = state.permissions.mode & !LOCKED;
    state.permissions.mode = mode | if locked { LOCKED } else { 0 };
    Ok(())
}

/// Segments, the highest slot in use, pages of all segments, and those that are there.
///
/// # Errors
/// ENOMEM.
pub fn usage() -> Result<(usize, i32, u64, u64)> {
    let (used, highest) = SEGMENTS.usage();
    let resident = SEGMENTS.all()?.iter().map(|(_, segment)| segment.status().resident).sum();
    Ok((used, highest, PAGES.load(Ordering::Relaxed), resident))
}

/// All segments with their ids.
///
/// # Errors
/// ENOMEM.
pub fn all() -> Result<Vec<(i32, Arc<Segment>)>> {
    SEGMENTS.all()
}

/// Permission to read, and to write if not `read_only`.
pub const fn access(read_only: bool) -> u32 {
    if read_only { READ } else { READ | WRITE }
}
