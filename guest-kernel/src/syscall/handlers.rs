//! All handlers, by the names in the list.

pub use super::attributes::*;
#[cfg(target_os = "none")]
pub use super::deliver::rt_sigreturn;
pub use super::descriptor::*;
pub use super::directory::*;
pub use super::identity::*;
#[cfg(target_os = "none")]
pub use super::machine::*;
pub use super::memory::*;
pub use super::message::*;
pub use super::open::*;
pub use super::pipe::*;
pub use super::poll::*;
pub use super::process::*;
pub use super::read_write::*;
#[cfg(target_os = "none")]
pub use super::signal::*;
pub use super::socket::*;
pub use super::status::*;
pub use super::system::*;
pub use super::time::*;
