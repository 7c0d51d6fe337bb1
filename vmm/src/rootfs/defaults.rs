//! What a container image says about how to run it, kept behind the image of its files.
//!
//! An EROFS image says how many blocks it has. What follows them is nobody's: Linux does not look at
//! it, and neither does the guest kernel, which gets to see the blocks alone. There a packed image has
//! a [`Defaults`] as JSON, so that it can be one file, written at one go.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// What this begins with.
const MAGIC: &[u8; 16] = b"airlock-run-v1\0\n";
/// More is not read.
const LIMIT: u64 = 4 << 20;

/// How a program in a root file system is run unless the command line says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// What arguments are arguments of.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Program and arguments, or those of the entry point, if the command line has none.
    #[serde(default)]
    pub command: Vec<String>,
    /// Variables, as `NAME=VALUE`.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Working directory; empty is the root.
    #[serde(default)]
    pub directory: String,
    /// User ID.
    #[serde(default)]
    pub user: u32,
    /// Group ID.
    #[serde(default)]
    pub group: u32,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The user's home directory; empty is root's.
    #[serde(default)]
    pub home: String,
}

impl Defaults {
    /// What is written behind an image; nothing if there is nothing to say.
    pub fn encode(&self) -> Vec<u8> {
        if *self == Self::default() {
            return Vec::new();
        }
        let mut bytes = MAGIC.to_vec();
        // Strings and numbers always have a form in JSON.
        bytes.extend(serde_json::to_vec(self).unwrap_or_default());
        bytes
    }

    /// Reads it from behind the blocks of an image of the given length.
    ///
    /// # Errors
    ///
    /// Those of reading, and if what is there begins rightly and goes on wrongly.
    pub fn read(file: &File, end: u64, length: u64) -> io::Result<Self> {
        let size = length.saturating_sub(end);
        if size <= MAGIC.len() as u64 || size > LIMIT {
            return Ok(Self::default());
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut bytes, end)?;
        match bytes.strip_prefix(MAGIC) {
            Some(json) => serde_json::from_slice(json).map_err(io::Error::other),
            None => Ok(Self::default()),
        }
    }
}
