//! What the calls of System V IPC share: the structures of `IPC_STAT` and `IPC_SET`.

use crate::ipc::{Permissions, sequence_of};
use crate::memory::user::Plain;

/// `IPC_RMID`.
pub const RMID: u32 = 0;
/// `IPC_SET`.
pub const SET: u32 = 1;
/// `IPC_STAT`.
pub const STAT: u32 = 2;
/// `IPC_INFO`.
pub const INFO: u32 = 3;

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    key: i32,
    /// Owner.
    pub user: u32,
    /// Owner's group.
    pub group: u32,
    creator: u32,
    creator_group: u32,
    /// Permission bits.
    pub mode: u32,
    sequence: u16,
    padding: [u16; 3],
    unused: [u64; 2],
}

// SAFETY: integers; the gap is a field of its own.
unsafe impl Plain for Owner {}
const _: () = assert!(size_of::<Owner>() == 48);

impl Owner {
    /// What an object's permissions look like to a program.
    pub const fn new(permissions: &Permissions, id: i32) -> Self {
        Self {
            key: permissions.key,
            user: permissions.user,
            group: permissions.group,
            creator: permissions.creator,
            creator_group: permissions.creator_group,
            mode: permissions.mode,
            sequence: sequence_of(id),
            padding: [0; 3],
            unused: [0; 2],
        }
    }
}
