//! The 9P2000.L server: files by fid, one request at a time.
//!
//! A fid holds an `O_PATH` descriptor of its very file, whatever becomes of the file's name: no
//! request resolves a path of more than one part, and none is resolved twice. So there is nothing
//! for a guest to win by renaming directories meanwhile. Symbolic links are the guest's to follow.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::Errno;
use super::host::{self, Descriptors};
use super::wire::{
    HEADER, NO_TAG, QID_DIRECTORY, QID_SIZE, QID_SYMLINK, Qid, Reader, Writer, kind,
};

/// The dialect.
const VERSION: &[u8] = b"9P2000.L";
/// What is answered to other dialects.
const UNKNOWN_VERSION: &[u8] = b"unknown";
/// The longest message, both ways.
pub const MAX_MESSAGE: usize = 128 * 1024 + 24;
/// A smaller one would have no room for a name.
const MIN_MESSAGE: usize = 4096;
/// Names in one Twalk (`P9_MAXWELEM`).
const MAX_WALK: u16 = 16;
/// Bytes of an answer to Tread or Treaddir before the data.
const DATA_OVERHEAD: usize = HEADER + 4;
/// `P9_STATS_BASIC`: what an answer to Tgetattr has.
const ATTRIBUTES_BASIC: u64 = 0x7ff;
/// `P9_STATS_BTIME`.
const ATTRIBUTES_BIRTH: u64 = 0x800;
/// Bytes before the name in a `linux_dirent64`.
const DIRENT_HEADER: usize = 19;
/// What chmod(2) may be asked for, and what a set-user-ID file on the host would mean to others.
const PERMISSIONS: u32 = 0o7777;
const SET_ID: u32 = 0o6000;

/// Bits of `valid` in Tsetattr (Linux: `P9_ATTR_*`).
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

/// A file that the guest has a number for.
struct Fid {
    /// `O_PATH`.
    file: OwnedFd,
    /// The type, among `S_IFMT`: it never changes.
    file_type: u32,
    /// Opened for reading or writing.
    open: Option<Open>,
}

struct Open {
    file: OwnedFd,
    writable: bool,
    /// Where the next entries of a directory are.
    position: u64,
}

/// A directory of the host for one guest.
pub struct Server {
    root: OwnedFd,
    descriptors: Descriptors,
    read_only: bool,
    fids: HashMap<u32, Fid>,
    max_fids: usize,
    max_message: usize,
    /// Devices whose files have been seen, first the root's: inode numbers are unique in each.
    devices: Vec<u64>,
    answer: Writer,
}

const EINVAL: Errno = Errno(libc::EINVAL);

impl Server {
    /// Serves this directory, with at most `max_fids` files in use.
    pub fn new(root: OwnedFd, descriptors: Descriptors, read_only: bool, max_fids: usize) -> Self {
        Self {
            root,
            descriptors,
            read_only,
            // All memory that a server needs: it cannot ask the host for more.
            fids: HashMap::with_capacity(max_fids),
            max_fids,
            max_message: MIN_MESSAGE,
            devices: Vec::new(),
            answer: Writer::with_capacity(MAX_MESSAGE),
        }
    }

    /// Answers a message: there is always an answer, and only one.
    pub fn serve(&mut self, message: &[u8]) -> &[u8] {
        let (kind, tag, result) = self.dispatch(message);
        if let Err(Errno(number)) = result {
            self.answer.begin();
            self.answer.u32(u32::try_from(number).unwrap_or(0));
            return self.answer.finish(kind::LERROR + 1, tag);
        }
        self.answer.finish(kind.wrapping_add(1), tag)
    }

    fn dispatch(&mut self, message: &[u8]) -> (u8, u16, Result<(), Errno>) {
        let Some((&[a, b, c, d, kind, low, high], body)) = message.split_first_chunk() else {
            return (kind::LERROR, NO_TAG, Err(EINVAL));
        };
        let tag = u16::from_le_bytes([low, high]);
        let size = u32::from_le_bytes([a, b, c, d]);
        if usize::try_from(size) != Ok(message.len()) {
            return (kind, tag, Err(EINVAL));
        }
        self.answer.begin();
        (kind, tag, self.request(kind, Reader::new(body)))
    }

    fn request(&mut self, kind: u8, body: Reader<'_>) -> Result<(), Errno> {
        if self.read_only
            && matches!(
                kind,
                kind::LCREATE
                    | kind::SYMLINK
                    | kind::MKNOD
                    | kind::SETATTR
                    | kind::LINK
                    | kind::MKDIR
                    | kind::RENAMEAT
                    | kind::UNLINKAT
                    | kind::WRITE
            )
        {
            return Err(Errno(libc::EROFS));
        }
        match kind {
            kind::VERSION => self.version(body),
            kind::ATTACH => self.attach(body),
            // Requests are served in order, so what could be flushed has been answered.
            kind::FLUSH => Ok(()),
            kind::WALK => self.walk(body),
            kind::CLUNK => self.clunk(body),
            kind::GETATTR => self.get_attributes(body),
            kind::SETATTR => self.set_attributes(body),
            kind::LOPEN => self.open(body),
            kind::LCREATE => self.create(body),
            kind::READ => self.read(body),
            kind::WRITE => self.write(body),
            kind::READDIR => self.read_directory(body),
            kind::READLINK => self.read_link(body),
            kind::SYMLINK => self.make_link(body),
            kind::MKNOD => self.make_node(body),
            kind::MKDIR => self.make_directory(body),
            kind::LINK => self.link(body),
            kind::RENAMEAT => self.rename(body),
            kind::UNLINKAT => self.remove(body),
            kind::FSYNC => self.synchronise(body),
            kind::STATFS => self.file_system_status(body),
            // Extended attributes, locks (which the guest keeps itself), authentication.
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    fn fid(&self, number: u32) -> Result<&Fid, Errno> {
        self.fids.get(&number).ok_or(Errno(libc::EBADF))
    }

    /// A number that has no file yet.
    fn vacant(&self, number: u32) -> Result<(), Errno> {
        if self.fids.contains_key(&number) {
            return Err(Errno(libc::EBADF));
        }
        if self.fids.len() >= self.max_fids {
            return Err(Errno(libc::ENFILE));
        }
        Ok(())
    }

    fn version(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let wanted = usize::try_from(body.u32()?).unwrap_or(usize::MAX);
        let version = body.string()?;
        body.end()?;
        if wanted < MIN_MESSAGE {
            return Err(EINVAL);
        }
        // A new session: nothing of the old one stays.
        self.fids.clear();
        self.max_message = wanted.min(MAX_MESSAGE);
        self.answer.u32(u32::try_from(self.max_message).unwrap_or(u32::MAX));
        self.answer.string(if version == VERSION { VERSION } else { UNKNOWN_VERSION });
        Ok(())
    }

    fn attach(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, _authentication) = (body.u32()?, body.u32()?);
        let (_user, _tree) = (body.string()?, body.string()?);
        let _user_id = body.u32()?;
        body.end()?;
        self.vacant(number)?;
        let file = host::duplicate(&self.root)?;
        let (fid, qid) = self.adopt(file)?;
        self.fids.insert(number, fid);
        self.answer.qid(qid);
        Ok(())
    }

    /// Looks at a file that was found.
    fn adopt(&mut self, file: OwnedFd) -> Result<(Fid, Qid), Errno> {
        let status = host::status(&file)?;
        let qid = self.qid(&file, &status)?;
        let file_type = u32::from(status.stx_mode) & libc::S_IFMT;
        Ok((Fid { file, file_type, open: None }, qid))
    }

    fn qid(&mut self, file: &OwnedFd, status: &libc::statx) -> Result<Qid, Errno> {
        let device = u64::from(status.stx_dev_major) << 32 | u64::from(status.stx_dev_minor);
        let index = match self.devices.iter().position(|&known| known == device) {
            Some(index) => index,
            None if host::is_proc(file)? => return Err(Errno(libc::EACCES)),
            None => {
                self.devices.push(device);
                self.devices.len() - 1
            }
        };
        Ok(Qid {
            kind: match u32::from(status.stx_mode) & libc::S_IFMT {
                libc::S_IFDIR => QID_DIRECTORY,
                libc::S_IFLNK => QID_SYMLINK,
                _ => 0,
            },
            version: version(status),
            path: unique(status.stx_ino, index),
        })
    }

    fn walk(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, new_number, count) = (body.u32()?, body.u32()?, body.u16()?);
        if count > MAX_WALK {
            return Err(EINVAL);
        }
        if new_number != number {
            self.vacant(new_number)?;
        }
        let from = self.fid(number)?;
        if count > 0 && from.open.is_some() {
            return Err(EINVAL);
        }
        let file = host::duplicate(&from.file)?;
        let file_type = from.file_type;
        let mut current = Fid { file, file_type, open: None };
        let mut names = Vec::with_capacity(count.into());
        for _ in 0..count {
            names.push(body.string()?);
        }
        body.end()?;
        let count_at = self.answer.len();
        self.answer.u16(0);
        let mut walked = 0u16;
        for name in names {
            match self.step(&current, name) {
                Ok((next, qid)) => {
                    self.answer.qid(qid);
                    current = next;
                    walked += 1;
                }
                // Only a first step that fails is an error of the whole (walk(5)).
                Err(error) if walked == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if walked == count {
            self.fids.insert(new_number, current);
        }
        self.answer.patch_u16(count_at, walked);
        Ok(())
    }

    fn step(&mut self, from: &Fid, name: &[u8]) -> Result<(Fid, Qid), Errno> {
        let name = host::name(name)?;
        if from.file_type != libc::S_IFDIR {
            return Err(Errno(libc::ENOTDIR));
        }
        let file = host::open_in(&from.file, &name, libc::O_PATH, 0)?;
        self.adopt(file)
    }

    fn clunk(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let number = body.u32()?;
        body.end()?;
        self.fids.remove(&number).map(|_| ()).ok_or(Errno(libc::EBADF))
    }

    fn get_attributes(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, _wanted) = (body.u32()?, body.u64()?);
        body.end()?;
        let fid = self.fid(number)?;
        let status = host::status(&fid.file)?;
        let file = host::duplicate(&fid.file)?;
        let qid = self.qid(&file, &status)?;
        let has_birth = status.stx_mask & libc::STATX_BTIME != 0;
        let answer = &mut self.answer;
        answer.u64(ATTRIBUTES_BASIC | if has_birth { ATTRIBUTES_BIRTH } else { 0 });
        answer.qid(qid);
        answer.u32(status.stx_mode.into());
        answer.u32(status.stx_uid);
        answer.u32(status.stx_gid);
        answer.u64(status.stx_nlink.into());
        answer.u64(u64::from(status.stx_rdev_major) << 8 | u64::from(status.stx_rdev_minor));
        answer.u64(status.stx_size);
        answer.u64(status.stx_blksize.into());
        answer.u64(status.stx_blocks);
        let times = [status.stx_atime, status.stx_mtime, status.stx_ctime, status.stx_btime];
        for time in times {
            answer.u64(time.tv_sec.cast_unsigned());
            answer.u64(time.tv_nsec.into());
        }
        answer.u64(0);
        answer.u64(0);
        Ok(())
    }

    fn set_attributes(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, valid) = (body.u32()?, body.u32()?);
        let (mode, user, group, size) = (body.u32()?, body.u32()?, body.u32()?, body.u64()?);
        let times = [(body.u64()?, body.u64()?), (body.u64()?, body.u64()?)];
        body.end()?;
        let fid = self.fid(number)?;
        let is_link = fid.file_type == libc::S_IFLNK;
        if valid & set::MODE != 0 {
            if is_link {
                return Err(Errno(libc::EOPNOTSUPP));
            }
            check_mode(fid.file_type, mode)?;
            self.descriptors.change_mode(&fid.file, mode & PERMISSIONS)?;
        }
        if valid & (set::UID | set::GID) != 0 {
            let chosen = |bit, id| (valid & bit != 0).then_some(id);
            host::change_owner(&fid.file, chosen(set::UID, user), chosen(set::GID, group))?;
        }
        if valid & set::SIZE != 0 {
            if i64::try_from(size).is_err() {
                return Err(EINVAL);
            }
            if fid.file_type != libc::S_IFREG {
                return Err(EINVAL);
            }
            match &fid.open {
                Some(open) if open.writable => host::truncate(&open.file, size)?,
                _ => {
                    let file = self.descriptors.open_file(&fid.file, libc::O_WRONLY)?;
                    host::truncate(&file, size)?;
                }
            }
        }
        if valid & (set::ATIME | set::MTIME) != 0 {
            if is_link {
                return Err(Errno(libc::EOPNOTSUPP));
            }
            let [access, change] = times;
            let times = [
                time(valid, set::ATIME, set::ATIME_SET, access)?,
                time(valid, set::MTIME, set::MTIME_SET, change)?,
            ];
            self.descriptors.change_times(&fid.file, times)?;
        }
        Ok(())
    }

    /// Opens a fid's file. Only regular files and directories: a FIFO would make the server wait, a
    /// device would do whatever it does; the guest has its own.
    fn open(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, flags) = (body.u32()?, body.u32()?);
        body.end()?;
        let fid = self.fid(number)?;
        if fid.open.is_some() {
            return Err(EINVAL);
        }
        let (flags, writable) = self.open_flags(flags)?;
        match fid.file_type {
            libc::S_IFREG => {}
            libc::S_IFDIR if writable => return Err(Errno(libc::EISDIR)),
            libc::S_IFDIR => {}
            libc::S_IFLNK => return Err(Errno(libc::ELOOP)),
            _ => return Err(Errno(libc::ENXIO)),
        }
        let file = self.descriptors.open_file(&fid.file, flags)?;
        let status = host::status(&file)?;
        let qid = self.qid(&file, &status)?;
        if let Some(fid) = self.fids.get_mut(&number) {
            fid.open = Some(Open { file, writable, position: 0 });
        }
        self.answer.qid(qid);
        self.answer.u32(0);
        Ok(())
    }

    /// Of the flags of open(2), those that the host shall see; and whether they are for writing.
    fn open_flags(&self, flags: u32) -> Result<(libc::c_int, bool), Errno> {
        const PASSED: libc::c_int =
            libc::O_TRUNC | libc::O_DIRECTORY | libc::O_SYNC | libc::O_DSYNC | libc::O_EXCL;
        let flags = libc::c_int::try_from(flags).map_err(|_| EINVAL)?;
        let access = flags & libc::O_ACCMODE;
        if access == libc::O_ACCMODE {
            return Err(EINVAL);
        }
        let writable = access != libc::O_RDONLY;
        if self.read_only && (writable || flags & libc::O_TRUNC != 0) {
            return Err(Errno(libc::EROFS));
        }
        Ok((access | flags & PASSED, writable || flags & libc::O_TRUNC != 0))
    }

    fn create(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, name) = (body.u32()?, body.string()?);
        let (flags, mode, group) = (body.u32()?, body.u32()?, body.u32()?);
        body.end()?;
        let name = host::name(name)?;
        check_mode(libc::S_IFREG, mode)?;
        let directory = self.directory(number)?;
        let (flags, writable) = self.open_flags(flags)?;
        let flags = flags & !libc::O_DIRECTORY;
        // Always O_EXCL: the guest opens what exists by its fid, and nothing else is opened by a name.
        let file = host::open_in(
            directory,
            &name,
            flags | libc::O_CREAT | libc::O_EXCL | libc::O_NONBLOCK | libc::O_NOCTTY,
            mode & 0o777,
        )?;
        self.give_to_group(&file, group);
        let path = self.descriptors.open_file(&file, libc::O_PATH)?;
        let (mut fid, qid) = self.adopt(path)?;
        if fid.file_type != libc::S_IFREG {
            return Err(Errno(libc::ENXIO));
        }
        fid.open = Some(Open { file, writable, position: 0 });
        self.fids.insert(number, fid);
        self.answer.qid(qid);
        self.answer.u32(0);
        Ok(())
    }

    /// The group that the guest says a new file has, if the host lets the server give it away.
    fn give_to_group(&self, file: &OwnedFd, group: u32) {
        if host::status(file).is_ok_and(|status| status.stx_gid != group) {
            let _ = host::change_owner(file, None, Some(group));
        }
    }

    fn directory(&self, number: u32) -> Result<&OwnedFd, Errno> {
        let fid = self.fid(number)?;
        if fid.file_type == libc::S_IFDIR { Ok(&fid.file) } else { Err(Errno(libc::ENOTDIR)) }
    }

    /// How many bytes of data an answer may have.
    fn data_limit(&self, count: u32) -> usize {
        usize::try_from(count).unwrap_or(usize::MAX).min(self.max_message - DATA_OVERHEAD)
    }

    fn read(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, offset, count) = (body.u32()?, body.u64()?, body.u32()?);
        body.end()?;
        let count = self.data_limit(count);
        let fid = self.fids.get(&number).ok_or(Errno(libc::EBADF))?;
        let open = fid.open.as_ref().ok_or(Errno(libc::EBADF))?;
        let count_at = self.answer.len();
        self.answer.u32(0);
        let done = host::read_at(&open.file, self.answer.room(count), offset)?;
        self.answer.cut(count_at + 4 + done);
        self.answer.patch_u32(count_at, u32::try_from(done).unwrap_or(0));
        Ok(())
    }

    fn write(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, offset, count) = (body.u32()?, body.u64()?, body.u32()?);
        let data = body.bytes(usize::try_from(count).map_err(|_| EINVAL)?)?;
        body.end()?;
        let open = self.fid(number)?.open.as_ref().ok_or(Errno(libc::EBADF))?;
        let done = host::write_at(&open.file, data, offset)?;
        self.answer.u32(u32::try_from(done).unwrap_or(0));
        Ok(())
    }

    fn read_directory(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, offset, count) = (body.u32()?, body.u64()?, body.u32()?);
        body.end()?;
        let limit = self.data_limit(count);
        let root = self.devices.len().min(1);
        let fid = self.fids.get_mut(&number).ok_or(Errno(libc::EBADF))?;
        let device = host::status(&fid.file)?;
        let open = fid.open.as_mut().ok_or(Errno(libc::EBADF))?;
        if fid.file_type != libc::S_IFDIR {
            return Err(Errno(libc::ENOTDIR));
        }
        if offset != open.position {
            host::seek(&open.file, offset)?;
            open.position = offset;
        }
        let device = u64::from(device.stx_dev_major) << 32 | u64::from(device.stx_dev_minor);
        let index = self.devices.iter().position(|&known| known == device).unwrap_or(root);
        let count_at = self.answer.len();
        self.answer.u32(0);
        let mut buffer = vec![0; limit.clamp(512, 32 << 10)];
        'all: loop {
            let filled = match host::entries(&open.file, &mut buffer) {
                Ok(0) => break,
                Ok(filled) => filled,
                // A seek lets the next request begin where this one stopped.
                Err(error) if self.answer.len() == count_at + 4 => return Err(error),
                Err(_) => break,
            };
            let mut rest = &buffer[..filled];
            while let Some(entry) = Entry::next(&mut rest) {
                let size = QID_SIZE + 8 + 1 + 2 + entry.name.len();
                if self.answer.len() - count_at - 4 + size > limit {
                    // The rest is read again.
                    host::seek(&open.file, open.position)?;
                    break 'all;
                }
                self.answer.qid(Qid {
                    kind: match entry.kind {
                        libc::DT_DIR => QID_DIRECTORY,
                        libc::DT_LNK => QID_SYMLINK,
                        _ => 0,
                    },
                    version: 0,
                    path: unique(entry.inode, index),
                });
                self.answer.u64(entry.next);
                self.answer.u8(entry.kind);
                self.answer.string(entry.name);
                open.position = entry.next;
            }
        }
        let size = self.answer.len() - count_at - 4;
        self.answer.patch_u32(count_at, u32::try_from(size).unwrap_or(0));
        Ok(())
    }

    fn read_link(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let number = body.u32()?;
        body.end()?;
        let fid = self.fid(number)?;
        if fid.file_type != libc::S_IFLNK {
            return Err(EINVAL);
        }
        let target = host::read_link(&fid.file)?;
        self.answer.string(&target);
        Ok(())
    }

    /// Answers with what was made at a name; someone on the host may have been quicker to replace it.
    fn answer_made(&mut self, number: u32, name: &std::ffi::CStr, group: u32) -> Result<(), Errno> {
        let file = host::open_in(self.directory(number)?, name, libc::O_PATH, 0)?;
        self.give_to_group(&file, group);
        let (_, qid) = self.adopt(file)?;
        self.answer.qid(qid);
        Ok(())
    }

    fn make_link(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, name, target) = (body.u32()?, body.string()?, body.string()?);
        let group = body.u32()?;
        body.end()?;
        let (name, target) = (host::name(name)?, host::target(target)?);
        host::make_link(self.directory(number)?, &name, &target)?;
        self.answer_made(number, &name, group)
    }

    /// FIFOs and sockets are names to the host. Devices would be doors.
    fn make_node(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, name, mode) = (body.u32()?, body.string()?, body.u32()?);
        let (_major, _minor, group) = (body.u32()?, body.u32()?, body.u32()?);
        body.end()?;
        let name = host::name(name)?;
        if !matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK) {
            return Err(Errno(libc::EPERM));
        }
        let mode = mode & (libc::S_IFMT | 0o777);
        host::make_node(self.directory(number)?, &name, mode)?;
        self.answer_made(number, &name, group)
    }

    fn make_directory(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, name) = (body.u32()?, body.string()?);
        let (mode, group) = (body.u32()?, body.u32()?);
        body.end()?;
        let name = host::name(name)?;
        host::make_directory(self.directory(number)?, &name, mode & 0o1777)?;
        self.answer_made(number, &name, group)
    }

    fn link(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (directory, number, name) = (body.u32()?, body.u32()?, body.string()?);
        body.end()?;
        let name = host::name(name)?;
        let fid = self.fid(number)?;
        if fid.file_type == libc::S_IFDIR {
            return Err(Errno(libc::EPERM));
        }
        self.descriptors.link(&fid.file, self.directory(directory)?, &name)
    }

    /// Trenameat. What follows the second name, if anything does, is Airlock's: flags of renameat2(2).
    fn rename(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (old_directory, old_name) = (body.u32()?, body.string()?);
        let (new_directory, new_name) = (body.u32()?, body.string()?);
        let flags = if body.end().is_ok() { 0 } else { body.u32()? };
        body.end()?;
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(EINVAL);
        }
        let (old_name, new_name) = (host::name(old_name)?, host::name(new_name)?);
        let old = (self.directory(old_directory)?, old_name.as_c_str());
        let new = (self.directory(new_directory)?, new_name.as_c_str());
        host::rename(old, new, flags)
    }

    fn remove(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, name, flags) = (body.u32()?, body.string()?, body.u32()?);
        body.end()?;
        let name = host::name(name)?;
        let remove_directory = libc::AT_REMOVEDIR.cast_unsigned();
        if flags & !remove_directory != 0 {
            return Err(EINVAL);
        }
        host::remove(self.directory(number)?, &name, flags & remove_directory != 0)
    }

    fn synchronise(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let (number, data_only) = (body.u32()?, body.u32()?);
        body.end()?;
        let fid = self.fid(number)?;
        let open = fid.open.as_ref().ok_or(Errno(libc::EBADF))?;
        host::synchronise(&open.file, data_only != 0)
    }

    fn file_system_status(&mut self, mut body: Reader<'_>) -> Result<(), Errno> {
        let number = body.u32()?;
        body.end()?;
        let status = host::file_system_status(&self.fid(number)?.file)?;
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let answer = &mut self.answer;
        answer.u32(word(status.kind));
        answer.u32(word(status.block_size));
        answer.u64(status.blocks);
        answer.u64(status.free);
        answer.u64(status.available);
        answer.u64(status.files);
        answer.u64(status.free_files);
        answer.u64(status.id);
        answer.u32(word(status.name_length));
        Ok(())
    }
}

/// A guest must not leave programs on the host that run as whoever owns them.
const fn check_mode(file_type: u32, mode: u32) -> Result<(), Errno> {
    if file_type != libc::S_IFDIR && mode & SET_ID != 0 { Err(Errno(libc::EPERM)) } else { Ok(()) }
}

/// A time for utimensat(2).
fn time(
    valid: u32,
    bit: u32,
    explicit: u32,
    (seconds, nanoseconds): (u64, u64),
) -> Result<libc::timespec, Errno> {
    let special = |tv_nsec| libc::timespec { tv_sec: 0, tv_nsec };
    if valid & bit == 0 {
        return Ok(special(libc::UTIME_OMIT));
    }
    if valid & explicit == 0 {
        return Ok(special(libc::UTIME_NOW));
    }
    let tv_nsec = libc::c_long::try_from(nanoseconds).map_err(|_| EINVAL)?;
    if tv_nsec >= 1_000_000_000 {
        return Err(EINVAL);
    }
    Ok(libc::timespec { tv_sec: seconds.cast_signed(), tv_nsec })
}

/// Differs when the file has changed: its times and its length, mixed.
fn version(status: &libc::statx) -> u32 {
    let mut mixed = status.stx_size;
    for time in [status.stx_mtime, status.stx_ctime] {
        let nanoseconds = time
            .tv_sec
            .cast_unsigned()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(time.tv_nsec.into());
        mixed = (mixed ^ nanoseconds).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    u32::try_from(mixed >> 32).unwrap_or(0)
}

/// An inode number that no file of another of the server's devices has.
fn unique(inode: u64, device: usize) -> u64 {
    inode ^ u64::try_from(device).unwrap_or(0).reverse_bits()
}

/// An entry of getdents64(2).
struct Entry<'a> {
    inode: u64,
    next: u64,
    kind: u8,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    fn next(rest: &mut &'a [u8]) -> Option<Self> {
        let bytes = *rest;
        let inode = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let next = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        let length = u16::from_le_bytes(bytes.get(16..18)?.try_into().ok()?);
        let (entry, after) = bytes.split_at_checked(length.into())?;
        let kind = *entry.get(DIRENT_HEADER - 1)?;
        let name = entry.get(DIRENT_HEADER..)?;
        let name = &name[..name.iter().position(|&byte| byte == 0)?];
        *rest = after;
        Some(Self { inode, next, kind, name })
    }
}
