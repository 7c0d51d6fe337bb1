//! From a path to a file (`path_resolution(7)`).

use super::inode::{Inode, Target};
use super::permission::Subject;
use crate::errno::{Errno, Result};
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
    root: &Inode,
    start: &Inode,
    mut path: Vec<u8>,
    last: Last,
    subject: &Subject<'_>,
) -> Result<Found> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut current = if path[0] == b'/' { root.clone() } else { start.clone() };
    let mut links = 0;
    let mut at = 0;
    let mut must_be_directory = false;
    loop {
        let begin = skip_slashes(&path, at);
        if begin == path.len() {
            // Only slashes: the root. (What follows a component is dealt with below.)
            let name = Name { path, start: begin, end: begin };
            return Ok(Found { parent: current.clone(), name, inode: Some(current), slash: true });
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
            return Ok(Found { parent: current, name, inode: None, slash: must_be_directory });
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
            b".." if current.is(root) => Ok((current.clone(), false)),
            b".." => current.parent().map(|parent| (parent, false)),
            name => current.lookup_kind(name),
        };
        let (inode, is_link) = match found {
            Ok(found) => found,
            Err(Errno::ENOENT) if is_last => {
                let name = Name { path, start: begin, end };
                return Ok(Found { parent: current, name, inode: None, slash: must_be_directory });
            }
            Err(error) => return Err(error),
        };
        let follow = match last {
            _ if !is_last => true,
            Last::Follow | Last::Create => true,
            Last::Keep => slash,
            Last::Name | Last::CreateNew => false,
        };
        if follow && is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            match inode.target()? {
                Target::Path(target) => {
                    if target.first() == Some(&b'/') {
                        current = root.clone();
                    }
                    path = replace_front(target, &path[end..])?;
                    at = 0;
                }
                Target::Open(file) if is_last => {
                    let inode = file.inode().clone();
                    let (parent, name) = file.place().unwrap_or((inode.clone(), Name::default()));
                    return Ok(Found {
                        parent,
                        name,
                        inode: Some(inode),
                        slash: must_be_directory,
                    });
                }
                Target::File(inode) if is_last => {
                    let name = Name { path, start: end, end };
                    let slash = must_be_directory;
                    return Ok(Found { parent: inode.clone(), name, inode: Some(inode), slash });
                }
                Target::File(inode) => current = inode,
                Target::Open(file) => current = file.inode().clone(),
            }
            continue;
        }
        if is_last {
            let name = Name { path, start: begin, end };
            return Ok(Found {
                parent: current,
                name,
                inode: Some(inode),
                slash: must_be_directory,
            });
        }
        current = inode;
    }
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

/// The absolute path of a directory below `root`, or `None` if it was removed or lies elsewhere.
///
/// # Errors
/// ENAMETOOLONG if it does not fit [`PATH_MAX`], EUCLEAN.
pub fn path_of(root: &Inode, directory: &Inode) -> Result<Option<Vec<u8>>> {
    // Filled from the end, as the walk goes upwards.
    let mut reversed = Vec::new();
    let mut current = directory.clone();
    while !current.is(root) {
        let parent = current.parent()?;
        if parent.is(&current) {
            return Ok(None);
        }
        let Some(name) = name_in(&parent, &current)? else { return Ok(None) };
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
    // /dev/shm is a directory in memory, whose number its table cannot hold.
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
