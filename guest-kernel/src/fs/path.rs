//! From a path to a file (`path_resolution(7)`).

use super::inode::{Inode, Target};
use super::mount::{Location, Mount};
use super::permission::Subject;
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest path, with its NUL.
pub const PATH_MAX: usize = 4096;
/// Longest name.
pub const NAME_MAX: usize = 255;
/// How many symbolic links one resolution may follow.
const MAX_LINKS: u32 = 40;

/// What happens to a symbolic link that the path ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is what is looked for, unless slashes follow it.
    Keep,
    /// It is what is looked for, even then: for calls that make or remove a name.
    Name,
    /// It is followed to where a file shall be made: slashes cannot follow its name.
    Create,
    /// A file shall be made in its place, likewise.
    CreateNew,
}

/// The last component of a path, or what stands for it.
#[derive(Clone, Debug, Default)]
pub struct Name {
    path: Vec<u8>,
    start: usize,
    end: usize,
}

impl Name {
    /// The name; empty for the root and after a jump through /proc.
    pub fn bytes(&self) -> &[u8] {
        &self.path[self.start..self.end]
    }

    /// Whether the name is `.`, `..` or that of the root, which cannot be made, removed or renamed.
    pub fn is_special(&self) -> bool {
        matches!(self.bytes(), b"" | b"." | b"..")
    }
}

/// Where a path leads.
pub struct Found {
    /// The mount of the file; of the directory, if there is no file, or the name is what is looked for.
    /// A stream without a name is in none.
    pub mount: Option<Arc<Mount>>,
    /// The directory that the last component is in.
    pub parent: Inode,
    /// The last component.
    pub name: Name,
    /// The file, if there is one of that name.
    pub inode: Option<Inode>,
    /// Whether slashes followed the last component.
    pub slash: bool,
}

impl Found {
    /// Refuses a name that no file can have.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub fn check_name(&self) -> Result<()> {
        if self.name.bytes().len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
    }

    /// Whether something is mounted on the name that was looked for ([`Last::Name`]).
    pub fn is_mount_point(&self) -> bool {
        match (&self.mount, &self.inode) {
            (Some(mount), Some(inode)) => mount.on(inode).is_some(),
            _ => false,
        }
    }

    /// Whether names may be changed by way of the mount.
    ///
    /// # Errors
    /// EROFS.
    pub fn check_writable(&self) -> Result<()> {
        self.mount.as_ref().map_or(Ok(()), |mount| mount.check_writable())
    }

    /// The file, and the mount by which it was reached.
    ///
    /// # Errors
    /// As for [`Self::existing`]; EINVAL for a stream without a name.
    pub fn location(mut self) -> Result<Location> {
        let mount = self.mount.take();
        let inode = self.existing()?;
        Ok(Location { mount: mount.ok_or(Errno::EINVAL)?, inode })
    }

    /// The file.
    ///
    /// # Errors
    /// ENOENT if there is none, ENOTDIR if slashes follow something that is no directory.
    pub fn existing(self) -> Result<Inode> {
        let inode = self.inode.ok_or(Errno::ENOENT)?;
        if self.slash && !inode.is_directory()? { Err(Errno::ENOTDIR) } else { Ok(inode) }
    }
}

/// Walks along `path`, from `root` if it begins with a slash, else from `start`.
///
/// # Errors
/// ENOENT for an empty path or if anything but the last component is missing, ENOTDIR, ELOOP,
/// ENAMETOOLONG, EACCES, ENOMEM.
pub fn walk(
    root: &Location,
    start: &Location,
    mut path: Vec<u8>,
    last: Last,
    subject: &Subject<'_>,
) -> Result<Found> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let Location { mut mount, inode: mut current } =
        if path[0] == b'/' { root.clone() } else { start.clone() };
    let mut links = 0;
    let mut at = 0;
    let mut must_be_directory = false;
    loop {
        let begin = skip_slashes(&path, at);
        if begin == path.len() {
            // Only slashes: the root. (What follows a component is dealt with below.)
            let name = Name { path, start: begin, end: begin };
            return Ok(Found {
                mount: Some(mount),
                parent: current.clone(),
                name,
                inode: Some(current),
                slash: true,
            });
        }
        let end = path[begin..]
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(path.len(), |len| begin + len);
        at = skip_slashes(&path, end);
        let is_last = at == path.len();
        let slash = end < path.len();
        must_be_directory |= is_last && slash;
        if end - begin > NAME_MAX {
            if !is_last || last != Last::Name {
                return Err(Errno::ENAMETOOLONG);
            }
            // As on Linux, the other path of a call with two may be wrong in a way that counts more.
            if !current.is_directory()? {
                return Err(Errno::ENOTDIR);
            }
            let name = Name { path, start: begin, end };
            return Ok(Found {
                mount: Some(mount),
                parent: current,
                name,
                inode: None,
                slash: must_be_directory,
            });
        }
        subject.check_search(&current)?;
        let makes = matches!(last, Last::Create | Last::CreateNew);
        if makes && is_last && slash && !matches!(&path[begin..end], b"." | b"..") {
            return Err(if current.is_directory()? { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        let found = match &path[begin..end] {
            b"." => {
                if !current.is_directory()? {
                    return Err(Errno::ENOTDIR);
                }
                Ok((current.clone(), false))
            }
            b".." => {
                let here = Location { mount, inode: current.clone() };
                let above = parent_of(here, root)?;
                mount = above.mount;
                Ok((above.inode, false))
            }
            name => current.lookup_kind(name),
        };
        let (inode, is_link) = match found {
            Ok(found) => found,
            Err(Errno::ENOENT) if is_last => {
                let name = Name { path, start: begin, end };
                return Ok(Found {
                    mount: Some(mount),
                    parent: current,
                    name,
                    inode: None,
                    slash: must_be_directory,
                });
            }
            Err(error) => return Err(error),
        };
        let follow = match last {
            _ if !is_last => true,
            Last::Follow | Last::Create => true,
            Last::Keep => slash,
            Last::Name | Last::CreateNew => false,
        };
        let inode =
            if last == Last::Name && is_last || is_link { inode } else { enter(&mut mount, inode) };
        if follow && is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            match inode.target()? {
                Target::Path(target) => {
                    if target.first() == Some(&b'/') {
                        mount = root.mount.clone();
                        current = root.inode.clone();
                    }
                    path = replace_front(target, &path[end..])?;
                    at = 0;
                }
                Target::Open(file) if is_last => {
                    let inode = file.inode().clone();
                    let (parent, name) = file.place().unwrap_or((inode.clone(), Name::default()));
                    return Ok(Found {
                        mount: file.mount().cloned(),
                        parent,
                        name,
                        inode: Some(inode),
                        slash: must_be_directory,
                    });
                }
                Target::File(Location { mount, inode }) if is_last => {
                    let name = Name { path, start: end, end };
                    let slash = must_be_directory;
                    let mount = Some(mount);
                    return Ok(Found {
                        mount,
                        parent: inode.clone(),
                        name,
                        inode: Some(inode),
                        slash,
                    });
                }
                Target::File(location) => {
                    mount = location.mount;
                    current = location.inode;
                }
                Target::Open(file) => {
                    // Nothing can be in a stream.
                    mount = file.mount().cloned().ok_or(Errno::ENOTDIR)?;
                    current = file.inode().clone();
                }
            }
            continue;
        }
        if is_last {
            let name = Name { path, start: begin, end };
            return Ok(Found {
                mount: Some(mount),
                parent: current,
                name,
                inode: Some(inode),
                slash: must_be_directory,
            });
        }
        current = inode;
    }
}

/// Goes on to what is mounted on a file.
#[inline]
fn enter(mount: &mut Arc<Mount>, mut inode: Inode) -> Inode {
    while let Some(above) = mount.on(&inode) {
        inode = above.root().clone();
        *mount = above;
    }
    inode
}

/// Where `..` leads: out of mounts, but not out of `root`.
fn parent_of(mut here: Location, root: &Location) -> Result<Location> {
    while !here.is(root) {
        if !here.is_mount_root() {
            here.inode = here.inode.parent()?;
            break;
        }
        let Some(point) = here.mount.point() else { break };
        here = point;
    }
    Ok(here)
}

fn skip_slashes(path: &[u8], mut at: usize) -> usize {
    while path.get(at) == Some(&b'/') {
        at += 1;
    }
    at
}

/// The target of a link, followed by the rest of the path with its slashes.
fn replace_front(mut target: Vec<u8>, rest: &[u8]) -> Result<Vec<u8>> {
    target.try_reserve(rest.len()).map_err(|_| Errno::ENOMEM)?;
    target.extend_from_slice(rest);
    Ok(target)
}

/// The absolute path below `root` of a directory, or of the file that a mount shows; `None` if it was
/// removed or lies elsewhere.
///
/// # Errors
/// ENAMETOOLONG if it does not fit [`PATH_MAX`], EUCLEAN.
pub fn path_of(root: &Location, file: &Location) -> Result<Option<Vec<u8>>> {
    // Filled from the end, as the walk goes upwards.
    let mut reversed = Vec::new();
    let mut current = file.clone();
    while !current.is(root) {
        let (parent, name) = if current.is_mount_root() {
            let Some(point) = current.mount.point() else { return Ok(None) };
            if point.is(root) || point.is_mount_root() {
                // One mount on another: the path is that of the lower one.
                current = point;
                continue;
            }
            let Some(named) = current.mount.named_point() else { return Ok(None) };
            named
        } else {
            let parent = current.inode.parent()?;
            if parent.is(&current.inode) {
                return Ok(None);
            }
            let Some(name) = name_in(&parent, &current.inode)? else { return Ok(None) };
            (Location { mount: current.mount, inode: parent }, name)
        };
        if reversed.len() + name.len() + 1 >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        reversed.try_reserve(name.len() + 1).map_err(|_| Errno::ENOMEM)?;
        reversed.extend(name.iter().rev());
        reversed.push(b'/');
        current = parent;
    }
    if reversed.is_empty() {
        reversed.push(b'/');
    }
    reversed.reverse();
    Ok(Some(reversed))
}

/// The name that a directory gives to a file.
///
/// # Errors
/// EUCLEAN.
pub(super) fn name_in(parent: &Inode, child: &Inode) -> Result<Option<Vec<u8>>> {
    if let Inode::Synthetic(node) = child
        && let Some(name) = node.mount_name()
    {
        return Ok(Some(Vec::from(name)));
    }
    let number = child.number();
    // What a table makes up may have the numbers of something else.
    let is_made_up = matches!(parent, Inode::Synthetic(_));
    let mut found = None;
    parent.list(0, &mut |listed, _| {
        let is_child = if is_made_up {
            parent.lookup(listed.name).is_ok_and(|inode| inode.is(child))
        } else {
            listed.number == number
        };
        if is_child {
            found = Some(Vec::from(listed.name));
        }
        found.is_none()
    })?;
    Ok(found)
}
