//! x87, SSE and wider state (SDM volume 1, chapter 13). Ring 0 uses none of it, so a program's state
//! is in the registers all along; it is only copied for signal frames.

use super::instruction;
use super::instruction::halves;
use crate::memory::{Content, Frame, PhysAddr, SharedBytes};
use airlock_abi::layout::PROCESSOR_STATE_PORT;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bytes of the legacy region, which FXSAVE writes.
pub const LEGACY: usize = 512;
/// Where FXSAVE leaves bytes to software: `struct _fpx_sw_bytes` of signal frames.
pub const SOFTWARE: usize = 464;
const HEADER: usize = 64;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// What MXCSR_MASK means if it is 0 (SDM volume 1, section 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// Whether the VMM saves and loads the state for ring 0: where that is interpreted, XSAVE is refused.
static BY_VMM: AtomicBool = AtomicBool::new(false);
/// Components in XCR0; 0 where XSAVE is not used.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(LEGACY);

/// Turns on XSAVE with these components, on the vCPU that runs this.
///
/// # Safety
/// CR4.OSXSAVE is set, and CPUID leaf 0xd has the components.
pub unsafe fn enable_xsave(components: u64) {
    // SAFETY: by the contract.
    unsafe { instruction::write_xcr0(components) };
    // EBX: the size that the components in XCR0 need; only the instruction itself knows XCR0.
    let size = core::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
    // QEMU's emulation of SVM does not tell KVM of XSETBV: from the next VM exit on, and CPUID was one,
    // XCR0 is what KVM takes it for. What is not really on must not be relied on.
    // SAFETY: CR4.OSXSAVE is set.
    if unsafe { instruction::read_xcr0() } != components {
        return;
    }
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

/// Lets the VMM save and load the state, of these components.
pub fn use_vmm(components: u64, size: usize) {
    if components != 0 && size <= crate::memory::PAGE_SIZE {
        COMPONENTS.store(components, Ordering::Relaxed);
        SIZE.store(size, Ordering::Relaxed);
        BY_VMM.store(true, Ordering::Relaxed);
    }
}

/// A page of state, aligned for XSAVE.
#[repr(C, align(4096))]
struct StatePage([u8; crate::memory::PAGE_SIZE]);

/// What a program starts with: legacy registers as they are after a reset but for these two, and no
/// other component, which stands for its initial state.
static INITIAL: StatePage = {
    let mut page = [0; crate::memory::PAGE_SIZE];
    page[0] = INITIAL_CONTROL[0];
    page[1] = INITIAL_CONTROL[1];
    let mut at = 0;
    while at < INITIAL_MXCSR.len() {
        page[MXCSR + at] = INITIAL_MXCSR[at];
        at += 1;
    }
    page[LEGACY] = 3;
    StatePage(page)
};

/// Saves the registers to a page.
///
/// # Safety
/// The page is RAM of ours, in the direct map.
unsafe fn save(page: *mut u8, physical: PhysAddr) {
    let [low, high] = halves(components());
    // SAFETY: the page holds any state that fits it, and is aligned to 64 bytes.
    unsafe {
        if must_ask_vmm() {
            ask_vmm(physical, false);
        } else if components() == 0 {
            asm!("fxsave64 [{}]", in(reg) page, options(nostack));
        } else {
            asm!("xsave64 [{}]", in(reg) page, in("eax") low, in("edx") high, options(nostack));
        }
    }
}

/// Loads the registers from a page.
///
/// # Safety
/// The page is memory of ours with a state that the processor accepts.
unsafe fn load(page: *const u8, physical: PhysAddr) {
    let [low, high] = halves(components());
    // SAFETY: reserved bits, over which the instructions fault, are clear by the contract.
    unsafe {
        if must_ask_vmm() {
            ask_vmm(physical, true);
        } else if components() == 0 {
            asm!("fxrstor64 [{}]", in(reg) page, options(nostack, readonly));
        } else {
            asm!("xrstor64 [{}]", in(reg) page, in("eax") low, in("edx") high, options(nostack, readonly));
        }
    }
}

/// Whether the VMM has to do it. Where ring 0 is interpreted, the kernel is in ring 3 most of the time, and the
/// processor itself executes XSAVE there, in the format that the VMM uses.
fn must_ask_vmm() -> bool {
    // SAFETY: XSAVE is in use, and so CR4.OSXSAVE is set where ring 3 is executed.
    let is_on = || unsafe { instruction::read_xcr0() } & components() == components();
    BY_VMM.load(Ordering::Relaxed) && !(super::native::is_here() && is_on())
}

/// # Safety
/// As for [`save`] and [`load`].
unsafe fn ask_vmm(page: PhysAddr, load: bool) {
    let number = u32::try_from(page.0 >> 12).unwrap_or(0);
    // SAFETY: the VMM touches the page, which is ours, and the registers.
    unsafe { instruction::write_port(PROCESSOR_STATE_PORT, number << 1 | u32::from(load)) };
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
        // SAFETY: the frame is ours.
        unsafe { save(self.0.as_ptr(), self.0.address()) };
    }

    /// Puts a state that [`Self::save_again`] saved back into the registers.
    pub fn restore_saved(&self) {
        // SAFETY: the frame holds what the processor itself has written.
        unsafe { load(self.0.as_ptr(), self.0.address()) };
    }

    /// Puts the state into the registers, after making it one that the processor accepts.
    pub fn restore(&self) {
        self.sanitise();
        self.restore_saved();
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
    let page = &raw const INITIAL;
    // SAFETY: a state as the SDM describes it, in the kernel's own data.
    unsafe { load(page.cast(), super::boot::image_address(page)) };
}

/// x87 control word and MXCSR of a new program (System V ABI, AMD64 supplement, section 3.4.1).
pub const INITIAL_CONTROL: [u8; 2] = 0x37f_u16.to_le_bytes();
/// See [`INITIAL_CONTROL`].
pub const INITIAL_MXCSR: [u8; 4] = 0x1f80_u32.to_le_bytes();
