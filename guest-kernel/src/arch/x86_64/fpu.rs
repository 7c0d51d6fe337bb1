//! x87, SSE and wider state (SDM volume 1, chapter 13). Ring 0 uses none of it, so a program's state
//! is in the registers all along; it is only copied for signal frames.

use super::cpu::{self, halves};
use crate::memory::{Content, Frame, SharedBytes};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of the legacy region, which FXSAVE writes.
pub const LEGACY: usize = 512;
/// Where FXSAVE leaves bytes to software: `struct _fpx_sw_bytes` of signal frames.
pub const SOFTWARE: usize = 464;
const HEADER: usize = 64;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// What MXCSR_MASK means if it is 0 (SDM volume 1, section 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// Components in XCR0; 0 where XSAVE is not used.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(LEGACY);

/// Turns on XSAVE with these components, on the vCPU that runs this.
///
/// # Safety
/// CR4.OSXSAVE is set, and CPUID leaf 0xd has the components.
pub unsafe fn enable_xsave(components: u64) {
    // SAFETY: by the contract.
    unsafe { cpu::write_xcr0(components) };
    // QEMU's emulation of SVM does not tell KVM of XSETBV: what is not really on must not be relied on.
    // SAFETY: CR4.OSXSAVE is set.
    if unsafe { cpu::read_xcr0() } != components {
        return;
    }
    // EBX: the size that the components in XCR0 need; only the instruction itself knows XCR0.
    let size = core::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
    if size <= crate::memory::PAGE_SIZE {
        COMPONENTS.store(components, Ordering::Relaxed);
        SIZE.store(size, Ordering::Relaxed);
    }
}

/// Components in XCR0; 0 where XSAVE is not used.
pub fn components() -> u64 {
    COMPONENTS.load(Ordering::Relaxed)
}

/// Bytes of the whole state.
pub fn size() -> usize {
    SIZE.load(Ordering::Relaxed)
}

/// A copy of a program's state, in a frame of its own.
pub struct State(Frame);

impl State {
    /// Room for a state, all zeroes.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> crate::errno::Result<Self> {
        Ok(Self(Frame::allocate_from_reserve(Content::Zeroes)?))
    }

    /// The state that is in the registers.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn save() -> crate::errno::Result<Self> {
        let state = Self::new()?;
        state.save_again();
        Ok(state)
    }

    /// Overwrites the copy with the state that is in the registers.
    pub fn save_again(&self) {
        let [low, high] = halves(components());
        // SAFETY: the frame is aligned to 64 bytes, holds any state that fits a page, and is ours.
        unsafe {
            if components() == 0 {
                asm!("fxsave64 [{}]", in(reg) self.0.as_ptr(), options(nostack));
            } else {
                asm!("xsave64 [{}]", in(reg) self.0.as_ptr(), in("eax") low, in("edx") high, options(nostack));
            }
        }
    }

    /// Puts the state into the registers, after making it one that the processor accepts.
    pub fn restore(&self) {
        self.sanitise();
        let [low, high] = halves(components());
        // SAFETY: as in `save`; reserved bits, over which the instructions fault, are clear.
        unsafe {
            if components() == 0 {
                asm!("fxrstor64 [{}]", in(reg) self.0.as_ptr(), options(nostack));
            } else {
                asm!("xrstor64 [{}]", in(reg) self.0.as_ptr(), in("eax") low, in("edx") high, options(nostack));
            }
        }
    }

    fn sanitise(&self) {
        let mut probe = [0; 4];
        self.0.bytes(MXCSR, 4).copy_to(&mut probe);
        let mxcsr = u32::from_le_bytes(probe) & mxcsr_mask();
        self.0.write(MXCSR, &mxcsr.to_le_bytes());
        if components() != 0 {
            // XSTATE_BV may only name components in XCR0; XCOMP_BV and the rest are zero.
            let mut word = [0; 8];
            self.0.bytes(LEGACY, 8).copy_to(&mut word);
            let present = u64::from_le_bytes(word) & components();
            self.0.write(LEGACY, &present.to_le_bytes());
            self.0.clear(LEGACY + 8, HEADER - 8);
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> SharedBytes<'_> {
        self.0.bytes(0, size())
    }

    /// The frame, to fill.
    pub fn frame(&self) -> &Frame {
        &self.0
    }

    /// Marks the legacy components as present, for a state that came without a header.
    pub fn legacy_only(&self) {
        const X87_AND_SSE: u64 = 3;
        self.0.write(LEGACY, &X87_AND_SSE.to_le_bytes());
    }
}

/// Bits of MXCSR that exist.
fn mxcsr_mask() -> u32 {
    static MASK: AtomicU64 = AtomicU64::new(0);
    let known = MASK.load(Ordering::Relaxed);
    if known != 0 {
        return halves(known)[0];
    }
    #[repr(C, align(16))]
    struct Area([u8; LEGACY]);
    let mut area = Area([0; LEGACY]);
    // SAFETY: the area is aligned and large enough.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut area, options(nostack)) };
    let at = MXCSR_MASK;
    let mask = u32::from_le_bytes([area.0[at], area.0[at + 1], area.0[at + 2], area.0[at + 3]]);
    let mask = if mask == 0 { DEFAULT_MXCSR_MASK } else { mask };
    MASK.store(mask.into(), Ordering::Relaxed);
    mask
}

/// Puts the state into the registers that a program starts with.
pub fn reset() {
    #[repr(C, align(64))]
    struct Initial([u8; LEGACY + HEADER]);
    let mut area = Initial([0; LEGACY + HEADER]);
    area.0[..2].copy_from_slice(&INITIAL_CONTROL);
    area.0[MXCSR..MXCSR + 4].copy_from_slice(&INITIAL_MXCSR);
    let [low, high] = halves(components());
    // SAFETY: the area is aligned; with XSAVE, its header names no component, so that all others
    // become what they are after a reset, and MXCSR comes from the legacy region.
    unsafe {
        if components() == 0 {
            asm!("fxrstor64 [{}]", in(reg) &raw const area, options(nostack, readonly));
        } else {
            area.0[LEGACY] = 3;
            asm!("xrstor64 [{}]", in(reg) &raw const area, in("eax") low, in("edx") high, options(nostack, readonly));
        }
    }
}

/// x87 control word and MXCSR of a new program (System V ABI, AMD64 supplement, section 3.4.1).
pub const INITIAL_CONTROL: [u8; 2] = 0x37f_u16.to_le_bytes();
/// See [`INITIAL_CONTROL`].
pub const INITIAL_MXCSR: [u8; 4] = 0x1f80_u32.to_le_bytes();
