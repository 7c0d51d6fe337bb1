//! Files of `memfd_create(2)`, and their seals (`F_ADD_SEALS` in fcntl(2)).

use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use linux_raw_sys::general::{
    F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE,
};

/// `F_SEAL_EXEC`: the permission to execute does not change.
pub const F_SEAL_EXEC: u32 = 0x20;
/// All that there are.
pub const ALL_SEALS: u32 =
    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;

/// What such a file has besides its content.
pub struct Memfd {
    /// What /proc shows instead of a path.
    pub label: Vec<u8>,
    /// `F_SEAL_*`.
    pub seals: u32,
    /// Shared mappings that may be written to.
    pub mapped: usize,
    /// Calls that are writing.
    pub writing: usize,
}

impl Memfd {
    /// Adds seals; returns all that it has then.
    ///
    /// # Errors
    /// EPERM, EBUSY.
    pub fn seal(&mut self, mut add: u32, is_executable: bool) -> Result<u32> {
        if self.seals & F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if add & F_SEAL_EXEC != 0 && is_executable {
            // Code that can be executed cannot be changed any more, either.
            add |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
        }
        if add & !self.seals & F_SEAL_WRITE != 0 && self.mapped > 0 {
            return Err(Errno::EBUSY);
        }
        self.seals |= add;
        Ok(self.seals)
    }

    /// Whether the content may be changed.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_write(&self) -> Result<()> {
        let sealed = self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0;
        if sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Whether the length may change so.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_size(&self, old: u64, new: u64) -> Result<()> {
        let sealed = (new < old && self.seals & F_SEAL_SHRINK != 0)
            || (new > old && self.seals & F_SEAL_GROW != 0);
        if sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Counts a call that writes; it has to end.
    ///
    /// # Errors
    /// EPERM.
    pub fn begin_write(&mut self, grows: bool) -> Result<bool> {
        self.check_write()?;
        if grows && self.seals & F_SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        self.writing += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn memfd(seals: u32, mapped: usize) -> Memfd {
        Memfd { label: Vec::new(), seals, mapped, writing: 0 }
    }

    #[test]
    fn what_can_be_executed_is_sealed_against_changes_too() {
        // Linux 6.3 has it; the probe is also for older versions.
        let changes = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
        assert_eq!(memfd(0, 0).seal(F_SEAL_EXEC, true), Ok(F_SEAL_EXEC | changes));
        assert_eq!(memfd(0, 0).seal(F_SEAL_EXEC, false), Ok(F_SEAL_EXEC));
        assert_eq!(memfd(0, 1).seal(F_SEAL_EXEC, true), Err(Errno::EBUSY));
        assert_eq!(memfd(F_SEAL_SEAL, 0).seal(F_SEAL_EXEC, false), Err(Errno::EPERM));
    }

    #[test]
    fn mappings_for_writing_are_in_the_way_of_one_seal_only() {
        assert_eq!(memfd(0, 1).seal(F_SEAL_WRITE, false), Err(Errno::EBUSY));
        assert_eq!(memfd(0, 1).seal(F_SEAL_FUTURE_WRITE, false), Ok(F_SEAL_FUTURE_WRITE));
        assert_eq!(memfd(F_SEAL_WRITE, 1).seal(F_SEAL_WRITE, false), Ok(F_SEAL_WRITE));
        assert_eq!(memfd(F_SEAL_FUTURE_WRITE, 0).check_write(), Err(Errno::EPERM));
        assert_eq!(memfd(F_SEAL_GROW, 0).begin_write(true), Err(Errno::EPERM));
        assert_eq!(memfd(F_SEAL_GROW, 0).begin_write(false), Ok(true));
        assert_eq!(memfd(F_SEAL_SHRINK, 0).check_size(2, 1), Err(Errno::EPERM));
        assert_eq!(memfd(F_SEAL_SHRINK, 0).check_size(1, 2), Ok(()));
    }
}
