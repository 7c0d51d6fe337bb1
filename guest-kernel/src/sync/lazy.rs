//! Values that are made when they are first needed.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A value that most objects of its kind never need: one word, and no memory until then.
pub struct Lazy<T>(AtomicPtr<T>, PhantomData<Box<T>>);

// SAFETY: it owns a `T` and lends it to several threads, as a `Box` behind a shared reference does.
unsafe impl<T: Send + Sync> Send for Lazy<T> {}
// SAFETY: as above; a thread that loses the race to make the value drops its own.
unsafe impl<T: Send + Sync> Sync for Lazy<T> {}

impl<T> Lazy<T> {
    /// No value yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()), PhantomData)
    }

    /// The value, if it was made.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the pointer is null or a box's that lives as long as `self` and is only shared.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// The value, made if it was not.
    pub fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let new = Box::into_raw(Box::new(make()));
        let order = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.compare_exchange(null_mut(), new, order.0, order.1) {
            // SAFETY: it is in its place now, and stays there as long as `self` lives.
            Ok(_) => unsafe { &*new },
            Err(made) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: not null, so that it is the value in its place.
                unsafe { &*made }
            }
        }
    }
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Lazy<T> {
    fn drop(&mut self) {
        let pointer = *self.0.get_mut();
        if !pointer.is_null() {
            // SAFETY: made by a box, and nobody has borrowed it any more.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lazy;
    use std::sync::Arc;

    #[test]
    fn a_value_is_made_once_and_dropped_once() {
        let value = Arc::new(());
        let lazy = Lazy::new();
        assert!(lazy.get().is_none());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(Arc::ptr_eq(lazy.get_or_make(|| value.clone()), &value)));
            }
        });
        assert!(lazy.get().is_some());
        assert_eq!(Arc::strong_count(&value), 2);
        drop(lazy);
        assert_eq!(Arc::strong_count(&value), 1);
        drop(Lazy::<u8>::new());
    }
}
