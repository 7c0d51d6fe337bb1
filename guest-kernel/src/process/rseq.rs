//! What the kernel knows of a thread's restartable sequences (rseq(2)).

use super::Thread;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Of a thread that has no concurrency id.
const NONE: u32 = u32::MAX;

/// The area that a thread has registered. Only the thread itself changes it; what is noted of switches,
/// whoever switches to it.
pub struct Rseq {
    /// Where the area is (guest-virtual); 0 for none.
    area: AtomicU64,
    length: AtomicU32,
    signature: AtomicU32,
    /// It was switched to since the area was last looked at.
    switched: AtomicBool,
    /// Its id among those that run with its address space; [`NONE`] unless it runs.
    concurrency_id: AtomicU32,
}

/// A registered area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqArea {
    /// Where it is (guest-virtual).
    pub address: u64,
    /// How long, as the program said.
    pub length: u32,
    /// What is in front of each abort handler.
    pub signature: u32,
}

impl Rseq {
    /// Nothing is registered.
    pub(super) const fn new() -> Self {
        Self {
            area: AtomicU64::new(0),
            length: AtomicU32::new(0),
            signature: AtomicU32::new(0),
            switched: AtomicBool::new(false),
            concurrency_id: AtomicU32::new(NONE),
        }
    }

    /// The registered area.
    #[inline]
    pub fn area(&self) -> Option<RseqArea> {
        let address = self.area.load(Ordering::Relaxed);
        (address != 0).then(|| RseqArea {
            address,
            length: self.length.load(Ordering::Relaxed),
            signature: self.signature.load(Ordering::Relaxed),
        })
    }

    /// Registers an area, or none.
    pub fn register(&self, area: Option<RseqArea>) {
        let area = area.unwrap_or(RseqArea { address: 0, length: 0, signature: 0 });
        self.area.store(area.address, Ordering::Relaxed);
        self.length.store(area.length, Ordering::Relaxed);
        self.signature.store(area.signature, Ordering::Relaxed);
        self.switched.store(false, Ordering::Relaxed);
    }

    /// The thread gets a vCPU; whether its area has to be looked at before it goes on.
    #[inline]
    pub fn note_switch(&self) -> bool {
        let registered = self.area.load(Ordering::Relaxed) != 0;
        if registered {
            self.switched.store(true, Ordering::Relaxed);
        }
        registered
    }

    /// Whether that was noted; not any more.
    #[inline]
    pub fn take_switch(&self) -> bool {
        self.switched.load(Ordering::Relaxed) && self.switched.swap(false, Ordering::Relaxed)
    }
}

impl Thread {
    /// The running thread's id among those that run with its address space.
    pub fn concurrency_id(&self) -> u32 {
        let slot = &self.rseq.concurrency_id;
        let mut id = slot.load(Ordering::Relaxed);
        if id == NONE {
            // SAFETY: the thread runs a program, so that its process has memory.
            let ids = &unsafe { self.process.memory.get() }.concurrency_ids;
            // There are more of them than vCPUs.
            id = ids.take().unwrap_or(0);
            slot.store(id, Ordering::Relaxed);
        }
        id
    }

    /// The thread leaves its vCPU, or its address space: others may have its id.
    #[inline]
    pub fn release_concurrency_id(&self) {
        let id = self.rseq.concurrency_id.load(Ordering::Relaxed);
        if id != NONE {
            self.rseq.concurrency_id.store(NONE, Ordering::Relaxed);
            // SAFETY: a thread gives up its id before its address space.
            unsafe { self.process.memory.get() }.concurrency_ids.release(id);
        }
    }
}
