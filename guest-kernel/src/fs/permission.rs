//! Who may do what with a file (`path_resolution(7)`, "Permissions").

use super::inode::Inode;
use super::metadata::{S_IFDIR, S_IFMT};
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
}

impl Subject<'_> {
    /// The superuser.
    pub const ROOT: Subject<'static> = Subject { user: 0, group: 0, groups: &[] };

    /// Whether this is the superuser.
    pub const fn is_root(&self) -> bool {
        self.user == 0
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
        if wanted == 0 || (self.is_root() && wanted & EXECUTE == 0) {
            return Ok(());
        }
        let metadata = inode.metadata()?;
        if self.is_root() {
            // The superuser may search any directory, and execute what anybody may.
            let is_directory = metadata.mode & S_IFMT == S_IFDIR;
            let allowed = is_directory || metadata.mode & 0o111 != 0;
            return if allowed { Ok(()) } else { Err(Errno::EACCES) };
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

    /// Checks for search permission on a directory; without a look at it for the superuser.
    ///
    /// # Errors
    /// As for [`Self::check`].
    #[inline]
    pub fn check_search(&self, directory: &Inode) -> Result<()> {
        if self.is_root() { Ok(()) } else { self.check(directory, EXECUTE) }
    }

    /// Whether the subject may do what only a file's owner may.
    ///
    /// # Errors
    /// EPERM if not.
    pub fn check_owner(&self, owner: u32) -> Result<()> {
        if self.is_root() || self.user == owner { Ok(()) } else { Err(Errno::EPERM) }
    }
}
