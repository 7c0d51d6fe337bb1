//! When memory runs out: the process that has most of it is killed, as Linux's OOM killer does.
//!
//! Programs get no frame of the reserve that [`frame`] keeps, so that the kernel's own structures can
//! grow a little while that process ends; a call that would need more fails with ENOMEM.

use super::{Pid, Process, current, find, table};
use crate::memory::{PAGE, frame};
use crate::sched::{WaitQueue, wait};
use crate::signal::number;
use crate::sync::SpinLock;
use airlock_abi::exit::Exit;
use alloc::sync::Arc;

/// Whom others wait for; 0 for nobody.
static VICTIM: SpinLock<Pid> = SpinLock::new(0);

/// How often those who wait look whether there is memory again.
const PAUSE_NS: u64 = 1_000_000;

/// Whether the process that was killed last still has its memory.
fn is_underway(victim: Pid) -> bool {
    victim != 0 && find(victim).is_some_and(|process| process.root().0 != 0)
}

/// The process with the most memory, and how many pages it has.
fn largest() -> Option<(Arc<Process>, u64)> {
    let table = table::lock();
    let resident =
        |process: &Arc<Process>| process.shared_memory().map_or(0, |memory| memory.resident().0);
    let mut best: Option<(&Arc<Process>, u64)> = None;
    for process in table.processes().filter(|process| !process.is_ending()) {
        let pages = resident(process);
        if best.is_none_or(|(_, most)| pages > most) {
            best = Some((process, pages));
        }
    }
    best.map(|(process, pages)| (process.clone(), pages))
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
        "out of memory: killed process {} ({name}), resident {} KiB; {} KiB are free",
        process.pid,
        pages * (PAGE / 1024),
        frame::free() * (PAGE / 1024)
    );
    process.doom(Exit::Signaled(number::SIGKILL));
}

/// A page that a program touches could not be had. In ring 3 the thread waits for the memory of the
/// process that is killed and touches the page again, unless it is its own that ends.
pub fn relieve() {
    kill_largest();
    if super::must_end().is_none() {
        static NOBODY: WaitQueue = WaitQueue::new();
        let deadline = crate::time::monotonic_ns().saturating_add(PAUSE_NS);
        // Whether it slept or not, the program touches the page again.
        let _ = wait(&[&NOBODY], Some(deadline), || None::<()>);
        current().resume_deadline.store(0, core::sync::atomic::Ordering::Relaxed);
    }
}

/// The same in the middle of a copy for a system call, which cannot wait: tries once more, with the
/// reserve. False if the copy must end.
pub fn relieve_copy(retry: impl FnOnce() -> bool) -> bool {
    kill_largest();
    super::must_end().is_none() && frame::dip_into_reserve(retry)
}

/// The kernel itself took from its reserve: on the way back to ring 3.
pub fn relieve_reserve() {
    if frame::take_pressure() {
        kill_largest();
    }
}
