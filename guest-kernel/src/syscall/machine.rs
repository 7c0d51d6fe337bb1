//! What only the machine itself can answer: its processors, random numbers and memory, and the end of
//! a process.

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::{UserPtr, UserWriter, usize_from};
use crate::process::{Pid, Thread, current, find_thread};
use crate::sched::{cpus, run};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// `exit_group(2)`.
pub fn exit_group(status: i32) -> i32 {
    let [status, ..] = status.to_le_bytes();
    crate::process::exit_group(airlock_abi::exit::Exit::Exited(status))
}

/// `exit(2)`: ends the thread.
pub fn exit(status: i32) -> i32 {
    let [status, ..] = status.to_le_bytes();
    crate::process::exit_thread(airlock_abi::exit::Exit::Exited(status))
}

/// `getrandom(2)`.
///
/// # Errors
/// As the man page says.
pub fn getrandom(buffer: UserPtr<u8>, len: usize, flags: u32) -> Result<usize> {
    const GRND_NONBLOCK: u32 = 1;
    const GRND_RANDOM: u32 = 2;
    const GRND_INSECURE: u32 = 4;
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let mut writer = UserWriter::new(buffer.address(), len.min(i32::MAX as usize));
    let mut done = 0;
    while writer.remaining() > 0 {
        let mut bytes = [0; 256];
        let count = bytes.len().min(writer.remaining());
        crate::random::fill(&mut bytes[..count]);
        match writer.write_slice(&bytes[..count]) {
            Ok(written) => done += written,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `struct sysinfo`, without its variable padding.
#[repr(C)]
#[derive(Clone, Copy)]
struct SystemInformation {
    uptime: u64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    swap: [u64; 2],
    processes: u16,
    padding: u16,
    padding2: u32,
    high: [u64; 2],
    unit: u32,
    padding3: u32,
}

// SAFETY: integers, with the padding spelled out.
unsafe impl crate::memory::user::Plain for SystemInformation {}

/// `sysinfo(2)`.
///
/// # Errors
/// EFAULT.
pub fn sysinfo(information: UserPtr<u8>) -> Result<()> {
    use crate::memory::{PAGE, frame};
    information.cast().write(SystemInformation {
        uptime: crate::time::monotonic_ns() / 1_000_000_000,
        loads: [0; 3],
        total: frame::total() * PAGE,
        free: frame::free() * PAGE,
        shared: 0,
        buffers: 0,
        swap: [0; 2],
        processes: u16::try_from(crate::process::all().len()).unwrap_or(u16::MAX),
        padding: 0,
        padding2: 0,
        high: [0; 2],
        unit: 1,
        padding3: 0,
    })
}

/// `getcpu(2)`.
///
/// # Errors
/// EFAULT.
pub fn getcpu(cpu: UserPtr<u32>, node: UserPtr<u32>, _cache: u64) -> Result<()> {
    cpu.non_null().map_or(Ok(()), |cpu| cpu.write(crate::arch::Cpu::current().index()))?;
    node.non_null().map_or(Ok(()), |node| node.write(0))
}

/// The thread with this id, or the caller for 0.
fn thread(tid: Pid) -> Result<Arc<Thread>> {
    if tid == 0 { Ok(current().to_arc()) } else { find_thread(tid).ok_or(Errno::ESRCH) }
}

/// Those of 64 vCPUs, from a multiple of 64 on, that there are.
fn online(word: usize) -> u64 {
    let left = usize_from(cpus::count().into()).saturating_sub(word * 64);
    if left >= 64 { u64::MAX } else { (1 << left) - 1 }
}

/// `sched_getaffinity(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_getaffinity(tid: Pid, size: usize, mask: UserPtr<u64>) -> Result<usize> {
    let words = usize_from(cpus::count().into()).div_ceil(64);
    if !size.is_multiple_of(8) || size < words * 8 {
        return Err(Errno::EINVAL);
    }
    let affinity = thread(tid)?.task.affinity();
    for (index, allowed) in affinity.iter().enumerate().take(words) {
        mask.element(index).write(allowed & online(index))?;
    }
    Ok(words * 8)
}

/// `sched_setaffinity(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_setaffinity(tid: Pid, size: usize, mask: UserPtr<u8>) -> Result<()> {
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate().take(size) {
        *byte = mask.element(index).read()?;
    }
    let mut wanted = [0; 4];
    for (word, chunk) in wanted.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    let target = thread(tid)?;
    let who = current().credentials();
    let owner = target.credentials();
    if !who.can(Capability::SysNice) && ![owner.uid, owner.euid].contains(&who.euid) {
        return Err(Errno::EPERM);
    }
    for (index, word) in wanted.iter_mut().enumerate() {
        *word &= online(index);
    }
    if wanted == [0; 4] {
        return Err(Errno::EINVAL);
    }
    target.task.set_affinity(wanted);
    run::settle(&target);
    Ok(())
}

/// `membarrier(2)`: the commands for all threads of the process.
///
/// # Errors
/// As the man page says.
pub fn membarrier(command: i32, flags: u32, _cpu: i32) -> Result<i32> {
    const QUERY: i32 = 0;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let memory = me.memory();
    match command {
        QUERY => Ok(PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED),
        REGISTER_PRIVATE_EXPEDITED => {
            memory.expects_barriers.store(true, Ordering::Relaxed);
            Ok(0)
        }
        PRIVATE_EXPEDITED if !memory.expects_barriers.load(Ordering::Relaxed) => Err(Errno::EPERM),
        PRIVATE_EXPEDITED => {
            // To forget translations is more than a barrier, and waits for every vCPU alike.
            cpus::forget(memory.root(), false);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `arch_prctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn arch_prctl(option: i32, address: u64) -> Result<()> {
    use crate::arch::instruction::{msr, read_msr, write_msr};
    use crate::memory::USER_END;
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    match option {
        ARCH_SET_FS | ARCH_SET_GS if address >= USER_END => Err(Errno::EPERM),
        ARCH_SET_FS => {
            // SAFETY: the kernel does not use FS, and the address is canonical.
            unsafe { write_msr(msr::FS_BASE, address) };
            Ok(())
        }
        ARCH_SET_GS => {
            // SAFETY: while in the kernel this is the program's GS base.
            unsafe { write_msr(msr::KERNEL_GS_BASE, address) };
            Ok(())
        }
        // SAFETY: both registers exist on every x86-64 processor.
        ARCH_GET_FS => UserPtr::new(address).write(unsafe { read_msr(msr::FS_BASE) }),
        // SAFETY: as above.
        ARCH_GET_GS => UserPtr::new(address).write(unsafe { read_msr(msr::KERNEL_GS_BASE) }),
        _ => Err(Errno::EINVAL),
    }
}
