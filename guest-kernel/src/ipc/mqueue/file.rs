//! A message queue as an open file: what it tells when it is read, and polling.

use super::Queue;
use super::queue::{Notice, Notification, Status};
use crate::errno::{Errno, Result};
use crate::fs::metadata::{Metadata, S_IFREG, devices};
use crate::fs::stream::{Events, Stream, StreamRef};
use crate::memory::UserWriter;
use crate::sched::WaitQueue;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The size that a queue's file has (Linux: `FILENT_SIZE`).
const FILE_SIZE: u64 = 80;
/// `SIGEV_NONE`; `SIGEV_SIGNAL` is 0.
const SIGEV_NONE: u8 = 1;

/// An open queue.
pub struct Descriptor {
    queue: Arc<Queue>,
    /// How much of its text was read.
    offset: AtomicUsize,
}

impl Descriptor {
    /// The stream of a new open file.
    pub fn open(queue: Arc<Queue>) -> StreamRef {
        StreamRef::Shared(Arc::new(Self { queue, offset: AtomicUsize::new(0) }))
    }

    /// The queue.
    pub const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    fn text(&self) -> alloc::string::String {
        let Status { bytes, notification, .. } = self.queue.status();
        let (kind, signal) = match notification.map(|notification| notification.notice) {
            Some(Notice::None) => (SIGEV_NONE, 0),
            Some(Notice::Signal(signal, _)) => (0, signal),
            None => (0, 0),
        };
        let pid = notification.map_or(0, |Notification { pid, .. }| pid);
        alloc::format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n")
    }
}

impl Stream for Descriptor {
    fn read(&self, buffer: &mut UserWriter, _wait: bool) -> Result<usize> {
        let text = self.text();
        let offset = self.offset.load(Ordering::Relaxed).min(text.len());
        let count = buffer.write_slice(&text.as_bytes()[offset..])?;
        self.offset.store(offset + count, Ordering::Relaxed);
        Ok(count)
    }

    fn metadata(&self) -> Metadata {
        let Status { touched, unlinked, .. } = self.queue.status();
        Metadata {
            device: devices::MQUEUE,
            number: self.queue.number,
            mode: S_IFREG | self.queue.permissions().load(Ordering::Relaxed),
            links: if unlinked { 0 } else { 1 },
            user: self.queue.owner.0,
            group: self.queue.owner.1,
            size: FILE_SIZE,
            accessed: touched,
            modified: touched,
            changed: touched,
            ..Metadata::default()
        }
    }

    fn set_permissions(&self, mode: u32) -> Result<()> {
        self.queue.permissions().store(mode, Ordering::Relaxed);
        Ok(())
    }

    fn name(&self) -> Vec<u8> {
        let mut name = Vec::from(b"/");
        name.extend_from_slice(self.queue.name());
        if self.queue.status().unlinked {
            name.extend_from_slice(b" (deleted)");
        }
        name
    }

    fn poll(&self) -> Events {
        self.queue.events()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.queue.changed())
    }

    fn closed_by(&self, pid: i32) {
        self.queue.forget_notification(pid);
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn write_kernel(&self, _bytes: &[u8], _wait: bool) -> Result<usize> {
        Err(Errno::EINVAL)
    }
}
