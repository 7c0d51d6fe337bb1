//! Content of a directory in memory, or of one of the image that was changed.
//!
//! A changed directory of the image holds only the difference: names that were added, and marks
//! ("whiteouts") over names of the image that are gone.

use crate::errno::{Errno, Result};
use crate::fs::erofs::{self, Image};
use crate::fs::inode::Inode;
use crate::fs::root::FileSystem;
use crate::fs::usage::Usage;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Bound;

/// Positions from here on are of names in memory; those below are the image's.
const FIRST_POSITION: u64 = 1 << 60;

enum Entry {
    /// A file, where `getdents64` finds the name, and whether the image has a file of this name,
    /// too, which must not appear when this one goes.
    File(Inode, u64, bool),
    /// The image's file of this name is gone.
    Whiteout,
}

/// Names and what they stand for.
pub struct Directory {
    names: BTreeMap<Arc<[u8]>, Entry>,
    /// The names that are files, in the order in which they were made: a listing goes on where it
    /// stopped, whatever was added and removed in between.
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    lower: Option<(Image, erofs::Inode)>,
    usage: &'static Usage,
    /// The directory above; `None` where the image says it.
    pub parent: Option<Inode>,
    /// Set by rmdir: nothing can be made in it any more.
    pub removed: bool,
}

/// An entry as `getdents64` lists it.
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub number: u64,
    /// `d_type`.
    pub kind: u8,
}

impl Directory {
    /// An empty directory; without a parent it is a root.
    pub const fn new(usage: &'static Usage, parent: Option<Inode>) -> Self {
        Self::with(usage, None, parent)
    }

    /// A directory with the names of one of the image.
    pub const fn over(usage: &'static Usage, image: Image, inode: erofs::Inode) -> Self {
        Self::with(usage, Some((image, inode)), None)
    }

    const fn with(
        usage: &'static Usage,
        lower: Option<(Image, erofs::Inode)>,
        parent: Option<Inode>,
    ) -> Self {
        Self {
            names: BTreeMap::new(),
            order: BTreeMap::new(),
            next: FIRST_POSITION,
            lower,
            usage,
            parent,
            removed: false,
        }
    }

    /// Finds a name, and whether it is a symbolic link's.
    ///
    /// # Errors
    /// ENOENT, EUCLEAN.
    pub fn lookup(&self, file_system: &'static FileSystem, name: &[u8]) -> Result<(Inode, bool)> {
        match self.names.get(name) {
            Some(Entry::File(inode, ..)) => Ok((inode.clone(), inode.is_link()?)),
            Some(Entry::Whiteout) => Err(Errno::ENOENT),
            None => {
                let (image, inode) = self.lower.as_ref().ok_or(Errno::ENOENT)?;
                let entry = inode.find(image, name)?;
                Ok((Inode::Image(file_system, entry.number), entry.is_link()))
            }
        }
    }

    /// Whether a name was added that was not there before: what the image has does not change.
    pub fn has_added(&self, name: &[u8]) -> bool {
        matches!(self.names.get(name), Some(Entry::File(..)))
    }

    /// Gives a name that does not exist to a file.
    ///
    /// # Errors
    /// ENOSPC, ENAMETOOLONG.
    pub fn insert(&mut self, name: &[u8], inode: Inode) -> Result<()> {
        let covers = matches!(self.names.get(name), Some(Entry::Whiteout));
        self.add(name, inode, covers)
    }

    fn add(&mut self, name: &[u8], inode: Inode, covers: bool) -> Result<()> {
        let name = shared_name(name)?;
        self.usage.charge_name()?;
        let position = self.next;
        self.next += 1;
        self.order.insert(position, name.clone());
        self.names.insert(name, Entry::File(inode, position, covers));
        Ok(())
    }

    /// Lets an existing name stand for another file.
    ///
    /// # Errors
    /// ENOSPC, ENAMETOOLONG.
    pub fn replace(&mut self, name: &[u8], inode: Inode) -> Result<()> {
        if let Some(Entry::File(old, ..)) = self.names.get_mut(name) {
            *old = inode;
            return Ok(());
        }
        // The name is the image's.
        self.add(name, inode, true)
    }

    /// Removes a name that exists.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub fn remove(&mut self, name: &[u8]) -> Result<()> {
        let removed = match self.names.get_mut(name) {
            Some(Entry::File(_, _, false)) => self.names.remove(name),
            Some(entry) => Some(core::mem::replace(entry, Entry::Whiteout)),
            // The name is the image's.
            None => self.names.insert(shared_name(name)?, Entry::Whiteout),
        };
        if let Some(Entry::File(_, position, _)) = removed {
            self.order.remove(&position);
            self.usage.release_names(1);
        }
        Ok(())
    }

    /// Takes out one name in memory, whichever.
    pub fn take_any(&mut self) -> Option<Inode> {
        let (_, name) = self.order.pop_first()?;
        self.usage.release_names(1);
        match self.names.remove(&name) {
            Some(Entry::File(inode, ..)) => Some(inode),
            _ => None,
        }
    }

    /// Whether there is no directory above.
    pub const fn is_root(&self) -> bool {
        self.parent.is_none() && self.lower.is_none()
    }

    /// How many names there are in memory.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no name but `.` and `..`.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_empty(&self) -> Result<bool> {
        if !self.order.is_empty() {
            return Ok(false);
        }
        let mut empty = true;
        self.list(0, &mut |_, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }

    /// Gives the names from `position` on to `each`, with the position after each, until it
    /// returns false. `.` and `..` are not among them.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn list(
        &self,
        position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        if position < FIRST_POSITION
            && let Some((image, inode)) = &self.lower
        {
            let mut going_on = true;
            list_image(image, inode, position, &mut |listed, next| {
                if !self.names.contains_key(listed.name) {
                    going_on = each(listed, next);
                }
                going_on
            })?;
            if !going_on {
                return Ok(());
            }
        }
        for (&at, name) in self.order.range((Bound::Included(position), Bound::Unbounded)) {
            let Some(Entry::File(inode, ..)) = self.names.get(name) else { continue };
            let listed =
                Listed { name, number: inode.number(), kind: super::entry_type(inode.mode()?) };
            if !each(&listed, at + 1) {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.usage.release_names(self.order.len() as u64);
    }
}

/// The same for a directory of the image that was not changed.
///
/// # Errors
/// EUCLEAN.
pub fn list_image(
    image: &Image,
    inode: &erofs::Inode,
    position: u64,
    each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
) -> Result<()> {
    inode.entries(image, position, |entry, next| {
        let mut name = [0; 255];
        let len = entry.name.copy_to(&mut name);
        let name = &name[..len];
        if name == b"." || name == b".." {
            return true;
        }
        each(&Listed { name, number: entry.number, kind: entry.directory_type() }, next)
    })
}

fn shared_name(name: &[u8]) -> Result<Arc<[u8]>> {
    if name.len() > 255 { Err(Errno::ENAMETOOLONG) } else { Ok(Arc::from(name)) }
}
