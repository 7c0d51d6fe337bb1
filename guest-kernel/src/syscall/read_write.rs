//! Reading and writing: read(2), readv(2), pread(2), lseek(2), sendfile(2) and their kin.

use super::Fd;
use super::caller::{check_flags, file};
use crate::errno::{Errno, Result};
use crate::fs::{FileRef, Whence};
use crate::memory::user::Plain;
use crate::memory::{PAGE_SIZE, USER_END, UserPtr, UserReader, UserSlice, UserWriter};
use alloc::vec::Vec;
use linux_raw_sys::general::{
    IN_ACCESS, IN_MODIFY, RWF_APPEND, RWF_DSYNC, RWF_HIPRI, RWF_NOWAIT, RWF_SYNC, SEEK_CUR,
    SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET,
};

/// No call moves more bytes (Linux: `MAX_RW_COUNT`).
pub(super) const MAX_COUNT: usize = 0x7fff_f000;
/// Most pieces of a scattered buffer (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// Linux looks whether a buffer lies in the program's half before anything else.
pub(super) fn check_buffer(start: u64, len: usize) -> Result<usize> {
    let inside = start.checked_add(len as u64).is_some_and(|end| end <= USER_END);
    if inside { Ok(len.min(MAX_COUNT)) } else { Err(Errno::EFAULT) }
}

fn check_offset(offset: i64) -> Result<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// A file whose offset means something; that it has none counts more than how it was opened.
fn positioned(fd: Fd) -> Result<FileRef> {
    let file = file(fd)?;
    match file.as_stream().map(|stream| stream.seek()) {
        Some(seek) if !seek.has_positions() => Err(Errno::ESPIPE),
        _ => Ok(file),
    }
}

/// `read(2)`.
///
/// # Errors
/// As the man page says.
pub fn read(fd: Fd, buffer: UserPtr<u8>, count: usize) -> Result<usize> {
    let file = file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    let count = check_buffer(buffer.address(), count)?;
    file.read(&mut UserWriter::new(buffer.address(), count))
}

/// `write(2)`.
///
/// # Errors
/// As the man page says.
pub fn write(fd: Fd, buffer: UserPtr<u8>, count: usize) -> Result<usize> {
    let file = file(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let count = check_buffer(buffer.address(), count)?;
    file.write(&mut UserReader::new(buffer.address(), count))
}

/// `pread(2)`.
///
/// # Errors
/// As the man page says.
pub fn pread64(fd: Fd, buffer: UserPtr<u8>, count: usize, offset: i64) -> Result<usize> {
    let offset = check_offset(offset)?;
    let file = positioned(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    let count = check_buffer(buffer.address(), count)?;
    file.read_at(offset, &mut UserWriter::new(buffer.address(), count))
}

/// `pwrite(2)`.
///
/// # Errors
/// As the man page says.
pub fn pwrite64(fd: Fd, buffer: UserPtr<u8>, count: usize, offset: i64) -> Result<usize> {
    let offset = check_offset(offset)?;
    let file = positioned(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let count = check_buffer(buffer.address(), count)?;
    file.write_at(offset, &mut UserReader::new(buffer.address(), count))
}

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Vector {
    start: u64,
    len: u64,
}

// SAFETY: two integers without a gap.
unsafe impl Plain for Vector {}

#[cfg(target_os = "none")]
impl Vector {
    /// Where the piece is, and how long.
    #[cfg(target_os = "none")]
    pub(super) const fn parts(self) -> (u64, u64) {
        (self.start, self.len)
    }
}

/// The pieces of a scattered buffer; most calls have one that is not empty, which needs no list.
pub(super) enum Pieces {
    One(UserSlice),
    Several(Vec<UserSlice>),
}

pub(super) fn pieces(vectors: UserPtr<Vector>, count: i32) -> Result<Pieces> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > MAX_PIECES {
        return Err(Errno::EINVAL);
    }
    let mut first = UserSlice { start: 0, len: 0 };
    let mut list = Vec::new();
    let mut total = 0usize;
    for index in 0..count {
        let Vector { start, len } = vectors.element(index).read()?;
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = crate::memory::usize_from(len);
        check_buffer(start, len)?;
        // What goes beyond the limit of a call is left out.
        let len = len.min(MAX_COUNT - total);
        total += len;
        if len == 0 {
            continue;
        }
        let piece = UserSlice { start, len };
        if first.len == 0 {
            first = piece;
            continue;
        }
        if list.is_empty() {
            list.try_reserve_exact(count - index + 1).map_err(|_| Errno::ENOMEM)?;
            list.push(first);
        }
        list.push(piece);
    }
    Ok(if list.is_empty() { Pieces::One(first) } else { Pieces::Several(list) })
}

impl Pieces {
    pub(super) fn writer(self) -> UserWriter {
        match self {
            Self::One(piece) => UserWriter::new(piece.start, piece.len),
            Self::Several(pieces) => UserWriter::scattered(pieces),
        }
    }

    pub(super) fn reader(self) -> UserReader {
        match self {
            Self::One(piece) => UserReader::new(piece.start, piece.len),
            Self::Several(pieces) => UserReader::scattered(pieces),
        }
    }
}

/// `readv(2)`.
///
/// # Errors
/// As the man page says.
pub fn readv(fd: Fd, vectors: UserPtr<Vector>, count: i32) -> Result<usize> {
    let file = file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    let mut buffer = pieces(vectors, count)?.writer();
    // Unlike `read`, this is nothing even for a directory.
    if buffer.remaining() == 0 { Ok(0) } else { file.read(&mut buffer) }
}

/// `writev(2)`.
///
/// # Errors
/// As the man page says.
pub fn writev(fd: Fd, vectors: UserPtr<Vector>, count: i32) -> Result<usize> {
    let file = file(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    file.write(&mut pieces(vectors, count)?.reader())
}

/// `preadv(2)`. The upper half of the offset is for machines with smaller registers.
///
/// # Errors
/// As the man page says.
pub fn preadv(
    fd: Fd,
    vectors: UserPtr<Vector>,
    count: i32,
    offset: i64,
    _high: i64,
) -> Result<usize> {
    let offset = check_offset(offset)?;
    let file = positioned(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    file.read_at(offset, &mut pieces(vectors, count)?.writer())
}

/// `pwritev(2)`.
///
/// # Errors
/// As the man page says.
pub fn pwritev(
    fd: Fd,
    vectors: UserPtr<Vector>,
    count: i32,
    offset: i64,
    _high: i64,
) -> Result<usize> {
    let offset = check_offset(offset)?;
    let file = positioned(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    file.write_at(offset, &mut pieces(vectors, count)?.reader())
}

/// `preadv2(2)`.
///
/// # Errors
/// As the man page says; EOPNOTSUPP for flags that are not offered.
pub fn preadv2(
    fd: Fd,
    vectors: UserPtr<Vector>,
    count: i32,
    offset: i64,
    high: i64,
    flags: u32,
) -> Result<usize> {
    // What is read is in memory already: a read of a regular file never waits.
    check_flags(flags, RWF_HIPRI | RWF_NOWAIT).map_err(|_| Errno::EOPNOTSUPP)?;
    if flags & RWF_NOWAIT != 0 && file(fd)?.as_stream().is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    if offset == -1 { readv(fd, vectors, count) } else { preadv(fd, vectors, count, offset, high) }
}

/// `pwritev2(2)`.
///
/// # Errors
/// As the man page says; EOPNOTSUPP for flags that are not offered.
pub fn pwritev2(
    fd: Fd,
    vectors: UserPtr<Vector>,
    count: i32,
    offset: i64,
    high: i64,
    flags: u32,
) -> Result<usize> {
    // Files are in memory, so that what is written is as safe as it will ever be.
    check_flags(flags, RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND)
        .map_err(|_| Errno::EOPNOTSUPP)?;
    if flags & RWF_APPEND != 0 {
        let file = file(fd)?;
        if !file.is_writable() {
            return Err(Errno::EBADF);
        }
        return file.append(&mut pieces(vectors, count)?.reader(), offset == -1);
    }
    if offset == -1 {
        writev(fd, vectors, count)
    } else {
        pwritev(fd, vectors, count, offset, high)
    }
}

/// `lseek(2)`.
///
/// # Errors
/// As the man page says.
pub fn lseek(fd: Fd, offset: i64, whence: i32) -> Result<u64> {
    let file = file(fd)?;
    let whence = match u32::try_from(whence) {
        Ok(SEEK_SET) => Whence::Start,
        Ok(SEEK_CUR) => Whence::Current,
        Ok(SEEK_END) => Whence::End,
        Ok(SEEK_DATA) => Whence::Data,
        Ok(SEEK_HOLE) => Whence::Hole,
        _ => return Err(Errno::EINVAL),
    };
    file.seek(offset, whence)
}

/// One side of a copy inside the kernel.
pub(super) struct Side {
    pub(super) file: FileRef,
    /// Where the copy goes on; `None` for a stream.
    position: Option<u64>,
    /// Whether that is the file's own offset, and not one that the caller gave.
    own: bool,
}

impl Side {
    pub(super) fn new(file: FileRef, given: Option<u64>) -> Self {
        let own = given.is_none();
        let is_stream = file.as_stream().is_some();
        let position = given.or_else(|| (!is_stream).then(|| file.offset()));
        Self { file, position, own }
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let count = self.file.read_kernel(self.position, bytes)?;
        self.position = self.position.map(|position| position + count as u64);
        Ok(count)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.file.write_kernel(self.position, bytes)?;
        self.position = self.position.map(|position| position + count as u64);
        Ok(count)
    }

    /// Gives back what was read and could not be written.
    fn rewind(&mut self, count: usize) {
        self.position = self.position.map(|position| position - count as u64);
    }

    /// Tells the file or the caller how far the copy came.
    pub(super) fn finish(&self, pointer: UserPtr<i64>) -> Result<()> {
        match (self.position, pointer.non_null()) {
            (Some(position), _) if self.own => self.file.set_offset(position),
            (Some(position), Some(pointer)) => {
                pointer.write(i64::try_from(position).map_err(|_| Errno::EOVERFLOW)?)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Copies until `count` bytes are done, the input ends, or the output takes no more.
fn copy(from: &mut Side, to: &mut Side, count: usize) -> Result<usize> {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE_SIZE, 0);
    let mut done = 0;
    while done < count {
        let want = (count - done).min(page.len());
        let read = match from.read(&mut page[..want]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        match to.write(&page[..read]) {
            Ok(written) => {
                done += written;
                // Linux tries again: whoever takes no more says why.
                from.rewind(read - written);
                if written == 0 {
                    break;
                }
            }
            Err(error) => {
                from.rewind(read);
                if done == 0 {
                    return Err(error);
                }
                break;
            }
        }
    }
    Ok(done)
}

/// Tells those who watch the files of a copy, once for the whole of it.
fn notify_copied(from: &Side, to: &Side, result: Result<usize>) {
    if matches!(result, Ok(1..)) {
        from.file.notify(IN_ACCESS);
        to.file.notify(IN_MODIFY);
    }
}

pub(super) fn read_offset(offset: UserPtr<i64>) -> Result<Option<u64>> {
    offset.non_null().map(|offset| check_offset(offset.read()?)).transpose()
}

/// `sendfile(2)`.
///
/// # Errors
/// As the man page says.
pub fn sendfile(out_fd: Fd, in_fd: Fd, offset: UserPtr<i64>, count: usize) -> Result<usize> {
    let start = read_offset(offset)?;
    let mut from = Side::new(file(in_fd)?, start);
    let mut to = Side::new(file(out_fd)?, None);
    if !from.file.is_readable() || !to.file.is_writable() {
        return Err(Errno::EBADF);
    }
    if from.file.as_stream().is_some() {
        return Err(if start.is_some() { Errno::ESPIPE } else { Errno::EINVAL });
    }
    if to.file.flags() & linux_raw_sys::general::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let result = copy(&mut from, &mut to, count.min(MAX_COUNT));
    notify_copied(&from, &to, result);
    to.finish(UserPtr::new(0))?;
    from.finish(offset)?;
    result
}

/// `copy_file_range(2)`.
///
/// # Errors
/// As the man page says.
pub fn copy_file_range(
    in_fd: Fd,
    in_offset: UserPtr<i64>,
    out_fd: Fd,
    out_offset: UserPtr<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    check_flags(flags, 0)?;
    let mut from = Side::new(file(in_fd)?, read_offset(in_offset)?);
    let mut to = Side::new(file(out_fd)?, read_offset(out_offset)?);
    for side in [&from, &to] {
        if side.file.is_directory()? {
            return Err(Errno::EISDIR);
        }
        if !side.file.is_regular()? {
            return Err(Errno::EINVAL);
        }
    }
    let appends = to.file.flags() & linux_raw_sys::general::O_APPEND != 0;
    if !from.file.is_readable() || !to.file.is_writable() || appends {
        return Err(Errno::EBADF);
    }
    // Only what there is to copy can overlap.
    let left = from.file.inode().size()?.saturating_sub(from.position.unwrap_or(0));
    let len = len.min(MAX_COUNT).min(crate::memory::usize_from(left));
    if from.file.inode().is(to.file.inode()) && overlap(&from, &to, len) {
        return Err(Errno::EINVAL);
    }
    let result = copy(&mut from, &mut to, len);
    notify_copied(&from, &to, result);
    to.finish(out_offset)?;
    from.finish(in_offset)?;
    result
}

fn overlap(from: &Side, to: &Side, len: usize) -> bool {
    match (from.position, to.position) {
        (Some(from), Some(to)) => from.abs_diff(to) < len as u64,
        _ => false,
    }
}
