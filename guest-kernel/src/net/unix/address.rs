//! Names of AF_UNIX sockets (`unix(7)`, "Address format"): paths, abstract names, or none.

use super::Socket;
use crate::errno::{Errno, Result};
use crate::fs::Inode;
use crate::fs::metadata::{S_IFMT, S_IFSOCK};
use crate::fs::path::{Last, walk};
use crate::fs::permission::WRITE;
use crate::memory::frame;
use crate::net::{Address, Names};
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use linux_raw_sys::net::AF_UNIX;

/// Where the name begins in a `struct sockaddr_un`.
const NAME_AT: usize = 2;
/// `sizeof(struct sockaddr_un)`.
const LONGEST: usize = 110;
/// Names that the kernel makes have so many hexadecimal digits.
const DIGITS: usize = 5;

/// What an address that a program passed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A path, without its NUL.
    Path(&'a [u8]),
    /// An abstract name, with the NUL that it begins with.
    Abstract(&'a [u8]),
    /// Only the family: a name is to be made up.
    Unnamed,
}

/// Understands a `struct sockaddr_un`.
///
/// # Errors
/// EINVAL.
pub fn parse(address: &[u8]) -> Result<Parsed<'_>> {
    let family = address.first_chunk().map(|family| u16::from_le_bytes(*family));
    if family.map(u32::from) != Some(AF_UNIX) || address.len() > LONGEST {
        return Err(Errno::EINVAL);
    }
    let name = &address[NAME_AT..];
    match name.first() {
        None => Ok(Parsed::Unnamed),
        Some(0) => Ok(Parsed::Abstract(name)),
        Some(_) => {
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            Ok(Parsed::Path(&name[..end]))
        }
    }
}

fn family_and(name: &[&[u8]]) -> Result<Address> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(LONGEST + 1).map_err(|_| Errno::ENOMEM)?;
    bytes.extend_from_slice(&u16::try_from(AF_UNIX).unwrap_or(0).to_le_bytes());
    for part in name {
        bytes.extend_from_slice(part);
    }
    Ok(Address::from(bytes))
}

/// The address of a socket that has no name.
pub fn unnamed() -> Address {
    Address::from([1, 0].as_slice())
}

/// A path as an address, which tells the NUL, too.
///
/// # Errors
/// ENOMEM.
pub fn of_path(path: &[u8]) -> Result<Address> {
    family_and(&[path, &[0]])
}

/// Abstract names: those of each type of socket are its own.
type AbstractName = (u8, Address);

/// Who has which name.
struct Taken {
    abstracts: BTreeMap<AbstractName, Weak<Socket>>,
    /// By the number of the file that the path leads to.
    files: BTreeMap<(u64, u64), Weak<Socket>>,
}

static TAKEN: SpinLock<Taken> =
    SpinLock::new(Taken { abstracts: BTreeMap::new(), files: BTreeMap::new() });

/// What a socket is bound to.
#[derive(Clone)]
pub enum Binding {
    /// An abstract name.
    Abstract(AbstractName),
    /// A file, which stays as long as the socket.
    File(Inode),
}

/// Takes an abstract name.
///
/// # Errors
/// EADDRINUSE, ENOMEM.
pub fn take_abstract(socket: &Arc<Socket>, name: &[u8]) -> Result<(Address, Binding)> {
    let address = family_and(&[name])?;
    take(socket, address.clone()).map(|binding| (address, binding))
}

fn take(socket: &Arc<Socket>, address: Address) -> Result<Binding> {
    frame::check_room()?;
    let key = (socket.kind.number(), address);
    let mut taken = TAKEN.lock();
    if taken.abstracts.contains_key(&key) {
        return Err(Errno::EADDRINUSE);
    }
    taken.abstracts.insert(key.clone(), Arc::downgrade(socket));
    Ok(Binding::Abstract(key))
}

/// Takes an abstract name that nobody has, from a random one on.
///
/// # Errors
/// ENOSPC if all are taken, ENOMEM.
pub fn take_any(socket: &Arc<Socket>) -> Result<(Address, Binding)> {
    const NAMES: u32 = 1 << (4 * DIGITS);
    let mut random = [0; 4];
    if let Some(services) = crate::fs::services::services() {
        services.random(&mut random);
    }
    let first = u32::from_le_bytes(random);
    for offset in 0..NAMES {
        let number = first.wrapping_add(offset) % NAMES;
        let mut name = [0; 1 + DIGITS];
        for (at, digit) in name[1..].iter_mut().enumerate() {
            let shift = 4 * (DIGITS - 1 - at);
            *digit =
                b"0123456789abcdef"[crate::memory::usize_from(u64::from(number >> shift & 15))];
        }
        match take_abstract(socket, &name) {
            Err(Errno::EADDRINUSE) => {}
            result => return result,
        }
    }
    Err(Errno::ENOSPC)
}

/// Notes that a file is this socket's.
///
/// # Errors
/// ENOMEM.
pub fn take_file(socket: &Arc<Socket>, inode: Inode) -> Result<Binding> {
    frame::check_room()?;
    TAKEN.lock().files.insert(inode.identity(), Arc::downgrade(socket));
    Ok(Binding::File(inode))
}

/// Gives a name up.
pub fn release(binding: &Binding) {
    let mut taken = TAKEN.lock();
    let socket = match binding {
        Binding::Abstract(key) => taken.abstracts.remove(key),
        Binding::File(inode) => taken.files.remove(&inode.identity()),
    };
    drop(taken);
    drop(socket);
}

/// The socket that an address leads to.
///
/// # Errors
/// ECONNREFUSED if nobody is there, EPROTOTYPE if it is of another type, EINVAL, and those of a path.
pub fn find(address: &[u8], names: &Names<'_>, like: &Socket) -> Result<Arc<Socket>> {
    match parse(address)? {
        Parsed::Unnamed => Err(Errno::EINVAL),
        Parsed::Abstract(name) => {
            let key = (like.kind.number(), family_and(&[name])?);
            let found = TAKEN.lock().abstracts.get(&key).and_then(Weak::upgrade);
            found.ok_or(Errno::ECONNREFUSED)
        }
        Parsed::Path(path) => {
            let Names { context, subject } = names;
            let path = Vec::from(path);
            let found = walk(&context.root, &context.directory, path, Last::Follow, subject)?;
            let inode = found.existing()?;
            subject.check(&inode, WRITE)?;
            if inode.mode()? & S_IFMT != S_IFSOCK || inode.file_system().is_none() {
                return Err(Errno::ECONNREFUSED);
            }
            let found = TAKEN.lock().files.get(&inode.identity()).and_then(Weak::upgrade);
            let socket = found.ok_or(Errno::ECONNREFUSED)?;
            if socket.kind == like.kind { Ok(socket) } else { Err(Errno::EPROTOTYPE) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_an_abstract_name_or_nothing() {
        assert_eq!(parse(b"\x01\0/tmp/x\0rest"), Ok(Parsed::Path(b"/tmp/x")));
        assert_eq!(parse(b"\x01\0/tmp/x"), Ok(Parsed::Path(b"/tmp/x")));
        assert_eq!(parse(b"\x01\0\0a\0b"), Ok(Parsed::Abstract(b"\0a\0b")));
        assert_eq!(parse(b"\x01\0"), Ok(Parsed::Unnamed));
        for wrong in [b"".as_slice(), b"\x01", b"\x02\0x", &[1; 111]] {
            assert_eq!(parse(wrong), Err(Errno::EINVAL));
        }
        let mut longest = [b'x'; LONGEST];
        longest[..2].copy_from_slice(&[1, 0]);
        assert_eq!(parse(&longest), Ok(Parsed::Path(&[b'x'; 108])));
        assert_eq!(of_path(b"x").as_deref(), Ok(b"\x01\0x\0".as_slice()));
    }
}
