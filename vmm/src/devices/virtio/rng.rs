//! virtio-rng (virtio 1.2, section 5.4): random bytes from the host.

use std::os::fd::RawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vmm_sys_util::epoll::EventSet;

use super::queue::{QueueError, Queues};
use super::{Device, Progress};
use crate::entropy;

const QUEUE: usize = 0;
/// More than this is not given for one buffer; a driver that wants more asks again.
const MAX_BYTES: usize = 4096;
/// How many buffers are filled before others get their turn.
const TURN: usize = 16;

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

