//! Devices. None of them knows KVM: each is generic over how it signals.

pub mod serial;
pub mod virtio;
