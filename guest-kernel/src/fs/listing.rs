//! Directory entries in the form that `getdents(2)` copies out.

use super::open_file::OpenFile;
use super::tmpfs::Listed;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// No call returns more bytes than this, however large the program's buffer is.
const MAX_BYTES: usize = 32 << 10;
const DIRECTORY: u8 = 4;

/// Layout of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `struct linux_dirent64`.
    Dirent64,
    /// `struct linux_dirent`: the type is the last byte.
    Dirent,
}

/// The entries from the file's offset on that fit into `room` bytes, and the offset after them. None
/// at all is the end.
///
/// # Errors
/// ENOTDIR, EINVAL if not even one entry fits, ENOENT if the directory was removed, ENOMEM.
pub fn entries(file: &OpenFile, room: usize, layout: Layout) -> Result<(Vec<u8>, u64)> {
    let directory = file.inode();
    if !directory.is_directory()? {
        return Err(Errno::ENOTDIR);
    }
    if directory.is_removed_directory()? {
        return Err(Errno::ENOENT);
    }
    let mut position = file.offset();
    let mut entries = Entries { bytes: Vec::new(), room: room.min(MAX_BYTES), layout, error: None };
    // `.` and `..` have the first two positions.
    if position == 0 {
        let dot = Listed { name: b".", number: directory.number(), kind: DIRECTORY };
        if entries.add(&dot, 1) {
            position = 1;
        }
    }
    if position == 1 && entries.error.is_none() {
        let number = directory.parent()?.number();
        if entries.add(&Listed { name: b"..", number, kind: DIRECTORY }, 2) {
            position = 2;
        }
    }
    if position >= 2 && entries.error.is_none() {
        directory.list(position - 2, &mut |listed, next| {
            let added = entries.add(listed, next + 2);
            if added {
                position = next + 2;
            }
            added
        })?;
    }
    match entries.error {
        Some(error) if entries.bytes.is_empty() => Err(error),
        _ => Ok((entries.bytes, position)),
    }
}

struct Entries {
    bytes: Vec<u8>,
    room: usize,
    layout: Layout,
    /// Why the last entry was not added.
    error: Option<Errno>,
}

impl Entries {
    fn add(&mut self, listed: &Listed<'_>, next: u64) -> bool {
        let kind_in_front = self.layout == Layout::Dirent64;
        let header = if kind_in_front { 19 } else { 18 };
        // The name, its NUL, and in the old layout the type at the very end.
        let end = listed.name.len() + if kind_in_front { 1 } else { 2 };
        let length = (header + end).next_multiple_of(8);
        if self.bytes.len() + length > self.room {
            self.error = Some(Errno::EINVAL);
            return false;
        }
        let Ok(record_length) = u16::try_from(length) else { return false };
        if self.bytes.try_reserve(length).is_err() {
            self.error = Some(Errno::ENOMEM);
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&listed.number.to_le_bytes());
        self.bytes.extend_from_slice(&next.to_le_bytes());
        self.bytes.extend_from_slice(&record_length.to_le_bytes());
        if kind_in_front {
            self.bytes.push(listed.kind);
        }
        self.bytes.extend_from_slice(listed.name);
        self.bytes.resize(start + length, 0);
        if !kind_in_front {
            self.bytes[start + length - 1] = listed.kind;
        }
        true
    }
}
