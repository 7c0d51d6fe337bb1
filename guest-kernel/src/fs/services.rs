//! What files need from the rest of the kernel: the clock, entropy and the console's ports.
//!
//! The layers above and beside this one give it as a [`Services`], once, so that everything here
//! can be tested without them.

use super::facts::{MachineFacts, ProcessFacts};
use super::metadata::Timestamp;
use super::tty::job::Jobs;
use crate::errno::Result;
use crate::memory::{UserReader, UserWriter};
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use alloc::sync::Arc;

/// Who makes a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// Process ID.
    pub pid: i32,
    /// Real user and group.
    pub real: (u32, u32),
    /// Effective user and group.
    pub effective: (u32, u32),
}

/// The rest of the kernel, seen from a file.
pub trait Services: Sync {
    /// The time of day, for time stamps.
    fn now(&self) -> Timestamp;

    /// Nanoseconds of `CLOCK_MONOTONIC`, for timeouts.
    fn monotonic_ns(&self) -> u64;

    /// Fills a buffer with random bytes that nobody can foresee.
    fn random(&self, bytes: &mut [u8]);

    /// Writes all of a program's bytes to a console port, waiting for the host to take them.
    ///
    /// # Errors
    /// What the host's `write` says, EFAULT, EINTR.
    fn console_write(&self, port: u32, data: &mut UserReader) -> Result<usize>;

    /// Writes all of the kernel's own bytes to a console port, waiting for the host to take them.
    ///
    /// # Errors
    /// What the host's `write` says.
    fn console_write_kernel(&self, port: u32, bytes: &[u8]) -> Result<usize>;

    /// Reads from a console port, waiting until there is anything; 0 at the end of the input.
    ///
    /// # Errors
    /// What the host's `read` says, EFAULT, EINTR.
    fn console_read(&self, port: u32, buffer: &mut UserWriter) -> Result<usize>;

    /// Whether [`Self::console_read`] would return at once.
    fn console_readable(&self, port: u32) -> bool;

    /// How many bytes of input have arrived at a port.
    ///
    /// # Errors
    /// EIO without a console.
    fn console_available(&self, port: u32) -> Result<usize>;
    /// Whom to wait with for [`Self::console_readable`] to change.
    fn console_queue(&self, port: u32) -> &WaitQueue;

    /// Shows bytes on the terminal; if `wait`, only returns when the host has taken them.
    ///
    /// # Errors
    /// What the host's `write` says, EAGAIN, EINTR.
    fn terminal_write(&self, bytes: &[u8], wait: bool) -> Result<()>;

    /// The terminal may have room for more of what the user typed.
    fn terminal_listen(&self);

    /// What terminals need of processes, if there are any.
    fn jobs(&self) -> Option<&'static dyn Jobs>;

    /// The program wrote to something that nobody reads: it gets SIGPIPE.
    fn broken_pipe(&self);

    /// A message has come into a queue: the process gets a signal with this value (`mq_notify(3)`).
    fn message_arrived(&self, pid: i32, signal: u8, value: u64);

    /// The process that makes the call.
    fn caller(&self) -> Caller;

    /// `RLIMIT_FSIZE` of the program; `u64::MAX` for none.
    fn file_size_limit(&self) -> u64;

    /// The program wanted to make a file larger than that: it gets SIGXFSZ.
    fn file_too_large(&self);

    /// A process or thread by its ID; 0 is the process that asks.
    fn process(&self, pid: u32) -> Option<Arc<dyn ProcessFacts>>;

    /// The ID of the thread that asks.
    fn thread_id(&self) -> u32;

    /// The lowest process ID from `pid` on.
    fn next_process(&self, pid: u32) -> Option<u32>;

    /// What /proc tells of the machine.
    fn machine(&self) -> MachineFacts;
}

static SERVICES: SpinLock<Option<&'static dyn Services>> = SpinLock::new(None);

/// Gives the file layer what it needs; before the first program starts.
pub fn install(services: &'static dyn Services) {
    *SERVICES.lock() = Some(services);
}

/// What was installed.
pub fn services() -> Option<&'static dyn Services> {
    *SERVICES.lock()
}

/// The time of day; 1970 until there is a clock.
pub fn now() -> Timestamp {
    services().map_or_else(Timestamp::default, Services::now)
}
