//! Directories of an EROFS image.
//!
//! Each block of a directory's data begins with its entries, 12 bytes each, followed by the names in
//! the same order. Names ascend bytewise within and across blocks, so that a name is found by a
//! binary search over the blocks' first names and then within one block.

use super::{Image, Inode, u16_at, u64_at};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, SharedBytes, usize_from};
use core::cmp::Ordering;

/// Bytes of an entry: inode number (8), offset of its name in the block (2), file type, unused.
const ENTRY: usize = 12;
const MAX_NAME: usize = 255;

/// A name and what it stands for.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Inode number.
    pub number: u64,
    /// File type in EROFS's numbering: 1 regular, 2 directory, 3 character, 4 block, 5 FIFO,
    /// 6 socket, 7 symbolic link.
    pub kind: u8,
    /// The name, not terminated.
    pub name: SharedBytes<'static>,
}

impl Entry {
    /// Whether it is a symbolic link.
    pub const fn is_link(&self) -> bool {
        self.kind == 7
    }

    /// The file type as `d_type` has it; 0 ("unknown") for one that does not exist.
    pub fn directory_type(&self) -> u8 {
        const TYPES: [u8; 8] = [0, 8, 4, 2, 6, 1, 12, 10];
        TYPES.get(usize::from(self.kind)).copied().unwrap_or(0)
    }
}

/// One block of a directory.
struct Block {
    bytes: SharedBytes<'static>,
    count: usize,
}

impl Block {
    fn read(image: &Image, directory: &Inode, index: u64) -> Result<Self> {
        let bytes = directory.page_bytes(image, index)?;
        let names = usize::from(u16_at(bytes, 8)?);
        let count = names / ENTRY;
        if count == 0 || !names.is_multiple_of(ENTRY) || names > bytes.len() {
            return Err(Errno::EUCLEAN);
        }
        Ok(Self { bytes, count })
    }

    fn name(&self, index: usize) -> Result<SharedBytes<'static>> {
        let at = index * ENTRY;
        let start = usize::from(u16_at(self.bytes, at + 8)?);
        let is_last = index + 1 >= self.count;
        let end = if is_last {
            self.bytes.len()
        } else {
            usize::from(u16_at(self.bytes, at + ENTRY + 8)?)
        };
        if start < self.count * ENTRY || end < start || end > self.bytes.len() {
            return Err(Errno::EUCLEAN);
        }
        let mut len = end - start;
        if is_last {
            // The last name ends at the block's end or at a NUL before it.
            let limit = len.min(MAX_NAME + 1);
            len = (0..limit).find(|&at| self.bytes.read(start + at) == Some([0])).unwrap_or(limit);
        }
        if len == 0 || len > MAX_NAME {
            return Err(Errno::EUCLEAN);
        }
        Ok(self.bytes.part(start, len))
    }

    fn entry(&self, index: usize) -> Result<Entry> {
        self.entry_named(index, self.name(index)?)
    }

    fn entry_named(&self, index: usize, name: SharedBytes<'static>) -> Result<Entry> {
        let at = index * ENTRY;
        let [kind] = self.bytes.read(at + 10).ok_or(Errno::EUCLEAN)?;
        Ok(Entry { number: u64_at(self.bytes, at)?, kind, name })
    }
}

/// Compares a name in the image with a program's, bytewise, eight bytes at a time.
fn compare(name: SharedBytes<'_>, with: &[u8]) -> Ordering {
    let mut at = 0;
    while let (Some(ours), Some(theirs)) =
        (name.read::<8>(at), with.get(at..).and_then(<[u8]>::first_chunk::<8>))
    {
        let order = u64::from_be_bytes(ours).cmp(&u64::from_be_bytes(*theirs));
        if order != Ordering::Equal {
            return order;
        }
        at += 8;
    }
    while let (Some([ours]), Some(theirs)) = (name.read(at), with.get(at)) {
        let order = ours.cmp(theirs);
        if order != Ordering::Equal {
            return order;
        }
        at += 1;
    }
    name.len().cmp(&with.len())
}

impl Inode {
    fn directory_blocks(&self) -> Result<u64> {
        if self.is_directory() { Ok(self.size().div_ceil(PAGE)) } else { Err(Errno::ENOTDIR) }
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// ENOENT if there is none, ENOTDIR, EUCLEAN.
    pub fn find(&self, image: &Image, name: &[u8]) -> Result<Entry> {
        let block = match self.directory_blocks()? {
            1 => Block::read(image, self, 0)?,
            blocks => self.find_block(image, blocks, name)?,
        };
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let other = block.name(middle)?;
            match compare(other, name) {
                Ordering::Equal => return block.entry_named(middle, other),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(Errno::ENOENT)
    }

    /// The last block whose first name is not above the one that is wanted.
    fn find_block(&self, image: &Image, blocks: u64, name: &[u8]) -> Result<Block> {
        let (mut low, mut high) = (0, blocks);
        let mut found = None;
        while low < high {
            let middle = u64::midpoint(low, high);
            let block = Block::read(image, self, middle)?;
            if compare(block.name(0)?, name) == Ordering::Greater {
                high = middle;
            } else {
                low = middle + 1;
                found = Some(block);
            }
        }
        found.ok_or(Errno::ENOENT)
    }

    /// Gives the entries from `position` (0 at first, then what `each` was last given) to `each`,
    /// with the position after each, until it returns false. `.` and `..` are among them.
    ///
    /// # Errors
    /// ENOTDIR, EUCLEAN.
    pub fn entries(
        &self,
        image: &Image,
        position: u64,
        mut each: impl FnMut(Entry, u64) -> bool,
    ) -> Result<()> {
        // A position is the number of a block and of an entry in it.
        let blocks = self.directory_blocks()?;
        let mut first = usize_from(position & 0xfff);
        for index in position >> 12..blocks {
            let block = Block::read(image, self, index)?;
            for at in first..block.count {
                let next = if at + 1 == block.count {
                    (index + 1) << 12
                } else {
                    (index << 12) + at as u64 + 1
                };
                if !each(block.entry(at)?, next) {
                    return Ok(());
                }
            }
            first = 0;
        }
        Ok(())
    }
}
