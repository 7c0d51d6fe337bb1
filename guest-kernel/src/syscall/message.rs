//! Messages through sockets: sendto(2), recvfrom(2), sendmsg(2), recvmsg(2) and their kin.

use super::Fd;
use super::caller::{any_file, file};
use super::read_write::{Vector, check_buffer, pieces};
use super::socket::{read_address, socket_of, with_names, write_address, write_bytes};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::fs::{FileRef, Timestamp};
use crate::memory::user::Plain;
use crate::memory::{UserPtr, UserReader, UserWriter, usize_from};
use crate::net::{Ancillary, Identity, Incoming, Outgoing, Received};
use crate::process::{INIT, current};
use alloc::vec::Vec;
use linux_raw_sys::general::O_NONBLOCK;
use linux_raw_sys::net::{
    MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_TRUNC,
    MSG_WAITALL, SCM_CREDENTIALS, SCM_RIGHTS, SO_TIMESTAMP, SOL_SOCKET,
};

/// `MSG_WAITFORONE`: only the first message is waited for.
const MSG_WAITFORONE: u32 = 0x1_0000;
/// Most pieces of a message, and most messages of a call (`UIO_MAXIOV`).
const MAX_PIECES: u64 = 1024;
/// Files that can go along with a message (`SCM_MAX_FD`).
const MAX_FILES: usize = 253;
/// Bytes of ancillary data (`/proc/sys/net/core/optmem_max`).
const MAX_CONTROL: u64 = 131_072;

/// `struct msghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Message {
    name: u64,
    name_len: u32,
    padding: u32,
    vectors: u64,
    count: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    padding2: u32,
}

// SAFETY: integers; the gaps are fields of their own.
unsafe impl Plain for Message {}
const _: () = assert!(size_of::<Message>() == 56);

/// `struct mmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SizedMessage {
    message: Message,
    len: u32,
    padding: u32,
}

// SAFETY: as above.
unsafe impl Plain for SizedMessage {}

/// `struct cmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    len: u64,
    level: u32,
    kind: u32,
}

// SAFETY: integers without a gap.
unsafe impl Plain for Control {}
const HEADER: usize = size_of::<Control>();

fn waits(file: &FileRef, flags: u32) -> bool {
    flags & MSG_DONTWAIT == 0 && file.flags() & O_NONBLOCK == 0
}

fn send(
    file: &FileRef,
    data: &mut UserReader,
    address: &[u8],
    ancillary: Ancillary,
    flags: u32,
) -> Result<usize> {
    let socket = socket_of(file)?;
    // There is no urgent data, as on a Linux without CONFIG_AF_UNIX_OOB.
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let wait = waits(file, flags);
    let result = if address.is_empty() {
        socket.send(Outgoing { data, address: None, ancillary, wait })
    } else {
        with_names(|names| {
            socket.send(Outgoing { data, address: Some((address, names)), ancillary, wait })
        })
    };
    if result == Err(Errno::EPIPE)
        && flags & MSG_NOSIGNAL == 0
        && socket.signals_broken_pipe()
        && let Some(services) = services()
    {
        services.broken_pipe();
    }
    result
}

/// `sendto(2)`.
///
/// # Errors
/// As the man page says.
pub fn sendto(
    fd: Fd,
    buffer: UserPtr<u8>,
    len: usize,
    flags: u32,
    address: UserPtr<u8>,
    address_len: u32,
) -> Result<usize> {
    let len = check_buffer(buffer.address(), len)?;
    let file = file(fd)?;
    socket_of(&file)?;
    let address = match address.non_null() {
        Some(address) => read_address(address, address_len)?,
        None => Vec::new(),
    };
    let mut data = UserReader::new(buffer.address(), len);
    send(&file, &mut data, &address, Ancillary::default(), flags)
}

/// The pieces of a message, as `readv` has them.
fn vectors(message: &Message) -> Result<super::read_write::Pieces> {
    if message.count > MAX_PIECES {
        return Err(Errno::EMSGSIZE);
    }
    let count = i32::try_from(message.count).map_err(|_| Errno::EMSGSIZE)?;
    pieces(UserPtr::<Vector>::new(message.vectors), count)
}

/// Reads the ancillary data that a program sends.
fn read_control(message: &Message) -> Result<Ancillary> {
    let mut ancillary = Ancillary::default();
    if message.control_len == 0 {
        return Ok(ancillary);
    }
    if message.control_len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let end = usize_from(message.control_len);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(end).map_err(|_| Errno::ENOBUFS)?;
    if UserReader::new(message.control, end).read_to_vec(&mut bytes, end)? < end {
        return Err(Errno::EFAULT);
    }
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let word = |at: usize| header[at..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let len = header.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        let len = usize_from(len);
        if len < HEADER || len > end - at {
            return Err(Errno::EINVAL);
        }
        let content = &bytes[at + HEADER..at + len];
        if word(8) == Some(SOL_SOCKET) {
            match word(12) {
                Some(SCM_RIGHTS) => read_files(content, &mut ancillary.files)?,
                Some(SCM_CREDENTIALS) => ancillary.identity = Some(read_identity(content)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        at += len.next_multiple_of(size_of::<u64>());
    }
    if !ancillary.files.is_empty() {
        let process = current();
        if !process.can(Capability::SysResource) && !process.can(Capability::SysAdmin) {
            ancillary.flight_limit = Some(process.files().lock().limit() as u64);
        }
    }
    Ok(ancillary)
}

fn read_files(content: &[u8], files: &mut Vec<FileRef>) -> Result<()> {
    let (numbers, _) = content.as_chunks();
    if files.len() + numbers.len() > MAX_FILES {
        return Err(Errno::EINVAL);
    }
    files.try_reserve(numbers.len()).map_err(|_| Errno::ENOMEM)?;
    for number in numbers {
        files.push(any_file(Fd(i32::from_le_bytes(*number)))?);
    }
    Ok(())
}

/// Only the privileged may claim to be someone else (`unix(7)`).
fn read_identity(content: &[u8]) -> Result<Identity> {
    let &[pid, user, group] = content.as_chunks().0 else { return Err(Errno::EINVAL) };
    if content.len() != 3 * size_of::<u32>() {
        return Err(Errno::EINVAL);
    }
    let identity = Identity {
        pid: i32::from_le_bytes(pid),
        user: u32::from_le_bytes(user),
        group: u32::from_le_bytes(group),
    };
    let process = current();
    let who = process.credentials();
    let may_claim = (identity.pid == process.pid || who.can(Capability::SysAdmin))
        && ([who.uid, who.euid, who.suid].contains(&identity.user) || who.can(Capability::Setuid))
        && ([who.gid, who.egid, who.sgid].contains(&identity.group) || who.can(Capability::Setgid));
    if !may_claim {
        return Err(Errno::EPERM);
    }
    // PID 1 is there, if only as the kernel.
    if identity.pid != process.pid && identity.pid != INIT {
        let pid = u32::try_from(identity.pid).ok().filter(|&pid| pid > 0).ok_or(Errno::ESRCH)?;
        services().and_then(|services| services.process(pid)).ok_or(Errno::ESRCH)?;
    }
    if identity.user == u32::MAX || identity.group == u32::MAX {
        return Err(Errno::EINVAL);
    }
    Ok(identity)
}

fn send_message(file: &FileRef, message: &Message, flags: u32) -> Result<usize> {
    let address = if message.name == 0 {
        Vec::new()
    } else {
        if message.name_len.cast_signed() < 0 {
            return Err(Errno::EINVAL);
        }
        // What is longer than any address is cut, and so wrong.
        read_address(UserPtr::new(message.name), message.name_len.min(128))?
    };
    let mut data = vectors(message)?.reader();
    let ancillary = read_control(message)?;
    send(file, &mut data, &address, ancillary, flags)
}

/// `sendmsg(2)`.
///
/// # Errors
/// As the man page says.
pub fn sendmsg(fd: Fd, message: UserPtr<Message>, flags: u32) -> Result<usize> {
    let file = file(fd)?;
    socket_of(&file)?;
    send_message(&file, &message.read()?, flags)
}

/// `sendmmsg(2)`.
///
/// # Errors
/// As the man page says.
pub fn sendmmsg(fd: Fd, messages: UserPtr<SizedMessage>, count: u32, flags: u32) -> Result<usize> {
    let file = file(fd)?;
    socket_of(&file)?;
    let count = usize_from(u64::from(count).min(MAX_PIECES));
    several(messages, count, |message| {
        let sent = send_message(&file, &message.cast::<Message>().read()?, flags)?;
        Ok((sent, true))
    })
}

/// Handles messages until one fails, or says that it shall be the last; tells each its length.
fn several(
    messages: UserPtr<SizedMessage>,
    count: usize,
    mut each: impl FnMut(UserPtr<SizedMessage>) -> Result<(usize, bool)>,
) -> Result<usize> {
    for index in 0..count {
        let message = messages.element(index);
        let handled = each(message).and_then(|(len, goes_on)| {
            let field = message.address().wrapping_add(size_of::<Message>() as u64);
            UserPtr::<u32>::new(field).write(u32::try_from(len).unwrap_or(u32::MAX))?;
            Ok(goes_on)
        });
        match handled {
            Ok(true) => {}
            Ok(false) => return Ok(index + 1),
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
    }
    Ok(count)
}

fn receive(file: &FileRef, buffer: &mut UserWriter, flags: u32) -> Result<Received> {
    let socket = socket_of(file)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    socket.receive(Incoming {
        buffer,
        wait: waits(file, flags),
        peek: flags & MSG_PEEK != 0,
        all: flags & MSG_WAITALL != 0,
    })
}

/// What a receiving call returns.
fn result(received: &Received, flags: u32) -> usize {
    if flags & MSG_TRUNC != 0 { received.length } else { received.count }
}

/// `recvfrom(2)`.
///
/// # Errors
/// As the man page says.
pub fn recvfrom(
    fd: Fd,
    buffer: UserPtr<u8>,
    len: usize,
    flags: u32,
    address: UserPtr<u8>,
    address_len: UserPtr<i32>,
) -> Result<usize> {
    let len = check_buffer(buffer.address(), len)?;
    let file = file(fd)?;
    let received = receive(&file, &mut UserWriter::new(buffer.address(), len), flags)?;
    if let Some(address) = address.non_null() {
        write_address(received.address.as_deref().unwrap_or(&[]), address, address_len)?;
    }
    Ok(result(&received, flags))
}

/// Where ancillary data goes.
struct ControlWriter {
    at: u64,
    left: usize,
    is_cut: bool,
}

impl ControlWriter {
    fn header(&self, len: usize, kind: u32) -> Result<()> {
        let header = Control { len: len as u64, level: SOL_SOCKET, kind };
        UserPtr::<Control>::new(self.at).write(header)
    }

    /// Goes on behind data of this length, as far as there is room.
    fn advance(&mut self, len: usize) {
        let space = (HEADER + len).next_multiple_of(size_of::<u64>()).min(self.left);
        self.at = self.at.wrapping_add(space as u64);
        self.left -= space;
    }

    fn identity(&mut self, identity: Identity) -> Result<()> {
        let words =
            [identity.pid.to_le_bytes(), identity.user.to_le_bytes(), identity.group.to_le_bytes()];
        self.bytes(SCM_CREDENTIALS, words.as_flattened())
    }

    /// A `struct timeval`.
    fn time(&mut self, time: Timestamp) -> Result<()> {
        let microseconds = i64::from(time.nanoseconds / 1000);
        let words = [time.seconds.to_le_bytes(), microseconds.to_le_bytes()];
        self.bytes(SO_TIMESTAMP, words.as_flattened())
    }

    fn bytes(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        if self.left < HEADER {
            self.is_cut = true;
            return Ok(());
        }
        let len = (HEADER + bytes.len()).min(self.left);
        self.is_cut |= len < HEADER + bytes.len();
        self.header(len, kind)?;
        let target = UserPtr::new(self.at.wrapping_add(HEADER as u64));
        write_bytes(&bytes[..len - HEADER], target)?;
        self.advance(bytes.len());
        Ok(())
    }

    /// Gives descriptors to files, as many as there is room for; closes the others.
    fn files(&mut self, files: Vec<FileRef>, close_on_exec: bool) -> Result<()> {
        let count = files.len();
        let room = self.left.saturating_sub(HEADER) / size_of::<i32>();
        let process = current();
        let mut done = 0;
        for file in files.into_iter().take(room) {
            // A file that finds no place is closed without the lock.
            let fd = {
                let mut table = process.files().lock();
                if table.check_room().is_err() {
                    break;
                }
                table.add(file, close_on_exec)?
            };
            let slot = self.at.wrapping_add((HEADER + done * size_of::<i32>()) as u64);
            if UserPtr::<i32>::new(slot).write(fd).is_err() {
                let unwanted = process.files().lock().remove(fd);
                drop(unwanted);
                break;
            }
            done += 1;
        }
        self.is_cut |= done < count;
        if done > 0 {
            let len = done * size_of::<i32>();
            self.header(HEADER + len, SCM_RIGHTS)?;
            self.advance(len);
        }
        Ok(())
    }
}

fn receive_message(file: &FileRef, pointer: UserPtr<Message>, flags: u32) -> Result<usize> {
    let message = pointer.read()?;
    if message.name != 0 && message.name_len.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let mut buffer = vectors(&message)?.writer();
    let mut received = receive(file, &mut buffer, flags)?;
    let field = |offset: u64| pointer.address().wrapping_add(offset);
    let left = usize_from(message.control_len);
    let left = if message.control == 0 { 0 } else { left };
    let mut control = ControlWriter { at: message.control, left, is_cut: false };
    // As on Linux, a wrong address here only costs what should have gone there.
    if let Some(time) = received.time
        && control.time(time).is_err()
    {
        control.is_cut = true;
    }
    if let Some(identity) = received.identity
        && control.identity(identity).is_err()
    {
        control.is_cut = true;
    }
    let files = core::mem::take(&mut received.files);
    if !files.is_empty() && control.files(files, flags & MSG_CMSG_CLOEXEC != 0).is_err() {
        control.is_cut = true;
    }
    let mut told = flags & MSG_CMSG_CLOEXEC;
    if received.length > received.count {
        told |= MSG_TRUNC;
    }
    if control.is_cut {
        told |= MSG_CTRUNC;
    }
    if message.name != 0 {
        let address = received.address.as_deref().unwrap_or(&[]);
        let name_len = UserPtr::new(field(8));
        write_address(address, UserPtr::new(message.name), name_len)?;
    }
    UserPtr::<u32>::new(field(48)).write(told)?;
    let used = control.at.wrapping_sub(message.control);
    UserPtr::<u64>::new(field(40)).write(used)?;
    Ok(result(&received, flags))
}

/// `recvmsg(2)`.
///
/// # Errors
/// As the man page says.
pub fn recvmsg(fd: Fd, message: UserPtr<Message>, flags: u32) -> Result<usize> {
    let file = file(fd)?;
    socket_of(&file)?;
    receive_message(&file, message, flags)
}

/// `recvmmsg(2)`. As on Linux, the timeout is only looked at between messages.
///
/// # Errors
/// As the man page says.
pub fn recvmmsg(
    fd: Fd,
    messages: UserPtr<SizedMessage>,
    count: u32,
    flags: u32,
    timeout: UserPtr<[i64; 2]>,
) -> Result<usize> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let now = || services().map_or(0, |services| services.monotonic_ns());
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => {
            let [seconds, nanoseconds] = timeout.read()?;
            let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
            let nanoseconds = u64::try_from(nanoseconds).map_err(|_| Errno::EINVAL)?;
            if nanoseconds >= NANOSECONDS {
                return Err(Errno::EINVAL);
            }
            let ns = seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds);
            Some(now().saturating_add(ns))
        }
    };
    let file = file(fd)?;
    let socket = socket_of(&file)?;
    if let Some(error) = socket.take_error() {
        return Err(error);
    }
    let count = usize_from(count.into());
    let mut flags = flags;
    let mut received = 0;
    let result = several(messages, count, |message| {
        let len = receive_message(&file, message.cast(), flags & !MSG_WAITFORONE);
        // Messages that were received count more: the error is told by the next call.
        let len = len.inspect_err(|&error| {
            if received > 0 && error != Errno::EAGAIN && error != Errno::EINTR {
                socket.set_error(error);
            }
        })?;
        received += 1;
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        Ok((len, deadline.is_none_or(|deadline| now() < deadline)))
    });
    if let (Some(deadline), Some(timeout), Ok(_)) = (deadline, timeout.non_null(), &result) {
        let left = deadline.saturating_sub(now());
        let seconds = i64::try_from(left / NANOSECONDS).unwrap_or(i64::MAX);
        timeout.write([seconds, i64::try_from(left % NANOSECONDS).unwrap_or(0)])?;
    }
    result
}
