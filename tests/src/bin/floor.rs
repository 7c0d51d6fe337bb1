//! The floor that start-up is held against: what KVM itself takes to create a virtual machine with a
//! split interrupt controller and one vCPU, run one instruction, and end. No command can be quicker.
//!
//! With `--phases` it prints how long each step took.

use std::process::ExitCode;
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// As much memory as `airlock run` gives a guest.
const MEMORY: usize = 512 << 20;
/// `out 0xf4, al`: the first instruction is an exit to user space.
const CODE: [u8; 2] = [0xe6, 0xf4];
const PORT: u16 = 0xf4;
/// Where the code is, and the page tables behind it.
const CODE_ADDRESS: u64 = 0x1000;
const TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let show_phases = std::env::args().any(|argument| argument == "--phases");
    match run() {
        Ok(phases) => {
            if show_phases {
                for (name, microseconds) in phases {
                    println!("{name:<20} {microseconds:>6} us");
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Vec<(&'static str, u128)>, Failure> {
    let mut phases = Vec::new();
    let mut last = Instant::now();
    let mut done = |name| {
        phases.push((name, last.elapsed().as_micros()));
        last = Instant::now();
    };

    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    done("create VM");
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..Default::default()
    })?;
    done("split irqchip");
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    prepare(&memory)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: u64::try_from(MEMORY)?,
        userspace_addr: u64::try_from(
            memory.get_host_address(GuestAddress(0))?.expose_provenance(),
        )?,
    };
    // SAFETY: the region is the mapping above, which outlives the virtual machine.
    unsafe { vm.set_user_memory_region(region)? };
    done("memory slot");
    let mut vcpu = vm.create_vcpu(0)?;
    done("create vCPU");
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    done("get CPUID");
    vcpu.set_cpuid2(&cpuid)?;
    done("set CPUID");
    let mut special = vcpu.get_sregs()?;
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 16, type_: 3, l: 0, db: 1, ..code };
    special.cs = code;
    (special.ds, special.es, special.ss) = (data, data, data);
    special.cr3 = TABLES[0];
    special.cr4 = 1 << 5; // PAE
    special.cr0 = 0x8000_0011; // PG, ET, PE
    special.efer = 0x500; // LME, LMA
    vcpu.set_sregs(&special)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = CODE_ADDRESS;
    registers.rflags = 2;
    vcpu.set_regs(&registers)?;
    done("registers");
    match vcpu.run()? {
        VcpuExit::IoOut(PORT, _) => {}
        other => return Err(format!("an unexpected exit: {other:?}").into()),
    }
    done("run to first exit");
    Ok(phases)
}

/// The code, and tables that map the first GiB to itself.
fn prepare(memory: &GuestMemoryMmap) -> Result<(), Failure> {
    const TABLE: u64 = 3; // present, writable
    const LARGE: u64 = 0x83; // and a large page
    memory.write_slice(&CODE, GuestAddress(CODE_ADDRESS))?;
    memory.write_obj(TABLES[1] | TABLE, GuestAddress(TABLES[0]))?;
    memory.write_obj(TABLES[2] | TABLE, GuestAddress(TABLES[1]))?;
    memory.write_obj(LARGE, GuestAddress(TABLES[2]))?;
    Ok(())
}
