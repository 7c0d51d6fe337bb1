//! One queue: its messages, those who wait, and who is told of the first message.
//!
//! A message for which someone waits is handed over and is never in the queue; a sender that waits
//! leaves its message, which whoever makes room puts into the queue. So each is served in its turn.

use super::{ALL, Attributes, Charge, NOTIFICATIONS};
use crate::errno::{Errno, Result};
use crate::fs::Timestamp;
use crate::fs::services::{now, services};
use crate::fs::stream::Events;
use crate::memory::usize_from;
use crate::sched::{self, WaitQueue};
use crate::sync::{SpinLock, SpinLockGuard};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Those of high priority come first.
    pub priority: u32,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// How a process is told that a message is in the queue (`mq_notify(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Not at all.
    None,
    /// By a signal with a value.
    Signal(u8, u64),
}

/// Who is told, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The process.
    pub pid: i32,
    /// How.
    pub notice: Notice,
}

/// Someone who waits, with a message to send or without one to receive.
struct Waiting {
    ticket: u64,
    message: Option<Message>,
}

struct State {
    messages: BTreeMap<u32, VecDeque<Message>>,
    count: usize,
    bytes: u64,
    senders: VecDeque<Waiting>,
    receivers: VecDeque<Waiting>,
    next_ticket: u64,
    notification: Option<Notification>,
    touched: Timestamp,
    unlinked: bool,
}

/// A queue.
pub struct Queue {
    /// Inode number.
    pub(super) number: u64,
    name: Vec<u8>,
    attributes: Attributes,
    pub(super) owner: (u32, u32),
    permissions: AtomicU32,
    state: SpinLock<State>,
    changed: WaitQueue,
    _charge: Charge,
}

/// What a descriptor tells of a queue.
pub(super) struct Status {
    pub bytes: u64,
    pub notification: Option<Notification>,
    pub touched: Timestamp,
    pub unlinked: bool,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

impl Drop for Queue {
    fn drop(&mut self) {
        if self.state.get_mut().notification.is_some() {
            NOTIFICATIONS.fetch_sub(1, Ordering::Relaxed);
        }
        let removed = ALL.lock().remove(&self.number);
        drop(removed);
    }
}

impl State {
    /// Puts a message into the queue; gives it back if there is no memory.
    fn insert(&mut self, message: Message) -> core::result::Result<(), Message> {
        let same = self.messages.entry(message.priority).or_default();
        if same.try_reserve(1).is_err() {
            return Err(message);
        }
        self.count += 1;
        self.bytes += message.text.len() as u64;
        same.push_back(message);
        Ok(())
    }

    fn take(&mut self) -> Option<Message> {
        loop {
            let mut highest = self.messages.last_entry()?;
            let message = highest.get_mut().pop_front();
            if highest.get().is_empty() {
                highest.remove();
            }
            if let Some(message) = message {
                self.count -= 1;
                self.bytes -= message.text.len() as u64;
                return Some(message);
            }
        }
    }

    /// There is room again: for the first who waits. Says whether there is one.
    fn let_in(&mut self) -> bool {
        let Some(at) = self.senders.iter().position(|sender| sender.message.is_some()) else {
            return false;
        };
        let Some(message) = self.senders[at].message.take() else { return false };
        match self.insert(message) {
            Ok(()) => true,
            Err(message) => {
                self.senders[at].message = Some(message);
                false
            }
        }
    }

    fn wait(&mut self, message: Option<Message>) -> Result<u64> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let list = if message.is_some() { &mut self.senders } else { &mut self.receivers };
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        list.push_back(Waiting { ticket, message });
        Ok(ticket)
    }
}

fn find(list: &VecDeque<Waiting>, ticket: u64) -> Option<usize> {
    list.iter().position(|waiting| waiting.ticket == ticket)
}

/// What became of someone who waited in vain.
fn failed(slept: Result<Option<()>>) -> Errno {
    match slept {
        Err(error) => error,
        Ok(_) => Errno::ETIMEDOUT,
    }
}

impl Queue {
    pub(super) fn new(
        name: Vec<u8>,
        attributes: Attributes,
        permissions: u32,
        owner: (u32, u32),
        charge: Charge,
    ) -> Arc<Self> {
        let state = State {
            messages: BTreeMap::new(),
            count: 0,
            bytes: 0,
            senders: VecDeque::new(),
            receivers: VecDeque::new(),
            next_ticket: 0,
            notification: None,
            touched: now(),
            unlinked: false,
        };
        Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            attributes,
            owner,
            permissions: AtomicU32::new(permissions),
            state: SpinLock::new(state),
            changed: WaitQueue::new(),
            _charge: charge,
        })
    }

    /// What it holds at most.
    pub const fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// How many messages are in it.
    pub fn count(&self) -> usize {
        self.state.lock().count
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) const fn permissions(&self) -> &AtomicU32 {
        &self.permissions
    }

    pub(super) const fn changed(&self) -> &WaitQueue {
        &self.changed
    }

    pub(super) fn set_unlinked(&self) {
        self.state.lock().unlinked = true;
    }

    pub(super) fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            bytes: state.bytes,
            notification: state.notification,
            touched: state.touched,
            unlinked: state.unlinked,
        }
    }

    fn capacity(&self) -> usize {
        usize_from(u64::try_from(self.attributes.messages).unwrap_or(0))
    }

    pub(super) fn events(&self) -> Events {
        let count = self.count();
        Events::IN.when(count > 0).with(Events::OUT.when(count < self.capacity()))
    }

    /// `mq_timedsend(3)`; without a deadline it waits without end.
    ///
    /// # Errors
    /// EAGAIN if the queue is full and `wait` is false, ETIMEDOUT, EINTR, ENOMEM.
    pub fn send(&self, message: Message, wait: bool, deadline: Option<u64>) -> Result<()> {
        let time = now();
        let mut state = self.state.lock();
        if state.count >= self.capacity() {
            if !wait {
                return Err(Errno::EAGAIN);
            }
            let ticket = state.wait(Some(message))?;
            drop(state);
            return self.wait_for_room(ticket, deadline);
        }
        state.touched = time;
        if let Some(receiver) = state.receivers.iter_mut().find(|other| other.message.is_none()) {
            receiver.message = Some(message);
            drop(state);
            self.changed.wake_sleepers();
            return Ok(());
        }
        if let Err(message) = state.insert(message) {
            drop(state);
            drop(message);
            return Err(Errno::ENOMEM);
        }
        let notification = if state.count == 1 { take_notification(&mut state) } else { None };
        drop(state);
        self.changed.wake(Events::IN);
        if let Some(Notification { pid, notice: Notice::Signal(signal, value) }) = notification
            && let Some(services) = services()
        {
            services.message_arrived(pid, signal, value);
        }
        Ok(())
    }

    fn wait_for_room(&self, ticket: u64, deadline: Option<u64>) -> Result<()> {
        let is_in = |state: &State| {
            find(&state.senders, ticket).is_none_or(|at| state.senders[at].message.is_none())
        };
        let slept =
            sched::wait(&[&self.changed], deadline, || is_in(&self.state.lock()).then_some(()));
        let mut state = self.state.lock();
        let own = find(&state.senders, ticket).and_then(|at| state.senders.remove(at));
        drop(state);
        // What was sent in the last moment is sent.
        match own.and_then(|own| own.message) {
            None => Ok(()),
            Some(_) => Err(failed(slept)),
        }
    }

    /// `mq_timedreceive(3)`; without a deadline it waits without end.
    ///
    /// # Errors
    /// EAGAIN if the queue is empty and `wait` is false, ETIMEDOUT, EINTR, ENOMEM.
    pub fn receive(&self, wait: bool, deadline: Option<u64>) -> Result<Message> {
        let time = now();
        let mut state = self.state.lock();
        if let Some(message) = state.take() {
            state.touched = time;
            let let_in = state.let_in();
            drop(state);
            if let_in {
                self.changed.wake_sleepers();
            } else {
                self.changed.wake(Events::OUT);
            }
            return Ok(message);
        }
        if !wait {
            return Err(Errno::EAGAIN);
        }
        let ticket = state.wait(None)?;
        drop(state);
        let slept = sched::wait(&[&self.changed], deadline, || {
            let state = self.state.lock();
            let at = find(&state.receivers, ticket);
            at.is_none_or(|at| state.receivers[at].message.is_some()).then_some(())
        });
        let mut state = self.state.lock();
        let own = find(&state.receivers, ticket).and_then(|at| state.receivers.remove(at));
        drop(state);
        own.and_then(|own| own.message).ok_or_else(|| failed(slept))
    }

    /// `mq_notify(3)`: whom to tell of the next message that comes into the empty queue.
    ///
    /// # Errors
    /// EBUSY if someone else is told.
    pub fn notify(&self, notification: Notification) -> Result<()> {
        let mut state = self.state.lock();
        if state.notification.is_some() {
            return Err(Errno::EBUSY);
        }
        state.notification = Some(notification);
        state.touched = now();
        NOTIFICATIONS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A process does not want to be told any more.
    pub fn forget_notification(&self, pid: i32) {
        let mut state = self.state.lock();
        if state.notification.is_some_and(|notification| notification.pid == pid) {
            take_notification(&mut state);
        }
    }
}

fn take_notification(state: &mut SpinLockGuard<'_, State>) -> Option<Notification> {
    let taken = state.notification.take();
    if taken.is_some() {
        NOTIFICATIONS.fetch_sub(1, Ordering::Relaxed);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(messages: i64) -> Arc<Queue> {
        let attributes = Attributes { messages, size: 10 };
        let charge = Charge::new(0, 0, 0, true).expect("no limit");
        Queue::new(Vec::new(), attributes, 0o600, (0, 0), charge)
    }

    fn message(priority: u32, text: &[u8]) -> Message {
        Message { priority, text: Vec::from(text) }
    }

    #[test]
    fn high_priorities_come_first_and_equals_in_their_order() {
        let queue = queue(4);
        for (priority, text) in [(1, b"a"), (7, b"b"), (1, b"c"), (7, b"d")] {
            assert_eq!(queue.send(message(priority, text), false, None), Ok(()));
        }
        assert_eq!(queue.send(message(9, b"e"), false, None), Err(Errno::EAGAIN));
        assert_eq!((queue.count(), queue.status().bytes), (4, 4));
        for text in [b"b", b"d", b"a", b"c"] {
            assert_eq!(queue.receive(false, None).map(|message| message.text), Ok(text.to_vec()));
        }
        assert_eq!(queue.receive(false, None), Err(Errno::EAGAIN));
        assert_eq!(queue.status().bytes, 0);
    }

    #[test]
    fn who_waits_is_served_and_all_arrives() {
        let queue = queue(2);
        let rounds = 500;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        queue.send(message(1, b"x"), true, None).expect("sent");
                    }
                });
            }
            for _ in 0..2 * rounds {
                assert_eq!(
                    queue.receive(true, None).map(|message| message.text),
                    Ok(b"x".to_vec())
                );
            }
        });
        assert_eq!(queue.count(), 0);
        let state = queue.state.lock();
        assert!(state.senders.is_empty() && state.receivers.is_empty());
    }

    #[test]
    fn one_is_told_once() {
        let queue = queue(3);
        let notification = Notification { pid: 5, notice: Notice::None };
        assert_eq!(queue.notify(notification), Ok(()));
        assert_eq!(queue.notify(notification), Err(Errno::EBUSY));
        queue.forget_notification(6);
        assert_eq!(queue.status().notification, Some(notification));
        queue.send(message(1, b"x"), false, None).expect("room");
        assert_eq!(queue.status().notification, None);
        assert_eq!(queue.notify(notification), Ok(()));
        queue.send(message(1, b"x"), false, None).expect("room");
        assert_eq!(queue.status().notification, Some(notification));
        queue.forget_notification(5);
        assert_eq!(queue.status().notification, None);
    }
}
