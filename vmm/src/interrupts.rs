//! Device interrupts: edge-triggered MSIs to the first vCPU, each behind an eventfd.
//!
//! There is no I/O APIC and no pin: KVM routes each interrupt number to a message
//! (`airlock_abi::layout::IRQ_VECTOR_BASE`), and a write to its irqfd sends it.

use airlock_abi::layout::{IRQ_VECTOR_BASE, VIRTIO_MMIO_IRQ_BASE};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Where MSIs are written, for the local APIC with id 0 (SDM volume 3, section 12.11.1).
const MSI_ADDRESS: u32 = 0xfee0_0000;

fn message(irq: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi: irq, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    // Fixed delivery, edge-triggered, physical destination: all of these are zeroes (section 12.11.2).
    entry.u.msi.address_lo = MSI_ADDRESS;
    entry.u.msi.data = IRQ_VECTOR_BASE + irq;
    entry
}

/// Makes an interrupt for each of `count` devices.
///
/// # Errors
///
/// When KVM or the host refuses.
pub fn connect(vm: &VmFd, count: usize) -> Result<Vec<EventFd>, errno::Error> {
    let irqs = (VIRTIO_MMIO_IRQ_BASE..).take(count);
    let messages: Vec<_> = irqs.clone().map(message).collect();
    let routing =
        KvmIrqRouting::from_entries(&messages).map_err(|_| errno::Error::new(libc::ENOMEM))?;
    vm.set_gsi_routing(&routing)?;
    irqs.map(|irq| {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        vm.register_irqfd(&event, irq)?;
        Ok(event)
    })
    .collect()
}
