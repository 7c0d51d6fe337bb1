//! What is mounted where: mount(2), umount2(2), pivot_root(2).

use super::AT_FDCWD;
use super::caller::{Caller, check_flags};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::mount::{self, New};
use crate::fs::path::Last;
use crate::fs::{Context, Location};
use crate::memory::{PAGE_SIZE, UserPtr};
use crate::process::table;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    MNT_DETACH, MNT_EXPIRE, MNT_FORCE, MS_BIND, MS_MGC_MSK, MS_MGC_VAL, MS_MOVE, MS_PRIVATE,
    MS_REC, MS_REMOUNT, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, UMOUNT_NOFOLLOW,
};

/// Copies in a string that may be missing.
fn read_optional(string: UserPtr<u8>) -> Result<Option<Vec<u8>>> {
    match string.non_null() {
        Some(string) => string.read_string(PAGE_SIZE, Errno::EINVAL).map(Some),
        None => Ok(None),
    }
}

/// Only who administrates may change mounts.
fn may_mount(caller: &Caller) -> Result<()> {
    if caller.subject().can(Capability::SysAdmin) { Ok(()) } else { Err(Errno::EPERM) }
}

/// `mount(2)`.
///
/// # Errors
/// As the man page says; ENODEV for file systems that this kernel has not.
pub fn mount(
    source: UserPtr<u8>,
    target: UserPtr<u8>,
    kind: UserPtr<u8>,
    flags: u32,
    data: UserPtr<u8>,
) -> Result<()> {
    let kind = read_optional(kind)?;
    let source = read_optional(source)?;
    let options = read_optional(data)?.unwrap_or_default();
    let caller = Caller::get();
    let found = caller.walk(AT_FDCWD, target, Last::Follow)?;
    if found.inode.is_none() {
        return Err(Errno::ENOENT);
    }
    let flags = if flags & MS_MGC_MSK == MS_MGC_VAL { flags & !MS_MGC_MSK } else { flags };
    may_mount(&caller)?;
    let mounts = &caller.context.mounts;
    if flags & MS_REMOUNT != 0 {
        let location = found.location()?.enter();
        return if flags & MS_BIND != 0 {
            mount::reconfigure(mounts, &location, flags)
        } else {
            mount::remount(mounts, &location, flags, &options)
        };
    }
    if flags & (MS_BIND | MS_MOVE) != 0 && flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE) == 0
        || flags & MS_BIND != 0
    {
        let path = source.filter(|path| !path.is_empty()).ok_or(Errno::EINVAL)?;
        let start = caller.start(AT_FDCWD, &path)?;
        let root = &caller.context.root;
        let from = crate::fs::path::walk(root, &start, path, Last::Follow, &caller.subject())?;
        if from.inode.is_none() {
            return Err(Errno::ENOENT);
        }
        return if flags & MS_BIND != 0 {
            mount::bind(mounts, from, found, flags & MS_REC != 0)
        } else {
            mount::move_to(mounts, &from.location()?, found)
        };
    }
    if flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 {
        return mount::change_propagation(mounts, &found.location()?.enter(), flags);
    }
    let kind = kind.ok_or(Errno::EINVAL)?;
    if kind == b"erofs" {
        // There is no block device that it could be on.
        let path = source.filter(|path| !path.is_empty()).ok_or(Errno::EINVAL)?;
        let start = caller.start(AT_FDCWD, &path)?;
        let root = &caller.context.root;
        crate::fs::path::walk(root, &start, path, Last::Follow, &caller.subject())?.existing()?;
        return Err(Errno::ENOTBLK);
    }
    let subject = caller.subject();
    let owner = (subject.user, subject.group);
    let source = source.unwrap_or_default();
    mount::new(mounts, found, New { kind: &kind, source, flags, options: &options, owner })
}

/// `umount2(2)`.
///
/// # Errors
/// As the man page says.
pub fn umount2(target: UserPtr<u8>, flags: u32) -> Result<()> {
    check_flags(flags, MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW)?;
    let caller = Caller::get();
    let last = if flags & UMOUNT_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
    let location = caller.walk(AT_FDCWD, target, last)?.location()?;
    may_mount(&caller)?;
    mount::unmount(&caller.context.mounts, location, &caller.context.root, flags)
}

/// `pivot_root(2)`.
///
/// # Errors
/// As the man page says.
pub fn pivot_root(new_root: UserPtr<u8>, put_old: UserPtr<u8>) -> Result<()> {
    let caller = Caller::get();
    may_mount(&caller)?;
    let new = caller.walk(AT_FDCWD, new_root, Last::Follow)?.location()?;
    let old = caller.walk(AT_FDCWD, put_old, Last::Follow)?;
    if old.inode.is_none() {
        return Err(Errno::ENOENT);
    }
    let is_directory =
        |inode: Option<&crate::fs::Inode>| inode.map_or(Ok(false), crate::fs::Inode::is_directory);
    if !is_directory(Some(&new.inode))? || !is_directory(old.inode.as_ref())? {
        return Err(Errno::ENOTDIR);
    }
    let Context { mounts, root, .. } = &caller.context;
    let (from, to) = mount::pivot_root(mounts, root, new, old)?;
    for pid in table::all() {
        let Some(process) = table::find(pid) else { continue };
        let Some(thread) = process.main_thread() else { continue };
        let Some(fs) = thread.shared_fs() else { continue };
        let mut context = fs.lock();
        let mut replaced: [Option<Location>; 2] = [None, None];
        if context.root.is(&from) {
            replaced[0] = Some(core::mem::replace(&mut context.root, to.clone()));
        }
        if context.directory.is(&from) {
            replaced[1] = Some(core::mem::replace(&mut context.directory, to.clone()));
        }
        drop(context);
        drop(replaced);
    }
    Ok(())
}
