//! Where the guest's records of system calls go.

use std::io;

/// Takes the bytes that the kernel transmits on `airlock_abi::console::PORT_TRACE`.
///
/// They come from the guest: nothing about them may be believed.
pub trait TraceSink: Send {
    /// Takes one or more whole records (`airlock_abi::trace`).
    ///
    /// # Errors
    ///
    /// When they make no sense or cannot be written; the guest gets the error number.
    fn records(&mut self, bytes: &[u8]) -> io::Result<()>;
}
