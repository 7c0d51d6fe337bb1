//! What waits at a socket to be read.

use super::data::Data;
use super::flight::{self, Rights};
use super::{Identity, Socket};
use alloc::boxed::Box;
use alloc::sync::Arc;

/// A message, or a piece of a stream.
pub struct Packet {
    /// Tells it from other packets of the same socket.
    pub number: u64,
    /// The bytes; elsewhere while someone copies them.
    pub data: Data,
    /// How many of them were read.
    pub start: usize,
    /// How many there are.
    pub len: usize,
    /// Who sent it, and has it count against its buffer.
    pub sender: Arc<Socket>,
    /// How much it counts for.
    pub charge: usize,
    /// The process that sent it, if someone wanted to know when it did.
    pub identity: Option<Identity>,
    /// Open files that go along.
    pub rights: Option<Box<Rights>>,
}

impl Drop for Packet {
    fn drop(&mut self) {
        self.sender.credit(self.charge);
        if let Some(rights) = self.rights.take() {
            flight::discard(rights);
        }
    }
}
