//! How threads and processes end, and who hears of it.

use super::lifecycle::STOPS;
use super::{FIRST, INIT, Loan, Pid, Process, Thread, Usage, child, current, table};
use crate::signal::{Information, action, number};
use crate::sync::SpinLock;
use airlock_abi::exit::Exit;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

impl Loan {
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.queue.wake_all();
    }
}

impl Process {
    /// Changes parent, with the table's lock held.
    pub fn set_parent(&self, parent: Pid, _table: &table::Table) {
        self.parent.store(parent, Ordering::Relaxed);
    }
}

/// `execve`: lets all other threads of the process end, and waits for that. EAGAIN if the process is
/// ending anyway or another thread was first.
///
/// # Errors
/// EINTR, EAGAIN.
pub fn become_only_thread() -> crate::errno::Result<()> {
    let me = current();
    {
        let mut life = me.life.lock();
        if life.exit.is_some() || life.survivor.is_some() {
            return Err(crate::errno::Errno::EAGAIN);
        }
        if life.threads.len() == 1 {
            return Ok(());
        }
        life.survivor = Some(me.tid());
        me.attention.store(true, Ordering::SeqCst);
        let others = life.threads.clone();
        drop(life);
        for thread in others.iter().filter(|thread| thread.tid() != me.tid()) {
            thread.notify();
        }
    }
    crate::sched::wait_killable(&me.child_events, || {
        (me.life.lock().threads.len() == 1).then_some(())
    })?;
    let mut life = me.life.lock();
    life.survivor = None;
    me.set_attention(&life);
    Ok(())
}

/// The running process's program ends: with it go all its threads.
pub fn exit_group(exit: Exit) -> ! {
    let me = current();
    if me.pid == FIRST {
        end_machine(exit);
    }
    me.doom(exit);
    exit_thread(exit)
}

/// The running thread ends, and with the last one the process.
pub fn exit_thread(exit: Exit) -> ! {
    let me = current();
    let (last, exit) = {
        let life = me.life.lock();
        (life.threads.len() == 1, life.exit.unwrap_or(exit))
    };
    if last && me.pid == FIRST {
        end_machine(exit);
    }
    crate::syscall::leave_memory(true);
    end_loan();
    // SAFETY: this thread is the owner and does not use them any more.
    let (files, fs) = unsafe { (me.files.replace(None), me.fs.replace(None)) };
    if let Some(files) = &files
        && Arc::strong_count(files) == 1
    {
        close_all(files);
    }
    drop((files, fs));
    // Once it is no longer among the threads, others may end the process and free its memory.
    let resident_peak = me.memory().resident().1;
    crate::memory::space::leave();
    let (last, gone) = {
        // Both at once: a thread that calls `execve` takes over the process's id when it is alone, and whoever
        // waits for the process finds no thread by its id afterwards.
        let mut table = table::lock();
        let mut life = me.life.lock();
        let at = life.threads.iter().position(|thread| thread.tid() == me.tid());
        let gone = at.map(|at| life.threads.remove(at));
        life.ended.add(me.usage());
        for (all, mine) in life.ended_samples.iter_mut().zip(me.task.samples()) {
            *all += mine;
        }
        if life.threads.is_empty() {
            life.last = (*me.name.lock(), me.credentials());
        }
        (life.threads.is_empty(), (gone, table.remove_thread(me.tid())))
    };
    if last && me.pid == FIRST {
        // Another thread was there a moment ago, and has ended, too.
        let exit = me.life.lock().exit.unwrap_or(exit);
        end_machine(exit);
    }
    if last {
        finish(&me.process, exit, resident_peak);
    } else {
        me.child_events.wake_all();
        crate::process::retarget(&me.process);
    }
    drop(gone);
    crate::sched::run::exit()
}

/// Closes all descriptors, without holding the lock meanwhile.
fn close_all(files: &SpinLock<crate::fs::FileTable>) {
    loop {
        let file = files.lock().take_any();
        if file.is_none() {
            return;
        }
    }
}

/// The thread does not need the memory any more that its parent lent it.
pub fn end_loan() {
    if let Some(loan) = current().borrower.lock().take() {
        loan.end();
    }
}

/// Notes who waits for the thread to leave the memory that it was lent.
pub fn lend(thread: &Thread) -> Arc<Loan> {
    let loan = Arc::new(Loan::default());
    *thread.borrower.lock() = Some(loan.clone());
    loan
}

/// The last thread has ended.
fn finish(process: &Arc<Process>, exit: Exit, resident_peak: u64) {
    crate::fs::tty::job::leave(&super::JOBS, true);
    let usage = Usage { resident_peak, ..process.usage() };
    process.root.store(0, Ordering::Relaxed);
    let executing = process.program.lock().executing.take();
    // SAFETY: this was the last thread, and it does not go back to ring 3.
    let (memory, actions) =
        unsafe { (process.memory.replace(None), process.actions.replace(None)) };
    let timers = core::mem::take(&mut *process.timers.lock());
    drop((memory, actions, executing, timers));
    super::out_of_memory::process_ended();

    crate::fs::locks::process_ended(process.pid);
    crate::ipc::process_ended(process.pid);

    let table = table::lock();
    let orphans = core::mem::take(&mut *process.children.lock());
    let heir = heir_of(&table, process);
    for child in orphans.values() {
        child.set_parent(heir.as_ref().map_or(INIT, |heir| heir.pid), &table);
        if let Some(heir) = &heir {
            heir.add_child(child.clone());
        }
    }
    let stopped = newly_orphaned(&table, process, &orphans);
    {
        let mut life = process.life.lock();
        life.exit = Some(exit);
        life.usage = usage;
        life.zombie = true;
    }
    let parent = table.process(process.parent()).cloned();
    drop(table);
    process.end_events.wake_all();

    for child in orphans.into_values() {
        let signal = child.parent_death_signal.load(Ordering::Relaxed);
        if signal != 0 {
            let who = u64::from(process.pid.cast_unsigned());
            let _ = super::send_to_process(&child, Information::new(signal, 0, who));
        }
        match &heir {
            Some(heir) if child.is_zombie() => tell_of_end(&child, heir),
            Some(_) => {}
            None if child.is_zombie() => drop(table::lock().remove_process(&child)),
            None => {}
        }
    }
    for member in stopped {
        // SI_KERNEL, as on Linux.
        for signal in [number::SIGHUP, number::SIGCONT] {
            let information = Information::new(signal, crate::signal::SI_KERNEL, 0);
            let _ = super::send_to_process(&member, information);
        }
    }
    match parent {
        Some(parent) => tell_of_end(process, &parent),
        // PID 1 waits for all its children at once.
        None => drop(table::lock().remove_process(process)),
    }
}

/// The members of process groups that nobody can continue any more because the process ends, and of
/// which one is stopped: they are told (setpgid(2), `_exit(2)`).
fn newly_orphaned(
    table: &table::Table,
    process: &Process,
    orphans: &BTreeMap<Pid, Arc<Process>>,
) -> Vec<Arc<Process>> {
    let mut members = Vec::new();
    if STOPS.load(Ordering::Relaxed) == 0 {
        return members;
    }
    let mut groups = Vec::new();
    for child in orphans.values() {
        let group = child.group();
        if group != process.group()
            && child.session() == process.session()
            && !groups.contains(&group)
            && table.is_orphaned(group, None)
        {
            groups.push(group);
        }
    }
    let own = process.group();
    if !table.is_orphaned(own, None) && table.is_orphaned(own, Some(process.pid)) {
        groups.push(own);
    }
    for group in groups {
        let group = table.group(group);
        if group.iter().any(|member| member.stopped().is_some()) {
            members.extend(group);
        }
    }
    members
}

/// The nearest ancestor that adopts orphans; `None` for PID 1.
fn heir_of(table: &table::Table, process: &Process) -> Option<Arc<Process>> {
    let mut at = process.parent();
    while let Some(ancestor) = table.process(at) {
        if ancestor.subreaper.load(Ordering::Relaxed) && !ancestor.is_zombie() {
            return Some(ancestor.clone());
        }
        at = ancestor.parent();
    }
    None
}

/// Sends a parent the signal for the end of its child; waits for it in its place if it does not care.
fn tell_of_end(child: &Arc<Process>, parent: &Arc<Process>) {
    let signal = child.exit_signal();
    let Some((exit, _)) = child.ended() else { return };
    let (code, status) = match exit {
        Exit::Signaled(signal) => (child::KILLED, signal.into()),
        Exit::Exited(status) => (child::EXITED, status.into()),
        _ => (child::EXITED, 127),
    };
    let mut forgotten = false;
    let mut silent = signal == 0;
    if signal == number::SIGCHLD
        && let Some(actions) = parent.shared_actions()
    {
        let action = actions.lock().action(signal);
        let ignored = action.handler == action::IGNORE;
        forgotten = ignored || action.flags & action::NOCLDWAIT != 0;
        silent = ignored;
    }
    if !silent {
        let information = child.child_information(signal, code, status);
        let _ = super::send_to_process(parent, information);
    }
    if forgotten {
        parent.reap(child);
    }
    parent.child_events.wake_all();
}

/// The first program's end is the machine's.
fn end_machine(exit: Exit) -> ! {
    crate::syscall::record_end(exit);
    exit_machine(exit)
}

/// Ends the machine with the program's fate.
pub fn exit_machine(exit: Exit) -> ! {
    // SAFETY: the exit device ends the machine.
    unsafe { crate::arch::instruction::write_port(airlock_abi::layout::EXIT_PORT, exit.to_word()) };
    crate::arch::instruction::halt_forever()
}
