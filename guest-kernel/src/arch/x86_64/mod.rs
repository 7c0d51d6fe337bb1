//! x86-64: entry, traps, page tables, interrupts. The only place that knows the processor.

pub mod apic;
mod boot;
pub mod copy;
pub mod cpu;
pub mod cpuid;
pub mod entry;
pub mod fpu;
pub mod frame;
pub mod instruction;
pub mod native;
pub mod paging;
pub mod probe;
pub mod selectors;
pub mod serial;
pub mod tlb;
mod trap;

pub use boot::image_address;
pub use cpu::Cpu;
pub use frame::TrapFrame;
pub use probe::syscall_faults as kernel_needs_root;
