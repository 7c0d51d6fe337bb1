//! How a vCPU starts in the kernel ("direct entry"), and what it is told.
//!
//! The kernel ELF carries a note, name `Airlock`, type [`NOTE_TYPE`], descriptor [`EntryNote`].
//! The VMM loads the segments at their `p_paddr` and starts vCPU 0 in 64-bit mode:
//!
//! * RIP = [`EntryNote::entry`] (guest-virtual), RDI = guest-physical address of [`BootInfo`],
//!   RSI = index of the vCPU, RFLAGS = 2, all other general registers 0;
//! * CR3 = [`EntryNote::page_table`] (guest-physical), CR0 = PE|MP|ET|NE|WP|PG,
//!   CR4 = PAE|PGE|OSFXSR|OSXMMEXCPT, EFER = SCE|LME|LMA|NXE;
//! * CS: flat 64-bit code, SS/DS/ES: flat data, no usable GDT, IDT or TSS (limits 0);
//! * local APIC enabled in x2APIC mode, its ID equal to the index of the vCPU;
//! * the TSC equals the host's where KVM lets the VMM choose, so that ring 3 and ring 0 read the same.
//!
//! Other VMMs enter through the PVH note (`XEN_ELFNOTE_PHYS32_ENTRY`), with the root image as the
//! first module; the kernel then builds the same [`BootInfo`] from `hvm_start_info`.

/// Type of the ELF note that describes the direct entry.
pub const NOTE_TYPE: u32 = 1;
/// Name of the ELF note, without its terminating NUL.
pub const NOTE_NAME: &str = "Airlock";
/// Value of [`EntryNote::version`] and [`BootInfo::version`]; changes with every incompatible change.
pub const VERSION: u64 = 3;
/// Value of [`BootInfo::magic`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"AIRLOCK\0");

/// Descriptor of the direct-entry note.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryNote {
    /// [`VERSION`].
    pub version: u64,
    /// Where vCPUs enter (guest-virtual).
    pub entry: u64,
    /// The kernel's page table root (guest-physical), in one of the ELF's segments.
    pub page_table: u64,
}

/// Bytes of guest-physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte (guest-physical).
    pub start: u64,
    /// Length in bytes; 0 means that there is none.
    pub len: u64,
}

/// What the VMM tells the kernel. Lies in RAM below [`BootInfo::free`]; the kernel may keep reading it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// [`flags`], or-ed together.
    pub flags: u64,
    /// Number of vCPUs, including the first.
    pub cpus: u64,
    /// RAM that no one has written: zeroes, and the kernel's to use. The second may be empty.
    pub free: [Range; 2],
    /// The root file system: an EROFS image in a read-only memory slot, page-aligned.
    pub root_image: Range,
    /// The console, if the VMM has started it as a driver would.
    pub console: StartedConsole,
    /// The kernel command line, without NUL: `virtio_mmio.device=SIZE@ADDRESS:IRQ ...`
    pub command_line: Range,
    /// Path of the program in the guest, without NUL. One without a slash is looked for in the
    /// directories that `PATH` in `environment` names.
    pub program: Range,
    /// `argv` including `argv[0]`, each string followed by NUL.
    pub arguments: Range,
    /// `K=V` environment, each string followed by NUL.
    pub environment: Range,
    /// Working directory of the program: an absolute path without NUL.
    pub directory: Range,
    /// User ID of the program.
    pub user: u32,
    /// Group ID of the program.
    pub group: u32,
    /// Its supplementary groups: IDs of 32 bits, one after the other, without alignment.
    pub groups: Range,
    /// What the vCPUs' CPUID says: [`CpuidLeaf`]s, one after the other, aligned to 8 bytes. Ring 0 of host
    /// B sees the host's processor in the instruction instead, and so would its programs.
    pub cpuid: Range,
    /// TSC ticks per millisecond (kHz).
    pub tsc_khz: u64,
    /// A reading of the TSC...
    pub tsc: u64,
    /// ...and the nanoseconds since 1970-01-01 00:00 UTC at that moment.
    pub realtime_ns: u64,
    /// Entropy from the host, fresh for every virtual machine: the seed of the kernel's generator.
    pub seed: [u8; 32],
    /// More entropy from the host, for the first program's `AT_RANDOM` and address space layout, so that
    /// the generator need not run before it is asked for something.
    pub first_random: [u8; 64],
}

/// A console device (see [`crate::console`]) that needs no driver to start it: all features that it
/// offers are accepted, these queues are enabled as [`crate::console::ring`] says, and `DRIVER_OK` is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartedConsole {
    /// Guest-physical address of its registers; 0 means that there is no such device.
    pub registers: u64,
    /// Its interrupt number.
    pub interrupt: u64,
    /// Guest-physical address of the page of standard output's transmit queue.
    pub output: u64,
    /// The same of standard error's.
    pub errors: u64,
}

/// An answer of the CPUID instruction (SDM volume 2A).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question, if `indexed` is 1.
    pub subleaf: u32,
    /// Whether `subleaf` matters.
    pub indexed: u32,
    /// EAX, EBX, ECX and EDX of the answer.
    pub answer: [u32; 4],
    /// Unused, zero.
    pub padding: u32,
}

/// Bits of [`BootInfo::flags`].
pub mod flags {
    /// Send a [`crate::trace`] record for every system call.
    pub const STRACE: u64 = 1;
    /// Standard input, output and error are the terminal port; else three ports of their own.
    pub const TERMINAL: u64 = 2;
    /// Interrupts are the MSIs that [`crate::layout::IRQ_VECTOR_BASE`] describes; there is no I/O APIC.
    pub const MSI: u64 = 4;
    /// There is a [`crate::layout::PROCESSOR_STATE_PORT`].
    pub const PROCESSOR_STATE: u64 = 16;
    /// There is a [`crate::layout::YIELD_ADDRESS`].
    pub const YIELD: u64 = 32;
    /// The kernel's log goes to the serial port as it is written (`-v`); else only panics do.
    pub const VERBOSE: u64 = 8;
}
