//! System V IPC (`sysvipc(7)`): objects that processes find by keys and that outlive them; and POSIX
//! message queues ([`mqueue`]), which have names.
//!
//! Each kind of System V has a [`Table`] of its objects. Locks: an address space, then a table, then an object.

pub mod listing;
pub mod messages;
pub mod mqueue;
pub mod semaphores;
pub mod shared_memory;

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::services::{Caller, now, services};
use crate::memory::frame;
use crate::process::Credentials;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `IPC_PRIVATE`: no object is ever found by this key.
pub const PRIVATE: i32 = 0;
/// `IPC_CREAT`.
pub const CREATE: u32 = 0o1000;
/// `IPC_EXCL`.
pub const EXCLUSIVE: u32 = 0o2000;
/// `IPC_NOWAIT`.
pub const NO_WAIT: u32 = 0o4000;

/// Objects of a kind that there can be (Linux: `IPCMNI`).
const SLOTS: usize = 1 << 15;
/// Slots that are used before the first is used again (Linux: `ipc_min_cycle`).
const CYCLE: usize = 64;
/// Permission to read, for everybody.
pub const READ: u32 = 0o444;
/// Permission to write, for everybody.
pub const WRITE: u32 = 0o222;

/// Who may do what with an object (`struct ipc_perm`).
#[derive(Clone, Copy, Debug)]
pub struct Permissions {
    /// What it is found by.
    pub key: i32,
    /// Owner.
    pub user: u32,
    /// Owner's group.
    pub group: u32,
    /// Who made it.
    pub creator: u32,
    /// Its maker's group.
    pub creator_group: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Permissions {
    fn new(key: i32, flags: u32, who: &Credentials) -> Self {
        Self {
            key,
            user: who.euid,
            group: who.egid,
            creator: who.euid,
            creator_group: who.egid,
            mode: flags & 0o777,
        }
    }

    /// Checks for permissions, which are asked for as mode bits of any class.
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, wanted: u32, who: &Credentials) -> Result<()> {
        let wanted = wanted >> 6 | wanted >> 3 | wanted;
        let in_group = |group: u32| who.egid == group || who.groups().contains(&group);
        let granted = if who.euid == self.creator || who.euid == self.user {
            self.mode >> 6
        } else if in_group(self.creator_group) || in_group(self.group) {
            self.mode >> 3
        } else {
            self.mode
        };
        let missing = wanted & !granted & 7 != 0;
        if missing && !who.can(Capability::IpcOwner) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Checks for the right to change or remove the object.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_owner(&self, who: &Credentials) -> Result<()> {
        let is_owner =
            who.euid == self.creator || who.euid == self.user || who.can(Capability::SysAdmin);
        if is_owner { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`: changes owner and permission bits.
    ///
    /// # Errors
    /// EINVAL for what is no ID.
    pub fn set(&mut self, user: u32, group: u32, mode: u32) -> Result<()> {
        if user == u32::MAX || group == u32::MAX {
            return Err(Errno::EINVAL);
        }
        self.user = user;
        self.group = group;
        self.mode = self.mode & !0o777 | mode & 0o777;
        Ok(())
    }
}

/// An object that is in a table.
pub trait Object: Send + Sync {
    /// Who may do what with it.
    fn permissions(&self) -> Permissions;
}

struct Slot<T> {
    object: Option<Arc<T>>,
    /// How often the slot was used again: part of the id.
    sequence: u16,
}

struct Slots<T> {
    slots: Vec<Slot<T>>,
    used: usize,
    /// Where the search for a free slot begins.
    next: usize,
    sequence: u16,
    /// The slot that was used last.
    last: Option<usize>,
}

/// The objects of one kind.
pub struct Table<T> {
    slots: SpinLock<Slots<T>>,
    limit: usize,
}

/// How `shmget` and its kin find or make an object.
pub struct Get {
    /// What it is found by.
    pub key: i32,
    /// `IPC_*` and permission bits.
    pub flags: u32,
}

/// What came of adding an object under a key.
enum Added<T> {
    /// It is there.
    New(i32),
    /// Another one was there already.
    Found(i32, Arc<T>),
}

impl<T: Object> Slots<T> {
    fn find_key(&self, key: i32) -> Option<(i32, Arc<T>)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| {
            let object = slot.object.as_ref()?;
            (object.permissions().key == key).then(|| (id_of(index, slot.sequence), object.clone()))
        })
    }
}

impl<T: Object> Table<T> {
    /// An empty table for so many objects.
    pub const fn new(limit: usize) -> Self {
        let slots = Slots { slots: Vec::new(), used: 0, next: 0, sequence: 0, last: None };
        Self { slots: SpinLock::new(slots), limit }
    }

    /// Finds the object of a key, or makes one; returns its id. `fits` looks whether one that is there
    /// is what the caller wants.
    ///
    /// # Errors
    /// ENOENT, EEXIST, EACCES, ENOSPC, and what `make` and `fits` say.
    pub fn get(
        &self,
        get: &Get,
        who: &Credentials,
        make: impl FnOnce(Permissions) -> Result<Arc<T>>,
        fits: impl FnOnce(&T) -> Result<()>,
    ) -> Result<i32> {
        let found = if get.key == PRIVATE { None } else { self.find_key(get.key) };
        let found = match found {
            Some(found) => found,
            None if get.key != PRIVATE && get.flags & CREATE == 0 => return Err(Errno::ENOENT),
            None => {
                frame::check_room()?;
                let object = make(Permissions::new(get.key, get.flags, who))?;
                match self.add(get.key, object)? {
                    Added::New(id) => return Ok(id),
                    Added::Found(id, object) => (id, object),
                }
            }
        };
        let (id, object) = found;
        if get.flags & CREATE != 0 && get.flags & EXCLUSIVE != 0 {
            return Err(Errno::EEXIST);
        }
        fits(&object)?;
        object.permissions().check(get.flags & 0o777, who)?;
        Ok(id)
    }

    fn find_key(&self, key: i32) -> Option<(i32, Arc<T>)> {
        self.slots.lock().find_key(key)
    }

    fn add(&self, key: i32, object: Arc<T>) -> Result<Added<T>> {
        let mut slots = self.slots.lock();
        // Someone may have been quicker.
        if key != PRIVATE
            && let Some((id, other)) = slots.find_key(key)
        {
            return Ok(Added::Found(id, other));
        }
        if slots.used >= self.limit {
            return Err(Errno::ENOSPC);
        }
        // Linux goes round, so that an id is not used again soon.
        let end = (slots.used * 3 / 2).clamp(CYCLE, SLOTS);
        let is_free = |slots: &Slots<T>, index: usize| {
            slots.slots.get(index).is_none_or(|slot| slot.object.is_none())
        };
        let start = slots.next.min(end);
        let free = (start..end).chain(0..start).find(|&index| is_free(&slots, index));
        let index = free.ok_or(Errno::ENOSPC)?;
        if index >= slots.slots.len() {
            let more = index + 1 - slots.slots.len();
            slots.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            slots.slots.resize_with(index + 1, || Slot { object: None, sequence: 0 });
        }
        if slots.last.is_some_and(|last| index <= last) {
            slots.sequence = slots.sequence.wrapping_add(1) & 0x7fff;
        }
        let sequence = slots.sequence;
        slots.last = Some(index);
        slots.next = index + 1;
        slots.used += 1;
        slots.slots[index] = Slot { object: Some(object), sequence };
        Ok(Added::New(id_of(index, sequence)))
    }

    /// The object with this id.
    ///
    /// # Errors
    /// EINVAL.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        let (index, sequence) = parts(id)?;
        let slots = self.slots.lock();
        let slot = slots.slots.get(index).filter(|slot| slot.sequence == sequence);
        slot.and_then(|slot| slot.object.clone()).ok_or(Errno::EINVAL)
    }

    /// The object in this slot, and its id (`SHM_STAT` and its kin).
    ///
    /// # Errors
    /// EINVAL.
    pub fn at(&self, index: i32) -> Result<(i32, Arc<T>)> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)? & (SLOTS - 1);
        let slots = self.slots.lock();
        let slot = slots.slots.get(index).ok_or(Errno::EINVAL)?;
        let object = slot.object.clone().ok_or(Errno::EINVAL)?;
        Ok((id_of(index, slot.sequence), object))
    }

    /// Removes an object; gives it to be dropped without a lock.
    pub fn remove(&self, id: i32) -> Option<Arc<T>> {
        let (index, sequence) = parts(id).ok()?;
        let mut slots = self.slots.lock();
        let slot = slots.slots.get_mut(index).filter(|slot| slot.sequence == sequence)?;
        let object = slot.object.take()?;
        slots.used -= 1;
        Some(object)
    }

    /// All objects with their ids.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn all(&self) -> Result<Vec<(i32, Arc<T>)>> {
        let slots = self.slots.lock();
        let mut all = Vec::new();
        all.try_reserve_exact(slots.used).map_err(|_| Errno::ENOMEM)?;
        all.extend(
            slots.slots.iter().enumerate().filter_map(|(index, slot)| {
                Some((id_of(index, slot.sequence), slot.object.clone()?))
            }),
        );
        Ok(all)
    }

    /// The object in the first used slot from this one on, and its slot.
    pub fn next(&self, from: usize) -> Option<(usize, Arc<T>)> {
        let slots = self.slots.lock();
        let rest = slots.slots.iter().enumerate().skip(from);
        rest.into_iter().find_map(|(index, slot)| Some((index, slot.object.clone()?)))
    }

    /// How many there are, and the highest slot in use.
    pub fn usage(&self) -> (usize, i32) {
        let slots = self.slots.lock();
        let highest = slots.slots.iter().rposition(|slot| slot.object.is_some()).unwrap_or(0);
        (slots.used, i32::try_from(highest).unwrap_or(0))
    }
}

fn id_of(index: usize, sequence: u16) -> i32 {
    i32::try_from(index).unwrap_or(0) | i32::from(sequence) << 15
}

fn parts(id: i32) -> Result<(usize, u16)> {
    let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
    let sequence = u16::try_from(id >> 15).map_err(|_| Errno::EINVAL)?;
    Ok((crate::memory::usize_from(u64::from(id)) & (SLOTS - 1), sequence))
}

/// The part of an id that `struct ipc_perm` shows.
pub const fn sequence_of(id: i32) -> u16 {
    let [_, low, high, top] = id.to_le_bytes();
    (low as u16 >> 7) | (high as u16) << 1 | (top as u16) << 9
}

/// Seconds since 1970.
fn seconds() -> i64 {
    now().seconds
}

/// The process that makes the call.
fn caller_pid() -> i32 {
    caller().pid
}

/// Who makes the call.
fn caller() -> Caller {
    services().map(|services| services.caller()).unwrap_or_default()
}

/// A process has ended: what it has of semaphores is undone, and no queue tells it of messages.
pub fn process_ended(pid: i32) {
    semaphores::process_ended(pid);
    mqueue::process_ended(pid);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Permissions);

    impl Object for Thing {
        fn permissions(&self) -> Permissions {
            self.0
        }
    }

    fn make(table: &Table<Thing>, key: i32) -> Result<i32> {
        let get = Get { key, flags: CREATE | 0o600 };
        let who = Credentials::root();
        table.get(&get, &who, |permissions| Ok(Arc::new(Thing(permissions))), |_| Ok(()))
    }

    #[test]
    fn ids_go_round_like_linuxes() {
        crate::memory::frame::host::init();
        let table = Table::new(100);
        for id in 0..64 {
            assert_eq!(make(&table, PRIVATE), Ok(id));
            assert!(table.remove(id).is_some());
            assert!(table.remove(id).is_none());
        }
        assert_eq!(make(&table, PRIVATE), Ok(1 << 15));
        assert_eq!(make(&table, PRIVATE), Ok(1 << 15 | 1));
        assert_eq!(table.find(0).err(), Some(Errno::EINVAL));
        assert_eq!(sequence_of(1 << 15 | 1), 1);
        assert_eq!(sequence_of(0x7fff << 15), 0x7fff);
    }

    #[test]
    fn keys_find_what_was_made_and_the_limit_holds() {
        crate::memory::frame::host::init();
        let table = Table::new(70);
        assert_eq!(make(&table, 5), make(&table, 5));
        for _ in 1..70 {
            assert!(make(&table, PRIVATE).is_ok());
        }
        assert_eq!(make(&table, PRIVATE), Err(Errno::ENOSPC));
        assert_eq!(table.usage(), (70, 69));
        assert_eq!(table.all().map(|all| all.len()), Ok(70));
    }

    #[test]
    fn owner_group_and_others_have_their_own_bits() {
        let permissions = Permissions {
            key: 1,
            user: 10,
            group: 20,
            creator: 11,
            creator_group: 21,
            mode: 0o640,
        };
        let who = |euid: u32, egid: u32| {
            let mut who = Credentials { euid, egid, ..Credentials::root() };
            who.follow_users(&Credentials::root());
            who
        };
        assert_eq!(permissions.check(WRITE, &who(10, 1)), Ok(()));
        assert_eq!(permissions.check(WRITE, &who(11, 1)), Ok(()));
        assert_eq!(permissions.check(READ, &who(12, 20)), Ok(()));
        assert_eq!(permissions.check(WRITE, &who(12, 21)), Err(Errno::EACCES));
        assert_eq!(permissions.check(READ, &who(12, 22)), Err(Errno::EACCES));
        assert_eq!(permissions.check(0o7, &who(0, 22)), Ok(()));
        assert_eq!(permissions.check_owner(&who(12, 20)), Err(Errno::EPERM));
    }
}
