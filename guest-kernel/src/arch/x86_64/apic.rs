//! The local APIC, in x2APIC mode (SDM volume 3, section 10.12) or, where a VMM does not have that, by
//! its memory page (section 10.4.1); and the I/O APIC where there is one.

use super::instruction::{msr, read_msr, write_msr};
use super::native;
use crate::memory::PhysAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Vector of the local timer.
pub const TIMER_VECTOR: u8 = 0xec;
/// Vector with which a vCPU makes another look at its queue and at what it shall forget.
pub const WAKE_VECTOR: u8 = 0xed;
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

/// The two I/O APICs of QEMU's microvm machine, of 24 lines each; absent under our own VMM.
const IO_APICS: [PhysAddr; 2] = [PhysAddr(0xfec0_0000), PhysAddr(0xfec1_0000)];
const IO_APIC_LINES: u32 = 24;

/// APIC timer ticks per 2^20 nanoseconds; 0 until measured.
static TICKS_PER_MS2: AtomicU64 = AtomicU64::new(0);

/// Local APIC's registers in memory.
const PAGE: PhysAddr = PhysAddr(0xfee0_0000);
/// Whether the registers are in memory: QEMU before 9.0 emulates no x2APIC.
static IN_MEMORY: AtomicBool = AtomicBool::new(false);

/// Chooses the way to the registers, on the first vCPU under another VMM.
pub fn choose_mode() {
    const LEAF1_ECX_X2APIC: u32 = 1 << 21;
    const ENABLE_X2APIC: u64 = 3 << 10;
    if super::cpuid::cpuid(1, 0)[2] & LEAF1_ECX_X2APIC == 0 {
        IN_MEMORY.store(true, Ordering::Relaxed);
        return;
    }
    // SAFETY: CPUID has the mode, and no device has been given an interrupt yet.
    unsafe { write_msr(msr::APIC_BASE, read_msr(msr::APIC_BASE) | ENABLE_X2APIC) };
}

/// Where a register, named by its MSR, is in memory.
fn in_memory(register: u32) -> *mut u32 {
    let offset = u64::from(register - msr::X2APIC) << 4;
    PhysAddr(PAGE.0 + offset).to_pointer().cast()
}

fn write(register: u32, value: u64) {
    if IN_MEMORY.load(Ordering::Relaxed) {
        let [low, _] = super::instruction::halves(value);
        // SAFETY: a register of the local APIC, in the direct map.
        unsafe { in_memory(register).write_volatile(low) };
    } else {
        // SAFETY: the vCPU is in x2APIC mode, so that the register exists.
        unsafe { write_msr(register, value) };
    }
}

fn read(register: u32) -> u64 {
    if IN_MEMORY.load(Ordering::Relaxed) {
        // SAFETY: a register of the local APIC, in the direct map.
        unsafe { in_memory(register).read_volatile() }.into()
    } else {
        // SAFETY: the vCPU is in x2APIC mode, so that the register exists.
        unsafe { read_msr(register) }
    }
}

/// Lets this vCPU receive interrupts.
pub fn enable() {
    write(SPURIOUS, ENABLED | SPURIOUS_VECTOR);
}

/// Sends [`WAKE_VECTOR`] to the vCPU with this APIC id (SDM volume 3, section 10.6.1): fixed delivery,
/// physical destination.
pub fn send_wake(id: u32) {
    const ASSERT: u64 = 1 << 14;
    let command = ASSERT | u64::from(WAKE_VECTOR);
    // What the other one shall see is in memory first: a write to an x2APIC register does not wait for
    // stores (SDM volume 3, section 10.12.3).
    fence(Ordering::SeqCst);
    if IN_MEMORY.load(Ordering::Relaxed) {
        // The high half, with the destination, does not send.
        write(COMMAND + 1, u64::from(id) << 24);
        write(COMMAND, command);
    } else {
        write(COMMAND, u64::from(id) << 32 | command);
    }
}

/// Tells the APIC that the current interrupt was handled.
pub fn end_of_interrupt() {
    write(EOI, 0);
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
    native::briefly(|| {
        // One-shot mode is mode 0.
        write(TIMER_DIVIDE, DIVIDE_BY_1);
        write(TIMER, u64::from(TIMER_VECTOR));
        write(TIMER_INITIAL, u64::try_from(count).unwrap_or(u64::from(u32::MAX)));
    });
}

/// Runs the timer against the TSC for a moment.
fn measure() -> u64 {
    const CURRENT: u32 = msr::X2APIC + 0x39;
    const SPAN_NS: u64 = 200_000;
    // The timer is masked meanwhile.
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER, 1 << 16);
    write(TIMER_INITIAL, u64::from(u32::MAX));
    let start = crate::time::monotonic_ns();
    let mut elapsed = 0;
    while elapsed < SPAN_NS {
        elapsed = crate::time::monotonic_ns() - start;
    }
    let passed = u64::from(u32::MAX) - read(CURRENT);
    let ticks = ((passed << 20) / elapsed).max(1);
    TICKS_PER_MS2.store(ticks, Ordering::Relaxed);
    ticks
}

/// Routes an interrupt line to a vector of vCPU 0, where there is an I/O APIC (82093AA datasheet,
/// section 3.2): edge-triggered, active high.
pub fn route_line(line: u32, vector: u8) {
    let second = line >= IO_APIC_LINES;
    let pin = line % IO_APIC_LINES;
    let select = IO_APICS[usize::from(second)].to_pointer().cast::<u32>();
    // SAFETY: the register window of an I/O APIC, in the direct map; the caller knows it is there.
    unsafe {
        let window = select.add(4);
        select.write_volatile(0x10 + 2 * pin + 1);
        window.write_volatile(0);
        select.write_volatile(0x10 + 2 * pin);
        window.write_volatile(u32::from(vector));
    }
}
