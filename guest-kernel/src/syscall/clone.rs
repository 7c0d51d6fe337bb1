//! New threads and processes: clone(2), fork(2), vfork(2).

use crate::arch::TrapFrame;
use crate::arch::cpu::program_frame;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::frame;
use crate::memory::user::Plain;
use crate::memory::{USER_END, UserPtr};
use crate::process::{
    self, NewThread, Pid, Process, Thread, current, lend, must_end, resource, table,
};
use crate::sched::run::{self, Task};
use crate::signal::{AlternateStack, number};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_DETACHED, CLONE_FILES, CLONE_FS, CLONE_IO,
    CLONE_PARENT, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_PTRACE, CLONE_SETTLS, CLONE_SIGHAND,
    CLONE_SYSVSEM, CLONE_THREAD, CLONE_UNTRACED, CLONE_VFORK, CLONE_VM,
};

/// `CLONE_CLEAR_SIGHAND` of clone3.
const CLEAR_SIGHAND: u64 = 1 << 32;
/// `CSIGNAL`: the low byte of clone's flags is the exit signal.
const SIGNAL_BITS: u64 = 0xff;
/// Flags that are understood. Tracing and sharing of I/O contexts have nothing to do here; there are no
/// namespaces.
const KNOWN: u64 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_PTRACE
    | CLONE_PIDFD
    | CLONE_VFORK
    | CLONE_PARENT
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_UNTRACED
    | CLONE_CHILD_SETTID
    | CLONE_IO) as u64;

/// What kind of child is wanted.
#[derive(Clone, Copy, Default)]
struct Request {
    flags: u64,
    exit_signal: u8,
    /// RSP of the child; 0 for the parent's.
    stack: u64,
    parent_tid: u64,
    /// Where a descriptor for the child goes (`CLONE_PIDFD`).
    descriptor: u64,
    child_tid: u64,
    tls: u64,
}

impl Request {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    fn check(&self) -> Result<()> {
        if self.flags & !(KNOWN | CLEAR_SIGHAND) != 0
            || (self.has(CLONE_THREAD) && !self.has(CLONE_SIGHAND))
            || (self.has(CLONE_SIGHAND) && !self.has(CLONE_VM))
            || (self.has(CLONE_SIGHAND) && self.flags & CLEAR_SIGHAND != 0)
            || (self.has(CLONE_PIDFD) && self.has(CLONE_THREAD))
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// `fork(2)`.
pub fn fork() -> Result<Pid> {
    clone_with(Request { exit_signal: number::SIGCHLD, ..Request::default() })
}

/// `vfork(2)`.
pub fn vfork() -> Result<Pid> {
    let flags = u64::from(CLONE_VFORK | CLONE_VM);
    clone_with(Request { flags, exit_signal: number::SIGCHLD, ..Request::default() })
}

/// `clone(2)`, as the kernel's interface has it on x86-64.
pub fn clone(
    flags: u64,
    stack: u64,
    parent_tid: UserPtr<i32>,
    child_tid: UserPtr<i32>,
    tls: u64,
) -> Result<Pid> {
    let [exit_signal, ..] = flags.to_le_bytes();
    // The descriptor's place is the id's.
    let with_descriptor = flags & u64::from(CLONE_PIDFD) != 0;
    if with_descriptor && flags & u64::from(CLONE_PARENT_SETTID | CLONE_DETACHED) != 0 {
        return Err(Errno::EINVAL);
    }
    clone_with(Request {
        // The upper half does not count here, as on Linux.
        flags: flags & 0xffff_ffff & !SIGNAL_BITS & !u64::from(CLONE_DETACHED),
        exit_signal,
        stack,
        parent_tid: parent_tid.address(),
        descriptor: parent_tid.address(),
        child_tid: child_tid.address(),
        tls,
    })
}

/// `struct clone_args` (clone(2)).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

// SAFETY: integers without gaps.
unsafe impl Plain for Arguments {}

/// `clone3(2)`.
pub fn clone3(arguments: UserPtr<u64>, size: usize) -> Result<Pid> {
    /// `CLONE_ARGS_SIZE_VER0`, and the largest that Linux accepts.
    const FIRST_SIZE: usize = 64;
    const LARGEST: usize = 4096;
    if size > LARGEST {
        return Err(Errno::E2BIG);
    }
    if size < FIRST_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut words = [0; size_of::<Arguments>() / 8];
    for (index, word) in words.iter_mut().enumerate().take(size / 8) {
        *word = arguments.element(index).read()?;
    }
    for index in words.len()..size / 8 {
        if arguments.element(index).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [
        flags,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        set,
        count,
        cgroup,
    ] = words;
    if flags & (SIGNAL_BITS | u64::from(CLONE_DETACHED)) != 0
        || exit_signal > u64::from(number::LAST)
        || (stack == 0) != (stack_size == 0)
        || set != 0
        || count != 0
        || cgroup != 0
        || stack.checked_add(stack_size).is_none_or(|top| top > USER_END)
    {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        flags,
        exit_signal: u8::try_from(exit_signal).unwrap_or(0),
        stack: stack + stack_size,
        parent_tid,
        descriptor: pidfd,
        child_tid,
        tls,
    };
    let without_signal = CLONE_THREAD | CLONE_PARENT;
    if request.flags & u64::from(without_signal) != 0 && exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    clone_with(request)
}

/// An id that is free again unless it was used.
struct NewId(Pid);

impl Drop for NewId {
    fn drop(&mut self) {
        if self.0 != 0 {
            table::free(self.0);
        }
    }
}

fn clone_with(request: Request) -> Result<Pid> {
    request.check()?;
    frame::check_room()?;
    let me = current();
    let new_process = !request.has(CLONE_THREAD);
    if new_process {
        check_count(&me)?;
    }
    run::reserve()?;
    let mut id = NewId(table::allocate().inspect_err(|_| run::release())?);
    let child = make(&request, id.0).inspect_err(|_| run::release())?;
    let tid = child.tid();

    let descriptor = if request.has(CLONE_PIDFD) {
        let fd = describe(&request, &child).inspect_err(|_| run::release())?;
        Some(fd)
    } else {
        None
    };
    // The parent may look for the child's id as soon as the child runs, and the child for its own.
    if request.has(CLONE_PARENT_SETTID) {
        let _ = UserPtr::new(request.parent_tid).write(tid);
    }
    if request.has(CLONE_CHILD_SETTID)
        && let Some(memory) = child.process.shared_memory()
    {
        let _ = memory.write(request.child_tid, &tid.to_le_bytes());
    }
    let loan = request.has(CLONE_VFORK).then(|| lend(&child));
    {
        let mut table = table::lock();
        if new_process && request.has(CLONE_PARENT) {
            // It may have ended since.
            child.process.set_parent(me.parent(), &table);
        }
        if !child.process.add_thread(child.clone()) {
            drop(table);
            run::release();
            if let Some(fd) = descriptor {
                drop(me.files().lock().remove(fd));
            }
            return Err(Errno::EAGAIN);
        }
        table.insert(&child, new_process.then_some(&child.process));
        if new_process && let Some(parent) = table.process(child.process.parent()) {
            parent.add_child(child.process.clone());
        }
    }
    id.0 = 0;
    drop(id);
    if new_process {
        // Without memory for the timer, the limit does not bind before it is set again.
        let _ = process::watch_cpu_limit(&child.process);
    }
    run::start(child);
    if let Some(loan) = loan {
        // Only the end of this process ends the wait.
        let _ = crate::sched::wait_killable(loan.queue(), || loan.is_over().then_some(()));
        if must_end().is_none() {
            me.resume_deadline.store(0, Ordering::Relaxed);
        }
    }
    Ok(tid)
}

/// Makes the descriptor that `CLONE_PIDFD` asks for, and tells the caller.
fn describe(request: &Request, child: &Thread) -> Result<i32> {
    let fd = super::process_file::add(child.process.clone(), 0)?;
    let told = UserPtr::new(request.descriptor).write(fd);
    if told.is_err() {
        let closed = current().files().lock().remove(fd);
        drop(closed);
    }
    told.map(|()| fd)
}

/// `unshare(2)`: what threads share and one can have for itself. There are no namespaces.
///
/// # Errors
/// As the man page says; EINVAL for namespaces.
pub fn unshare(flags: u64) -> Result<()> {
    const SHARED: u32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    if flags & !(SHARED | CLONE_SYSVSEM) != 0 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    if flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) != 0 {
        // One cannot leave the others, but may have been alone all along.
        let shares = |count: Option<usize>| count.is_some_and(|count| count > 2);
        let memory = me.shared_memory().map(|memory| Arc::strong_count(&memory));
        let actions = me.shared_actions().map(|actions| Arc::strong_count(&actions));
        let alone = me.threads().len() == 1
            && (flags & (CLONE_SIGHAND | CLONE_VM) == 0 || !shares(actions))
            && (flags & CLONE_VM == 0 || !shares(memory));
        if !alone {
            return Err(Errno::EINVAL);
        }
    }
    if flags & CLONE_FILES != 0 {
        me.unshare_files()?;
    }
    if flags & CLONE_FS != 0 {
        me.unshare_fs();
    }
    Ok(())
}

/// `RLIMIT_NPROC`, which does not bind the superuser.
fn check_count(me: &Thread) -> Result<()> {
    let who = me.credentials();
    let limit = me.limits().lock().0[resource::NPROC].soft;
    let exempt = who.uid == 0 || who.can(Capability::SysResource) || who.can(Capability::SysAdmin);
    if exempt || limit == u64::MAX {
        return Ok(());
    }
    let table = table::lock();
    let of_same_user = |process: &&Arc<Process>| {
        process.main_thread().is_some_and(|thread| thread.credentials().uid == who.uid)
    };
    let count = table.processes().filter(of_same_user).count() as u64;
    if count >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// A child that is complete, but in no table and no queue.
fn make(request: &Request, tid: Pid) -> Result<Arc<Thread>> {
    let me = current();
    let files = if request.has(CLONE_FILES) {
        me.shared_files().ok_or(Errno::ESRCH)?
    } else {
        let copy = me.files().lock().try_clone()?;
        Arc::new(SpinLock::new(copy))
    };
    let fs = if request.has(CLONE_FS) {
        me.shared_fs().ok_or(Errno::ESRCH)?
    } else {
        let copy = me.fs().lock().clone();
        Arc::new(SpinLock::new(copy))
    };
    let process = if request.has(CLONE_THREAD) {
        me.process.clone()
    } else {
        Arc::new(make_process(request, tid)?)
    };
    let child = Arc::new(Thread::new(NewThread {
        tid,
        process,
        task: Task::new(Some(&me.task)),
        files,
        fs,
        credentials: me.credentials(),
        name: *me.name.lock(),
        timer_slack: me.timer_slack.load(Ordering::Relaxed),
        io_priority: me.io_priority.load(Ordering::Relaxed),
    }));
    let (mask, stack) = {
        let parents = me.signals.lock();
        (parents.mask, parents.stack)
    };
    {
        let mut signals = child.signals.lock();
        signals.mask = mask;
        // A new thread's stack is another; a child of vfork still runs on this one.
        signals.stack = if request.has(CLONE_VM) && !request.has(CLONE_VFORK) {
            AlternateStack::NONE
        } else {
            stack
        };
    }
    let no_new_privileges = me.no_new_privileges.load(Ordering::Relaxed);
    child.no_new_privileges.store(no_new_privileges, Ordering::Relaxed);
    if !request.has(CLONE_VM) {
        // The copy of the parent's area is as good as the parent's; a thread's is its own.
        child.rseq.register(me.rseq.area());
    }
    if request.has(CLONE_CHILD_CLEARTID) {
        child.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    // SAFETY: the frame is complete: entry code saved it for this call.
    let mut frame: TrapFrame = unsafe { *program_frame() };
    frame.rax = 0;
    frame.rcx = frame.rip;
    frame.r11 = frame.rflags;
    if request.stack != 0 {
        frame.rsp = request.stack;
    }
    run::prepare(&child, &frame)?;
    if request.has(CLONE_SETTLS) {
        if request.tls >= USER_END {
            return Err(Errno::EPERM);
        }
        run::set_thread_pointer(&child, request.tls);
    }
    Ok(child)
}

fn make_process(request: &Request, pid: Pid) -> Result<Process> {
    let me = current();
    let memory = if request.has(CLONE_VM) {
        me.shared_memory().ok_or(Errno::ESRCH)?
    } else {
        let root = crate::boot::kernel_root();
        Arc::new(me.memory().fork(root, &crate::boot::KERNEL_SLOTS)?)
    };
    let actions = if request.has(CLONE_SIGHAND) {
        me.shared_actions().ok_or(Errno::ESRCH)?
    } else {
        let mut copy = me.actions().lock().clone();
        if request.flags & CLEAR_SIGHAND != 0 {
            copy.reset_handlers();
        }
        Arc::new(SpinLock::new(copy))
    };
    let sibling = request.has(CLONE_PARENT);
    Ok(Process::new(process::New {
        pid,
        parent: if sibling { me.parent() } else { me.pid },
        group: me.group(),
        session: me.session(),
        terminal: me.terminal(),
        memory,
        actions,
        limits: me.limits().lock().clone(),
        program: me.program.lock().clone(),
        exit_signal: if sibling { me.exit_signal() } else { request.exit_signal },
        start_ns: crate::time::monotonic_ns(),
    }))
}
