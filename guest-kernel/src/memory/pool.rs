//! The free frames of RAM, on lists.

use super::address::{PAGE, PhysAddr};
use super::frame::count_of;
use core::sync::atomic::Ordering;

/// Blocks of 2^0 to 2^(ORDERS-1) frames can be asked for.
pub const ORDERS: usize = 11;
/// End of a list of free blocks. No block starts at guest-physical address 0.
const NONE: u64 = 0;
/// As many frames have to be freed before the host hears of it: 8 MiB.
const REPORT_DUE: u64 = 2048;

/// All of them.
pub struct Pool {
    /// Untouched RAM: zeroes.
    fresh: [Region; 2],
    /// Used and freed blocks, by order: address of the first. Each begins with the address of the next.
    used: [u64; ORDERS],
    /// Bit n: there are used blocks of order n.
    used_orders: u32,
    /// Frames off the list of order 0, while they are looked at for a report: a list like that.
    candidates: u64,
    /// Between the beginning and the end of a report.
    looking: bool,
    /// Frames that the host knows to be free: number of the first. The number of the next is where else the
    /// reference count is, as writing to the frame itself would take it back from the host.
    reported: u32,
    /// Frames freed since the last report began.
    unreported: u64,
    /// Somebody was told that a report is due, and it has not ended.
    reporting: bool,
    /// Frames on all of these.
    free: u64,
}

#[derive(Clone, Copy)]
struct Region {
    next: u64,
    end: u64,
}

fn address_of(number: u32) -> u64 {
    u64::from(number) * PAGE
}

fn number_of(address: u64) -> u32 {
    // RAM ends below 2^44 (`airlock_abi::layout`).
    u32::try_from(address / PAGE).unwrap_or(0)
}

/// Where a free frame has the address of the next.
fn next_of(address: u64) -> *mut u64 {
    PhysAddr(address).to_pointer().cast()
}

impl Pool {
    /// No frames.
    pub const EMPTY: Self = Self {
        fresh: [Region { next: 0, end: 0 }; 2],
        used: [NONE; ORDERS],
        used_orders: 0,
        candidates: NONE,
        looking: false,
        reported: 0,
        unreported: 0,
        reporting: false,
        free: 0,
    };

    /// Frames that are free.
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Adds untouched RAM (guest-physical, page-aligned), as one of the two regions.
    pub fn add_fresh(&mut self, index: usize, start: u64, end: u64) {
        self.fresh[index] = Region { next: start, end };
        self.free += (end - start) / PAGE;
    }

    /// Takes a block that no one has used.
    pub fn take_fresh(&mut self, order: usize) -> Option<u64> {
        let bytes = PAGE << order;
        for region in &mut self.fresh {
            if region.end - region.next >= bytes {
                let address = region.next;
                region.next += bytes;
                self.free -= 1 << order;
                return Some(address);
            }
        }
        None
    }

    /// Takes a block that may hold anything.
    pub fn take_used(&mut self, order: usize) -> Option<u64> {
        if order == 0 && self.used_orders & 1 == 0 && self.candidates != NONE {
            self.free -= 1;
            return Some(self.take_candidate());
        }
        let large_enough = self.used_orders >> order;
        if large_enough == 0 {
            return if order == 0 { self.take_reported() } else { None };
        }
        let have = order + large_enough.trailing_zeros() as usize;
        let address = self.used[have];
        // SAFETY: blocks on the list are free RAM whose first 8 bytes hold the next block's address.
        let next = unsafe { next_of(address).read() };
        self.used[have] = next;
        if next == NONE {
            self.used_orders &= !(1 << have);
        }
        self.free -= 1 << order;
        for split in order..have {
            self.link(address + (PAGE << split), split);
        }
        Some(address)
    }

    fn link(&mut self, address: u64, order: usize) {
        // SAFETY: the block is free, so that its bytes are ours to use for the list.
        unsafe { next_of(address).write(self.used[order]) };
        self.used[order] = address;
        self.used_orders |= 1 << order;
    }

    /// Takes a block back.
    pub fn give_back(&mut self, address: u64, order: usize) {
        self.link(address, order);
        self.free += 1 << order;
        if order == 0 {
            self.unreported += 1;
        }
    }

    fn take_candidate(&mut self) -> u64 {
        let address = self.candidates;
        // SAFETY: as for the list of order 0, which these come from.
        self.candidates = unsafe { next_of(address).read() };
        address
    }

    fn take_reported(&mut self) -> Option<u64> {
        let number = core::num::NonZeroU32::new(self.reported)?;
        let address = address_of(number.get());
        self.reported = count_of(address).load(Ordering::Relaxed);
        self.free -= 1;
        Some(address)
    }

    /// Whether enough was freed for a report, and nobody has been told: who asks is to see to it.
    pub fn is_report_due(&mut self) -> bool {
        let due = self.unreported >= REPORT_DUE && !self.reporting;
        self.reporting |= due;
        due
    }

    /// All single frames that were used are to be looked at, unless a report has begun already: each frame is looked
    /// at once in a report. They can be allocated meanwhile.
    pub fn begin_report(&mut self) {
        if !self.looking {
            self.looking = true;
            self.candidates = core::mem::replace(&mut self.used[0], NONE);
            self.used_orders &= !1;
            self.unreported = 0;
        }
    }

    /// Takes some of them out, by number; returns how many.
    pub fn take_candidates(&mut self, numbers: &mut [u32]) -> usize {
        let mut count = 0;
        for number in numbers {
            if self.candidates == NONE {
                break;
            }
            *number = number_of(self.take_candidate());
            count += 1;
        }
        self.free -= count as u64;
        count
    }

    /// Puts one back as it was.
    pub fn put_back(&mut self, number: u32) {
        self.link(address_of(number), 0);
        self.free += 1;
    }

    /// Puts one back that the host knows to be free.
    pub fn put_back_reported(&mut self, number: u32) {
        count_of(address_of(number)).store(self.reported, Ordering::Relaxed);
        self.reported = number;
        self.free += 1;
    }

    /// What was not looked at is ordinary again. True if the next report is due already.
    pub fn end_report(&mut self) -> bool {
        while self.candidates != NONE {
            let address = self.take_candidate();
            self.link(address, 0);
        }
        self.looking = false;
        self.reporting = self.unreported >= REPORT_DUE;
        self.reporting
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Content, allocate_block, host};
    use super::*;
    use crate::numbers::Random;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// Frames of the tests' RAM, which a pool of the test's own may have.
    fn frames() -> BTreeSet<u64> {
        host::init();
        let start = allocate_block(10, Content::Zeroes).expect("memory").0;
        (0..1024).map(|index| start + index * PAGE).collect()
    }

    #[test]
    fn every_frame_is_free_once_or_taken_whatever_is_reported() {
        let all = frames();
        let first = *all.first().expect("frames");
        let mut pool = Pool::EMPTY;
        pool.add_fresh(0, first, first + 1024 * PAGE);
        let mut random = Random(6);
        let mut taken: BTreeSet<u64> = BTreeSet::new();
        let mut looked_at: Vec<u32> = Vec::new();
        let mut reported = 0;
        for _ in 0..200_000 {
            match random.below(12) {
                0..=4 => {
                    let fresh = random.below(8) == 0;
                    let address = if fresh { pool.take_fresh(0) } else { pool.take_used(0) };
                    if let Some(address) = address {
                        assert!(all.contains(&address) && taken.insert(address), "{address:#x}");
                    }
                }
                5..=8 => {
                    if let Some(&address) = taken.iter().nth(random.index(taken.len().max(1))) {
                        taken.remove(&address);
                        pool.give_back(address, 0);
                    }
                }
                9 => pool.begin_report(),
                10 => {
                    let mut numbers = [0; 16];
                    let count = pool.take_candidates(&mut numbers);
                    looked_at.extend(&numbers[..count]);
                }
                _ => {
                    for number in looked_at.drain(..) {
                        if random.below(2) == 0 {
                            pool.put_back(number);
                        } else {
                            pool.put_back_reported(number);
                            reported += 1;
                        }
                    }
                    if random.below(50) == 0 {
                        pool.end_report();
                    }
                }
            }
            assert_eq!(pool.free() + (taken.len() + looked_at.len()) as u64, 1024);
        }
        assert!(reported > 1000, "{reported}");
        looked_at.into_iter().for_each(|number| pool.put_back(number));
        while let Some(address) = pool.take_used(0).or_else(|| pool.take_fresh(0)) {
            assert!(taken.insert(address), "{address:#x}");
        }
        assert_eq!(taken, all);
    }

    #[test]
    fn a_report_looks_at_each_frame_once() {
        let mut pool = Pool::EMPTY;
        for &address in &frames() {
            pool.give_back(address, 0);
        }
        let mut looked_at = 0;
        let mut numbers = [0; 100];
        for part in 0.. {
            assert!(part < 12, "without end");
            pool.begin_report();
            let count = pool.take_candidates(&mut numbers);
            numbers[..count].iter().for_each(|&number| pool.put_back(number));
            looked_at += count;
            if count == 0 {
                break;
            }
        }
        assert_eq!(looked_at, 1024);
        assert!(!pool.end_report());
        pool.begin_report();
        assert_eq!(pool.take_candidates(&mut numbers), 100, "the next report looks again");
    }

    #[test]
    fn a_report_is_due_once_when_enough_was_freed() {
        let all = frames();
        let mut pool = Pool::EMPTY;
        let mut due = 0;
        for round in 0..3 {
            for &address in &all {
                pool.give_back(address, 0);
                due += u32::from(pool.is_report_due());
                assert_eq!(pool.take_used(0), Some(address));
            }
            assert_eq!(due, u32::from(round > 0));
        }
        assert!(pool.end_report(), "enough was freed meanwhile");
        pool.begin_report();
        assert!(!pool.end_report());
        assert!(!pool.is_report_due(), "nothing was freed since");
    }
}
