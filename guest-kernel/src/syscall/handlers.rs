//! All handlers, by the names in the list.

#[cfg(target_os = "none")]
pub use super::deliver::rt_sigreturn;
pub use super::identity::*;
pub use super::memory::*;
pub use super::process::*;
#[cfg(target_os = "none")]
pub use super::signal::*;
pub use super::system::*;
pub use super::time::*;
