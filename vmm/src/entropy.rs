//! Random bytes from the host.

use std::io;

/// Fills a buffer of up to 256 bytes, or the start of a longer one; returns how many bytes.
///
/// # Errors
///
/// When the host has none to give.
pub fn fill(buffer: &mut [u8]) -> io::Result<usize> {
    // Not `libc::getrandom`: std refers to that symbol weakly, link-time optimisation makes all references
    // weak, and then the linker finds no reason to take the function from the static libc.
    // SAFETY: the buffer is writable for its length.
    let filled =
        unsafe { libc::syscall(libc::SYS_getrandom, buffer.as_mut_ptr(), buffer.len(), 0) };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_differ_from_call_to_call() {
        let mut buffers = [[0; 32]; 2];
        for buffer in &mut buffers {
            assert_eq!(super::fill(buffer).ok(), Some(32));
        }
        assert_ne!(buffers[0], buffers[1]);
    }
}
