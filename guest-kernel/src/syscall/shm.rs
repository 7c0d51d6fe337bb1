//! Shared memory of System V: shmget(2), shmat(2), shmdt(2), shmctl(2).

use super::sysv::{INFO, Owner, RMID, SET, STAT};
use crate::errno::{Errno, Result};
use crate::ipc::shared_memory::{self as segments, Segment, Status};
use crate::ipc::{self};
use crate::memory::areas::{AreaFlags, Backing, FileLabel, Label, Protection};
use crate::memory::space::{Mapping, Placement};
use crate::memory::user::Plain;
use crate::memory::{PAGE, PageSource, UserPtr, page_ceil, page_floor};
use crate::process::{bounds, current};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `SHM_RDONLY`.
const READ_ONLY: u32 = 0o10_000;
/// `SHM_RND`.
const ROUND: u32 = 0o20_000;
/// `SHM_REMAP`.
const REPLACE: u32 = 0o40_000;
/// `SHM_EXEC`.
const EXECUTE: u32 = 0o100_000;
/// `SHM_LOCK`.
const LOCK: u32 = 11;
/// `SHM_UNLOCK`.
const UNLOCK: u32 = 12;
/// `SHM_STAT`.
const STAT_AT: u32 = 13;
/// `SHM_INFO`.
const USAGE: u32 = 14;
/// `SHM_STAT_ANY`.
const STAT_ANY_AT: u32 = 15;
/// Device number of Linux's internal file system of shared memory, as /proc/PID/maps shows it.
const DEVICE: u64 = 1;

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentStatus {
    owner: Owner,
    size: u64,
    times: [i64; 3],
    processes: [i32; 2],
    attaches: u64,
    unused: [u64; 2],
}

// SAFETY: integers without a gap.
unsafe impl Plain for SegmentStatus {}
const _: () = assert!(size_of::<SegmentStatus>() == 112);

/// `shmget(2)`.
///
/// # Errors
/// As the man page says.
pub fn shmget(key: i32, size: usize, flags: u32) -> Result<i32> {
    let who = current().credentials();
    segments::get(&ipc::Get { key, flags }, size as u64, &who)
}

/// `shmat(2)`.
///
/// # Errors
/// As the man page says.
pub fn shmat(id: i32, address: u64, flags: u32) -> Result<u64> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let placement = match (address, flags & ROUND != 0, flags & REPLACE != 0) {
        (0, _, true) => return Err(Errno::EINVAL),
        (0, _, false) => Placement::Hint(0),
        (address, round, replace) => {
            if !address.is_multiple_of(PAGE) && !round {
                return Err(Errno::EINVAL);
            }
            let address = page_floor(address);
            let most = u64::MAX - page_ceil(segments::size(id)?).ok_or(Errno::EINVAL)?;
            if address > most {
                return Err(Errno::EINVAL);
            }
            if replace { Placement::Fixed(address) } else { Placement::FixedNoReplace(address) }
        }
    };
    if placement == Placement::Fixed(0) {
        return Err(Errno::EINVAL);
    }
    let read_only = flags & READ_ONLY != 0;
    let mut rights = Protection::READ;
    let mut wanted = segments::access(read_only);
    if !read_only {
        rights = rights.with(Protection::WRITE);
    }
    if flags & EXECUTE != 0 {
        rights = rights.with(Protection::EXECUTE);
        wanted |= 0o111;
    }
    let process = current();
    let (attachment, size) = segments::attach(id, wanted, &process.credentials())?;
    let (key, id) = attachment.label();
    let label = FileLabel {
        device: DEVICE,
        inode: u64::try_from(id).unwrap_or(0),
        path: alloc::format!("/SYSV{key:08x} (deleted)").into_bytes(),
    };
    let mapping = Mapping {
        placement,
        len: size,
        protection: rights,
        // What was attached for reading can only be read.
        allowed: if read_only {
            Protection::READ.with(Protection::EXECUTE)
        } else {
            Protection::ALL
        },
        shared: true,
        backing: Backing::Object { source: attachment, first_page: 0 },
        label: Label::File(Arc::new(label)),
        flags: AreaFlags::NONE,
    };
    let mapped = process.memory().map(mapping, &bounds());
    mapped.map_err(|error| if error == Errno::EEXIST { Errno::EINVAL } else { error })
}

/// `shmdt(2)`: all that is left of the segment that was attached there.
///
/// # Errors
/// As the man page says.
pub fn shmdt(address: u64) -> Result<()> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let process = current();
    let space = process.memory();
    let mut found: Option<Arc<dyn PageSource>> = None;
    let mut pieces = Vec::new();
    for area in space.areas()? {
        let Backing::Object { source, .. } = &area.backing else { continue };
        // A piece is where it was put if the segment's first page would be at the address.
        let offset = area.page_index(area.start).checked_mul(PAGE);
        let begins = offset.and_then(|offset| area.start.checked_sub(offset));
        if !source.is_segment() || begins != Some(address) {
            continue;
        }
        let source = found.get_or_insert_with(|| source.clone()).clone();
        let Backing::Object { source: other, .. } = &area.backing else { continue };
        if Arc::ptr_eq(&source, other) {
            pieces.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            pieces.push((area.start, area.end - area.start));
        }
    }
    if pieces.is_empty() {
        return Err(Errno::EINVAL);
    }
    for (start, len) in pieces {
        space.unmap(start, len)?;
    }
    Ok(())
}

fn tell(segment: &Segment, id: i32, buffer: u64) -> Result<()> {
    let Status { permissions, size, times, processes, attaches, .. } = segment.status();
    UserPtr::new(buffer).write(SegmentStatus {
        owner: Owner::new(&permissions, id),
        size,
        times,
        processes,
        attaches,
        unused: [0; 2],
    })
}

/// `shmctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn shmctl(id: i32, command: u32, buffer: u64) -> Result<i32> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = current().credentials();
    match command {
        RMID => segments::remove(id, &who)?,
        SET => {
            let Owner { user, group, mode, .. } = UserPtr::<Owner>::new(buffer).read()?;
            segments::set(id, user, group, mode, &who)?;
        }
        STAT => tell(&*segments::find(id, &who)?, id, buffer)?,
        STAT_AT | STAT_ANY_AT => {
            let (id, segment) = segments::at(id, command == STAT_ANY_AT, &who)?;
            tell(&segment, id, buffer)?;
            return Ok(id);
        }
        LOCK | UNLOCK => {
            let may_lock = super::memory_lock::may_lock();
            segments::set_locked(id, command == LOCK, may_lock, &who)?;
        }
        INFO => {
            let most = segments::MAX_SEGMENTS as u64;
            // `struct shminfo64`: shmmax, shmmin, shmmni, shmseg, shmall.
            let limits = [segments::MAX_SIZE, 1, most, most, segments::MAX_PAGES, 0, 0, 0, 0];
            UserPtr::new(buffer).write(limits)?;
            return Ok(segments::usage()?.1);
        }
        USAGE => {
            let (used, highest, pages, resident) = segments::usage()?;
            // `struct shm_info`: used_ids (an int), shm_tot, shm_rss, shm_swp and two more.
            UserPtr::new(buffer).write([used as u64, pages, resident, 0, 0, 0])?;
            return Ok(highest);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
