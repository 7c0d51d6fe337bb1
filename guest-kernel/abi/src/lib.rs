//! What the Airlock VMM and the guest kernel agree on, and nothing else.
//!
//! The two programs are compiled for different targets and never share memory layouts except
//! the ones below. The guest is hostile: the VMM validates everything it reads through these types.
//!
//! * [`layout`]: guest-physical address map, I/O ports, interrupt vectors
//! * [`boot`]: the state a vCPU starts in and the block that RDI points to
//! * [`exit`]: how the guest ends the virtual machine
//! * [`console`]: which virtio-console port is what
//! * [`trace`]: the records behind `--strace`
//! * [`errno`]: error numbers and their names
//! * [`syscalls`]: **the** list of system calls
#![no_std]

pub mod boot;
pub mod console;
pub mod errno;
pub mod exit;
pub mod layout;
pub mod syscalls;
pub mod trace;
