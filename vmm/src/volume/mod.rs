//! Directories of the host that a guest shares (`--volume`).
//!
//! Each is served in 9P2000.L by a process of its own, which holds that directory and nothing else:
//! `process` starts and confines it, `server` answers, `host` makes the system calls, `wire` is the
//! protocol's encoding. The guest reaches it through a virtio-9p device, which passes messages on
//! and looks at none of them.

mod host;
mod landlock;
mod process;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;

pub use process::{Connection, start};
pub use server::MAX_MESSAGE;

/// A number of errno(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// A directory to share.
#[derive(Debug)]
pub struct Volume {
    /// Its name on the host, for messages.
    pub host: PathBuf,
    /// The directory, opened with `O_PATH`.
    pub directory: File,
    /// Where the guest has it: an absolute path.
    pub guest: Vec<u8>,
    /// The guest may not change it.
    pub read_only: bool,
}
