//! Content of a regular file in memory, or of a file of the image that was written to.
//!
//! A file of the image that is changed keeps using the image for every page that was not written:
//! only what differs takes memory.
//!
//! A program's memory is copied with the lock released, as the copy may fault and the page come from
//! this very file. What the copy works on is a reference to a frame, which stays valid by itself.

use super::memfd::Memfd;
use super::pages::Pages;
use crate::errno::{Errno, Result};
use crate::fs::erofs::{self, Image, Location};
use crate::fs::source::Source;
use crate::fs::usage::Usage;
use crate::memory::{Content, Frame, PAGE, PAGE_SIZE, Page, SharedBytes, UserWriter, usize_from};
use crate::sched::WaitQueue;
use crate::sched::turn::{Taken, Turn};
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::vec::Vec;
use linux_raw_sys::general::{F_SEAL_FUTURE_WRITE, F_SEAL_WRITE};

/// Those who seal files and wait for others to have written.
static WRITERS: WaitQueue = WaitQueue::new();
/// No file is longer, as offsets are signed.
const MAX_SIZE: u64 = i64::MAX.cast_unsigned();

/// Pages of the image below a file.
#[derive(Clone, Copy)]
struct Lower {
    image: Image,
    inode: erofs::Inode,
    /// Bytes that still count: fewer than the image's file has once it was truncated.
    len: u64,
}

impl Lower {
    fn bytes(&self, index: u64) -> Result<Option<SharedBytes<'static>>> {
        if index.saturating_mul(PAGE) >= self.len {
            return Ok(None);
        }
        let bytes = self.inode.page_bytes(&self.image, index)?;
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

struct Data {
    pages: Pages,
    size: u64,
    lower: Option<Lower>,
    /// What only a file of `memfd_create` has.
    memfd: Option<Box<Memfd>>,
}

/// A regular file's content.
pub struct File {
    data: SpinLock<Data>,
    /// Who changes the content or the length by system calls.
    changing: Turn,
    usage: &'static Usage,
}

/// A piece of content, at most a page.
enum Piece {
    Frame(Frame, usize, usize),
    Image(SharedBytes<'static>),
    Zeroes(usize),
}

impl Data {
    fn piece(&self, position: u64, limit: usize) -> Result<Piece> {
        let index = position / PAGE;
        let inside = usize_from(position % PAGE);
        let left = usize_from(self.size.saturating_sub(position));
        let len = left.min(limit).min(PAGE_SIZE - inside);
        if let Some(frame) = self.pages.get(index) {
            return Ok(Piece::Frame(frame.clone(), inside, len));
        }
        let lower = match &self.lower {
            Some(lower) => lower.bytes(index)?,
            None => None,
        };
        let part = lower.map_or(SharedBytes::from_slice(&[]), |bytes| bytes.part(inside, len));
        Ok(if part.is_empty() { Piece::Zeroes(len) } else { Piece::Image(part) })
    }

    /// The frame of a page, which is made from the image's page or zeroes if there is none yet.
    fn frame(&mut self, index: u64, usage: &'static Usage) -> Result<Frame> {
        if let Some(frame) = self.pages.get(index) {
            return Ok(frame.clone());
        }
        let lower = match &self.lower {
            Some(lower) => lower.bytes(index)?,
            None => None,
        };
        let frame = new_frame(lower, usage)?;
        self.insert(index, frame, usage)
    }

    fn insert(&mut self, index: u64, frame: Frame, usage: &'static Usage) -> Result<Frame> {
        if let Err(error) = self.pages.insert(index, frame.clone()) {
            usage.release(PAGE);
            return Err(error);
        }
        Ok(frame)
    }
}

/// A frame for a page that had this content; the page is accounted for.
fn new_frame(content: Option<SharedBytes<'static>>, usage: &'static Usage) -> Result<Frame> {
    usage.charge(PAGE)?;
    let kind = if content.is_some() { Content::Overwritten } else { Content::Zeroes };
    match Frame::allocate(kind) {
        Ok(frame) => {
            if let Some(bytes) = content {
                frame.copy_page(bytes);
            }
            Ok(frame)
        }
        Err(error) => {
            usage.release(PAGE);
            Err(error)
        }
    }
}

impl File {
    /// An empty file.
    pub const fn new(usage: &'static Usage) -> Self {
        let data = Data { pages: Pages::EMPTY, size: 0, lower: None, memfd: None };
        Self { data: SpinLock::new(data), changing: Turn::new(), usage }
    }

    /// A file with the content of one of the image.
    pub const fn over(usage: &'static Usage, image: Image, inode: erofs::Inode) -> Self {
        let size = inode.size();
        let lower = Some(Lower { image, inode, len: size });
        let data = Data { pages: Pages::EMPTY, size, lower, memfd: None };
        Self { data: SpinLock::new(data), changing: Turn::new(), usage }
    }

    /// Makes it a file of `memfd_create(2)`, with a label to show and these seals.
    pub fn make_memfd(&self, label: Vec<u8>, seals: u32) {
        self.data.lock().memfd = Some(Box::new(Memfd { label, seals, mapped: 0, writing: 0 }));
    }

    /// What it is called, if it is a file of `memfd_create(2)`.
    pub fn label(&self) -> Option<Vec<u8>> {
        self.data.lock().memfd.as_ref().map(|memfd| memfd.label.clone())
    }

    /// Its seals (`F_GET_SEALS`).
    ///
    /// # Errors
    /// EINVAL if it cannot be sealed.
    pub fn seals(&self) -> Result<u32> {
        let data = self.data.lock();
        Ok(data.memfd.as_ref().ok_or(Errno::EINVAL)?.seals)
    }

    /// Adds seals (`F_ADD_SEALS`).
    ///
    /// # Errors
    /// EINVAL if it cannot be sealed, EPERM if it may not be sealed any more, EBUSY if it is mapped
    /// and may be written to, EINTR.
    pub fn add_seals(&self, add: u32, is_executable: bool) -> Result<()> {
        let sealed = {
            let mut data = self.data.lock();
            data.memfd.as_mut().ok_or(Errno::EINVAL)?.seal(add, is_executable)?
        };
        if sealed & F_SEAL_WRITE != 0 {
            // Whoever writes now may have begun before.
            crate::sched::wait_killable(&WRITERS, || {
                let data = self.data.lock();
                data.memfd.as_ref().is_none_or(|memfd| memfd.writing == 0).then_some(())
            })?;
        }
        Ok(())
    }

    /// Looks whether it may be mapped so that writes go to it, and counts it if so; nothing is to be
    /// counted if it cannot be sealed.
    ///
    /// # Errors
    /// EPERM if a seal is in the way.
    pub fn map_writable(&self) -> Result<bool> {
        match &mut self.data.lock().memfd {
            None => Ok(false),
            Some(memfd) if memfd.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 => {
                Err(Errno::EPERM)
            }
            Some(memfd) => {
                memfd.mapped += 1;
                Ok(true)
            }
        }
    }

    /// Such a mapping is gone.
    pub fn unmap_writable(&self) {
        if let Some(memfd) = &mut self.data.lock().memfd {
            memfd.mapped -= 1;
        }
    }

    /// Lets nobody else change the file by a system call as long as the result exists: for [`Self::write`],
    /// [`Self::truncate`], [`Self::allocate`] and [`Self::punch`]. As on Linux, writes do not mix.
    pub fn hold(&self) -> Taken<'_> {
        self.changing.take()
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.data.lock().size
    }

    /// Pages of memory or of the image that it consists of.
    pub fn page_count(&self) -> u64 {
        let data = self.data.lock();
        let lower = data.lower.map_or(0, |lower| lower.len.div_ceil(PAGE));
        data.pages.count().max(lower)
    }

    /// Reads from `offset` until the buffer is full or the file ends.
    ///
    /// # Errors
    /// EFAULT if nothing could be copied, EUCLEAN.
    pub fn read(&self, offset: u64, buffer: &mut UserWriter) -> Result<usize> {
        let mut done = 0;
        while buffer.remaining() > 0 {
            let piece = self.data.lock().piece(offset.saturating_add(done), buffer.remaining());
            let step = match piece {
                Ok(Piece::Frame(_, _, 0) | Piece::Zeroes(0)) => break,
                Ok(Piece::Frame(frame, inside, len)) => buffer.write(frame.bytes(inside, len)),
                Ok(Piece::Image(bytes)) => buffer.write(bytes),
                Ok(Piece::Zeroes(len)) => buffer.write_zeroes(len),
                Err(error) => Err(error),
            };
            match step {
                Ok(count) => done += count as u64,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(usize_from(done))
    }

    /// Copies bytes at `offset` to the kernel; fewer where the file ends.
    ///
    /// # Errors
    /// EUCLEAN.
    pub fn read_bytes(&self, offset: u64, target: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < target.len() {
            let rest = &mut target[done..];
            let piece = self.data.lock().piece(offset.saturating_add(done as u64), rest.len())?;
            done += match piece {
                Piece::Frame(_, _, 0) | Piece::Zeroes(0) => break,
                Piece::Frame(frame, inside, len) => frame.bytes(inside, len).copy_to(rest),
                Piece::Image(bytes) => bytes.copy_to(rest),
                Piece::Zeroes(len) => {
                    rest[..len].fill(0);
                    len
                }
            };
        }
        Ok(done)
    }

    /// Writes all of the data at `offset`, or as much as there is memory for.
    ///
    /// # Errors
    /// EFAULT, ENOSPC, EFBIG if nothing could be written.
    pub fn write(&self, offset: u64, data: &mut impl Source) -> Result<usize> {
        if data.remaining() > 0 && offset >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        data.limit(usize_from(MAX_SIZE - offset));
        let mut position = offset;
        while data.remaining() > 0 {
            match self.write_page(position, data) {
                Ok(0) => break,
                Ok(count) => position += count as u64,
                Err(error) if position == offset => return Err(error),
                Err(_) => break,
            }
        }
        Ok(usize_from(position - offset))
    }

    /// Writes up to the end of the page that `position` is in, if no seal is in the way.
    fn write_page(&self, position: u64, data: &mut impl Source) -> Result<usize> {
        let is_memfd = {
            let len = data.remaining().min(PAGE_SIZE - usize_from(position % PAGE)) as u64;
            let mut data = self.data.lock();
            let size = data.size;
            match &mut data.memfd {
                None => false,
                Some(memfd) => memfd.begin_write(position + len > size)?,
            }
        };
        let result = self.write_unsealed(position, data);
        if is_memfd {
            if let Some(memfd) = &mut self.data.lock().memfd {
                memfd.writing -= 1;
            }
            WRITERS.wake_all();
        }
        result
    }

    fn write_unsealed(&self, position: u64, data: &mut impl Source) -> Result<usize> {
        let index = position / PAGE;
        let inside = usize_from(position % PAGE);
        let want = data.remaining().min(PAGE_SIZE - inside);
        let (existing, below) = {
            let data = self.data.lock();
            let below = match &data.lower {
                Some(lower) => lower.bytes(index)?,
                None => None,
            };
            (data.pages.get(index).cloned(), below)
        };
        let count = match existing {
            Some(frame) => data.read_to_frame(&frame, inside, want)?,
            None if want == PAGE_SIZE => self.replace_page(index, below, data)?,
            None => {
                // Made before the copy, so that an error of the copy leaves no half-made page.
                let frame = self.data.lock().frame(index, self.usage).map_err(no_space)?;
                data.read_to_frame(&frame, inside, want)?
            }
        };
        let mut data = self.data.lock();
        data.size = data.size.max(position + count as u64);
        Ok(count)
    }

    /// Writes a whole page where there was no frame, without clearing or copying it before.
    fn replace_page(
        &self,
        index: u64,
        below: Option<SharedBytes<'static>>,
        data: &mut impl Source,
    ) -> Result<usize> {
        self.usage.charge(PAGE)?;
        let copied = Frame::allocate(Content::Overwritten)
            .map_err(no_space)
            .and_then(|frame| Ok((data.read_to_frame(&frame, 0, PAGE_SIZE)?, frame)));
        let (count, frame) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                self.usage.release(PAGE);
                return Err(error);
            }
        };
        if count < PAGE_SIZE {
            // The program's memory ended: the rest is what it was.
            let rest = below.map_or(SharedBytes::from_slice(&[]), |old| old.part(count, PAGE_SIZE));
            let kept = frame.fill(count, rest);
            frame.clear(count + kept, PAGE_SIZE);
        }
        let mut file = self.data.lock();
        let Some(other) = file.pages.get(index).cloned() else {
            file.insert(index, frame, self.usage)?;
            return Ok(count);
        };
        drop(file);
        // Someone else made the page in the meantime, and it may be mapped.
        self.usage.release(PAGE);
        other.fill(0, frame.bytes(0, count));
        Ok(count)
    }

    /// Sets the length.
    ///
    /// # Errors
    /// EFBIG, ENOSPC if a page of the image must be copied to be cut.
    pub fn truncate(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut data = self.data.lock();
        if let Some(memfd) = &data.memfd {
            memfd.check_size(data.size, size)?;
        }
        if size < data.size {
            let inside = usize_from(size % PAGE);
            let has_page = data.pages.get(size / PAGE).is_some()
                || data.lower.is_some_and(|lower| size < lower.len);
            if inside != 0 && has_page {
                let frame = data.frame(size / PAGE, self.usage).map_err(no_space)?;
                frame.clear(inside, PAGE_SIZE);
            }
            let removed = data.pages.remove(size.div_ceil(PAGE), u64::MAX / PAGE);
            self.usage.release(removed * PAGE);
            if let Some(lower) = &mut data.lower {
                lower.len = lower.len.min(size);
            }
        }
        data.size = size;
        Ok(())
    }

    /// Makes pages for a range, so that writing to it cannot fail for want of memory.
    ///
    /// # Errors
    /// ENOSPC, EFBIG.
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        let end = offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let last = end.div_ceil(PAGE);
        {
            let data = self.data.lock();
            if let Some(memfd) = &data.memfd {
                memfd.check_size(data.size, end.max(data.size))?;
            }
        }
        // Nothing is changed if it is clear that memory does not suffice.
        if !self.usage.has_room((last - offset / PAGE).saturating_mul(PAGE)) {
            return Err(Errno::ENOSPC);
        }
        for index in offset / PAGE..last {
            let mut data = self.data.lock();
            data.frame(index, self.usage).map_err(no_space)?;
        }
        let mut data = self.data.lock();
        if !keep_size {
            data.size = data.size.max(end);
        }
        Ok(())
    }

    /// Makes a range read as zeroes and frees its pages.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut data = self.data.lock();
        if let Some(memfd) = &data.memfd {
            memfd.check_write()?;
        }
        let end = offset.saturating_add(len).min(data.size.next_multiple_of(PAGE));
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        let clear = |from: u64, to: u64, data: &mut Data| -> Result<()> {
            let index = from / PAGE;
            let is_lower = data.lower.is_some_and(|lower| from < lower.len);
            if from < to && (data.pages.get(index).is_some() || is_lower) {
                let frame = data.frame(index, self.usage).map_err(no_space)?;
                frame.clear(usize_from(from % PAGE), usize_from(to - from));
            }
            Ok(())
        };
        if offset >= end {
            return Ok(());
        }
        if first > last {
            return clear(offset, end, &mut data);
        }
        clear(offset, first * PAGE, &mut data)?;
        clear(last * PAGE, end, &mut data)?;
        let lower_end = data.lower.map_or(0, |lower| lower.len.div_ceil(PAGE));
        // Where the image has a page, a hole has to be a page of zeroes.
        for index in first..last.min(lower_end) {
            data.frame(index, self.usage).map_err(no_space)?.clear(0, PAGE_SIZE);
        }
        let removed = data.pages.remove(first.max(lower_end), last);
        self.usage.release(removed * PAGE);
        Ok(())
    }

    /// A page to be mapped; see [`crate::memory::PageSource`].
    ///
    /// # Errors
    /// EFAULT beyond the end, ENOMEM, EUCLEAN.
    pub fn page(&self, index: u64, write: bool) -> Result<Page> {
        let mut data = self.data.lock();
        if index.checked_mul(PAGE).is_none_or(|position| position >= data.size) {
            return Err(Errno::EFAULT);
        }
        if let (Some(lower), None, false) = (&data.lower, data.pages.get(index), write)
            && index * PAGE < lower.len
            && let Location::Page(offset) = lower.inode.locate(&lower.image, index)?
        {
            return Ok(Page::Image(lower.image.address(offset)));
        }
        data.frame(index, self.usage).map(Page::Frame)
    }

    /// The next byte from `offset` that is (`SEEK_DATA`) or is not (`SEEK_HOLE`) stored.
    ///
    /// # Errors
    /// ENXIO beyond the end, or where no data follows.
    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let data = self.data.lock();
        if offset >= data.size {
            return Err(Errno::ENXIO);
        }
        let lower_pages = data.lower.map_or(0, |lower| lower.len.div_ceil(PAGE));
        let mut index = offset / PAGE;
        if hole {
            while index < lower_pages || data.pages.get(index).is_some() {
                index = (index + 1).max(lower_pages);
            }
        } else if index >= lower_pages {
            index = data.pages.next(index).ok_or(Errno::ENXIO)?;
        }
        let found = (index * PAGE).max(offset);
        if hole {
            Ok(found.min(data.size))
        } else if found < data.size {
            Ok(found)
        } else {
            Err(Errno::ENXIO)
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.usage.release(self.data.get_mut().pages.count() * PAGE);
    }
}

/// To a file, memory that is used up is a full disk.
fn no_space(error: Errno) -> Errno {
    if error == Errno::ENOMEM { Errno::ENOSPC } else { error }
}
