//! What `stat(2)` tells of a file.

pub use linux_raw_sys::general::{
    S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
};

/// Set-user-ID bit of a mode.
pub const S_ISUID: u32 = 0o4000;
/// Set-group-ID bit of a mode.
pub const S_ISGID: u32 = 0o2000;
/// Sticky bit of a mode.
pub const S_ISVTX: u32 = 0o1000;
/// The bits of a mode that `chmod(2)` changes.
pub const PERMISSIONS: u32 = 0o7777;

/// A moment, since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds on top, below a thousand million.
    pub nanoseconds: u32,
}

/// Everything about a file but its name and content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Device that the file system is on; see [`device_number`].
    pub device: u64,
    /// Inode number.
    pub number: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Which device a device node stands for.
    pub special: u64,
    /// Length in bytes.
    pub size: u64,
    /// Memory taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub accessed: Timestamp,
    /// Last change of the content.
    pub modified: Timestamp,
    /// Last change of anything.
    pub changed: Timestamp,
    /// When the file was made.
    pub born: Timestamp,
}

impl Metadata {
    /// The type bits of the mode.
    pub const fn file_type(&self) -> u32 {
        self.mode & S_IFMT
    }
}

/// A device number in the layout that `struct stat` and `mknod(2)` use (Linux: `new_encode_dev`).
pub const fn device_number(major: u32, minor: u32) -> u64 {
    (minor as u64 & 0xff) | ((major as u64 & 0xfff) << 8) | ((minor as u64 & !0xff) << 12)
}

/// Major and minor number of a device.
pub const fn device_parts(device: u64) -> (u32, u32) {
    let minor = (device & 0xff) | ((device >> 12) & 0xfff_ff00);
    #[expect(clippy::cast_possible_truncation, reason = "masked to 12 and 28 bits")]
    let parts = (((device >> 8) & 0xfff) as u32, minor as u32);
    parts
}

/// The `d_type` of a directory entry for a file with this mode.
pub const fn entry_type(mode: u32) -> u8 {
    // The values were chosen that way (`dirent.h`: IFTODT).
    ((mode & S_IFMT) >> 12).to_le_bytes()[0]
}

/// Device numbers of the file systems that programs see.
pub mod devices {
    use super::device_number;
    /// The root file system.
    pub const ROOT: u64 = device_number(0, 0x1a);
    /// /proc
    pub const PROC: u64 = device_number(0, 0x16);
    /// /sys
    pub const SYS: u64 = device_number(0, 0x15);
    /// /dev
    pub const DEV: u64 = device_number(0, 5);
    /// /dev/pts
    pub const PTS: u64 = device_number(0, 0x17);
    /// Files that are events and the like.
    pub const ANONYMOUS: u64 = device_number(0, 0xf);
    /// Pipes.
    pub const PIPE: u64 = device_number(0, 0xe);
    /// Sockets.
    pub const SOCKET: u64 = device_number(0, 8);
    /// POSIX message queues.
    pub const MQUEUE: u64 = device_number(0, 0x13);
}
