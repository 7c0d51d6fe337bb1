//! What can be wrong with a root image that a user asks for.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::path::GuestPath;

/// Why a root image cannot be built.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The path does not name a place in the guest.
    #[error("the guest path '{path}' {reason}")]
    GuestPath {
        /// The path, as the user wrote it.
        path: GuestPath,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two different files have the same path in the guest.
    #[error("'{0}' in the guest is given twice, with different contents")]
    Duplicate(GuestPath),
    /// A file is where a directory has to be, or the other way round.
    #[error("'{0}' in the guest is given both as a directory and as something else")]
    NotADirectory(GuestPath),
    /// A file of the host cannot be used.
    #[error("cannot read '{path}': {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// Only files, directories and symbolic links can be in an image.
    #[error("cannot add '{0}' to the guest: it is neither a regular file nor a directory")]
    SpecialFile(PathBuf),
    /// The file became shorter while it was read.
    #[error("cannot read '{0}': it changed at the same time")]
    Changed(PathBuf),
    /// The files do not fit into the space that the guest has for them.
    #[error("the program and the files given with --file have more than {limit} GiB together")]
    TooLarge {
        /// How much would fit.
        limit: u64,
    },
}
