//! The areas of an address space: which addresses a program may use, and what is behind them.
//!
//! Sorted, without overlap. Everything is arithmetic on ranges; no page is touched here, and the tests
//! compare with a model that has an entry for every page.

use super::PageSource;
use super::address::{PAGE, USER_END};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Linux's default `vm.max_map_count`.
const MAX_AREAS: usize = 65530;
/// Lowest address that can be mapped: Linux's default `vm.mmap_min_addr`.
pub const LOWEST: u64 = 0x1_0000;
/// Distance that a stack keeps from what is below it: Linux's `stack_guard_gap`, 256 pages.
pub const STACK_GUARD: u64 = 256 * PAGE;

/// Access rights, as `PROT_*` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection(pub u8);

impl Protection {
    /// `PROT_READ`.
    pub const READ: Self = Self(1);
    /// `PROT_WRITE`.
    pub const WRITE: Self = Self(2);
    /// `PROT_EXEC`.
    pub const EXECUTE: Self = Self(4);
    /// All of `PROT_*`.
    pub const ALL: Self = Self(7);

    /// Whether every right in `other` is here too.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of rights.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What `/proc/PID/maps` says about a mapped file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileLabel {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Path when it was mapped.
    pub path: Vec<u8>,
}

/// What an area is for, as shown in `/proc/PID/maps`.
#[derive(Clone, Debug)]
pub enum Label {
    /// Anonymous memory.
    None,
    /// The `brk` heap.
    Heap,
    /// The main thread's stack, which grows downwards.
    Stack,
    /// The vDSO's code.
    Vdso,
    /// The vDSO's data.
    Vvar,
    /// A file.
    File(Arc<FileLabel>),
}

/// What else is said of an area (mlock(2), madvise(2), `MAP_GROWSDOWN`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AreaFlags(pub u8);

impl AreaFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Counts against `RLIMIT_MEMLOCK`.
    pub const LOCKED: Self = Self(1);
    /// A child does not get it (`MADV_DONTFORK`).
    pub const DONT_FORK: Self = Self(1 << 1);
    /// A child finds zeroes (`MADV_WIPEONFORK`).
    pub const WIPE_ON_FORK: Self = Self(1 << 2);
    /// Grows like a stack (`MAP_GROWSDOWN`).
    pub const GROWS_DOWN: Self = Self(1 << 3);

    /// Whether all of the other's are here too.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and the other's.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without the other's.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What resource limits leave a program, in bytes (getrlimit(2)); `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `RLIMIT_AS`: all areas together.
    pub total: u64,
    /// `RLIMIT_DATA`: all private writable areas together.
    pub data: u64,
    /// `RLIMIT_DATA`, as `brk` takes it: the heap and initialised data.
    pub heap: u64,
    /// `RLIMIT_STACK`: each area that grows.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`: all locked areas together.
    pub locked: u64,
}

impl Bounds {
    /// No limits.
    pub const NONE: Self =
        Self { total: u64::MAX, data: u64::MAX, heap: u64::MAX, stack: u64::MAX, locked: u64::MAX };
}

/// Where an area's pages come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeroes at first.
    Anonymous,
    /// A file or other object: its pages from `first_page` on.
    Object {
        /// Whose pages they are.
        source: Arc<dyn PageSource>,
        /// Page of the object at the area's start.
        first_page: u64,
    },
}

/// A range of addresses with one meaning.
#[derive(Clone)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What the program may do.
    pub protection: Protection,
    /// What `mprotect` may grant: a file opened read-only cannot be shared writable.
    pub allowed: Protection,
    /// `MAP_SHARED`: writes go to the object.
    pub shared: bool,
    /// Where pages come from.
    pub backing: Backing,
    /// What it is.
    pub label: Label,
    /// What else is said of it.
    pub flags: AreaFlags,
}

impl Area {
    /// Whether it grows down to addresses that are touched.
    pub fn grows(&self) -> bool {
        matches!(self.label, Label::Stack) || self.flags.contains(AreaFlags::GROWS_DOWN)
    }

    /// Whether it counts as data (Linux's `is_data_mapping`).
    pub fn is_data(&self) -> bool {
        !self.shared && !self.grows() && self.protection.contains(Protection::WRITE)
    }

    /// Page of the object behind this address.
    pub fn page_index(&self, address: u64) -> u64 {
        match &self.backing {
            Backing::Anonymous => 0,
            Backing::Object { first_page, .. } => first_page + (address - self.start) / PAGE,
        }
    }

    /// Tells its object that it is gone.
    pub fn tell_unmapped(&self) {
        if let Backing::Object { source, .. } = &self.backing {
            source.unmapped();
        }
    }

    /// How far up an area below this one may reach.
    fn lowest_neighbour(&self) -> u64 {
        let guard = if self.grows() { STACK_GUARD } else { 0 };
        self.start.saturating_sub(guard)
    }

    fn split_off(&mut self, at: u64) -> Self {
        let mut upper = self.clone();
        if let Backing::Object { first_page, .. } = &mut upper.backing {
            *first_page += (at - self.start) / PAGE;
        }
        upper.start = at;
        self.end = at;
        upper
    }

    fn continues_in(&self, next: &Self) -> bool {
        // The cheapest question first: most neighbours differ in it.
        if self.end != next.start
            || self.protection != next.protection
            || self.allowed != next.allowed
            || self.shared != next.shared
            || self.flags != next.flags
            || self.grows()
        {
            return false;
        }
        let backing = match (&self.backing, &next.backing) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (
                Backing::Object { source, first_page },
                Backing::Object { source: next_source, first_page: next_page },
            ) => {
                Arc::ptr_eq(source, next_source)
                    && first_page + (self.end - self.start) / PAGE == *next_page
            }
            _ => false,
        };
        backing
            && match (&self.label, &next.label) {
                (Label::None, Label::None) | (Label::Heap, Label::Heap) => true,
                (Label::File(a), Label::File(b)) => Arc::ptr_eq(a, b) || a == b,
                _ => false,
            }
    }
}

/// All areas of a program.
#[derive(Default)]
pub struct Areas {
    list: Vec<Area>,
}

impl Areas {
    /// None yet.
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Makes room for a small program's areas at once.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn reserve(&mut self) -> Result<()> {
        const USUAL: usize = 16;
        self.list.try_reserve_exact(USUAL).map_err(|_| Errno::ENOMEM)
    }

    /// A copy.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn try_clone(&self) -> Result<Self> {
        let mut list = Vec::new();
        list.try_reserve(self.list.len() + 4).map_err(|_| Errno::ENOMEM)?;
        list.extend(self.list.iter().cloned());
        Ok(Self { list })
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.list.iter()
    }

    /// Index of the first area that ends behind `address`.
    fn position(&self, address: u64) -> usize {
        self.list.partition_point(|area| area.end <= address)
    }

    /// The area that contains `address`.
    pub fn find(&self, address: u64) -> Option<&Area> {
        self.list.get(self.position(address)).filter(|area| area.start <= address)
    }

    /// The first area that ends behind `address`, whether it contains it or not, and the end of the
    /// area below it (0 if there is none).
    pub fn find_above(&mut self, address: u64) -> Option<(&mut Area, u64)> {
        let position = self.position(address);
        let below = position.checked_sub(1).map_or(0, |index| self.list[index].end);
        self.list.get_mut(position).map(|area| (area, below))
    }

    /// Whether nothing is in `[start, end)`.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.list.get(self.position(start)).is_none_or(|area| area.start >= end)
    }

    /// Whether every address in `[start, end)` is in an area.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for area in self.list.iter().skip(self.position(start)) {
            if at >= end || area.start > at {
                break;
            }
            at = area.end;
        }
        at >= end
    }

    /// Bytes in all areas.
    pub fn total(&self) -> u64 {
        self.list.iter().map(|area| area.end - area.start).sum()
    }

    /// Bytes of `[start, end)` in areas of a kind.
    pub fn bytes(&self, start: u64, end: u64, kind: impl Fn(&Area) -> bool) -> u64 {
        self.list
            .iter()
            .skip(self.position(start))
            .take_while(|area| area.start < end)
            .filter(|area| kind(area))
            .map(|area| area.end.min(end) - area.start.max(start))
            .sum()
    }

    /// Whether so many more bytes may be mapped, of which so many are data.
    pub fn may_grow(&self, more: u64, data: u64, bounds: &Bounds) -> bool {
        let fits = |more: u64, limit: u64, used: &dyn Fn() -> u64| {
            limit == u64::MAX || more == 0 || used().saturating_add(more) <= limit
        };
        fits(more, bounds.total, &|| self.total())
            && fits(data, bounds.data, &|| self.bytes(0, USER_END, Area::is_data))
    }

    /// Whether so many more bytes may be locked.
    pub fn may_lock(&self, more: u64, bounds: &Bounds) -> bool {
        bounds.locked == u64::MAX || self.locked().saturating_add(more) <= bounds.locked
    }

    /// Bytes in locked areas.
    pub fn locked(&self) -> u64 {
        self.bytes(0, USER_END, |area| area.flags.contains(AreaFlags::LOCKED))
    }

    /// Changes what is said of the areas in `[start, end)`.
    ///
    /// # Errors
    /// ENOMEM if they split into too many areas; or, when it is done, if not all of it is covered.
    pub fn change_flags(
        &mut self,
        start: u64,
        end: u64,
        change: impl Fn(AreaFlags) -> AreaFlags,
    ) -> Result<()> {
        let covered = self.covers(start, end);
        self.split(start)?;
        self.split(end)?;
        let from = self.position(start);
        let mut index = from;
        while let Some(area) = self.list.get_mut(index).filter(|area| area.start < end) {
            area.flags = change(area.flags);
            index += 1;
        }
        for position in (from..=index).rev() {
            self.join(position);
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// The highest free range of `len` bytes below `top`, as Linux places mappings.
    pub fn find_free(&self, len: u64, top: u64) -> Option<u64> {
        let position = self.position(top);
        let mut end = self.list.get(position).map_or(top, |area| top.min(area.lowest_neighbour()));
        for area in self.list[..position].iter().rev() {
            if area.end <= end && end - area.end >= len {
                return Some(end - len);
            }
            end = end.min(area.lowest_neighbour());
        }
        (end >= LOWEST && end - LOWEST >= len).then(|| end - len)
    }

    /// Adds an area where nothing is, joined with its neighbours if they are alike.
    ///
    /// # Errors
    /// ENOMEM if there are too many.
    pub fn insert(&mut self, area: Area) -> Result<()> {
        debug_assert!(area.start < area.end && area.end <= USER_END);
        debug_assert!(self.is_free(area.start, area.end));
        let position = self.position(area.start);
        if let Some(before) = position.checked_sub(1).and_then(|index| self.list.get_mut(index))
            && before.continues_in(&area)
        {
            before.end = area.end;
            self.join(position);
            return Ok(());
        }
        if self.list.len() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        self.list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.list.insert(position, area);
        self.join(position + 1);
        Ok(())
    }

    /// Joins the area at `position` with the one before it if they are alike.
    fn join(&mut self, position: usize) {
        if position == 0 || position >= self.list.len() {
            return;
        }
        if self.list[position - 1].continues_in(&self.list[position]) {
            self.list[position - 1].end = self.list[position].end;
            self.list.remove(position);
        }
    }

    /// Makes an area begin at `at`, if one contains it.
    fn split(&mut self, at: u64) -> Result<()> {
        let position = self.position(at);
        if self.list.get(position).is_some_and(|area| area.start < at) {
            if self.list.len() >= MAX_AREAS {
                return Err(Errno::ENOMEM);
            }
            self.list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let upper = self.list[position].split_off(at);
            self.list.insert(position + 1, upper);
        }
        Ok(())
    }

    /// Takes everything out of `[start, end)`.
    ///
    /// # Errors
    /// ENOMEM if a split would make too many areas; nothing has changed then.
    pub fn remove(&mut self, start: u64, end: u64) -> Result<Vec<Area>> {
        if self.is_free(start, end) {
            return Ok(Vec::new());
        }
        self.split(start)?;
        self.split(end)?;
        let from = self.position(start);
        let to = self.list.partition_point(|area| area.start < end);
        Ok(self.list.drain(from..to).collect())
    }

    /// Changes the protection of `[start, end)`, which must be covered.
    ///
    /// # Errors
    /// ENOMEM if it is not covered or splits into too many areas, EACCES if an area does not allow it:
    /// nothing has changed then.
    pub fn protect(&mut self, start: u64, end: u64, protection: Protection) -> Result<()> {
        if !self.covers(start, end) {
            return Err(Errno::ENOMEM);
        }
        let affected = self.list.iter().skip(self.position(start));
        let mut affected = affected.take_while(|area| area.start < end);
        if affected.any(|area| !area.allowed.contains(protection)) {
            return Err(Errno::EACCES);
        }
        self.split(start)?;
        self.split(end)?;
        let from = self.position(start);
        let mut index = from;
        while let Some(area) = self.list.get_mut(index).filter(|area| area.start < end) {
            area.protection = protection;
            index += 1;
        }
        for position in (from..=index).rev() {
            self.join(position);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Random;
    use std::collections::BTreeMap;

    fn anonymous(start: u64, end: u64, protection: u8) -> Area {
        Area {
            start: start * PAGE,
            end: end * PAGE,
            protection: Protection(protection),
            allowed: Protection::ALL,
            shared: false,
            backing: Backing::Anonymous,
            label: Label::None,
            flags: AreaFlags::NONE,
        }
    }

    struct Nothing;
    impl PageSource for Nothing {
        fn page(&self, _: u64, _: bool) -> Result<super::super::Page> {
            Err(Errno::EIO)
        }
    }

    #[test]
    fn behaves_like_a_table_with_an_entry_for_every_page() {
        const PAGES: u64 = 64;
        let sources: [Arc<dyn PageSource>; 2] = [Arc::new(Nothing), Arc::new(Nothing)];
        for seed in 1_u64..200 {
            let mut numbers = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut areas = Areas::new();
            // Page number -> (protection, object and page in it).
            let mut model: BTreeMap<u64, (u8, Option<(usize, u64)>)> = BTreeMap::new();
            for _ in 0..60 {
                let start = 16 + numbers.below(PAGES);
                let end = start + 1 + numbers.below(8);
                let protection = u8::try_from(numbers.below(8)).expect("small");
                match numbers.below(4) {
                    0 => {
                        let removed = areas.remove(start * PAGE, end * PAGE).expect("few areas");
                        let pages: u64 = removed.iter().map(|a| (a.end - a.start) / PAGE).sum();
                        let before = model.len() as u64;
                        model.retain(|page, _| *page < start || *page >= end);
                        assert_eq!(pages, before - model.len() as u64);
                    }
                    1 => {
                        let covered = (start..end).all(|page| model.contains_key(&page));
                        assert_eq!(areas.covers(start * PAGE, end * PAGE), covered);
                        let result =
                            areas.protect(start * PAGE, end * PAGE, Protection(protection));
                        assert_eq!(result.is_ok(), covered);
                        if covered {
                            for page in start..end {
                                model.entry(page).and_modify(|value| value.0 = protection);
                            }
                        }
                    }
                    2 => {
                        let free = (start..end).all(|page| !model.contains_key(&page));
                        assert_eq!(areas.is_free(start * PAGE, end * PAGE), free);
                        if free {
                            let which = usize::try_from(numbers.below(2)).expect("small");
                            let mut area = anonymous(start, end, protection);
                            area.backing = Backing::Object {
                                source: sources[which].clone(),
                                first_page: start + 7,
                            };
                            areas.insert(area).expect("few areas");
                            for page in start..end {
                                model.insert(page, (protection, Some((which, page + 7))));
                            }
                        }
                    }
                    _ => {
                        let free = (start..end).all(|page| !model.contains_key(&page));
                        if free {
                            areas.insert(anonymous(start, end, protection)).expect("few areas");
                            model.extend((start..end).map(|page| (page, (protection, None))));
                        }
                    }
                }
                for page in 16..16 + PAGES + 8 {
                    let found = areas.find(page * PAGE).map(|area| {
                        let object = match &area.backing {
                            Backing::Anonymous => None,
                            Backing::Object { source, .. } => Some((
                                usize::from(Arc::ptr_eq(source, &sources[1])),
                                area.page_index(page * PAGE),
                            )),
                        };
                        (area.protection.0, object)
                    });
                    assert_eq!(found, model.get(&page).copied(), "page {page}, seed {seed}");
                }
                let list: Vec<_> = areas.iter().collect();
                assert!(list.windows(2).all(|pair| pair[0].end <= pair[1].start));
                assert!(
                    list.windows(2).all(|pair| !pair[0].continues_in(pair[1])),
                    "unjoined, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_free_range_is_the_highest_that_fits() {
        let mut areas = Areas::new();
        areas.insert(anonymous(100, 110, 1)).expect("first");
        areas.insert(anonymous(112, 120, 1)).expect("second");
        assert_eq!(areas.find_free(2 * PAGE, 120 * PAGE), Some(110 * PAGE));
        assert_eq!(areas.find_free(3 * PAGE, 120 * PAGE), Some(97 * PAGE));
        assert_eq!(areas.find_free(3 * PAGE, 200 * PAGE), Some(197 * PAGE));
        assert_eq!(areas.find_free(3 * PAGE, 115 * PAGE), Some(97 * PAGE));
        assert_eq!(areas.find_free(1000 * PAGE, 120 * PAGE), None);
    }
}
