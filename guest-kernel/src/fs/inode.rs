//! Inodes: files, apart from their names.

use super::erofs::{self, Run};
use super::metadata::{Metadata, PERMISSIONS, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::mount::Location;
use super::ninep;
use super::open_file::FileRef;
use super::root::FileSystem;
use super::source::Source;
use super::stream::StreamRef;
use super::synthetic;
use super::tmpfs::{Attributes, Content, Listed, Node, list_image};
use super::tty::Tty;
use crate::errno::{Errno, Result};
use crate::memory::{Page, PhysAddr, UserWriter};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A file, whatever it is called and whoever has it open.
#[derive(Clone)]
pub enum Inode {
    /// A file that the image had, by its number; [`FileSystem::changed`] may hold what it is now.
    Image(&'static FileSystem, u64),
    /// A file that was made since.
    Memory(Arc<Node>),
    /// A file of /dev, /proc or /sys.
    Synthetic(synthetic::Node),
    /// A pipe, a console port: something that has no name in the tree.
    Stream(StreamRef),
    /// A file of a volume.
    Volume(Arc<ninep::Node>),
}

/// Where a symbolic link leads.
pub enum Target {
    /// To the file with this path.
    Path(Vec<u8>),
    /// To this very file, whatever its path (`/proc/self/cwd`).
    File(Location),
    /// To the file that is open there (`/proc/self/fd/3`).
    Open(FileRef),
}

/// What an [`Inode`] is at the moment.
pub(super) enum State {
    /// As it lies in the image.
    Image(&'static FileSystem, erofs::Inode),
    /// In memory.
    Memory(Arc<Node>),
    /// Made up.
    Synthetic(synthetic::Node),
    /// Without a name.
    Stream(StreamRef),
    /// On the host.
    Volume(Arc<ninep::Node>),
}

impl Inode {
    /// Looks behind the inode: the image's file, or what took its place.
    pub(super) fn state(&self) -> Result<State> {
        match self {
            Self::Image(file_system, number) => match file_system.changed(*number) {
                Some(node) => Ok(State::Memory(node)),
                None => Ok(State::Image(file_system, file_system.image().inode(*number)?)),
            },
            Self::Memory(node) => Ok(State::Memory(node.clone())),
            Self::Synthetic(node) => Ok(State::Synthetic(*node)),
            Self::Stream(stream) => Ok(State::Stream(stream.clone())),
            Self::Volume(node) => Ok(State::Volume(node.clone())),
        }
    }

    /// The node in memory that changes go to.
    ///
    /// # Errors
    /// EPERM for what is not stored, ENOSPC.
    pub(super) fn node(&self) -> Result<Arc<Node>> {
        match self {
            Self::Image(file_system, number) => file_system.change(*number),
            Self::Memory(node) => Ok(node.clone()),
            Self::Synthetic(_) | Self::Stream(_) => Err(Errno::EPERM),
            Self::Volume(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Why no name can be made in this directory, which is not stored: in /proc and /sys a name that
    /// there is not cannot exist, in /dev/pts names are made by opening /dev/ptmx, and /dev is constant.
    pub(super) fn refuses_new(&self, makes_file: bool) -> Errno {
        match self {
            Self::Synthetic(node) if node.is_in_terminals() => {
                if makes_file {
                    Errno::EACCES
                } else {
                    Errno::EPERM
                }
            }
            Self::Synthetic(node) if !node.is_in_dev() => Errno::ENOENT,
            _ => Errno::EROFS,
        }
    }

    /// Why no name can be removed or changed in this directory, which is not stored.
    pub(super) fn refuses_change(&self) -> Errno {
        match self {
            Self::Synthetic(node) if !node.is_in_dev() || node.is_in_terminals() => Errno::EPERM,
            _ => Errno::EROFS,
        }
    }

    /// The inode number.
    pub fn number(&self) -> u64 {
        match self {
            Self::Image(_, number) => *number,
            Self::Memory(node) => node.number(),
            Self::Synthetic(node) => node.number(),
            Self::Stream(stream) => stream.metadata().number,
            Self::Volume(node) => node.number(),
        }
    }

    /// Whether both are the same file.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image(a, number), Self::Image(b, other)) => {
                core::ptr::eq(*a, *b) && number == other
            }
            (Self::Memory(a), Self::Memory(b)) => Arc::ptr_eq(a, b),
            (Self::Synthetic(a), Self::Synthetic(b)) => a.is(b),
            (Self::Volume(a), Self::Volume(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What tells it from all other files that there are: its file system, and the number there. Unlike a
    /// reference, it does not keep the file.
    pub fn identity(&self) -> (u64, u64) {
        match self {
            Self::Image(file_system, number) => (file_system.device(), *number),
            Self::Memory(node) => (node.file_system().device(), node.number()),
            Self::Volume(node) => (node.device(), node.number()),
            Self::Synthetic(node) => (node.metadata().device, node.number()),
            Self::Stream(stream) => {
                let metadata = stream.metadata();
                (metadata.device, metadata.number)
            }
        }
    }

    /// Type and permissions.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn mode(&self) -> Result<u32> {
        Ok(match self.state()? {
            State::Image(_, inode) => inode.mode(),
            State::Memory(node) => node.attributes().mode,
            State::Synthetic(node) => node.mode(),
            State::Stream(stream) => stream.metadata().mode,
            State::Volume(node) => node.mode()?,
        })
    }

    /// Everything that `stat` tells.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn metadata(&self) -> Result<Metadata> {
        Ok(match self.state()? {
            State::Image(file_system, inode) => {
                Metadata { device: file_system.device(), ..inode.metadata(file_system.image())? }
            }
            State::Memory(node) => node.metadata(),
            State::Synthetic(node) => node.metadata(),
            State::Stream(stream) => stream.metadata(),
            State::Volume(node) => node.metadata()?,
        })
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, EUCLEAN.
    pub fn lookup(&self, name: &[u8]) -> Result<Self> {
        self.lookup_kind(name).map(|(inode, _)| inode)
    }

    /// The same; says whether the name is a symbolic link's, which a walk wants to know and a directory
    /// of the image tells without a look at the inode.
    ///
    /// # Errors
    /// As for [`Self::lookup`].
    pub fn lookup_kind(&self, name: &[u8]) -> Result<(Self, bool)> {
        if let Self::Image(file_system, number) = self
            && *number == file_system.image().root()
            && let Some(inode) = synthetic::mount_point(file_system, name)
        {
            return Ok((inode, false));
        }
        match self.state()? {
            State::Volume(node) => node.lookup(name),
            State::Image(file_system, inode) => {
                let entry = inode.find(file_system.image(), name)?;
                Ok((Self::Image(file_system, entry.number), entry.is_link()))
            }
            State::Memory(node) => node.directory()?.lock().lookup(node.file_system(), name),
            State::Synthetic(node) => {
                let inode = node.lookup(name)?;
                let is_link = inode.is_link()?;
                Ok((inode, is_link))
            }
            State::Stream(_) => Err(Errno::ENOTDIR),
        }
    }

    /// The directory that a directory is in; the root is in itself.
    ///
    /// # Errors
    /// ENOTDIR, EUCLEAN.
    pub fn parent(&self) -> Result<Self> {
        match self.state()? {
            State::Image(file_system, inode) => {
                let entry = inode.find(file_system.image(), b"..")?;
                Ok(Self::Image(file_system, entry.number))
            }
            State::Memory(node) => {
                let (moved, is_root) = {
                    let names = node.directory()?.lock();
                    (names.parent.clone(), names.is_root())
                };
                if is_root {
                    return Ok(self.clone());
                }
                let file_system = node.file_system();
                let in_image = || {
                    let inode = file_system.image().inode(node.number())?;
                    let entry = inode.find(file_system.image(), b"..")?;
                    Ok(Self::Image(file_system, entry.number))
                };
                moved.map_or_else(in_image, Ok)
            }
            State::Synthetic(node) => node.parent(),
            State::Volume(node) => Ok(Self::Volume(node.parent())),
            State::Stream(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL if it is none, EUCLEAN, ENOMEM.
    pub fn target(&self) -> Result<Target> {
        match self.state()? {
            State::Image(file_system, inode) => inode.target(file_system.image()).map(Target::Path),
            State::Memory(node) => match node.content() {
                Content::Link(target) => copy(target).map(Target::Path),
                _ => Err(Errno::EINVAL),
            },
            State::Synthetic(node) => node.target(),
            State::Volume(node) => node.target().map(Target::Path),
            State::Stream(_) => Err(Errno::EINVAL),
        }
    }

    /// What `readlink(2)` shows of a symbolic link; paths are those below `root`.
    ///
    /// # Errors
    /// As for [`Self::target`].
    pub fn link_text(&self, root: &Location) -> Result<Vec<u8>> {
        match self.target()? {
            Target::Path(path) => Ok(path),
            Target::File(file) => {
                let path = super::path::path_of(root, &file)?;
                Ok(path.unwrap_or_else(|| Vec::from(b"(deleted)")))
            }
            Target::Open(file) => file.path(root),
        }
    }

    /// Whether a directory was removed, and stays only for those who still use it.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_removed_directory(&self) -> Result<bool> {
        match self.state()? {
            State::Memory(node) => Ok(node.directory().is_ok_and(|names| names.lock().removed)),
            _ => Ok(false),
        }
    }

    /// Lists a directory, see [`super::tmpfs::Directory::list`].
    ///
    /// # Errors
    /// ENOTDIR, EUCLEAN.
    pub fn list(
        &self,
        position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        if self.is_root() {
            return self.list_root(position, each);
        }
        self.list_own(position, each)
    }

    fn is_root(&self) -> bool {
        matches!(self, Self::Image(file_system, number) if *number == file_system.image().root())
    }

    /// The root directory's list: the trees that lie over some of its names, then the other names.
    fn list_root(
        &self,
        position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        let mut going_on = true;
        synthetic::list_mount_points(position, &mut |listed, next| {
            going_on = each(listed, next);
            going_on
        });
        if !going_on {
            return Ok(());
        }
        let first = synthetic::MOUNT_COUNT;
        self.list_own(position.saturating_sub(first), &mut |listed, next| {
            synthetic::is_mount_point(listed.name) || each(listed, next + first)
        })
    }

    fn list_own(
        &self,
        position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        match self.state()? {
            State::Image(file_system, inode) => {
                list_image(file_system.image(), &inode, position, each)
            }
            State::Memory(node) => node.directory()?.lock().list(position, each),
            State::Synthetic(node) => node.list(position, each),
            State::Volume(node) => node.list(position, each),
            State::Stream(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn size(&self) -> Result<u64> {
        Ok(match self.state()? {
            State::Image(_, inode) => inode.size(),
            State::Memory(node) => match node.content() {
                Content::File(file) => file.size(),
                _ => node.metadata().size,
            },
            State::Synthetic(_) | State::Stream(_) => 0,
            State::Volume(node) => node.metadata()?.size,
        })
    }

    /// Reads from `offset` until the buffer is full or the file ends.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has no content, EFAULT if nothing could be copied, EUCLEAN.
    pub fn read(&self, offset: u64, buffer: &mut UserWriter) -> Result<usize> {
        match self.state()? {
            State::Image(file_system, inode) => read_image(file_system, &inode, offset, buffer),
            State::Memory(node) => node.file()?.read(offset, buffer),
            State::Synthetic(node) => read_text(&node.text()?, offset, buffer),
            State::Volume(node) => node.read(offset, buffer),
            State::Stream(_) => Err(Errno::EINVAL),
        }
    }

    /// Copies bytes at `offset` to the kernel; fewer where the file ends.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has no content, EUCLEAN.
    pub fn read_bytes(&self, offset: u64, target: &mut [u8]) -> Result<usize> {
        match self.state()? {
            State::Image(file_system, inode) => {
                check_regular(inode.mode())?;
                let mut done = 0;
                while done < target.len() {
                    let rest = &mut target[done..];
                    let position = offset.saturating_add(done as u64);
                    done += match inode.run(file_system.image(), position, rest.len())? {
                        Run::Bytes(bytes) if bytes.is_empty() => break,
                        Run::Bytes(bytes) => bytes.copy_to(rest),
                        Run::Zeroes(count) => {
                            rest[..count].fill(0);
                            count
                        }
                    };
                }
                Ok(done)
            }
            State::Memory(node) => node.file()?.read_bytes(offset, target),
            State::Volume(node) => node.read_bytes(offset, target),
            State::Synthetic(_) | State::Stream(_) => Err(Errno::EINVAL),
        }
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has no content, EFAULT, ENOSPC, EFBIG.
    pub fn write(&self, offset: u64, data: &mut impl Source) -> Result<usize> {
        self.write_to(Some(offset), data).map(|(_, count)| count)
    }

    /// The same at the end of the file, wherever that is then: returns it, too.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn append(&self, data: &mut impl Source) -> Result<(u64, usize)> {
        self.write_to(None, data)
    }

    fn write_to(&self, offset: Option<u64>, data: &mut impl Source) -> Result<(u64, usize)> {
        if data.remaining() == 0 {
            check_regular(self.mode()?)?;
            return Ok((offset.map_or_else(|| self.size(), Ok)?, 0));
        }
        if let Self::Synthetic(_) = self {
            return Err(Errno::EIO);
        }
        if let Self::Volume(node) = self {
            return node.write(offset, data);
        }
        check_regular(self.mode()?)?;
        let node = self.node()?;
        let file = node.file()?;
        let _turn = file.hold();
        let start = offset.unwrap_or_else(|| file.size());
        super::size_limit::clip(start, data)?;
        let count = file.write(start, data)?;
        if count > 0 {
            node.touch();
        }
        Ok((start, count))
    }

    /// Sets the length.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has no content, EFBIG, ENOSPC.
    pub fn truncate(&self, size: u64) -> Result<()> {
        if let Self::Volume(node) = self {
            return node.truncate(size);
        }
        let node = self.node()?;
        let file = node.file()?;
        let _turn = file.hold();
        super::size_limit::check(file.size(), size)?;
        file.truncate(size)?;
        node.touch();
        Ok(())
    }

    /// A page of the content to be mapped, see [`crate::memory::PageSource`].
    ///
    /// # Errors
    /// EFAULT beyond the end, ENODEV if it cannot be mapped, ENOMEM, EUCLEAN.
    pub fn page(&self, index: u64, write: bool) -> Result<Page> {
        match self.state()? {
            State::Image(file_system, inode) if !write => {
                check_regular(inode.mode()).map_err(|_| Errno::ENODEV)?;
                let image = file_system.image();
                let end = inode.size().div_ceil(crate::memory::PAGE);
                if index >= end {
                    return Err(Errno::EFAULT);
                }
                match inode.locate(image, index)? {
                    erofs::Location::Page(offset) => Ok(Page::Image(image.address(offset))),
                    // Not a page of the image: one is made that only this mapping has.
                    _ => private_page(inode.page_bytes(image, index)?),
                }
            }
            State::Image(..) => self.node()?.file().map_err(|_| Errno::ENODEV)?.page(index, write),
            State::Memory(node) => node.file().map_err(|_| Errno::ENODEV)?.page(index, write),
            State::Volume(node) => node.page(index, write),
            State::Synthetic(_) | State::Stream(_) => Err(Errno::ENODEV),
        }
    }

    /// Pages from `index` on that lie one after the other in the image.
    pub fn image_run(&self, index: u64) -> Option<(PhysAddr, u64)> {
        match self.state().ok()? {
            State::Image(file_system, inode) => inode.page_run(file_system.image(), index),
            _ => None,
        }
    }

    /// The content, if it is in memory and so may be that of a file of `memfd_create(2)`.
    fn memory(&self) -> Option<&super::tmpfs::File> {
        match self {
            Self::Memory(node) => node.file().ok(),
            _ => None,
        }
    }

    /// What it is called, if it is a file of `memfd_create(2)`.
    pub fn label(&self) -> Option<Vec<u8>> {
        self.memory()?.label()
    }

    /// Its seals (`F_GET_SEALS`).
    ///
    /// # Errors
    /// EINVAL if it cannot be sealed.
    pub fn seals(&self) -> Result<u32> {
        self.memory().ok_or(Errno::EINVAL)?.seals()
    }

    /// Adds seals (`F_ADD_SEALS`).
    ///
    /// # Errors
    /// EINVAL, EPERM, EBUSY, EINTR.
    pub fn add_seals(&self, add: u32) -> Result<()> {
        if add & !super::tmpfs::ALL_SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        let is_executable = self.mode()? & 0o111 != 0;
        self.memory().ok_or(Errno::EINVAL)?.add_seals(add, is_executable)
    }

    /// Before a file is mapped that nobody opened to be read: a program.
    ///
    /// # Errors
    /// What the host says of its file.
    pub fn prepare_mapping(&self) -> Result<()> {
        match self {
            Self::Volume(node) => node.prepare(false),
            _ => Ok(()),
        }
    }

    /// Counts a shared mapping that may be written to, if it has to be.
    ///
    /// # Errors
    /// EPERM if a seal is in the way; EINVAL for a file of the host, where what is written to memory would
    /// not arrive, as for Linux's 9P without a cache.
    pub fn map_writable(&self) -> Result<bool> {
        if let Self::Volume(_) = self {
            return Err(Errno::EINVAL);
        }
        self.memory().map_or(Ok(false), super::tmpfs::File::map_writable)
    }

    /// Such a mapping is gone.
    pub fn unmap_writable(&self) {
        if let Some(file) = self.memory() {
            file.unmap_writable();
        }
    }

    /// Changes permission bits.
    ///
    /// # Errors
    /// EPERM for what is not stored, ENOSPC.
    pub fn set_permissions(&self, mode: u32) -> Result<()> {
        if let Self::Stream(stream) = self {
            return stream.set_permissions(mode & PERMISSIONS);
        }
        if let Self::Volume(node) = self {
            return node.set_permissions(mode & PERMISSIONS);
        }
        if let Some(tty) = self.terminal() {
            tty.change_attributes(|attributes| {
                attributes.mode = attributes.mode & S_IFMT | mode & PERMISSIONS;
            });
            return Ok(());
        }
        let fixed = self.seals().is_ok_and(|seals| seals & super::tmpfs::F_SEAL_EXEC != 0);
        if fixed && (self.mode()? ^ mode) & 0o111 != 0 {
            return Err(Errno::EPERM);
        }
        self.node()?.set_permissions(mode & PERMISSIONS);
        Ok(())
    }

    /// Changes owner, group or time stamps.
    ///
    /// # Errors
    /// EPERM for what is not stored.
    pub fn change_attributes(&self, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        if let Self::Volume(node) = self {
            return node.change_attributes(change);
        }
        match self.terminal() {
            Some(tty) => tty.change_attributes(change),
            None => self.node()?.change(change),
        }
        Ok(())
    }

    /// The terminal whose name in /dev/pts it is.
    fn terminal(&self) -> Option<Arc<Tty>> {
        match self {
            Self::Synthetic(node) => node.terminal(),
            _ => None,
        }
    }

    /// `fallocate(2)`: makes pages for a range, or removes them.
    ///
    /// # Errors
    /// ENODEV if it has no content, ENOSPC, EFBIG.
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool, punch: bool) -> Result<()> {
        let node = self.node()?;
        let file = node.file().map_err(|_| Errno::ENODEV)?;
        let _turn = file.hold();
        if punch {
            file.punch(offset, len)?
        } else {
            super::size_limit::check(file.size(), offset.saturating_add(len))?;
            file.allocate(offset, len, keep_size)?
        }
        node.touch();
        Ok(())
    }

    /// Whether it is a directory.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_directory(&self) -> Result<bool> {
        if let Self::Volume(node) = self {
            // Without asking the host: this is called where nobody may sleep.
            return Ok(node.is_directory());
        }
        Ok(self.mode()? & S_IFMT == S_IFDIR)
    }

    /// Whether it is a symbolic link.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_link(&self) -> Result<bool> {
        Ok(self.mode()? & S_IFMT == S_IFLNK)
    }

    /// Whether it is a character device.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_character_device(&self) -> Result<bool> {
        Ok(self.mode()? & S_IFMT == S_IFCHR)
    }
}

fn read_image(
    file_system: &FileSystem,
    inode: &erofs::Inode,
    offset: u64,
    buffer: &mut UserWriter,
) -> Result<usize> {
    check_regular(inode.mode())?;
    let mut done = 0;
    while buffer.remaining() > 0 {
        let position = offset.saturating_add(done as u64);
        let step = match inode.run(file_system.image(), position, buffer.remaining()) {
            Ok(Run::Bytes(bytes)) if bytes.is_empty() => break,
            Ok(Run::Bytes(bytes)) => buffer.write(bytes),
            Ok(Run::Zeroes(count)) => buffer.write_zeroes(count),
            Err(error) => Err(error),
        };
        match step {
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Reads from text that was made for the purpose.
pub(super) fn read_text(text: &[u8], offset: u64, buffer: &mut UserWriter) -> Result<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    buffer.write_slice(&text[start..])
}

fn private_page(bytes: crate::memory::SharedBytes<'_>) -> Result<Page> {
    use crate::memory::{Content, Frame};
    let frame = Frame::allocate(Content::Overwritten)?;
    frame.copy_page(bytes);
    Ok(Page::Frame(frame))
}

/// Only regular files have content.
fn check_regular(mode: u32) -> Result<()> {
    match mode & S_IFMT {
        S_IFREG => Ok(()),
        S_IFDIR => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}
