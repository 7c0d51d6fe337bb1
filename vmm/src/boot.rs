//! The block of information that the kernel finds in RDI, and the state in which vCPUs enter.

use std::time::{SystemTime, UNIX_EPOCH};

use airlock_abi::boot::{
    BootInfo, CpuidLeaf, EntryNote, MAGIC, Range, StartedConsole, VERSION, flags,
};
use airlock_abi::layout::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_IRQ_BASE, VIRTIO_MMIO_SIZE};
use kvm_bindings::{
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use crate::config::Config;
use crate::loader::PAGE;
use crate::memory::GuestMemory;
use crate::volume::Volume;

/// [`BootInfo`] as the bytes that the guest reads.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Block(BootInfo);

// SAFETY: `BootInfo` is repr(C) and made of 64-bit integers and arrays of bytes whose size is a
// multiple of 8: it has no padding, and every bit pattern is valid.
unsafe impl ByteValued for Block {}

/// The relation between the guest's clock and the host's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// TSC ticks per millisecond.
    pub tsc_khz: u64,
    /// What the guest's TSC reads ...
    pub tsc: u64,
    /// ... at this many nanoseconds since 1970.
    pub realtime_ns: u64,
}

impl Clock {
    /// Reads host TSC and wall clock together; `offset` is guest TSC minus host TSC.
    pub fn now(tsc_khz: u64, offset: u64) -> Self {
        // SAFETY: RDTSC is available to user mode unless the process asked otherwise.
        let before = unsafe { core::arch::x86_64::_rdtsc() };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // SAFETY: as above.
        let after = unsafe { core::arch::x86_64::_rdtsc() };
        let middle = before.wrapping_add(after.wrapping_sub(before) / 2);
        let realtime_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        Self { tsc_khz, tsc: middle.wrapping_add(offset), realtime_ns }
    }
}

/// Everything of [`BootInfo`] that does not need a clock, and the strings behind it.
pub struct BootBlock {
    info: BootInfo,
    address: u64,
    strings: Vec<u8>,
}

/// Command line: one `virtio_mmio.device=` for each of `count` devices, the last of which are volumes:
/// these are mounted, each by an `airlock.volume=`, and need not be looked for.
fn command_line(count: usize, volumes: &[Volume]) -> Vec<u8> {
    let windows = (0..).map(|index| VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_SIZE);
    let first_volume = count.saturating_sub(volumes.len());
    let volumes = windows.clone().zip(VIRTIO_MMIO_IRQ_BASE..).skip(first_volume).zip(volumes);
    let words = windows
        .zip(VIRTIO_MMIO_IRQ_BASE..)
        .take(count)
        .map(|(address, irq)| format!("virtio_mmio.device={VIRTIO_MMIO_SIZE}@{address:#x}:{irq}"));
    let mounts = volumes.map(|((address, irq), volume)| {
        let access = if volume.read_only { "ro" } else { "rw" };
        format!("airlock.volume={address:#x}:{irq}:{access}")
    });
    words.chain(mounts).collect::<Vec<_>>().join(" ").into_bytes()
}

fn terminated(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|string| string.iter().copied().chain([0])).collect()
}

impl BootBlock {
    /// Where the pages of the started console's queues go: behind the kernel.
    pub const fn rings_after(kernel_end: u64) -> [u64; 2] {
        let start = kernel_end.next_multiple_of(PAGE);
        [start, start + PAGE]
    }

    /// Where the block goes: behind those.
    pub const fn address_after(kernel_end: u64) -> u64 {
        let [_, last] = Self::rings_after(kernel_end);
        last + PAGE
    }

    /// Lays out the block.
    pub fn new(
        config: &Config,
        memory: &GuestMemory,
        address: u64,
        devices: usize,
        console: StartedConsole,
        entropy: [u8; 96],
    ) -> Self {
        let (mut seed, mut first_random) = ([0; 32], [0; 64]);
        seed.copy_from_slice(&entropy[..32]);
        first_random.copy_from_slice(&entropy[32..]);
        let mut strings = Vec::new();
        let mut place = |bytes: &[u8]| {
            let start = address + (size_of::<BootInfo>() + strings.len()) as u64;
            strings.extend_from_slice(bytes);
            Range { start, len: bytes.len() as u64 }
        };
        let command_line = place(&command_line(devices, &config.volumes));
        let program = place(&config.program);
        let arguments = place(&terminated(&config.arguments));
        let environment = place(&terminated(&config.environment));
        let directory = place(&config.directory);
        let identity = &config.identity;
        let groups: Vec<u8> = identity.groups.iter().flat_map(|id| id.to_le_bytes()).collect();
        let groups = place(&groups);
        let end = address + (size_of::<BootInfo>() + strings.len()) as u64;
        let set = |condition: bool, flag: u64| if condition { flag } else { 0 };
        let info = BootInfo {
            magic: MAGIC,
            version: VERSION,
            flags: flags::MSI
                | flags::PROCESSOR_STATE
                | flags::YIELD
                | set(config.strace.is_some(), flags::STRACE)
                | set(config.terminal, flags::TERMINAL)
                | set(config.verbose, flags::VERBOSE),
            cpus: u64::from(config.cpus),
            free: memory.free(end),
            root_image: memory.root_image,
            console,
            command_line,
            program,
            arguments,
            environment,
            directory,
            user: identity.user,
            group: identity.group,
            groups,
            cpuid: Range::default(),
            tsc_khz: 0,
            tsc: 0,
            realtime_ns: 0,
            seed,
            first_random,
        };
        Self { info, address, strings }
    }

    /// First address after the block and its strings.
    pub fn end(&self) -> u64 {
        self.address + (size_of::<BootInfo>() + self.strings.len()) as u64
    }

    /// Writes the block into guest memory, and behind it what CPUID says.
    ///
    /// # Errors
    ///
    /// When RAM has no room for it.
    pub fn write(
        &self,
        memory: &GuestMemory,
        clock: Clock,
        leaves: &[kvm_cpuid_entry2],
    ) -> Result<(), GuestMemoryError> {
        let Clock { tsc_khz, tsc, realtime_ns } = clock;
        let table: Vec<u8> = leaves.iter().flat_map(leaf_bytes).collect();
        let start = self.end().next_multiple_of(8);
        let cpuid = Range { start, len: table.len() as u64 };
        let free = memory.free(start + cpuid.len);
        let block = Block(BootInfo { tsc_khz, tsc, realtime_ns, cpuid, free, ..self.info });
        memory.ram.write_obj(block, GuestAddress(self.address))?;
        let strings = GuestAddress(self.address + size_of::<BootInfo>() as u64);
        memory.ram.write_slice(&self.strings, strings)?;
        memory.ram.write_slice(&table, GuestAddress(start))
    }
}

/// A `CpuidLeaf` as it lies in guest memory.
fn leaf_bytes(entry: &kvm_cpuid_entry2) -> [u8; size_of::<CpuidLeaf>()] {
    let indexed = u32::from(entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0);
    let kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, .. } = *entry;
    let mut bytes = [0; size_of::<CpuidLeaf>()];
    for (slot, word) in
        bytes.chunks_exact_mut(4).zip([function, index, indexed, eax, ebx, ecx, edx])
    {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

// SDM volume 3, section 2.5 (control registers) and 2.2.1 (IA32_EFER).
const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
// SDM volume 3, section 12.4.4 (IA32_APIC_BASE).
const APIC_BASE_ADDRESS: u64 = 0xfee0_0000;
const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;
// SDM volume 3, sections 3.4.5.1 and 3.5 (segment and system descriptor types).
const TYPE_CODE: u8 = 0b1011;
const TYPE_DATA: u8 = 0b0011;
const TYPE_BUSY_TSS: u8 = 0b1011;
const TYPE_LDT: u8 = 0b0010;
const RFLAGS_FIXED: u64 = 1 << 1;

fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

/// System registers of a vCPU that enters the kernel (`airlock_abi::boot` describes them).
pub fn system_registers(entry: &EntryNote, index: u8) -> kvm_sregs {
    let data = flat(0x10, TYPE_DATA, false);
    let bootstrap = if index == 0 { APIC_BASE_BSP } else { 0 };
    kvm_sregs {
        cs: flat(0x8, TYPE_CODE, true),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // VM entry demands a busy TSS (SDM volume 3, section 28.3.1.2), though nothing can use this one.
        tr: kvm_segment { type_: TYPE_BUSY_TSS, present: 1, ..kvm_segment::default() },
        ldt: kvm_segment { type_: TYPE_LDT, unusable: 1, ..kvm_segment::default() },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
        cr3: entry.page_table,
        cr4: CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT,
        efer: EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        apic_base: APIC_BASE_ADDRESS | bootstrap | APIC_BASE_X2APIC | APIC_BASE_ENABLE,
        ..kvm_sregs::default()
    }
}

/// General registers of a vCPU that enters the kernel.
pub fn general_registers(entry: &EntryNote, boot_info: u64, index: u8) -> kvm_regs {
    kvm_regs {
        rip: entry.entry,
        rdi: boot_info,
        rsi: u64::from(index),
        rflags: RFLAGS_FIXED,
        ..kvm_regs::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_announces_each_window() {
        let text = String::from_utf8(command_line(2, &[])).expect("ASCII");
        assert_eq!(
            text,
            "virtio_mmio.device=4096@0xd0000000:5 virtio_mmio.device=4096@0xd0001000:6"
        );
    }

    #[test]
    fn strings_end_in_nul() {
        assert_eq!(terminated(&[b"a".to_vec(), Vec::new(), b"bc".to_vec()]), b"a\0\0bc\0");
    }

    #[test]
    fn vcpus_enter_as_the_contract_says() {
        let entry = EntryNote { version: VERSION, entry: 0x1234, page_table: 0x5000 };
        let system = system_registers(&entry, 3);
        assert_eq!(
            (system.cr0, system.cr3, system.cr4, system.efer),
            (0x8001_0033, 0x5000, 0x6a0, 0xd01)
        );
        assert_eq!((system.cs.l, system.cs.db, system.ss.l, system.ss.db), (1, 0, 0, 1));
        assert_eq!(system.apic_base, 0xfee0_0c00);
        assert_eq!(system_registers(&entry, 0).apic_base, 0xfee0_0d00);
        let general = general_registers(&entry, 0x7000, 3);
        assert_eq!((general.rip, general.rdi, general.rsi, general.rflags), (0x1234, 0x7000, 3, 2));
        assert_eq!((general.rsp, general.rax), (0, 0));
    }

    #[test]
    fn clock_reads_tsc_and_time_together() {
        let first = Clock::now(1, 0);
        let second = Clock::now(1, 1 << 60);
        assert!(second.tsc > first.tsc + (1 << 60) - 1 && second.realtime_ns >= first.realtime_ns);
    }
}
