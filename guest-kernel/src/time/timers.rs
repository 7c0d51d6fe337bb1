//! Kernel timers: whatever shall happen at a time, whether or not anybody waits for it.
//!
//! One queue for all vCPUs and each of two clocks: a binary heap whose entries know their places, so
//! that arming and cancelling cost a path to the root. Each vCPU's local timer is programmed for the
//! earliest head or something before it: [`arm`] does that on the vCPU that arms, and whoever programs
//! a local timer for anything else takes the minimum with [`next`].

use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// What happens when a timer expires.
pub trait Expire: Send + Sync {
    /// Called once for each time it was armed, on any vCPU, with interrupts off and without the lock
    /// of the timers. It may take spin locks, arm and cancel timers, and wake whoever waits; it must
    /// not sleep. The last reference may be dropped right after it.
    fn expire(&self);
}

/// The clock that a deadline is a reading of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nanoseconds since boot.
    Monotonic,
    /// The time of day: when that is set, the timer comes sooner or later.
    Realtime,
}

impl Base {
    /// What the clock reads, in nanoseconds.
    pub fn now(self) -> u64 {
        super::monotonic_ns().wrapping_add(self.offset())
    }

    /// Nanoseconds by which it is ahead of the monotonic clock.
    fn offset(self) -> u64 {
        match self {
            Self::Monotonic => 0,
            Self::Realtime => super::VVAR.realtime_offset(),
        }
    }
}

/// A timer that was armed, for [`cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    base: Base,
    slot: usize,
    id: u64,
}

/// An armed timer's place in the order. Timers of the same time expire in the order of arming.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    deadline: u64,
    id: u64,
    slot: usize,
}

/// What belongs to an entry and does not move with it.
enum Slot {
    /// An armed timer, and where its entry is.
    Armed { place: usize, target: Arc<dyn Expire> },
    /// The next free slot, if there is one.
    Free(Option<usize>),
}

/// The armed timers of a clock.
struct Queue {
    base: Base,
    /// A binary heap: no entry is before its parent, which is at `(place - 1) / 2`.
    heap: Vec<Entry>,
    slots: Vec<Slot>,
    free: Option<usize>,
    next_id: u64,
}

impl Queue {
    const fn new(base: Base) -> Self {
        Self { base, heap: Vec::new(), slots: Vec::new(), free: None, next_id: 0 }
    }

    /// The earliest deadline.
    fn head(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    fn insert(&mut self, deadline: u64, target: Arc<dyn Expire>) -> Result<Key> {
        self.heap.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let place = self.heap.len();
        let armed = Slot::Armed { place, target };
        let slot = match self.free {
            Some(slot) => {
                if let Slot::Free(next) = core::mem::replace(&mut self.slots[slot], armed) {
                    self.free = next;
                }
                slot
            }
            None => {
                self.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.slots.push(armed);
                self.slots.len() - 1
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.heap.push(Entry { deadline, id, slot });
        self.rise(place);
        Ok(Key { base: self.base, slot, id })
    }

    fn remove(&mut self, key: Key) -> Option<Arc<dyn Expire>> {
        let Some(&Slot::Armed { place, .. }) = self.slots.get(key.slot) else { return None };
        if self.heap[place].id == key.id { self.take(place) } else { None }
    }

    /// Takes out the first timer, if its time has come.
    fn pop(&mut self, now: u64) -> Option<Arc<dyn Expire>> {
        if self.head()? <= now { self.take(0) } else { None }
    }

    fn take(&mut self, place: usize) -> Option<Arc<dyn Expire>> {
        let entry = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.settle(place);
            self.sink(place);
            self.rise(place);
        }
        let old = core::mem::replace(&mut self.slots[entry.slot], Slot::Free(self.free));
        self.free = Some(entry.slot);
        match old {
            Slot::Armed { target, .. } => Some(target),
            Slot::Free(_) => None,
        }
    }

    /// Tells the slot of an entry where the entry is now.
    fn settle(&mut self, at: usize) {
        if let Slot::Armed { place, .. } = &mut self.slots[self.heap[at].slot] {
            *place = at;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.settle(a);
        self.settle(b);
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= self.heap[place] {
                return;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(child) = children.min_by_key(|&child| self.heap[child]) else { return };
            if self.heap[place] <= self.heap[child] {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}

/// All armed timers.
struct Timers {
    monotonic: Queue,
    realtime: Queue,
}

impl Timers {
    const fn queue(&mut self, base: Base) -> &mut Queue {
        match base {
            Base::Monotonic => &mut self.monotonic,
            Base::Realtime => &mut self.realtime,
        }
    }

    /// The earliest deadline of all, by the monotonic clock.
    fn head(&self) -> Option<u64> {
        // Each of them may be `None`, which must not win.
        let heads = [&self.monotonic, &self.realtime].into_iter().filter_map(|queue| {
            queue.head().map(|deadline| deadline.saturating_sub(queue.base.offset()))
        });
        heads.min()
    }

    fn pop(&mut self, now: u64) -> Option<Arc<dyn Expire>> {
        let real = now.saturating_add(Base::Realtime.offset());
        self.monotonic.pop(now).or_else(|| self.realtime.pop(real))
    }

    /// Lets [`next`] tell of the head.
    fn publish(&self) {
        HEAD.store(self.head().unwrap_or(NEVER), Ordering::Release);
    }
}

static TIMERS: SpinLock<Timers> = SpinLock::new(Timers {
    monotonic: Queue::new(Base::Monotonic),
    realtime: Queue::new(Base::Realtime),
});

/// No timer.
const NEVER: u64 = u64::MAX;
/// The earliest deadline, to be looked at without the lock.
static HEAD: AtomicU64 = AtomicU64::new(NEVER);

/// Lets `target` expire when the monotonic clock reads `deadline` nanoseconds, or at once if it is
/// past that.
///
/// # Errors
/// ENOMEM.
pub fn arm(deadline: u64, target: Arc<dyn Expire>) -> Result<Key> {
    arm_by(Base::Monotonic, deadline, target)
}

/// The same by the clock `base`.
///
/// # Errors
/// ENOMEM.
pub fn arm_by(base: Base, deadline: u64, target: Arc<dyn Expire>) -> Result<Key> {
    // The last representable nanosecond stands for no timer.
    let deadline = deadline.min(NEVER - 1);
    let mut timers = TIMERS.lock();
    let before = timers.head();
    let key = timers.queue(base).insert(deadline, target)?;
    let after = timers.head();
    timers.publish();
    drop(timers);
    if after != before {
        program();
    }
    Ok(key)
}

/// Disarms a timer; false if it has expired, or is just expiring on another vCPU.
pub fn cancel(key: Key) -> bool {
    let mut timers = TIMERS.lock();
    let target = timers.queue(key.base).remove(key);
    timers.publish();
    drop(timers);
    // Dropped here, without the lock. The local timer may now come too early, which is harmless.
    target.is_some()
}

/// The earliest deadline, in nanoseconds of the monotonic clock.
pub fn next() -> Option<u64> {
    match HEAD.load(Ordering::Acquire) {
        NEVER => None,
        deadline => Some(deadline),
    }
}

/// Lets those expire whose deadline is not after `now`, by the monotonic clock. Called by the timer
/// interrupt.
pub fn run_expired(now: u64) {
    while next().is_some_and(|deadline| deadline <= now) {
        let mut timers = TIMERS.lock();
        let target = timers.pop(now);
        timers.publish();
        drop(timers);
        if let Some(target) = target {
            target.expire();
        }
    }
}

/// The time of day was set.
pub fn clock_was_set() {
    TIMERS.lock().publish();
    program();
}

/// Programs this vCPU's local timer for the earliest deadline, if nothing else comes before.
#[cfg(target_os = "none")]
pub fn program() {
    crate::sched::run::program_timer();
}

/// On the host there is no local timer: tests call [`run_expired`].
#[cfg(not(target_os = "none"))]
pub fn program() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Random;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Notes its number when it expires.
    struct Note(u64, Arc<Mutex<Vec<u64>>>);

    impl Expire for Note {
        fn expire(&self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    /// Whether the heap is in order and slots and entries agree.
    fn check(queue: &Queue) {
        for (place, entry) in queue.heap.iter().enumerate() {
            assert!(place == 0 || queue.heap[(place - 1) / 2] <= *entry);
            assert!(
                matches!(queue.slots[entry.slot], Slot::Armed { place: at, .. } if at == place)
            );
        }
        let armed = queue.slots.iter().filter(|slot| matches!(slot, Slot::Armed { .. })).count();
        assert_eq!(armed, queue.heap.len());
    }

    #[test]
    fn a_queue_behaves_as_a_sorted_map() {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let mut queue = Queue::new(Base::Monotonic);
        let mut model = BTreeMap::new();
        let mut gone = Vec::new();
        let mut random = Random(1);
        for number in 0..20_000 {
            match random.below(5) {
                0..=2 => {
                    // Few deadlines, so that many are equal.
                    let deadline = random.below(500);
                    let note = Arc::new(Note(number, notes.clone()));
                    let key = queue.insert(deadline, note).unwrap();
                    model.insert((deadline, number), key);
                }
                3 if !model.is_empty() => {
                    let nth = usize::try_from(random.below(model.len() as u64)).unwrap();
                    let (&place, &key) = model.iter().nth(nth).unwrap();
                    assert!(queue.remove(key).is_some());
                    model.remove(&place);
                    gone.push(key);
                }
                _ => {
                    let now = random.below(500);
                    let popped = queue.pop(now);
                    let first = model.first_key_value().map(|(&place, &key)| (place, key));
                    match first.filter(|((deadline, _), _)| *deadline <= now) {
                        None => assert!(popped.is_none()),
                        Some(((deadline, number), key)) => {
                            popped.unwrap().expire();
                            assert_eq!(notes.lock().unwrap().pop(), Some(number));
                            model.remove(&(deadline, number));
                            gone.push(key);
                        }
                    }
                }
            }
            assert_eq!(queue.head(), model.first_key_value().map(|((deadline, _), _)| *deadline));
        }
        check(&queue);
        for key in gone {
            assert!(queue.remove(key).is_none());
        }
        for (_, key) in model {
            assert!(queue.remove(key).is_some());
        }
        check(&queue);
        assert!(queue.head().is_none());
    }

    /// The only test that uses the global queue: others would expire its timers.
    #[test]
    fn timers_expire_in_order_and_only_once() {
        /// Arms another timer when it expires.
        struct Again(Arc<Mutex<Vec<u64>>>);
        impl Expire for Again {
            fn expire(&self) {
                arm(1 << 62 | 30, Arc::new(Note(30, self.0.clone()))).unwrap();
            }
        }
        let notes = Arc::new(Mutex::new(Vec::new()));
        // Times that no clock of another test reaches.
        let start = 1 << 62;
        let note = |number| arm(start + number, Arc::new(Note(number, notes.clone()))).unwrap();
        let [third, first, second] = [note(20), note(5), note(10)];
        arm(start + 15, Arc::new(Again(notes.clone()))).unwrap();
        assert_eq!(next(), Some(start + 5));
        assert!(cancel(second));
        assert!(!cancel(second));
        run_expired(start + 4);
        assert!(notes.lock().unwrap().is_empty());
        run_expired(start + 5);
        assert_eq!(*notes.lock().unwrap(), [5]);
        assert!(!cancel(first));
        run_expired(start + 29);
        assert_eq!(*notes.lock().unwrap(), [5, 20]);
        assert!(!cancel(third));
        assert_eq!(next(), Some(start + 30));
        run_expired(u64::MAX);
        assert_eq!(*notes.lock().unwrap(), [5, 20, 30]);
        assert_eq!(next(), None);
    }
}
