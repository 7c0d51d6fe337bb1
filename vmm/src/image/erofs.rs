//! The on-disk format of EROFS, as far as root images use it: uncompressed, extended attributes behind
//! their inodes.
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
    /// Behind the inode and its extended attributes, in one block.
    Inline,
    /// None: the number of a device (see [`device`]).
    Device(u32),
}

/// A file's type, as the upper bits of its mode and as a directory entry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    const fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharacterDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    const fn in_entry(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharacterDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// An inode.
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
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
    /// Bytes of the extended attributes behind it, as [`encode_attributes`] makes them.
    pub attributes: u64,
    /// Modification time in seconds and nanoseconds; `None` is the superblock's.
    pub modified: Option<(u64, u32)>,
}

impl Inode {
    /// Bytes that the inode takes, 32 or 64, without its extended attributes.
    pub fn header_size(&self) -> u64 {
        if self.compact().is_some() { 32 } else { 64 }
    }

    /// Bytes that the inode takes, with its extended attributes.
    pub fn stored_size(&self) -> u64 {
        self.header_size() + self.attributes
    }

    /// Size, links, user and group, if the compact form can hold this inode.
    fn compact(&self) -> Option<(u32, u16, u16, u16)> {
        let size = u32::try_from(self.size).ok()?;
        let links = u16::try_from(self.links).ok()?;
        let user = u16::try_from(self.user).ok()?;
        let group = u16::try_from(self.group).ok()?;
        self.modified.is_none().then_some((size, links, user, group))
    }

    /// Stores the inode at the beginning of `bytes`.
    pub fn store(&self, bytes: &mut [u8]) {
        let (layout, address) = match self.data {
            Data::Plain(block) => (0, block.unwrap_or(NO_BLOCK)),
            Data::Inline => (2, 0),
            Data::Device(number) => (0, number),
        };
        // The attributes' header has 12 bytes and counts as one unit, all others have 4.
        let units = if self.attributes == 0 { 0 } else { (self.attributes - 12) / 4 + 1 };
        put(bytes, 2, &u16::try_from(units).unwrap_or(u16::MAX).to_le_bytes());
        let format = layout << 1;
        let mode = self.file_type.mode() | self.permissions;
        put(bytes, 4, &mode.to_le_bytes());
        put(bytes, 16, &address.to_le_bytes());
        put(bytes, 20, &self.number.to_le_bytes());
        if let Some((size, links, user, group)) = self.compact() {
            put(bytes, 0, &u16::to_le_bytes(format));
            put(bytes, 6, &links.to_le_bytes());
            put(bytes, 8, &size.to_le_bytes());
            put(bytes, 24, &user.to_le_bytes());
            put(bytes, 26, &group.to_le_bytes());
        } else {
            let (seconds, nanoseconds) = self.modified.unwrap_or_default();
            put(bytes, 0, &u16::to_le_bytes(format | EXTENDED));
            put(bytes, 8, &self.size.to_le_bytes());
            put(bytes, 24, &self.user.to_le_bytes());
            put(bytes, 28, &self.group.to_le_bytes());
            put(bytes, 32, &seconds.to_le_bytes());
            put(bytes, 40, &nanoseconds.to_le_bytes());
            put(bytes, 44, &self.links.to_le_bytes());
        }
    }
}

/// The number of a device, as inodes have it (`new_encode_dev` of Linux).
pub const fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The most bytes of extended attributes: what the inode can count.
const MAX_ATTRIBUTES: usize = 12 + 4 * 65_534;

/// Prefixes of the names of extended attributes, and the numbers that stand for them.
const ATTRIBUTE_PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Extended attributes as they lie behind an inode; nothing if there are none. `None` if they have a
/// name that EROFS has no room for, or are too many.
pub fn encode_attributes(attributes: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    if attributes.is_empty() {
        return Some(Vec::new());
    }
    let mut bytes = vec![0; 12];
    for (name, value) in attributes {
        let (prefix, index) =
            ATTRIBUTE_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
        let name = &name[prefix.len()..];
        if prefix.ends_with(b".") == name.is_empty() {
            return None;
        }
        bytes.extend([u8::try_from(name.len()).ok()?, *index]);
        bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    (bytes.len() <= MAX_ATTRIBUTES).then_some(bytes)
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
