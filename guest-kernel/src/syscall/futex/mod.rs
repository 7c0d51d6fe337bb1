//! futex(2): waiting until a word of memory may have changed; and what a thread leaves behind of it.
//!
//! A futex is known by where its word is: in a `MAP_SHARED` page by its guest-physical address, else
//! by address space and address. Waiters are in a table of buckets, by a hash of that. Locks with priority
//! inheritance ([`pi`]) have lists of their own ([`ownership`]).

#[cfg(target_os = "none")]
mod operations;
#[cfg(any(test, target_os = "none"))]
mod ownership;
#[cfg(target_os = "none")]
mod pi;
#[cfg(target_os = "none")]
mod waitv;

#[cfg(target_os = "none")]
pub use operations::*;
#[cfg(target_os = "none")]
pub use pi::priority_changed;
#[cfg(target_os = "none")]
pub use waitv::futex_waitv;
