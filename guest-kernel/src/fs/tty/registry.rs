//! Which terminals there are: the numbers in /dev/pts.

use super::Tty;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// How many there can be (`/proc/sys/kernel/pty/max`).
pub const LIMIT: usize = 4096;
/// How many of those Linux keeps for the host's own (`/proc/sys/kernel/pty/reserve`).
pub const RESERVED: usize = 1024;

struct Registry {
    /// By index. A place is taken until its terminal is gone.
    places: Vec<Option<Weak<Tty>>>,
    taken: usize,
}

static REGISTRY: SpinLock<Registry> = SpinLock::new(Registry { places: Vec::new(), taken: 0 });

/// Makes a terminal with the lowest free index.
///
/// # Errors
/// ENOSPC if there are too many, ENOMEM.
pub fn allocate(make: impl FnOnce(u32) -> Result<Tty>) -> Result<Arc<Tty>> {
    let at = {
        let mut registry = REGISTRY.lock();
        if registry.taken + 1 >= LIMIT {
            return Err(Errno::ENOSPC);
        }
        let places = &mut registry.places;
        let at = match places.iter().position(Option::is_none) {
            Some(at) => at,
            None => {
                places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                places.push(None);
                places.len() - 1
            }
        };
        places[at] = Some(Weak::new());
        registry.taken += 1;
        at
    };
    let index = u32::try_from(at).map_err(|_| Errno::ENOSPC)?;
    match make(index) {
        Ok(tty) => {
            let tty = Arc::new(tty);
            REGISTRY.lock().places[at] = Some(Arc::downgrade(&tty));
            Ok(tty)
        }
        Err(error) => {
            free(index);
            Err(error)
        }
    }
}

/// A terminal is gone.
pub(super) fn free(index: u32) {
    let mut registry = REGISTRY.lock();
    let place = registry.places.get_mut(index as usize).and_then(Option::take);
    registry.taken -= usize::from(place.is_some());
    drop(registry);
    drop(place);
}

/// The terminal with this name in /dev/pts.
pub fn find(index: u32) -> Option<Arc<Tty>> {
    let place = REGISTRY.lock().places.get(index as usize)?.clone()?;
    place.upgrade().filter(|tty| tty.is_listed())
}

/// The one with the lowest name from this one on.
pub fn next(from: u32) -> Option<Arc<Tty>> {
    let count = u32::try_from(REGISTRY.lock().places.len()).unwrap_or(u32::MAX);
    (from..count).find_map(find)
}

/// How many there are (`/proc/sys/kernel/pty/nr`).
pub fn count() -> usize {
    REGISTRY.lock().taken
}
