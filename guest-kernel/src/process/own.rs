//! A part of a thread or process that may be shared with others and replaced by its owner.

use crate::sync::SpinLock;
use alloc::sync::Arc;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A reference that its owner uses without counting, and that others may copy.
pub struct Own<T> {
    /// Keeps copies and replacement apart.
    lock: SpinLock<()>,
    /// From [`Arc::into_raw`], or null when the owner has ended.
    pointer: AtomicPtr<T>,
}

impl<T> Own<T> {
    /// Takes over a reference.
    pub fn new(value: Arc<T>) -> Self {
        Self { lock: SpinLock::new(()), pointer: AtomicPtr::new(Arc::into_raw(value).cast_mut()) }
    }

    /// What it refers to.
    ///
    /// # Safety
    /// It has not been taken away, and is not replaced while the result is in use: the caller is the
    /// owner, who alone does both.
    #[inline]
    pub unsafe fn get(&self) -> &T {
        // SAFETY: by the contract, the reference that the pointer stands for is held.
        unsafe { &*self.pointer.load(Ordering::Relaxed) }
    }

    /// A reference of one's own; `None` if the owner has ended.
    pub fn share(&self) -> Option<Arc<T>> {
        let _held = self.lock.lock();
        let pointer = self.pointer.load(Ordering::Relaxed).cast_const();
        if pointer.is_null() {
            return None;
        }
        // SAFETY: the reference is held, as replacing it takes the lock.
        unsafe {
            Arc::increment_strong_count(pointer);
            Some(Arc::from_raw(pointer))
        }
    }

    /// Replaces it; returns what it was, to be dropped without a lock.
    ///
    /// # Safety
    /// The caller is the owner, and uses no result of [`Self::get`] any more.
    pub unsafe fn replace(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = value.map_or(null_mut(), |value| Arc::into_raw(value).cast_mut());
        let old = {
            let _held = self.lock.lock();
            self.pointer.swap(new, Ordering::Relaxed).cast_const()
        };
        // SAFETY: the reference that the pointer stood for is now ours.
        (!old.is_null()).then(|| unsafe { Arc::from_raw(old) })
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it any more.
        drop(unsafe { self.replace(None) });
    }
}
