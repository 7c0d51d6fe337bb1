//! What to run, and how it ended.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::volume::Volume;

/// A virtual machine and the program in it.
#[derive(Debug)]
pub struct Config {
    /// Bytes of guest memory; a multiple of 4096.
    pub memory: u64,
    /// Number of vCPUs, from 1 to 254 and to what KVM allows.
    pub cpus: u8,
    /// The guest kernel.
    pub kernel: KernelImage,
    /// The root file system that the program sees.
    pub root: RootImage,
    /// Directories of the host that the guest shares.
    pub volumes: Vec<Volume>,
    /// Path of the program in the guest, absolute or from its working directory: what it is told of
    /// itself (AT_EXECFN). One without a slash is looked for in the guest's `PATH`.
    pub program: Vec<u8>,
    /// `argv` including `argv[0]`.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, each string as `K=V`.
    pub environment: Vec<Vec<u8>>,
    /// Working directory: an absolute path in the guest.
    pub directory: Vec<u8>,
    /// Who the program is.
    pub identity: Identity,
    /// Standard input, output and error of the program are a terminal (`-t`).
    pub terminal: bool,
    /// How long the machine may run.
    pub timeout: Option<Duration>,
    /// Where a line for each system call goes, if anywhere.
    pub strace: Option<StraceTarget>,
    /// The guest kernel's log goes to standard error.
    pub verbose: bool,
}

/// User and groups of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// An ELF image of the guest kernel.
#[derive(Debug)]
pub enum KernelImage {
    /// Part of this executable; page-aligned, so that its read-only segments need no copy.
    Embedded(&'static [u8]),
    /// A file that the user named.
    File(PathBuf),
}

/// An EROFS image that is never assembled: pieces laid one after the other, each page-aligned and
/// padded with zeroes to a page.
#[derive(Debug, Default)]
pub struct RootImage {
    /// The pieces, first to last.
    pub pieces: Vec<Piece>,
}

/// A part of a [`RootImage`].
#[derive(Debug)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// The first `length` bytes of a file, mapped and not copied.
    File {
        /// The file; it must stay as long as it is.
        file: File,
        /// How many of its bytes belong to the image.
        length: u64,
    },
}

/// Where the lines of `--strace` go.
#[derive(Debug)]
pub enum StraceTarget {
    /// Standard error.
    Stderr,
    /// A file.
    File(File),
}

/// How a virtual machine ended, when nothing went wrong with the machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program exited with this status.
    Exited(u8),
    /// This signal killed the program.
    Signaled(u8),
    /// The program is not something that the kernel can execute: a number of errno(3).
    NotExecutable(u8),
    /// The program does not exist in the root image.
    NotFound,
    /// The interpreter or dynamic linker of the program does not exist in the root image.
    NoInterpreter,
    /// The root image cannot be mounted: a number of errno(3).
    NoRoot(u8),
    /// The working directory cannot be entered: a number of errno(3).
    NoDirectory(u8),
    /// The guest kernel could not mount a volume.
    NoVolume {
        /// Which of [`Config::volumes`].
        index: u8,
        /// The error number.
        error: u8,
    },
    /// The time limit ended the machine.
    TimedOut,
    /// A signal of this number to the VMM ended the machine.
    Interrupted(u8),
}
