//! Locks. Ring 0 runs with interrupts off (see `sched`), so a spin lock needs no more than an atomic.
//!
//! Some nest. Outermost first: a terminal's input, `process::table`, a process's children, its life; a
//! thread's signals, then its process's pending ones and actions; a file system's tree, a directory,
//! a file's attributes; a futex's bucket, an address space, an object's pages; a wait queue; a run
//! queue; the heap; the pool of frames. The console's device is innermost but for the last two. Builds
//! with debug assertions check that they agree ([`order`]).

mod lazy;
#[cfg(debug_assertions)]
pub mod order;

pub use lazy::Lazy;

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Mutual exclusion by spinning. Never held across a sleep or a copy to or from a program: both may
/// wait for something that needs the same lock.
pub struct SpinLock<T: ?Sized> {
    locked: AtomicBool,
    /// How many have been waiting for long.
    awaited: AtomicU8,
    #[cfg(debug_assertions)]
    class: order::Class,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives one thread at a time access to the value.
unsafe impl<T: ?Sized + Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A lock around a value.
    #[cfg_attr(debug_assertions, track_caller)]
    pub const fn new(value: T) -> Self {
        Self {
            locked: AtomicBool::new(false),
            awaited: AtomicU8::new(0),
            #[cfg(debug_assertions)]
            class: order::Class::new(),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Waits until the lock is free and takes it.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        #[cfg(debug_assertions)]
        order::before(self, order::Together::Never);
        self.take()
    }

    /// The same, after those who have been waiting for long: for a lock that is held while other vCPUs are
    /// waited for. Where these share a processor with this one, it would only ever lose that while it has
    /// the lock, and so take it again and again.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_fairly(&self) -> SpinLockGuard<'_, T> {
        let mut wait = Wait::default();
        while self.awaited.load(Ordering::Relaxed) > 0 {
            wait.a_moment();
        }
        self.lock()
    }

    /// The same, perhaps with other locks of its kind held: whoever does this knows that all who do
    /// take them in the same order.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_in_order(&self) -> SpinLockGuard<'_, T> {
        #[cfg(debug_assertions)]
        order::before(self, order::Together::Ordered);
        self.take()
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn take(&self) -> SpinLockGuard<'_, T> {
        if self.locked.swap(true, Ordering::Acquire) {
            wait(&self.locked, &self.awaited);
        }
        #[cfg(debug_assertions)]
        order::taken(self);
        SpinLockGuard { lock: self }
    }

    /// Takes the lock if it is free.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        if self.locked.swap(true, Ordering::Acquire) {
            return None;
        }
        #[cfg(debug_assertions)]
        order::taken(self);
        Some(SpinLockGuard { lock: self })
    }

    /// The guard of a lock that is held, and whose guard was forgotten.
    ///
    /// # Safety
    /// That is so, and the caller is the only one who makes a guard of it.
    pub unsafe fn inherit(&self) -> SpinLockGuard<'_, T> {
        SpinLockGuard { lock: self }
    }

    /// The value, which nobody else can have.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default> Default for SpinLock<T> {
    #[cfg_attr(debug_assertions, track_caller)]
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Says that no lock is held here: what follows may sleep, or wait for a page. Builds with debug assertions panic
/// if one is.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn expect_none_held() {
    #[cfg(debug_assertions)]
    order::none_held();
}

/// How who waits for another vCPU does so: for how many moments already.
#[derive(Default)]
pub struct Wait(u32);

impl Wait {
    /// Lets a moment pass. After many, which is around 0.1 ms, the other vCPU is likely not to run at all: the
    /// host is asked for its turn.
    pub fn a_moment(&mut self) {
        const MANY: u32 = 2000;
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(MANY) {
            crate::arch::cpu::yield_to_host();
        }
        crate::arch::cpu::relax();
    }
}

/// Waits until a lock is free and takes it. Meanwhile this vCPU does what others may wait for, perhaps
/// those who have the lock.
#[cold]
#[inline(never)]
fn wait(locked: &AtomicBool, awaited: &AtomicU8) {
    const LONG: u32 = 100;
    let mut looks: u32 = 0;
    let mut wait = Wait::default();
    loop {
        while locked.load(Ordering::Relaxed) {
            wait.a_moment();
            looks = looks.saturating_add(1);
            if looks == LONG {
                // No more vCPUs than that exist.
                awaited.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !locked.swap(true, Ordering::Acquire) {
            if looks >= LONG {
                awaited.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
    }
}

/// Access to what a [`SpinLock`] protects, until dropped.
pub struct SpinLockGuard<'a, T: ?Sized> {
    lock: &'a SpinLock<T>,
}

impl<T: ?Sized> Deref for SpinLockGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists only while the lock is held, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for SpinLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        order::given_back(self.lock);
        self.lock.locked.store(false, Ordering::Release);
    }
}
