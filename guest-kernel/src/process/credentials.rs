//! Who a process is (credentials(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

/// User and group ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// User for file accesses.
    pub fsuid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Group for file accesses.
    pub fsgid: u32,
    /// Supplementary groups; `None` for none, so that a process costs no allocation for them.
    pub groups: Option<Arc<Vec<u32>>>,
}

impl Credentials {
    /// The superuser.
    pub fn root() -> Self {
        Self::default()
    }

    /// Supplementary groups.
    pub fn groups(&self) -> &[u32] {
        self.groups.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether the process may do what only the superuser may.
    pub fn is_privileged(&self) -> bool {
        self.euid == 0
    }

    /// Whether the group is the effective one or a supplementary one, for file accesses.
    pub fn in_group(&self, group: u32) -> bool {
        self.fsgid == group || self.groups().contains(&group)
    }
}
