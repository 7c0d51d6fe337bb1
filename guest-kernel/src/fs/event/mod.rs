//! Files that are events: `eventfd(2)`, `timerfd_create(2)`.
//!
//! They are read and waited for like other files, and have neither a name nor a content.

mod eventfd;
mod timerfd;

pub use eventfd::EventCounter;
pub use timerfd::{Setting, TimerFile, TimerSetting};

use super::metadata::{Metadata, devices};
use crate::errno::{Errno, Result};
use crate::memory::UserWriter;

/// Inode number that all of them share.
const NUMBER: u64 = 0x400;

/// What `fstat(2)` tells of all of them: they have permissions and no type.
pub fn metadata() -> Metadata {
    Metadata {
        device: devices::ANONYMOUS,
        number: NUMBER,
        mode: 0o600,
        links: 1,
        ..Metadata::default()
    }
}

/// Copies out a counter, for which there has to be room.
fn write_count(buffer: &mut UserWriter, count: u64) -> Result<usize> {
    let bytes = count.to_ne_bytes();
    if buffer.write_slice(&bytes)? < bytes.len() { Err(Errno::EFAULT) } else { Ok(bytes.len()) }
}
