//! Who may do what with a file (`path_resolution(7)`, "Permissions").

use super::inode::Inode;
use super::metadata::{S_IFDIR, S_IFMT};
use crate::capability::{Capability, CapabilitySet};
use crate::errno::{Errno, Result};

/// Permission to read, as in `access(2)`.
pub const READ: u32 = 4;
/// Permission to write.
pub const WRITE: u32 = 2;
/// Permission to execute, or to search a directory.
pub const EXECUTE: u32 = 1;

/// Who asks: the IDs that count for files.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// File system user ID.
    pub user: u32,
    /// File system group ID.
    pub group: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// What it may do beyond that.
    pub capabilities: CapabilitySet,
}

impl Subject<'_> {
    /// The superuser.
    pub const ROOT: Subject<'static> =
        Subject { user: 0, group: 0, groups: &[], capabilities: CapabilitySet::ALL };

    /// Whether it has a capability.
    pub const fn can(&self, capability: Capability) -> bool {
        self.capabilities.has(capability)
    }

    /// Whether the group is one of the subject's.
    pub fn is_in_group(&self, group: u32) -> bool {
        self.group == group || self.groups.contains(&group)
    }

    /// Checks for all of the permissions in `wanted`.
    ///
    /// # Errors
    /// EACCES without them, EUCLEAN.
    pub fn check(&self, inode: &Inode, wanted: u32) -> Result<()> {
        let overrides = self.can(Capability::DacOverride);
        if wanted == 0 || (overrides && wanted & EXECUTE == 0) {
            return Ok(());
        }
        let metadata = inode.metadata()?;
        let is_directory = metadata.mode & S_IFMT == S_IFDIR;
        // Any directory may be searched then, and executed what anybody may.
        if overrides && (is_directory || metadata.mode & 0o111 != 0) {
            return Ok(());
        }
        let only_reads = wanted == READ || (is_directory && wanted & WRITE == 0);
        if only_reads && self.can(Capability::DacReadSearch) {
            return Ok(());
        }
        let shift = if metadata.user == self.user {
            6
        } else if self.is_in_group(metadata.group) {
            3
        } else {
            0
        };
        if wanted & !(metadata.mode >> shift) & 7 == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Checks for search permission on a directory; without a look at it for who needs none.
    ///
    /// # Errors
    /// As for [`Self::check`].
    #[inline]
    pub fn check_search(&self, directory: &Inode) -> Result<()> {
        if self.can(Capability::DacOverride) { Ok(()) } else { self.check(directory, EXECUTE) }
    }

    /// Whether the subject may do what only a file's owner may.
    ///
    /// # Errors
    /// EPERM if not.
    pub fn check_owner(&self, owner: u32) -> Result<()> {
        if self.user == owner || self.can(Capability::Fowner) { Ok(()) } else { Err(Errno::EPERM) }
    }
}
