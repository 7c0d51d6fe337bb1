//! The on-disk format of EROFS, as far as root images use it: uncompressed, no extended attributes.
//!
//! The Linux kernel documents it in `Documentation/filesystems/erofs.rst`; offsets and names here
//! are those of its on-disk structures. All numbers are little-endian.

/// Bytes of a block, and of a page: a file that begins a block can be mapped in place.
pub const BLOCK_SIZE: u64 = 4096;
/// Where the superblock is.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Bytes of the superblock.
pub const SUPERBLOCK_SIZE: u64 = 128;
/// Inode number (nid) *n* is at byte *n* times this.
pub const INODE_SLOT: u64 = 32;
/// Longest name of a directory entry.
pub const NAME_MAX: usize = 255;
/// Bytes of a directory entry, without its name.
pub const ENTRY_SIZE: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_SIZE_BITS: u8 = 12;
const EXTENDED: u16 = 1;
/// Block address of a file that has no blocks.
const NO_BLOCK: u32 = u32::MAX;

/// What a superblock says about an image.
pub struct Superblock {
    /// Inode number of the root directory.
    pub root: u16,
    /// How many inodes there are.
    pub inodes: u64,
    /// Blocks of the image.
    pub blocks: u32,
    /// Modification time of all compact inodes: seconds since 1970-01-01 00:00 UTC...
    pub seconds: u64,
    /// ...and nanoseconds.
    pub nanoseconds: u32,
}

impl Superblock {
    /// The superblock as it is stored, without a checksum.
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        bytes[12] = BLOCK_SIZE_BITS;
        put(&mut bytes, 14, &self.root.to_le_bytes());
        put(&mut bytes, 16, &self.inodes.to_le_bytes());
        put(&mut bytes, 24, &self.seconds.to_le_bytes());
        put(&mut bytes, 32, &self.nanoseconds.to_le_bytes());
        put(&mut bytes, 36, &self.blocks.to_le_bytes());
        put(&mut bytes, 64, b"airlock");
        bytes
    }
}

/// Where the data of an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// In consecutive blocks from this one on; `None` if there are none.
    Plain(Option<u32>),
    /// Behind the inode, in the same block.
    Inline,
}

/// A file's type, as the upper bits of its mode and as a directory entry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    const fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
        }
    }

    const fn in_entry(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Symlink => 7,
        }
    }
}

/// An inode, owned by root.
pub struct Inode {
    /// What it is.
    pub file_type: FileType,
    /// Permissions: the lower 12 bits of the mode.
    pub permissions: u16,
    /// Bytes of its data.
    pub size: u64,
    /// Where its data is.
    pub data: Data,
    /// A number for it that fits into 32 bits.
    pub number: u32,
    /// How many names it has.
    pub links: u32,
    /// Modification time in seconds and nanoseconds; `None` is the superblock's.
    pub modified: Option<(u64, u32)>,
}

impl Inode {
    /// Bytes that the inode takes: 32 or 64.
    pub fn stored_size(&self) -> u64 {
        if self.compact().is_some() { 32 } else { 64 }
    }

    /// Size and links, if the compact form can hold this inode.
    fn compact(&self) -> Option<(u32, u16)> {
        let size = u32::try_from(self.size).ok()?;
        let links = u16::try_from(self.links).ok()?;
        self.modified.is_none().then_some((size, links))
    }

    /// Stores the inode at the beginning of `bytes`.
    pub fn store(&self, bytes: &mut [u8]) {
        let (layout, address) = match self.data {
            Data::Plain(block) => (0, block.unwrap_or(NO_BLOCK)),
            Data::Inline => (2, 0),
        };
        let format = layout << 1;
        let mode = self.file_type.mode() | self.permissions;
        put(bytes, 4, &mode.to_le_bytes());
        put(bytes, 16, &address.to_le_bytes());
        put(bytes, 20, &self.number.to_le_bytes());
        if let Some((size, links)) = self.compact() {
            put(bytes, 0, &u16::to_le_bytes(format));
            put(bytes, 6, &links.to_le_bytes());
            put(bytes, 8, &size.to_le_bytes());
        } else {
            let (seconds, nanoseconds) = self.modified.unwrap_or_default();
            put(bytes, 0, &u16::to_le_bytes(format | EXTENDED));
            put(bytes, 8, &self.size.to_le_bytes());
            put(bytes, 32, &seconds.to_le_bytes());
            put(bytes, 40, &nanoseconds.to_le_bytes());
            put(bytes, 44, &self.links.to_le_bytes());
        }
    }
}

/// An entry of a directory.
#[derive(Clone, Copy)]
pub struct Entry<'name> {
    /// Its name, of 1 to [`NAME_MAX`] bytes.
    pub name: &'name [u8],
    /// Inode number (nid).
    pub inode: u64,
    /// What it names.
    pub file_type: FileType,
}

/// How many bytes a directory with entries of these names takes, and in how many it must be split
/// so that none crosses a block: the number of entries in each block.
pub fn directory_blocks(names: &[&[u8]]) -> (u64, Vec<usize>) {
    let block_size = to_usize(BLOCK_SIZE);
    let mut blocks = Vec::new();
    let (mut count, mut used) = (0, 0);
    for name in names {
        let needed = ENTRY_SIZE + name.len();
        if used + needed > block_size {
            blocks.push(count);
            (count, used) = (0, 0);
        }
        count += 1;
        used += needed;
    }
    blocks.push(count);
    let full = u64::try_from(blocks.len() - 1).unwrap_or(u64::MAX);
    (full * BLOCK_SIZE + u64::try_from(used).unwrap_or(u64::MAX), blocks)
}

/// Stores one block of a directory: the table of entries, then their names. `entries` are sorted.
pub fn store_entries(bytes: &mut [u8], entries: &[Entry<'_>]) {
    let mut name_offset = entries.len() * ENTRY_SIZE;
    for (index, entry) in entries.iter().enumerate() {
        let at = index * ENTRY_SIZE;
        put(bytes, at, &entry.inode.to_le_bytes());
        // A block has 4096 bytes, so the offset fits.
        put(bytes, at + 8, &u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        bytes[at + 10] = entry.file_type.in_entry();
        put(bytes, name_offset, entry.name);
        name_offset += entry.name.len();
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Airlock's hosts have 64-bit addresses.
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
