//! Making processors forget translations of addresses (SDM volume 3, section 4.10).

use super::cpu::Cpu;
use super::native;
use crate::memory::PhysAddr;
use core::arch::asm;

/// Forgets all translations on this vCPU, also those of global pages (SDM volume 3, section 4.10.4.1).
pub fn flush_everything() {
    // SAFETY: forgetting translations is always sound; CR4.PGE is as it was afterwards.
    unsafe {
        asm!("mov {v}, cr4", "btr {v:e}, 7", "mov cr4, {v}", "bts {v:e}, 7", "mov cr4, {v}", v = out(reg) _, options(nostack));
    }
}

/// Forgets the translations of all pages that are not global on this vCPU.
pub fn reload_root() {
    // SAFETY: the root stays what it is.
    unsafe {
        asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _, options(nostack, preserves_flags))
    };
}

/// Forgets the translation of one page (guest-virtual) on this vCPU.
pub fn flush_page(address: u64) {
    if native::is_here() {
        return Cpu::current().native.note_stale();
    }
    // SAFETY: forgetting a translation is always sound.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets the translation of a page that was just faulted on. The processor does so by itself (SDM volume
/// 3, section 4.10.4.1), but need not be the only one that remembers; host B's KVM looks again after a
/// fault, too.
pub fn forget_fault(address: u64) {
    if !native::is_here() {
        flush_page(address);
    }
}

/// Forgets all translations of programs' pages on this vCPU.
pub fn flush_all() {
    if native::is_here() {
        return Cpu::current().native.note_stale();
    }
    reload_root();
}

/// Lets the other vCPUs forget translations of the address space with this root, before it returns. Those that
/// are halted forget them before they use them.
#[inline]
pub fn flush_elsewhere(root: PhysAddr) {
    if !is_only_one() {
        crate::sched::cpus::forget(root, false);
    }
}

/// The same on all vCPUs at once, also those that are halted: a table is about to be freed, and a processor may
/// read those that it remembers whenever it likes, and note in them that it did (SDM volume 3, section 4.8).
#[inline]
pub fn flush_tables_elsewhere(root: PhysAddr) {
    if !is_only_one() {
        crate::sched::cpus::forget(root, true);
    }
}

/// Whether no other vCPU can have translations to forget.
#[inline]
pub fn is_only_one() -> bool {
    crate::sched::cpus::count() == 1
}
