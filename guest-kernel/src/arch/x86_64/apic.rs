//! The local APIC, in x2APIC mode (SDM volume 3, section 10.12), and the I/O APIC where there is one.

use super::cpu::{msr, read_msr, write_msr};
use crate::memory::PhysAddr;
use core::sync::atomic::{AtomicU64, Ordering};

/// Vector of the local timer.
pub const TIMER_VECTOR: u8 = 0xec;
/// Vector that wakes another vCPU.
pub const WAKE_VECTOR: u8 = 0xfd;
/// Spurious interrupts.
const SPURIOUS_VECTOR: u64 = 0xff;

// x2APIC registers as MSRs: 0x800 plus their MMIO offset / 16.
const EOI: u32 = msr::X2APIC + 0x0b;
const SPURIOUS: u32 = msr::X2APIC + 0x0f;
const COMMAND: u32 = msr::X2APIC + 0x30;
const TIMER: u32 = msr::X2APIC + 0x32;
const TIMER_INITIAL: u32 = msr::X2APIC + 0x38;
const TIMER_DIVIDE: u32 = msr::X2APIC + 0x3e;

/// Set in the spurious-interrupt register: the APIC delivers interrupts.
const ENABLED: u64 = 1 << 8;
/// Divide configuration: by 1.
const DIVIDE_BY_1: u64 = 0b1011;

/// I/O APIC of QEMU's microvm machine; absent under our own VMM.
const IO_APIC: PhysAddr = PhysAddr(0xfec0_0000);

/// APIC timer ticks per 2^20 nanoseconds; 0 until measured.
static TICKS_PER_MS2: AtomicU64 = AtomicU64::new(0);

/// Lets this vCPU receive interrupts.
pub fn enable() {
    // SAFETY: the VMM started the vCPU in x2APIC mode, or `boot` switched it; these registers exist.
    unsafe {
        write_msr(SPURIOUS, ENABLED | SPURIOUS_VECTOR);
    }
}

/// Tells the APIC that the current interrupt was handled.
pub fn end_of_interrupt() {
    // SAFETY: as above.
    unsafe { write_msr(EOI, 0) };
}

/// Interrupts another vCPU.
pub fn wake(cpu: u32) {
    // SAFETY: a fixed interrupt, physical destination (SDM volume 3, figure 10-28).
    unsafe { write_msr(COMMAND, u64::from(cpu) << 32 | 1 << 14 | u64::from(WAKE_VECTOR)) };
}

/// One timer interrupt after about this many nanoseconds; it may come early, so callers look at the
/// clock when it comes. 0 stops it.
pub fn set_timer(ns: u64) {
    let ticks = match TICKS_PER_MS2.load(Ordering::Relaxed) {
        0 => measure(),
        known => known,
    };
    let count = if ns == 0 {
        0
    } else {
        ((u128::from(ns) * u128::from(ticks)) >> 20).clamp(1, u128::from(u32::MAX))
    };
    // SAFETY: as above; one-shot mode is mode 0.
    unsafe {
        write_msr(TIMER_DIVIDE, DIVIDE_BY_1);
        write_msr(TIMER, u64::from(TIMER_VECTOR));
        write_msr(TIMER_INITIAL, u64::try_from(count).unwrap_or(u64::from(u32::MAX)));
    }
}

/// Runs the timer against the TSC for a moment.
fn measure() -> u64 {
    const CURRENT: u32 = msr::X2APIC + 0x39;
    const SPAN_NS: u64 = 200_000;
    // SAFETY: as above; the timer is masked meanwhile.
    unsafe {
        write_msr(TIMER_DIVIDE, DIVIDE_BY_1);
        write_msr(TIMER, 1 << 16);
        write_msr(TIMER_INITIAL, u64::from(u32::MAX));
    }
    let start = crate::time::monotonic_ns();
    let mut elapsed = 0;
    while elapsed < SPAN_NS {
        elapsed = crate::time::monotonic_ns() - start;
    }
    // SAFETY: as above.
    let passed = unsafe { u64::from(u32::MAX) - read_msr(CURRENT) };
    let ticks = ((passed << 20) / elapsed).max(1);
    TICKS_PER_MS2.store(ticks, Ordering::Relaxed);
    ticks
}

/// Routes an interrupt line to a vector of vCPU 0, where there is an I/O APIC (82093AA datasheet,
/// section 3.2): edge-triggered, active high.
pub fn route_line(line: u32, vector: u8) {
    let select = IO_APIC.to_pointer().cast::<u32>();
    // SAFETY: the register window of the I/O APIC, in the direct map; the caller knows it is there.
    unsafe {
        let window = select.add(4);
        select.write_volatile(0x10 + 2 * line + 1);
        window.write_volatile(0);
        select.write_volatile(0x10 + 2 * line);
        window.write_volatile(u32::from(vector));
    }
}
