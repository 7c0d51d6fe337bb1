//! `RLIMIT_FSIZE`: how long a program may make files (getrlimit(2)).

use super::services::services;
use super::source::Source;
use crate::errno::{Errno, Result};

fn limit() -> u64 {
    services().map_or(u64::MAX, |services| services.file_size_limit())
}

/// The program went too far: it gets SIGXFSZ besides the error.
fn refuse() -> Errno {
    if let Some(services) = services() {
        services.file_too_large();
    }
    Errno::EFBIG
}

/// Shortens a write at `offset` to what the limit leaves.
///
/// # Errors
/// EFBIG if that is nothing.
pub fn clip(offset: u64, data: &mut impl Source) -> Result<()> {
    let limit = limit();
    if limit == u64::MAX {
        return Ok(());
    }
    let Some(room) = limit.checked_sub(offset).filter(|&room| room > 0) else {
        return Err(refuse());
    };
    data.limit(usize::try_from(room).unwrap_or(usize::MAX));
    Ok(())
}

/// Whether a file of `old` bytes may get `new`.
///
/// # Errors
/// EFBIG.
pub fn check(old: u64, new: u64) -> Result<()> {
    if new > old && new > limit() { Err(refuse()) } else { Ok(()) }
}
