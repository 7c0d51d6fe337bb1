//! Making, removing and renaming names on a volume. The host decides, in one step each; whoever calls has
//! made sure that the guest's own credentials and mounts allow it.

use super::client::{Request, kind};
use super::{Node, SHORT};
use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::fs::inotify;
use crate::fs::metadata::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use crate::fs::namespace::Rename;
use crate::fs::path::Found;
use crate::fs::tmpfs::New;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{AT_REMOVEDIR, O_RDWR, RENAME_EXCHANGE, RENAME_NOREPLACE};

/// Makes a file in a directory of a volume.
///
/// # Errors
/// As for `namespace::create`.
pub fn create(directory: &Arc<Node>, found: &Found, new: &New<'_>) -> Result<Inode> {
    let (name, client) = (found.name.bytes(), directory.client());
    let permissions = new.mode & 0o7777;
    let request = Request::new().u32(directory.fid)?;
    let mut opened = None;
    match new.mode & S_IFMT {
        S_IFREG => {
            let fid = client.new_fid();
            directory.volume.walk(directory.fid, fid, None)?;
            let request = Request::new().u32(fid)?.text(name)?.u32(O_RDWR)?;
            let made = client.call(kind::LCREATE, request.u32(permissions)?.u32(new.group)?, SHORT);
            if let Err(error) = made {
                client.give_back(fid);
                return Err(error);
            }
            opened = Some((fid, made?.qid()?.2));
        }
        S_IFDIR => {
            let request = request.text(name)?.u32(permissions)?.u32(new.group)?;
            client.call(kind::MKDIR, request, SHORT)?;
        }
        S_IFLNK => {
            let request = request.text(name)?.text(new.target)?.u32(new.group)?;
            client.call(kind::SYMLINK, request, SHORT)?;
        }
        S_IFIFO | S_IFSOCK => {
            let request = request.text(name)?.u32(new.mode)?.u32(0)?.u32(0)?.u32(new.group)?;
            client.call(kind::MKNOD, request, SHORT)?;
        }
        _ => return Err(Errno::EPERM),
    }
    let (inode, _) = directory.lookup(name)?;
    let Inode::Volume(node) = &inode else { return Err(Errno::EIO) };
    if let Some((fid, path)) = opened {
        let none = super::NONE;
        let kept = path == node.number()
            && node
                .writing
                .compare_exchange(none, fid, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if !kept {
            client.give_back(fid);
        }
    }
    // A server that is root gives files to whom the guest says; others own what they make.
    if new.user != 0 {
        let _ = node.change_attributes(|attributes| attributes.user = new.user);
    }
    inotify::created(&found.parent, name, new.mode & S_IFMT == S_IFDIR);
    Ok(inode)
}

/// Gives a file of a volume another name.
///
/// # Errors
/// As for `namespace::link`.
pub fn link(file: &Inode, directory: &Node, found: &Found) -> Result<()> {
    let Inode::Volume(node) = file else { return Err(Errno::EXDEV) };
    if !core::ptr::eq(node.volume, directory.volume) {
        return Err(Errno::EXDEV);
    }
    let request = Request::new().u32(directory.fid)?.u32(node.fid)?.text(found.name.bytes())?;
    directory.client().call(kind::LINK, request, SHORT)?;
    inotify::links_changed(file);
    inotify::created(&found.parent, found.name.bytes(), false);
    Ok(())
}

/// Removes a name from a directory of a volume.
///
/// # Errors
/// As for `namespace::remove`.
pub fn remove(directory: &Node, found: &Found, wants_directory: bool) -> Result<()> {
    let flags = if wants_directory { AT_REMOVEDIR } else { 0 };
    let request = Request::new().u32(directory.fid)?.text(found.name.bytes())?.u32(flags)?;
    directory.client().call(kind::UNLINKAT, request, SHORT)?;
    inotify::deleted(&found.parent, found.name.bytes(), wants_directory);
    Ok(())
}

/// Renames a file of a volume.
///
/// # Errors
/// As for `namespace::rename`.
pub fn rename(
    from: &Arc<Node>,
    to: &Arc<Node>,
    old: &Found,
    new: &Found,
    how: Rename,
) -> Result<()> {
    if !core::ptr::eq(from.volume, to.volume) {
        return Err(Errno::EXDEV);
    }
    let file = old.inode.as_ref().ok_or(Errno::ENOENT)?;
    let flags = match how {
        Rename::Replace => 0,
        Rename::New => RENAME_NOREPLACE,
        Rename::Exchange => RENAME_EXCHANGE,
    };
    let mut request = Request::new().u32(from.fid)?.text(old.name.bytes())?;
    request = request.u32(to.fid)?.text(new.name.bytes())?;
    if flags != 0 {
        request = request.u32(flags)?;
    }
    from.client().call(kind::RENAMEAT, request, SHORT)?;
    let moved = |inode: &Inode, to: &Arc<Node>| {
        let Inode::Volume(node) = inode else { return };
        // Dropped without the lock.
        let before = node.parent.lock().replace(to.clone());
        drop(before);
    };
    moved(file, to);
    if let (Rename::Exchange, Some(other)) = (how, &new.inode) {
        moved(other, from);
    }
    let places = ((&old.parent, old.name.bytes()), (&new.parent, new.name.bytes()));
    let victim = if how == Rename::Replace { new.inode.as_ref() } else { None };
    inotify::renamed(file, file.is_directory()?, places.0, places.1, victim);
    Ok(())
}
