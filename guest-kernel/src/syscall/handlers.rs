//! All handlers, by the names in the list.

#[cfg(target_os = "none")]
pub use super::deliver::deliver_signals;
pub use super::memory::*;
pub use super::process::*;
