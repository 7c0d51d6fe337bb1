//! When memory runs out: the process that has most of it is killed, as Linux's OOM killer does.
//!
//! Programs get no frame of the reserve that [`frame`] keeps, so that the kernel's own structures can
//! grow a little while that process ends; a call that would need more fails with ENOMEM.

use super::{Pid, Process, current, find, table};
use crate::errno::Errno;
use crate::memory::{PAGE, frame};
use crate::sched::{WaitQueue, wait};
use crate::signal::number;
use crate::sync::SpinLock;
use airlock_abi::exit::Exit;
use alloc::sync::Arc;

/// Whom others wait for; 0 for nobody.
static VICTIM: SpinLock<Pid> = SpinLock::new(0);

/// Where those wait who need memory; every end of a process wakes them.
static WANTED: WaitQueue = WaitQueue::new();

/// After how long they look again even if nothing ended: pages are given back in other ways, too. Many
/// may wait, and the victim needs the CPU more than they do.
const PAUSE_NS: u64 = 50_000_000;

/// Whether the process that was killed last still has its memory.
fn is_underway(victim: Pid) -> bool {
    victim != 0 && find(victim).is_some_and(|process| process.root().0 != 0)
}

/// Pages that a process's end would free, about: those that it has mapped, and the kernel's own
/// objects that are there for it.
fn pages_of(process: &Process) -> u64 {
    const BYTES_OF_A_FILE: u64 = 512;
    const BYTES_OF_AN_AREA: u64 = 128;
    let Some(memory) = process.shared_memory() else { return 0 };
    let (resident, areas) = (memory.resident().0, memory.area_count());
    let files = process.main_thread().and_then(|thread| thread.shared_files());
    let files = files.map_or(0, |files| files.lock().count());
    resident + (files * BYTES_OF_A_FILE + areas * BYTES_OF_AN_AREA) / PAGE
}

/// The process with the most memory, of equals the youngest; and how many pages it has.
fn largest() -> Option<(Arc<Process>, u64)> {
    let mut best: Option<(Arc<Process>, u64)> = None;
    let mut next = table::next(0);
    while let Some(process) = next {
        next = table::next(process.pid + 1);
        let pages = pages_of(&process);
        if !process.is_ending() && best.as_ref().is_none_or(|(_, most)| pages >= *most) {
            best = Some((process, pages));
        }
    }
    best
}

/// Kills the largest process, unless one is ending already.
fn kill_largest() {
    let mut victim = VICTIM.lock();
    if is_underway(*victim) {
        return;
    }
    let Some((process, pages)) = largest() else { return };
    *victim = process.pid;
    drop(victim);
    let name = process.main_thread().map_or([0; 16], |thread| *thread.name.lock());
    let name = core::str::from_utf8(&name).unwrap_or("?").trim_end_matches('\0');
    crate::log!(
        "out of memory: killed process {} ({name}), which has {} KiB; {} KiB are free",
        process.pid,
        pages * (PAGE / 1024),
        frame::free() * (PAGE / 1024)
    );
    process.doom(Exit::Signaled(number::SIGKILL));
}

/// A process has given back its memory.
pub fn process_ended() {
    WANTED.wake_sleepers();
}

/// Waits until the victim has ended. False if a signal is to be delivered first, which may end the
/// waiting process, too.
fn pause() -> bool {
    let deadline = crate::time::monotonic_ns().saturating_add(PAUSE_NS);
    let has_ended = || (!is_underway(*VICTIM.lock())).then_some(());
    let result = wait(&[&WANTED], Some(deadline), has_ended);
    if result == Err(Errno::ENOMEM) {
        // There is not even memory for an alarm clock.
        crate::sched::run::yield_now();
    }
    current().resume_deadline.store(0, core::sync::atomic::Ordering::Relaxed);
    result != Err(Errno::EINTR)
}

/// A page that a program touches could not be had. In ring 3 the thread waits for the memory of the
/// process that is killed and touches the page again, unless it is its own that ends.
pub fn relieve() {
    kill_largest();
    if super::must_end().is_none() {
        pause();
    }
}

/// The same in the middle of a copy for a system call, which cannot wait: tries once more, with the
/// reserve. False if the copy must end.
pub fn relieve_copy(retry: impl FnOnce() -> bool) -> bool {
    kill_largest();
    super::must_end().is_none() && frame::dip_into_reserve(retry)
}

/// The kernel itself took from its reserve: nobody goes back to ring 3, to ask for more, until there is
/// memory again.
pub fn relieve_reserve() {
    if !frame::take_pressure() {
        return;
    }
    while frame::is_scarce() && super::must_end().is_none() {
        kill_largest();
        if !pause() {
            return;
        }
    }
}
