//! The memory of other processes: process_vm_readv(2), process_vm_writev(2).

use super::process_file::check_access;
use super::read_write::Vector;
use crate::errno::{Errno, Result};
use crate::memory::space::AddressSpace;
use crate::memory::{PAGE, PAGE_SIZE, UserPtr, UserReader, UserWriter, usize_from};
use crate::process::{Pid, find_thread};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `UIO_MAXIOV`.
const MAX_PIECES: usize = 1024;

/// What to copy, and where.
struct Copy {
    space: Arc<AddressSpace>,
    local: UserPtr<Vector>,
    local_count: usize,
    remote: UserPtr<Vector>,
    remote_count: usize,
}

fn prepare(
    pid: Pid,
    local: (UserPtr<Vector>, usize),
    remote: (UserPtr<Vector>, usize),
    flags: u64,
) -> Result<Copy> {
    if flags != 0 || local.1 > MAX_PIECES || remote.1 > MAX_PIECES {
        return Err(Errno::EINVAL);
    }
    let thread = find_thread(pid).ok_or(Errno::ESRCH)?;
    check_access(&thread)?;
    let space = thread.process.shared_memory().ok_or(Errno::ESRCH)?;
    Ok(Copy {
        space,
        local: local.0,
        local_count: local.1,
        remote: remote.0,
        remote_count: remote.1,
    })
}

impl Copy {
    /// The caller's pieces.
    fn local_pieces(&self) -> Result<Vec<crate::memory::UserSlice>> {
        let mut pieces = Vec::new();
        pieces.try_reserve_exact(self.local_count).map_err(|_| Errno::ENOMEM)?;
        for index in 0..self.local_count {
            let (start, len) = self.local.element(index).read()?.parts();
            if i64::try_from(len).is_err() {
                return Err(Errno::EINVAL);
            }
            pieces.push(crate::memory::UserSlice { start, len: usize_from(len) });
        }
        Ok(pieces)
    }

    /// Goes through the other's pieces, at most to the end of a page at a time, until `step` did less
    /// than it was asked for; the result is how much was done.
    fn run(&self, mut step: impl FnMut(u64, usize) -> Result<usize>) -> Result<usize> {
        let mut done = 0;
        for index in 0..self.remote_count {
            let (start, len) = self.remote.element(index).read()?.parts();
            let mut at = start;
            let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
            while at < end {
                let want = usize_from((PAGE - at % PAGE).min(end - at));
                let count = match step(at, want) {
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => return Ok(done),
                    Ok(count) => count,
                };
                done += count;
                at += count as u64;
                if count < want {
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }
}

/// `process_vm_readv(2)`.
///
/// # Errors
/// As the man page says.
pub fn process_vm_readv(
    pid: Pid,
    local: UserPtr<Vector>,
    local_count: usize,
    remote: UserPtr<Vector>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    let copy = prepare(pid, (local, local_count), (remote, remote_count), flags)?;
    let mut target = UserWriter::scattered(copy.local_pieces()?);
    let mut bytes = page()?;
    copy.run(|at, want| {
        let want = want.min(target.remaining());
        let count = copy.space.read(at, &mut bytes[..want]);
        if count == 0 && want > 0 {
            return Err(Errno::EFAULT);
        }
        target.write_slice(&bytes[..count])
    })
}

/// `process_vm_writev(2)`.
///
/// # Errors
/// As the man page says.
pub fn process_vm_writev(
    pid: Pid,
    local: UserPtr<Vector>,
    local_count: usize,
    remote: UserPtr<Vector>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    let copy = prepare(pid, (local, local_count), (remote, remote_count), flags)?;
    let mut source = UserReader::scattered(copy.local_pieces()?);
    let mut bytes = page()?;
    copy.run(|at, want| {
        let want = want.min(source.remaining());
        let count = source.read(&mut bytes[..want])?;
        copy.space.write(at, &bytes[..count]).map_err(|_| Errno::EFAULT)?;
        Ok(count)
    })
}

fn page() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(PAGE_SIZE, 0);
    Ok(bytes)
}
