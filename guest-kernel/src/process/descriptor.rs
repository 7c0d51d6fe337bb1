//! Descriptors that stand for processes (`pidfd_open(2)`).

use super::{Process, find};
use crate::fs::metadata::Metadata;
use crate::fs::stream::{Events, Seek, Stream};
use crate::sched::WaitQueue;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// What a descriptor for a process refers to: that process, also when another has its id.
pub struct ProcessFile(Arc<Process>);

impl ProcessFile {
    /// For this process.
    pub fn new(process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self(process))
    }

    /// The process, unless it was waited for.
    pub fn process(&self) -> Option<&Arc<Process>> {
        find(self.0.pid).filter(|known| Arc::ptr_eq(known, &self.0)).map(|_| &self.0)
    }
}

impl Stream for ProcessFile {
    fn poll(&self) -> Events {
        Events::IN.when(self.0.is_zombie())
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.end_events)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        crate::fs::event::metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:[pidfd]")
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
