//! The pages of a file in memory: frames by index, with holes.

use crate::errno::{Errno, Result};
use crate::memory::Frame;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Pages in a chunk: a tree of chunks instead of pages, as files are mostly written from end to end.
const CHUNK: u64 = 64;

/// Frames by page index.
pub struct Pages {
    /// Chunks, each of `CHUNK` slots and never without a frame.
    chunks: BTreeMap<u64, Vec<Option<Frame>>>,
    count: u64,
}

fn slot(index: u64) -> usize {
    crate::memory::usize_from(index % CHUNK)
}

impl Pages {
    /// Only a hole.
    pub const EMPTY: Self = Self { chunks: BTreeMap::new(), count: 0 };

    /// How many frames there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The frame at `index`, unless there is a hole.
    pub fn get(&self, index: u64) -> Option<&Frame> {
        self.chunks.get(&(index / CHUNK))?[slot(index)].as_ref()
    }

    /// Puts a frame where there is a hole.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn insert(&mut self, index: u64, frame: Frame) -> Result<()> {
        if let Some(chunk) = self.chunks.get_mut(&(index / CHUNK)) {
            debug_assert!(chunk[slot(index)].is_none());
            chunk[slot(index)] = Some(frame);
        } else {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(slot(CHUNK - 1) + 1).map_err(|_| Errno::ENOMEM)?;
            chunk.resize(slot(CHUNK - 1) + 1, None);
            chunk[slot(index)] = Some(frame);
            self.chunks.insert(index / CHUNK, chunk);
        }
        self.count += 1;
        Ok(())
    }

    /// Removes the frames from `start` up to but not including `end`; returns how many there were.
    pub fn remove(&mut self, start: u64, end: u64) -> u64 {
        let before = self.count;
        let mut from = start;
        while let Some(first) = self.next(from).filter(|&first| first < end) {
            let number = first / CHUNK;
            from = (number + 1) * CHUNK;
            let Some(chunk) = self.chunks.get_mut(&number) else { break };
            let last = if from <= end { chunk.len() } else { slot(end) };
            for frame in &mut chunk[slot(first)..last] {
                if frame.take().is_some() {
                    self.count -= 1;
                }
            }
            if chunk.iter().all(Option::is_none) {
                self.chunks.remove(&number);
            }
        }
        before - self.count
    }

    /// The index of the first frame from `index` on.
    pub fn next(&self, index: u64) -> Option<u64> {
        self.chunks.range(index / CHUNK..).find_map(|(number, chunk)| {
            let first = number * CHUNK;
            let from = slot(index.max(first));
            let at = chunk[from..].iter().position(Option::is_some)?;
            Some(first + (from + at) as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Content, frame::host};
    use crate::numbers::Random;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set_of_indexes() {
        host::init();
        let (mut pages, mut model, mut random) = (Pages::EMPTY, BTreeSet::new(), Random(1));
        for _ in 0..3000 {
            let index = random.below(400);
            if random.below(8) == 0 {
                let end = index + random.below(150);
                let removed = model.iter().filter(|&&at| at >= index && at < end).count();
                model.retain(|&at| at < index || at >= end);
                assert_eq!(pages.remove(index, end), removed as u64);
            } else if model.insert(index) {
                let frame = Frame::allocate(Content::Overwritten).expect("memory");
                pages.insert(index, frame).expect("memory");
            }
            assert_eq!(pages.count(), model.len() as u64);
            let probe = random.below(500);
            assert_eq!(pages.get(probe).is_some(), model.contains(&probe));
            assert_eq!(pages.next(probe), model.range(probe..).next().copied());
        }
        let count = model.len() as u64;
        assert_eq!(pages.remove(0, u64::MAX), count);
        assert!(pages.chunks.is_empty());
    }
}
