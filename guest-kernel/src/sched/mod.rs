//! Threads that run, threads that wait, and who is next.
//!
//! * [`queue`]: those who wait for one kind of event
//! * `waiting`: how a thread waits
//! * [`run`]: run queues, and the switch from one thread to another
//! * `stack`: kernel stacks
//! * [`watch`]: being told of wake-ups without waiting
//! * [`turn`]: mutual exclusion for what may take long
//! * `cpus`: the other vCPUs
//!
//! Ring 0 runs with interrupts off; they are taken in ring 3 and where a vCPU has nothing to do, when
//! no lock is held.

#[cfg(target_os = "none")]
pub mod cpus;
#[cfg(not(target_os = "none"))]
mod host;
pub mod queue;
pub mod run;
#[cfg(target_os = "none")]
pub mod stack;
pub mod turn;
#[cfg(target_os = "none")]
mod waiting;
pub mod watch;

#[cfg(not(target_os = "none"))]
pub use host::{wait, wait_in_any_case, wait_killable};
pub use queue::WaitQueue;
#[cfg(target_os = "none")]
pub use waiting::{wait, wait_in_any_case, wait_killable};
