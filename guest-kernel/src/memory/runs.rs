//! Frames that follow each other.

/// Shorter runs of frames are not worth a report: 64 KiB.
pub const MIN_RUN: u32 = 16;

/// Frames that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// The runs in ascending frame numbers, in their order.
pub fn runs(numbers: &[u32]) -> impl Iterator<Item = Run> + '_ {
    let follow = |a: &u32, b: &u32| b.wrapping_sub(*a) == 1;
    numbers.chunk_by(follow).filter_map(|numbers| {
        let first = *numbers.first()?;
        Some(Run { first, count: u32::try_from(numbers.len()).ok()? })
    })
}

/// Runs that are reported together.
pub struct Runs {
    runs: [Run; Self::MAX],
    /// How many there are.
    pub count: usize,
}

impl Runs {
    /// As many are reported together.
    const MAX: usize = 64;

    /// None.
    pub const EMPTY: Self = Self { runs: [Run { first: 0, count: 0 }; Self::MAX], count: 0 };

    /// Adds one, if there is room.
    pub fn add(&mut self, run: Run) -> bool {
        let Some(place) = self.runs.get_mut(self.count) else { return false };
        *place = run;
        self.count += 1;
        true
    }

    /// All of them.
    pub fn iter(&self) -> core::slice::Iter<'_, Run> {
        self.runs[..self.count].iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn runs_end_where_numbers_do_not_follow() {
        let found =
            |numbers: &[u32]| runs(numbers).map(|run| (run.first, run.count)).collect::<Vec<_>>();
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[7]), [(7, 1)]);
        assert_eq!(found(&[1, 2, 3, 5, 6, 9]), [(1, 3), (5, 2), (9, 1)]);
        assert_eq!(found(&[0, u32::MAX]), [(0, 1), (u32::MAX, 1)]);
    }

    #[test]
    fn no_more_than_a_chain_is_kept() {
        let mut kept = Runs::EMPTY;
        for first in 0..64 {
            assert!(kept.add(Run { first, count: 1 }));
        }
        assert!(!kept.add(Run { first: 100, count: 1 }));
        assert_eq!(kept.iter().count(), 64);
    }
}
