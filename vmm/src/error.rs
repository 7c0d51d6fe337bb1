//! Why a virtual machine could not be run to its end.

/// A failure of Airlock, the host or the guest kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine cannot be built yet.
    #[error("cannot run the virtual machine: this build has no virtual machine yet")]
    Unfinished,
}
