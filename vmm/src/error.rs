//! Why a virtual machine could not be run to its end.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::loader::ImageError;
use crate::memory::MemoryError;

/// A failure of Airlock, the host or the guest kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no KVM.
    #[error(
        "this host has no usable /dev/kvm: load the kvm module of its processor, enable virtualisation in the \
         firmware, or pass the device into the container"
    )]
    NoKvm,
    /// KVM is there, for others.
    #[error(
        "no permission to open /dev/kvm: add yourself to the group that owns it, usually `kvm`, and log in again"
    )]
    KvmForbidden,
    /// Another interface.
    #[error(
        "/dev/kvm speaks version {found} of the KVM interface, not 12: use another host kernel"
    )]
    KvmVersion {
        /// What KVM_GET_API_VERSION returned.
        found: i32,
    },
    /// KVM lacks something that every machine needs.
    #[error("the host's KVM lacks {name}: use a newer host kernel")]
    MissingCapability {
        /// Name in KVM's documentation.
        name: &'static str,
    },
    /// More vCPUs than KVM allows.
    #[error(
        "the host's KVM allows {limit} vCPUs in a virtual machine, not {wanted} (use a smaller --cpus)"
    )]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What KVM allows.
        limit: usize,
    },
    /// KVM refused something.
    #[error("cannot {doing}: {source}")]
    Kvm {
        /// What was being done.
        doing: &'static str,
        /// What KVM said.
        source: io::Error,
    },
    /// The host refused something.
    #[error("cannot {doing}: {source}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The kernel image cannot be read.
    #[error("cannot read the guest kernel {}: {source}", path.display())]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The kernel image is not one.
    #[error("cannot start the guest kernel{}: {source}", path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    KernelImage {
        /// The file, unless it is the embedded kernel.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: ImageError,
    },
    /// Guest memory cannot be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A thread could not be confined.
    #[error("cannot confine the {thread} thread with seccomp: {reason}")]
    Seccomp {
        /// Kind of thread.
        thread: &'static str,
        /// What was refused.
        reason: String,
    },
    /// A shared directory cannot be served.
    #[error("cannot share {}: {reason}", host.display())]
    Volume {
        /// The directory.
        host: PathBuf,
        /// What its server said.
        reason: String,
    },
    /// The guest kernel panicked, and said this.
    #[error("the guest kernel panicked: {}", last_words(text))]
    KernelPanic {
        /// The end of what it wrote to the serial port.
        text: String,
    },
    /// The guest kernel wrote a word to the exit device that means nothing.
    #[error(
        "the guest kernel ended the machine with {word:02x?}, which means nothing: it is broken"
    )]
    BadExit {
        /// What it wrote.
        word: Vec<u8>,
    },
    /// The guest kernel asked for its processor state in a place or form that cannot be.
    #[error(
        "the guest kernel saves or loads its processor state at guest-physical {address:#x}, which is no \
         page of RAM with a valid state; this is a bug in the kernel"
    )]
    BadStatePage {
        /// Guest-physical address.
        address: u64,
    },
    /// The guest cannot go on.
    #[error("vCPU {cpu} of the guest crashed: {reason} at rip {rip:#x}{}", Instruction(bytes))]
    GuestCrash {
        /// Index of the vCPU.
        cpu: u8,
        /// What happened.
        reason: String,
        /// Where.
        rip: u64,
        /// The instruction and what follows, as far as known.
        bytes: Vec<u8>,
    },
}

/// What a kernel wrote, without the trailing newline, or that it wrote nothing.
fn last_words(text: &str) -> &str {
    match text.trim_end() {
        "" => "it did not say why",
        words => words,
    }
}

struct Instruction<'a>(&'a [u8]);

impl fmt::Display for Instruction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() {
            f.write_str(", instruction bytes")?;
        }
        self.0.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}
