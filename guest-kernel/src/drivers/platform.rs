//! What a PC has under other VMMs, where nobody tells the kernel the time: the 8254 timer, the clock
//! in CMOS, and the processor's random numbers.

use crate::arch::cpuid::cpuid;
use crate::arch::instruction::read_tsc;
use core::arch::asm;

const PIT_HZ: u64 = 1_193_182;

/// # Safety
/// The port's device changes no memory.
unsafe fn write_byte(port: u16, value: u8) {
    // SAFETY: by the contract.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// # Safety
/// The port's device changes no memory.
unsafe fn read_byte(port: u16) -> u8 {
    let value;
    // SAFETY: by the contract.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// The TSC's rate in kHz, by channel 0 of the 8254 (Intel 8254 datasheet) over 10 ms, and the time
/// of day in nanoseconds.
///
/// The timer tells its state by the read-back command: QEMU's microvm has the timer, but not port 0x61,
/// which has the output of channel 2 on a PC.
pub fn calibrate() -> (u64, u64) {
    const MS: u64 = 10;
    const COUNT: u64 = PIT_HZ * MS / 1000;
    /// Channel 0, both bytes, mode 0: the output rises when the count has been counted down.
    const ONE_SHOT: u8 = 0b0011_0000;
    /// Latches the status of channel 0.
    const READ_STATUS: u8 = 0b1110_0010;
    const OUTPUT: u8 = 1 << 7;
    const MODE: u8 = 0b0011_1111;
    /// What is assumed where there is no timer.
    const UNKNOWN_KHZ: u64 = 1_000_000;
    let [low, high, ..] = COUNT.to_le_bytes();
    // SAFETY: the timer changes no memory, and its interrupt has no way to the processor: the local APIC's
    // LINT0 is masked, and so is every line of an I/O APIC that nobody has routed.
    let status = || unsafe {
        write_byte(0x43, READ_STATUS);
        read_byte(0x40)
    };
    // SAFETY: as above.
    unsafe {
        write_byte(0x43, ONE_SHOT);
        write_byte(0x40, low);
        write_byte(0x40, high);
    }
    let start = read_tsc();
    let mut looks = 0u32;
    let khz = loop {
        let now = status();
        if now & MODE != ONE_SHOT || looks == 10_000_000 {
            break UNKNOWN_KHZ;
        }
        if now & OUTPUT != 0 {
            break ((read_tsc() - start) / MS).max(1);
        }
        looks += 1;
    };
    (khz, clock_ns())
}

/// Nanoseconds since 1970 from the MC146818 clock, or 0 if there is none.
fn clock_ns() -> u64 {
    // SAFETY: selecting and reading registers of the clock.
    let register = |index: u8| unsafe {
        write_byte(0x70, index);
        read_byte(0x71)
    };
    let status = register(0x0b);
    if status == 0xff {
        return 0;
    }
    let number = |value: u8| {
        let value = u64::from(value);
        if status & 4 != 0 { value } else { value / 16 * 10 + value % 16 }
    };
    let [second, minute, hour, day, month, year] =
        [0, 2, 4, 7, 8, 9].map(|index| number(register(index)));
    // Days since 1970-01-01, by counting leap days of the years before and within (2000 to 2099).
    let year = 2000 + year;
    let leaps = (year - 1 - 1968) / 4 + u64::from(year % 4 == 0 && month > 2);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let month_start =
        before.get(crate::memory::usize_from(month.saturating_sub(1))).copied().unwrap_or(0);
    let days = (year - 1970) * 365 + leaps + month_start + day.saturating_sub(1);
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000
}

/// Entropy: RDRAND where the processor has it, else what the TSC's jitter gives.
pub fn entropy() -> ([u8; 32], [u8; 64]) {
    const LEAF1_ECX_RDRAND: u32 = 1 << 30;
    let have = cpuid(1, 0)[2] & LEAF1_ECX_RDRAND != 0;
    let mut state = read_tsc();
    let mut word = || {
        let mut value: u64 = 0;
        if have {
            // SAFETY: CPUID has the instruction; a failure leaves 0, which is mixed below.
            unsafe { asm!("rdrand {}", inout(reg) value, options(nomem, nostack)) };
        }
        // splitmix64 over the jitter of the counter.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ read_tsc().rotate_left(17);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ mixed ^ mixed >> 31
    };
    let mut seed = [0; 32];
    seed.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word().to_le_bytes()));
    let mut more = [0; 64];
    more.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word().to_le_bytes()));
    (seed, more)
}
