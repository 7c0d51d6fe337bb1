//! Who is next: what is ready to run on one vCPU, in the order of its turns.

use crate::errno::{Errno, Result};
use alloc::collections::BinaryHeap;
use core::cmp::{Ordering, Reverse};

/// Class of threads without real-time priority: after all that have one.
pub const FAIR: u8 = 101;

/// Where something stands among others: the lower, the sooner it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// [`FAIR`], or less by real-time priority.
    pub class: u8,
    /// Virtual run time of those in [`FAIR`], in ticks of the TSC; 0 for others.
    pub time: u64,
}

struct Ready<T> {
    /// Its rank, then who came first.
    order: Reverse<(Rank, u64)>,
    item: T,
}

impl<T> PartialEq for Ready<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<T> Eq for Ready<T> {}

impl<T> PartialOrd for Ready<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ready<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

/// What is ready to run on one vCPU.
pub struct ReadyQueue<T> {
    heap: BinaryHeap<Ready<T>>,
    /// Counts those that were added, for the order among equals.
    added: u64,
    /// Nothing that is added starts with less: who slept long does not get all of that time at once.
    least_time: u64,
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ReadyQueue<T> {
    /// One with nothing in it.
    pub const fn new() -> Self {
        Self { heap: BinaryHeap::new(), added: 0, least_time: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Makes room for `count` in all.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn reserve(&mut self, count: usize) -> Result<()> {
        let more = count.saturating_sub(self.heap.len());
        self.heap.try_reserve(more).map_err(|_| Errno::ENOMEM)
    }

    /// The virtual time that something starts with here at least: times of two queues say nothing to each
    /// other but by how much they are more than this.
    pub fn least_time(&self) -> u64 {
        self.least_time
    }

    /// The latest virtual time of all that wait; 0 if none does.
    pub fn last_time(&self) -> u64 {
        self.heap.iter().map(|ready| ready.order.0.0.time).max().unwrap_or(0)
    }

    /// Adds something; `begin` is told with what virtual time it starts, if it is one of the fair class. Does
    /// not allocate if there is room.
    pub fn add(&mut self, mut rank: Rank, item: T, begin: impl FnOnce(&T, u64)) {
        if rank.class == FAIR {
            rank.time = rank.time.max(self.least_time);
            begin(&item, rank.time);
        }
        self.added += 1;
        self.heap.push(Ready { order: Reverse((rank, self.added)), item });
    }

    /// Takes out what is next.
    pub fn take(&mut self) -> Option<T> {
        let Ready { order: Reverse((rank, _)), item } = self.heap.pop()?;
        if rank.class == FAIR {
            self.least_time = self.least_time.max(rank.time);
        }
        Some(item)
    }

    /// Takes out the first that satisfies the condition.
    pub fn take_which(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let fitting = self.heap.iter().filter(|ready| fits(&ready.item));
        let Reverse(wanted) = fitting.max().map(|ready| Reverse(ready.order.0))?;
        let mut list = core::mem::take(&mut self.heap).into_vec();
        let at = list.iter().position(|ready| ready.order.0 == wanted);
        let taken = at.map(|at| list.swap_remove(at).item);
        self.heap = BinaryHeap::from(list);
        taken
    }
}

#[cfg(test)]
mod tests;
