//! The volumes that the machine was given. They are there whether or not they are mounted.

use super::super::ninep::{self, Transport};
use super::superblock::Superblock;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// All of them, with their tags.
static VOLUMES: SpinLock<Vec<(Vec<u8>, Arc<Superblock>)>> = SpinLock::new(Vec::new());

/// Makes a volume known. Nobody else does meanwhile.
///
/// # Errors
/// EIO if its server is dead, ENOMEM.
pub fn add_volume(transport: &'static dyn Transport, tag: &[u8], read_only: bool) -> Result<()> {
    let index = u32::try_from(VOLUMES.lock().len()).map_err(|_| Errno::ENOMEM)?;
    let (volume, root) = ninep::start(transport, index, read_only)?;
    VOLUMES.lock().push((Vec::from(tag), Arc::new(Superblock::of_volume(volume, root))));
    Ok(())
}

/// The volume with this tag, to be mounted.
///
/// # Errors
/// EINVAL for options that would make a difference, ENOENT if there is none, EBUSY if it is in use: Linux,
/// too, mounts such a device once.
pub(super) fn find(tag: &[u8], options: &[u8]) -> Result<Arc<Superblock>> {
    check_options(options)?;
    let volumes = VOLUMES.lock();
    let (_, superblock) = volumes.iter().find(|(own, _)| own == tag).ok_or(Errno::ENOENT)?;
    // One reference is the list's.
    if Arc::strong_count(superblock) > 1 { Err(Errno::EBUSY) } else { Ok(superblock.clone()) }
}

/// Takes the options that say what is so anyway, of which `trans=virtio` must be said.
pub(super) fn check_options(options: &[u8]) -> Result<()> {
    let known = |option: &[u8]| {
        matches!(
            option,
            b"" | b"trans=virtio" | b"version=9p2000.L" | b"access=client" | b"cache=none"
        )
    };
    let mut all = options.split(|&byte| byte == b',');
    if all.clone().any(|option| option == b"trans=virtio") && all.all(known) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}
