//! Threads that run, threads that wait, and who is next.
//!
//! * [`queue`]: those who wait for one kind of event
//! * `waiting`: how a thread waits
//! * [`task`]: a thread, as the scheduler sees it
//! * [`ready`]: in which order those that are ready run
//! * [`run`]: a queue of those for each vCPU
//! * `switch`: the switch from one thread to another
//! * `stack`: kernel stacks
//! * [`watch`]: being told of wake-ups without waiting
//! * [`turn`]: mutual exclusion for what may take long
//! * `cpus`: the other vCPUs
//!
//! Ring 0 runs with interrupts off; they are taken in ring 3 and where a vCPU has nothing to do, when
//! no lock is held.

#[cfg(target_os = "none")]
pub mod cpus;
pub mod queue;
pub mod ready;
/// Tests on the host have one thread.
#[cfg(not(target_os = "none"))]
#[path = "host.rs"]
pub mod run;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(target_os = "none")]
pub mod stack;
#[cfg(target_os = "none")]
pub mod switch;
pub mod task;
pub mod turn;
#[cfg(target_os = "none")]
mod waiting;
pub mod watch;

pub use queue::WaitQueue;
#[cfg(not(target_os = "none"))]
pub use run::{wait, wait_in_any_case, wait_killable};
#[cfg(target_os = "none")]
pub use waiting::{wait, wait_in_any_case, wait_killable};
