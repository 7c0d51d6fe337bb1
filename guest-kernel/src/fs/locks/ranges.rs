//! Record locks on the bytes of one file, as a list.

use super::{Kind, Owner};
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// The last byte of any file.
pub const LAST: u64 = i64::MAX.cast_unsigned();

/// A lock on bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// What others may do there.
    pub kind: Kind,
    /// Whose it is.
    pub owner: Owner,
}

impl Range {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }

    /// Whether the two cannot be there together.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.overlaps(other.start, other.end)
            && (self.kind == Kind::Exclusive || other.kind == Kind::Exclusive)
    }
}

/// All locks on the bytes of a file. Those of an owner do not overlap; they lie together in the list,
/// in ascending order, and neighbours of one kind are one lock.
#[derive(Debug, Default)]
pub struct Ranges {
    list: Vec<Range>,
}

impl Ranges {
    /// None yet.
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.list.iter()
    }

    /// The first lock that does not go together with a new one.
    pub fn conflict(&self, wanted: &Range) -> Option<&Range> {
        self.list.iter().find(|held| held.conflicts(wanted))
    }

    /// Replaces what the owner has of these bytes, by a lock or by nothing; says whether that can let
    /// others in.
    ///
    /// # Errors
    /// ENOLCK without memory.
    pub fn set(&mut self, new: &Range, kind: Option<Kind>) -> Result<bool> {
        // At most a lock is split, and one is added.
        self.list.try_reserve(2).map_err(|_| Errno::ENOLCK)?;
        let Range { start, end, owner, .. } = *new;
        let mut weaker = false;
        let mut at = 0;
        while let Some(held) = self.list.get(at).copied() {
            if held.owner != owner || !held.overlaps(start, end) {
                at += 1;
                continue;
            }
            weaker |= kind != Some(Kind::Exclusive) && Some(held.kind) != kind;
            let left = (held.start < start).then(|| Range { end: start - 1, ..held });
            let right = (held.end > end).then(|| Range { start: end + 1, ..held });
            self.list.remove(at);
            for rest in [left, right].into_iter().flatten() {
                self.list.insert(at, rest);
                at += 1;
            }
        }
        if let Some(kind) = kind {
            self.insert(Range { start, end, kind, owner });
        }
        Ok(weaker)
    }

    fn insert(&mut self, mut new: Range) {
        // Neighbours of the same kind become part of it.
        self.list.retain(|held| {
            let joins = held.owner == new.owner
                && held.kind == new.kind
                && (held.end.checked_add(1) == Some(new.start)
                    || new.end.checked_add(1) == Some(held.start));
            if joins {
                new.start = new.start.min(held.start);
                new.end = new.end.max(held.end);
            }
            !joins
        });
        let own = self.list.iter().position(|held| held.owner == new.owner);
        let at = match own {
            None => self.list.len(),
            Some(first) => {
                let rest = &self.list[first..];
                let before = |held: &&Range| held.owner == new.owner && held.start < new.start;
                first + rest.iter().take_while(before).count()
            }
        };
        self.list.insert(at, new);
    }

    /// Removes all locks of an owner; says whether there were any.
    pub fn remove_all(&mut self, owner: Owner) -> bool {
        let before = self.list.len();
        self.list.retain(|held| held.owner != owner);
        self.list.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Random;

    const OWNERS: [Owner; 3] = [Owner::Process(1), Owner::Process(2), Owner::File(1)];

    #[test]
    fn behaves_like_an_entry_for_every_byte() {
        let (mut ranges, mut random) = (Ranges::new(), Random(7));
        let mut model = [[None; 40]; 3];
        for _ in 0..20_000 {
            let who = random.index(3);
            let start = random.below(40);
            let end = start + random.below(40 - start);
            let kind = [None, Some(Kind::Shared), Some(Kind::Exclusive)][random.index(3)];
            let bytes =
                usize::try_from(start).expect("small")..=usize::try_from(end).expect("small");
            let wanted =
                Range { start, end, kind: kind.unwrap_or(Kind::Shared), owner: OWNERS[who] };
            let refused = (0..3).filter(|&other| other != who).any(|other| {
                model[other][bytes.clone()]
                    .iter()
                    .flatten()
                    .any(|&held| held == Kind::Exclusive || kind == Some(Kind::Exclusive))
            });
            assert_eq!(
                kind.is_some() && refused,
                kind.is_some() && ranges.conflict(&wanted).is_some()
            );
            if kind.is_some() && refused {
                continue;
            }
            ranges.set(&wanted, kind).expect("memory");
            model[who][bytes].fill(kind);
            let mut found = [[None; 40]; 3];
            for range in ranges.iter() {
                let who = OWNERS.iter().position(|owner| *owner == range.owner).expect("known");
                for byte in range.start..=range.end {
                    let slot = &mut found[who][usize::try_from(byte).expect("small")];
                    assert_eq!(slot.replace(range.kind), None, "overlap");
                }
            }
            assert_eq!(found, model);
            for pair in ranges.list.windows(2).filter(|pair| pair[0].owner == pair[1].owner) {
                let joined = pair[0].end + 1 == pair[1].start && pair[0].kind == pair[1].kind;
                assert!(pair[0].end < pair[1].start && !joined, "{pair:?}");
            }
        }
    }
}
