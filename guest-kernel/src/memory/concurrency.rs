//! Concurrency ids: small numbers for the threads that run with one address space at the same time
//! (`mm_cid` of rseq(2)).

use core::sync::atomic::{AtomicU64, Ordering};

/// More than there can be vCPUs.
const WORDS: usize = 4;

/// Which ids are in use. The lowest free one is given out, so that as many threads as run at once have
/// ids below their number.
#[derive(Debug)]
pub struct ConcurrencyIds([AtomicU64; WORDS]);

impl ConcurrencyIds {
    /// None is in use.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Takes the lowest that is free; `None` if there is none.
    pub fn take(&self) -> Option<u32> {
        let mut first = 0;
        for word in &self.0 {
            let mut value = word.load(Ordering::Relaxed);
            while value != u64::MAX {
                let bit = value.trailing_ones();
                let new = value | 1 << bit;
                match word.compare_exchange_weak(value, new, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Some(first + bit),
                    Err(now) => value = now,
                }
            }
            first += u64::BITS;
        }
        None
    }

    /// Gives one back.
    pub fn release(&self, id: u32) {
        let word = self.0.get(crate::memory::usize_from((id / u64::BITS).into()));
        if let Some(word) = word {
            word.fetch_and(!(1 << (id % u64::BITS)), Ordering::Release);
        }
    }
}

impl Default for ConcurrencyIds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::ConcurrencyIds;

    #[test]
    fn the_lowest_free_id_is_taken() {
        let ids = ConcurrencyIds::new();
        for expected in 0..70 {
            assert_eq!(ids.take(), Some(expected));
        }
        ids.release(3);
        ids.release(65);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(3), Some(65), Some(70)]);
    }

    #[test]
    fn there_is_an_end_of_them() {
        let ids = ConcurrencyIds::new();
        for expected in 0..256 {
            assert_eq!(ids.take(), Some(expected));
        }
        assert_eq!(ids.take(), None);
        ids.release(255);
        assert_eq!(ids.take(), Some(255));
    }

    #[test]
    fn no_two_threads_have_the_same() {
        let ids = ConcurrencyIds::new();
        let held = [const { std::sync::atomic::AtomicBool::new(false) }; 4];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let id = ids.take().unwrap();
                        let mine = &held[usize::try_from(id).unwrap()];
                        assert!(!mine.swap(true, std::sync::atomic::Ordering::SeqCst));
                        mine.store(false, std::sync::atomic::Ordering::SeqCst);
                        ids.release(id);
                    }
                });
            }
        });
    }
}
