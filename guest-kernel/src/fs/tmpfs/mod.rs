//! Files in memory: what programs make, and what they change of the root image.

mod directory;
mod file;
mod memfd;
mod pages;

pub use directory::{Directory, Listed, list_image};
pub use file::File;
pub use memfd::{ALL_SEALS, F_SEAL_EXEC};

use super::erofs::Image;
use super::inode::Inode;
use super::metadata::{
    Metadata, PERMISSIONS, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, Timestamp, entry_type,
};
use super::pipe::Pipe;
use super::root::FileSystem;
use super::services::now;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// A file in memory.
pub struct Node {
    file_system: &'static FileSystem,
    number: u64,
    attributes: SpinLock<Attributes>,
    content: Content,
}

/// What a file consists of.
pub enum Content {
    /// Bytes.
    File(File),
    /// Names.
    Directory(SpinLock<Directory>),
    /// A path.
    Link(Vec<u8>),
    /// A FIFO, and its pipe while someone has it open.
    Fifo(SpinLock<Weak<Pipe>>),
    /// A device or a socket: its number.
    Special(u64),
}

/// What `chmod`, `chown`, `utimensat` and `link` change.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Type and permissions.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Last read, as far as it is kept (see `mount(8)`, `noatime`).
    pub accessed: Timestamp,
    /// Last change of the content.
    pub modified: Timestamp,
    /// Last change of anything.
    pub changed: Timestamp,
    /// When the file was made.
    pub born: Timestamp,
}

/// What a new file shall be.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Number of a device.
    pub special: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

impl Node {
    /// A new file without a name.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM.
    pub fn new(
        file_system: &'static FileSystem,
        new: &New<'_>,
        parent: &Inode,
    ) -> Result<Arc<Self>> {
        let content = match new.mode & S_IFMT {
            S_IFREG => Content::File(File::new(&file_system.usage)),
            S_IFDIR => Content::Directory(SpinLock::new(Directory::new(
                &file_system.usage,
                Some(parent.clone()),
            ))),
            S_IFLNK => {
                let mut target = Vec::new();
                target.try_reserve_exact(new.target.len()).map_err(|_| Errno::ENOMEM)?;
                target.extend_from_slice(new.target);
                Content::Link(target)
            }
            S_IFIFO => Content::Fifo(SpinLock::new(Weak::new())),
            _ => Content::Special(new.special),
        };
        file_system.usage.charge_node()?;
        Ok(Self::with(file_system, file_system.new_number(), Self::attributes_of(new, 0), content))
    }

    /// The root directory of a file system that is in memory alone.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn new_root(
        file_system: &'static FileSystem,
        new: &New<'_>,
        number: u64,
    ) -> Result<Arc<Self>> {
        let names = Directory::new(&file_system.usage, None);
        file_system.usage.charge_node()?;
        let content = Content::Directory(SpinLock::new(names));
        Ok(Self::with(file_system, number, Self::attributes_of(new, 2), content))
    }

    fn attributes_of(new: &New<'_>, links: u32) -> Attributes {
        let time = now();
        Attributes {
            mode: new.mode,
            links,
            user: new.user,
            group: new.group,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
        }
    }

    /// A changeable copy of one of the image's files, which shares its pages and names.
    ///
    /// # Errors
    /// ENOMEM, EUCLEAN.
    pub fn over(file_system: &'static FileSystem, image: Image, number: u64) -> Result<Arc<Self>> {
        let inode = image.inode(number)?;
        let metadata = inode.metadata(&image)?;
        let content = match metadata.file_type() {
            S_IFREG => Content::File(File::over(&file_system.usage, image, inode)),
            S_IFDIR => {
                Content::Directory(SpinLock::new(Directory::over(&file_system.usage, image, inode)))
            }
            S_IFLNK => Content::Link(inode.target(&image)?),
            S_IFIFO => Content::Fifo(SpinLock::new(Weak::new())),
            _ => Content::Special(metadata.special),
        };
        let attributes = Attributes {
            mode: metadata.mode,
            links: metadata.links,
            user: metadata.user,
            group: metadata.group,
            accessed: metadata.accessed,
            modified: metadata.modified,
            changed: metadata.changed,
            born: metadata.born,
        };
        // Without a limit: there are only so many files in the image, and removing one must not fail.
        file_system.usage.charge_node_anyway();
        Ok(Self::with(file_system, number, attributes, content))
    }

    fn with(
        file_system: &'static FileSystem,
        number: u64,
        attributes: Attributes,
        content: Content,
    ) -> Arc<Self> {
        Arc::new(Self { file_system, number, attributes: SpinLock::new(attributes), content })
    }

    /// The inode number.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The file system that it is part of.
    pub const fn file_system(&self) -> &'static FileSystem {
        self.file_system
    }

    /// What it consists of.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// Its bytes.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has none.
    pub fn file(&self) -> Result<&File> {
        match &self.content {
            Content::File(file) => Ok(file),
            Content::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its names.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn directory(&self) -> Result<&SpinLock<Directory>> {
        match &self.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The pipe of a FIFO, made if nobody has it open.
    pub fn pipe(&self) -> Option<Arc<Pipe>> {
        let Content::Fifo(pipe) = &self.content else { return None };
        let mut pipe = pipe.lock();
        Some(pipe.upgrade().unwrap_or_else(|| {
            let new = Pipe::new();
            *pipe = Arc::downgrade(&new);
            new
        }))
    }

    /// A copy of the attributes.
    pub fn attributes(&self) -> Attributes {
        *self.attributes.lock()
    }

    /// Changes attributes, and with them the time of the last change.
    pub fn change(&self, change: impl FnOnce(&mut Attributes)) {
        let time = now();
        let mut attributes = self.attributes.lock();
        attributes.changed = time;
        change(&mut attributes);
    }

    /// Notes that the content was changed.
    pub fn touch(&self) {
        let time = now();
        let mut attributes = self.attributes.lock();
        attributes.modified = time;
        attributes.changed = time;
    }

    /// Everything about it.
    pub fn metadata(&self) -> Metadata {
        let attributes = self.attributes();
        let (size, blocks, special) = match &self.content {
            Content::File(file) => (file.size(), file.page_count() * 8, 0),
            // Linux's tmpfs counts 20 bytes for each name.
            Content::Directory(directory) => ((directory.lock().count() as u64 + 2) * 20, 0, 0),
            Content::Link(target) => (target.len() as u64, 0, 0),
            Content::Fifo(_) => (0, 0, 0),
            Content::Special(special) => (0, 0, *special),
        };
        Metadata {
            device: self.file_system.device(),
            number: self.number,
            mode: attributes.mode,
            links: attributes.links,
            user: attributes.user,
            group: attributes.group,
            special,
            size,
            blocks,
            accessed: attributes.accessed,
            modified: attributes.modified,
            changed: attributes.changed,
            born: attributes.born,
        }
    }

    /// Sets the permission bits.
    pub fn set_permissions(&self, mode: u32) {
        self.change(|attributes| {
            attributes.mode = attributes.mode & !PERMISSIONS | mode & PERMISSIONS;
        });
    }
}

impl Node {
    /// Forgets all names in this directory and below, when nobody can reach it any more: directories and
    /// those in them keep each other. In a loop, as they can be as deep as a program likes.
    pub fn take_apart(self: &Arc<Self>) {
        let mut current = self.clone();
        loop {
            let Ok(names) = current.directory() else { return };
            let (child, is_empty) = {
                let mut names = names.lock();
                names.removed = true;
                let child = names.take_any();
                let is_empty = child.is_none();
                (child, is_empty)
            };
            if let Some(Inode::Memory(node)) = &child
                && node.directory().is_ok()
            {
                current = node.clone();
            }
            if is_empty {
                if Arc::ptr_eq(&current, self) {
                    return;
                }
                let parent = names_parent(&current);
                let Some(Inode::Memory(parent)) = parent else { return };
                current = parent;
            }
        }
    }
}

/// Takes the reference to the directory above out of a directory.
fn names_parent(node: &Node) -> Option<Inode> {
    node.directory().ok()?.lock().parent.take()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.file_system.usage.release_node();
        super::inotify::freed(self.file_system, self.number);
        // A removed directory keeps the one above it, which may itself be removed and kept by nothing
        // else, and so on: a loop, as a recursion could be as deep as a program likes.
        let Content::Directory(directory) = &mut self.content else { return };
        let mut next = directory.get_mut().parent.take();
        while let Some(Inode::Memory(node)) = next {
            let Some(mut node) = Arc::into_inner(node) else { break };
            next = match &mut node.content {
                Content::Directory(directory) => directory.get_mut().parent.take(),
                _ => None,
            };
        }
    }
}
