//! Open files on their way from one process to another (`SCM_RIGHTS`).
//!
//! A socket may be sent to itself, or two to each other, and then closed: each is kept by the queue
//! of the other, and nobody can ever read them. [`collect`] finds such sockets and empties their queues.
//!
//! A socket in flight is a candidate if all references to its file are in flight. References that come
//! from the queue of another candidate do not keep it alive by themselves; if a candidate has others, it
//! is alive, and so is what is in its queue, and so on. What is left is garbage.
//!
//! A file enters a queue only under the lock of this list. It leaves queues at any time: a reference
//! that is not found in a queue only makes its socket appear alive.

use super::Socket;
use super::packet::Packet;
use crate::errno::{Errno, Result};
use crate::fs::{FileRef, OpenFile};
use crate::memory::frame;
use crate::sync::{SpinLock, SpinLockGuard};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Files that go along with a packet.
pub struct Rights {
    files: Vec<FileRef>,
    /// Who sent them.
    user: u32,
    /// Whether they are counted.
    departed: bool,
    /// The next in the list of what is to be closed.
    next: Option<Box<Self>>,
}

struct Entry {
    socket: Weak<Socket>,
    file: Weak<OpenFile>,
    /// How often it is in flight.
    count: usize,
}

/// What is in flight.
pub struct Flight {
    /// Sockets, by their numbers.
    sockets: BTreeMap<u64, Entry>,
    /// How many files users have sent.
    users: BTreeMap<u32, u64>,
    /// Sockets that ended or departed since the last collection.
    events: usize,
}

static FLIGHT: SpinLock<Flight> =
    SpinLock::new(Flight { sockets: BTreeMap::new(), users: BTreeMap::new(), events: 0 });

/// With more sockets in flight, those who send more look for garbage first.
const MANY: usize = 1024;

/// Files that nobody received and that are to be closed; and whether someone is at it.
struct Lost {
    first: Option<Box<Rights>>,
    closing: bool,
}

static LOST: SpinLock<Lost> = SpinLock::new(Lost { first: None, closing: false });

/// The socket that a file is.
fn socket_of(file: &FileRef) -> Option<&Arc<Socket>> {
    file.as_stream()?.as_socket()?.as_unix()
}

impl Rights {
    /// Makes files ready to be sent.
    ///
    /// # Errors
    /// ETOOMANYREFS if the user has more than `limit` files in flight already, ENOMEM.
    pub fn new(files: Vec<FileRef>, user: u32, limit: Option<u64>) -> Result<Option<Box<Self>>> {
        if files.is_empty() {
            return Ok(None);
        }
        frame::check_room()?;
        collect_if(|flight| flight.sockets.len() > MANY);
        let sent = FLIGHT.lock().users.get(&user).copied().unwrap_or(0);
        if limit.is_some_and(|limit| sent > limit) {
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(Some(Box::new(Self { files, user, departed: false, next: None })))
    }

    /// Another reference to each file, for a look that leaves them where they are.
    ///
    /// It needs the list: a reference that is in no queue and came out of nowhere while garbage is
    /// looked for would make what was received through it look unreachable.
    pub fn copy(&self, _flight: &Flight) -> Result<Vec<FileRef>> {
        let mut files = Vec::new();
        files.try_reserve_exact(self.files.len()).map_err(|_| Errno::ENOMEM)?;
        files.extend(self.files.iter().cloned());
        Ok(files)
    }
}

/// The list, for the time in which files are put into a queue.
pub fn lock() -> SpinLockGuard<'static, Flight> {
    FLIGHT.lock()
}

impl Flight {
    /// Counts files that are put into a queue.
    pub fn depart(&mut self, rights: &mut Rights) {
        rights.departed = true;
        *self.users.entry(rights.user).or_insert(0) += rights.files.len() as u64;
        for file in &rights.files {
            let Some(socket) = socket_of(file) else { continue };
            let entry = self.sockets.entry(socket.number).or_insert_with(|| Entry {
                socket: Arc::downgrade(socket),
                file: Arc::downgrade(file),
                count: 0,
            });
            entry.count += 1;
            self.events += 1;
        }
    }

    fn arrive(&mut self, rights: &Rights) {
        if let Some(sent) = self.users.get_mut(&rights.user) {
            *sent -= rights.files.len() as u64;
            if *sent == 0 {
                self.users.remove(&rights.user);
            }
        }
        for file in &rights.files {
            let Some(socket) = socket_of(file) else { continue };
            if let Some(entry) = self.sockets.get_mut(&socket.number) {
                entry.count -= 1;
                if entry.count == 0 {
                    self.sockets.remove(&socket.number);
                }
            }
        }
    }

    /// Packets in the queues of sockets that nobody can reach.
    fn garbage(&mut self) -> Result<Vec<Packet>> {
        let mut candidates = Vec::new();
        candidates.try_reserve(self.sockets.len()).map_err(|_| Errno::ENOMEM)?;
        for (&number, entry) in &self.sockets {
            if entry.file.strong_count() == entry.count
                && let Some(socket) = entry.socket.upgrade()
            {
                candidates.push(Candidate { number, socket, outside: entry.count, alive: false });
            }
        }
        for at in 0..candidates.len() {
            let socket = candidates[at].socket.clone();
            each_waiting(&socket, &mut |number| {
                if let Some(found) = find(&candidates, number) {
                    let outside = &mut candidates[found].outside;
                    *outside = outside.saturating_sub(1);
                }
            });
        }
        let mut to_visit = Vec::new();
        to_visit.try_reserve(candidates.len()).map_err(|_| Errno::ENOMEM)?;
        for (at, candidate) in candidates.iter_mut().enumerate() {
            if candidate.outside > 0 {
                candidate.alive = true;
                to_visit.push(at);
            }
        }
        while let Some(at) = to_visit.pop() {
            let socket = candidates[at].socket.clone();
            each_waiting(&socket, &mut |number| {
                // Each is pushed once, and there is room for all.
                if let Some(found) = find(&candidates, number).filter(|&at| !candidates[at].alive) {
                    candidates[found].alive = true;
                    to_visit.push(found);
                }
            });
        }
        // From here on nothing may be dropped: that takes this very lock.
        let mut garbage = Vec::new();
        for candidate in candidates.iter().filter(|candidate| !candidate.alive) {
            let mut state = candidate.socket.state.lock();
            move_all(&mut state.packets, &mut garbage);
            for waiting in &state.pending {
                move_all(&mut waiting.state.lock_in_order().packets, &mut garbage);
            }
        }
        Ok(garbage)
    }
}

/// Moves packets, unless there is no memory: then they stay for the next collection.
fn move_all(from: &mut VecDeque<Packet>, to: &mut Vec<Packet>) {
    if to.try_reserve(from.len()).is_ok() {
        to.extend(from.drain(..));
    }
}

struct Candidate {
    number: u64,
    socket: Arc<Socket>,
    /// References that do not come from candidates' queues.
    outside: usize,
    alive: bool,
}

/// Candidates are in ascending order.
fn find(candidates: &[Candidate], number: u64) -> Option<usize> {
    candidates.binary_search_by_key(&number, |candidate| candidate.number).ok()
}

/// Tells the number of each socket in the queue of one, or in those of connections that wait at it.
fn each_waiting(socket: &Socket, each: &mut dyn FnMut(u64)) {
    let mut look = |packets: &VecDeque<Packet>| {
        let rights = packets.iter().filter_map(|packet| packet.rights.as_ref());
        for file in rights.flat_map(|rights| &rights.files) {
            if let Some(socket) = socket_of(file) {
                each(socket.number);
            }
        }
    };
    let state = socket.state.lock();
    look(&state.packets);
    for waiting in &state.pending {
        look(&waiting.state.lock_in_order().packets);
    }
}

/// Takes the files out of a packet that was read.
pub fn land(mut rights: Box<Rights>) -> Vec<FileRef> {
    if rights.departed {
        FLIGHT.lock().arrive(&rights);
    }
    core::mem::take(&mut rights.files)
}

/// Closes files that nobody received.
///
/// A file may be a socket in whose queue there are files, and so on: a list instead of a recursion,
/// which could be as deep as a program likes.
pub fn discard(mut rights: Box<Rights>) {
    if rights.departed {
        FLIGHT.lock().arrive(&rights);
    }
    {
        let mut lost = LOST.lock();
        rights.next = lost.first.take();
        lost.first = Some(rights);
        if lost.closing {
            return;
        }
        lost.closing = true;
    }
    loop {
        let mut rights = {
            let mut lost = LOST.lock();
            let Some(mut rights) = lost.first.take() else {
                lost.closing = false;
                return;
            };
            lost.first = rights.next.take();
            rights
        };
        drop(core::mem::take(&mut rights.files));
    }
}

/// A socket has ended: what only it could have reached goes, too.
pub fn collect() {
    collect_if(|flight| {
        flight.events += 1;
        !flight.sockets.is_empty()
    });
}

fn collect_if(condition: impl FnOnce(&mut Flight) -> bool) {
    let garbage = {
        let mut flight = FLIGHT.lock();
        // What a call costs must not grow with what is in flight.
        if !condition(&mut flight) || flight.events.saturating_mul(2) < flight.sockets.len() {
            return;
        }
        flight.events = 0;
        flight.garbage()
    };
    drop(garbage);
}
