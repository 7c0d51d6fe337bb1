//! Files that programs are being executed from: nobody may write to them meanwhile (ETXTBSY).

use super::inode::Inode;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A file that is being executed, as long as this exists.
pub struct Executing {
    inode: Inode,
}

static FILES: SpinLock<Vec<Inode>> = SpinLock::new(Vec::new());

impl core::fmt::Debug for Executing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Executing")
    }
}

impl Executing {
    /// From now on the file is being executed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(inode: &Inode) -> Result<Arc<Self>> {
        let mut files = FILES.lock();
        files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        files.push(inode.clone());
        drop(files);
        Ok(Arc::new(Self { inode: inode.clone() }))
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let removed = {
            let mut files = FILES.lock();
            let at = files.iter().position(|inode| inode.is(&self.inode));
            at.map(|at| files.swap_remove(at))
        };
        // Dropped without the lock: it may be the last reference to the file.
        drop(removed);
    }
}

/// Whether the file may be changed.
///
/// # Errors
/// ETXTBSY if a program is being executed from it.
pub fn check_writable(inode: &Inode) -> Result<()> {
    if FILES.lock().iter().any(|running| running.is(inode)) { Err(Errno::ETXTBSY) } else { Ok(()) }
}
