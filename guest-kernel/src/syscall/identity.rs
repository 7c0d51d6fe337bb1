//! Who a process is: credentials(7), groups and sessions.

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{Credentials, Pid, Process, current, find, table};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;
/// "Leave as it is".
const KEEP: u32 = u32::MAX;

/// `getuid(2)`.
pub fn getuid() -> u32 {
    current().credentials().uid
}

/// `geteuid(2)`.
pub fn geteuid() -> u32 {
    current().credentials().euid
}

/// `getgid(2)`.
pub fn getgid() -> u32 {
    current().credentials().gid
}

/// `getegid(2)`.
pub fn getegid() -> u32 {
    current().credentials().egid
}

/// `getresuid(2)`.
///
/// # Errors
/// EFAULT.
pub fn getresuid(real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> Result<()> {
    let who = current().credentials();
    real.write(who.uid)?;
    effective.write(who.euid)?;
    saved.write(who.suid)
}

/// `getresgid(2)`.
///
/// # Errors
/// EFAULT.
pub fn getresgid(real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> Result<()> {
    let who = current().credentials();
    real.write(who.gid)?;
    effective.write(who.egid)?;
    saved.write(who.sgid)
}

fn change(act: impl FnOnce(&mut Credentials) -> Result<()>) -> Result<()> {
    let before = current().credentials();
    let mut who = before.clone();
    act(&mut who)?;
    who.follow_users(&before);
    commit(who);
    Ok(())
}

/// Lets the caller be someone else. Who could not see its memory before must not see it now.
pub(super) fn commit(who: Credentials) {
    let process = current();
    if who.hides_from(&process.credentials()) {
        process.dumpable.store(false, Ordering::Relaxed);
        process.parent_death_signal.store(0, Ordering::Relaxed);
    }
    process.set_credentials(who);
}

/// `setuid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setuid(user: u32) -> Result<()> {
    if user == KEEP {
        return Err(Errno::EINVAL);
    }
    change(|who| {
        if who.can(Capability::Setuid) {
            (who.uid, who.suid) = (user, user);
        } else if user != who.uid && user != who.suid {
            return Err(Errno::EPERM);
        }
        (who.euid, who.fsuid) = (user, user);
        Ok(())
    })
}

/// `setgid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setgid(group: u32) -> Result<()> {
    if group == KEEP {
        return Err(Errno::EINVAL);
    }
    change(|who| {
        if who.can(Capability::Setgid) {
            (who.gid, who.sgid) = (group, group);
        } else if group != who.gid && group != who.sgid {
            return Err(Errno::EPERM);
        }
        (who.egid, who.fsgid) = (group, group);
        Ok(())
    })
}

/// `setreuid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setreuid(real: u32, effective: u32) -> Result<()> {
    change(|who| {
        let allowed =
            |id: u32, list: &[u32]| id == KEEP || who.can(Capability::Setuid) || list.contains(&id);
        if !allowed(real, &[who.uid, who.euid])
            || !allowed(effective, &[who.uid, who.euid, who.suid])
        {
            return Err(Errno::EPERM);
        }
        let before = who.uid;
        if real != KEEP {
            who.uid = real;
        }
        if effective != KEEP {
            who.euid = effective;
        }
        if real != KEEP || (effective != KEEP && effective != before) {
            who.suid = who.euid;
        }
        who.fsuid = who.euid;
        Ok(())
    })
}

/// `setregid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setregid(real: u32, effective: u32) -> Result<()> {
    change(|who| {
        let allowed =
            |id: u32, list: &[u32]| id == KEEP || who.can(Capability::Setgid) || list.contains(&id);
        if !allowed(real, &[who.gid, who.egid])
            || !allowed(effective, &[who.gid, who.egid, who.sgid])
        {
            return Err(Errno::EPERM);
        }
        let before = who.gid;
        if real != KEEP {
            who.gid = real;
        }
        if effective != KEEP {
            who.egid = effective;
        }
        if real != KEEP || (effective != KEEP && effective != before) {
            who.sgid = who.egid;
        }
        who.fsgid = who.egid;
        Ok(())
    })
}

/// `setresuid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setresuid(real: u32, effective: u32, saved: u32) -> Result<()> {
    change(|who| {
        let own = [who.uid, who.euid, who.suid];
        if !who.can(Capability::Setuid)
            && [real, effective, saved].iter().any(|id| *id != KEEP && !own.contains(id))
        {
            return Err(Errno::EPERM);
        }
        let pick = |new: u32, old: u32| if new == KEEP { old } else { new };
        (who.uid, who.euid, who.suid) =
            (pick(real, who.uid), pick(effective, who.euid), pick(saved, who.suid));
        who.fsuid = who.euid;
        Ok(())
    })
}

/// `setresgid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setresgid(real: u32, effective: u32, saved: u32) -> Result<()> {
    change(|who| {
        let own = [who.gid, who.egid, who.sgid];
        if !who.can(Capability::Setgid)
            && [real, effective, saved].iter().any(|id| *id != KEEP && !own.contains(id))
        {
            return Err(Errno::EPERM);
        }
        let pick = |new: u32, old: u32| if new == KEEP { old } else { new };
        (who.gid, who.egid, who.sgid) =
            (pick(real, who.gid), pick(effective, who.egid), pick(saved, who.sgid));
        who.fsgid = who.egid;
        Ok(())
    })
}

/// `setfsuid(2)`: returns the previous id, whether it changed or not.
pub fn setfsuid(user: u32) -> u32 {
    let process = current();
    let mut who = process.credentials();
    let before = who.fsuid;
    let own = [who.uid, who.euid, who.suid, who.fsuid];
    if user != KEEP && (own.contains(&user) || who.can(Capability::Setuid)) {
        who.fsuid = user;
        who.follow_file_user(before);
        commit(who);
    }
    before
}

/// `setfsgid(2)`: returns the previous id, whether it changed or not.
pub fn setfsgid(group: u32) -> u32 {
    let process = current();
    let mut who = process.credentials();
    let before = who.fsgid;
    let own = [who.gid, who.egid, who.sgid, who.fsgid];
    if group != KEEP && (own.contains(&group) || who.can(Capability::Setgid)) {
        who.fsgid = group;
        commit(who);
    }
    before
}

/// `getgroups(2)`.
///
/// # Errors
/// As the man page says.
pub fn getgroups(size: i32, list: UserPtr<u32>) -> Result<usize> {
    let who = current().credentials();
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let groups = who.groups();
    if size == 0 {
        return Ok(groups.len());
    }
    if size < groups.len() {
        return Err(Errno::EINVAL);
    }
    for (index, group) in groups.iter().enumerate() {
        list.element(index).write(*group)?;
    }
    Ok(groups.len())
}

/// `setgroups(2)`.
///
/// # Errors
/// As the man page says.
pub fn setgroups(size: i32, list: UserPtr<u32>) -> Result<()> {
    current().credentials().need(Capability::Setgid)?;
    let size =
        usize::try_from(size).ok().filter(|size| *size <= MAX_GROUPS).ok_or(Errno::EINVAL)?;
    let mut groups = Vec::new();
    groups.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    for index in 0..size {
        groups.push(list.element(index).read()?);
    }
    change(|who| {
        who.groups = Some(Arc::new(groups));
        Ok(())
    })
}

/// The process with this id; 0 is the caller.
fn process_or_self(pid: Pid) -> Result<Arc<Process>> {
    if pid == 0 { Ok(current().process.clone()) } else { find(pid).ok_or(Errno::ESRCH) }
}

/// `getpgid(2)`.
///
/// # Errors
/// ESRCH.
pub fn getpgid(pid: Pid) -> Result<Pid> {
    process_or_self(pid).map(|process| process.group())
}

/// `getpgrp(2)`.
pub fn getpgrp() -> Pid {
    current().group()
}

/// `getsid(2)`.
///
/// # Errors
/// ESRCH.
pub fn getsid(pid: Pid) -> Result<Pid> {
    process_or_self(pid).map(|process| process.session())
}

/// `setsid(2)`.
///
/// # Errors
/// EPERM if the caller leads a process group.
pub fn setsid() -> Result<Pid> {
    let me = current();
    let table = table::lock();
    if table.processes().any(|process| process.group() == me.pid) {
        return Err(Errno::EPERM);
    }
    me.set_session(me.pid, &table);
    me.set_group(me.pid, &table);
    drop(table);
    me.process.set_terminal(None);
    Ok(me.pid)
}

/// `vhangup(2)`.
///
/// # Errors
/// EPERM.
pub fn vhangup() -> Result<()> {
    let me = current();
    me.credentials().need(Capability::SysTtyConfig)?;
    if let Some(terminal) = me.terminal() {
        terminal.hang_up();
    }
    Ok(())
}

/// `setpgid(2)`.
///
/// # Errors
/// As the man page says.
pub fn setpgid(pid: Pid, group: Pid) -> Result<()> {
    let me = current();
    let pid = if pid == 0 { me.pid } else { pid };
    let group = if group == 0 { pid } else { group };
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let table = table::lock();
    let target = table.process(pid).ok_or(Errno::ESRCH)?;
    if target.pid != me.pid {
        if target.parent() != me.pid {
            return Err(Errno::ESRCH);
        }
        if target.session() != me.session() {
            return Err(Errno::EPERM);
        }
        if target.has_executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    }
    if target.session() == target.pid {
        return Err(Errno::EPERM);
    }
    let in_session =
        |member: &Arc<Process>| member.group() == group && member.session() == me.session();
    if group != target.pid && !table.processes().any(in_session) {
        return Err(Errno::EPERM);
    }
    target.set_group(group, &table);
    Ok(())
}
