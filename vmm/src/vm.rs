//! The virtual machine as KVM sees it: no interrupt controllers but local APICs, and memory slots.

use std::io;
use std::os::unix::fs::FileTypeExt;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_MEM_READONLY, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::error::Error;
use crate::memory::Slot;

/// What a machine cannot do without, with the names of KVM's documentation.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// Opens `/dev/kvm`.
///
/// # Errors
///
/// When it is missing or forbidden, or speaks another version of the interface.
pub fn open_kvm() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::KvmForbidden,
        _ => Error::Kvm { doing: "open /dev/kvm", source: error.into() },
    })?;
    match kvm.get_api_version() {
        version if u32::try_from(version) == Ok(KVM_API_VERSION) => Ok(kvm),
        // Something else than KVM answers nothing sensible.
        _ if !is_character_device() => Err(Error::NoKvm),
        found => Err(Error::KvmVersion { found }),
    }
}

fn is_character_device() -> bool {
    std::fs::metadata("/dev/kvm").is_ok_and(|found| found.file_type().is_char_device())
}

/// Explains a failure of KVM: by a capability that is missing, if one is.
pub fn explain(kvm: &Kvm, doing: &'static str, source: io::Error) -> Error {
    match NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Error::MissingCapability { name },
        None => Error::Kvm { doing, source },
    }
}

/// Creates a virtual machine whose vCPUs have local APICs.
///
/// # Errors
///
/// When KVM refuses.
pub fn create(kvm: &Kvm) -> Result<VmFd, Error> {
    let vm = loop {
        match kvm.create_vm() {
            Ok(vm) => break vm,
            // A signal while KVM allocates; it says nothing about the machine.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(explain(kvm, "create a virtual machine", error.into())),
        }
    };
    // No I/O APIC, so no pins are reserved: all interrupts are messages.
    let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    vm.enable_cap(&split).map_err(|error| explain(kvm, "create local APICs", error.into()))?;
    Ok(vm)
}

/// Gives the machine its memory.
///
/// # Errors
///
/// When KVM refuses a slot.
///
/// # Safety
///
/// The slots must be memory of this process that stays mapped for as long as the machine exists, and
/// that this program treats as memory that others write at any time (unless a slot is read-only).
pub unsafe fn add_slots(kvm: &Kvm, vm: &VmFd, slots: &[Slot]) -> Result<(), Error> {
    for (number, slot) in (0..).zip(slots) {
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: if slot.read_only { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: slot.guest,
            memory_size: slot.size,
            userspace_addr: slot.host,
        };
        // SAFETY: the caller's promise is that of this call.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|error| explain(kvm, "give the virtual machine its memory", error.into()))?;
    }
    Ok(())
}
