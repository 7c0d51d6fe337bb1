//! The events that an inotify instance has not been asked for yet.

use crate::errno::{Errno, Result};
use crate::memory::{PAGE, frame};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_raw_sys::general::{IN_IGNORED, IN_Q_OVERFLOW};

/// Events that one instance keeps (`/proc/sys/fs/inotify/max_queued_events`).
pub const MAX_EVENTS: usize = 16384;
/// `struct inotify_event` without a name.
const HEADER: usize = 16;

/// Memory that the queues of all instances take.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) watch: i32,
    pub(super) mask: u32,
    /// The same in the two events of a renaming.
    pub(super) cookie: u32,
    /// Name in a watched directory; empty if the watched file itself is meant.
    pub(super) name: Vec<u8>,
}

impl Event {
    /// How long it is for a program: the name has at least one NUL, and fills whole headers.
    fn len(&self) -> usize {
        match self.name.len() {
            0 => HEADER,
            len => HEADER + (len + 1).next_multiple_of(HEADER),
        }
    }

    /// As programs read it.
    fn bytes(&self) -> Result<Vec<u8>> {
        let len = self.len();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(&self.watch.to_ne_bytes());
        bytes.extend_from_slice(&self.mask.to_ne_bytes());
        bytes.extend_from_slice(&self.cookie.to_ne_bytes());
        let name_len = u32::try_from(len - HEADER).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(&name_len.to_ne_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.resize(len, 0);
        Ok(bytes)
    }

    fn cost(&self) -> u64 {
        (size_of::<Self>() + self.name.capacity()) as u64
    }

    /// Whether this event tells nothing that the one before it has not told.
    fn repeats(&self, before: &Self) -> bool {
        before.mask & IN_IGNORED == 0
            && (self.watch, self.mask, &self.name) == (before.watch, before.mask, &before.name)
    }
}

/// Events in the order in which they happened.
#[derive(Default)]
pub(super) struct Queue {
    events: VecDeque<Event>,
    /// Bytes that a program could read.
    bytes: usize,
    /// Whether one of them says that others were lost.
    overflowed: bool,
}

impl Queue {
    /// Adds an event; what does not fit is lost, and that is an event, too.
    pub(super) fn push(&mut self, event: Event) {
        let is_repeated = self.events.back().is_some_and(|last| event.repeats(last));
        if self.events.len() < MAX_EVENTS && is_repeated {
            return;
        }
        // All instances together may take a 64th of memory.
        let limit = frame::total() * PAGE / 64;
        let fits = TAKEN.load(Ordering::Relaxed) + event.cost() <= limit.max(1 << 20);
        if self.events.len() >= MAX_EVENTS || !fits || self.add(event).is_err() {
            self.overflow();
        }
    }

    pub(super) fn overflow(&mut self) {
        let lost = Event { watch: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Vec::new() };
        self.overflowed = self.overflowed || self.add(lost).is_ok();
    }

    fn add(&mut self, event: Event) -> Result<()> {
        self.events.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        TAKEN.fetch_add(event.cost(), Ordering::Relaxed);
        self.bytes += event.len();
        self.events.push_back(event);
        Ok(())
    }

    /// Takes the first event, as programs read it; `None` if there is none.
    ///
    /// # Errors
    /// EINVAL if it does not fit into `room` bytes, ENOMEM.
    pub(super) fn take(&mut self, room: usize) -> Result<Option<Vec<u8>>> {
        let Some(first) = self.events.front() else { return Ok(None) };
        if first.len() > room {
            return Err(Errno::EINVAL);
        }
        let bytes = first.bytes()?;
        if let Some(event) = self.events.pop_front() {
            self.forget(&event);
        }
        Ok(Some(bytes))
    }

    fn forget(&mut self, event: &Event) {
        self.bytes -= event.len();
        TAKEN.fetch_sub(event.cost(), Ordering::Relaxed);
        if event.mask & IN_Q_OVERFLOW != 0 {
            self.overflowed = false;
        }
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How much there is to read.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for event in &self.events {
            TAKEN.fetch_sub(event.cost(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(watch: i32, mask: u32, name: &[u8]) -> Event {
        Event { watch, mask, cookie: 0, name: name.to_vec() }
    }

    #[test]
    fn equal_neighbours_are_one_event() {
        let mut queue = Queue::default();
        for event in [event(1, 2, b"a"), event(1, 2, b"a"), event(1, 4, b"a"), event(1, 2, b"a")] {
            queue.push(event);
        }
        for ignored in [event(1, IN_IGNORED, b""), event(1, IN_IGNORED, b"")] {
            queue.push(ignored);
        }
        assert_eq!(queue.events.len(), 5);
        assert_eq!(queue.bytes(), 3 * 32 + 2 * 16);
        assert_eq!(queue.take(31), Err(Errno::EINVAL));
        let mut bytes = [1_u32, 2, 0, 16].map(u32::to_ne_bytes).concat();
        bytes.extend([b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(queue.take(32), Ok(Some(bytes)));
    }

    #[test]
    fn what_does_not_fit_is_lost_and_told_once() {
        let mut queue = Queue::default();
        for number in 0..MAX_EVENTS + 10 {
            queue.push(event(i32::try_from(number).unwrap(), 2, b""));
        }
        assert_eq!(queue.events.len(), MAX_EVENTS + 1);
        assert_eq!(queue.events.back(), Some(&event(-1, IN_Q_OVERFLOW, b"")));
        for _ in 0..3 {
            assert!(matches!(queue.take(16), Ok(Some(_))));
        }
        queue.push(event(7, 2, b""));
        queue.push(event(8, 2, b""));
        assert_eq!(queue.events.back(), Some(&event(8, 2, b"")));
        while queue.take(64).unwrap().is_some() {}
        assert!(!queue.overflowed && queue.bytes() == 0);
    }

    #[test]
    fn names_are_padded_with_at_least_one_nul() {
        for (len, expected) in [(0, 16), (1, 32), (15, 32), (16, 48), (255, 272)] {
            let event = event(1, 2, &vec![b'n'; len]);
            assert_eq!((event.len(), event.bytes().unwrap().len()), (expected, expected));
        }
    }
}
