//! Epolls that watch epolls: neither in a circle, nor too deep, nor so that one event takes too many ways.
//!
//! All of that is checked under one lock, before a link between epolls is made. So asking (which goes
//! down) and waking (which goes up) end, and their locks are taken in an order.

use super::EventPoll;
use super::ready::Core;
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::sync::SpinLock;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// How many links between epolls may lie behind each other (Linux: `EP_MAX_NESTS`).
const DEPTH: usize = 4;
/// How many ways an event may take from a file to a given number of links above it (Linux:
/// `path_limits`); any number of epolls may watch the file itself.
const WAYS: [usize; DEPTH + 1] = [usize::MAX, 500, 100, 50, 10];

/// Taken by whoever makes a link; the number of the last search.
pub(super) static NESTING: SpinLock<u64> = SpinLock::new(0);

/// Bits of a mark for what was found, below the number of the search.
const FOUND_BITS: u32 = 8;

/// A search over a graph, which looks at everything once.
struct Search(u64);

impl Search {
    fn new(count: &mut u64) -> Self {
        *count += 1;
        Self(*count)
    }

    fn found(&self, core: &Core) -> Option<usize> {
        let mark = core.mark.load(Ordering::Relaxed);
        let found = usize::try_from(mark & ((1 << FOUND_BITS) - 1)).ok();
        found.filter(|_| mark >> FOUND_BITS == self.0)
    }

    fn note(&self, core: &Core, found: usize) {
        core.mark.store(self.0 << FOUND_BITS | found as u64, Ordering::Relaxed);
    }
}

/// The files that an epoll watches and that are epolls, or the others.
fn watched(core: &Core, epolls: bool) -> Result<Vec<FileRef>> {
    let mut files = Vec::new();
    if epolls && core.nested.load(Ordering::Relaxed) == 0 {
        return Ok(files);
    }
    let table = core.table.lock();
    for file in table.items().filter_map(|item| item.file.upgrade()) {
        files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        files.push(file);
    }
    drop(table);
    files.retain(|file| EventPoll::of(file).is_some() == epolls);
    Ok(files)
}

/// Links below an epoll.
///
/// # Errors
/// ELOOP if `above` is among what is there, or it is too deep.
fn depth_below(core: &Core, above: &Core, depth: usize, search: &Search) -> Result<usize> {
    if core::ptr::eq(core, above) || depth > DEPTH {
        return Err(Errno::ELOOP);
    }
    if let Some(found) = search.found(core) {
        return Ok(found);
    }
    let mut deepest = 0;
    for file in watched(core, true)? {
        if let Some(epoll) = EventPoll::of(&file) {
            deepest = deepest.max(depth_below(epoll.core(), above, depth + 1, search)? + 1);
        }
    }
    search.note(core, deepest);
    Ok(deepest)
}

fn parents(core: &Core) -> Result<Vec<Arc<Core>>> {
    let list = core.parents.lock();
    let mut parents = Vec::new();
    parents.try_reserve_exact(list.len()).map_err(|_| Errno::ENOMEM)?;
    parents.extend(list.iter().filter_map(Weak::upgrade));
    Ok(parents)
}

/// Links above an epoll.
fn depth_above(core: &Core, search: &Search) -> Result<usize> {
    if let Some(found) = search.found(core) {
        return Ok(found);
    }
    let mut deepest = 0;
    for parent in parents(core)? {
        deepest = deepest.max(depth_above(&parent, search)? + 1);
    }
    search.note(core, deepest);
    Ok(deepest)
}

/// Whether `upper` may watch `lower`.
///
/// # Errors
/// ELOOP.
pub(super) fn check_link(upper: &Core, lower: &Core, searches: &mut u64) -> Result<()> {
    let below = depth_below(lower, upper, 0, &Search::new(searches))?;
    let above = depth_above(upper, &Search::new(searches))?;
    if below + 1 + above > DEPTH { Err(Errno::ELOOP) } else { Ok(()) }
}

fn count_ways(core: &Core, depth: usize, counts: &mut [usize; DEPTH + 1]) -> Result<()> {
    let parents = parents(core)?;
    if !parents.is_empty() {
        return parents.iter().try_for_each(|parent| count_ways(parent, depth + 1, counts));
    }
    // Nobody watches this one: here a way ends.
    let (Some(count), Some(&limit)) = (counts.get_mut(depth), WAYS.get(depth)) else {
        return Err(Errno::EINVAL);
    };
    *count += 1;
    if *count > limit { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Whether events of a file take no more ways than they may.
///
/// # Errors
/// EINVAL.
pub(super) fn check_ways(file: &FileRef) -> Result<()> {
    let mut counts = [0; DEPTH + 1];
    for item in file.epolls().items()? {
        count_ways(&item.core, 0, &mut counts)?;
    }
    Ok(())
}

/// The same for all files below an epoll.
///
/// # Errors
/// EINVAL.
pub(super) fn check_ways_below(core: &Core, searches: &mut u64) -> Result<()> {
    fn check(core: &Core, search: &Search) -> Result<()> {
        if search.found(core).is_some() {
            return Ok(());
        }
        search.note(core, 0);
        watched(core, false)?.iter().try_for_each(check_ways)?;
        for file in watched(core, true)? {
            if let Some(epoll) = EventPoll::of(&file) {
                check(epoll.core(), search)?;
            }
        }
        Ok(())
    }
    check(core, &Search::new(searches))
}
