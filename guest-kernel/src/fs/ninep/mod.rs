//! Volumes: directories of the host, shared in 9P2000.L.
//!
//! A [`Node`] is a file that someone here uses; it keeps a fid, so that it stays the same file whatever
//! becomes of its name. What it is and holds is asked for each time: the host may change it. Only mapped
//! pages are kept, until the file is opened and has changed.

mod client;
mod names;

pub use client::{Piece, Transport};
pub use names::{create, link, remove, rename};

use super::inode::Inode;
use super::metadata::{Metadata, Timestamp, device_number};
use super::source::Source;
use super::tmpfs::{Attributes, Listed};
use crate::errno::{Errno, Result};
use crate::memory::{Content, Frame, PAGE, PAGE_SIZE, Page, UserWriter, frame};
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use client::{Answer, Client, DATA_OVERHEAD, MAX_DATA, ROOT_FID, Request, kind};
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{O_DIRECTORY, O_RDONLY, O_RDWR};

/// Bytes of an answer that has no data.
const SHORT: usize = 512;
/// Device numbers of volumes: this and those behind.
const FIRST_DEVICE: u32 = 0x20;
/// Pages that are asked for when one is missing: a page fault waits, and most programs go on behind.
const READ_AHEAD: usize = 16;
/// `P9_GETATTR_BASIC` and `P9_GETATTR_BTIME`.
const WANTED: u64 = 0xfff;
/// The permission bits that Tsetattr may change, and its bits of `valid`.
mod set {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 2;
    pub const GID: u32 = 4;
    pub const SIZE: u32 = 8;
    pub const ATIME: u32 = 16;
    pub const MTIME: u32 = 32;
    pub const ATIME_SET: u32 = 128;
    pub const MTIME_SET: u32 = 256;
}

/// A volume: a session with its server.
pub struct Volume {
    client: Client,
    read_only: bool,
    device: u64,
    /// Files in use, by qid.
    nodes: SpinLock<BTreeMap<u64, Weak<Node>>>,
}

/// Begins a session, which lasts as long as the machine runs; returns the root directory, too. `index` is
/// a number of its own.
///
/// # Errors
/// EIO if its server is dead, ENOMEM.
pub fn start(
    transport: &'static dyn Transport,
    index: u32,
    read_only: bool,
) -> Result<(&'static Volume, Inode)> {
    let (client, root) = Client::start(transport)?;
    let volume: &'static Volume = Box::leak(Box::new(Volume {
        client,
        read_only,
        device: device_number(0, FIRST_DEVICE + index),
        nodes: SpinLock::new(BTreeMap::new()),
    }));
    let fid = volume.client.new_fid();
    volume.walk(ROOT_FID, fid, None)?;
    let root = volume.node(fid, (QID_DIRECTORY, root), None)?;
    Ok((volume, Inode::Volume(root)))
}

/// A qid, as far as it matters: type and path.
type Qid = (u8, u64);
const QID_DIRECTORY: u8 = 0x80;
const QID_SYMLINK: u8 = 2;

impl Volume {
    /// The device number of its files.
    pub const fn device(&self) -> u64 {
        self.device
    }

    /// Whether the host lets nothing be changed.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Makes `new` a fid of the file with this name, or of the same file.
    fn walk(&self, from: u32, new: u32, name: Option<&[u8]>) -> Result<Qid> {
        let mut request = Request::new().u32(from)?.u32(new)?.u16(name.is_some().into())?;
        if let Some(name) = name {
            request = request.text(name)?;
        }
        let mut answer = self.client.call(kind::WALK, request, SHORT)?;
        if answer.u16()? == 0 {
            // The same file again.
            return Ok((QID_DIRECTORY, u64::MAX));
        }
        let (kind, _, path) = answer.qid()?;
        Ok((kind, path))
    }

    /// The node of a file, which takes over the fid.
    fn node(&'static self, fid: u32, qid: Qid, parent: Option<Arc<Node>>) -> Result<Arc<Node>> {
        frame::check_room()?;
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&qid.1).and_then(Weak::upgrade) {
            drop(nodes);
            self.client.give_back(fid);
            return Ok(node);
        }
        let node = Arc::new(Node {
            volume: self,
            fid,
            qid,
            parent: SpinLock::new(parent),
            reading: AtomicU32::new(NONE),
            writing: AtomicU32::new(NONE),
            version: AtomicU32::new(0),
            pages: SpinLock::new(BTreeMap::new()),
        });
        nodes.insert(qid.1, Arc::downgrade(&node));
        Ok(node)
    }
}

/// No fid.
const NONE: u32 = u32::MAX;

/// A file of a volume that is in use.
pub struct Node {
    volume: &'static Volume,
    fid: u32,
    qid: Qid,
    /// The directory that it was found in.
    parent: SpinLock<Option<Arc<Node>>>,
    /// Fids that are open for reading, and for reading and writing.
    reading: AtomicU32,
    writing: AtomicU32,
    /// The version that `pages` are of.
    version: AtomicU32,
    /// Pages that are mapped, or were.
    pages: SpinLock<BTreeMap<u64, Frame>>,
}

impl Node {
    fn client(&self) -> &'static Client {
        &self.volume.client
    }

    /// The inode number.
    pub fn number(&self) -> u64 {
        self.qid.1
    }

    /// The same as an address: which volume it is on.
    pub fn device(&self) -> u64 {
        self.volume.device
    }

    /// Whether it is a directory, without asking the host.
    pub const fn is_directory(&self) -> bool {
        self.qid.0 == QID_DIRECTORY
    }

    /// Everything about it.
    ///
    /// # Errors
    /// EIO, ESTALE.
    pub fn metadata(&self) -> Result<Metadata> {
        let request = Request::new().u32(self.fid)?.u64(WANTED)?;
        self.parse(self.client().call(kind::GETATTR, request, SHORT)?)
    }

    fn parse(&self, mut answer: Answer) -> Result<Metadata> {
        let _valid = answer.u64()?;
        let (_, version, _) = answer.qid()?;
        if self.version.swap(version, Ordering::Relaxed) != version {
            self.pages.lock().clear();
        }
        let (mode, user, group) = (answer.u32()?, answer.u32()?, answer.u32()?);
        let (links, special, size) = (answer.u64()?, answer.u64()?, answer.u64()?);
        let (_, blocks) = (answer.u64()?, answer.u64()?);
        let mut time = || {
            let (seconds, nanoseconds) = (answer.u64()?.cast_signed(), answer.u64()?);
            let nanoseconds = u32::try_from(nanoseconds).map_err(|_| Errno::EIO)?;
            Ok(Timestamp { seconds, nanoseconds })
        };
        let (accessed, modified, changed, born) = (time()?, time()?, time()?, time()?);
        Ok(Metadata {
            device: self.volume.device,
            number: self.number(),
            mode,
            links: u32::try_from(links).unwrap_or(u32::MAX),
            user,
            group,
            special,
            size,
            blocks,
            accessed,
            modified,
            changed,
            born,
        })
    }

    /// Type, as far as the fid tells, or all of the mode.
    ///
    /// # Errors
    /// As for [`Self::metadata`].
    pub fn mode(&self) -> Result<u32> {
        Ok(self.metadata()?.mode)
    }

    /// The file of this name in it, and whether it is a symbolic link.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<(Inode, bool)> {
        let fid = self.client().new_fid();
        let qid = self.volume.walk(self.fid, fid, Some(name))?;
        let node = self.volume.node(fid, qid, Some(self.clone()))?;
        Ok((Inode::Volume(node), qid.0 == QID_SYMLINK))
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(self: &Arc<Self>) -> Arc<Self> {
        self.parent.lock().as_ref().unwrap_or(self).clone()
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL if it is none.
    pub fn target(&self) -> Result<Vec<u8>> {
        let request = Request::new().u32(self.fid)?;
        let mut answer = self.client().call(kind::READLINK, request, 2 * PAGE_SIZE)?;
        let length = answer.u16()?;
        Ok(Vec::from(answer.bytes(length.into())?))
    }

    /// A fid that is open.
    ///
    /// # Errors
    /// What the host says: EACCES, EROFS.
    pub fn opened(&self, write: bool) -> Result<u32> {
        let slot = if write { &self.writing } else { &self.reading };
        let writing = self.writing.load(Ordering::Acquire);
        if writing != NONE {
            return Ok(writing);
        }
        let known = slot.load(Ordering::Acquire);
        if known != NONE {
            return Ok(known);
        }
        let fid = self.client().new_fid();
        self.volume.walk(self.fid, fid, None)?;
        let flags = match self.qid.0 {
            QID_DIRECTORY => O_DIRECTORY,
            _ if write => O_RDWR,
            _ => O_RDONLY,
        };
        let request = Request::new().u32(fid)?.u32(flags)?;
        if let Err(error) = self.client().call(kind::LOPEN, request, SHORT) {
            self.client().give_back(fid);
            return Err(error);
        }
        match slot.compare_exchange(NONE, fid, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(fid),
            // Someone else was quicker.
            Err(other) => {
                self.client().give_back(fid);
                Ok(other)
            }
        }
    }

    /// Lists a directory; positions are the host's.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn list(
        &self,
        mut position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        if self.qid.0 != QID_DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        // A fid of its own: a listing has a position on the host.
        let fid = self.opened(false)?;
        loop {
            let count = 2 * PAGE_SIZE - DATA_OVERHEAD;
            let request = Request::new()
                .u32(fid)?
                .u64(position)?
                .u32(u32::try_from(count).map_err(|_| Errno::EIO)?)?;
            let mut answer = self.client().call(kind::READDIR, request, 2 * PAGE_SIZE)?;
            let _count = answer.u32()?;
            if answer.is_empty() {
                return Ok(());
            }
            while !answer.is_empty() {
                let (_, _, number) = answer.qid()?;
                let (next, kind, length) = (answer.u64()?, answer.u8()?, answer.u16()?);
                let name = answer.bytes(length.into())?;
                if name != b"." && name != b".." && !each(&Listed { name, number, kind }, next) {
                    return Ok(());
                }
                position = next;
            }
        }
    }

    fn data_request(fid: u32, offset: u64, count: usize) -> Result<Request> {
        let count = u32::try_from(count).map_err(|_| Errno::EIO)?;
        Request::new().u32(fid)?.u64(offset)?.u32(count)
    }

    fn check_content(&self) -> Result<()> {
        match self.qid.0 {
            QID_DIRECTORY => Err(Errno::EISDIR),
            QID_SYMLINK => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    /// Reads until the buffer is full or the file ends.
    ///
    /// # Errors
    /// EISDIR, EFAULT, what the host says.
    pub fn read(&self, offset: u64, buffer: &mut UserWriter) -> Result<usize> {
        let mut done = 0;
        while buffer.remaining() > 0 {
            let wanted = buffer.remaining().min(MAX_DATA);
            let step = self.read_once(offset.saturating_add(done as u64), wanted);
            let count = match step.and_then(|mut answer| {
                let count = usize::try_from(answer.u32()?).map_err(|_| Errno::EIO)?;
                buffer.write_slice(answer.bytes(count)?)
            }) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            done += count;
        }
        Ok(done)
    }

    fn read_once(&self, offset: u64, count: usize) -> Result<Answer> {
        self.check_content()?;
        let request = Self::data_request(self.opened(false)?, offset, count)?;
        self.client().call(kind::READ, request, DATA_OVERHEAD + count)
    }

    /// The same into the kernel's memory.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn read_bytes(&self, offset: u64, target: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < target.len() {
            let wanted = (target.len() - done).min(MAX_DATA);
            let mut answer = self.read_once(offset.saturating_add(done as u64), wanted)?;
            let count = usize::try_from(answer.u32()?).map_err(|_| Errno::EIO)?;
            if count == 0 {
                break;
            }
            let bytes = answer.bytes(count)?;
            target.get_mut(done..done + count).ok_or(Errno::EIO)?.copy_from_slice(bytes);
            done += count;
        }
        Ok(done)
    }

    /// Writes at an offset, or at the end; returns where, too.
    ///
    /// # Errors
    /// What the host says: EROFS, ENOSPC, EFBIG; EFAULT.
    pub fn write(&self, offset: Option<u64>, data: &mut impl Source) -> Result<(u64, usize)> {
        self.check_content()?;
        let fid = self.opened(true)?;
        let start = offset.map_or_else(|| self.metadata().map(|metadata| metadata.size), Ok)?;
        super::size_limit::clip(start, data)?;
        let mut done = 0;
        while data.remaining() > 0 {
            let step = self.write_once(fid, start.saturating_add(done as u64), data);
            match step {
                Ok((0, _)) => break,
                Ok((count, whole)) => {
                    done += count;
                    if !whole {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        // Mapped pages are of what was there before.
        self.pages.lock().clear();
        Ok((start, done))
    }

    fn write_once(&self, fid: u32, at: u64, data: &mut impl Source) -> Result<(usize, bool)> {
        let wanted = data.remaining().min(MAX_DATA - PAGE_SIZE);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(wanted).map_err(|_| Errno::ENOMEM)?;
        let count = data.read_to_vec(&mut bytes, wanted)?;
        let request = Self::data_request(fid, at, count)?.data(&bytes)?;
        let mut answer = self.client().call(kind::WRITE, request, SHORT)?;
        let written = usize::try_from(answer.u32()?).map_err(|_| Errno::EIO)?;
        Ok((written.min(count), written == count))
    }

    /// A page to be mapped: privately, or shared and only read. Page faults do not sleep.
    ///
    /// # Errors
    /// EFAULT beyond the end, ENODEV to be written to, EIO.
    pub fn page(&self, index: u64, write: bool) -> Result<Page> {
        if write || self.check_content().is_err() {
            return Err(Errno::ENODEV);
        }
        if let Some(frame) = self.pages.lock().get(&index) {
            return Ok(Page::Frame(frame.clone()));
        }
        let mut fid = self.writing.load(Ordering::Acquire);
        if fid == NONE {
            fid = self.reading.load(Ordering::Acquire);
        }
        if fid == NONE {
            return Err(Errno::EIO);
        }
        let wanted = READ_AHEAD * PAGE_SIZE;
        let request = Self::data_request(fid, index.saturating_mul(PAGE), wanted)?;
        let mut answer = self.client().call_awake(kind::READ, &request, DATA_OVERHEAD + wanted)?;
        let count = usize::try_from(answer.u32()?).map_err(|_| Errno::EIO)?;
        let mut parts = answer.bytes(count)?.chunks(PAGE_SIZE);
        let copy_of = |part: &[u8]| {
            let frame = Frame::allocate(Content::Zeroes)?;
            frame.write(0, part);
            Ok(frame)
        };
        let first: Frame = copy_of(parts.next().ok_or(Errno::EFAULT)?)?;
        let mut pages = self.pages.lock();
        pages.insert(index, first.clone());
        for (index, part) in (index + 1..).zip(parts) {
            if let Entry::Vacant(slot) = pages.entry(index) {
                // What there is no memory for now may never be needed.
                let Ok::<_, Errno>(frame) = copy_of(part) else { break };
                slot.insert(frame);
            }
        }
        Ok(Page::Frame(first))
    }

    /// Before the file is mapped: opens it, and forgets pages of what has changed.
    ///
    /// # Errors
    /// What the host says.
    pub fn prepare(&self, write: bool) -> Result<()> {
        self.opened(write)?;
        self.metadata().map(|_| ())
    }

    /// Tsetattr.
    fn set(
        &self,
        valid: u32,
        mode: u32,
        ids: [u32; 2],
        size: u64,
        at: [Timestamp; 2],
    ) -> Result<()> {
        // The fid that is open for writing may change the length whatever the permissions are now.
        let writing = self.writing.load(Ordering::Acquire);
        let fid = if valid & set::SIZE != 0 && writing != NONE { writing } else { self.fid };
        let mut request = Request::new().u32(fid)?.u32(valid)?.u32(mode)?;
        request = request.u32(ids[0])?.u32(ids[1])?.u64(size)?;
        for time in at {
            request = request.u64(time.seconds.cast_unsigned())?.u64(time.nanoseconds.into())?;
        }
        self.client().call(kind::SETATTR, request, SHORT).map(|_| ())
    }

    /// Sets the length.
    ///
    /// # Errors
    /// What the host says.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.check_content()?;
        super::size_limit::check(self.metadata()?.size, size)?;
        self.set(set::SIZE, 0, [0; 2], size, [Timestamp::default(); 2])?;
        self.pages.lock().clear();
        Ok(())
    }

    /// Sets the permission bits.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_permissions(&self, mode: u32) -> Result<()> {
        self.set(set::MODE, mode, [0; 2], 0, [Timestamp::default(); 2])
    }

    /// Changes owner, group or times.
    ///
    /// # Errors
    /// What the host says.
    pub fn change_attributes(&self, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        let now = self.metadata()?;
        let mut new = Attributes {
            mode: now.mode,
            links: now.links,
            user: now.user,
            group: now.group,
            accessed: now.accessed,
            modified: now.modified,
            changed: now.changed,
            born: now.born,
        };
        change(&mut new);
        let mut valid = 0;
        for (differs, bits) in [
            (new.user != now.user, set::UID),
            (new.group != now.group, set::GID),
            (new.accessed != now.accessed, set::ATIME | set::ATIME_SET),
            (new.modified != now.modified, set::MTIME | set::MTIME_SET),
        ] {
            valid |= if differs { bits } else { 0 };
        }
        if valid == 0 {
            return Ok(());
        }
        self.set(valid, 0, [new.user, new.group], 0, [new.accessed, new.modified])
    }

    /// Asks the host to write the file to its disk.
    ///
    /// # Errors
    /// What the host says.
    pub fn synchronise(&self) -> Result<()> {
        let request = Request::new().u32(self.opened(false)?)?.u32(0)?;
        self.client().call(kind::FSYNC, request, SHORT).map(|_| ())
    }

    /// Blocks: their size, all, free, available; files: all, free; as statfs(2) tells.
    ///
    /// # Errors
    /// What the host says.
    pub fn file_system_status(&self) -> Result<[u64; 6]> {
        let request = Request::new().u32(self.fid)?;
        let mut answer = self.client().call(kind::STATFS, request, SHORT)?;
        let _kind = answer.u32()?;
        let block = answer.u32()?;
        let mut next = || answer.u64();
        Ok([block.into(), next()?, next()?, next()?, next()?, next()?])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for fid in [self.fid, *self.reading.get_mut(), *self.writing.get_mut()] {
            if fid != NONE {
                self.volume.client.give_back(fid);
            }
        }
        let mut nodes = self.volume.nodes.lock();
        // Someone may have found the file again meanwhile.
        if nodes.get(&self.qid.1).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&self.qid.1);
        }
        drop(nodes);
        // One by one: a path can be longer than a stack is deep.
        let mut above = self.parent.get_mut().take();
        while let Some(parent) = above {
            above = Arc::into_inner(parent).and_then(|mut node| node.parent.get_mut().take());
        }
    }
}
