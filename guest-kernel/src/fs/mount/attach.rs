//! Changing the tree of mounts: mount(2), umount2(2), pivot_root(2).
//!
//! Whoever calls has made sure that the caller may do this. What is dropped is dropped when no lock is
//! held any more: with the last mount of a tmpfs, all its files go.

use super::super::inode::Inode;
use super::super::path::{Found, name_in, path_of};
use super::options::Tmpfs;
use super::superblock::{Superblock, check_options};
use super::volumes;
use super::{
    Links, Location, MAX_MOUNTS, Mount, NO_DEVICES, NO_EXECUTE, NO_SUID, Namespace, OWN_FLAGS,
    Point, READ_ONLY, TREE, bit_of,
};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    MNT_DETACH, MNT_EXPIRE, MNT_FORCE, MS_PRIVATE, MS_REC, MS_SHARED, MS_SILENT, MS_SLAVE,
    MS_UNBINDABLE,
};

/// Deeper than any path can reach.
const MAX_DEPTH: u32 = 1 << 20;

/// A place for a mount.
struct Target {
    location: Location,
    parent: Inode,
    name: Vec<u8>,
}

impl Target {
    /// The topmost of what is seen at a place that a walk has found.
    fn new(found: Found) -> Result<Self> {
        let parent = found.parent.clone();
        let name = found.name.clone();
        let location = found.location()?.enter();
        if location.is_mount_root() {
            // Its path is that of the mount below.
            return Ok(Self { parent: location.inode.clone(), name: Vec::new(), location });
        }
        if location.inode.is_directory()? {
            let parent = location.inode.parent()?;
            let name = name_in(&parent, &location.inode)?.ok_or(Errno::ENOENT)?;
            return Ok(Self { location, parent, name });
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(name.bytes().len()).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(name.bytes());
        Ok(Self { location, parent, name: bytes })
    }
}

impl Links {
    /// The bits of all files that something is mounted on.
    fn covered(&self) -> u64 {
        self.down.iter().fold(0, |bits, (at, _)| bits | bit_of(at.number()))
    }
}

/// Mounts a file system on a place. The tree is locked.
fn attach(mount: &Arc<Mount>, target: &Target) -> Result<()> {
    let Location { mount: below, inode } = &target.location;
    let mut links = below.links.lock();
    if links.down.iter().any(|(at, _)| at.is(inode)) {
        // Someone else was quicker, and the place is not what is seen any more.
        return Err(Errno::EBUSY);
    }
    links.down.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    links.down.push((inode.clone(), mount.clone()));
    below.covered.store(links.covered(), Ordering::Release);
    drop(links);
    let point = Point {
        mount: Arc::downgrade(below),
        inode: inode.clone(),
        parent: target.parent.clone(),
        name: target.name.clone(),
    };
    mount.links.lock().up = Some(point);
    Ok(())
}

/// What a mount leaves behind when it is taken out of the tree; to be dropped without a lock.
type Rest = (Option<Point>, Option<(Inode, Arc<Mount>)>);

/// Takes a mount out of the tree, which is locked. With `held`, only if there are no more references to
/// it than so many.
fn detach(mount: &Arc<Mount>, held: Option<usize>) -> Result<Rest> {
    let Some(above) = mount.above() else { return Ok((None, None)) };
    let mut links = above.links.lock();
    // Nobody finds the way in as long as this is locked.
    if held.is_some_and(|held| Arc::strong_count(mount) > held) {
        return Err(Errno::EBUSY);
    }
    let at = links.down.iter().position(|(_, other)| Arc::ptr_eq(other, mount));
    let entry = at.map(|at| links.down.swap_remove(at));
    above.covered.store(links.covered(), Ordering::Release);
    drop(links);
    let point = mount.links.lock().up.take();
    Ok((point, entry))
}

/// A mount and all that are mounted in it, those above before those in them.
pub(super) fn subtree(top: &Arc<Mount>) -> Result<Vec<Arc<Mount>>> {
    let mut all = Vec::new();
    all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    all.push(top.clone());
    let mut at = 0;
    while let Some(mount) = all.get(at).cloned() {
        let links = mount.links.lock();
        all.try_reserve(links.down.len()).map_err(|_| Errno::ENOMEM)?;
        all.extend(links.down.iter().map(|(_, mount)| mount.clone()));
        at += 1;
    }
    Ok(all)
}

/// Whether `lower` is `upper`, or in it, or in something that is mounted in it.
fn is_reachable(lower: &Location, upper: &Location) -> Result<bool> {
    let mut current = lower.clone();
    while !Arc::ptr_eq(&current.mount, &upper.mount) {
        let Some((above, _)) = current.mount.named_point() else { return Ok(false) };
        let point = current.mount.point().ok_or(Errno::EINVAL)?;
        // From a file that is a mount point there is no way up but by its directory.
        current = if point.is(upper) || point.inode.is_directory()? { point } else { above };
    }
    for _ in 0..MAX_DEPTH {
        if current.inode.is(&upper.inode) {
            return Ok(true);
        }
        if current.is_mount_root() || !current.inode.is_directory()? {
            return Ok(false);
        }
        current.inode = current.inode.parent()?;
    }
    Err(Errno::ELOOP)
}

/// Puts a file system where it always is.
fn attach_at(
    namespace: &Namespace,
    superblock: &Arc<Superblock>,
    source: &[u8],
    flags: u32,
    parent: &Location,
    name: &[u8],
) -> Result<Location> {
    let top = (superblock.root().clone(), Vec::from(b"/"));
    let mount = Mount::detached(superblock.clone(), top, Vec::from(source), flags);
    let location = Location { inode: parent.inode.lookup(name)?, mount: parent.mount.clone() };
    let target = Target { location, parent: parent.inode.clone(), name: Vec::from(name) };
    attach(&mount, &target)?;
    namespace.count.fetch_add(1, Ordering::Relaxed);
    Ok(Location { inode: superblock.root().clone(), mount })
}

/// Mounts what every program expects to be there.
pub(super) fn attach_builtin(namespace: &Namespace, root: &Location) -> Result<()> {
    let builtin = &namespace.builtin;
    let constant = READ_ONLY | NO_SUID | NO_EXECUTE;
    let devices = attach_at(namespace, &builtin.devices, b"devtmpfs", constant, root, b"dev")?;
    let flags = NO_SUID | NO_EXECUTE;
    attach_at(namespace, &builtin.terminals, b"devpts", flags, &devices, b"pts")?;
    let flags = NO_SUID | NO_DEVICES;
    let memory = Arc::new(Superblock::tmpfs(Tmpfs::new(0, 0))?);
    attach_at(namespace, &memory, b"tmpfs", flags, &devices, b"shm")?;
    let flags = NO_SUID | NO_DEVICES | NO_EXECUTE;
    attach_at(namespace, &builtin.processes, b"proc", flags, root, b"proc")?;
    attach_at(namespace, &builtin.system, b"sysfs", flags | READ_ONLY, root, b"sys")?;
    Ok(())
}

/// Whether so many more mounts may be made.
fn check_room(namespace: &Namespace, more: usize) -> Result<()> {
    let more = u32::try_from(more).map_err(|_| Errno::ENOSPC)?;
    let sum = namespace.count.load(Ordering::Relaxed).checked_add(more);
    if sum.is_some_and(|sum| sum <= MAX_MOUNTS) { Ok(()) } else { Err(Errno::ENOSPC) }
}

/// What `mount(2)` shall make.
pub struct New<'a> {
    /// Type of the file system.
    pub kind: &'a [u8],
    /// What it is mounted from.
    pub source: Vec<u8>,
    /// `MS_*` flags.
    pub flags: u32,
    /// Options of the file system.
    pub options: &'a [u8],
    /// Who mounts it.
    pub owner: (u32, u32),
}

/// Mounts a file system.
///
/// # Errors
/// ENODEV for a type that there is not, EINVAL for wrong options, EBUSY if it is already mounted there,
/// or a volume anywhere, EACCES if it could only be read-only, ENOTDIR, ENOSPC, ENOMEM.
pub fn new(namespace: &Namespace, found: Found, new: New<'_>) -> Result<()> {
    let superblock = if new.kind == b"tmpfs" {
        let mut options = Tmpfs::new(new.owner.0, new.owner.1);
        options.parse(new.options, true)?;
        let superblock = Superblock::tmpfs(options)?;
        superblock.set_read_only(new.flags & READ_ONLY != 0);
        Arc::new(superblock)
    } else if new.kind == b"9p" {
        let superblock = volumes::find(&new.source, new.options)?;
        superblock.allow_changes(new.flags & READ_ONLY != 0)?;
        superblock
    } else {
        let superblock = namespace.builtin.find(new.kind).ok_or(Errno::ENODEV)?;
        if let super::Kind::Synthetic(tree) = superblock.kind() {
            check_options(*tree, new.options)?;
        }
        superblock.clone()
    };
    let target = Target::new(found)?;
    let top = (superblock.root().clone(), Vec::from(b"/"));
    let mount = Mount::detached(superblock, top, new.source, new.flags);
    let _tree = TREE.lock();
    let location = &target.location;
    if !namespace.has(&location.mount) {
        return Err(Errno::EINVAL);
    }
    if location.is_mount_root()
        && Arc::ptr_eq(&location.mount.superblock, &mount.superblock)
        && location.inode.is(&mount.root)
    {
        return Err(Errno::EBUSY);
    }
    check_room(namespace, 1)?;
    if !location.inode.is_directory()? {
        return Err(Errno::ENOTDIR);
    }
    attach(&mount, &target)?;
    namespace.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A second mount of the same, with another root.
fn copy(mount: &Mount, root: (Inode, Vec<u8>)) -> Arc<Mount> {
    let copy = Mount::detached(mount.superblock.clone(), root, mount.source.clone(), mount.flags());
    copy.unbindable.store(mount.unbindable.load(Ordering::Relaxed), Ordering::Relaxed);
    copy
}

/// Where a file is in its file system.
fn path_in_file_system(file: &Target) -> Result<Vec<u8>> {
    let mount = &file.location.mount;
    let mut path = mount.root_path.clone();
    if file.location.is_mount_root() {
        return Ok(path);
    }
    let top = Location { mount: mount.clone(), inode: mount.root.clone() };
    let parent = Location { mount: mount.clone(), inode: file.parent.clone() };
    let inner = path_of(&top, &parent)?.ok_or(Errno::EINVAL)?;
    path.try_reserve(inner.len() + file.name.len() + 2).map_err(|_| Errno::ENOMEM)?;
    for part in [inner.as_slice(), b"/", &file.name] {
        let part =
            if path.last() == Some(&b'/') { part.strip_prefix(b"/").unwrap_or(part) } else { part };
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// MS_BIND: shows a file or directory at another place, too; with `deep`, also what is mounted in it.
///
/// # Errors
/// EINVAL, ENOTDIR if one is a directory and the other is not, ENOSPC, ENOMEM.
pub fn bind(namespace: &Namespace, source: Found, found: Found, deep: bool) -> Result<()> {
    let source = Target::new(source)?;
    let source_path = path_in_file_system(&source)?;
    let source = source.location;
    let target = Target::new(found)?;
    // What is made is dropped, if it cannot be attached, after the lock.
    let mut copies: Vec<(Arc<Mount>, Arc<Mount>)> = Vec::new();
    let _tree = TREE.lock();
    if !namespace.has(&target.location.mount)
        || !namespace.has(&source.mount)
        || source.mount.unbindable.load(Ordering::Relaxed)
    {
        return Err(Errno::EINVAL);
    }
    if source.inode.is_directory()? != target.location.inode.is_directory()? {
        return Err(Errno::ENOTDIR);
    }
    if source.inode.is_removed_directory()? || target.location.inode.is_removed_directory()? {
        return Err(Errno::ENOENT);
    }
    let all = if deep { subtree(&source.mount)? } else { Vec::new() };
    copies.try_reserve(all.len().max(1)).map_err(|_| Errno::ENOMEM)?;
    let top = copy(&source.mount, (source.inode.clone(), source_path));
    copies.push((source.mount.clone(), top.clone()));
    for mount in all.iter().skip(1) {
        let Some(point) = mount.links.lock().up.clone() else { continue };
        let Some(above) = point.mount.upgrade() else { continue };
        let Some((_, above_copy)) = copies.iter().find(|(old, _)| Arc::ptr_eq(old, &above)) else {
            continue;
        };
        let location = Location { mount: above.clone(), inode: point.inode.clone() };
        if mount.unbindable.load(Ordering::Relaxed)
            || (Arc::ptr_eq(&above, &source.mount) && !is_reachable(&location, &source)?)
        {
            continue;
        }
        let made = copy(mount, (mount.root.clone(), mount.root_path.clone()));
        let location = Location { mount: above_copy.clone(), inode: point.inode };
        attach(&made, &Target { location, parent: point.parent, name: point.name })?;
        copies.push((mount.clone(), made));
    }
    check_room(namespace, copies.len())?;
    attach(&top, &target)?;
    let count = u32::try_from(copies.len()).unwrap_or(u32::MAX);
    namespace.count.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

/// Whether a location is where a mount of this tree begins, as most changes want it.
fn check_mount_root(namespace: &Namespace, location: &Location) -> Result<()> {
    if namespace.has(&location.mount) && location.is_mount_root() {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// MS_REMOUNT | MS_BIND: changes the flags of one mount.
///
/// # Errors
/// EINVAL if it is no mount point, EBUSY if it cannot be read-only as files are open for writing.
pub fn reconfigure(namespace: &Namespace, location: &Location, flags: u32) -> Result<()> {
    let _tree = TREE.lock();
    check_mount_root(namespace, location)?;
    set_flags(&location.mount, flags)
}

fn set_flags(mount: &Mount, flags: u32) -> Result<()> {
    let becomes_read_only = flags & READ_ONLY != 0 && !mount.has(READ_ONLY);
    if becomes_read_only && mount.writers.load(Ordering::Relaxed) > 0 {
        return Err(Errno::EBUSY);
    }
    mount.flags.store(flags & OWN_FLAGS, Ordering::Relaxed);
    Ok(())
}

/// MS_REMOUNT: changes the options of a file system, and the flags of one of its mounts.
///
/// # Errors
/// EINVAL, EBUSY as for [`reconfigure`].
pub fn remount(
    namespace: &Namespace,
    location: &Location,
    flags: u32,
    options: &[u8],
) -> Result<()> {
    let _tree = TREE.lock();
    check_mount_root(namespace, location)?;
    let superblock = &location.mount.superblock;
    let read_only = flags & READ_ONLY != 0;
    if read_only && !superblock.is_read_only() {
        let is_written = |mount: &Arc<Mount>| {
            Arc::ptr_eq(&mount.superblock, superblock) && mount.writers.load(Ordering::Relaxed) > 0
        };
        if subtree(&namespace.root())?.iter().any(is_written) {
            return Err(Errno::EBUSY);
        }
    }
    superblock.change(options)?;
    superblock.allow_changes(read_only)?;
    set_flags(&location.mount, flags)
}

/// MS_MOVE: puts a mount, with all that is mounted in it, in another place.
///
/// # Errors
/// EINVAL if it is no mount point or of another kind than the place, ELOOP if the place is in it.
pub fn move_to(namespace: &Namespace, source: &Location, found: Found) -> Result<()> {
    let target = Target::new(found)?;
    let rest;
    let _tree = TREE.lock();
    check_mount_root(namespace, source)?;
    let there = &target.location;
    if !namespace.has(&there.mount)
        || source.mount.above().is_none()
        || source.inode.is_directory()? != there.inode.is_directory()?
    {
        return Err(Errno::EINVAL);
    }
    let mut above = Some(there.mount.clone());
    while let Some(mount) = above {
        if Arc::ptr_eq(&mount, &source.mount) {
            return Err(Errno::ELOOP);
        }
        above = mount.above();
    }
    rest = detach(&source.mount, None)?;
    let attached = attach(&source.mount, &target);
    drop(_tree);
    drop(rest);
    attached
}

/// MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE. All mounts are private, and a private mount that shall be a slave
/// has no master.
///
/// # Errors
/// EINVAL if it is no mount point, or for MS_SHARED: mounts do not spread to others.
pub fn change_propagation(namespace: &Namespace, location: &Location, flags: u32) -> Result<()> {
    let kind = flags & !(MS_REC | MS_SILENT);
    if !matches!(kind, MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE | MS_SHARED) {
        return Err(Errno::EINVAL);
    }
    let _tree = TREE.lock();
    check_mount_root(namespace, location)?;
    if kind == MS_SHARED {
        return Err(Errno::EINVAL);
    }
    let mounts = if flags & MS_REC != 0 {
        subtree(&location.mount)?
    } else {
        alloc::vec![location.mount.clone()]
    };
    for mount in mounts {
        // A slave without a master stays what it is.
        if kind != MS_SLAVE {
            mount.unbindable.store(kind == MS_UNBINDABLE, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// `umount2(2)`: takes away what is seen at a place. `root` is what `/` means to the caller.
///
/// # Errors
/// EINVAL if nothing is mounted there, EBUSY if it is in use, EAGAIN for MNT_EXPIRE the first time.
pub fn unmount(
    namespace: &Namespace,
    location: Location,
    root: &Location,
    flags: u32,
) -> Result<()> {
    let location = location.enter();
    let mut rests: Vec<Rest> = Vec::new();
    let tree = TREE.lock();
    check_mount_root(namespace, &location)?;
    let mount = location.mount;
    drop(location.inode);
    let is_root = Arc::ptr_eq(&mount, &root.mount);
    if flags & MNT_EXPIRE != 0 {
        if is_root || flags & (MNT_FORCE | MNT_DETACH) != 0 {
            return Err(Errno::EINVAL);
        }
        if Arc::strong_count(&mount) > 2 {
            return Err(Errno::EBUSY);
        }
        if !mount.expired.swap(true, Ordering::Relaxed) {
            return Err(Errno::EAGAIN);
        }
    }
    if mount.above().is_none() {
        // Nothing would be left.
        return Err(if flags & MNT_DETACH != 0 { Errno::EINVAL } else { Errno::EBUSY });
    }
    if flags & MNT_DETACH == 0 {
        if is_root || !mount.links.lock().down.is_empty() {
            return Err(Errno::EBUSY);
        }
        rests.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        // One reference is the tree's, one is here.
        rests.push(detach(&mount, Some(2))?);
    } else {
        let all = subtree(&mount)?;
        rests.try_reserve(all.len()).map_err(|_| Errno::ENOMEM)?;
        for mount in &all {
            rests.push(detach(mount, None)?);
        }
        drop(tree);
        drop(all);
    }
    let count = u32::try_from(rests.len()).unwrap_or(u32::MAX);
    namespace.count.fetch_sub(count, Ordering::Relaxed);
    Ok(())
}

/// `pivot_root(2)`: `new` becomes the root of the tree, and what was `root` moves to `old`. Returns the
/// two; whoever had the one as its root or working directory shall have the other.
///
/// # Errors
/// EBUSY if one of them is the root, EINVAL if `new` is no mount point, or `old` not in it.
pub fn pivot_root(
    namespace: &Namespace,
    root: &Location,
    new: Location,
    old: Found,
) -> Result<(Location, Location)> {
    let old = Target::new(old)?;
    let new = new.enter();
    let rests;
    let tree = TREE.lock();
    let all = [&root.mount, &new.mount, &old.location.mount];
    if !all.iter().all(|mount| namespace.has(mount)) {
        return Err(Errno::EINVAL);
    }
    if new.inode.is_removed_directory()? || old.location.inode.is_removed_directory()? {
        return Err(Errno::ENOENT);
    }
    if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&old.location.mount, &root.mount) {
        return Err(Errno::EBUSY);
    }
    let above_root = root.mount.links.lock().up.clone();
    if !root.is_mount_root()
        || !new.is_mount_root()
        || new.mount.above().is_none()
        || !is_reachable(&old.location, &new)?
        || !is_reachable(&new, root)?
    {
        return Err(Errno::EINVAL);
    }
    rests = (detach(&new.mount, None)?, detach(&root.mount, None)?);
    match above_root.and_then(|point| Some((point.mount.upgrade()?, point))) {
        Some((mount, point)) => {
            let location = Location { mount, inode: point.inode };
            attach(&new.mount, &Target { location, parent: point.parent, name: point.name })?;
        }
        None => *namespace.root.lock() = new.mount.clone(),
    }
    attach(&root.mount, &old)?;
    drop(tree);
    drop(rests);
    Ok((root.clone(), new))
}
