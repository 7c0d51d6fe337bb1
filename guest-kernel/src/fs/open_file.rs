//! Open file descriptions: what `open(2)` makes and `dup(2)` shares.

use super::epoll::Memberships;
use super::inode::{Inode, read_text};
use super::inotify;
use super::metadata::{Metadata, S_IFDIR, S_IFMT, S_IFREG, S_ISGID, S_ISUID};
use super::mount::{Location, Mount, NO_SUID};
use super::path::{Found, Name, path_of};
use super::services::services;
use super::stream::{Events, Seek, StreamRef};
use super::tmpfs::Content;
use crate::errno::{Errno, Result};
use crate::memory::{Page, PageSource, PhysAddr, SharedBytes, UserReader, UserWriter};
use crate::sched::turn::{self, Turn};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::general::{
    IN_ACCESS, IN_CLOSE_NOWRITE, IN_CLOSE_WRITE, IN_MODIFY, O_ACCMODE, O_APPEND, O_DIRECT,
    O_NOATIME, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY,
};

/// What `fcntl(2)`'s `F_SETFL` can change.
const SETTABLE: u32 = O_APPEND | O_NONBLOCK | O_NOATIME | O_DIRECT;
/// Offsets are signed.
const MAX_OFFSET: u64 = i64::MAX.cast_unsigned();

/// What an open file is called.
enum Place {
    /// This name in this directory, when it was opened.
    Tree(Inode, Name),
    /// It has no path, and says itself what to show (`memfd_create(2)`).
    Unnamed,
    /// What its stream says.
    Stream,
}

/// An open file description.
pub struct OpenFile {
    inode: Inode,
    place: Place,
    /// The mount by which it was opened.
    mount: Option<Arc<Mount>>,
    /// Whether that mount counts it among the files that are open for writing.
    writes: bool,
    /// Where reads and writes go, if not to the inode's content.
    stream: Option<StreamRef>,
    /// Access mode and file status flags.
    flags: AtomicU32,
    offset: AtomicU64,
    /// Who goes on from the offset, and then moves it.
    position: Turn,
    /// Text that was made when it was read from the start: later reads go on in the same text.
    text: SpinLock<Option<Arc<[u8]>>>,
    /// Whether it may hold a lock, which goes with it.
    locked: AtomicBool,
    /// The epolls that watch it.
    epolls: Memberships,
}

/// The point that an offset is relative to (`lseek(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The start of the file.
    Start,
    /// The current offset.
    Current,
    /// The end of the file.
    End,
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

impl OpenFile {
    /// Opens a file that was found by a path.
    pub fn new(inode: Inode, found: Found, stream: Option<StreamRef>, flags: u32) -> Self {
        let is_written = flags & O_PATH == 0 && flags & O_ACCMODE != O_RDONLY;
        let writes = match &found.mount {
            // What is not the mount's own content may be written by way of a read-only one, too.
            Some(mount) if is_written && stream.is_none() => {
                mount.begin_writing();
                true
            }
            _ => false,
        };
        Self {
            inode,
            place: Place::Tree(found.parent, found.name),
            mount: found.mount,
            writes,
            stream,
            flags: AtomicU32::new(flags),
            offset: AtomicU64::new(0),
            position: Turn::new(),
            text: SpinLock::new(None),
            locked: AtomicBool::new(false),
            epolls: Memberships::new(),
        }
    }

    /// Opens a stream that has no path.
    pub const fn stream(stream: StreamRef, inode: Inode, flags: u32) -> Self {
        Self {
            inode,
            place: Place::Stream,
            mount: None,
            writes: false,
            stream: Some(stream),
            flags: AtomicU32::new(flags),
            offset: AtomicU64::new(0),
            position: Turn::new(),
            text: SpinLock::new(None),
            locked: AtomicBool::new(false),
            epolls: Memberships::new(),
        }
    }

    /// Opens a file that has no name.
    pub const fn unnamed(inode: Inode, flags: u32) -> Self {
        Self {
            inode,
            place: Place::Unnamed,
            mount: None,
            writes: false,
            stream: None,
            flags: AtomicU32::new(flags),
            offset: AtomicU64::new(0),
            position: Turn::new(),
            text: SpinLock::new(None),
            locked: AtomicBool::new(false),
            epolls: Memberships::new(),
        }
    }

    /// The directory and the name that it was opened by.
    pub fn place(&self) -> Option<(Inode, Name)> {
        match &self.place {
            Place::Tree(parent, name) => Some((parent.clone(), name.clone())),
            Place::Unnamed | Place::Stream => None,
        }
    }

    /// The mount by which it was opened, if it was opened by a path.
    pub const fn mount(&self) -> Option<&Arc<Mount>> {
        self.mount.as_ref()
    }

    /// The file and that mount.
    pub fn location(&self) -> Option<Location> {
        Some(Location { mount: self.mount.clone()?, inode: self.inode.clone() })
    }

    /// What `execve(2)` goes by: set-user-ID and set-group-ID bits are shown if they count for something.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn program_metadata(&self) -> Result<Metadata> {
        let mut metadata = self.metadata()?;
        if self.mount.as_ref().is_some_and(|mount| mount.has(NO_SUID)) {
            metadata.mode &= !(S_ISUID | S_ISGID);
        }
        Ok(metadata)
    }

    /// Whether more than the content may be changed: a mount can be read-only for who holds a descriptor.
    ///
    /// # Errors
    /// EROFS.
    pub fn check_mount_writable(&self) -> Result<()> {
        self.mount.as_ref().map_or(Ok(()), |mount| mount.check_writable())
    }

    /// The file.
    pub const fn inode(&self) -> &Inode {
        &self.inode
    }

    /// The stream, if the file is one.
    pub const fn as_stream(&self) -> Option<&StreamRef> {
        self.stream.as_ref()
    }

    /// Access mode and file status flags, as `F_GETFL` shows them.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `F_SETFL`: changes those flags that can be changed.
    pub fn set_flags(&self, flags: u32) {
        let change = |old: u32| Some(old & !SETTABLE | flags & SETTABLE);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        let flags = self.flags();
        flags & O_PATH == 0 && flags & O_ACCMODE != O_WRONLY
    }

    /// Whether it was opened for writing.
    pub fn is_writable(&self) -> bool {
        let flags = self.flags();
        flags & O_PATH == 0 && flags & O_ACCMODE != O_RDONLY
    }

    /// Whether it only stands for a place in the tree (`O_PATH`).
    pub fn is_path_only(&self) -> bool {
        self.flags() & O_PATH != 0
    }

    fn waits(&self) -> bool {
        self.flags() & O_NONBLOCK == 0
    }

    /// `read(2)`.
    ///
    /// # Errors
    /// EBADF, EISDIR, EINVAL, EFAULT, EAGAIN, EINTR, EIO.
    #[inline(always)]
    pub fn read(&self, buffer: &mut UserWriter) -> Result<usize> {
        self.told(IN_ACCESS, self.read_unnoticed(buffer))
    }

    fn read_unnoticed(&self, buffer: &mut UserWriter) -> Result<usize> {
        if !self.is_readable() {
            return Err(Errno::EBADF);
        }
        if let Some(stream) = &self.stream {
            return stream.read(buffer, self.waits());
        }
        let _turn = self.position.take();
        let offset = self.offset.load(Ordering::Relaxed);
        let count = self.read_content(offset, buffer)?;
        self.offset.store(offset + count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// `pread(2)`.
    ///
    /// # Errors
    /// ESPIPE, and as for [`Self::read`].
    #[inline(always)]
    pub fn read_at(&self, offset: u64, buffer: &mut UserWriter) -> Result<usize> {
        if !self.is_readable() {
            return Err(Errno::EBADF);
        }
        let result = match &self.stream {
            Some(stream) if !stream.seek().has_positions() => Err(Errno::ESPIPE),
            Some(stream) => stream.read(buffer, self.waits()),
            None => self.read_content(offset, buffer),
        };
        self.told(IN_ACCESS, result)
    }

    fn read_content(&self, offset: u64, buffer: &mut UserWriter) -> Result<usize> {
        let Inode::Synthetic(node) = &self.inode else { return self.inode.read(offset, buffer) };
        let kept = self.text.lock().clone().filter(|_| offset > 0);
        let text = match kept {
            Some(text) => text,
            None => {
                let text: Arc<[u8]> = node.text()?.into();
                *self.text.lock() = Some(text.clone());
                text
            }
        };
        read_text(&text, offset, buffer)
    }

    /// `write(2)`.
    ///
    /// # Errors
    /// EBADF, EINVAL, EFAULT, EAGAIN, EINTR, EIO, EPIPE, ENOSPC, EFBIG.
    #[inline(always)]
    pub fn write(&self, data: &mut UserReader) -> Result<usize> {
        self.told(IN_MODIFY, self.write_unnoticed(data))
    }

    fn write_unnoticed(&self, data: &mut UserReader) -> Result<usize> {
        if !self.is_writable() {
            return Err(Errno::EBADF);
        }
        if let Some(stream) = &self.stream {
            let result = if self.flags() & O_DIRECT == 0 {
                stream.write(data, self.waits())
            } else {
                stream.write_packets(data, self.waits())
            };
            return signalled(stream, result);
        }
        let _turn = self.position.take();
        let (start, count) = if self.flags() & O_APPEND == 0 {
            let offset = self.offset.load(Ordering::Relaxed);
            (offset, self.inode.write(offset, data)?)
        } else {
            self.inode.append(data)?
        };
        if count > 0 {
            self.offset.store(start + count as u64, Ordering::Relaxed);
        }
        Ok(count)
    }

    /// `pwrite(2)`; like Linux's, it appends if the file is open with `O_APPEND`.
    ///
    /// # Errors
    /// ESPIPE, and as for [`Self::write`].
    #[inline(always)]
    pub fn write_at(&self, offset: u64, data: &mut UserReader) -> Result<usize> {
        if !self.is_writable() {
            return Err(Errno::EBADF);
        }
        let result = match &self.stream {
            Some(stream) if !stream.seek().has_positions() => Err(Errno::ESPIPE),
            Some(stream) => stream.write(data, self.waits()),
            None if self.flags() & O_APPEND != 0 => self.inode.append(data).map(|(_, count)| count),
            None => self.inode.write(offset, data),
        };
        self.told(IN_MODIFY, result)
    }

    /// Copies bytes at `offset` to the kernel, which is itself the reader (`execve`); fewer where
    /// the file ends.
    ///
    /// # Errors
    /// EISDIR, EINVAL if it has no content, EUCLEAN.
    pub fn read_bytes(&self, offset: u64, target: &mut [u8]) -> Result<usize> {
        if self.stream.is_some() {
            Err(Errno::EINVAL)
        } else {
            self.inode.read_bytes(offset, target)
        }
    }

    /// Reads into the kernel's memory, at an offset or at the file's own (`sendfile(2)`,
    /// `splice(2)`).
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn read_kernel(&self, offset: Option<u64>, target: &mut [u8]) -> Result<usize> {
        if let Some(stream) = &self.stream {
            return stream.read_kernel(target, self.waits());
        }
        let _turn = offset.is_none().then(|| self.position.take());
        let position = offset.unwrap_or_else(|| self.offset());
        let count = match &self.inode {
            Inode::Synthetic(node) => {
                let text = node.text()?;
                let start = usize::try_from(position).unwrap_or(usize::MAX).min(text.len());
                SharedBytes::from_slice(&text[start..]).copy_to(target)
            }
            inode => inode.read_bytes(position, target)?,
        };
        if offset.is_none() {
            self.set_offset(position + count as u64);
        }
        Ok(count)
    }

    /// Writes from the kernel's memory, at an offset or at the file's own.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn write_kernel(&self, offset: Option<u64>, bytes: &[u8]) -> Result<usize> {
        if !self.is_writable() {
            return Err(Errno::EBADF);
        }
        if let Some(stream) = &self.stream {
            return match offset {
                Some(_) if !stream.seek().has_positions() => Err(Errno::ESPIPE),
                _ => signalled(stream, stream.write_kernel(bytes, self.waits())),
            };
        }
        let _turn = offset.is_none().then(|| self.position.take());
        let position = offset.unwrap_or_else(|| self.offset());
        let count = self.inode.write(position, &mut &*bytes)?;
        if offset.is_none() {
            self.set_offset(position + count as u64);
        }
        Ok(count)
    }

    /// Writes at the end of the file; moves the file's offset there if `moves`.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn append(&self, data: &mut UserReader, moves: bool) -> Result<usize> {
        if self.stream.is_some() {
            return self.write(data);
        }
        if !self.is_writable() {
            return Err(Errno::EBADF);
        }
        let turn = moves.then(|| self.position.take());
        let (end, count) = self.inode.append(data)?;
        if moves {
            self.set_offset(end + count as u64);
        }
        drop(turn);
        self.told(IN_MODIFY, Ok(count))
    }

    /// Something happened to the file by way of this description: tells those who watch it.
    #[inline]
    pub fn notify(&self, mask: u32) {
        if inotify::is_active() {
            self.notify_watchers(mask);
        }
    }

    #[cold]
    fn notify_watchers(&self, mask: u32) {
        if self.is_path_only() {
            return;
        }
        let place = match &self.place {
            Place::Tree(parent, name) => Some((parent, name.bytes())),
            Place::Unnamed | Place::Stream => None,
        };
        inotify::notify(&self.inode, place, mask);
    }

    /// The same if bytes were moved.
    #[inline]
    fn told(&self, mask: u32, result: Result<usize>) -> Result<usize> {
        if inotify::is_active() && matches!(result, Ok(1..)) {
            self.notify_watchers(mask);
        }
        result
    }

    /// A process has closed a descriptor of it, if not the last one.
    #[inline]
    pub fn closed_by(&self, pid: i32) {
        super::locks::closed(self, pid);
        if let Some(stream) = &self.stream {
            stream.closed_by(pid);
        }
    }

    /// Notes that a lock is held through this description.
    pub(super) fn set_locked(&self) {
        self.locked.store(true, Ordering::Relaxed);
    }

    /// `lseek(2)`.
    ///
    /// # Errors
    /// EBADF, ESPIPE, EINVAL, ENXIO, EOVERFLOW.
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if self.is_path_only() {
            return Err(Errno::EBADF);
        }
        match self.stream.as_ref().map(|stream| stream.seek()) {
            Some(Seek::No) => return Err(Errno::ESPIPE),
            Some(Seek::Ignored | Seek::Unpositioned) => return Ok(0),
            None => {}
        }
        let _turn = self.position.take();
        let is_directory = self.inode.is_directory()?;
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => self.offset.load(Ordering::Relaxed),
            // A directory's offset is a position in its listing.
            Whence::End if is_directory => MAX_OFFSET,
            Whence::End => self.inode.size()?,
            Whence::Data | Whence::Hole => return self.seek_data(offset, whence == Whence::Hole),
        };
        let target = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        if target > MAX_OFFSET {
            return Err(if offset > 0 { Errno::EOVERFLOW } else { Errno::EINVAL });
        }
        self.offset.store(target, Ordering::Relaxed);
        Ok(target)
    }

    fn seek_data(&self, offset: i64, hole: bool) -> Result<u64> {
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let size = self.inode.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let stored = match &self.inode {
            Inode::Image(file_system, number) => file_system.changed(*number),
            Inode::Memory(node) => Some(node.clone()),
            Inode::Synthetic(_) | Inode::Stream(_) | Inode::Volume(_) => None,
        };
        let target = match stored.as_ref().map(|node| node.content()) {
            Some(Content::File(file)) => file.seek_data(offset, hole)?,
            // All data, and a hole at the end.
            _ if hole => size,
            _ => offset,
        };
        self.offset.store(target, Ordering::Relaxed);
        Ok(target)
    }

    /// The current offset, or position in a directory's listing.
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Sets what [`Self::offset`] tells.
    pub fn set_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Lets nobody else go on from the offset as long as the result exists.
    pub fn hold_position(&self) -> turn::Taken<'_> {
        self.position.take()
    }

    /// `fstat(2)`.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    /// What `poll(2)` finds.
    pub fn poll(&self) -> Events {
        match &self.stream {
            Some(stream) => stream.poll(),
            None => Events::IN.with(Events::OUT),
        }
    }

    /// Whether it can be waited for (`epoll_ctl(2)`); `poll(2)` finds the others always ready.
    pub fn can_poll(&self) -> bool {
        match (&self.stream, &self.inode) {
            (Some(stream), _) => stream.can_poll(),
            (None, Inode::Synthetic(node)) => node.can_poll(),
            (None, _) => false,
        }
    }

    /// The epolls that it is in.
    pub const fn epolls(&self) -> &Memberships {
        &self.epolls
    }

    /// Whether it is a regular file, which `truncate`, `fallocate` and the like need.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_regular(&self) -> Result<bool> {
        Ok(self.stream.is_none() && self.inode.mode()? & S_IFMT == S_IFREG)
    }

    /// Whether it is a directory.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn is_directory(&self) -> Result<bool> {
        Ok(self.inode.mode()? & S_IFMT == S_IFDIR)
    }

    /// What /proc/self/fd/N shows: the file's path below `root`, with " (deleted)" if that name is
    /// gone, or a stream's name.
    ///
    /// # Errors
    /// ENAMETOOLONG, ENOMEM, EUCLEAN.
    pub fn path(&self, root: &Location) -> Result<Vec<u8>> {
        if let Some(label) = self.inode.label() {
            return Ok(label);
        }
        let (parent, name) = match &self.place {
            Place::Tree(parent, name) => (parent, name),
            Place::Unnamed => return Ok(Vec::new()),
            Place::Stream => {
                return Ok(self.stream.as_ref().map(|stream| stream.name()).unwrap_or_default());
            }
        };
        let Some(mount) = &self.mount else { return Ok(Vec::new()) };
        if self.is_directory()? || self.inode.is(mount.root()) {
            // Directories know where they are now, and so do mounts.
            let here = Location { mount: mount.clone(), inode: self.inode.clone() };
            return match path_of(root, &here)? {
                Some(path) => Ok(path),
                None => Ok(Vec::from(b"(deleted)")),
            };
        }
        let parent_place = Location { mount: mount.clone(), inode: parent.clone() };
        let mut path = path_of(root, &parent_place)?.unwrap_or_default();
        let is_there = parent.lookup(name.bytes()).is_ok_and(|inode| inode.is(&self.inode));
        path.try_reserve(name.bytes().len() + 16).map_err(|_| Errno::ENOMEM)?;
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name.bytes());
        if !is_there {
            path.extend_from_slice(b" (deleted)");
        }
        Ok(path)
    }
}

/// Whoever writes to something that nobody reads gets a signal.
fn signalled(stream: &StreamRef, result: Result<usize>) -> Result<usize> {
    if result == Err(Errno::EPIPE)
        && stream.signals_broken_pipe()
        && let Some(services) = services()
    {
        services.broken_pipe();
    }
    result
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if *self.locked.get_mut() {
            super::locks::description_ended(self);
        }
        self.epolls.leave(self.stream.as_deref());
        if self.writes
            && let Some(mount) = &self.mount
        {
            mount.end_writing();
        }
        if inotify::is_active() {
            let is_written = self.flags() & O_ACCMODE != O_RDONLY;
            self.notify_watchers(if is_written { IN_CLOSE_WRITE } else { IN_CLOSE_NOWRITE });
        }
    }
}

impl PageSource for OpenFile {
    fn page(&self, index: u64, write: bool) -> Result<Page> {
        if self.stream.is_some() { Err(Errno::ENODEV) } else { self.inode.page(index, write) }
    }

    fn image_run(&self, index: u64) -> Option<(PhysAddr, u64)> {
        if self.stream.is_some() { None } else { self.inode.image_run(index) }
    }
}

/// A reference to an open file description, as descriptors hold it.
pub type FileRef = Arc<OpenFile>;
