//! Making, removing and renaming names.
//!
//! Every change to the tree is made under the file system's `tree` lock, so that what is checked stays
//! true until it is done. Lookups take only the lock of the directory that they look into.

use super::inode::Inode;
use super::inotify;
use super::metadata::{Metadata, S_IFDIR, S_IFMT, S_IFREG, S_ISGID, S_ISVTX};
use super::mount::Mount;
use super::ninep;
use super::path::Found;
use super::permission::{EXECUTE, Subject, WRITE};
use super::root::FileSystem;
use super::tmpfs::{New, Node};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Deeper than any path can reach: going up further than this, a damaged image leads in circles.
const MAX_DEPTH: u32 = 1 << 20;

impl Inode {
    /// The file system that stores the file, if one does.
    pub fn file_system(&self) -> Option<&'static FileSystem> {
        match self {
            Self::Image(file_system, _) => Some(file_system),
            Self::Memory(node) => Some(node.file_system()),
            _ => None,
        }
    }

    /// Whether it is a file that someone stores, here or on the host, and not one that is made up.
    fn is_stored(&self) -> bool {
        matches!(self, Self::Image(..) | Self::Memory(_) | Self::Volume(_))
    }
}

/// The directory in memory that names are changed in.
fn changeable(directory: &Inode) -> Result<Arc<Node>> {
    let node = directory.node()?;
    node.directory()?;
    Ok(node)
}

fn may_change(directory: &Inode, subject: &Subject<'_>) -> Result<()> {
    subject.check(directory, WRITE | EXECUTE)
}

/// In a directory with the sticky bit, only owners remove names (`inode(7)`).
fn may_remove(directory: &Inode, file: &Metadata, subject: &Subject<'_>) -> Result<()> {
    may_change(directory, subject)?;
    if subject.can(Capability::Fowner) {
        return Ok(());
    }
    let directory = directory.metadata()?;
    let is_owner = file.user == subject.user || directory.user == subject.user;
    if directory.mode & S_ISVTX != 0 && !is_owner { Err(Errno::EPERM) } else { Ok(()) }
}

fn is_directory(metadata: &Metadata) -> bool {
    metadata.mode & S_IFMT == S_IFDIR
}

/// Makes a file at a place where a walk found none.
///
/// # Errors
/// EEXIST, EACCES, ENOENT if the directory was removed, ENOSPC.
pub fn create(found: &Found, mut new: New<'_>, subject: &Subject<'_>) -> Result<Inode> {
    found.check_name()?;
    if found.inode.is_some() {
        return Err(Errno::EEXIST);
    }
    // A slash after the name of a new file that is no directory.
    let makes_directory = new.mode & S_IFMT == S_IFDIR;
    if found.slash && !makes_directory {
        return Err(Errno::ENOENT);
    }
    if found.parent.is_stored() {
        found.check_writable()?;
    }
    if let Inode::Volume(directory) = &found.parent {
        may_change(&found.parent, subject)?;
        return ninep::create(directory, found, &new);
    }
    let name = found.name.bytes();
    let Some(file_system) = found.parent.file_system() else {
        return Err(found.parent.refuses_new(new.mode & S_IFMT == S_IFREG));
    };
    may_change(&found.parent, subject)?;
    let parent = changeable(&found.parent)?;
    let attributes = parent.attributes();
    if attributes.mode & S_ISGID != 0 {
        new.group = attributes.group;
        new.mode |= if makes_directory { S_ISGID } else { 0 };
    }
    let _tree = file_system.tree.lock();
    let mut directory = parent.directory()?.lock();
    if directory.removed {
        return Err(Errno::ENOENT);
    }
    if directory.has_added(name) {
        return Err(Errno::EEXIST);
    }
    let node = Node::new(file_system, &new, &found.parent)?;
    node.change(|attributes| attributes.links = if makes_directory { 2 } else { 1 });
    let inode = Inode::Memory(node);
    directory.insert(name, inode.clone())?;
    drop(directory);
    parent.touch();
    if makes_directory {
        parent.change(|attributes| attributes.links += 1);
    }
    inotify::created(&found.parent, name, makes_directory);
    Ok(inode)
}

/// Makes a file without a name (`O_TMPFILE`, `memfd_create(2)`).
///
/// # Errors
/// EOPNOTSUPP where files are not stored, ENOSPC.
pub fn create_unnamed(directory: &Inode, new: &New<'_>) -> Result<Inode> {
    let file_system = directory.file_system().ok_or(Errno::EOPNOTSUPP)?;
    Node::new(file_system, new, directory).map(Inode::Memory)
}

/// Makes a file of `memfd_create(2)`, in the file system of this directory.
///
/// # Errors
/// ENOSPC, ENOMEM.
pub fn create_memfd(directory: &Inode, new: &New<'_>, label: Vec<u8>, seals: u32) -> Result<Inode> {
    let file_system = directory.file_system().ok_or(Errno::EOPNOTSUPP)?;
    let node = Node::new(file_system, new, directory)?;
    node.file()?.make_memfd(label, seals);
    Ok(Inode::Memory(node))
}

/// Gives a file another name.
///
/// # Errors
/// EEXIST, EPERM for a directory, EXDEV, EACCES, ENOENT, ENOSPC.
pub fn link(
    file: &Inode,
    mount: Option<&Arc<Mount>>,
    found: &Found,
    subject: &Subject<'_>,
) -> Result<()> {
    found.check_name()?;
    if found.inode.is_some() {
        return Err(Errno::EEXIST);
    }
    if found.slash {
        return Err(Errno::ENOENT);
    }
    found.check_writable()?;
    if !is_same_mount(mount, found.mount.as_ref()) {
        return Err(Errno::EXDEV);
    }
    if let Inode::Volume(directory) = &found.parent {
        may_change(&found.parent, subject)?;
        if file.is_directory()? {
            return Err(Errno::EPERM);
        }
        return ninep::link(file, directory, found);
    }
    let (Some(file_system), Some(there)) = (file.file_system(), found.parent.file_system()) else {
        return Err(Errno::EXDEV);
    };
    if !core::ptr::eq(file_system, there) {
        return Err(Errno::EXDEV);
    }
    // Those of memfd_create are in a file system of their own on Linux.
    if file.label().is_some() {
        return Err(Errno::EXDEV);
    }
    may_change(&found.parent, subject)?;
    if file.is_directory()? {
        return Err(Errno::EPERM);
    }
    let parent = changeable(&found.parent)?;
    let node = file.node()?;
    let _tree = file_system.tree.lock();
    let mut directory = parent.directory()?.lock();
    if directory.removed || node.attributes().links == 0 {
        return Err(Errno::ENOENT);
    }
    if directory.has_added(found.name.bytes()) {
        return Err(Errno::EEXIST);
    }
    file_system.usage.charge_link()?;
    if let Err(error) = directory.insert(found.name.bytes(), file.clone()) {
        file_system.usage.release_link();
        return Err(error);
    }
    drop(directory);
    node.change(|attributes| attributes.links += 1);
    parent.touch();
    inotify::links_changed(file);
    inotify::created(&found.parent, found.name.bytes(), false);
    Ok(())
}

/// Gives a name to a file without one (`linkat(2)` of an `O_TMPFILE`).
///
/// # Errors
/// As for [`link`].
pub fn link_unnamed(
    file: &Inode,
    mount: Option<&Arc<Mount>>,
    found: &Found,
    subject: &Subject<'_>,
) -> Result<()> {
    let Inode::Memory(node) = file else { return link(file, mount, found, subject) };
    if node.attributes().links > 0 {
        return link(file, mount, found, subject);
    }
    node.change(|attributes| attributes.links = 1);
    let result = link(file, mount, found, subject);
    node.change(|attributes| attributes.links -= 1);
    if result.is_ok() {
        // The first name is the file's own.
        node.file_system().usage.release_link();
    }
    result
}

/// Whether both were reached by the same mount: no name is made or moved across mounts, even where they
/// show the same file system.
fn is_same_mount(a: Option<&Arc<Mount>>, b: Option<&Arc<Mount>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// `unlink(2)`, or `rmdir(2)` if `wants_directory`.
///
/// # Errors
/// ENOENT, EISDIR, ENOTDIR, ENOTEMPTY, EBUSY, EINVAL, EACCES, EPERM.
pub fn remove(found: &Found, wants_directory: bool, subject: &Subject<'_>) -> Result<()> {
    match (found.name.bytes(), wants_directory) {
        (b"", true) => return Err(Errno::EBUSY),
        (b".", true) => return Err(Errno::EINVAL),
        (b"..", true) => return Err(Errno::ENOTEMPTY),
        (b"" | b"." | b"..", false) => return Err(Errno::EISDIR),
        _ => {}
    }
    found.check_name()?;
    if found.parent.is_stored() {
        found.check_writable()?;
    }
    let inode = found.inode.as_ref().ok_or(Errno::ENOENT)?;
    let metadata = inode.metadata()?;
    if found.slash && !wants_directory {
        return Err(if is_directory(&metadata) { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    if !found.parent.is_stored() {
        return Err(found.parent.refuses_change());
    }
    may_remove(&found.parent, &metadata, subject)?;
    match (wants_directory, is_directory(&metadata)) {
        (true, false) => return Err(Errno::ENOTDIR),
        (false, true) => return Err(Errno::EISDIR),
        _ => {}
    }
    if !inode.is_stored() || found.is_mount_point() {
        return Err(Errno::EBUSY);
    }
    if let Inode::Volume(directory) = &found.parent {
        return ninep::remove(directory, found, wants_directory);
    }
    let file_system = found.parent.file_system().ok_or(Errno::EROFS)?;
    let parent = changeable(&found.parent)?;
    let node = inode.node()?;
    let _tree = file_system.tree.lock();
    still_there(&parent, found.name.bytes(), inode)?;
    if wants_directory {
        vacate(&node)?;
    }
    parent.directory()?.lock().remove(found.name.bytes())?;
    parent.touch();
    lose_name(&node, &parent, wants_directory);
    if !wants_directory {
        inotify::links_changed(inode);
    }
    inotify::lost_last_name(inode, &node, 2);
    inotify::deleted(&found.parent, found.name.bytes(), wants_directory);
    Ok(())
}

/// Between the walk and the lock, someone may have been quicker.
fn still_there(parent: &Arc<Node>, name: &[u8], inode: &Inode) -> Result<()> {
    let directory = parent.directory()?.lock();
    if directory.lookup(parent.file_system(), name)?.0.is(inode) {
        Ok(())
    } else {
        Err(Errno::ENOENT)
    }
}

/// Closes an empty directory for new names.
fn vacate(node: &Arc<Node>) -> Result<()> {
    let mut directory = node.directory()?.lock();
    if !directory.is_empty()? {
        return Err(Errno::ENOTEMPTY);
    }
    directory.removed = true;
    Ok(())
}

fn lose_name(node: &Arc<Node>, parent: &Arc<Node>, was_directory: bool) {
    if was_directory {
        node.change(|attributes| attributes.links = 0);
        parent.change(|attributes| attributes.links = attributes.links.saturating_sub(1));
    } else {
        let mut left = 0;
        node.change(|attributes| {
            attributes.links = attributes.links.saturating_sub(1);
            left = attributes.links;
        });
        if left > 0 {
            node.file_system().usage.release_link();
        }
    }
}

/// What `renameat2(2)` may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// An existing file of the new name is replaced.
    Replace,
    /// It must not exist.
    New,
    /// The two files exchange their names.
    Exchange,
}

/// `renameat2(2)`.
///
/// # Errors
/// As the man page says.
pub fn rename(old: &Found, new: &Found, how: Rename, subject: &Subject<'_>) -> Result<()> {
    if !is_same_mount(old.mount.as_ref(), new.mount.as_ref()) {
        return Err(Errno::EXDEV);
    }
    if !old.parent.is_stored() {
        return Err(old.parent.refuses_change());
    }
    if old.name.is_special() {
        return Err(Errno::EBUSY);
    }
    if new.name.is_special() {
        return Err(if how == Rename::New { Errno::EEXIST } else { Errno::EBUSY });
    }
    old.check_writable()?;
    old.check_name()?;
    let file = old.inode.as_ref().ok_or(Errno::ENOENT)?;
    new.check_name()?;
    match (&new.inode, how) {
        (Some(_), Rename::New) => return Err(Errno::EEXIST),
        (None, Rename::Exchange) => return Err(Errno::ENOENT),
        _ => {}
    }
    let metadata = file.metadata()?;
    let moves_directory = is_directory(&metadata);
    let new_slash = new.slash && how != Rename::Exchange;
    if !moves_directory && (old.slash || new_slash) {
        return Err(Errno::ENOTDIR);
    }
    if how == Rename::Exchange
        && new.slash
        && !new.inode.as_ref().ok_or(Errno::ENOENT)?.is_directory()?
    {
        return Err(Errno::ENOTDIR);
    }
    if let (Inode::Volume(from), Inode::Volume(to)) = (&old.parent, &new.parent) {
        may_remove(&old.parent, &metadata, subject)?;
        match &new.inode {
            None => may_change(&new.parent, subject)?,
            Some(victim) => may_remove(&new.parent, &victim.metadata()?, subject)?,
        }
        if old.is_mount_point() || new.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        return ninep::rename(from, to, old, new, how);
    }
    let file_system = match (old.parent.file_system(), new.parent.file_system()) {
        (Some(a), Some(b)) if core::ptr::eq(a, b) => a,
        _ => return Err(Errno::EXDEV),
    };
    let old_parent = changeable(&old.parent)?;
    let new_parent = changeable(&new.parent)?;
    let _tree = file_system.tree.lock();
    if moves_directory && is_above(file, &new.parent)? {
        return Err(Errno::EINVAL);
    }
    let victim = match &new.inode {
        Some(victim) => Some((victim, victim.metadata()?)),
        None => None,
    };
    if let Some((victim, victim_metadata)) = &victim {
        if is_directory(victim_metadata) && is_above(victim, &old.parent)? {
            return Err(if how == Rename::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if victim.is(file) {
            return Ok(());
        }
    }
    may_remove(&old.parent, &metadata, subject)?;
    match &victim {
        None => may_change(&new.parent, subject)?,
        Some((_, victim)) => {
            may_remove(&new.parent, victim, subject)?;
            match (moves_directory, is_directory(victim)) {
                _ if how == Rename::Exchange => {}
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
    }
    let same_parent = old.parent.is(&new.parent);
    if !same_parent && moves_directory {
        subject.check(file, WRITE)?;
    }
    // A mount point cannot be moved or replaced.
    if file.file_system().is_none()
        || old.is_mount_point()
        || new.is_mount_point()
        || victim.as_ref().is_some_and(|(inode, _)| inode.file_system().is_none())
    {
        return Err(Errno::EBUSY);
    }
    still_there(&old_parent, old.name.bytes(), file)?;
    if new_parent.directory()?.lock().removed {
        return Err(Errno::ENOENT);
    }
    let (mut exchanged, mut replaced) = (None, None);
    if how == Rename::Exchange {
        let (other, other_metadata) = victim.ok_or(Errno::ENOENT)?;
        still_there(&new_parent, new.name.bytes(), other)?;
        exchanged = Some((other, is_directory(&other_metadata)));
        new_parent.directory()?.lock().replace(new.name.bytes(), file.clone())?;
        old_parent.directory()?.lock().replace(old.name.bytes(), other.clone())?;
        if !same_parent {
            move_directory(file, moves_directory, &old_parent, &new_parent, &new.parent)?;
            let other_is_directory = is_directory(&other_metadata);
            move_directory(other, other_is_directory, &new_parent, &old_parent, &old.parent)?;
        }
    } else {
        if let Some((victim, victim_metadata)) = victim {
            still_there(&new_parent, new.name.bytes(), victim)?;
            let node = victim.node()?;
            if is_directory(&victim_metadata) {
                vacate(&node)?;
            }
            new_parent.directory()?.lock().replace(new.name.bytes(), file.clone())?;
            lose_name(&node, &new_parent, is_directory(&victim_metadata));
            replaced = Some((victim, node));
        } else {
            let mut directory = new_parent.directory()?.lock();
            if directory.has_added(new.name.bytes()) {
                return Err(Errno::EEXIST);
            }
            directory.insert(new.name.bytes(), file.clone())?;
        }
        // The new name is there before the old one goes: a file is never without a name.
        old_parent.directory()?.lock().remove(old.name.bytes())?;
        if !same_parent {
            move_directory(file, moves_directory, &old_parent, &new_parent, &new.parent)?;
        }
    }
    old_parent.touch();
    new_parent.touch();
    file.node()?.change(|_| {});
    let places = ((&old.parent, old.name.bytes()), (&new.parent, new.name.bytes()));
    let victim = replaced.as_ref().map(|&(victim, _)| victim);
    inotify::renamed(file, moves_directory, places.0, places.1, victim);
    if let Some((other, is_directory)) = exchanged {
        inotify::renamed(other, is_directory, places.1, places.0, None);
    }
    if let Some((victim, node)) = &replaced {
        inotify::lost_last_name(victim, node, 2);
    }
    Ok(())
}

/// Tells a directory where it is now.
fn move_directory(
    inode: &Inode,
    is_directory: bool,
    from: &Arc<Node>,
    to: &Arc<Node>,
    parent: &Inode,
) -> Result<()> {
    if is_directory {
        inode.node()?.directory()?.lock().parent = Some(parent.clone());
        from.change(|attributes| attributes.links = attributes.links.saturating_sub(1));
        to.change(|attributes| attributes.links += 1);
    }
    Ok(())
}

/// Whether `upper` is `directory` or one of those that it is in.
fn is_above(upper: &Inode, directory: &Inode) -> Result<bool> {
    let mut current = directory.clone();
    for _ in 0..MAX_DEPTH {
        if current.is(upper) {
            return Ok(true);
        }
        let parent = current.parent()?;
        if parent.is(&current) {
            return Ok(false);
        }
        current = parent;
    }
    Err(Errno::ELOOP)
}
