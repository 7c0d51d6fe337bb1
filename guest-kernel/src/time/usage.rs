//! Whose time it was: CPU time of the running program.
//!
//! One program runs at a time, so its CPU time is all time since it started but that in which its
//! vCPU waited. User and system time are not told apart: the entry path would have to read the TSC
//! twice per system call. All of it counts as user time.

use core::sync::atomic::{AtomicU64, Ordering};

use super::monotonic_ns;

/// Nanoseconds that the vCPU of the program spent waiting for an interrupt.
static WAITED: AtomicU64 = AtomicU64::new(0);
/// How often it waited.
static WAITS: AtomicU64 = AtomicU64::new(0);

/// Notes that the program's vCPU has waited since then (monotonic nanoseconds).
pub fn waited_since(start_ns: u64) {
    WAITED.fetch_add(monotonic_ns().saturating_sub(start_ns), Ordering::Relaxed);
    WAITS.fetch_add(1, Ordering::Relaxed);
}

/// CPU time in nanoseconds of a program that started then (monotonic nanoseconds).
pub fn cpu_ns(start_ns: u64) -> u64 {
    let waited = WAITED.load(Ordering::Relaxed);
    monotonic_ns().saturating_sub(start_ns).saturating_sub(waited)
}

/// How often the program gave up its vCPU.
pub fn voluntary_switches() -> u64 {
    WAITS.load(Ordering::Relaxed)
}
