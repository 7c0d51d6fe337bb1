//! The segment selectors that programs may load themselves, which in 64-bit mode say nothing but are a program's own.

use super::instruction::{msr, read_msr, write_msr};
use core::arch::asm;

/// DS, ES, FS and GS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Selectors {
    data: [u16; 2],
    based: [u16; 2],
}

impl Selectors {
    /// What a program starts with.
    pub const NULL: Self = Self { data: [0; 2], based: [0; 2] };

    /// Those in the registers. Needs no privilege.
    pub fn current() -> Self {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        // SAFETY: reading segment registers has no effect.
        unsafe {
            asm!(
                "mov {:x}, ds", "mov {:x}, es", "mov {:x}, fs", "mov {:x}, gs",
                out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs,
                options(nomem, nostack, preserves_flags)
            );
        }
        Self { data: [ds, es], based: [fs, gs] }
    }

    /// Loads them where they differ from those in the registers. Needs no privilege unless FS or GS differ; FS may
    /// then have another base than before.
    ///
    /// # Safety
    /// A program has loaded them itself, or they are null. Nothing relies on the base of FS.
    pub unsafe fn load(self) {
        let current = Self::current();
        // SAFETY: the table of descriptors never changes, so what ring 3 could load can be loaded. DS and ES have no
        // meaning in 64-bit mode.
        unsafe {
            if self.data != current.data {
                let [ds, es] = self.data;
                asm!("mov ds, {:x}", "mov es, {:x}", in(reg) ds, in(reg) es, options(nostack, preserves_flags));
            }
            if self.based != current.based {
                let [fs, gs] = self.based;
                asm!("mov fs, {:x}", in(reg) fs, options(nostack, preserves_flags));
                // The base that the kernel uses goes with the selector. No interrupt sees that: they are off.
                let base = read_msr(msr::GS_BASE);
                asm!("mov gs, {:x}", in(reg) gs, options(nostack, preserves_flags));
                write_msr(msr::GS_BASE, base);
            }
        }
    }
}
