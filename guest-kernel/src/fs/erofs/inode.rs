//! Inodes of an EROFS image: attributes, and where the data is.

use super::super::metadata::{
    Metadata, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Timestamp,
};
use super::{BLOCK_BITS, Image, SLOT, i64_at, u16_at, u32_at, u64_at};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, PAGE_SIZE, PhysAddr, SharedBytes, page_floor, usize_from};
use alloc::vec::Vec;

/// Longest target of a symbolic link, without its NUL.
const MAX_TARGET: u64 = 4095;
/// In a chunk's entry: there is no data.
const HOLE: u32 = u32::MAX;
/// In a chunk-based file's format: entries are indexes of 8 bytes, not block addresses of 4.
const CHUNK_INDEXES: u16 = 0x20;
/// In the same: how many blocks a chunk has, as a logarithm.
const CHUNK_BITS: u16 = 0x1f;

/// How a file's data is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Consecutive blocks from this one.
    Plain(u32),
    /// The same, but the bytes after the last full block follow the inode.
    Inline(u32),
    /// Each chunk has its place in a table that follows the inode.
    Chunks { bits: u8, indexes: bool },
    /// No data (devices, FIFOs, sockets): the number of the device.
    Special(u32),
}

/// An inode, as far as walking and reading need it.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    number: u64,
    mode: u16,
    extended: bool,
    layout: Layout,
    size: u64,
    /// Offset in the image of what follows the inode and its extended attributes.
    tail: u64,
}

/// Where a page of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// A whole page of the image, at this offset.
    Page(u64),
    /// These bytes of the image, which do not begin a page; zeroes follow.
    Part {
        /// Offset in the image.
        offset: u64,
        /// How many bytes there are.
        len: usize,
    },
    /// Nowhere: it reads as zeroes.
    Hole,
}

/// A piece of a file's data.
#[derive(Clone, Copy)]
pub enum Run {
    /// These bytes of the image.
    Bytes(SharedBytes<'static>),
    /// This many zeroes.
    Zeroes(usize),
}

impl Inode {
    pub(super) fn read(image: &Image, number: u64) -> Result<Self> {
        let offset = number
            .checked_mul(SLOT)
            .and_then(|bytes| bytes.checked_add(image.inodes))
            .ok_or(Errno::EUCLEAN)?;
        let raw = image.bytes(offset, 32)?;
        let format = u16_at(raw, 0)?;
        let extended = format & 1 != 0;
        let mode = u16_at(raw, 4)?;
        let (size, header) =
            if extended { (u64_at(raw, 8)?, 64) } else { (u64::from(u32_at(raw, 8)?), 32) };
        let attributes = match u64::from(u16_at(raw, 2)?) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        if i64::try_from(size).is_err() || format >> 4 != 0 {
            return Err(Errno::EUCLEAN);
        }
        let data = u32_at(raw, 16)?;
        let layout = match (u32::from(mode) & S_IFMT, format >> 1) {
            (S_IFBLK | S_IFCHR, _) => Layout::Special(data),
            (_, 0) => Layout::Plain(data),
            (_, 2) => Layout::Inline(data),
            (_, 4) => {
                let chunk = u16_at(raw, 16)?;
                if chunk & !(CHUNK_INDEXES | CHUNK_BITS) != 0 {
                    return Err(Errno::EUCLEAN);
                }
                let [bits, _] = (chunk & CHUNK_BITS).to_le_bytes();
                Layout::Chunks { bits: bits + BLOCK_BITS, indexes: chunk & CHUNK_INDEXES != 0 }
            }
            // Compressed: no writer of ours makes them.
            (_, 1 | 3) => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EUCLEAN),
        };
        Ok(Self { number, mode, extended, layout, size, tail: offset + header + attributes })
    }

    /// The number, which `stat(2)` shows.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Type and permissions.
    pub fn mode(&self) -> u32 {
        self.mode.into()
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode() & S_IFMT == S_IFDIR
    }

    /// The rest of the attributes.
    ///
    /// # Errors
    /// EUCLEAN if the inode does not lie in the image.
    pub fn metadata(&self, image: &Image) -> Result<Metadata> {
        let offset = image.inodes + self.number * SLOT;
        let raw = image.bytes(offset, if self.extended { 64 } else { 32 })?;
        let (user, group, links, modified) = if self.extended {
            let nanoseconds = u32_at(raw, 40)?.min(999_999_999);
            let modified = Timestamp { seconds: i64_at(raw, 32)?, nanoseconds };
            (u32_at(raw, 24)?, u32_at(raw, 28)?, u32_at(raw, 44)?, modified)
        } else {
            let links = u16_at(raw, 6)?.into();
            (u16_at(raw, 24)?.into(), u16_at(raw, 26)?.into(), links, image.built)
        };
        let special = match self.layout {
            Layout::Special(device) => device.into(),
            _ => 0,
        };
        Ok(Metadata {
            number: self.number,
            mode: self.mode(),
            links,
            user,
            group,
            special,
            size: self.size,
            blocks: self.size.div_ceil(512),
            accessed: modified,
            modified,
            changed: modified,
            born: modified,
            ..Metadata::default()
        })
    }

    /// Where page `index` of the data is; a hole beyond the end.
    ///
    /// # Errors
    /// EUCLEAN if the file's map is damaged, ENODEV if the data is on another device.
    pub fn locate(&self, image: &Image, index: u64) -> Result<Location> {
        let position = index.checked_mul(PAGE).ok_or(Errno::EUCLEAN)?;
        if position >= self.size {
            return Ok(Location::Hole);
        }
        let left = self.size - position;
        let page = |block: u64| {
            let offset = block.checked_mul(PAGE).ok_or(Errno::EUCLEAN)?;
            // The last page may be cut off where the image ends.
            image.bytes(offset, usize_from(left.min(PAGE)))?;
            Ok(Location::Page(offset))
        };
        match self.layout {
            Layout::Plain(block) => page(u64::from(block) + index),
            Layout::Inline(block) if left >= PAGE => page(u64::from(block) + index),
            Layout::Inline(_) => {
                let len = usize_from(left);
                if usize_from(self.tail % PAGE) + len > PAGE_SIZE {
                    return Err(Errno::EUCLEAN);
                }
                image.bytes(self.tail, len)?;
                Ok(Location::Part { offset: self.tail, len })
            }
            Layout::Chunks { bits, indexes } => {
                let chunk = position.checked_shr(bits.into()).unwrap_or(0);
                let inside = index & ((1 << (bits - BLOCK_BITS)) - 1);
                let block = if indexes {
                    let entry = image.bytes(self.tail.next_multiple_of(8) + chunk * 8, 8)?;
                    if u16_at(entry, 2)? != 0 {
                        return Err(Errno::ENODEV);
                    }
                    u32_at(entry, 4)?
                } else {
                    u32_at(image.bytes(self.tail.next_multiple_of(4) + chunk * 4, 4)?, 0)?
                };
                if block == HOLE { Ok(Location::Hole) } else { page(u64::from(block) + inside) }
            }
            Layout::Special(_) => Ok(Location::Hole),
        }
    }

    /// Where the page at `index` of a plainly stored regular file lies, and how many pages are left.
    pub fn page_run(&self, image: &Image, index: u64) -> Option<(PhysAddr, u64)> {
        let Layout::Plain(block) = self.layout else { return None };
        let pages = self.size.div_ceil(PAGE);
        if index >= pages || self.mode() & S_IFMT != S_IFREG {
            return None;
        }
        let offset = (u64::from(block) + index).checked_mul(PAGE)?;
        image.bytes(offset, usize_from(self.size - index * PAGE)).ok()?;
        Some((image.address(offset), pages - index))
    }

    /// The bytes of page `index` up to the end of the file; empty for a hole.
    ///
    /// # Errors
    /// As for [`Self::locate`].
    pub fn page_bytes(&self, image: &Image, index: u64) -> Result<SharedBytes<'static>> {
        let left = self.size.saturating_sub(index.saturating_mul(PAGE)).min(PAGE);
        match self.locate(image, index)? {
            Location::Page(offset) => image.bytes(offset, usize_from(left)),
            Location::Part { offset, len } => image.bytes(offset, len),
            Location::Hole => Ok(SharedBytes::from_slice(&[])),
        }
    }

    /// As many bytes in one piece as there are from `position` on, at most `len`. Empty at the end.
    ///
    /// # Errors
    /// As for [`Self::locate`].
    pub fn run(&self, image: &Image, position: u64, len: usize) -> Result<Run> {
        let left = usize_from(self.size.saturating_sub(position)).min(len);
        let whole = match self.layout {
            Layout::Plain(block) => Some((block, left)),
            // The blocks before the inline rest.
            Layout::Inline(block) => {
                let blocks_end = page_floor(self.size);
                let before = usize_from(blocks_end.saturating_sub(position)).min(left);
                (before > 0).then_some((block, before))
            }
            Layout::Chunks { .. } | Layout::Special(_) => None,
        };
        if left == 0 {
            return Ok(Run::Bytes(SharedBytes::from_slice(&[])));
        }
        if let Some((block, len)) = whole {
            return image.bytes(u64::from(block) * PAGE + position, len).map(Run::Bytes);
        }
        let inside = usize_from(position % PAGE);
        let bytes = self.page_bytes(image, position / PAGE)?;
        Ok(if bytes.is_empty() {
            Run::Zeroes(left.min(PAGE_SIZE - inside))
        } else {
            Run::Bytes(bytes.part(inside, left))
        })
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL if it is none, EUCLEAN if it is damaged, ENOMEM.
    pub fn target(&self, image: &Image) -> Result<Vec<u8>> {
        if self.mode() & S_IFMT != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        if self.size == 0 || self.size > MAX_TARGET {
            return Err(Errno::EUCLEAN);
        }
        let bytes = self.page_bytes(image, 0)?;
        if bytes.len() as u64 != self.size {
            return Err(Errno::EUCLEAN);
        }
        let mut target = Vec::new();
        target.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        target.resize(bytes.len(), 0);
        bytes.copy_to(&mut target);
        Ok(target)
    }
}
