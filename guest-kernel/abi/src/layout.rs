//! Guest-physical address map, I/O ports and interrupt vectors.
//!
//! ```text
//! 0x0000_0010_0000  kernel text and read-only data: a read-only memory slot (its ELF p_paddr)
//!                   then RAM from the kernel's writable data on
//! 0x0000_c000_0000  end of low RAM; nothing up to 4 GiB but:
//! 0x0000_cfff_f000  register to let other vCPUs run
//! 0x0000_d000_0000  virtio-mmio register windows, one page each
//! 0x0000_fee0_0000  local APIC (used in x2APIC mode, by MSR)
//! 0x0001_0000_0000  high RAM, when --mem exceeds the space below the hole
//! 0x0040_0000_0000  root image (EROFS): a read-only memory slot
//! ```

/// Guest-physical address at which the kernel image is linked.
pub const KERNEL_BASE: u64 = 0x10_0000;
/// First guest-physical address above low RAM.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// First guest-physical address of RAM above the hole below 4 GiB.
pub const HIGH_RAM_BASE: u64 = 0x1_0000_0000;
/// Guest-physical address of a register (32-bit writes of anything): the host may run somebody else before
/// it goes on with this vCPU, for a kernel that has been waiting for another one in vain
/// (see [`crate::boot::flags::YIELD`]).
pub const YIELD_ADDRESS: u64 = 0xcfff_f000;
/// Guest-physical address of the first virtio-mmio register window.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Size of, and distance between, virtio-mmio register windows, in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt number of the first virtio-mmio device; the next devices follow.
pub const VIRTIO_MMIO_IRQ_BASE: u32 = 5;
/// Guest-physical address of the root image.
pub const ROOT_IMAGE_BASE: u64 = 0x40_0000_0000;
/// End of what the kernel's direct map covers; RAM and images lie below.
pub const DIRECT_MAP_SIZE: u64 = 0x80_0000_0000;

/// I/O port of the 16550 serial port that carries early kernel messages and panics.
pub const SERIAL_PORT: u16 = 0x3f8;
/// I/O port (32-bit writes) of the exit device; see [`crate::exit`].
pub const EXIT_PORT: u16 = 0xf4;
/// I/O port (32-bit writes): the guest writes the index of a vCPU that shall start.
///
/// A vCPU enters at the same address as the first, with its index in RSI (see [`crate::boot`]).
/// Starting a vCPU that runs, or that does not exist, does nothing.
pub const CPU_START_PORT: u16 = 0xf8;

/// I/O port (32-bit writes): saves or loads the vCPU's x87, SSE and wider state, for a kernel on a host
/// where it cannot execute XSAVE (see [`crate::boot::flags::PROCESSOR_STATE`]).
///
/// The word is the number of a page (its guest-physical address / 4096) shifted left by one; bit 0 is
/// clear to save the state there, which takes RAM, and set to load it. The page is in the standard format of XSAVE (SDM
/// volume 1, section 13.4), as `KVM_GET_XSAVE` and `KVM_SET_XSAVE` have it.
pub const PROCESSOR_STATE_PORT: u16 = 0xfc;
/// Interrupt number *n* arrives as the edge-triggered MSI vector `IRQ_VECTOR_BASE + n` at vCPU 0.
pub const IRQ_VECTOR_BASE: u32 = 0x30;
