//! Pipes and other files without a program's memory: splice(2), tee(2), vmsplice(2).

use super::Fd;
use super::caller::{check_flags, file};
use super::read_write::{MAX_COUNT, Side, Vector, pieces, read_offset};
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::fs::pipe::Pipe;
use crate::fs::services::services;
use crate::memory::UserPtr;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    IN_ACCESS, IN_MODIFY, O_APPEND, O_NONBLOCK, SPLICE_F_GIFT, SPLICE_F_MORE, SPLICE_F_MOVE,
    SPLICE_F_NONBLOCK,
};

/// What moves pages and what comes later is not for us to make use of.
const FLAGS: u32 = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;

fn pipe_of(file: &FileRef) -> Option<Arc<Pipe>> {
    file.as_stream()?.as_pipe().cloned()
}

/// Whether a call waits, as its flags and the files of pipes have it.
fn waits(flags: u32, pipes: &[&FileRef]) -> bool {
    let blocks = |file: &&FileRef| file.flags() & O_NONBLOCK == 0;
    flags & SPLICE_F_NONBLOCK == 0 && pipes.iter().all(blocks)
}

/// Whoever adds to a pipe that nobody reads gets a signal.
fn signalled(result: Result<usize>) -> Result<usize> {
    if result == Err(Errno::EPIPE)
        && let Some(services) = services()
    {
        services.broken_pipe();
    }
    result
}

/// `splice(2)`.
///
/// # Errors
/// As the man page says.
pub fn splice(
    in_fd: Fd,
    in_offset: UserPtr<i64>,
    out_fd: Fd,
    out_offset: UserPtr<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    check_flags(flags, FLAGS)?;
    let len = len.min(MAX_COUNT);
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    let (source, target) = (pipe_of(&input), pipe_of(&output));
    if (source.is_some() && !in_offset.is_null()) || (target.is_some() && !out_offset.is_null()) {
        return Err(Errno::ESPIPE);
    }
    let offsets = (read_offset(in_offset)?, read_offset(out_offset)?);
    if !input.is_readable() || !output.is_writable() {
        return Err(Errno::EBADF);
    }
    let result = match (&source, &target) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(source), Some(target)) => {
            if Arc::ptr_eq(source, target) {
                return Err(Errno::EINVAL);
            }
            signalled(source.transfer(target, len, waits(flags, &[&input, &output]), false))
        }
        (Some(source), None) => {
            check_positions(&output, offsets.1)?;
            if output.flags() & O_APPEND != 0 {
                return Err(Errno::EINVAL);
            }
            let mut side = Side::new(output.clone(), offsets.1);
            let wait = waits(flags, &[&input]);
            let result = source.drain(len, wait, |bytes| side.write(bytes));
            side.finish(out_offset)?;
            result
        }
        (None, Some(target)) => {
            check_positions(&input, offsets.0)?;
            if input.is_directory()? {
                return Err(Errno::EINVAL);
            }
            let mut side = Side::new(input.clone(), offsets.0);
            let wait = waits(flags, &[&output]);
            let result = signalled(target.feed(len, wait, |bytes| side.read(bytes)));
            side.finish(in_offset)?;
            result
        }
    };
    if matches!(result, Ok(1..)) {
        input.notify(IN_ACCESS);
        output.notify(IN_MODIFY);
    }
    result
}

/// Whether a call may give a position in this file.
fn check_positions(file: &FileRef, given: Option<u64>) -> Result<()> {
    match file.as_stream() {
        Some(stream) if given.is_some() && !stream.seek().has_positions() => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// `tee(2)`.
///
/// # Errors
/// As the man page says.
pub fn tee(in_fd: Fd, out_fd: Fd, len: usize, flags: u32) -> Result<usize> {
    check_flags(flags, FLAGS)?;
    if len == 0 {
        return Ok(0);
    }
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    if !input.is_readable() || !output.is_writable() {
        return Err(Errno::EBADF);
    }
    let (Some(source), Some(target)) = (pipe_of(&input), pipe_of(&output)) else {
        return Err(Errno::EINVAL);
    };
    if Arc::ptr_eq(&source, &target) {
        return Err(Errno::EINVAL);
    }
    let wait = waits(flags, &[&input, &output]);
    signalled(source.transfer(&target, len.min(MAX_COUNT), wait, true))
}

/// `vmsplice(2)`. The pages are copied: what the program writes to them later, readers do not see.
///
/// # Errors
/// As the man page says.
pub fn vmsplice(fd: Fd, vectors: UserPtr<Vector>, count: u64, flags: u32) -> Result<usize> {
    check_flags(flags, FLAGS)?;
    let file = file(fd)?;
    let adds = file.is_writable();
    let count = i32::try_from(count).map_err(|_| Errno::EINVAL)?;
    let pieces = pieces(vectors, count)?;
    let pipe = pipe_of(&file);
    if adds {
        let mut data = pieces.reader();
        if data.remaining() == 0 {
            return Ok(0);
        }
        let pipe = pipe.ok_or(Errno::EBADF)?;
        signalled(pipe.feed_memory(&mut data, waits(flags, &[])))
    } else {
        let mut buffer = pieces.writer();
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        let pipe = pipe.ok_or(Errno::EBADF)?;
        pipe.read(&mut buffer, waits(flags, &[]))
    }
}
