//! The 9P2000.L client: one message each way at a time, in pages of its own.

use crate::errno::{Errno, Result};
use crate::memory::{Content, Frame, PAGE_SIZE, PhysAddr};
use crate::sync::SpinLock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// Message types (Linux: `include/net/9p/9p.h`).
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the protocol")]
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
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
}

const LERROR: u8 = 7;
const HEADER: usize = 7;
/// Bytes of an answer before the data of Rread and Rreaddir.
pub const DATA_OVERHEAD: usize = HEADER + 4;
/// Pages of the longest answer and of the longest request.
const PAGES: usize = 17;
/// Data in one message.
pub const MAX_DATA: usize = (PAGES - 1) * PAGE_SIZE;
/// The whole message, as agreed on with the server.
const MAX_MESSAGE: u32 = 17 * 4096;
/// `P9_NOFID`.
const NO_FID: u32 = u32::MAX;
/// The fid of the volume's root.
pub const ROOT_FID: u32 = 0;
/// Fids that are given back with one request.
const CLUNKS: usize = 8;

/// Memory for the device.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Guest-physical address.
    pub address: PhysAddr,
    /// Bytes.
    pub len: usize,
}

/// What carries messages.
pub trait Transport: Send + Sync {
    /// Sends a request, waits, and says how long the answer is. Without `may_sleep` it waits on the spot.
    ///
    /// # Errors
    /// EIO, ENOMEM.
    fn exchange(&self, request: &[Piece], answer: &[Piece], may_sleep: bool) -> Result<usize>;
}

/// Puts a request together.
#[derive(Default)]
pub struct Request(Vec<u8>);

impl Request {
    fn bytes(mut self, bytes: &[u8]) -> Result<Self> {
        self.0.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.0.extend_from_slice(bytes);
        Ok(self)
    }

    /// A request without a body.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A number of 16 bits.
    pub fn u16(self, value: u16) -> Result<Self> {
        self.bytes(&value.to_le_bytes())
    }

    /// A number of 32 bits.
    pub fn u32(self, value: u32) -> Result<Self> {
        self.bytes(&value.to_le_bytes())
    }

    /// A number of 64 bits.
    pub fn u64(self, value: u64) -> Result<Self> {
        self.bytes(&value.to_le_bytes())
    }

    /// A string.
    pub fn text(self, text: &[u8]) -> Result<Self> {
        let length = u16::try_from(text.len()).map_err(|_| Errno::ENAMETOOLONG)?;
        self.u16(length)?.bytes(text)
    }

    /// Data without a length.
    pub fn data(self, data: &[u8]) -> Result<Self> {
        self.bytes(data)
    }
}

/// Takes an answer apart. The server is the host's; but an answer that ends early is EIO.
pub struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    /// The next bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or(Errno::EIO)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Errno::EIO)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| Errno::EIO)
    }

    /// A number of 8 bits.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// A number of 16 bits.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Type, version and path of a qid.
    pub fn qid(&mut self) -> Result<(u8, u32, u64)> {
        Ok((self.u8()?, self.u32()?, self.u64()?))
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

/// A session with a server.
pub struct Client {
    transport: &'static dyn Transport,
    next_fid: AtomicU32,
    /// Fids whose files nobody has any more, to be given back with the next request.
    unused: SpinLock<Vec<u32>>,
}

impl Client {
    /// Begins a session; returns the path of the root's qid, too.
    ///
    /// # Errors
    /// EIO if the server speaks another dialect, or is dead.
    pub fn start(transport: &'static dyn Transport) -> Result<(Self, u64)> {
        let client =
            Self { transport, next_fid: AtomicU32::new(1), unused: SpinLock::new(Vec::new()) };
        let request = Request::new().u32(MAX_MESSAGE)?.text(b"9P2000.L")?;
        let mut answer = client.call(kind::VERSION, request, 100)?;
        let size = answer.u32()?;
        let length = usize::from(answer.u16()?);
        if answer.bytes(length)? != b"9P2000.L" || size < MAX_MESSAGE {
            return Err(Errno::EIO);
        }
        let request =
            Request::new().u32(ROOT_FID)?.u32(NO_FID)?.text(b"root")?.text(b"")?.u32(0)?;
        let (_, _, root) = client.call(kind::ATTACH, request, 100)?.qid()?;
        Ok((client, root))
    }

    /// A number that is no file's.
    pub fn new_fid(&self) -> u32 {
        self.next_fid.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives a fid back, later: here one may not wait.
    pub fn give_back(&self, fid: u32) {
        let mut unused = self.unused.lock();
        // Without memory it stays in use; the server's limit is far away.
        if unused.try_reserve(1).is_ok() {
            unused.push(fid);
        }
    }

    /// Asks, and sleeps until the answer is there; it has at most `room` bytes with its header.
    ///
    /// # Errors
    /// What the server says; EIO if there is none, ENOMEM.
    pub fn call(&self, kind: u8, request: Request, room: usize) -> Result<Answer> {
        for _ in 0..CLUNKS {
            let Some(fid) = self.unused.lock().pop() else { break };
            self.exchange(kind::CLUNK, &Request::new().u32(fid)?, 100, true)?;
        }
        self.exchange(kind, &request, room, true)
    }

    /// The same without sleeping, for page faults.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub fn call_awake(&self, kind: u8, request: &Request, room: usize) -> Result<Answer> {
        self.exchange(kind, request, room, false)
    }

    fn exchange(&self, kind: u8, request: &Request, room: usize, sleep: bool) -> Result<Answer> {
        let size = HEADER + request.0.len();
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&u32::try_from(size).map_err(|_| Errno::EIO)?.to_le_bytes());
        header[4] = kind;
        let first = Frame::allocate(Content::Overwritten)?;
        first.write(0, &header);
        let inline = first.write(HEADER, &request.0);
        let mut frames = Vec::new();
        frames.try_reserve(2 * PAGES).map_err(|_| Errno::ENOMEM)?;
        let mut pieces = Vec::new();
        pieces.try_reserve(2 * PAGES).map_err(|_| Errno::ENOMEM)?;
        pieces.push(Piece { address: first.address(), len: HEADER + inline });
        frames.push(first);
        for part in request.0[inline..].chunks(PAGE_SIZE) {
            let frame = Frame::allocate(Content::Overwritten)?;
            frame.write(0, part);
            pieces.push(Piece { address: frame.address(), len: part.len() });
            frames.push(frame);
        }
        let asked = pieces.len();
        let mut left = room;
        while left > 0 {
            let frame = Frame::allocate(Content::Overwritten)?;
            let len = left.min(PAGE_SIZE);
            pieces.push(Piece { address: frame.address(), len });
            frames.push(frame);
            left -= len;
        }
        let (out, into) = pieces.split_at(asked);
        let len = self.transport.exchange(out, into, sleep)?.min(room);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        for (part, frame) in bytes.chunks_mut(PAGE_SIZE).zip(&frames[asked..]) {
            frame.bytes(0, part.len()).copy_to(part);
        }
        let mut answer = Answer { bytes, at: 0 };
        // A dead server's answer is empty.
        let (told, got, _tag) = (answer.u32()?, answer.u8()?, answer.u16()?);
        if usize::try_from(told) != Ok(len) {
            return Err(Errno::EIO);
        }
        if got == LERROR {
            let number = answer.u32()?;
            return Err(Errno::from_number(number.into()).unwrap_or(Errno::EIO));
        }
        if got == kind + 1 { Ok(answer) } else { Err(Errno::EIO) }
    }
}
