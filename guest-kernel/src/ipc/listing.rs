//! What `/proc/sysvipc` shows (`sysvipc(7)`).

use super::{messages, semaphores, shared_memory};
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Shared memory segments.
///
/// # Errors
/// ENOMEM.
pub fn shared_memory() -> Result<Vec<u8>> {
    let mut text = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
         atime      dtime      ctime                   rss                  swap\n",
    );
    for (id, segment) in shared_memory::all()? {
        let status = segment.status();
        let p = &status.permissions;
        let [attached, detached, changed] = status.times;
        let [maker, last] = status.processes;
        writeln!(
            text,
            "{:10} {id:10}  {:4o} {:21} {maker:5} {last:5}  {:5} {:5} {:5} {:5} {:5} {attached:10} \
             {detached:10} {changed:10} {:21} {:21}",
            p.key,
            p.mode,
            status.size,
            status.attaches,
            p.user,
            p.group,
            p.creator,
            p.creator_group,
            status.resident * PAGE,
            0,
        )
        .map_err(|_| Errno::ENOMEM)?;
    }
    Ok(text.into_bytes())
}

/// Semaphore sets.
///
/// # Errors
/// ENOMEM.
pub fn semaphores() -> Result<Vec<u8>> {
    let mut text = String::from(
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
    );
    for (id, set) in semaphores::all()? {
        let status = set.status();
        let p = &status.permissions;
        let [operated, changed] = status.times;
        writeln!(
            text,
            "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {operated:10} {changed:10}",
            p.key, p.mode, status.count, p.user, p.group, p.creator, p.creator_group,
        )
        .map_err(|_| Errno::ENOMEM)?;
    }
    Ok(text.into_bytes())
}

/// Message queues.
///
/// # Errors
/// ENOMEM.
pub fn messages() -> Result<Vec<u8>> {
    let mut text = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
         stime      rtime      ctime\n",
    );
    for (id, queue) in messages::all()? {
        let status = queue.status();
        let p = &status.permissions;
        let [sent, received, changed] = status.times;
        let [sender, receiver] = status.processes;
        writeln!(
            text,
            "{:10} {id:10}  {:4o}  {:10} {:10} {sender:5} {receiver:5} {:5} {:5} {:5} {:5} {sent:10} \
             {received:10} {changed:10}",
            p.key, p.mode, status.bytes, status.count, p.user, p.group, p.creator, p.creator_group,
        )
        .map_err(|_| Errno::ENOMEM)?;
    }
    Ok(text.into_bytes())
}
