//! What /proc shows of the machine.

use crate::arch::cpuid::cpuid;
use crate::fs::facts::MachineFacts;
use crate::memory::frame;
use crate::syscall::handlers::{HOST_NAME, RELEASE, VERSION};
use crate::{boot, process, sched, time};
use alloc::vec::Vec;

/// Looks at everything.
pub fn facts() -> MachineFacts {
    let now = time::monotonic_ns();
    let [_, ebx, ecx, edx] = cpuid(0, 0);
    let mut vendor = [0; 12];
    for (target, register) in vendor.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
        target.copy_from_slice(&register.to_le_bytes());
    }
    let mut model_name = Vec::new();
    if cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
        for leaf in 0x8000_0002..=0x8000_0004 {
            for register in cpuid(leaf, 0) {
                model_name.extend_from_slice(&register.to_le_bytes());
            }
        }
    }
    let (_, threads, last) = process::table::counts();
    let last = u32::try_from(last).unwrap_or(0);
    let count = u32::try_from(threads).unwrap_or(u32::MAX);
    let booted = time::realtime_ns().saturating_sub(now) / time::NANOSECONDS;
    MachineFacts {
        uptime_ns: now,
        idle_ns: 0,
        boot_time: i64::try_from(booted).unwrap_or(0),
        cpus: sched::cpus::count(),
        frequency_khz: time::frequency_khz(),
        vendor,
        model_name,
        signature: cpuid(1, 0)[0],
        frames: (frame::free(), frame::total()),
        processes: (u64::from(last), count),
        threads: count,
        last_pid: last,
        switches: sched::run::switches(),
        interrupts: 0,
        names: ["Linux", HOST_NAME, RELEASE, VERSION, "x86_64"],
        host_name: Vec::from(HOST_NAME),
        command_line: boot::command_line().to_vec(),
    }
}
