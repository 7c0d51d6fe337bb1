//! What can be wrong with the source of a root file system.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::image::ImageError;

/// Why a root file system cannot be made or used.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// A file of the host cannot be read.
    #[error("cannot read '{path}': {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The image cannot be written.
    #[error("cannot write '{path}': {source}")]
    Write {
        /// The image, or the directory where it was to be.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// It is none of the formats.
    #[error(
        "'{0}' is no root file system: not a directory, EROFS image, tar archive (plain, gzip, zstd), OCI layout or docker archive"
    )]
    Unknown(PathBuf),
    /// The root of the host.
    #[error(
        "the host's / as a root file system is not possible; name a directory below it, an image or an archive"
    )]
    HostRoot,
    /// An EROFS image that the guest kernel could not use.
    #[error("'{path}' is an EROFS image that {reason}")]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An archive contradicts its format.
    #[error("'{path}' is damaged: {reason}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A member of an archive cannot be in an image.
    #[error("'{path}' has a member '{member}', {reason}")]
    Member {
        /// The archive.
        path: PathBuf,
        /// The member.
        member: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A container image that cannot be used as it is.
    #[error("'{path}' {reason}")]
    Container {
        /// The container image.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file changed after the directory was listed.
    #[error("'{0}' changed while it was packed")]
    Changed(PathBuf),
    /// There is no place for the cache.
    #[error("there is no place for the cache of images: neither XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// The image cannot be laid out.
    #[error(transparent)]
    Layout(#[from] ImageError),
}

/// Makes an error of one of reading this file.
pub fn reading(path: &Path) -> impl Fn(io::Error) -> RootfsError + '_ {
    move |source| RootfsError::Read { path: path.to_owned(), source }
}

/// Makes an error of what a library finds wrong with the format of this file.
pub fn damaged(path: &Path) -> impl Fn(io::Error) -> RootfsError + '_ {
    move |error| RootfsError::Damaged { path: path.to_owned(), reason: one_line(&error) }
}

/// One error of the libraries, whose messages may have several parts, as one line.
fn one_line(error: &io::Error) -> String {
    let text = error.to_string();
    if error.kind() == io::ErrorKind::UnexpectedEof || text.contains("unexpected EOF") {
        return "it ends in the middle".to_owned();
    }
    text.replace('\n', " ")
}

/// Makes an error of one of writing this file.
pub fn writing(path: &Path) -> impl Fn(io::Error) -> RootfsError + '_ {
    move |source| RootfsError::Write { path: path.to_owned(), source }
}
