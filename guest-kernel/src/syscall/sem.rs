//! Semaphores of System V: semget(2), semop(2), semctl(2).

use super::sysv::{INFO, Owner, RMID, SET, STAT};
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::ipc::semaphores::{self as sets, LIMITS, MAX_UNDO, MAX_VALUE, Operation, Query, Set};
use crate::ipc::{self, NO_WAIT, READ, WRITE};
use crate::memory::user::Plain;
use crate::memory::{UserPtr, UserReader, UserWriter};
use crate::process::current;
use alloc::vec::Vec;

/// `SEM_UNDO`.
const UNDO: i16 = 0x1000;
const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
/// `SEM_STAT`.
const STAT_AT: u32 = 18;
/// `SEM_INFO`.
const USAGE: u32 = 19;
/// `SEM_STAT_ANY`.
const STAT_ANY_AT: u32 = 20;

/// `struct semid64_ds`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SetStatus {
    owner: Owner,
    operated: i64,
    unused: u64,
    changed: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}

// SAFETY: integers without a gap.
unsafe impl Plain for SetStatus {}
const _: () = assert!(size_of::<SetStatus>() == 104);

/// `struct sembuf`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    index: u16,
    change: i16,
    flags: i16,
}

// SAFETY: integers without a gap.
unsafe impl Plain for Buffer {}

/// `semget(2)`.
///
/// # Errors
/// As the man page says.
pub fn semget(key: i32, count: i32, flags: u32) -> Result<i32> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    sets::get(&ipc::Get { key, flags }, count, &current().credentials())
}

/// `semop(2)`.
///
/// # Errors
/// As the man page says.
pub fn semop(id: i32, operations: UserPtr<Buffer>, count: usize) -> Result<()> {
    semtimedop(id, operations, count, UserPtr::new(0))
}

/// `semtimedop(2)`.
///
/// # Errors
/// As the man page says.
pub fn semtimedop(
    id: i32,
    operations: UserPtr<Buffer>,
    count: usize,
    timeout: UserPtr<[i64; 2]>,
) -> Result<()> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let timeout = match timeout.non_null() {
        None => None,
        Some(timeout) => Some(timeout.read()?),
    };
    // The number is an unsigned int.
    let count = count & 0xffff_ffff;
    if count > LIMITS[2] {
        return Err(Errno::E2BIG);
    }
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        let Buffer { index, change, flags } = operations.element(index).read()?;
        let no_wait = u32::from(flags.cast_unsigned()) & NO_WAIT != 0;
        list.push(Operation { index, change, no_wait, undo: flags & UNDO != 0 });
    }
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = match timeout {
        None => None,
        Some([seconds, nanoseconds]) => {
            let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
            let nanoseconds = u64::try_from(nanoseconds).map_err(|_| Errno::EINVAL)?;
            if nanoseconds >= NANOSECONDS {
                return Err(Errno::EINVAL);
            }
            let now = services().map_or(0, |services| services.monotonic_ns());
            let ns = seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds);
            Some(now.saturating_add(ns))
        }
    };
    sets::operate(id, list, deadline, &current().credentials())
}

fn tell(set: &Set, id: i32, buffer: u64) -> Result<()> {
    let status = set.status();
    UserPtr::new(buffer).write(SetStatus {
        owner: Owner::new(&status.permissions, id),
        operated: status.times[0],
        unused: 0,
        changed: status.times[1],
        unused2: 0,
        count: status.count as u64,
        unused3: [0; 2],
    })
}

/// `struct seminfo`, with limits, or with what is used in two of them.
fn limits(used: Option<(usize, usize)>) -> Result<[i32; 10]> {
    let int = |value: usize| i32::try_from(value).map_err(|_| Errno::EOVERFLOW);
    let [of_set, of_all, of_call, all_sets] = LIMITS;
    let undo_size = match used {
        Some((sets, _)) => int(sets)?,
        None => 20,
    };
    let undo_value = match used {
        Some((_, semaphores)) => int(semaphores)?,
        None => MAX_UNDO,
    };
    Ok([
        int(of_all)?,
        int(all_sets)?,
        int(of_all)?,
        int(of_all)?,
        int(of_set)?,
        int(of_call)?,
        int(of_call)?,
        undo_size,
        MAX_VALUE,
        undo_value,
    ])
}

/// `semctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn semctl(id: i32, index: i32, command: u32, argument: u64) -> Result<i32> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = current().credentials();
    let query = |query| sets::find(id, READ, &who)?.query(index, query);
    match command {
        GETVAL => return query(Query::Value),
        GETPID => return query(Query::Process),
        GETNCNT => return query(Query::WaitingForMore),
        GETZCNT => return query(Query::WaitingForZero),
        SETVAL => {
            let [a, b, c, d, ..] = argument.to_le_bytes();
            let value = i32::from_le_bytes([a, b, c, d]);
            if !(0..=MAX_VALUE).contains(&value) {
                return Err(Errno::ERANGE);
            }
            set_value(id, index, value)?;
        }
        GETALL => {
            let values = sets::find(id, READ, &who)?.values()?;
            write_values(&values, argument)?;
        }
        SETALL => {
            let set = sets::find(id, WRITE, &who)?;
            set.set_values(&read_values(argument, set.count())?)?;
        }
        STAT => tell(&*sets::find(id, READ, &who)?, id, argument)?,
        STAT_AT | STAT_ANY_AT => {
            let (id, set) = sets::at(id, command == STAT_ANY_AT, &who)?;
            tell(&set, id, argument)?;
            return Ok(id);
        }
        RMID => sets::remove(id, &who)?,
        SET => {
            let Owner { user, group, mode, .. } = UserPtr::<Owner>::new(argument).read()?;
            sets::set(id, user, group, mode, &who)?;
        }
        INFO | USAGE => {
            let (used, highest, count) = sets::usage();
            let used = (command == USAGE).then_some((used, count));
            UserPtr::new(argument).write(limits(used)?)?;
            return Ok(highest);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Linux looks at the index before the rights.
fn set_value(id: i32, index: i32, value: i32) -> Result<()> {
    let who = current().credentials();
    let set = sets::find(id, 0, &who)?;
    if usize::try_from(index).map_or(true, |index| index >= set.count()) {
        return Err(Errno::EINVAL);
    }
    sets::find(id, WRITE, &who)?.set_value(index, value)
}

fn write_values(values: &[u16], address: u64) -> Result<()> {
    let mut writer = UserWriter::new(address, size_of_val(values));
    for piece in values.chunks(64) {
        let mut bytes = [0; 128];
        for (target, value) in bytes.chunks_exact_mut(2).zip(piece) {
            target.copy_from_slice(&value.to_le_bytes());
        }
        let bytes = &bytes[..size_of_val(piece)];
        if writer.write_slice(bytes)? < bytes.len() {
            return Err(Errno::EFAULT);
        }
    }
    Ok(())
}

fn read_values(address: u64, count: usize) -> Result<Vec<u16>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    let mut reader = UserReader::new(address, count * size_of::<u16>());
    while values.len() < count {
        let mut bytes = [0; 128];
        let want = reader.remaining().min(bytes.len());
        if reader.read(&mut bytes[..want])? < want {
            return Err(Errno::EFAULT);
        }
        for value in bytes[..want].as_chunks().0 {
            let value = u16::from_le_bytes(*value);
            if i32::from(value) > MAX_VALUE {
                return Err(Errno::ERANGE);
            }
            values.push(value);
        }
    }
    Ok(values)
}
