//! Sockets: socket(2), bind(2), connect(2), accept(2), getsockopt(2) and their kin.

use super::Fd;
use super::caller::{Caller, check_flags, file};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::stream::StreamRef;
use crate::fs::{FileRef, Inode, OpenFile};
use crate::memory::{UserPtr, UserReader};
use crate::net::options::Value;
use crate::net::unix::{Endpoint, Kind, Socket as UnixSocket};
use crate::net::{Directions, Names, Socket};
use crate::process::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use linux_raw_sys::net::{AF_UNIX, SHUT_RD, SHUT_RDWR, SHUT_WR};

/// `SOCK_CLOEXEC`.
const SOCK_CLOEXEC: u32 = O_CLOEXEC;
/// `SOCK_NONBLOCK`.
const SOCK_NONBLOCK: u32 = O_NONBLOCK;
/// The bits of a type that are not flags (Linux: `SOCK_TYPE_MASK`).
const TYPES: u32 = 0xf;
/// Linux: `SOCK_MAX`.
const TYPE_LIMIT: u32 = 11;
/// `sizeof(struct sockaddr_storage)`.
const LONGEST_ADDRESS: usize = 128;
/// No option's value is longer.
const LONGEST_VALUE: usize = 16;

/// The socket that an open file is.
pub(super) fn socket_of(file: &FileRef) -> Result<&dyn Socket> {
    file.as_stream().and_then(|stream| stream.as_socket()).ok_or(Errno::ENOTSOCK)
}

/// Copies in an address.
pub(super) fn read_address(address: UserPtr<u8>, len: u32) -> Result<Vec<u8>> {
    let len = usize::try_from(len.cast_signed()).map_err(|_| Errno::EINVAL)?;
    if len > LONGEST_ADDRESS {
        return Err(Errno::EINVAL);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    if len > 0 && UserReader::new(address.address(), len).read_to_vec(&mut bytes, len)? < len {
        return Err(Errno::EFAULT);
    }
    Ok(bytes)
}

/// Copies out the beginning of an address, and its whole length.
pub(super) fn write_address(address: &[u8], buffer: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    write_bytes(&address[..room.min(address.len())], buffer)?;
    len.write(i32::try_from(address.len()).map_err(|_| Errno::EINVAL)?)
}

pub(super) fn write_bytes(bytes: &[u8], buffer: UserPtr<u8>) -> Result<()> {
    let mut writer = crate::memory::UserWriter::new(buffer.address(), bytes.len());
    if !bytes.is_empty() && writer.write_slice(bytes)? < bytes.len() {
        return Err(Errno::EFAULT);
    }
    Ok(())
}

/// Does something with the caller's paths and rights.
pub(super) fn with_names<T>(action: impl FnOnce(&Names<'_>) -> T) -> T {
    let caller = Caller::get();
    action(&Names { context: &caller.context, subject: caller.subject() })
}

fn open(stream: StreamRef, flags: u32) -> FileRef {
    let inode = Inode::Stream(stream.clone());
    Arc::new(OpenFile::stream(stream, inode, O_RDWR | flags & SOCK_NONBLOCK))
}

fn add(file: FileRef, flags: u32) -> Result<i32> {
    current().files().lock().add(file, flags & SOCK_CLOEXEC != 0)
}

/// The type that a program asks for, and flags.
fn check_kind(domain: i32, kind: u32, protocol: i32) -> Result<(Kind, u32)> {
    let flags = kind & !TYPES;
    check_flags(flags, SOCK_CLOEXEC | SOCK_NONBLOCK)?;
    let number = kind & TYPES;
    // The number of families is no limit of ours: none but one is there.
    if domain < 0 {
        return Err(Errno::EAFNOSUPPORT);
    }
    if number >= TYPE_LIMIT {
        return Err(Errno::EINVAL);
    }
    let family = i32::try_from(AF_UNIX).map_err(|_| Errno::EAFNOSUPPORT)?;
    if domain != family {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != family {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok((Kind::from_number(number)?, flags))
}

/// `socket(2)`.
///
/// # Errors
/// As the man page says; EAFNOSUPPORT for all families but AF_UNIX.
pub fn socket(domain: i32, kind: u32, protocol: i32) -> Result<i32> {
    let (kind, flags) = check_kind(domain, kind, protocol)?;
    add(open(Endpoint::open(UnixSocket::new(kind)?), flags), flags)
}

/// `socketpair(2)`.
///
/// # Errors
/// As the man page says.
pub fn socketpair(domain: i32, kind: u32, protocol: i32, fds: UserPtr<[i32; 2]>) -> Result<()> {
    let (kind, flags) = check_kind(domain, kind, protocol)?;
    let pair = UnixSocket::pair(kind)?.map(|socket| open(Endpoint::open(socket), flags));
    super::pipe::add_pair(pair, flags & SOCK_CLOEXEC != 0, fds)
}

/// `bind(2)`.
///
/// # Errors
/// As the man page says.
pub fn bind(fd: Fd, address: UserPtr<u8>, len: u32) -> Result<()> {
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    let address = read_address(address, len)?;
    with_names(|names| socket.bind(&address, names))
}

/// `listen(2)`.
///
/// # Errors
/// As the man page says.
pub fn listen(fd: Fd, backlog: i32) -> Result<()> {
    let file = file(fd)?;
    // A negative number is a large one.
    socket_of(&file)?.listen(backlog.cast_unsigned())
}

/// `connect(2)`.
///
/// # Errors
/// As the man page says.
pub fn connect(fd: Fd, address: UserPtr<u8>, len: u32) -> Result<()> {
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    let address = read_address(address, len)?;
    let wait = file.flags() & O_NONBLOCK == 0;
    with_names(|names| socket.connect(&address, names, wait))
}

/// `accept(2)`.
///
/// # Errors
/// As the man page says.
pub fn accept(fd: Fd, address: UserPtr<u8>, len: UserPtr<i32>) -> Result<i32> {
    accept4(fd, address, len, 0)
}

/// `accept4(2)`.
///
/// # Errors
/// As the man page says.
pub fn accept4(fd: Fd, address: UserPtr<u8>, len: UserPtr<i32>, flags: u32) -> Result<i32> {
    check_flags(flags, SOCK_CLOEXEC | SOCK_NONBLOCK)?;
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    // A connection is only taken if there is a descriptor for it.
    current().files().lock().check_room()?;
    let stream = socket.accept(file.flags() & O_NONBLOCK == 0)?;
    let new = open(stream, flags);
    if let Some(address) = address.non_null() {
        let name = socket_of(&new)?.peer_name().map_err(|_| Errno::ECONNABORTED)?;
        write_address(&name, address, len)?;
    }
    add(new, flags)
}

/// `shutdown(2)`.
///
/// # Errors
/// As the man page says.
pub fn shutdown(fd: Fd, how: u32) -> Result<()> {
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    socket.shutdown(match how {
        SHUT_RD => Directions::RECEIVE,
        SHUT_WR => Directions::SEND,
        SHUT_RDWR => Directions::BOTH,
        _ => return Err(Errno::EINVAL),
    })
}

/// `getsockname(2)`.
///
/// # Errors
/// As the man page says.
pub fn getsockname(fd: Fd, address: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let file = file(fd)?;
    write_address(&socket_of(&file)?.name(), address, len)
}

/// `getpeername(2)`.
///
/// # Errors
/// As the man page says.
pub fn getpeername(fd: Fd, address: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let file = file(fd)?;
    write_address(&socket_of(&file)?.peer_name()?, address, len)
}

/// `setsockopt(2)`.
///
/// # Errors
/// As the man page says.
pub fn setsockopt(fd: Fd, level: i32, name: u32, value: UserPtr<u8>, len: u32) -> Result<()> {
    let len = usize::try_from(len.cast_signed()).map_err(|_| Errno::EINVAL)?;
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    let len = len.min(LONGEST_VALUE);
    let mut bytes = [0; LONGEST_VALUE];
    // What is too short is refused before it is looked at.
    if len >= size_of::<i32>()
        && UserReader::new(value.address(), len).read(&mut bytes[..len])? < len
    {
        return Err(Errno::EFAULT);
    }
    let privileged = current().can(Capability::NetAdmin);
    socket.set_option(level, name, &bytes[..len], privileged)
}

/// `getsockopt(2)`.
///
/// # Errors
/// As the man page says.
pub fn getsockopt(
    fd: Fd,
    level: i32,
    name: u32,
    value: UserPtr<u8>,
    len: UserPtr<i32>,
) -> Result<()> {
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    let room = usize::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; LONGEST_VALUE];
    let size = match socket.option(level, name)? {
        Value::Int(number) => fill(&mut bytes, &[number.to_le_bytes()]),
        Value::Pair(pair) => fill(&mut bytes, &pair.map(i32::to_le_bytes)),
        Value::Time(time) => fill(&mut bytes, &time.map(i64::to_le_bytes)),
        Value::Identity(identity) => fill(
            &mut bytes,
            &[
                identity.pid.to_le_bytes(),
                identity.user.to_le_bytes(),
                identity.group.to_le_bytes(),
            ],
        ),
    };
    let size = size.min(room);
    write_bytes(&bytes[..size], value)?;
    len.write(i32::try_from(size).map_err(|_| Errno::EINVAL)?)
}

fn fill<const N: usize>(target: &mut [u8], words: &[[u8; N]]) -> usize {
    let bytes = words.as_flattened();
    target[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}
