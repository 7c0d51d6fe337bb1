//! Restartable sequences: rseq(2), and what the kernel does of it on the way back to ring 3.
//!
//! A thread's area says on which vCPU it runs, and which critical section it is in. A thread that was
//! interrupted there, by another thread's turn or by a signal's handler, goes on at the section's abort
//! handler. Neither costs anything as long as a thread is not switched to.

use crate::arch::{Cpu, TrapFrame};
use crate::errno::{Errno, Result};
use crate::memory::user::Plain;
use crate::memory::{USER_END, UserPtr};
use crate::process::{self, RseqArea, Thread, current};
use crate::signal::{Fault, Information};

/// `RSEQ_FLAG_UNREGISTER`.
const UNREGISTER: u32 = 1;
/// Length and alignment of `struct rseq` when it was new, which C libraries still use.
const FIRST_SIZE: u32 = 32;
/// `RSEQ_CPU_ID_UNINITIALIZED`.
const NO_CPU: u32 = u32::MAX;

/// `struct rseq` (linux/rseq.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct Area {
    cpu_id_start: u32,
    cpu_id: u32,
    /// Address of a [`Section`]; 0 for none.
    section: u64,
    flags: u32,
    node_id: u32,
    concurrency_id: u32,
    padding: u32,
}

const SECTION: u64 = core::mem::offset_of!(Area, section) as u64;
const NODE: u64 = core::mem::offset_of!(Area, node_id) as u64;
const _: () = assert!(NODE + 8 == crate::exec::stack::RSEQ_FEATURE_SIZE);

/// `struct rseq_cs`: a critical section.
#[repr(C)]
#[derive(Clone, Copy)]
struct Section {
    version: u32,
    flags: u32,
    start: u64,
    /// Bytes from the first instruction to behind the last.
    length: u64,
    abort: u64,
}

// SAFETY: integers without gaps.
unsafe impl Plain for Area {}
// SAFETY: likewise.
unsafe impl Plain for Section {}

/// `rseq(2)`: registers the thread's area, or undoes that.
///
/// # Errors
/// EINVAL for an area that cannot be one, or is not the registered one; EBUSY if it is registered already;
/// EPERM for another signature; EFAULT.
pub fn rseq(area: UserPtr<u8>, length: u32, flags: u32, signature: u32) -> Result<()> {
    let me = current();
    let address = area.address();
    let known = me.rseq.area();
    let is_known = known.is_some_and(|known| (known.address, known.length) == (address, length));
    let signature_fits = known.is_some_and(|known| known.signature == signature);
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER || !is_known {
            return Err(Errno::EINVAL);
        }
        if !signature_fits {
            return Err(Errno::EPERM);
        }
        write_ids(address, (0, NO_CPU), (0, 0))?;
        me.rseq.register(None);
        me.release_concurrency_id();
        return Ok(());
    }
    if flags != 0 || (known.is_some() && !is_known) {
        return Err(Errno::EINVAL);
    }
    if known.is_some() {
        return Err(if signature_fits { Errno::EBUSY } else { Errno::EPERM });
    }
    let is_short = length == FIRST_SIZE;
    let long_enough = is_short || u64::from(length) >= crate::exec::stack::RSEQ_FEATURE_SIZE;
    let alignment = if is_short { FIRST_SIZE.into() } else { crate::exec::stack::RSEQ_ALIGN };
    if length < FIRST_SIZE || !long_enough || !address.is_multiple_of(alignment) {
        return Err(Errno::EINVAL);
    }
    if address.checked_add(length.into()).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    if UserPtr::<u64>::new(address + SECTION).read()? != 0 {
        clear_section(address)?;
    }
    me.rseq.register(Some(RseqArea { address, length, signature }));
    if tell_place(&me, address).is_err() {
        force();
    }
    Ok(())
}

/// The thread comes back from elsewhere, or is about to run a signal's handler: if it was in a critical
/// section, it goes on at the abort handler; and its area says where it runs now. What is wrong with the area or
/// the section ends in SIGSEGV.
///
/// # Errors
/// EFAULT, EINVAL.
pub fn resume(frame: &mut TrapFrame) -> Result<()> {
    let me = current();
    let Some(RseqArea { address, signature, .. }) = me.rseq.area() else { return Ok(()) };
    me.rseq.take_switch();
    let area: Area = UserPtr::new(address).read()?;
    if area.section != 0 {
        leave_section(frame, address, &area, signature)?;
    }
    let (cpu, id) = (Cpu::current().index(), me.concurrency_id());
    let told = (area.cpu_id_start, area.cpu_id) == (cpu, cpu)
        && (area.node_id, area.concurrency_id) == (0, id);
    if told { Ok(()) } else { write_ids(address, (cpu, cpu), (0, id)) }
}

/// Before a thread that was switched to goes on: [`resume`], or SIGSEGV.
pub fn resume_or_fault(frame: &mut TrapFrame) {
    if resume(frame).is_err() {
        force();
    }
}

fn force() {
    let Fault { signal, code, address } = Fault::GENERAL;
    process::force(Information::new(signal, code, address));
}

fn tell_place(me: &Thread, address: u64) -> Result<()> {
    let cpu = Cpu::current().index();
    write_ids(address, (cpu, cpu), (0, me.concurrency_id()))
}

fn write_ids(address: u64, cpu: (u32, u32), node: (u32, u32)) -> Result<()> {
    UserPtr::new(address).write([cpu.0, cpu.1])?;
    UserPtr::new(address + NODE).write([node.0, node.1])
}

fn clear_section(address: u64) -> Result<()> {
    UserPtr::new(address + SECTION).write(0_u64)
}

/// Moves the thread to the abort handler of its section, if it is in that; in any case there is none then.
fn leave_section(frame: &mut TrapFrame, address: u64, area: &Area, signature: u32) -> Result<()> {
    let section: Section = UserPtr::new(area.section).read()?;
    let end = section.start.checked_add(section.length).ok_or(Errno::EINVAL)?;
    let within = |rip: u64| rip.wrapping_sub(section.start) < section.length;
    if section.start >= USER_END
        || end >= USER_END
        || section.abort >= USER_END
        || section.version > 0
        || within(section.abort)
        || UserPtr::<u32>::new(section.abort.wrapping_sub(4)).read()? != signature
    {
        return Err(Errno::EINVAL);
    }
    if within(frame.rip) {
        // Flags that would keep a section from being aborted are no longer taken.
        if section.flags != 0 || area.flags != 0 {
            return Err(Errno::EINVAL);
        }
        clear_section(address)?;
        frame.rip = section.abort;
        return Ok(());
    }
    clear_section(address)
}
