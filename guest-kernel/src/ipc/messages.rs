//! Message queues (`msgget(2)`, `msgop(2)`).

use super::{Get, Object, Permissions, READ, Table, WRITE, caller_pid, seconds};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::{UserReader, frame};
use crate::process::Credentials;
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes of a message (`/proc/sys/kernel/msgmax`).
pub const MAX_MESSAGE: usize = 8192;
/// Bytes that a new queue holds (`/proc/sys/kernel/msgmnb`).
pub const MAX_QUEUE: u64 = 16_384;
/// Queues (`/proc/sys/kernel/msgmni`).
pub const MAX_QUEUES: usize = 32_000;

/// A message.
pub struct Message {
    /// Its type, above 0.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
}

struct State {
    permissions: Permissions,
    messages: VecDeque<Message>,
    bytes: u64,
    limit: u64,
    sent: i64,
    received: i64,
    changed: i64,
    senders: i32,
    receivers: i32,
    removed: bool,
}

/// A queue.
pub struct Queue {
    state: SpinLock<State>,
    /// Those who wait for a message.
    readers: WaitQueue,
    /// Those who wait for room.
    writers: WaitQueue,
}

/// What `IPC_STAT` tells.
pub struct Status {
    /// Owner and permissions.
    pub permissions: Permissions,
    /// Last send, receive and change, in seconds since 1970.
    pub times: [i64; 3],
    /// Bytes in the queue.
    pub bytes: u64,
    /// Messages in the queue.
    pub count: u64,
    /// Bytes that it holds.
    pub limit: u64,
    /// Who sent and who received last.
    pub processes: [i32; 2],
}

/// Which message is wanted (`msgop(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first.
    Any,
    /// The first of this type.
    Kind(i64),
    /// The first of another type.
    Except(i64),
    /// The first of the lowest type up to this one.
    UpTo(i64),
    /// A copy of the one at this place, which stays.
    CopyAt(i64),
}

static QUEUES: Table<Queue> = Table::new(MAX_QUEUES);

impl Object for Queue {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Wanted {
    /// What the type argument of `msgrcv` means.
    pub const fn new(kind: i64, except: bool) -> Self {
        match (kind, except) {
            (0, _) => Self::Any,
            (i64::MIN, _) => Self::UpTo(i64::MAX),
            (kind, _) if kind < 0 => Self::UpTo(-kind),
            (kind, true) => Self::Except(kind),
            (kind, false) => Self::Kind(kind),
        }
    }

    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Self::Any => (!messages.is_empty()).then_some(0),
            Self::Kind(kind) => messages.iter().position(|message| message.kind == kind),
            Self::Except(kind) => messages.iter().position(|message| message.kind != kind),
            Self::CopyAt(place) => usize::try_from(place).ok().filter(|&at| at < messages.len()),
            Self::UpTo(most) => {
                let low = messages.iter().enumerate().filter(|(_, message)| message.kind <= most);
                low.min_by_key(|(at, message)| (message.kind, *at)).map(|(at, _)| at)
            }
        }
    }
}

impl Queue {
    fn new(permissions: Permissions) -> Arc<Self> {
        let state = State {
            permissions,
            messages: VecDeque::new(),
            bytes: 0,
            limit: MAX_QUEUE,
            sent: 0,
            received: 0,
            changed: seconds(),
            senders: 0,
            receivers: 0,
            removed: false,
        };
        Arc::new(Self {
            state: SpinLock::new(state),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
        })
    }

    /// What `IPC_STAT` tells.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            permissions: state.permissions,
            times: [state.sent, state.received, state.changed],
            bytes: state.bytes,
            count: state.messages.len() as u64,
            limit: state.limit,
            processes: [state.senders, state.receivers],
        }
    }
}

/// `msgget(2)`.
///
/// # Errors
/// As the man page says.
pub fn get(get: &Get, who: &Credentials) -> Result<i32> {
    QUEUES.get(get, who, |permissions| Ok(Queue::new(permissions)), |_| Ok(()))
}

/// Copies in a message.
///
/// # Errors
/// EFAULT, ENOMEM.
pub fn read_message(kind: i64, mut text: UserReader) -> Result<Message> {
    frame::check_room()?;
    let len = text.remaining();
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    if len > 0 && text.read_to_vec(&mut bytes, len)? < len {
        return Err(Errno::EFAULT);
    }
    Ok(Message { kind, text: bytes })
}

/// `msgsnd(2)`.
///
/// # Errors
/// EINVAL, EACCES, EAGAIN, EIDRM, EINTR, ENOMEM.
pub fn send(id: i32, message: Message, wait: bool, who: &Credentials) -> Result<()> {
    let queue = QUEUES.find(id)?;
    let (now, pid) = (seconds(), caller_pid());
    let len = message.text.len() as u64;
    let mut message = Some(message);
    queue.writers.wait_until(|| {
        let mut state = queue.state.lock();
        // Permissions may have changed since it began to wait.
        if let Err(error) = state.permissions.check(WRITE, who) {
            return Some(Err(error));
        }
        if state.removed {
            return Some(Err(Errno::EIDRM));
        }
        // Empty messages count, too.
        if len + state.bytes > state.limit || state.messages.len() as u64 + 1 > state.limit {
            return (!wait).then_some(Err(Errno::EAGAIN));
        }
        if state.messages.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOMEM));
        }
        state.messages.extend(message.take());
        state.bytes += len;
        state.sent = now;
        state.senders = pid;
        Some(Ok(()))
    })??;
    queue.readers.wake_all();
    Ok(())
}

/// `msgrcv(2)`.
///
/// # Errors
/// EINVAL, EACCES, E2BIG, ENOMSG, EIDRM, EINTR.
pub fn receive(
    id: i32,
    wanted: Wanted,
    room: Option<usize>,
    wait: bool,
    who: &Credentials,
) -> Result<Message> {
    let queue = QUEUES.find(id)?;
    let (now, pid) = (seconds(), caller_pid());
    let message = queue.readers.wait_until(|| {
        let mut state = queue.state.lock();
        if let Err(error) = state.permissions.check(READ, who) {
            return Some(Err(error));
        }
        if state.removed {
            return Some(Err(Errno::EIDRM));
        }
        let Some(at) = wanted.find(&state.messages) else {
            return (!wait).then_some(Err(Errno::ENOMSG));
        };
        let len = state.messages[at].text.len();
        if room.is_some_and(|room| room < len) {
            return Some(Err(Errno::E2BIG));
        }
        if let Wanted::CopyAt(_) = wanted {
            return Some(copy(&state.messages[at]));
        }
        let message = state.messages.remove(at)?;
        state.bytes -= len as u64;
        state.received = now;
        state.receivers = pid;
        Some(Ok(message))
    })??;
    queue.writers.wake_all();
    Ok(message)
}

fn copy(message: &Message) -> Result<Message> {
    let mut text = Vec::new();
    text.try_reserve_exact(message.text.len()).map_err(|_| Errno::ENOMEM)?;
    text.extend_from_slice(&message.text);
    Ok(Message { kind: message.kind, text })
}

/// The queue with this id, if the caller may read it.
///
/// # Errors
/// EINVAL, EACCES.
pub fn find(id: i32, who: &Credentials) -> Result<Arc<Queue>> {
    let queue = QUEUES.find(id)?;
    queue.permissions().check(READ, who)?;
    Ok(queue)
}

/// The queue in this slot and its id; if `any`, also one that the caller may not read.
///
/// # Errors
/// EINVAL, EACCES.
pub fn at(index: i32, any: bool, who: &Credentials) -> Result<(i32, Arc<Queue>)> {
    let (id, queue) = QUEUES.at(index)?;
    if !any {
        queue.permissions().check(READ, who)?;
    }
    Ok((id, queue))
}

/// `IPC_RMID`.
///
/// # Errors
/// EINVAL, EPERM.
pub fn remove(id: i32, who: &Credentials) -> Result<()> {
    let queue = QUEUES.find(id)?;
    queue.permissions().check_owner(who)?;
    let lost = {
        let mut state = queue.state.lock();
        state.removed = true;
        state.bytes = 0;
        core::mem::take(&mut state.messages)
    };
    drop((lost, QUEUES.remove(id)));
    queue.readers.wake_all();
    queue.writers.wake_all();
    Ok(())
}

/// `IPC_SET`.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set(id: i32, user: u32, group: u32, mode: u32, limit: u64, who: &Credentials) -> Result<()> {
    let queue = QUEUES.find(id)?;
    queue.permissions().check_owner(who)?;
    if limit > MAX_QUEUE && !who.can(Capability::SysResource) {
        return Err(Errno::EPERM);
    }
    let now = seconds();
    let mut state = queue.state.lock();
    state.permissions.set(user, group, mode)?;
    state.limit = limit;
    state.changed = now;
    drop(state);
    queue.readers.wake_all();
    queue.writers.wake_all();
    Ok(())
}

/// Queues, the highest slot in use, messages and bytes in all queues.
///
/// # Errors
/// ENOMEM.
pub fn usage() -> Result<(usize, i32, u64, u64)> {
    let (used, highest) = QUEUES.usage();
    let add = |(count, bytes), (_, queue): &(i32, Arc<Queue>)| {
        let status = queue.status();
        (count + status.count, bytes + status.bytes)
    };
    let (count, bytes) = QUEUES.all()?.iter().fold((0, 0), add);
    Ok((used, highest, count, bytes))
}

/// All queues with their ids.
///
/// # Errors
/// ENOMEM.
pub fn all() -> Result<Vec<(i32, Arc<Queue>)>> {
    QUEUES.all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_says_which_message_is_next() {
        let kinds = [5, 3, 9, 3, 1];
        let messages: VecDeque<_> =
            kinds.map(|kind| Message { kind, text: Vec::new() }).into_iter().collect();
        for (kind, except, at) in [
            (0, false, Some(0)),
            (0, true, Some(0)),
            (3, false, Some(1)),
            (4, false, None),
            (5, true, Some(1)),
            (-4, false, Some(4)),
            (-1, false, Some(4)),
            (i64::MIN, false, Some(4)),
        ] {
            assert_eq!(Wanted::new(kind, except).find(&messages), at, "{kind} {except}");
        }
        let lowest_first: VecDeque<_> =
            [4, 2, 2].map(|kind| Message { kind, text: Vec::new() }).into_iter().collect();
        assert_eq!(Wanted::UpTo(5).find(&lowest_first), Some(1));
    }
}
