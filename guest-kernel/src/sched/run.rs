//! Run queues, and the switch from one thread to another.
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

#[cfg(target_os = "none")]
use crate::errno::Result;
use crate::process::Thread;
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Runs, or is in a run queue.
const RUNNABLE: u8 = 0;
/// Waits for [`wake`].
const SLEEPING: u8 = 1;
/// Has ended.
#[cfg(target_os = "none")]
const DEAD: u8 = 2;

/// How threads are chosen (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_OTHER`, `SCHED_BATCH` (3) and `SCHED_IDLE` (5): fair shares.
    Fair(i32),
    /// `SCHED_FIFO`, with its priority.
    Fifo(u8),
    /// `SCHED_RR`, with its priority.
    RoundRobin(u8),
}

impl Policy {
    fn to_word(self) -> u32 {
        let (kind, priority) = self.numbers();
        u32::from(priority) << 8 | kind.cast_unsigned()
    }

    fn from_word(word: u32) -> Self {
        let [kind, priority, ..] = word.to_le_bytes();
        match kind {
            1 => Self::Fifo(priority),
            2 => Self::RoundRobin(priority),
            kind => Self::Fair(kind.into()),
        }
    }

    /// The `SCHED_*` number and the priority.
    pub fn numbers(self) -> (i32, u8) {
        match self {
            Self::Fair(kind) => (kind, 0),
            Self::Fifo(priority) => (1, priority),
            Self::RoundRobin(priority) => (2, priority),
        }
    }
}

/// A thread, as the scheduler sees it.
pub struct Task {
    state: AtomicU8,
    /// The vCPU that it runs on, or whose queue it is in or was in last.
    cpu: AtomicU32,
    policy: AtomicU32,
    nice: AtomicI32,
    /// vCPUs that it may run on (`sched_setaffinity`): bit n is vCPU n.
    affinity: [AtomicU64; 4],
    /// Virtual run time in ticks of the TSC.
    virtual_time: AtomicU64,
    /// Ticks of the TSC that it ran, without the present turn.
    ran: AtomicU64,
    /// TSC at the start of its present turn; 0 if it does not run.
    turn: AtomicU64,
    /// How often it gave up its vCPU, and how often that was taken from it.
    pub switches: [AtomicU64; 2],
    #[cfg(target_os = "none")]
    machine: hardware::Saved,
}

impl Task {
    /// One that has not run yet, like the one that makes it.
    pub fn new(like: Option<&Self>) -> Self {
        let task = Self {
            state: AtomicU8::new(RUNNABLE),
            cpu: AtomicU32::new(0),
            policy: AtomicU32::new(0),
            nice: AtomicI32::new(0),
            affinity: [const { AtomicU64::new(u64::MAX) }; 4],
            virtual_time: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            switches: [AtomicU64::new(0), AtomicU64::new(0)],
            #[cfg(target_os = "none")]
            machine: hardware::Saved::new(),
        };
        if let Some(like) = like {
            if like.resets_on_fork() {
                // `SCHED_RESET_ON_FORK`: what takes privileges is not handed on.
                let policy = match like.policy() {
                    Policy::Fair(kind) => Policy::Fair(kind),
                    Policy::Fifo(_) | Policy::RoundRobin(_) => Policy::Fair(0),
                };
                task.set_policy(policy, false);
                task.set_nice(like.nice().max(0));
            } else {
                task.set_policy(like.policy(), false);
                task.set_nice(like.nice());
            }
            task.cpu.store(like.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
            let time = like.virtual_time.load(Ordering::Relaxed);
            task.virtual_time.store(time, Ordering::Relaxed);
            for (mine, theirs) in task.affinity.iter().zip(&like.affinity) {
                mine.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        task
    }

    /// How it is chosen.
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.policy.load(Ordering::Relaxed))
    }

    /// Changes that, and whether its children begin without; see [`reorder`].
    pub fn set_policy(&self, policy: Policy, reset_on_fork: bool) {
        let reset = if reset_on_fork { RESET_ON_FORK } else { 0 };
        self.policy.store(policy.to_word() | reset, Ordering::Relaxed);
    }

    /// `SCHED_RESET_ON_FORK`.
    pub fn resets_on_fork(&self) -> bool {
        self.policy.load(Ordering::Relaxed) & RESET_ON_FORK != 0
    }

    /// From -20 to 19.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed)
    }

    /// Changes that.
    pub fn set_nice(&self, nice: i32) {
        self.nice.store(nice.clamp(-20, 19), Ordering::Relaxed);
    }

    /// vCPUs that it may run on.
    pub fn affinity(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|word: usize| self.affinity[word].load(Ordering::Relaxed))
    }

    /// Changes that; [`settle`] makes it hold.
    pub fn set_affinity(&self, mask: [u64; 4]) {
        for (word, value) in self.affinity.iter().zip(mask) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Whether it may run on a vCPU.
    pub fn allows(&self, cpu: u32) -> bool {
        let [index, ..] = (cpu >> 6).to_le_bytes();
        let word = self.affinity.get(usize::from(index));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (cpu & 63) & 1 != 0)
    }

    /// The vCPU that it runs on, or ran on last.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::SeqCst)
    }

    /// Whether it waits for something.
    pub fn is_sleeping(&self) -> bool {
        self.state.load(Ordering::Relaxed) == SLEEPING
    }

    /// CPU time in ticks of the TSC.
    pub fn ticks(&self) -> u64 {
        let turn = self.turn.load(Ordering::Relaxed);
        let now = if turn == 0 { 0 } else { crate::time::tsc::read().saturating_sub(turn) };
        self.ran.load(Ordering::Relaxed) + now
    }

    /// A turn begins.
    #[cfg(target_os = "none")]
    fn begin_turn(&self) {
        self.turn.store(crate::time::tsc::read(), Ordering::Relaxed);
    }

    /// A turn ends: the time counts.
    #[cfg(target_os = "none")]
    fn end_turn(&self) {
        let turn = self.turn.swap(0, Ordering::Relaxed);
        if turn != 0 {
            let ran = crate::time::tsc::read().saturating_sub(turn);
            self.ran.store(self.ran.load(Ordering::Relaxed) + ran, Ordering::Relaxed);
            let weighted = match (self.nice(), self.policy()) {
                (0, Policy::Fair(0)) => ran,
                (nice, policy) => {
                    let weight = if policy == IDLE { IDLE_WEIGHT } else { weight(nice) };
                    (u128::from(ran) * 1024 / u128::from(weight)).try_into().unwrap_or(u64::MAX)
                }
            };
            let time = self.virtual_time.load(Ordering::Relaxed).saturating_add(weighted);
            self.virtual_time.store(time, Ordering::Relaxed);
        }
    }
}

/// `SCHED_IDLE`, and its share (Linux's `WEIGHT_IDLEPRIO`).
#[cfg(target_os = "none")]
const IDLE: Policy = Policy::Fair(5);
#[cfg(target_os = "none")]
const IDLE_WEIGHT: u64 = 3;
/// In a task's word for its policy.
const RESET_ON_FORK: u32 = 1 << 16;

/// How long a turn is when others wait, in nanoseconds. A switch is dear where ring 0 is interpreted.
pub fn slice_ns() -> u64 {
    const SLICE_NS: u64 = 4_000_000;
    #[cfg(target_os = "none")]
    if crate::arch::probe::syscall_faults() {
        const SLICE_INTERPRETED_NS: u64 = 10_000_000;
        return SLICE_INTERPRETED_NS;
    }
    SLICE_NS
}

/// The share of a nice value: each step is worth a quarter, and 0 is 1024, as on Linux.
pub fn weight(nice: i32) -> u64 {
    let mut weight: u64 = 1024 << 10;
    for _ in 0..nice.unsigned_abs().min(20) {
        weight = if nice < 0 { weight * 5 / 4 } else { weight * 4 / 5 };
    }
    (weight >> 10).max(1)
}

/// From here on [`wake`] turns the running thread back into one that runs.
#[cfg(target_os = "none")]
pub fn prepare_to_sleep() {
    crate::process::current().task.state.store(SLEEPING, Ordering::SeqCst);
}

/// The running thread does not sleep after all.
#[cfg(target_os = "none")]
pub fn stay_awake() {
    crate::process::current().task.state.store(RUNNABLE, Ordering::SeqCst);
}

/// Wakes the running thread at a time.
#[cfg(target_os = "none")]
pub struct Alarm(Option<crate::time::timers::Key>);

#[cfg(target_os = "none")]
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

#[cfg(target_os = "none")]
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

#[cfg(not(target_os = "none"))]
mod hardware {
    use super::{RUNNABLE, Thread};
    use core::sync::atomic::Ordering;

    /// Lets a sleeping thread run.
    pub fn wake(thread: &Thread) {
        thread.task.state.store(RUNNABLE, Ordering::SeqCst);
    }
}

#[cfg(target_os = "none")]
mod hardware {
    use super::{DEAD, Policy, RUNNABLE, SLEEPING, Task, Thread};
    use crate::arch::cpu::{self, Cpu, MAX_CPUS, msr, read_msr, write_msr};
    use crate::arch::{apic, entry, fpu, native};
    use crate::errno::{Errno, Result};
    use crate::memory::{PhysAddr, usize_from};
    use crate::process::{self, current};
    use crate::sched::cpus;
    use crate::sched::stack::KernelStack;
    use crate::sync::{SpinLock, SpinLockGuard};
    use crate::time::{self, timers};
    use alloc::collections::BinaryHeap;
    use alloc::sync::Arc;
    use core::cell::UnsafeCell;
    use core::cmp::Reverse;
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// What the processor holds of a thread while it runs.
    pub struct Saved(UnsafeCell<Registers>);

    struct Registers {
        rsp: u64,
        fs_base: u64,
        gs_base: u64,
        stack: Option<KernelStack>,
        fpu: Option<fpu::State>,
    }

    // SAFETY: only touched by the vCPU that runs the thread, or with the lock of its queue held.
    unsafe impl Sync for Saved {}
    // SAFETY: plain data.
    unsafe impl Send for Saved {}

    impl Saved {
        pub(super) const fn new() -> Self {
            let registers = Registers { rsp: 0, fs_base: 0, gs_base: 0, stack: None, fpu: None };
            Self(UnsafeCell::new(registers))
        }
    }

    /// An order of turns: class of the thread, then its virtual time, then who came first.
    type Order = (u8, u64, u64);

    /// Class of threads without real-time priority.
    const FAIR: u8 = 101;

    /// Where a thread stands: the lower, the sooner it runs.
    fn order(task: &Task) -> (u8, u64) {
        match task.policy() {
            Policy::Fifo(priority) | Policy::RoundRobin(priority) => (100 - priority.min(99), 0),
            Policy::Fair(_) => (FAIR, task.virtual_time.load(Ordering::Relaxed)),
        }
    }

    struct Ready {
        order: Reverse<Order>,
        thread: Arc<Thread>,
    }

    impl PartialEq for Ready {
        fn eq(&self, other: &Self) -> bool {
            self.order == other.order
        }
    }

    impl Eq for Ready {}

    impl PartialOrd for Ready {
        fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Ready {
        fn cmp(&self, other: &Self) -> core::cmp::Ordering {
            self.order.cmp(&other.order)
        }
    }

    struct Queue {
        ready: BinaryHeap<Ready>,
        /// Counts those that were added, for the order among equals.
        added: u64,
        /// No thread that is added starts with less.
        least_time: u64,
        /// Monotonic nanoseconds when the running thread's slice ends, if others wait.
        slice_end: u64,
        /// What the local timer is programmed for.
        programmed: u64,
        /// A thread that has ended, whose stack was in use until now.
        dead: Option<Arc<Thread>>,
        /// A thread that shall run on another vCPU, whose stack was in use until now.
        leaving: Option<Arc<Thread>>,
        /// Nothing runs: the vCPU halts, or is about to.
        idle: bool,
        /// Switches so far.
        switches: u64,
    }

    /// Never.
    const NEVER: u64 = u64::MAX;

    static QUEUES: [SpinLock<Queue>; MAX_CPUS as usize] = [const {
        SpinLock::new(Queue {
            ready: BinaryHeap::new(),
            added: 0,
            least_time: 0,
            slice_end: NEVER,
            programmed: NEVER,
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

    fn queue_of(cpu: u32) -> &'static SpinLock<Queue> {
        &QUEUES[cpu as usize]
    }

    fn own_queue() -> SpinLockGuard<'static, Queue> {
        queue_of(Cpu::current().index()).lock()
    }

    /// How many threads run on a vCPU or wait in its queue.
    pub fn load(cpu: u32) -> u32 {
        LOADS[cpu as usize].load(Ordering::SeqCst)
    }

    impl Queue {
        fn add(&mut self, thread: Arc<Thread>, cpu: u32) {
            let task = &thread.task;
            let (class, mut time) = order(task);
            if class == FAIR {
                time = time.max(self.least_time);
                task.virtual_time.store(time, Ordering::Relaxed);
            }
            self.added += 1;
            // Room was reserved when the thread was made.
            self.ready.push(Ready { order: Reverse((class, time, self.added)), thread });
            self.publish(cpu);
        }

        fn take(&mut self, cpu: u32) -> Option<Arc<Thread>> {
            let Ready { order: Reverse((class, time, _)), thread } = self.ready.pop()?;
            if class == FAIR {
                self.least_time = self.least_time.max(time);
            }
            self.publish(cpu);
            Some(thread)
        }

        /// Takes out the first thread that satisfies the condition.
        fn take_which(&mut self, cpu: u32, fits: impl Fn(&Thread) -> bool) -> Option<Arc<Thread>> {
            let fitting = self.ready.iter().filter(|ready| fits(&ready.thread));
            let Reverse(wanted) = fitting.max().map(|ready| Reverse(ready.order.0))?;
            let mut list = core::mem::take(&mut self.ready).into_vec();
            let at = list.iter().position(|ready| ready.order.0 == wanted);
            let taken = at.map(|at| list.swap_remove(at).thread);
            self.ready = BinaryHeap::from(list);
            self.publish(cpu);
            taken
        }

        /// Tells other vCPUs how much there is to do, if there are any.
        fn publish(&self, cpu: u32) {
            if cpus::count() > 1 {
                let waiting = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
                let load = waiting.saturating_add((!self.idle).into());
                LOADS[cpu as usize].store(load, Ordering::SeqCst);
            }
        }

        fn set_idle(&mut self, idle: bool, cpu: u32) {
            if self.idle != idle {
                self.idle = idle;
                self.publish(cpu);
            }
        }

        /// A thread goes from this vCPU to another: the time that it ran counts from what is least here, as
        /// the times of two queues say nothing to each other.
        fn leave(&self, task: &Task, to: u32) {
            let time = task.virtual_time.load(Ordering::Relaxed).saturating_sub(self.least_time);
            task.virtual_time.store(time, Ordering::Relaxed);
            task.cpu.store(to, Ordering::SeqCst);
        }

        /// A thread that has left another arrives.
        fn arrive(&self, task: &Task) {
            let time = task.virtual_time.load(Ordering::Relaxed).saturating_add(self.least_time);
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

        fn begin_slice(&mut self) {
            self.slice_end = if self.ready.is_empty() {
                NEVER
            } else {
                time::monotonic_ns() + super::slice_ns()
            };
            self.program_slice();
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
        let more = usize_from(count).saturating_sub(queue.ready.len());
        queue.ready.try_reserve(more).map_err(|_| Errno::ENOMEM)
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

    /// The local timer fired.
    pub fn timer() {
        own_queue().programmed = NEVER;
        if timers::next().is_some() {
            timers::run_expired(time::monotonic_ns());
        }
        let mut queue = own_queue();
        if !queue.ready.is_empty() && time::monotonic_ns() >= queue.slice_end {
            queue.slice_end = NEVER;
            if !process::exists() || !matches!(current().task.policy(), Policy::Fifo(_)) {
                Cpu::current().request_switch();
            }
        }
        queue.program();
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
    fn admit(thread: Arc<Thread>) {
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
            let (class, time) = order(task);
            running.state.load(Ordering::Relaxed) != RUNNABLE
                || (class, time.saturating_add(crate::time::frequency_khz())) < order(running)
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

    /// Waits, after [`super::prepare_to_sleep`], until someone wakes the running thread.
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
        }
    }

    /// Gives the others a turn (`sched_yield`): goes behind all of its class.
    pub fn yield_now() {
        let mut queue = own_queue();
        let here = Cpu::current().index();
        let me = current();
        me.task.end_turn();
        me.task.begin_turn();
        let last = queue.ready.iter().map(|ready| ready.order.0.1).max().unwrap_or(0);
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
        if order(&me.task) < order(&next.task) {
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

    /// Gives a new thread a stack on which it enters ring 3 with the registers of `frame`, and a copy
    /// of what the running thread's processor state is.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn prepare(thread: &Thread, frame: &crate::arch::TrapFrame) -> Result<()> {
        let stack = KernelStack::new()?;
        let rsp = stack.place(frame);
        // SAFETY: the thread is in no queue yet. Both registers exist on every x86-64 processor.
        unsafe {
            let registers = &mut *thread.task.machine.0.get();
            registers.rsp = rsp;
            registers.stack = Some(stack);
            registers.fpu = Some(fpu::State::save()?);
            (registers.fs_base, registers.gs_base) =
                native::briefly(|| (read_msr(msr::FS_BASE), read_msr(msr::KERNEL_GS_BASE)));
        }
        Ok(())
    }

    /// Sets the base of FS of a thread that has not run (`CLONE_SETTLS`).
    pub fn set_thread_pointer(thread: &Thread, base: u64) {
        // SAFETY: the thread is in no queue yet.
        unsafe { (*thread.task.machine.0.get()).fs_base = base };
    }

    /// Makes the boot stack that of the first thread, which runs already.
    pub fn adopt_first(thread: &Thread) {
        thread.task.begin_turn();
    }

    /// Leaves the running thread, if there is one, for another, or for the stack without one. Returns when
    /// it runs again.
    fn switch(mut queue: SpinLockGuard<'static, Queue>, next: Option<Arc<Thread>>) {
        let cpu = Cpu::current();
        let me = cpu.thread.load(Ordering::Relaxed).cast_const();
        queue.switches += 1;
        queue.set_idle(next.is_none(), cpu.index());
        // Where ring 0 is interpreted, all that needs no privilege comes first.
        if !me.is_null() {
            // SAFETY: the vCPU's reference keeps it alive.
            unsafe { &(*me).task }.end_turn();
        }
        if let Some(next) = &next {
            next.task.begin_turn();
            queue.begin_slice();
        }
        let next = match next {
            Some(next) => take_over(cpu, next),
            None => {
                cpu.thread.store(core::ptr::null_mut(), Ordering::SeqCst);
                core::ptr::null()
            }
        };
        core::mem::forget(queue);
        switch_fpu(me, next);
        let mut unused = 0;
        let save = if me.is_null() { &raw mut unused } else { save_running(me) };
        let load = if next.is_null() {
            // The thread that leaves may free its address space as soon as it runs elsewhere.
            // SAFETY: the linked tables map the kernel like every other root.
            unsafe { cpu.set_root(crate::boot::kernel_root()) };
            cpus::stack_without_thread(cpu)
        } else {
            load_next(cpu, next)
        };
        if !me.is_null() {
            // SAFETY: the reference that the vCPU held; the process table, the queue, or the list of a
            // dead thread holds another.
            drop(unsafe { Arc::from_raw(me) });
        }
        // SAFETY: the other stack was left by this function, or prepared by `prepare`.
        unsafe { entry::switch_stacks(save, load) };
        // The switch was interpreted; what follows need not be.
        crate::arch::native::resume_if_used();
        finish_switch();
    }

    /// Makes a thread the one that runs here; returns where it is, as the vCPU has its reference now.
    fn take_over(cpu: &Cpu, next: Arc<Thread>) -> *const Thread {
        let pointer = Arc::into_raw(next).cast_mut();
        // SAFETY: the vCPU's reference keeps it alive.
        let next = unsafe { &*pointer };
        // SAFETY: the registers are not in use, since the thread came out of the queue that we hold the
        // lock of.
        let stack = unsafe { &(*next.task.machine.0.get()).stack };
        let top = stack.as_ref().map_or_else(process::first_stack_top, KernelStack::top);
        cpu.set_kernel_stack(top);
        cpu.thread.store(pointer, Ordering::SeqCst);
        cpu.take_work();
        // Whoever has work for it notes that, and then looks where it runs.
        if next.has_work() {
            cpu.request_work();
        }
        if cpus::count() > 1 && !next.task.allows(cpu.index()) {
            cpu.request_switch();
        }
        pointer
    }

    /// Saves the FPU's state of the running thread, and loads the next one's. Ring 3 can do that, where the kernel
    /// runs there, so it comes before what only ring 0 can.
    fn switch_fpu(me: *const Thread, next: *const Thread) {
        if !me.is_null() {
            // SAFETY: the vCPU's reference keeps it alive.
            let task = unsafe { &(*me).task };
            if task.state.load(Ordering::Relaxed) != DEAD {
                // SAFETY: the running thread's registers are this vCPU's alone.
                let mine = unsafe { &mut *task.machine.0.get() };
                match &mine.fpu {
                    Some(state) => state.save_again(),
                    // Allocated when a second thread was made; the first thread's is, too.
                    None => mine.fpu = fpu::State::save().ok(),
                }
            }
        }
        if !next.is_null() {
            // SAFETY: the vCPU's reference keeps it alive, and its registers are not in use, since it came out of the
            // queue whose lock is held.
            let theirs = unsafe { &*(*next).task.machine.0.get() };
            if let Some(state) = &theirs.fpu {
                state.restore_saved();
            }
        }
    }

    /// Saves the bases that the processor holds of the running thread; returns where its RSP goes.
    fn save_running(me: *const Thread) -> *mut u64 {
        // SAFETY: the vCPU's reference keeps it alive.
        let task = unsafe { &(*me).task };
        // SAFETY: the running thread's registers are this vCPU's alone.
        let mine = unsafe { &mut *task.machine.0.get() };
        if task.state.load(Ordering::Relaxed) != DEAD {
            // SAFETY: both registers exist on every x86-64 processor.
            unsafe {
                mine.fs_base = read_msr(msr::FS_BASE);
                mine.gs_base = read_msr(msr::KERNEL_GS_BASE);
            }
        }
        &raw mut mine.rsp
    }

    /// Gives the processor to a thread, up to its stack; returns its RSP.
    fn load_next(cpu: &Cpu, next: *const Thread) -> u64 {
        // SAFETY: the vCPU's reference keeps it alive.
        let next = unsafe { &*next };
        // SAFETY: the registers are not in use, since the thread came out of the queue whose lock is held.
        let theirs = unsafe { &*next.task.machine.0.get() };
        // Never the root of someone who does not run here: it may be freed as soon as nobody runs with it.
        let root = match next.process.root() {
            PhysAddr(0) => crate::boot::kernel_root(),
            root => root,
        };
        if root != cpu.root() {
            // SAFETY: the root maps the kernel; the next thread's process keeps it while it runs.
            unsafe { cpu.set_root(root) };
        }
        // SAFETY: both registers exist; the addresses were this thread's before.
        unsafe {
            write_msr(msr::FS_BASE, theirs.fs_base);
            write_msr(msr::KERNEL_GS_BASE, theirs.gs_base);
        }
        theirs.rsp
    }

    /// First thing on the new stack: others may use the queue again.
    pub fn finish_switch() {
        let lock = queue_of(Cpu::current().index());
        // SAFETY: whoever switched here forgot the guard, and we are its heir.
        let mut queue = unsafe { lock.inherit() };
        let dead = queue.dead.take();
        let leaving = queue.leaving.take();
        if let Some(thread) = &leaving {
            queue.leave(&thread.task, cpus::choose(&thread.task));
        }
        drop(queue);
        drop(dead);
        if let Some(thread) = leaving {
            admit(thread);
        }
    }

    /// Switches so far, on all vCPUs.
    pub fn switches() -> u64 {
        (0..cpus::count()).map(|cpu| queue_of(cpu).lock().switches).sum()
    }
}

#[cfg(not(target_os = "none"))]
pub use hardware::wake;
#[cfg(target_os = "none")]
pub use hardware::*;
