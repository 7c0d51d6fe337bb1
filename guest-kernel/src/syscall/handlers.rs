//! All handlers, by the names in the list.

pub use super::attributes::*;
pub use super::capability::{capget, capset};
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
pub use super::futex::{futex, futex_waitv, get_robust_list, set_robust_list};
pub use super::identity::*;
pub use super::inotify::*;
pub use super::locks::flock;
#[cfg(target_os = "none")]
pub use super::machine::*;
pub use super::memory::*;
pub use super::memory_lock::{mlock, mlock2, mlockall, munlock, munlockall};
pub use super::message::*;
pub use super::mount::*;
pub use super::mqueue::*;
pub use super::msg::*;
pub use super::open::*;
pub use super::pipe::*;
pub use super::poll::*;
pub use super::prctl::*;
pub use super::process::*;
#[cfg(target_os = "none")]
pub use super::process_file::{pidfd_getfd, pidfd_open, pidfd_send_signal};
#[cfg(target_os = "none")]
pub use super::process_memory::{process_vm_readv, process_vm_writev};
pub use super::read_write::*;
pub use super::resource::*;
#[cfg(target_os = "none")]
pub use super::rseq::rseq;
pub use super::schedule::*;
pub use super::sem::*;
pub use super::shm::*;
#[cfg(target_os = "none")]
pub use super::signal::*;
pub use super::socket::*;
pub use super::splice::*;
pub use super::status::*;
pub use super::system::*;
pub use super::time::*;
pub use super::timer::*;
#[cfg(target_os = "none")]
pub use super::wait::*;
