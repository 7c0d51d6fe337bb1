//! EROFS, the read-only file system of the root image, read in place.
//!
//! Files are uncompressed and their blocks are pages, so that a file's page *is* a page of the image
//! and can be mapped into a program without a copy. What is read: compact and extended inodes; the
//! layouts flat plain, flat inline and chunk-based; directories. Extended attributes are skipped.
//!
//! The image may come from anywhere: every number in it is checked where it is used, and a wrong one
//! is EUCLEAN ("structure needs cleaning"). The superblock's checksum is not compared, as it covers
//! 3 KiB of a memory slot that no disk has touched, and the checks have to be made anyway.
//!
//! The format is described in Linux's `Documentation/filesystems/erofs.rst`.

mod directory;
mod inode;

pub use directory::Entry;
pub use inode::{Inode, Location, Run};

use super::metadata::Timestamp;
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, PhysAddr, SharedBytes, usize_from};

/// Byte offset of the superblock.
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// log2 of the only block size that can be mapped: the page's.
const BLOCK_BITS: u8 = 12;
/// Inode numbers count slots of 32 bytes.
const SLOT: u64 = 32;

/// What a reader must understand ("incompatible features") and this one does.
mod feature {
    /// Compressed data is padded in front: says nothing about files that are not compressed.
    pub const ZERO_PADDING: u32 = 0x1;
    /// Some files are chunk-based.
    pub const CHUNKED_FILE: u32 = 0x4;
    /// Long prefixes of extended attributes, which are skipped.
    pub const XATTR_PREFIXES: u32 = 0x40;
    pub const ALL: u32 = ZERO_PADDING | CHUNKED_FILE | XATTR_PREFIXES;
}

/// A mounted image.
#[derive(Clone, Copy)]
pub struct Image {
    bytes: SharedBytes<'static>,
    start: PhysAddr,
    /// Offset of inode slot 0.
    inodes: u64,
    root: u64,
    blocks: u32,
    built: Timestamp,
}

impl Image {
    /// An image without a file: what is below a file system that is in memory alone.
    pub const EMPTY: Self = Self {
        bytes: SharedBytes::from_slice(&[]),
        start: PhysAddr(0),
        inodes: 0,
        root: 0,
        blocks: 0,
        built: Timestamp { seconds: 0, nanoseconds: 0 },
    };

    /// Checks the superblock. `start` is the guest-physical address of the bytes, page-aligned.
    ///
    /// # Errors
    /// EINVAL if this is no EROFS image or needs features that are not supported, EUCLEAN if its
    /// numbers contradict each other.
    pub fn open(bytes: SharedBytes<'static>, start: PhysAddr) -> Result<Self> {
        let superblock = bytes.part(SUPERBLOCK, 128);
        if superblock.len() < 128
            || u32_at(superblock, 0)? != MAGIC
            || !start.0.is_multiple_of(PAGE)
        {
            return Err(Errno::EINVAL);
        }
        let [block_bits] = superblock.read(12).ok_or(Errno::EUCLEAN)?;
        let [directory_block_bits] = superblock.read(90).ok_or(Errno::EUCLEAN)?;
        let unknown = u32_at(superblock, 80)? & !feature::ALL;
        if block_bits != BLOCK_BITS || directory_block_bits != 0 || unknown != 0 {
            return Err(Errno::EINVAL);
        }
        let blocks = u32_at(superblock, 36)?;
        // `blocks` may be 0 in images that are written in a stream; the bytes then say where it ends.
        if u64::from(blocks) * PAGE > (bytes.len() as u64).next_multiple_of(PAGE) {
            return Err(Errno::EUCLEAN);
        }
        let image = Self {
            bytes,
            start,
            inodes: u64::from(u32_at(superblock, 40)?) * PAGE,
            root: u64::from(u16_at(superblock, 14)?),
            blocks,
            built: Timestamp {
                seconds: i64_at(superblock, 24)?,
                nanoseconds: u32_at(superblock, 32)?.min(999_999_999),
            },
        };
        if image.inode(image.root)?.is_directory() { Ok(image) } else { Err(Errno::EUCLEAN) }
    }

    /// Number of the root directory's inode.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Blocks of 4096 bytes in the image.
    pub fn blocks(&self) -> u64 {
        if self.blocks == 0 { (self.bytes.len() as u64).div_ceil(PAGE) } else { self.blocks.into() }
    }

    /// An inode number that this image cannot use, and none above it.
    pub fn first_free_number(&self) -> u64 {
        self.bytes.len() as u64 / SLOT + 1
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// EUCLEAN if there is no inode with this number, or it is damaged.
    pub fn inode(&self, number: u64) -> Result<Inode> {
        Inode::read(self, number)
    }

    /// The guest-physical address of a byte of the image.
    pub fn address(&self, offset: u64) -> PhysAddr {
        PhysAddr(self.start.0.wrapping_add(offset))
    }

    /// `len` bytes of the image.
    ///
    /// # Errors
    /// EUCLEAN if they do not all lie in the image.
    pub fn bytes(&self, offset: u64, len: usize) -> Result<SharedBytes<'static>> {
        if offset > self.bytes.len() as u64 {
            return Err(Errno::EUCLEAN);
        }
        let part = self.bytes.part(usize_from(offset), len);
        if part.len() == len { Ok(part) } else { Err(Errno::EUCLEAN) }
    }
}

fn u16_at(bytes: SharedBytes<'_>, at: usize) -> Result<u16> {
    bytes.read(at).map(u16::from_le_bytes).ok_or(Errno::EUCLEAN)
}

fn u32_at(bytes: SharedBytes<'_>, at: usize) -> Result<u32> {
    bytes.read(at).map(u32::from_le_bytes).ok_or(Errno::EUCLEAN)
}

fn u64_at(bytes: SharedBytes<'_>, at: usize) -> Result<u64> {
    bytes.read(at).map(u64::from_le_bytes).ok_or(Errno::EUCLEAN)
}

fn i64_at(bytes: SharedBytes<'_>, at: usize) -> Result<i64> {
    bytes.read(at).map(i64::from_le_bytes).ok_or(Errno::EUCLEAN)
}

#[cfg(test)]
pub mod tests;
