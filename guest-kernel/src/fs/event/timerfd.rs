//! A timer to wait for (`timerfd_create(2)`).

use super::{metadata, write_count};
use crate::errno::{Errno, Result};
use crate::fs::metadata::Metadata;
use crate::fs::stream::{Events, Seek, Stream};
use crate::memory::{UserPtr, UserWriter};
use crate::sched::WaitQueue;
use crate::sched::watch::{Watcher, downgrade};
use crate::sync::SpinLock;
use crate::time::timers::{Base, Expire, Key, arm_by, cancel};
use crate::time::{CLOCK_SET, VVAR};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

/// `TFD_IOC_SET_TICKS`: `_IOW('T', 0, u64)`.
const SET_TICKS: u32 = 0x4008_5400;

/// What a timer is set to, or has left: nanoseconds, of which 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until the next expiry, or the reading of the clock at it.
    pub value: u64,
    /// From each expiry to the next.
    pub interval: u64,
}

/// How [`Setting::value`] is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetting {
    /// What is set.
    pub setting: Setting,
    /// Whether the value is a reading of the clock.
    pub absolute: bool,
    /// Whether reads shall fail when the clock is set.
    pub cancel_on_set: bool,
}

/// The timer of the queue, and what it did since it was read.
struct State {
    /// The clock that `expires` is a reading of.
    base: Base,
    /// When it expires next, or did last.
    expires: u64,
    interval: u64,
    armed: Option<Key>,
    /// How often [`Expire::expire`] is still to be called for timers that were disarmed too late.
    stale: u32,
    /// It expired, and has not been armed again for the interval.
    expired: bool,
    ticks: u64,
    /// Whether setting the clock makes reads fail, and the distance of the clocks that is expected.
    watches_clock: bool,
    clock_offset: u64,
    clock_was_set: bool,
}

/// A timer, as the queue of timers knows it.
struct Timer {
    /// Whether it follows the time of day.
    realtime: bool,
    state: SpinLock<State>,
    /// Whether it is told when the clock is set.
    is_told: AtomicBool,
    queue: WaitQueue,
}

/// A timerfd; dropping it disarms the timer.
pub struct TimerFile(Arc<Timer>);

impl State {
    /// Time left, as Linux counts it: what is overdue has none, and what repeats goes on.
    fn remaining(&mut self) -> u64 {
        let now = self.base.now();
        if self.expired && self.interval > 0 {
            self.ticks += self.forward(now) - 1;
            self.expired = false;
        }
        self.expires.saturating_sub(now)
    }

    /// Moves `expires` behind `now`; returns the number of intervals, at least one.
    fn forward(&mut self, now: u64) -> u64 {
        let overdue = now.saturating_sub(self.expires);
        let count = overdue / self.interval + 1;
        let distance = count.checked_mul(self.interval);
        let next = distance.and_then(|distance| self.expires.checked_add(distance));
        self.expires = next.unwrap_or(u64::MAX);
        count
    }

    /// Whether the clock was set since this was last asked, and the timer cares.
    fn takes_clock_set(&mut self) -> bool {
        if !self.watches_clock || !self.clock_was_set {
            return false;
        }
        self.clock_was_set = false;
        self.clock_offset = VVAR.realtime_offset();
        true
    }

    fn disarm(&mut self) {
        if let Some(key) = self.armed.take()
            && !cancel(key)
        {
            self.stale += 1;
        }
    }
}

impl Timer {
    fn arm(self: &Arc<Self>, state: &mut State) -> Result<()> {
        state.armed = Some(arm_by(state.base, state.expires, self.clone())?);
        Ok(())
    }

    /// Takes the ticks that there are.
    fn take(self: &Arc<Self>) -> Option<Result<u64>> {
        let mut state = self.state.lock();
        if state.takes_clock_set() {
            state.ticks = 0;
            state.expired = false;
            return Some(Err(Errno::ECANCELED));
        }
        if state.ticks == 0 {
            return None;
        }
        if let Err(error) = self.go_on(&mut state) {
            return Some(Err(error));
        }
        state.expired = false;
        Some(Ok(core::mem::take(&mut state.ticks)))
    }

    /// Arms a timer that expired for its next interval. That is done when somebody looks, so that a
    /// short interval costs nothing meanwhile.
    fn go_on(self: &Arc<Self>, state: &mut State) -> Result<()> {
        if state.expired && state.interval > 0 {
            let now = state.base.now();
            let count = state.forward(now);
            self.arm(state)?;
            state.ticks = state.ticks.saturating_add(count - 1);
            state.expired = false;
        }
        Ok(())
    }
}

impl Expire for Timer {
    fn expire(&self) {
        let mut state = self.state.lock();
        if state.stale > 0 {
            state.stale -= 1;
            return;
        }
        state.armed = None;
        state.expired = true;
        state.ticks = state.ticks.saturating_add(1);
        drop(state);
        self.queue.wake(Events::IN);
    }
}

/// Told when the clock was set.
impl Watcher for Timer {
    fn notify(&self, _events: Events) -> bool {
        let mut state = self.state.lock();
        if state.watches_clock && state.clock_offset != VVAR.realtime_offset() {
            state.clock_was_set = true;
            state.ticks = state.ticks.saturating_add(1);
            drop(state);
            self.queue.wake(Events::IN);
        }
        false
    }
}

impl TimerFile {
    /// A timer that is not set, on the time of day or on the time since boot.
    pub fn new(realtime: bool) -> Arc<Self> {
        let state = State {
            base: Base::Monotonic,
            expires: 0,
            interval: 0,
            armed: None,
            stale: 0,
            expired: false,
            ticks: 0,
            watches_clock: false,
            clock_offset: VVAR.realtime_offset(),
            clock_was_set: false,
        };
        let timer = Timer {
            realtime,
            state: SpinLock::new(state),
            is_told: AtomicBool::new(false),
            queue: WaitQueue::new(),
        };
        Arc::new(Self(Arc::new(timer)))
    }

    /// `timerfd_settime(2)`: sets the timer; returns what was left of the last setting.
    ///
    /// # Errors
    /// ECANCELED if the clock was set before, ENOMEM.
    pub fn set(&self, new: TimerSetting) -> Result<Setting> {
        let timer = &self.0;
        let watches_clock = timer.realtime && new.absolute && new.cancel_on_set;
        if watches_clock && !timer.is_told.swap(true, Ordering::Relaxed) {
            let watched = CLOCK_SET.watchers().watch(downgrade(timer), false);
            watched.inspect_err(|_| timer.is_told.store(false, Ordering::Relaxed))?;
        }
        let mut state = timer.state.lock();
        state.watches_clock = watches_clock;
        state.disarm();
        let old = Setting { value: state.remaining(), interval: state.interval };
        let TimerSetting { setting: Setting { value, interval }, absolute, .. } = new;
        state.expired = false;
        state.ticks = 0;
        state.interval = interval;
        state.expires = 0;
        if value > 0 {
            // A relative timer is not affected by setting the clock.
            let follows_clock = timer.realtime && absolute;
            state.base = if follows_clock { Base::Realtime } else { Base::Monotonic };
            let start = if absolute { 0 } else { state.base.now() };
            state.expires = start.saturating_add(value);
            timer.arm(&mut state)?;
            if state.takes_clock_set() {
                return Err(Errno::ECANCELED);
            }
        }
        Ok(old)
    }

    /// `timerfd_gettime(2)`.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn get(&self) -> Result<Setting> {
        let mut state = self.0.state.lock();
        self.0.go_on(&mut state)?;
        Ok(Setting { value: state.remaining(), interval: state.interval })
    }
}

impl Drop for TimerFile {
    fn drop(&mut self) {
        self.0.state.lock().disarm();
        if self.0.is_told.load(Ordering::Relaxed) {
            CLOCK_SET.watchers().unwatch(&downgrade(&self.0));
        }
    }
}

impl Stream for TimerFile {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let ticks = match self.0.take() {
            Some(ticks) => ticks?,
            None if wait => self.0.queue.wait_until(|| self.0.take())??,
            None => return Err(Errno::EAGAIN),
        };
        write_count(buffer, ticks)
    }

    fn poll(&self) -> Events {
        Events::IN.when(self.0.state.lock().ticks > 0)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn seek(&self) -> Seek {
        Seek::Unpositioned
    }

    fn metadata(&self) -> Metadata {
        metadata()
    }

    fn name(&self) -> Vec<u8> {
        Vec::from(b"anon_inode:[timerfd]")
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        if request != SET_TICKS {
            return Err(Errno::ENOTTY);
        }
        let ticks = UserPtr::<u64>::new(argument).read()?;
        if ticks == 0 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.0.state.lock();
        if state.takes_clock_set() {
            return Err(Errno::ECANCELED);
        }
        state.ticks = ticks;
        drop(state);
        self.0.queue.wake(Events::IN);
        Ok(0)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
