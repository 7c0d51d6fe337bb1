//! Images that were packed before. A name is the digest of what tells the source from any other; what has
//! the name is complete, since it got the name last. So any number of runs can pack at the same time.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::error::{RootfsError, reading, writing};
use super::output::Output;

/// Changes when the same source would make another image.
const FORMAT: &[u8] = b"airlock image 1";

fn directory() -> Result<PathBuf, RootfsError> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map(|directory| directory.join("airlock"))
        .ok_or(RootfsError::NoCache)
}

/// The image of the source with this key, packed if there is none.
///
/// # Errors
///
/// If the cache cannot be written; those of `pack`.
pub fn image(
    key: &[&[u8]],
    pack: impl FnOnce(&mut Output) -> Result<(), RootfsError>,
) -> Result<File, RootfsError> {
    let mut hash = Sha256::new();
    hash.update(FORMAT);
    for part in key {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = directory()?;
    let path = directory.join(name).with_extension("erofs");
    match File::open(&path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(reading(&path)(error)),
    }
    // Others have no business with what is in someone's root file systems.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(writing(&directory))?;
    let mut output = Output::create(&path)?;
    pack(&mut output)?;
    output.finish()
}
