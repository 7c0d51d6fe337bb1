//! A thread, as the scheduler sees it: how it is chosen, where it may run, and how long it ran.

use super::ready::{FAIR, Rank};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Runs, or is in a run queue.
pub(super) const RUNNABLE: u8 = 0;
/// Waits for [`super::run::wake`].
pub(super) const SLEEPING: u8 = 1;
/// Has ended.
#[cfg(target_os = "none")]
pub(super) const DEAD: u8 = 2;

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
    pub(super) state: AtomicU8,
    /// The vCPU that it runs on, or whose queue it is in or was in last.
    pub(super) cpu: AtomicU32,
    policy: AtomicU32,
    nice: AtomicI32,
    /// The class that it inherits from those that wait for its locks; [`FAIR`] for none.
    inherited: AtomicU8,
    /// vCPUs that it may run on (`sched_setaffinity`): bit n is vCPU n.
    affinity: [AtomicU64; 4],
    /// Virtual run time in ticks of the TSC.
    pub(super) virtual_time: AtomicU64,
    /// Ticks of the TSC that it ran, without the present turn.
    ran: AtomicU64,
    /// TSC at the start of its present turn; 0 if it does not run.
    turn: AtomicU64,
    /// How often it was found running a program, and the kernel.
    samples: [AtomicU64; 2],
    /// How often it gave up its vCPU, and how often that was taken from it.
    pub switches: [AtomicU64; 2],
    #[cfg(target_os = "none")]
    pub(super) machine: super::switch::Saved,
}

impl Task {
    /// One that has not run yet, like the one that makes it.
    pub fn new(like: Option<&Self>) -> Self {
        let task = Self {
            state: AtomicU8::new(RUNNABLE),
            cpu: AtomicU32::new(0),
            policy: AtomicU32::new(0),
            nice: AtomicI32::new(0),
            inherited: AtomicU8::new(FAIR),
            affinity: [const { AtomicU64::new(u64::MAX) }; 4],
            virtual_time: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            samples: [const { AtomicU64::new(0) }; 2],
            switches: [AtomicU64::new(0), AtomicU64::new(0)],
            #[cfg(target_os = "none")]
            machine: super::switch::Saved::new(),
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

    /// Changes that, and whether its children begin without; see [`super::run::reorder`].
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

    /// Changes that; [`super::run::settle`] makes it hold.
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

    /// It was found running, by the vCPU that it runs on: a program, or the kernel for one.
    #[cfg(target_os = "none")]
    pub fn sample(&self, is_system: bool) {
        let count = &self.samples[usize::from(is_system)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How often it was.
    pub fn samples(&self) -> [u64; 2] {
        [0, 1].map(|kind: usize| self.samples[kind].load(Ordering::Relaxed))
    }

    /// CPU time in ticks of the TSC.
    pub fn ticks(&self) -> u64 {
        let turn = self.turn.load(Ordering::Relaxed);
        let now = if turn == 0 { 0 } else { crate::time::tsc::read().saturating_sub(turn) };
        self.ran.load(Ordering::Relaxed) + now
    }

    /// Lets it run as if it were of this class, if its own is a lower one; whether that is a change. See
    /// [`super::run::reorder`].
    pub fn inherit(&self, class: u8) -> bool {
        self.inherited.swap(class, Ordering::Relaxed) != class
    }

    /// Its class by its policy, and by what it inherits.
    fn classes(&self) -> (u8, u8) {
        let own = match self.policy() {
            Policy::Fifo(priority) | Policy::RoundRobin(priority) => FAIR - 1 - priority.min(99),
            Policy::Fair(_) => FAIR,
        };
        (own, self.inherited.load(Ordering::Relaxed))
    }

    /// Where it stands among others.
    pub fn rank(&self) -> Rank {
        let (own, inherited) = self.classes();
        let class = own.min(inherited);
        let time = if class == FAIR { self.virtual_time.load(Ordering::Relaxed) } else { 0 };
        Rank { class, time }
    }

    /// Whether its turn has no end while others of its class wait.
    pub fn keeps_turn(&self) -> bool {
        let (own, inherited) = self.classes();
        match self.policy() {
            Policy::Fifo(_) => true,
            Policy::RoundRobin(_) => false,
            Policy::Fair(_) => inherited < own,
        }
    }

    /// A turn begins.
    #[cfg(target_os = "none")]
    pub(super) fn begin_turn(&self) {
        self.turn.store(crate::time::tsc::read(), Ordering::Relaxed);
    }

    /// A turn ends: the time counts.
    #[cfg(target_os = "none")]
    pub(super) fn end_turn(&self) {
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

/// How often a running thread is looked at, in nanoseconds. An interrupt is dear where ring 0 is interpreted.
#[cfg(target_os = "none")]
pub(super) fn sample_ns() -> u64 {
    const SAMPLE_NS: u64 = 4_000_000;
    const SAMPLE_INTERPRETED_NS: u64 = 40_000_000;
    if crate::arch::probe::syscall_faults() { SAMPLE_INTERPRETED_NS } else { SAMPLE_NS }
}

/// The share of a nice value: each step is worth a quarter, and 0 is 1024, as on Linux.
pub fn weight(nice: i32) -> u64 {
    let mut weight: u64 = 1024 << 10;
    for _ in 0..nice.unsigned_abs().min(20) {
        weight = if nice < 0 { weight * 5 / 4 } else { weight * 4 / 5 };
    }
    (weight >> 10).max(1)
}
