//! `RLIMIT_CPU`: SIGXCPU when a process has run for so many seconds, and each second after that;
//! SIGKILL at the hard limit (getrlimit(2)).
//!
//! A kernel timer looks at the process when it can have run that long at the earliest. So processes
//! without a limit cost nothing, and a vCPU that runs one thread needs no tick.

use super::{Process, Usage, resource};
use crate::errno::Result;
use crate::signal::{Information, SI_KERNEL, number};
use crate::sync::SpinLock;
use crate::time::timers::{self, Expire, Key};
use crate::time::{NANOSECONDS, monotonic_ns, tsc_ns};
use alloc::sync::{Arc, Weak};

/// No timer is shorter: a process that sleeps just before its limit is looked at again and again.
const LEAST_NS: u64 = 10_000_000;

/// The timer of a process that has a limit.
pub struct CpuTimer(SpinLock<Option<Key>>);

impl CpuTimer {
    pub(super) const fn new() -> Self {
        Self(SpinLock::new(None))
    }
}

/// What looks at the process, if that still exists then.
struct Look(Weak<Process>);

impl Expire for Look {
    fn expire(&self) {
        if let Some(process) = self.0.upgrade() {
            enforce(&process);
            // If there is no memory for another timer, the next change of the limit makes one.
            let _ = watch(&process);
        }
    }
}

/// Sends what is due.
fn enforce(process: &Arc<Process>) {
    let Usage { ticks, .. } = process.usage();
    let seconds = tsc_ns(ticks) / NANOSECONDS;
    let signal = {
        let mut limits = process.limits().lock();
        let limit = &mut limits.0[resource::CPU];
        if limit.hard != u64::MAX && seconds >= limit.hard {
            number::SIGKILL
        } else if limit.soft != u64::MAX && seconds >= limit.soft {
            // As on Linux, the limit itself moves on.
            limit.soft = limit.soft.max(seconds) + 1;
            number::SIGXCPU
        } else {
            return;
        }
    };
    let _ = super::send_to_process(process, Information::new(signal, SI_KERNEL, 0));
}

/// Sets the timer for when the process can reach its limit at the earliest, in place of an older one;
/// none if it has no limit or has ended.
///
/// # Errors
/// ENOMEM.
pub fn watch(process: &Arc<Process>) -> Result<()> {
    let limit = process.limits().lock().0[resource::CPU];
    let mut key = process.cpu_timer.0.lock();
    if let Some(key) = key.take() {
        timers::cancel(key);
    }
    let nearest = limit.soft.min(limit.hard);
    if nearest == u64::MAX || process.is_zombie() {
        return Ok(());
    }
    let used = tsc_ns(process.usage().ticks);
    let left = nearest.saturating_mul(NANOSECONDS).saturating_sub(used);
    // All its threads may run at once.
    let threads = process.threads().len().max(1) as u64;
    let deadline = monotonic_ns().saturating_add((left / threads).max(LEAST_NS));
    *key = Some(timers::arm(deadline, Arc::new(Look(Arc::downgrade(process))))?);
    Ok(())
}
