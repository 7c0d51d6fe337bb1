//! What Rust has no words for: registers and ports that single instructions read and write.

use core::arch::asm;

/// Model-specific registers (SDM volume 4; AMD64 APM volume 2, appendix A).
pub mod msr {
    /// CPUID faulting: `MSR_MISC_FEATURES_ENABLES`, bit 0.
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    /// `MSR_PLATFORM_INFO`; bit 31 says that CPUID faulting exists.
    pub const PLATFORM_INFO: u32 = 0xce;
    /// Local APIC base; bit 10 is x2APIC mode, bit 11 enables it.
    pub const APIC_BASE: u32 = 0x1b;
    /// First x2APIC register; register n of the MMIO page is at `X2APIC + (n >> 4)`.
    pub const X2APIC: u32 = 0x800;
    /// Extended features: SYSCALL, long mode, NX.
    pub const EFER: u32 = 0xc000_0080;
    /// Segment selectors of SYSCALL and SYSRET.
    pub const STAR: u32 = 0xc000_0081;
    /// Target of SYSCALL.
    pub const LSTAR: u32 = 0xc000_0082;
    /// RFLAGS bits that SYSCALL clears.
    pub const SFMASK: u32 = 0xc000_0084;
    /// Base of FS.
    pub const FS_BASE: u32 = 0xc000_0100;
    /// Base of GS.
    pub const GS_BASE: u32 = 0xc000_0101;
    /// The other base of GS, which SWAPGS exchanges it with.
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect but a fault if there is no such register.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists and the new value does not break what Rust code relies on.
pub unsafe fn write_msr(register: u32, value: u64) {
    let [low, high] = halves(value);
    // SAFETY: by the contract.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags));
    }
}

/// Low and high 32 bits.
pub fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_le_bytes();
    let half =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [half(0), half(4)]
}

/// Bits of CR4.
pub mod cr4 {
    /// RDFSBASE and its kin may be used in ring 3.
    pub const FSGSBASE: u64 = 1 << 16;
    /// XSAVE and its kin.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Ring 0 cannot execute user pages.
    pub const SMEP: u64 = 1 << 20;
    /// Ring 0 cannot touch user pages unless AC is set.
    pub const SMAP: u64 = 1 << 21;
    /// SGDT and its kin are refused in ring 3.
    pub const UMIP: u64 = 1 << 11;
}

/// Sets bits in CR4.
///
/// # Safety
/// CPUID has the features.
pub unsafe fn set_cr4(bits: u64) {
    // SAFETY: by the contract.
    unsafe {
        asm!("mov {v}, cr4", "or {v}, {bits}", "mov cr4, {v}", v = out(reg) _, bits = in(reg) bits, options(nostack));
    }
}

/// Enables state components of XSAVE.
///
/// # Safety
/// CR4.OSXSAVE is set and CPUID leaf 0xd has the components.
pub unsafe fn write_xcr0(value: u64) {
    let [low, high] = halves(value);
    // SAFETY: by the contract.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack)) };
}

/// Reads which state components of XSAVE are on.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the contract.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Switches to another address space.
///
/// # Safety
/// The root maps the kernel like every other, and stays valid while loaded.
pub unsafe fn write_cr3(root: u64) {
    // SAFETY: by the contract.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// The index if it is below the limit, else 0; without a branch that could be mispredicted.
#[inline]
pub fn masked_index(index: usize, limit: usize) -> usize {
    let masked;
    // SAFETY: arithmetic only.
    unsafe {
        asm!("cmp {i}, {l}", "sbb {m}, {m}", "and {m}, {i}", i = in(reg) index, l = in(reg) limit, m = out(reg) masked, options(pure, nomem, nostack));
    }
    masked
}

/// Time stamp counter.
#[inline]
pub fn read_tsc() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Writes a 32-bit word to an I/O port.
///
/// # Safety
/// The device behind the port does not touch the kernel's memory.
pub unsafe fn write_port(port: u16, value: u32) {
    // SAFETY: by the contract.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}

/// Writes bytes to an I/O port, one after the other.
///
/// # Safety
/// As for [`write_port`].
pub unsafe fn write_port_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: by the contract; the string instruction reads just the slice. One instruction, so that a
    // VMM gets many bytes with one exit.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, options(readonly, nostack, preserves_flags));
    }
}

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs here any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
