//! What is known of files: stat(2), statx(2), access(2), statfs(2).

use super::caller::{Caller, any_file, check_flags};
use super::{AT_FDCWD, Fd};
use crate::errno::{Errno, Result};
use crate::fs::metadata::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, device_parts, devices};
use crate::fs::mount::{Mount, NO_DEVICES, NO_EXECUTE, NO_SUID, READ_ONLY};
use crate::fs::path::{Last, NAME_MAX};
use crate::fs::{Inode, Metadata, Timestamp};
use crate::memory::user::Plain;
use crate::memory::{PAGE, UserPtr};
use alloc::sync::Arc;
use linux_raw_sys::general::{
    AT_EACCESS, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC, AT_STATX_FORCE_SYNC,
    AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW, DEVPTS_SUPER_MAGIC, PIPEFS_MAGIC, STATX__RESERVED,
    STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID, SYSFS_MAGIC, TMPFS_MAGIC,
};

/// `SOCKFS_MAGIC`.
const SOCKFS_MAGIC: u32 = 0x534f_434b;
/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: u32 = 0x9fa0;

/// `struct stat`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stat {
    device: u64,
    number: u64,
    links: u64,
    mode: u32,
    user: u32,
    group: u32,
    padding: u32,
    special: u64,
    size: u64,
    block_size: u64,
    blocks: u64,
    accessed: [u64; 2],
    modified: [u64; 2],
    changed: [u64; 2],
    unused: [u64; 3],
}

// SAFETY: integers; the gap is a field of its own.
unsafe impl Plain for Stat {}
const _: () = assert!(size_of::<Stat>() == 144);

impl From<Metadata> for Stat {
    fn from(metadata: Metadata) -> Self {
        let time = |time: Timestamp| [time.seconds.cast_unsigned(), u64::from(time.nanoseconds)];
        Self {
            device: metadata.device,
            number: metadata.number,
            links: metadata.links.into(),
            mode: metadata.mode,
            user: metadata.user,
            group: metadata.group,
            padding: 0,
            special: metadata.special,
            size: metadata.size,
            block_size: PAGE,
            blocks: metadata.blocks,
            accessed: time(metadata.accessed),
            modified: time(metadata.modified),
            changed: time(metadata.changed),
            unused: [0; 3],
        }
    }
}

/// `stat(2)`.
///
/// # Errors
/// As the man page says.
pub fn stat(path: UserPtr<u8>, status: UserPtr<Stat>) -> Result<()> {
    newfstatat(AT_FDCWD, path, status, 0)
}

/// `lstat(2)`.
///
/// # Errors
/// As the man page says.
pub fn lstat(path: UserPtr<u8>, status: UserPtr<Stat>) -> Result<()> {
    newfstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW)
}

/// `fstat(2)`.
///
/// # Errors
/// As the man page says.
pub fn fstat(fd: Fd, status: UserPtr<Stat>) -> Result<()> {
    status.write(any_file(fd)?.metadata()?.into())
}

/// `fstatat(2)`.
///
/// # Errors
/// As the man page says.
pub fn newfstatat(
    directory: Fd,
    path: UserPtr<u8>,
    status: UserPtr<Stat>,
    flags: u32,
) -> Result<()> {
    check_flags(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)?;
    let inode = Caller::get().find(directory, path, flags)?;
    status.write(inode.metadata()?.into())
}

/// `struct statx_timestamp`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct StatxTime {
    seconds: i64,
    nanoseconds: u32,
    reserved: i32,
}

impl From<Timestamp> for StatxTime {
    fn from(time: Timestamp) -> Self {
        Self { seconds: time.seconds, nanoseconds: time.nanoseconds, reserved: 0 }
    }
}

/// `struct statx`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    user: u32,
    group: u32,
    mode: u16,
    spare: u16,
    number: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    born: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    special: [u32; 2],
    device: [u32; 2],
    mount: u64,
    rest: [u64; 13],
}

// SAFETY: integers without a gap.
unsafe impl Plain for Statx {}
const _: () = assert!(size_of::<Statx>() == 256);

/// `statx(2)`.
///
/// # Errors
/// As the man page says.
pub fn statx(
    directory: Fd,
    path: UserPtr<u8>,
    flags: u32,
    mask: u32,
    status: UserPtr<Statx>,
) -> Result<()> {
    let known = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE;
    check_flags(flags, known)?;
    if mask & STATX__RESERVED != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC
    {
        return Err(Errno::EINVAL);
    }
    let located = Caller::get().locate(directory, path, flags)?;
    let inode = &located.inode;
    let metadata = inode.metadata()?;
    let pair = |device: u64| {
        let (major, minor) = device_parts(device);
        [major, minor]
    };
    let has_birth = inode.file_system().is_some();
    let [low, high, ..] = metadata.mode.to_le_bytes();
    status.write(Statx {
        mask: STATX_BASIC_STATS | STATX_MNT_ID | if has_birth { STATX_BTIME } else { 0 },
        block_size: 4096,
        attributes: 0,
        links: metadata.links,
        user: metadata.user,
        group: metadata.group,
        mode: u16::from_le_bytes([low, high]),
        spare: 0,
        number: metadata.number,
        size: metadata.size,
        blocks: metadata.blocks,
        attributes_mask: 0,
        accessed: metadata.accessed.into(),
        born: if has_birth { metadata.born.into() } else { StatxTime::default() },
        changed: metadata.changed.into(),
        modified: metadata.modified.into(),
        special: pair(metadata.special),
        device: pair(metadata.device),
        mount: located.mount.as_ref().map_or(0, |mount| mount.id()),
        rest: [0; 13],
    })
}

/// `access(2)`.
///
/// # Errors
/// As the man page says.
pub fn access(path: UserPtr<u8>, mode: u32) -> Result<()> {
    faccessat2(AT_FDCWD, path, mode, 0)
}

/// `faccessat(2)` without flags, as the system call has none.
///
/// # Errors
/// As the man page says.
pub fn faccessat(directory: Fd, path: UserPtr<u8>, mode: u32) -> Result<()> {
    faccessat2(directory, path, mode, 0)
}

/// `faccessat2(2)`.
///
/// # Errors
/// As the man page says.
pub fn faccessat2(directory: Fd, path: UserPtr<u8>, mode: u32, flags: u32) -> Result<()> {
    check_flags(mode, 7)?;
    check_flags(flags, AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::get();
    let located = caller.locate(directory, path, flags)?;
    let inode = &located.inode;
    let subject = if flags & AT_EACCESS != 0 { caller.subject() } else { caller.real_subject() };
    subject.check(inode, mode)?;
    if mode & crate::fs::permission::EXECUTE != 0
        && inode.mode()? & S_IFMT == S_IFREG
        && located.mount.as_ref().is_some_and(|mount| mount.has(NO_EXECUTE))
    {
        return Err(Errno::EACCES);
    }
    // Devices and the like are written to by way of a read-only mount, too.
    if mode & crate::fs::permission::WRITE != 0
        && matches!(inode.mode()? & S_IFMT, S_IFREG | S_IFDIR | S_IFLNK)
    {
        located.check_writable()?;
    }
    let is_constant = matches!(inode, Inode::Synthetic(node) if !node.is_device());
    if mode & crate::fs::permission::WRITE != 0 && is_constant {
        return Err(Errno::EROFS);
    }
    Ok(())
}

/// `struct statfs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Statfs {
    kind: u64,
    block_size: u64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    free_files: u64,
    id: u64,
    name_length: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}

// SAFETY: integers without a gap.
unsafe impl Plain for Statfs {}
const _: () = assert!(size_of::<Statfs>() == 120);

fn file_system_status(inode: &Inode, mount: Option<&Arc<Mount>>) -> Result<Statfs> {
    const ST_VALID: u64 = 0x20;
    const ST_NOATIME: u64 = 0x400;
    let metadata = inode.metadata()?;
    let mut status = Statfs {
        kind: 0,
        block_size: PAGE,
        blocks: 0,
        free: 0,
        available: 0,
        files: 0,
        free_files: 0,
        id: metadata.device,
        name_length: NAME_MAX as u64,
        fragment_size: PAGE,
        flags: ST_VALID,
        spare: [0; 4],
    };
    if let Some(mount) = mount {
        // ST_RDONLY, ST_NOSUID, ST_NODEV and ST_NOEXEC have the values of the flags for mount(2).
        let flags = mount.flags() & (READ_ONLY | NO_SUID | NO_DEVICES | NO_EXECUTE);
        let read_only = if mount.is_read_only() { READ_ONLY } else { 0 };
        status.flags |= u64::from(flags | read_only);
    }
    if let Some(file_system) = inode.file_system() {
        // To a program it is a file system in memory, of the image's size and what may be added.
        let usage = &file_system.usage;
        let free = usage.limit().saturating_sub(usage.used()) / PAGE;
        status.kind = TMPFS_MAGIC.into();
        let (files, free_files) = usage.node_room();
        status.flags |= ST_NOATIME;
        let image = file_system.image();
        let is_root = metadata.device == devices::ROOT;
        if usage.limit() != u64::MAX {
            status.blocks = image.blocks() + usage.limit() / PAGE;
            status.free = free;
            status.available = free;
        }
        if free_files < u64::MAX / 2 {
            status.files = files + if is_root { image.first_free_number() } else { 0 };
            status.free_files = free_files;
        }
        return Ok(status);
    }
    if let Inode::Volume(node) = inode {
        /// `V9FS_MAGIC`.
        const KIND: u64 = 0x0102_1997;
        let [block, all, free, available, files, free_files] = node.file_system_status()?;
        status.kind = KIND;
        (status.block_size, status.fragment_size) = (block, block);
        (status.blocks, status.free, status.available) = (all, free, available);
        (status.files, status.free_files) = (files, free_files);
        return Ok(status);
    }
    status.kind = match metadata.device {
        devices::PROC => PROC_MAGIC,
        devices::SYS => SYSFS_MAGIC,
        devices::PIPE => PIPEFS_MAGIC,
        devices::PTS => DEVPTS_SUPER_MAGIC,
        devices::SOCKET => SOCKFS_MAGIC,
        // devtmpfs is a tmpfs.
        _ => TMPFS_MAGIC,
    }
    .into();
    Ok(status)
}

/// `statfs(2)`.
///
/// # Errors
/// As the man page says.
pub fn statfs(path: UserPtr<u8>, buffer: UserPtr<Statfs>) -> Result<()> {
    let found = Caller::get().walk(AT_FDCWD, path, Last::Follow)?;
    let mount = found.mount.clone();
    buffer.write(file_system_status(&found.existing()?, mount.as_ref())?)
}

/// `fstatfs(2)`.
///
/// # Errors
/// As the man page says.
pub fn fstatfs(fd: Fd, buffer: UserPtr<Statfs>) -> Result<()> {
    let file = any_file(fd)?;
    buffer.write(file_system_status(file.inode(), file.mount())?)
}
