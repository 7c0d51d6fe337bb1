//! What depends on the processor.

#[cfg(target_os = "none")]
mod x86_64;
#[cfg(target_os = "none")]
pub use x86_64::*;

/// On the host, for tests: a program's memory is the test's own.
#[cfg(not(target_os = "none"))]
pub mod copy {
    /// Copies `len` bytes; returns how many were not copied.
    ///
    /// # Safety
    /// Both sides are valid: there is no one here to catch a fault.
    pub unsafe fn copy(target: *mut u8, source: *const u8, len: usize) -> usize {
        // SAFETY: by the contract.
        unsafe { core::ptr::copy(source, target, len) };
        0
    }
}
