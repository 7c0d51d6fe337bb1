//! All handlers, by the names in the list.

pub use super::attributes::*;
#[cfg(target_os = "none")]
pub use super::clone::*;
#[cfg(target_os = "none")]
pub use super::deliver::rt_sigreturn;
pub use super::descriptor::*;
pub use super::directory::*;
pub use super::epoll::*;
pub use super::event::*;
#[cfg(target_os = "none")]
pub use super::exec::*;
#[cfg(target_os = "none")]
pub use super::futex::{futex, get_robust_list, set_robust_list};
pub use super::identity::*;
pub use super::inotify::*;
pub use super::locks::flock;
#[cfg(target_os = "none")]
pub use super::machine::*;
pub use super::memory::*;
pub use super::message::*;
pub use super::msg::*;
pub use super::open::*;
pub use super::pipe::*;
pub use super::poll::*;
pub use super::process::*;
pub use super::read_write::*;
pub use super::sem::*;
pub use super::shm::*;
#[cfg(target_os = "none")]
pub use super::signal::*;
pub use super::socket::*;
pub use super::status::*;
pub use super::system::*;
pub use super::time::*;
#[cfg(target_os = "none")]
pub use super::wait::*;
