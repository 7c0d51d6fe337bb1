//! Scheduling: sched(7), setpriority(2), ioprio_set(2).

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{Pid, Thread, current, find_thread, resource, table};
#[cfg(target_os = "none")]
use crate::sched::run;
use crate::sched::task::{self, Policy};
use crate::time::timespec::Timespec;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `SCHED_FIFO`, `SCHED_RR`, and those without priorities.
const REAL_TIME: [i32; 2] = [1, 2];
const WITHOUT_PRIORITY: [i32; 3] = [0, 3, 5];
/// `SCHED_DEADLINE`, of which only the name is known.
const DEADLINE: i32 = 6;
/// `SCHED_IDLE`.
const IDLE: i32 = 5;
/// `SCHED_RESET_ON_FORK`, as a bit of a policy.
const RESET_ON_FORK: i32 = 0x4000_0000;
const HIGHEST_PRIORITY: u32 = 99;

/// `sched_yield(2)`.
pub fn sched_yield() {
    #[cfg(target_os = "none")]
    run::yield_now();
}

/// The thread with this id, or the caller for 0.
fn thread(pid: Pid) -> Result<Arc<Thread>> {
    match pid {
        0 => Ok(current().to_arc()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => find_thread(pid).ok_or(Errno::ESRCH),
    }
}

/// Whether the caller is the user that a thread belongs to.
fn is_own(thread: &Thread) -> bool {
    let (mine, theirs) = (current().credentials().euid, thread.credentials());
    mine == theirs.euid || mine == theirs.uid
}

/// Whether `RLIMIT_NICE` lets a thread have this nice value.
fn limit_allows_nice(thread: &Thread, nice: i32) -> bool {
    let limit = thread.limits().lock().0[resource::NICE].soft;
    u64::try_from(20 - nice).is_ok_and(|wanted| wanted <= limit)
}

/// What a thread's scheduling shall be.
#[derive(Clone, Copy)]
struct Wanted {
    /// `SCHED_*`; `None` leaves it as it is.
    policy: Option<i32>,
    priority: u32,
    /// `None` leaves it as it is.
    nice: Option<i32>,
    reset_on_fork: Option<bool>,
}

/// Whether the change needs CAP_SYS_NICE (sched(7), "Privileges and resource limits").
fn is_privileged(thread: &Thread, policy: i32, wanted: &Wanted, reset: bool) -> bool {
    let (old_policy, old_priority) = thread.task.policy().numbers();
    let nice = thread.task.nice();
    if REAL_TIME.contains(&policy) {
        let limit = thread.limits().lock().0[resource::RTPRIO].soft;
        let beyond = u64::from(wanted.priority) > limit;
        if (policy != old_policy && limit == 0) || (wanted.priority > old_priority.into() && beyond)
        {
            return true;
        }
    } else if wanted.nice.is_some_and(|new| new < nice && !limit_allows_nice(thread, new)) {
        return true;
    }
    (old_policy == IDLE && policy != IDLE && !limit_allows_nice(thread, nice))
        || !is_own(thread)
        || (thread.task.resets_on_fork() && !reset)
}

fn change(thread: &Thread, wanted: Wanted) -> Result<()> {
    let old = thread.task.policy();
    let policy = wanted.policy.unwrap_or(old.numbers().0);
    let reset = wanted.reset_on_fork.unwrap_or_else(|| thread.task.resets_on_fork());
    let is_real_time = REAL_TIME.contains(&policy);
    if !is_real_time && !WITHOUT_PRIORITY.contains(&policy) {
        return Err(Errno::EINVAL);
    }
    if wanted.priority > HIGHEST_PRIORITY || is_real_time != (wanted.priority != 0) {
        return Err(Errno::EINVAL);
    }
    if is_privileged(thread, policy, &wanted, reset) {
        current().credentials().need(Capability::SysNice)?;
    }
    let priority = u8::try_from(wanted.priority).map_err(|_| Errno::EINVAL)?;
    let new = match policy {
        1 => Policy::Fifo(priority),
        2 => Policy::RoundRobin(priority),
        kind => Policy::Fair(kind),
    };
    thread.task.set_policy(new, reset);
    if let Some(nice) = wanted.nice.filter(|_| !is_real_time) {
        thread.task.set_nice(nice);
    }
    #[cfg(target_os = "none")]
    {
        run::reorder(thread);
        super::futex::priority_changed(thread);
    }
    Ok(())
}

/// `sched_setscheduler(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_setscheduler(pid: Pid, policy: i32, parameter: UserPtr<i32>) -> Result<()> {
    if policy < 0 || parameter.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = parameter.read()?;
    let thread = thread(pid)?;
    let wanted = Wanted {
        policy: Some(policy & !RESET_ON_FORK),
        priority: u32::try_from(priority).map_err(|_| Errno::EINVAL)?,
        nice: None,
        reset_on_fork: Some(policy & RESET_ON_FORK != 0),
    };
    change(&thread, wanted)
}

/// `sched_setparam(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_setparam(pid: Pid, parameter: UserPtr<i32>) -> Result<()> {
    if parameter.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = parameter.read()?;
    let thread = thread(pid)?;
    let priority = u32::try_from(priority).map_err(|_| Errno::EINVAL)?;
    change(&thread, Wanted { policy: None, priority, nice: None, reset_on_fork: None })
}

/// `sched_getscheduler(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_getscheduler(pid: Pid) -> Result<i32> {
    let thread = thread(pid)?;
    let reset = if thread.task.resets_on_fork() { RESET_ON_FORK } else { 0 };
    Ok(thread.task.policy().numbers().0 | reset)
}

/// `sched_getparam(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_getparam(pid: Pid, parameter: UserPtr<i32>) -> Result<()> {
    if parameter.is_null() {
        return Err(Errno::EINVAL);
    }
    parameter.write(thread(pid)?.task.policy().numbers().1.into())
}

/// `struct sched_attr`, as 32-bit words: size, policy, flags (two), nice, priority; then what is for
/// deadlines and clamps.
const ATTRIBUTE_WORDS: usize = 14;
/// `SCHED_ATTR_SIZE_VER0`, and what this kernel knows.
const FIRST_SIZE: u32 = 48;
const KNOWN_SIZE: u32 = 56;

/// `SCHED_FLAG_*`.
mod flag {
    pub const RESET_ON_FORK: u32 = 1;
    pub const FOR_DEADLINES: u32 = 2 | 4;
    pub const KEEP_POLICY: u32 = 8;
    pub const KEEP_PARAMS: u32 = 16;
    pub const CLAMPS: u32 = 32 | 64;
    pub const ALL: u32 = RESET_ON_FORK | FOR_DEADLINES | KEEP_POLICY | KEEP_PARAMS | CLAMPS;
}

/// Copies in a structure that may be older or newer than the kernel (sched_setattr(2), E2BIG).
fn read_attributes(pointer: UserPtr<u32>) -> Result<[u32; ATTRIBUTE_WORDS]> {
    let size = match pointer.read()? {
        0 => FIRST_SIZE,
        size => size,
    };
    let too_big = |_| -> Errno {
        match pointer.write(KNOWN_SIZE) {
            Ok(()) => Errno::E2BIG,
            Err(error) => error,
        }
    };
    if !(FIRST_SIZE..=4096).contains(&size) {
        return Err(too_big(()));
    }
    let size = crate::memory::usize_from(size.into());
    let mut words = [0; ATTRIBUTE_WORDS];
    for (index, word) in words.iter_mut().enumerate().take(size / 4) {
        *word = pointer.element(index).read()?;
    }
    for at in ATTRIBUTE_WORDS * 4..size {
        if pointer.cast::<u8>().element(at).read()? != 0 {
            return Err(too_big(()));
        }
    }
    Ok(words)
}

/// `sched_setattr(2)`.
///
/// # Errors
/// As the man page says; EINVAL for SCHED_DEADLINE, EOPNOTSUPP for utilisation clamps.
pub fn sched_setattr(pid: Pid, attributes: UserPtr<u32>, flags: u32) -> Result<()> {
    if attributes.is_null() || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let [_, policy, flags, high_flags, nice, priority, ..] = read_attributes(attributes)?;
    if policy.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let thread = thread(pid)?;
    if high_flags != 0 || flags & !flag::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & flag::CLAMPS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let keep = flags & flag::KEEP_PARAMS != 0;
    let old_priority = u32::from(thread.task.policy().numbers().1);
    let wanted = Wanted {
        policy: (flags & flag::KEEP_POLICY == 0).then_some(policy.cast_signed()),
        priority: if keep { old_priority } else { priority },
        nice: (!keep).then_some(nice.cast_signed().clamp(-20, 19)),
        reset_on_fork: Some(flags & flag::RESET_ON_FORK != 0),
    };
    change(&thread, wanted)
}

/// `sched_getattr(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_getattr(pid: Pid, attributes: UserPtr<u32>, size: u32, flags: u32) -> Result<()> {
    if attributes.is_null() || pid < 0 || !(FIRST_SIZE..=4096).contains(&size) || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = thread(pid)?;
    let (policy, priority) = thread.task.policy().numbers();
    let mut words = [0; ATTRIBUTE_WORDS];
    words[0] = size.min(KNOWN_SIZE);
    words[1] = policy.cast_unsigned();
    if thread.task.resets_on_fork() {
        words[2] = flag::RESET_ON_FORK;
    }
    if REAL_TIME.contains(&policy) {
        words[5] = priority.into();
    } else {
        words[4] = thread.task.nice().cast_unsigned();
    }
    let count = crate::memory::usize_from(u64::from(words[0])) / 4;
    for (index, word) in words.iter().enumerate().take(count) {
        attributes.element(index).write(*word)?;
    }
    Ok(())
}

/// `sched_rr_get_interval(2)`: how long a turn is.
///
/// # Errors
/// As the man page says.
pub fn sched_rr_get_interval(pid: Pid, interval: UserPtr<Timespec>) -> Result<()> {
    let slice = match thread(pid)?.task.policy() {
        Policy::Fifo(_) => 0,
        Policy::RoundRobin(_) | Policy::Fair(_) => task::slice_ns(),
    };
    interval.write(Timespec::from_ns(slice))
}

/// `sched_get_priority_max(2)`.
///
/// # Errors
/// EINVAL.
pub fn sched_get_priority_max(policy: i32) -> Result<i32> {
    match policy {
        _ if REAL_TIME.contains(&policy) => Ok(HIGHEST_PRIORITY.cast_signed()),
        _ if WITHOUT_PRIORITY.contains(&policy) || policy == DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_get_priority_min(2)`.
///
/// # Errors
/// EINVAL.
pub fn sched_get_priority_min(policy: i32) -> Result<i32> {
    sched_get_priority_max(policy).map(|most| most.min(1))
}

/// Whom a call is about: a thread, all of a process group, or all of a user.
#[derive(Clone, Copy)]
enum Whose {
    Thread,
    Group,
    User,
}

/// The threads that are meant; ESRCH if there are none.
fn chosen(whose: Whose, who: i32) -> Result<Vec<Arc<Thread>>> {
    let me = current();
    let mut list = Vec::new();
    match whose {
        Whose::Thread => {
            let thread =
                if who == 0 { me.to_arc() } else { find_thread(who).ok_or(Errno::ESRCH)? };
            list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            list.push(thread);
        }
        Whose::Group | Whose::User => {
            let group = if who == 0 { me.group() } else { who };
            let user = if who == 0 { me.credentials().uid } else { who.cast_unsigned() };
            let table = table::lock();
            for process in table.processes() {
                if matches!(whose, Whose::Group) && process.group() != group {
                    continue;
                }
                for thread in process.threads() {
                    if matches!(whose, Whose::User) && thread.credentials().uid != user {
                        continue;
                    }
                    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    list.push(thread);
                }
            }
        }
    }
    if list.is_empty() { Err(Errno::ESRCH) } else { Ok(list) }
}

/// `PRIO_PROCESS`, `PRIO_PGRP`, `PRIO_USER`; those of ioprio_set(2) begin with 1.
fn whose(which: i32) -> Result<Whose> {
    match which {
        0 => Ok(Whose::Thread),
        1 => Ok(Whose::Group),
        2 => Ok(Whose::User),
        _ => Err(Errno::EINVAL),
    }
}

/// `getpriority(2)`, the system call: 20 minus the lowest nice value.
///
/// # Errors
/// As the man page says.
pub fn getpriority(which: i32, who: i32) -> Result<i32> {
    let threads = chosen(whose(which)?, who)?;
    threads.iter().map(|thread| 20 - thread.task.nice()).max().ok_or(Errno::ESRCH)
}

/// `setpriority(2)`.
///
/// # Errors
/// As the man page says.
pub fn setpriority(which: i32, who: i32, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    let may_all = current().can(Capability::SysNice);
    let mut result = Ok(());
    for thread in chosen(whose(which)?, who)? {
        if !is_own(&thread) && !may_all {
            result = Err(Errno::EPERM);
        } else if nice < thread.task.nice() && !limit_allows_nice(&thread, nice) && !may_all {
            result = Err(Errno::EACCES);
        } else {
            thread.task.set_nice(nice);
        }
    }
    result
}

/// `IOPRIO_CLASS_*`: real-time, best effort, idle.
mod class {
    pub const NONE: u16 = 0;
    pub const REAL_TIME: u16 = 1;
    pub const BEST_EFFORT: u16 = 2;
    pub const IDLE: u16 = 3;
    /// Where the class begins in a priority.
    pub const SHIFT: u32 = 13;
}

/// `ioprio_set(2)`. There is no device whose requests wait for each other: it is kept and told.
///
/// # Errors
/// As the man page says.
pub fn ioprio_set(which: i32, who: i32, priority: i32) -> Result<()> {
    let value = u16::try_from(priority).map_err(|_| Errno::EINVAL)?;
    let (kind, level) = (value >> class::SHIFT, value & ((1 << class::SHIFT) - 1));
    let me = current();
    let may_all = me.can(Capability::SysNice);
    match kind {
        class::REAL_TIME if !may_all && !me.can(Capability::SysAdmin) => return Err(Errno::EPERM),
        class::REAL_TIME | class::BEST_EFFORT if level >= 8 => return Err(Errno::EINVAL),
        class::NONE if level != 0 => return Err(Errno::EINVAL),
        class::NONE..=class::IDLE => {}
        _ => return Err(Errno::EINVAL),
    }
    for thread in chosen(whose(which - 1)?, who)? {
        if !is_own(&thread) && !may_all {
            return Err(Errno::EPERM);
        }
        thread.io_priority.store(value, Ordering::Relaxed);
    }
    Ok(())
}

/// What a thread that was not given a priority has: best effort, by its nice value.
fn effective_io_priority(thread: &Thread) -> u16 {
    match thread.io_priority.load(Ordering::Relaxed) {
        0 => {
            let level = u16::try_from((thread.task.nice() + 20) / 5).unwrap_or(4);
            class::BEST_EFFORT << class::SHIFT | level
        }
        value => value,
    }
}

/// `ioprio_get(2)`: that of one thread as it was set, of several the highest.
///
/// # Errors
/// As the man page says.
pub fn ioprio_get(which: i32, who: i32) -> Result<i32> {
    let whose = whose(which.checked_sub(1).ok_or(Errno::EINVAL)?)?;
    let threads = chosen(whose, who)?;
    let value = match (whose, threads.first()) {
        (Whose::Thread, Some(thread)) => Some(thread.io_priority.load(Ordering::Relaxed)),
        _ => threads.iter().map(|thread| effective_io_priority(thread)).min(),
    };
    value.map(i32::from).ok_or(Errno::ESRCH)
}
