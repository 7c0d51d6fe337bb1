//! Who a process is, and what it may do (credentials(7), capabilities(7)).

use crate::capability::{Capability, CapabilitySet};
use crate::errno::{Errno, Result};
use crate::fs::metadata::{Metadata, S_ISGID, S_ISUID};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `SECBIT_*`: what being root, and becoming or ceasing to be, does not do.
pub mod securebits {
    /// `SECBIT_NOROOT`: a program that root executes gets no capabilities for that.
    pub const NO_ROOT: u32 = 1 << 0;
    /// `SECBIT_NO_SETUID_FIXUP`: changes of user IDs leave capabilities alone.
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    /// `SECBIT_KEEP_CAPS`: permitted capabilities stay when the last user ID stops being root.
    pub const KEEP_CAPS: u32 = 1 << 4;
    /// `SECBIT_NO_CAP_AMBIENT_RAISE`.
    pub const NO_AMBIENT_RAISE: u32 = 1 << 6;
    /// All of them.
    pub const ALL: u32 = NO_ROOT | NO_SETUID_FIXUP | KEEP_CAPS | NO_AMBIENT_RAISE;
    /// The bits that lock them: each is the one above.
    pub const LOCKS: u32 = ALL << 1;
}

/// User and group IDs, and capabilities.
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
    /// What it may do now.
    pub effective: CapabilitySet,
    /// What it may make effective.
    pub permitted: CapabilitySet,
    /// What it may hand on to a program that asks for it.
    pub inheritable: CapabilitySet,
    /// What it can ever get by `execve`.
    pub bounding: CapabilitySet,
    /// What a program without privileges of its own keeps.
    pub ambient: CapabilitySet,
    /// See [`securebits`].
    pub securebits: u32,
}

impl Credentials {
    /// The superuser.
    pub fn root() -> Self {
        Self {
            effective: CapabilitySet::ALL,
            permitted: CapabilitySet::ALL,
            bounding: CapabilitySet::ALL,
            ..Self::default()
        }
    }

    /// Supplementary groups.
    pub fn groups(&self) -> &[u32] {
        self.groups.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether it may do this.
    pub const fn can(&self, capability: Capability) -> bool {
        self.effective.has(capability)
    }

    /// EPERM unless it may do this.
    ///
    /// # Errors
    /// EPERM.
    pub const fn need(&self, capability: Capability) -> Result<()> {
        if self.can(capability) { Ok(()) } else { Err(Errno::EPERM) }
    }

    const fn is_secure(&self, bit: u32) -> bool {
        self.securebits & bit != 0
    }

    const fn has_root(&self) -> bool {
        self.uid == 0 || self.euid == 0 || self.suid == 0
    }

    /// After a change of real, effective or saved user ID: capabilities follow, as capabilities(7)
    /// says in "Effect of user ID changes on capabilities".
    pub fn follow_users(&mut self, before: &Self) {
        if self.is_secure(securebits::NO_SETUID_FIXUP) {
            return;
        }
        if before.has_root() && !self.has_root() {
            if !self.is_secure(securebits::KEEP_CAPS) {
                self.permitted = CapabilitySet::EMPTY;
                self.effective = CapabilitySet::EMPTY;
            }
            self.ambient = CapabilitySet::EMPTY;
        }
        match (before.euid, self.euid) {
            (0, 0) => {}
            (0, _) => self.effective = CapabilitySet::EMPTY,
            (_, 0) => self.effective = self.permitted,
            _ => {}
        }
    }

    /// After a change of the file system user ID alone: the capabilities for files follow.
    pub fn follow_file_user(&mut self, before: u32) {
        if self.is_secure(securebits::NO_SETUID_FIXUP) {
            return;
        }
        match (before, self.fsuid) {
            (0, 0) => {}
            (0, _) => self.effective = self.effective.without(CapabilitySet::OF_FILES),
            (_, 0) => {
                self.effective = self.effective | (self.permitted & CapabilitySet::OF_FILES);
            }
            _ => {}
        }
    }

    /// What is effective for `access(2)`, which asks about the real user.
    pub const fn effective_of_real(&self) -> CapabilitySet {
        if self.is_secure(securebits::NO_SETUID_FIXUP) {
            self.effective
        } else if self.uid == 0 {
            self.permitted
        } else {
            CapabilitySet::EMPTY
        }
    }

    /// Who a program is that is executed now from a file with these attributes: set-user-ID and
    /// set-group-ID bits count unless privileges may not grow. And whether it is more than its caller.
    #[must_use]
    pub fn of_program(
        mut self,
        before: &Self,
        file: &Metadata,
        no_new_privileges: bool,
    ) -> (Self, bool) {
        const GROUP_EXECUTE: u32 = 0o010;
        if !no_new_privileges {
            if file.mode & S_ISUID != 0 {
                self.euid = file.user;
            }
            if file.mode & (S_ISGID | GROUP_EXECUTE) == S_ISGID | GROUP_EXECUTE {
                self.egid = file.group;
            }
        }
        self.execute(before, no_new_privileges)
    }

    /// Who a program is that is executed now, of which `self` already has the effective IDs that
    /// set-user-ID and set-group-ID bits ask for; and whether it has become more than its caller
    /// (AT_SECURE). Files have no capabilities here. See capabilities(7), "Transformation of
    /// capabilities during execve()" and "Capabilities and execution of programs by root".
    #[must_use]
    pub fn execute(mut self, before: &Self, no_new_privileges: bool) -> (Self, bool) {
        let root_counts = !self.is_secure(securebits::NO_ROOT);
        let by_root = root_counts && (self.euid == 0 || self.uid == 0);
        let effective = root_counts && self.euid == 0;
        self.permitted =
            if by_root { self.bounding | self.inheritable } else { CapabilitySet::EMPTY };
        let is_set = |who: &Self| who.euid != before.uid || who.egid != before.gid;
        let mut set_id = is_set(&self);
        if no_new_privileges && (set_id || !self.permitted.is_within(before.permitted)) {
            (self.euid, self.egid) = (self.uid, self.gid);
            self.permitted = self.permitted & before.permitted;
            set_id = is_set(&self);
        }
        (self.suid, self.fsuid) = (self.euid, self.euid);
        (self.sgid, self.fsgid) = (self.egid, self.egid);
        if set_id {
            self.ambient = CapabilitySet::EMPTY;
        }
        self.permitted = self.permitted | self.ambient;
        self.effective = if effective { self.permitted } else { self.ambient };
        self.securebits &= !securebits::KEEP_CAPS;
        let grew = !self.permitted.is_within(self.ambient);
        let secure = set_id || (self.uid != 0 && (effective || grew));
        (self, secure)
    }

    /// Whether the program's memory must not be shown to its user any more, because it was or had
    /// more before.
    pub fn hides_from(&self, before: &Self) -> bool {
        (self.euid, self.egid, self.fsuid, self.fsgid)
            != (before.euid, before.egid, before.fsuid, before.fsgid)
            || !self.permitted.is_within(before.permitted)
    }

    /// Whether the group is the effective one or a supplementary one, for file accesses.
    pub fn in_group(&self, group: u32) -> bool {
        self.fsgid == group || self.groups().contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        let mut who = Credentials::root();
        let before = who.clone();
        (who.uid, who.euid, who.suid, who.fsuid) = (uid, uid, uid, uid);
        who.follow_users(&before);
        who
    }

    #[test]
    fn who_stops_being_root_loses_all_unless_it_asked_to_keep() {
        assert!(user(5).permitted.is_empty() && user(5).effective.is_empty());
        let mut keeper = Credentials { securebits: securebits::KEEP_CAPS, ..Credentials::root() };
        let before = keeper.clone();
        (keeper.uid, keeper.euid, keeper.suid) = (5, 5, 5);
        keeper.follow_users(&before);
        assert_eq!(
            (keeper.permitted, keeper.effective),
            (CapabilitySet::ALL, CapabilitySet::EMPTY)
        );
    }

    #[test]
    fn root_gets_at_most_the_bounding_set_by_execve() {
        let mut root = Credentials::root();
        root.bounding = CapabilitySet::from_bits(0b1010);
        let (after, secure) = root.clone().execute(&root, false);
        assert_eq!((after.permitted.bits(), after.effective.bits()), (0b1010, 0b1010));
        assert!(!secure);
    }

    #[test]
    fn a_set_user_id_program_is_held_back_by_no_new_privileges() {
        let before = user(5);
        let raised = Credentials { euid: 0, ..before.clone() };
        let (after, secure) = raised.clone().execute(&before, false);
        assert_eq!((after.euid, after.suid, after.fsuid), (0, 0, 0));
        assert!(secure && after.effective == CapabilitySet::ALL);
        let (after, secure) = raised.execute(&before, true);
        assert_eq!((after.euid, after.permitted), (5, CapabilitySet::EMPTY));
        // As in Linux's cap_bprm_creds_from_file: that root was asked for is enough.
        assert!(secure);
    }

    #[test]
    fn ambient_capabilities_survive_a_plain_program_only() {
        let ambient = CapabilitySet::from_bits(1);
        let before = Credentials { ambient, permitted: ambient, inheritable: ambient, ..user(5) };
        let (after, secure) = before.clone().execute(&before, false);
        assert_eq!((after.permitted, after.effective), (ambient, ambient));
        assert!(!secure);
        let (after, _) = Credentials { euid: 6, ..before.clone() }.execute(&before, false);
        assert!(after.permitted.is_empty() && after.ambient.is_empty());
    }
}
