//! 9P2000.L on the wire: little-endian numbers, strings with 16-bit lengths, no alignment.
//!
//! What arrives is the guest's and may be anything; every reader here ends in EINVAL where the
//! message does.

use super::Errno;

/// Message types (Linux: `include/net/9p/9p.h`); an answer's is one more than its request's.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the protocol")]
    pub const LERROR: u8 = 6;
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
}

/// Size, type and tag.
pub const HEADER: usize = 7;
/// The answer to a message that has not even a tag.
pub const NO_TAG: u16 = u16::MAX;
/// A directory, among the types of a [`Qid`].
pub const QID_DIRECTORY: u8 = 0x80;
/// A symbolic link.
pub const QID_SYMLINK: u8 = 0x02;
/// Bytes of a [`Qid`].
pub const QID_SIZE: usize = 13;

/// What a file is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qid {
    /// `QID_DIRECTORY`, `QID_SYMLINK`, or 0.
    pub kind: u8,
    /// Changes when the file does.
    pub version: u32,
    /// The same for all names of a file, and for no other file.
    pub path: u64,
}

/// Takes a message apart, front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// What follows the header.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// A number of 16 bits.
    pub fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string, which may hold any bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Errno> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// The message must end here.
    pub const fn end(self) -> Result<(), Errno> {
        if self.0.is_empty() { Ok(()) } else { Err(Errno(libc::EINVAL)) }
    }
}

/// Puts an answer together, in memory that is used for all of them.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A writer for answers of up to so many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Begins an answer; [`Self::finish`] fills in the header.
    pub fn begin(&mut self) {
        self.0.clear();
        self.0.extend_from_slice(&[0; HEADER]);
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A number of 8 bits.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// A number of 16 bits.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// A number of 64 bits.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// A string of at most 65535 bytes.
    pub fn string(&mut self, text: &[u8]) {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.bytes(&text[..length.into()]);
    }

    /// What a file is known by.
    pub fn qid(&mut self, qid: Qid) {
        self.u8(qid.kind);
        self.u32(qid.version);
        self.u64(qid.path);
    }

    /// Bytes so far, with the header.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Room for `count` bytes at the end, zeroed; [`Self::cut`] gives back what is not needed.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        let start = self.0.len();
        self.0.resize(start + count, 0);
        &mut self.0[start..]
    }

    /// Shortens the answer.
    pub fn cut(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Puts a number of 32 bits where there is room for it.
    pub fn patch_u32(&mut self, at: usize, value: u32) {
        if let Some(slot) = self.0.get_mut(at..at + 4) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Puts a number of 16 bits where there is room for it.
    pub fn patch_u16(&mut self, at: usize, value: u16) {
        if let Some(slot) = self.0.get_mut(at..at + 2) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Completes the header, and returns the message.
    pub fn finish(&mut self, kind: u8, tag: u16) -> &[u8] {
        let size = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.patch_u32(0, size);
        self.0[4] = kind;
        self.0[5..HEADER].copy_from_slice(&tag.to_le_bytes());
        &self.0
    }
}
