//! Physical and user addresses, and the direct map between physical memory and the kernel.

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 4096;
/// The same as a 64-bit number, for address arithmetic.
pub const PAGE: u64 = 4096;
/// One past the highest address that a program can have (Linux: `TASK_SIZE_MAX`; the last page of
/// the canonical half stays empty so that no SYSCALL can return to a non-canonical address).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// A guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysAddr(pub u64);

/// Kernel-virtual address at which guest-physical address 0 appears.
///
/// Linux's address, too, and not the first of the upper half: on host B ring 3 can use all of that half
/// but its first entry of the page table root.
#[cfg(target_os = "none")]
const DIRECT_MAP: usize = 0xffff_8880_0000_0000;

impl PhysAddr {
    /// Where the kernel can touch this address. Only meaningful below `layout::DIRECT_MAP_SIZE`.
    pub fn to_pointer(self) -> *mut u8 {
        #[cfg(target_os = "none")]
        let base = DIRECT_MAP;
        #[cfg(not(target_os = "none"))]
        let base = super::frame::host::base();
        core::ptr::with_exposed_provenance_mut(base + usize_from(self.0))
    }

    /// The address behind a pointer into the direct map.
    pub fn from_pointer<T>(pointer: *const T) -> Self {
        #[cfg(target_os = "none")]
        let base = DIRECT_MAP;
        #[cfg(not(target_os = "none"))]
        let base = super::frame::host::base();
        Self((pointer.expose_provenance() - base) as u64)
    }
}

/// A 64-bit number as a size; both are 64 bits wide on every target of this crate.
pub const fn usize_from(value: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) }
    #[expect(clippy::cast_possible_truncation, reason = "same width, asserted above")]
    let size = value as usize;
    size
}

/// The address rounded down to a page boundary.
pub const fn page_floor(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// The address rounded up to a page boundary, unless that exceeds 64 bits.
pub const fn page_ceil(address: u64) -> Option<u64> {
    match address.checked_add(PAGE - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}
