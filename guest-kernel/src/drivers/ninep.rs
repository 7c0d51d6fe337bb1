//! virtio-9p: carries messages between a volume's file system and its server on the host.
//!
//! One request is with the device at a time. A page fault cannot sleep, and so must not wait for a thread
//! that does: whoever looks at the queue finishes what is finished there, for whomever it was.

use super::virtio::{Buffer, Queue, Registers};
use crate::boot;
use crate::errno::{Errno, Result};
use crate::fs::ninep::{Piece, Transport};
use crate::memory::PhysAddr;
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use airlock_abi::boot::flags;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

/// `VIRTIO_9P_F_MOUNT_TAG`.
const F_MOUNT_TAG: u32 = 1;
/// More finished requests than threads that wait for one there are not; a list that is full waits.
const FINISHED: usize = 64;

struct State {
    queue: Queue,
    /// Whose request is with the device.
    in_flight: Option<u64>,
    /// Requests that are done, with the lengths of their answers.
    finished: Vec<(u64, u32)>,
    next: u64,
}

impl State {
    /// Notes that the device is done with a request, if it is.
    fn look(&mut self) {
        if self.finished.len() < FINISHED
            && let Some(ticket) = self.in_flight
            && let Some(len) = self.queue.take_used()
        {
            self.finished.push((ticket, len));
            self.in_flight = None;
        }
    }

    fn claim(&mut self, ticket: u64) -> Option<u32> {
        let at = self.finished.iter().position(|&(done, _)| done == ticket)?;
        Some(self.finished.swap_remove(at).1)
    }
}

/// A device.
pub struct Channel {
    registers: Registers,
    state: SpinLock<State>,
    waiters: WaitQueue,
    next: Option<&'static Channel>,
}

/// All devices, last found first.
static CHANNELS: AtomicPtr<Channel> = AtomicPtr::new(core::ptr::null_mut());

fn channels() -> Option<&'static Channel> {
    // SAFETY: what is published there is never freed.
    unsafe { CHANNELS.load(Ordering::Acquire).as_ref() }
}

impl Channel {
    /// Starts the device at this address; returns it with its tag.
    ///
    /// # Errors
    /// ENODEV if it does not agree, ENOMEM.
    pub fn start(base: u64, line: u32) -> Result<(&'static Self, Vec<u8>)> {
        let registers = Registers::of_started(PhysAddr(base), line);
        registers.negotiate(F_MOUNT_TAG)?;
        let queue = registers.enable_queue(0)?;
        registers.start();
        let length = registers.config_u16(0);
        let tag = (0..u64::from(length)).map(|at| registers.config_u8(2 + at)).collect();
        let state =
            State { queue, in_flight: None, finished: Vec::with_capacity(FINISHED), next: 0 };
        let (state, waiters) = (SpinLock::new(state), WaitQueue::new());
        // A mount lasts as long as the kernel.
        let channel = Box::leak(Box::new(Self { registers, state, waiters, next: channels() }));
        CHANNELS.store(channel, Ordering::Release);
        Ok((channel, tag))
    }
}

/// Wakes those who wait, if the interrupt is a volume's.
pub fn interrupt(line: u32) {
    let mut next = channels();
    while let Some(channel) = next {
        if channel.registers.line() == line {
            channel.registers.acknowledge_interrupt();
            channel.waiters.wake_sleepers();
        }
        next = channel.next;
    }
}

impl Transport for Channel {
    fn exchange(&self, request: &[Piece], answer: &[Piece], may_sleep: bool) -> Result<usize> {
        if request.len() + answer.len() > usize::from(Queue::SIZE) {
            return Err(Errno::EIO);
        }
        let mut buffers = Vec::new();
        let count = request.len() + answer.len();
        buffers.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        let buffer = |writable| {
            move |piece: &Piece| Buffer { address: piece.address, len: piece.len, writable }
        };
        buffers.extend(request.iter().map(buffer(false)));
        buffers.extend(answer.iter().map(buffer(true)));
        let mut ticket = None;
        let mut step = || {
            let mut state = self.state.lock();
            state.look();
            let mine = *ticket.get_or_insert_with(|| {
                state.next += 1;
                state.next
            });
            if !buffers.is_empty() {
                if state.in_flight.is_some() {
                    return None;
                }
                state.in_flight = Some(mine);
                state.queue.submit(core::mem::take(&mut buffers).into_iter(), true);
                state.look();
            }
            state.claim(mine)
        };
        let sleeps = may_sleep && boot::has_flag(flags::MSI) && crate::process::exists();
        let len = if sleeps {
            sched::wait_in_any_case(&self.waiters, step)
        } else {
            loop {
                if let Some(len) = step() {
                    break len;
                }
                crate::arch::cpu::relax();
            }
        };
        // Others may wait for their turn, or for what was seen here to be finished.
        self.waiters.wake_sleepers();
        usize::try_from(len).map_err(|_| Errno::EIO)
    }
}
