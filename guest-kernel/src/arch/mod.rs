//! What depends on the processor.

#[cfg(target_os = "none")]
mod x86_64;
#[cfg(target_os = "none")]
pub use x86_64::*;

#[cfg(not(target_os = "none"))]
mod host;
#[cfg(not(target_os = "none"))]
pub use host::*;
