//! Run queues: which thread runs on which vCPU, and when.
//!
//! Every vCPU has a queue of threads that are ready to run, ordered by virtual run time: the time that
//! a thread ran, divided by its weight (`nice`). The thread that ran least is next. Real-time threads
//! (`SCHED_FIFO`, `SCHED_RR`) come before all others, by priority.
//!
//! A vCPU with nothing to do halts in the context of the thread that blocked last: switching to a
//! thread of its own for that would cost two switches. So a sleeping thread may be *current*
//! somewhere, and its wake-up is then no more than a change of its state.
//!
//! The queue's lock is held from the decision to switch until the next thread runs on its own stack:
//! so nobody finds a thread in a queue whose registers are not saved yet. And a thread's vCPU is changed
//! from one to another only with the lock of the first one's queue held: whoever has that lock and finds a
//! sleeping thread to be of this vCPU knows whether it is on its stack.
//!
//! A thread that becomes ready goes to the vCPU that it ran on last, or to one with less to do
//! ([`super::cpus`]); a vCPU with nothing to do looks for threads in the queues of others. A vCPU that
//! must give up its last thread to another has a stack on which it waits without one.

use super::cpus;
use super::ready::ReadyQueue;
use super::switch::switch;
pub use super::switch::{adopt_first, finish_switch, prepare, set_thread_pointer};
use super::task::{DEAD, RUNNABLE, SLEEPING, sample_ns, slice_ns};
pub use super::task::{Policy, Task};
use crate::arch::apic;
use crate::arch::cpu::{self, Cpu, MAX_CPUS};
use crate::errno::Result;
use crate::memory::{reporting, usize_from};
use crate::process::{self, Thread, current};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::time::{self, timers};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(super) struct Queue {
    ready: ReadyQueue<Arc<Thread>>,
    /// Monotonic nanoseconds when the running thread's slice ends, if others wait.
    slice_end: u64,
    /// What the local timer is programmed for.
    programmed: u64,
    /// That is no later than when the running thread is to be looked at.
    sampling: bool,
    /// A thread that has ended, whose stack was in use until now.
    pub(super) dead: Option<Arc<Thread>>,
    /// A thread that shall run on another vCPU, whose stack was in use until now.
    pub(super) leaving: Option<Arc<Thread>>,
    /// Nothing runs: the vCPU halts, or is about to.
    idle: bool,
    /// Switches so far.
    pub(super) switches: u64,
}

/// Never.
const NEVER: u64 = u64::MAX;

static QUEUES: [SpinLock<Queue>; MAX_CPUS as usize] = [const {
    SpinLock::new(Queue {
        ready: ReadyQueue::new(),
        slice_end: NEVER,
        programmed: NEVER,
        sampling: false,
        dead: None,
        leaving: None,
        idle: false,
        switches: 0,
    })
}; MAX_CPUS as usize];

/// How many threads run on each vCPU or wait in its queue, to be looked at without its lock.
static LOADS: [AtomicU32; MAX_CPUS as usize] = [const { AtomicU32::new(0) }; MAX_CPUS as usize];

/// Threads that exist: every queue has room for all of them.
static THREADS: AtomicU64 = AtomicU64::new(1);

pub(super) fn queue_of(cpu: u32) -> &'static SpinLock<Queue> {
    &QUEUES[cpu as usize]
}

pub(super) fn own_queue() -> SpinLockGuard<'static, Queue> {
    queue_of(Cpu::current().index()).lock()
}

/// How many threads run on a vCPU or wait in its queue.
pub fn load(cpu: u32) -> u32 {
    LOADS[cpu as usize].load(Ordering::SeqCst)
}

impl Queue {
    fn add(&mut self, thread: Arc<Thread>, cpu: u32) {
        let rank = thread.task.rank();
        // Room was reserved when the thread was made.
        self.ready.add(rank, thread, |thread, time| {
            thread.task.virtual_time.store(time, Ordering::Relaxed);
        });
        self.publish(cpu);
    }

    fn take(&mut self, cpu: u32) -> Option<Arc<Thread>> {
        let thread = self.ready.take()?;
        self.publish(cpu);
        Some(thread)
    }

    /// Takes out the first thread that satisfies the condition.
    fn take_which(&mut self, cpu: u32, fits: impl Fn(&Thread) -> bool) -> Option<Arc<Thread>> {
        let taken = self.ready.take_which(|thread| fits(thread))?;
        self.publish(cpu);
        Some(taken)
    }

    /// Tells other vCPUs how much there is to do, if there are any.
    fn publish(&self, cpu: u32) {
        if cpus::count() > 1 {
            let waiting = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
            let load = waiting.saturating_add((!self.idle).into());
            LOADS[cpu as usize].store(load, Ordering::SeqCst);
        }
    }

    pub(super) fn set_idle(&mut self, idle: bool, cpu: u32) {
        if self.idle != idle {
            self.idle = idle;
            self.publish(cpu);
        }
    }

    /// A thread goes from this vCPU to another: the time that it ran counts from what is least here, as
    /// the times of two queues say nothing to each other.
    pub(super) fn leave(&self, task: &Task, to: u32) {
        let time =
            task.virtual_time.load(Ordering::Relaxed).saturating_sub(self.ready.least_time());
        task.virtual_time.store(time, Ordering::Relaxed);
        task.cpu.store(to, Ordering::SeqCst);
    }

    /// A thread that has left another arrives.
    fn arrive(&self, task: &Task) {
        let time =
            task.virtual_time.load(Ordering::Relaxed).saturating_add(self.ready.least_time());
        task.virtual_time.store(time, Ordering::Relaxed);
    }

    /// Programs the local timer for what comes first: a kernel timer, or the end of a slice.
    fn program(&mut self) {
        let timer = timers::next().unwrap_or(NEVER);
        self.program_for(timer);
    }

    /// The same, where some vCPU's local timer is programmed for the kernel timers already.
    fn program_slice(&mut self) {
        if cpus::count() == 1 {
            self.program();
        } else {
            self.program_for(NEVER);
        }
    }

    fn program_for(&mut self, timer: u64) {
        let slice = if self.ready.is_empty() { NEVER } else { self.slice_end };
        let wanted = timer.min(slice);
        if wanted < self.programmed {
            self.programmed = wanted;
            apic::set_timer(wanted.saturating_sub(time::monotonic_ns()).max(1));
        }
    }

    pub(super) fn begin_slice(&mut self) {
        self.slice_end =
            if self.ready.is_empty() { NEVER } else { time::monotonic_ns() + slice_ns() };
        self.program_slice();
        self.program_sample();
    }

    /// Has the running thread looked at after a while, unless the timer will come anyway.
    fn program_sample(&mut self) {
        if !self.sampling {
            self.sampling = true;
            self.program_for(time::monotonic_ns() + sample_ns());
        }
    }
}

/// Makes room for one more thread in every queue, and counts it.
///
/// # Errors
/// ENOMEM.
pub fn reserve() -> Result<()> {
    let count = THREADS.fetch_add(1, Ordering::Relaxed) + 1;
    for cpu in 0..cpus::count() {
        reserve_on(cpu, count).inspect_err(|_| release())?;
    }
    Ok(())
}

fn reserve_on(cpu: u32, count: u64) -> Result<()> {
    let mut queue = queue_of(cpu).lock();
    queue.ready.reserve(usize_from(count))
}

/// Prepares the queue of a vCPU that is about to run threads.
///
/// # Errors
/// ENOMEM.
pub fn prepare_queue(cpu: u32) -> Result<()> {
    reserve_on(cpu, THREADS.load(Ordering::Relaxed))
}

/// Says that this vCPU has a thread, once there are others to tell.
pub fn publish_load() {
    own_queue().publish(Cpu::current().index());
}

/// A thread is gone, or was not made after all.
pub fn release() {
    THREADS.fetch_sub(1, Ordering::Relaxed);
}

/// The local timers' queue has a new head.
pub fn program_timer() {
    own_queue().program();
}

/// The running thread asks for user and system time: they are told apart from now on, if not already.
pub fn begin_samples() {
    own_queue().program_sample();
}

/// The local timer fired; `in_kernel` says whether that was due in a system call or page fault, and is `None` if no
/// thread ran.
pub fn timer(in_kernel: Option<bool>) {
    if let Some(in_kernel) = in_kernel {
        current().task.sample(in_kernel);
    }
    {
        let mut queue = own_queue();
        queue.programmed = NEVER;
        queue.sampling = false;
    }
    if timers::next().is_some() {
        timers::run_expired(time::monotonic_ns());
    }
    let mut queue = own_queue();
    if !queue.ready.is_empty() && time::monotonic_ns() >= queue.slice_end {
        queue.slice_end = NEVER;
        if !process::exists() || !current().task.keeps_turn() {
            Cpu::current().request_switch();
        }
    }
    queue.program();
    if in_kernel.is_some() {
        queue.program_sample();
    }
}

/// Another vCPU may have put a thread into this one's queue.
pub fn look_at_queue() {
    let mut queue = own_queue();
    if !queue.ready.is_empty() && queue.slice_end == NEVER {
        queue.begin_slice();
    }
}

/// Locks the queue of the vCPU that a thread is of.
fn queue_of_task(task: &Task) -> (SpinLockGuard<'static, Queue>, u32) {
    loop {
        let cpu = task.cpu();
        let queue = queue_of(cpu).lock();
        if task.cpu() == cpu {
            return (queue, cpu);
        }
    }
}

/// Puts a thread, which has left the vCPU that it was of, into the queue of the one that it is of now.
pub(super) fn admit(thread: Arc<Thread>) {
    let cpu = thread.task.cpu();
    let queue = queue_of(cpu).lock();
    queue.arrive(&thread.task);
    insert(queue, thread, cpu);
}

/// Puts a thread into the queue of a vCPU, and lets that know.
fn insert(mut queue: SpinLockGuard<'static, Queue>, thread: Arc<Thread>, cpu: u32) {
    let target = cpu::by_index(cpu);
    let task: *const Task = &raw const thread.task;
    queue.add(thread, cpu);
    // SAFETY: the queue, whose lock is held, keeps the thread.
    let task = unsafe { &*task };
    let running = target.thread.load(Ordering::Relaxed);
    // One that has run longer makes room; how much longer keeps pairs from switching all the time.
    let ahead = running.is_null() || {
        // SAFETY: the running thread is alive as long as it runs, which our lock keeps it doing.
        let running = unsafe { &(*running).task };
        let mut rank = task.rank();
        rank.time = rank.time.saturating_add(crate::time::frequency_khz());
        running.state.load(Ordering::Relaxed) != RUNNABLE || rank < running.rank()
    };
    let here = cpu == Cpu::current().index();
    if ahead {
        target.request_switch();
    } else if queue.slice_end == NEVER && here {
        queue.begin_slice();
    }
    // One that fell idle meanwhile did not see the thread.
    let helper = if cpus::count() > 1 && load(cpu) > 1 { cpus::idle(task) } else { None };
    drop(queue);
    if !here {
        cpus::interrupt(cpu);
    }
    if let Some(helper) = helper {
        cpus::interrupt(helper);
    }
}

/// Lets a sleeping thread run.
pub fn wake(thread: &Thread) {
    let task = &thread.task;
    if task.state.load(Ordering::SeqCst) != SLEEPING {
        return;
    }
    let (mut queue, cpu) = queue_of_task(task);
    if task.state.compare_exchange(SLEEPING, RUNNABLE, Ordering::SeqCst, Ordering::SeqCst)
        != Ok(SLEEPING)
    {
        return;
    }
    let target = cpu::by_index(cpu);
    if core::ptr::eq(target.thread.load(Ordering::Relaxed), thread) {
        // It has not left its vCPU, which halts for it or is about to look again.
        queue.set_idle(false, cpu);
        if !task.allows(cpu) {
            target.request_switch();
        }
        drop(queue);
        if cpu != Cpu::current().index() {
            cpus::interrupt(cpu);
        }
        return;
    }
    let chosen = cpus::choose(task);
    if chosen == cpu {
        insert(queue, thread.to_arc(), cpu);
    } else {
        let thread = thread.to_arc();
        queue.leave(task, chosen);
        drop(queue);
        admit(thread);
    }
}

/// A thread for this vCPU out of another's queue.
fn steal() -> Option<Arc<Thread>> {
    let here = Cpu::current().index();
    let count = cpus::count();
    for step in 1..count {
        let cpu = (here + step) % count;
        if load(cpu) < 2 {
            continue;
        }
        let mut queue = queue_of(cpu).lock();
        if let Some(thread) = queue.take_which(cpu, |thread| thread.task.allows(here)) {
            queue.leave(&thread.task, here);
            return Some(thread);
        }
    }
    None
}

/// Finds something to do for this vCPU; else says that there is nothing, programs the timer, and
/// gives up the lock of the queue.
fn next_or_idle(
    mut queue: SpinLockGuard<'static, Queue>,
) -> Option<(SpinLockGuard<'static, Queue>, Arc<Thread>)> {
    let here = Cpu::current().index();
    if let Some(next) = queue.take(here) {
        return Some((queue, next));
    }
    queue.slice_end = NEVER;
    if cpus::count() > 1 {
        // First the word that nothing runs here, then the look: whoever adds a thread elsewhere does it in
        // the other order, and one of the two sees the other.
        queue.set_idle(true, here);
        drop(queue);
        if let Some(thread) = steal() {
            let mut queue = own_queue();
            queue.arrive(&thread.task);
            queue.add(thread, here);
            let next = queue.take(here)?;
            return Some((queue, next));
        }
    } else {
        queue.program_slice();
    }
    None
}

/// A thread's policy has changed: so may its place among those that are ready.
pub fn reorder(thread: &Thread) {
    let (mut queue, cpu) = queue_of_task(&thread.task);
    if let Some(thread) = queue.take_which(cpu, |one| core::ptr::eq(one, thread)) {
        queue.add(thread, cpu);
    }
    cpu::by_index(cpu).request_switch();
    drop(queue);
    cpus::interrupt(cpu);
}

/// Waits, after [`prepare_to_sleep`], until someone wakes the running thread.
pub fn block() {
    crate::sync::expect_none_held();
    let me = current();
    loop {
        let mut queue = own_queue();
        if me.task.state.load(Ordering::SeqCst) != SLEEPING {
            queue.set_idle(false, Cpu::current().index());
            return;
        }
        if let Some((mut queue, next)) = next_or_idle(queue) {
            // The lock was perhaps given up meanwhile.
            if me.task.state.load(Ordering::SeqCst) != SLEEPING {
                queue.add(next, Cpu::current().index());
                queue.set_idle(false, Cpu::current().index());
                if queue.slice_end == NEVER {
                    queue.begin_slice();
                }
                return;
            }
            me.task.switches[0].fetch_add(1, Ordering::Relaxed);
            switch(queue, Some(next));
            return;
        }
        halt(&me.task);
    }
}

/// Halts until an interrupt has been handled; the time does not count for the thread.
fn halt(task: &Task) {
    task.end_turn();
    cpu::wait_for_interrupt();
    reporting::attend();
    task.begin_turn();
}

/// What a vCPU does on the stack that it has for the time without a thread.
pub fn wait_for_thread() -> ! {
    crate::arch::native::resume_if_used();
    loop {
        if let Some((queue, next)) = next_or_idle(own_queue()) {
            switch(queue, Some(next));
        }
        cpu::wait_for_interrupt();
        reporting::attend();
    }
}

/// Gives the others a turn (`sched_yield`): goes behind all of its class.
pub fn yield_now() {
    let mut queue = own_queue();
    let here = Cpu::current().index();
    let me = current();
    me.task.end_turn();
    me.task.begin_turn();
    let last = queue.ready.last_time();
    let time = me.task.virtual_time.load(Ordering::Relaxed).max(last);
    me.task.virtual_time.store(time, Ordering::Relaxed);
    let Some(next) = queue.take(here) else { return };
    queue.add(me.to_arc(), here);
    me.task.switches[0].fetch_add(1, Ordering::Relaxed);
    switch(queue, Some(next));
}

/// Lets another thread run if it has run less than the running one, on the way back to ring 3; or
/// lets the running one go to another vCPU, if it may not stay.
pub fn preempt() {
    crate::sync::expect_none_held();
    let mut queue = own_queue();
    let here = Cpu::current().index();
    let me = current();
    me.task.end_turn();
    me.task.begin_turn();
    if cpus::count() > 1 && !me.task.allows(here) {
        me.task.switches[1].fetch_add(1, Ordering::Relaxed);
        queue.leaving = Some(me.to_arc());
        let next = queue.take(here);
        if next.is_none() {
            queue.slice_end = NEVER;
        }
        switch(queue, next);
        return;
    }
    let Some(next) = queue.take(here) else { return };
    if me.task.rank() < next.task.rank() {
        queue.add(next, here);
        queue.begin_slice();
        return;
    }
    queue.add(me.to_arc(), here);
    me.task.switches[1].fetch_add(1, Ordering::Relaxed);
    switch(queue, Some(next));
}

/// Makes a changed affinity hold: the thread runs on another vCPU if it may not stay where it is.
pub fn settle(thread: &Thread) {
    let task = &thread.task;
    let (mut queue, cpu) = queue_of_task(task);
    if task.allows(cpu) {
        return;
    }
    let target = cpu::by_index(cpu);
    if core::ptr::eq(target.thread.load(Ordering::Relaxed), thread) {
        target.request_switch();
        drop(queue);
        if cpu != Cpu::current().index() {
            cpus::interrupt(cpu);
        }
    } else if let Some(thread) = queue.take_which(cpu, |one| core::ptr::eq(one, thread)) {
        queue.leave(task, cpus::choose(task));
        drop(queue);
        admit(thread);
    }
    // One that sleeps, or is on its way to a queue, is looked at when it is woken or runs.
}

/// The running thread ends: it is never seen again.
pub fn exit() -> ! {
    let me = current();
    release();
    me.task.state.store(DEAD, Ordering::SeqCst);
    loop {
        if let Some((mut queue, next)) = next_or_idle(own_queue()) {
            queue.dead = Some(me.to_arc());
            switch(queue, Some(next));
        }
        halt(&me.task);
    }
}

/// Puts a new thread into a queue.
pub fn start(thread: Arc<Thread>) {
    let here = Cpu::current().index();
    let cpu = cpus::choose(&thread.task);
    if cpu == here {
        thread.task.cpu.store(cpu, Ordering::SeqCst);
        let mut queue = own_queue();
        queue.add(thread, cpu);
        if queue.slice_end == NEVER {
            queue.begin_slice();
        }
    } else {
        own_queue().leave(&thread.task, cpu);
        admit(thread);
    }
}

/// Switches so far, on all vCPUs.
pub fn switches() -> u64 {
    (0..cpus::count()).map(|cpu| queue_of(cpu).lock().switches).sum()
}

/// From here on [`wake`] turns the running thread back into one that runs.
pub fn prepare_to_sleep() {
    crate::process::current().task.state.store(SLEEPING, Ordering::SeqCst);
}

/// The running thread does not sleep after all.
pub fn stay_awake() {
    crate::process::current().task.state.store(RUNNABLE, Ordering::SeqCst);
}

/// Wakes the running thread at a time.
pub struct Alarm(Option<crate::time::timers::Key>);

impl Alarm {
    /// None yet.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Sets it, unless it is set already: its time does not change.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn set(&mut self, deadline: u64) -> Result<()> {
        if self.0.is_none() {
            self.0 = Some(crate::time::timers::arm(deadline, crate::process::current().to_arc())?);
        }
        Ok(())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            crate::time::timers::cancel(key);
        }
    }
}

impl crate::time::timers::Expire for Thread {
    fn expire(&self) {
        wake(self);
    }
}
