//! `--strace`: what a call was asked, what it answered, and the strings and buffers that its arguments
//! point to.
//!
//! A record is handed over before the program goes on, so that the trace is complete however the
//! program ends.

mod record;
#[cfg(target_os = "none")]
mod sending;

#[cfg(target_os = "none")]
pub use sending::*;
