//! POSIX message queues: mq_open(2), mq_timedsend(2), mq_timedreceive(2), mq_notify(2) and their kin.

use super::Fd;
use super::caller::{Caller, any_file, file};
use super::socket::socket_of;
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::fs::{FileRef, Inode, OpenFile};
use crate::ipc::mqueue::{
    self, Attributes, Descriptor, Message, Notice, Notification, PRIORITIES, Queue, Request,
};
use crate::memory::{UserPtr, UserReader, UserWriter, frame};
use crate::process::{current, resource};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    O_ACCMODE, O_CREAT, O_EXCL, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
};

/// Bytes of a path, with its NUL.
const PATH_MAX: usize = 4096;
/// The highest signal.
const LAST_SIGNAL: u32 = 64;
/// `SIGEV_SIGNAL`, `SIGEV_NONE`, `SIGEV_THREAD`.
const SIGEV: [u32; 3] = [0, 1, 2];
/// What `SIGEV_THREAD` sends to its socket (Linux: `NOTIFY_COOKIE_LEN`).
const COOKIE: usize = 32;

/// The queue that a descriptor is of.
fn queue_of(file: &FileRef) -> Result<&Arc<Queue>> {
    let any = file.as_stream().and_then(|stream| stream.as_any()).ok_or(Errno::EBADF)?;
    any.downcast_ref::<Descriptor>().map(Descriptor::queue).ok_or(Errno::EBADF)
}

/// `mq_open(2)`.
///
/// # Errors
/// As the man page says.
pub fn mq_open(
    name: UserPtr<u8>,
    flags: u32,
    mode: u32,
    attributes: UserPtr<[i64; 8]>,
) -> Result<i32> {
    let attributes = match attributes.non_null() {
        None => None,
        Some(attributes) => {
            let [_, messages, size, ..] = attributes.read()?;
            Some(Attributes { messages, size })
        }
    };
    let name = name.read_string(PATH_MAX, Errno::ENAMETOOLONG)?;
    let me = current();
    me.files().lock().check_room()?;
    let caller = Caller::get();
    let limit = me.limits().lock().0[resource::MSGQUEUE].soft;
    let request = Request {
        name,
        flags,
        mode: mode & !caller.context.umask,
        attributes,
        limit,
        subject: caller.subject(),
    };
    let (queue, is_new) = mqueue::open(request)?;
    let stream = Descriptor::open(queue);
    let inode = Inode::Stream(stream.clone());
    if !is_new {
        use crate::fs::permission::{READ, WRITE};
        let wanted = match flags & O_ACCMODE {
            O_RDONLY => READ,
            O_WRONLY => WRITE,
            O_RDWR => READ | WRITE,
            _ => return Err(Errno::EINVAL),
        };
        caller.subject().check(&inode, wanted)?;
    }
    let kept = flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC);
    let file = Arc::new(OpenFile::stream(stream, inode, kept));
    me.files().lock().add(file, true)
}

/// `mq_unlink(2)`.
///
/// # Errors
/// As the man page says.
pub fn mq_unlink(name: UserPtr<u8>) -> Result<()> {
    let name = name.read_string(PATH_MAX, Errno::ENAMETOOLONG)?;
    mqueue::unlink(&name, &Caller::get().subject())
}

/// A time of CLOCK_REALTIME on the monotonic clock.
fn deadline(timeout: UserPtr<[i64; 2]>) -> Result<Option<u64>> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let [seconds, nanoseconds] = timeout.read()?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| Errno::EINVAL)?;
    if nanoseconds >= NANOSECONDS {
        return Err(Errno::EINVAL);
    }
    let services = services().ok_or(Errno::EINVAL)?;
    let now = services.now();
    let real = u64::try_from(now.seconds).unwrap_or(0).saturating_mul(NANOSECONDS);
    let real = real.saturating_add(now.nanoseconds.into());
    let left = seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds).saturating_sub(real);
    Ok(Some(services.monotonic_ns().saturating_add(left)))
}

/// `mq_timedsend(2)`.
///
/// # Errors
/// As the man page says.
pub fn mq_timedsend(
    fd: Fd,
    text: UserPtr<u8>,
    len: usize,
    priority: u32,
    timeout: UserPtr<[i64; 2]>,
) -> Result<()> {
    let deadline = deadline(timeout)?;
    if priority >= PRIORITIES {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    let queue = queue_of(&file)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    if u64::try_from(queue.attributes().size).is_ok_and(|size| len as u64 > size) {
        return Err(Errno::EMSGSIZE);
    }
    frame::check_room_for(len)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    if len > 0 && UserReader::new(text.address(), len).read_to_vec(&mut bytes, len)? < len {
        return Err(Errno::EFAULT);
    }
    let wait = file.flags() & O_NONBLOCK == 0;
    queue.send(Message { priority, text: bytes }, wait, deadline)
}

/// `mq_timedreceive(2)`.
///
/// # Errors
/// As the man page says.
pub fn mq_timedreceive(
    fd: Fd,
    buffer: UserPtr<u8>,
    len: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<[i64; 2]>,
) -> Result<usize> {
    let deadline = deadline(timeout)?;
    let file = file(fd)?;
    let queue = queue_of(&file)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if u64::try_from(queue.attributes().size).is_ok_and(|size| (len as u64) < size) {
        return Err(Errno::EMSGSIZE);
    }
    let message = queue.receive(file.flags() & O_NONBLOCK == 0, deadline)?;
    if let Some(priority) = priority.non_null() {
        priority.write(message.priority)?;
    }
    let count = message.text.len();
    let mut writer = UserWriter::new(buffer.address(), count);
    if count > 0 && writer.write_slice(&message.text)? < count {
        return Err(Errno::EFAULT);
    }
    Ok(count)
}

/// What a `struct sigevent` asks for.
fn notice(event: UserPtr<[u64; 8]>) -> Result<Notice> {
    let [value, kind, ..] = event.read()?;
    let [signal, kind] =
        [kind & 0xffff_ffff, kind >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    match SIGEV.iter().position(|&known| known == kind) {
        Some(0) if signal <= LAST_SIGNAL => {
            Ok(Notice::Signal(u8::try_from(signal).map_err(|_| Errno::EINVAL)?, value))
        }
        Some(1) => Ok(Notice::None),
        Some(2) => {
            // The message would go to a netlink socket, of which there are none.
            let mut cookie = [0; COOKIE];
            if UserReader::new(value, COOKIE).read(&mut cookie)? < COOKIE {
                return Err(Errno::EFAULT);
            }
            socket_of(&any_file(Fd(signal.cast_signed()))?)?;
            Err(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `mq_notify(2)`.
///
/// # Errors
/// As the man page says; EINVAL for `SIGEV_THREAD`.
pub fn mq_notify(fd: Fd, event: UserPtr<[u64; 8]>) -> Result<()> {
    let notice = event.non_null().map(notice).transpose()?;
    let file = file(fd)?;
    let queue = queue_of(&file)?;
    let pid = current().pid;
    match notice {
        Some(notice) => queue.notify(Notification { pid, notice }),
        None => {
            queue.forget_notification(pid);
            Ok(())
        }
    }
}

/// `mq_getsetattr(2)`.
///
/// # Errors
/// As the man page says.
pub fn mq_getsetattr(fd: Fd, new: UserPtr<[i64; 8]>, old: UserPtr<[i64; 8]>) -> Result<()> {
    let new = match new.non_null() {
        None => None,
        Some(new) => {
            let flags = new.read()?[0];
            if flags & !i64::from(O_NONBLOCK) != 0 {
                return Err(Errno::EINVAL);
            }
            Some(u32::try_from(flags).map_err(|_| Errno::EINVAL)?)
        }
    };
    let file = file(fd)?;
    let queue = queue_of(&file)?;
    let flags = file.flags();
    let Attributes { messages, size } = queue.attributes();
    let count = i64::try_from(queue.count()).unwrap_or(i64::MAX);
    if let Some(new) = new {
        file.set_flags(flags & !O_NONBLOCK | new);
    }
    if let Some(old) = old.non_null() {
        old.write([i64::from(flags & O_NONBLOCK), messages, size, count, 0, 0, 0, 0])?;
    }
    Ok(())
}
