//! Message queues of System V: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use super::sysv::{INFO, Owner, RMID, SET, STAT};
use crate::errno::{Errno, Result};
use crate::ipc::messages::{self as queues, MAX_MESSAGE, MAX_QUEUE, MAX_QUEUES, Queue, Wanted};
use crate::ipc::{self, NO_WAIT};
use crate::memory::user::Plain;
use crate::memory::{UserPtr, UserReader, UserWriter};
use crate::process::current;

/// `MSG_NOERROR`.
const CUT: u32 = 0o10_000;
/// `MSG_EXCEPT`.
const EXCEPT: u32 = 0o20_000;
/// `MSG_COPY`.
const COPY: u32 = 0o40_000;
/// `MSG_STAT`.
const STAT_AT: u32 = 11;
/// `MSG_INFO`.
const USAGE: u32 = 12;
/// `MSG_STAT_ANY`.
const STAT_ANY_AT: u32 = 13;
/// Bytes of a message's type.
const KIND: u64 = 8;

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy)]
struct QueueStatus {
    owner: Owner,
    times: [i64; 3],
    bytes: u64,
    count: u64,
    limit: u64,
    processes: [i32; 2],
    unused: [u64; 2],
}

// SAFETY: integers without a gap.
unsafe impl Plain for QueueStatus {}
const _: () = assert!(size_of::<QueueStatus>() == 120);

/// `msgget(2)`.
///
/// # Errors
/// As the man page says.
pub fn msgget(key: i32, flags: u32) -> Result<i32> {
    queues::get(&ipc::Get { key, flags }, &current().credentials())
}

/// `msgsnd(2)`.
///
/// # Errors
/// As the man page says.
pub fn msgsnd(id: i32, message: UserPtr<i64>, size: usize, flags: u32) -> Result<()> {
    let kind = message.read()?;
    if size > MAX_MESSAGE || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let text = UserReader::new(message.address().wrapping_add(KIND), size);
    let message = queues::read_message(kind, text)?;
    queues::send(id, message, flags & NO_WAIT == 0, &current().credentials())
}

/// `msgrcv(2)`.
///
/// # Errors
/// As the man page says.
pub fn msgrcv(id: i32, message: UserPtr<i64>, size: usize, kind: i64, flags: u32) -> Result<usize> {
    if id < 0 || isize::try_from(size).is_err() {
        return Err(Errno::EINVAL);
    }
    let copies = flags & COPY != 0;
    if copies && (flags & EXCEPT != 0 || flags & NO_WAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let wanted = if copies { Wanted::CopyAt(kind) } else { Wanted::new(kind, flags & EXCEPT != 0) };
    let room = (flags & CUT == 0).then_some(size);
    let who = current().credentials();
    let received = queues::receive(id, wanted, room, flags & NO_WAIT == 0, &who)?;
    // A copy is not cut.
    if copies && received.text.len() > size {
        return Err(Errno::EINVAL);
    }
    // As on Linux, a message that cannot be stored is lost.
    message.write(received.kind)?;
    let text = &received.text[..size.min(received.text.len())];
    let mut writer = UserWriter::new(message.address().wrapping_add(KIND), text.len());
    if !text.is_empty() && writer.write_slice(text)? < text.len() {
        return Err(Errno::EFAULT);
    }
    Ok(text.len())
}

fn tell(queue: &Queue, id: i32, buffer: u64) -> Result<()> {
    let status = queue.status();
    UserPtr::new(buffer).write(QueueStatus {
        owner: Owner::new(&status.permissions, id),
        times: status.times,
        bytes: status.bytes,
        count: status.count,
        limit: status.limit,
        processes: status.processes,
        unused: [0; 2],
    })
}

/// `msgctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn msgctl(id: i32, command: u32, buffer: u64) -> Result<i32> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = current().credentials();
    match command {
        RMID => queues::remove(id, &who)?,
        SET => {
            let new = UserPtr::<QueueStatus>::new(buffer).read()?;
            let Owner { user, group, mode, .. } = new.owner;
            queues::set(id, user, group, mode, new.limit, &who)?;
        }
        STAT => tell(&*queues::find(id, &who)?, id, buffer)?,
        STAT_AT | STAT_ANY_AT => {
            let (id, queue) = queues::at(id, command == STAT_ANY_AT, &who)?;
            tell(&queue, id, buffer)?;
            return Ok(id);
        }
        INFO | USAGE => {
            let (used, highest, count, bytes) = queues::usage()?;
            let int = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
            // `struct msginfo`: msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql, msgseg.
            let (pool, map, all) = if command == USAGE {
                (int(used as u64), int(count), int(bytes))
            } else {
                // Linux's MSGPOOL, MSGMAP, MSGTQL.
                let all = MAX_QUEUES as u64 * MAX_QUEUE;
                (int(all / 1024), int(MAX_QUEUE), int(MAX_QUEUE))
            };
            let limit = int(MAX_MESSAGE as u64);
            let queue = int(MAX_QUEUE);
            let most = int(MAX_QUEUES as u64);
            UserPtr::new(buffer).write([pool, map, limit, queue, most, 16, all, 0xffff])?;
            return Ok(highest);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
