//! The order in which locks are taken, checked in builds with debug assertions; other builds have nothing of this.
//!
//! Locks that are made at the same place in the source, around values of the same type, are a *class*. Whoever takes
//! a lock while holding others says by that that its class comes after theirs. All that has been said so far is kept;
//! what contradicts it is a panic: two vCPUs doing both at the same time could wait for each other for ever, whether
//! or not they do so now. So one run on one vCPU finds what several would meet once in a year.
//!
//! Two locks of one class are taken together only by who says how they are ordered ([`Together`]).

use super::SpinLock;
use core::cell::UnsafeCell;
use core::panic::Location;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// Classes there may be.
const CLASSES: usize = 256;
const WORDS: usize = CLASSES / 64;
/// Locks that a vCPU may hold at a time.
const DEPTH: usize = 24;

/// Whether a lock may be taken with another of its class held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Together {
    /// No.
    Never,
    /// By an order that the caller knows.
    Ordered,
}

/// The class of a lock: where it was made.
#[derive(Debug)]
pub(super) struct Class {
    made: &'static Location<'static>,
    /// Its number and 1, once known.
    number: AtomicU16,
}

impl Class {
    #[track_caller]
    pub(super) const fn new() -> Self {
        Self { made: Location::caller(), number: AtomicU16::new(0) }
    }

    fn number(&self, value: &'static str) -> usize {
        let known = self.number.load(Ordering::Relaxed);
        if known != 0 {
            return usize::from(known - 1);
        }
        let number = REGISTRY.with(|registry| registry.number(self.made, value));
        let Some(number) = number else {
            fail(format_args!("more than {CLASSES} classes of locks"))
        };
        self.number.store(number + 1, Ordering::Relaxed);
        usize::from(number)
    }
}

/// A lock that is held.
#[derive(Clone, Copy)]
struct Entry {
    address: usize,
    class: usize,
    taken: &'static Location<'static>,
}

/// The locks that a vCPU holds, in the order of taking. All zeroes are none.
pub struct Held(UnsafeCell<List>);

struct List {
    entries: [Option<Entry>; DEPTH],
    count: usize,
}

// SAFETY: only the vCPU whose it is uses it, with interrupts off.
unsafe impl Sync for Held {}

impl Held {
    /// None.
    #[expect(clippy::new_without_default, reason = "a constant")]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(List { entries: [None; DEPTH], count: 0 }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut List) -> T) -> T {
        // SAFETY: used by this vCPU alone; the functions below do not call each other.
        act(unsafe { &mut *self.0.get() })
    }

    /// The nth lock in the order of taking.
    fn get(&self, index: usize) -> Option<Entry> {
        self.with(|list| list.entries.get(index).copied().flatten())
    }

    fn push(&self, entry: Entry) {
        let done = self.with(|list| {
            let slot = list.entries.get_mut(list.count)?;
            *slot = Some(entry);
            list.count += 1;
            Some(())
        });
        if done.is_none() {
            fail(format_args!("more than {DEPTH} locks are held at a time"));
        }
    }

    /// A lock that is not there was taken before this began.
    fn remove(&self, address: usize) {
        self.with(|list| {
            let entries = &mut list.entries[..list.count];
            let is_it = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.address == address);
            if let Some(at) = entries.iter().rposition(is_it) {
                entries[at..].rotate_left(1);
                list.count -= 1;
                list.entries[list.count] = None;
            }
        });
    }
}

/// What is known of classes.
struct Registry {
    classes: [Option<(&'static Location<'static>, &'static str)>; CLASSES],
    count: usize,
    /// Bit b of entry a: b was taken while a was held.
    after: [[u64; WORDS]; CLASSES],
}

impl Registry {
    fn number(&mut self, made: &'static Location<'static>, value: &'static str) -> Option<u16> {
        let known = self.classes[..self.count].iter();
        let at = known.flatten().position(|class| *class == (made, value)).or_else(|| {
            *self.classes.get_mut(self.count)? = Some((made, value));
            self.count += 1;
            Some(self.count - 1)
        });
        u16::try_from(at?).ok()
    }

    fn is_after(&self, first: usize, second: usize) -> bool {
        self.after[first][second / 64] >> (second % 64) & 1 != 0
    }

    /// Whether `to` comes after `from`, perhaps with others between.
    fn leads_to(&self, from: usize, to: usize) -> bool {
        let mut seen = [0_u64; WORDS];
        let mut next = self.after[from];
        while next != seen {
            seen = next;
            if seen[to / 64] >> (to % 64) & 1 != 0 {
                return true;
            }
            for class in (0..self.count).filter(|class| seen[class / 64] >> (class % 64) & 1 != 0) {
                for (word, more) in next.iter_mut().zip(&self.after[class]) {
                    *word |= more;
                }
            }
        }
        false
    }

    /// Notes that `second` is taken with `first` held; false if that contradicts what is known.
    fn note(&mut self, first: usize, second: usize) -> bool {
        if self.is_after(first, second) {
            return true;
        }
        let fits = !self.leads_to(second, first);
        if fits {
            self.after[first][second / 64] |= 1 << (second % 64);
        }
        fits
    }
}

/// The registry, and a lock that is none of those which it knows.
struct Guarded {
    busy: AtomicBool,
    registry: UnsafeCell<Registry>,
}

// SAFETY: the registry is only used by `with`, one at a time.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn with<T>(&self, act: impl FnOnce(&mut Registry) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            crate::arch::cpu::relax();
        }
        // SAFETY: `busy` was ours to set.
        let result = act(unsafe { &mut *self.registry.get() });
        self.busy.store(false, Ordering::Release);
        result
    }
}

static REGISTRY: Guarded = Guarded {
    busy: AtomicBool::new(false),
    registry: UnsafeCell::new(Registry {
        classes: [None; CLASSES],
        count: 0,
        after: [[0; WORDS]; CLASSES],
    }),
};

/// Something is wrong: what is said of it takes locks, too.
static FAILED: AtomicBool = AtomicBool::new(false);

#[track_caller]
fn fail(what: core::fmt::Arguments<'_>) -> ! {
    // On the host only a test ends.
    FAILED.store(cfg!(target_os = "none"), Ordering::Relaxed);
    panic!("{what}");
}

fn held() -> Option<&'static Held> {
    if FAILED.load(Ordering::Relaxed) { None } else { crate::arch::cpu::held_locks() }
}

fn address<T: ?Sized>(lock: &SpinLock<T>) -> usize {
    (&raw const lock.locked).addr()
}

/// A lock is about to be taken.
#[track_caller]
pub(super) fn before<T: ?Sized>(lock: &SpinLock<T>, together: Together) {
    let Some(held) = held() else { return };
    let class = lock.class.number(core::any::type_name::<T>());
    for other in (0..DEPTH).map_while(|index| held.get(index)) {
        if other.class == class {
            if together == Together::Never || other.address == address(lock) {
                fail(format_args!(
                    "a lock of a class is taken with another one held: {}, taken at {}; the other at {}",
                    lock.class.made,
                    Location::caller(),
                    other.taken,
                ));
            }
        } else if !REGISTRY.with(|registry| registry.note(other.class, class)) {
            let (made, value) = REGISTRY.with(|registry| registry.classes[other.class]).unzip();
            fail(format_args!(
                "locks are taken in two orders: here {} ({}) at {}, after {} ({}) at {}",
                lock.class.made,
                core::any::type_name::<T>(),
                Location::caller(),
                made.unwrap_or(other.taken),
                value.unwrap_or("?"),
                other.taken,
            ));
        }
    }
}

/// A lock was taken.
#[track_caller]
pub(super) fn taken<T: ?Sized>(lock: &SpinLock<T>) {
    let Some(held) = held() else { return };
    let class = lock.class.number(core::any::type_name::<T>());
    held.push(Entry { address: address(lock), class, taken: Location::caller() });
}

/// A lock is about to be given back.
pub(super) fn given_back<T: ?Sized>(lock: &SpinLock<T>) {
    if let Some(held) = held() {
        held.remove(address(lock));
    }
}

/// Panics if this vCPU holds a lock, where it must not.
#[track_caller]
pub(super) fn none_held() {
    let Some(held) = held() else { return };
    if let Some(entry) = held.get(0) {
        fail(format_args!("a lock is held, taken at {}", entry.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn an_order_that_closes_a_circle_is_refused() {
        let made = [Location::caller(); 4];
        let mut registry =
            Registry { classes: [None; CLASSES], count: 0, after: [[0; WORDS]; CLASSES] };
        let names = ["a", "b", "c", "d"];
        for (index, (made, name)) in made.into_iter().zip(names).enumerate() {
            assert_eq!(registry.number(made, name), u16::try_from(index).ok());
            assert_eq!(registry.number(made, name), u16::try_from(index).ok());
        }
        assert!(registry.note(0, 1) && registry.note(1, 2) && registry.note(2, 3));
        assert!(registry.note(0, 3) && registry.note(0, 1));
        assert!(!registry.note(3, 0) && !registry.note(2, 0) && !registry.note(1, 0));
        assert!(registry.note(1, 3));
    }

    #[test]
    fn locks_taken_in_two_orders_are_found_without_a_deadlock() {
        let (first, second) = (SpinLock::new(1_u8), SpinLock::new(2_u16));
        drop((first.lock(), second.lock()));
        let other = catch_unwind(AssertUnwindSafe(|| drop((second.lock(), first.lock()))));
        assert!(other.is_err());
        drop((first.lock(), second.lock()));
    }
}
