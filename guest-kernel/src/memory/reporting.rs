//! Free page reporting: tells the host of frames that are free, so that it can use them for others
//! (virtio 1.2, section 5.5.6.7).
//!
//! Some time after much was freed, the single frames on the list of free ones are taken off it, 4 MiB at a
//! time, sorted, and reported where they make long enough runs: each run costs the host a call.
//! There is no tick for that: a timer runs only while there is something to report.

use super::frame;
use super::runs::{MIN_RUN, Runs, runs};
use super::{PAGE, PAGE_SIZE, PhysAddr};
use crate::arch::Cpu;
use crate::drivers::balloon;
use crate::sync::SpinLock;
use crate::time::{self, timers};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

/// What was freed is often used again at once: nanoseconds from then to the report.
const DELAY: u64 = 2 * time::NANOSECONDS;
/// Nanoseconds between the parts of a report.
const PAUSE: u64 = time::NANOSECONDS / 100;
/// How many frames a part looks at: their numbers fill a frame.
const BATCH: usize = PAGE_SIZE / size_of::<u32>();
/// After as many pauses a device that does not answer is left alone.
const PATIENCE: u32 = 100;

/// A report is due, and no timer runs for it yet.
static DUE: AtomicBool = AtomicBool::new(false);
/// It is time for a part of a report.
static IS_TIME: AtomicBool = AtomicBool::new(false);

struct Report {
    /// Numbers of the frames that are looked at.
    numbers: PhysAddr,
    in_flight: Runs,
    /// How long the device has been asked, in pauses.
    waited: u32,
}

enum State {
    Unknown,
    Absent,
    Present(Box<Report>),
}

static STATE: SpinLock<State> = SpinLock::new(State::Unknown);

/// Much was freed: sees to it that a report is made. Called wherever frames are freed.
pub fn ask() {
    DUE.store(true, Ordering::Relaxed);
    Cpu::current().request_work();
}

/// Does what there is to do now. Called where nothing is held, by who is idle or about to go back to ring 3:
/// not by the timer itself, as interrupts come to ring 0, which host B interprets.
pub fn attend() {
    let is_set =
        |flag: &AtomicBool| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed);
    if is_set(&DUE) {
        arm(DELAY);
    }
    if is_set(&IS_TIME) {
        // The way back from an interrupt is in ring 0.
        crate::arch::native::resume_if_used();
        if let Some(delay) = report_part() {
            arm(delay);
        }
    }
}

fn arm(delay: u64) {
    // Without memory for a timer there is no need for a report.
    if timers::arm(time::monotonic_ns() + delay, Arc::new(Turn)).is_err() {
        let _ = frame::end_report();
    }
}

/// The timer of the next part.
struct Turn;

impl timers::Expire for Turn {
    fn expire(&self) {
        IS_TIME.store(true, Ordering::Relaxed);
        Cpu::current().request_work();
    }
}

/// After how many nanoseconds there is more to report.
fn report_part() -> Option<u64> {
    let mut state = STATE.lock();
    if matches!(*state, State::Unknown) {
        let numbers = frame::allocate_block(0, frame::Content::Overwritten);
        *state = match numbers.filter(|_| balloon::find()) {
            Some(numbers) => {
                State::Present(Box::new(Report { numbers, in_flight: Runs::EMPTY, waited: 0 }))
            }
            None => State::Absent,
        };
    }
    // Without a device, what was asked for once is never asked for again.
    let State::Present(report) = &mut *state else { return None };
    frame::begin_report();
    if !report.settle() {
        report.waited += 1;
        return (report.waited < PATIENCE).then_some(PAUSE);
    }
    if !report.submit() {
        return frame::end_report().then_some(DELAY);
    }
    // A device that is quick has answered already.
    report.settle();
    Some(PAUSE)
}

impl Report {
    /// Puts back what the device has returned; false if it has not yet.
    fn settle(&mut self) -> bool {
        if self.in_flight.count > 0 {
            if !balloon::has_answered() {
                return false;
            }
            self.waited = 0;
            for run in self.in_flight.iter() {
                // SAFETY: taken below, and put back once: the runs are forgotten.
                unsafe { frame::put_back_reported(run.first..run.first + run.count) };
            }
            self.in_flight = Runs::EMPTY;
        }
        true
    }

    /// Gives the device what makes long runs of the next frames; false if there are none.
    fn submit(&mut self) -> bool {
        // SAFETY: a frame of our own, aligned and as long as this; `self` is borrowed mutably.
        let numbers = unsafe { &mut *self.numbers.to_pointer().cast::<[u32; BATCH]>() };
        let count = frame::take_candidates(numbers);
        let numbers = &mut numbers[..count];
        numbers.sort_unstable();
        for run in runs(numbers) {
            if run.count < MIN_RUN || !self.in_flight.add(run) {
                for number in run.first..run.first + run.count {
                    // SAFETY: just taken, and in no other run.
                    unsafe { frame::put_back(number) };
                }
            }
        }
        if self.in_flight.count > 0 {
            balloon::report(self.in_flight.iter().map(|run| {
                (PhysAddr(u64::from(run.first) * PAGE), PAGE_SIZE * run.count as usize)
            }));
        }
        count > 0
    }
}
