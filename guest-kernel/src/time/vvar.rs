//! The page that the kernel and the vDSO share: how to make a time of a TSC reading.
//!
//! The kernel fills it once, at boot. Afterwards only [`Vvar::realtime_offset`] changes, when a
//! program sets the clock, and `zone`: each is one aligned 64-bit word, so a reader needs no lock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::tsc::Scale;

/// Bit of `flags`: the TSC runs at a constant rate and alike on every vCPU, so programs may read the
/// clocks themselves. Without it the vDSO makes system calls.
pub const FLAG_TSC: u32 = 1;

/// What lies in the page `[vvar]`, read-only for programs. `vdso.s` reads it by offset.
#[repr(C, align(4096))]
pub struct Vvar {
    /// [`FLAG_TSC`], or 0.
    pub(super) flags: AtomicU32,
    /// A segment selector whose limit is the number of the vCPU, for `lsl`; 0 if there is none.
    pub(super) cpu_selector: AtomicU32,
    /// TSC at boot: zero of the monotonic clock.
    pub(super) tsc_base: AtomicU64,
    /// [`Scale::multiplier`].
    pub(super) multiplier: AtomicU64,
    /// Nanoseconds from the monotonic to the realtime clock.
    pub(super) realtime_offset: AtomicU64,
    /// `struct timezone`: minutes west of Greenwich in the low half, kind of daylight saving time in
    /// the high half.
    pub(super) zone: AtomicU64,
}

impl Vvar {
    /// A page without a clock: the vDSO makes system calls.
    pub const fn new() -> Self {
        Self {
            flags: AtomicU32::new(0),
            cpu_selector: AtomicU32::new(0),
            tsc_base: AtomicU64::new(0),
            multiplier: AtomicU64::new(0),
            realtime_offset: AtomicU64::new(0),
            zone: AtomicU64::new(0),
        }
    }

    /// Starts the clocks: the monotonic one is 0 when the TSC is `tsc`, and the time of day is then
    /// `realtime_ns`. Programs may use the TSC themselves if it is `invariant`.
    pub fn start(&self, scale: Scale, tsc: u64, realtime_ns: u64, invariant: bool) {
        self.tsc_base.store(tsc, Ordering::Relaxed);
        self.multiplier.store(scale.multiplier(), Ordering::Relaxed);
        self.realtime_offset.store(realtime_ns, Ordering::Relaxed);
        let flags = if invariant { FLAG_TSC } else { 0 };
        self.flags.store(flags, Ordering::Release);
    }

    /// Lets `getcpu` read the number of the vCPU from the limit of this segment (bits 11:0 the
    /// vCPU, bits 19:12 the node). Only where ring 3 sees the kernel's own GDT.
    pub fn set_cpu_selector(&self, selector: u16) {
        self.cpu_selector.store(u32::from(selector), Ordering::Relaxed);
    }

    /// Nanoseconds since boot when the TSC reads `tsc`.
    pub fn monotonic(&self, tsc: u64) -> u64 {
        let scale = Scale::from_multiplier(self.multiplier.load(Ordering::Relaxed));
        scale.nanoseconds(tsc.saturating_sub(self.tsc_base.load(Ordering::Relaxed)))
    }

    /// The TSC reading from which on [`Self::monotonic`] is at least `ns`.
    pub fn deadline(&self, ns: u64) -> u64 {
        let scale = Scale::from_multiplier(self.multiplier.load(Ordering::Relaxed));
        scale.ticks(ns).saturating_add(self.tsc_base.load(Ordering::Relaxed))
    }

    /// Nanoseconds from the monotonic to the realtime clock.
    pub fn realtime_offset(&self) -> u64 {
        self.realtime_offset.load(Ordering::Relaxed)
    }

    /// Sets the realtime clock.
    pub fn set_realtime_offset(&self, ns: u64) {
        self.realtime_offset.store(ns, Ordering::Relaxed);
    }

    /// The two words of `struct timezone`.
    pub fn zone(&self) -> u64 {
        self.zone.load(Ordering::Relaxed)
    }

    /// Sets the two words of `struct timezone`.
    pub fn set_zone(&self, zone: u64) {
        self.zone.store(zone, Ordering::Relaxed);
    }
}

impl Default for Vvar {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(size_of::<Vvar>() == 4096);
