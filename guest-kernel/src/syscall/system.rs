//! The machine's name: uname(2).

use crate::errno::Result;
use crate::memory::UserPtr;

/// What `uname -r` says: the version of Linux whose interface this is.
pub const RELEASE: &str = "6.1.0-airlock";
/// What `uname -v` says.
pub const VERSION: &str = concat!("#1 SMP Airlock ", env!("CARGO_PKG_VERSION"));
/// The machine's name.
pub const HOST_NAME: &str = "airlock";

/// `uname(2)`.
///
/// # Errors
/// EFAULT.
pub fn uname(name: UserPtr<[u8; 390]>) -> Result<()> {
    let mut fields = [0; 390];
    for (field, text) in
        fields.chunks_exact_mut(65).zip(["Linux", HOST_NAME, RELEASE, VERSION, "x86_64", "(none)"])
    {
        let count = text.len().min(64);
        field[..count].copy_from_slice(&text.as_bytes()[..count]);
    }
    name.write(fields)
}
