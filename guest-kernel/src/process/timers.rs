//! Timers that send signals: timer_create(2), setitimer(2), alarm(2).
//!
//! A timer with an interval is armed again when its signal is taken, as on Linux: however short the
//! interval is, a program that does not get to its signals is not flooded with them, and what it missed
//! is counted as overruns.

use super::{Process, Thread, send_by_timer};
use crate::errno::{Errno, Result};
use crate::fs::event::Setting;
use crate::signal::{Information, SI_KERNEL, number};
use crate::sync::SpinLock;
use crate::time::clock::CpuTime;
use crate::time::timers::{Base, Expire, Key, arm_by, cancel};
use crate::time::{monotonic_ns, tsc_ns};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// `SI_TIMER`.
pub const SI_TIMER: i32 = -2;
/// What `getitimer` says is left of a timer that is due.
const LEAST_LEFT_NS: u64 = 1000;
/// The time after which a clock of CPU time is looked at again, if it was standing still: from the one
/// to the other, doubled each time.
const LOOK_NS: [u64; 2] = [4_000_000, 64_000_000];
/// An ignored timer goes round no more often than this.
const IGNORED_NS: u64 = 4_000_000;

/// What a timer goes by.
pub enum Source {
    /// Time since boot.
    Monotonic,
    /// The time of day, by absolute settings; relative ones go by the time since boot.
    Realtime,
    /// CPU time of a process.
    Process(Weak<Process>, CpuTime),
    /// CPU time of a thread.
    Thread(Weak<Thread>, CpuTime),
}

impl Source {
    /// The CPU time, and how many threads may add to it at once; `None` if there is no more to come.
    fn cpu_ns(&self) -> Option<(u64, u64)> {
        match self {
            Self::Monotonic | Self::Realtime => None,
            Self::Process(process, time) => {
                let process = process.upgrade().filter(|process| !process.is_zombie())?;
                let ticks = process.usage().ticks_of(*time);
                Some((tsc_ns(ticks), process.threads().len().max(1) as u64))
            }
            Self::Thread(thread, time) => {
                Some((tsc_ns(thread.upgrade()?.usage().ticks_of(*time)), 1))
            }
        }
    }

    const fn is_cpu(&self) -> bool {
        matches!(self, Self::Process(..) | Self::Thread(..))
    }
}

/// What happens when a timer is due.
pub enum Effect {
    /// Nothing (`SIGEV_NONE`).
    Nothing,
    /// The signal of an interval timer.
    Interval(Interval),
    /// A signal with a value, for the process or one of its threads.
    Signal {
        /// Its number.
        signal: u8,
        /// The timer's id.
        id: i32,
        /// `sigev_value`.
        value: u64,
        /// The thread, unless any will do.
        thread: Option<Weak<Thread>>,
    },
}

/// The interval timers that each process has (getitimer(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// `ITIMER_REAL`.
    Real,
    /// `ITIMER_VIRTUAL`.
    Virtual,
    /// `ITIMER_PROF`.
    Profiling,
}

impl Interval {
    /// The one with this number.
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Real),
            1 => Some(Self::Virtual),
            2 => Some(Self::Profiling),
            _ => None,
        }
    }

    const fn signal(self) -> u8 {
        match self {
            Self::Real => number::SIGALRM,
            Self::Virtual => number::SIGVTALRM,
            Self::Profiling => number::SIGPROF,
        }
    }
}

/// How a timer is set.
struct State {
    /// The clock that `expires` is a reading of, unless that is one of CPU time.
    base: Base,
    /// When it is due; 0 if it is not set.
    expires: u64,
    interval: u64,
    armed: Option<Key>,
    /// How often [`Expire::expire`] is still to be called for timers that were disarmed too late.
    stale: u32,
    /// It was due, and goes on when its signal is taken.
    fired: bool,
    /// How often it was due since then, the first time included.
    count: u64,
    /// What `timer_getoverrun` says.
    overrun: u64,
    /// CPU time when that was last looked at, and when it is to be looked at again.
    seen: u64,
    look_ns: u64,
}

/// A timer.
pub struct Timer {
    /// For the queue of timers, which holds it as long as it is armed.
    me: Weak<Self>,
    owner: Weak<Process>,
    source: Source,
    effect: Effect,
    state: SpinLock<State>,
}

impl State {
    /// Moves `expires` behind `now`; returns the number of intervals, none if it is not due.
    fn forward(&mut self, now: u64) -> u64 {
        if now < self.expires || self.interval == 0 {
            return 0;
        }
        let count = (now - self.expires) / self.interval + 1;
        let next = count.checked_mul(self.interval).and_then(|far| self.expires.checked_add(far));
        self.expires = next.unwrap_or(u64::MAX);
        count
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
    /// A timer of a process that is not set.
    pub fn new(owner: Weak<Process>, source: Source, effect: Effect) -> Arc<Self> {
        let state = State {
            base: Base::Monotonic,
            expires: 0,
            interval: 0,
            armed: None,
            stale: 0,
            fired: false,
            count: 0,
            overrun: 0,
            seen: 0,
            look_ns: LOOK_NS[0],
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            owner,
            source,
            effect,
            state: SpinLock::new(state),
        })
    }

    /// What its clock shows; `None` if that has stopped for good.
    fn now(&self, base: Base) -> Option<u64> {
        if self.source.is_cpu() { self.source.cpu_ns().map(|(ns, _)| ns) } else { Some(base.now()) }
    }

    /// Lets it expire at its time, or look whether that has come.
    fn arm(self: &Arc<Self>, state: &mut State) -> Result<()> {
        if matches!(self.effect, Effect::Nothing) {
            return Ok(());
        }
        let (base, deadline) = if self.source.is_cpu() {
            let Some((now, threads)) = self.source.cpu_ns() else { return Ok(()) };
            // A clock that stands still is looked at ever more rarely.
            let still = now == state.seen;
            state.look_ns = if still { (state.look_ns * 2).min(LOOK_NS[1]) } else { LOOK_NS[0] };
            state.seen = now;
            let left = state.expires.saturating_sub(now) / threads;
            (Base::Monotonic, monotonic_ns().saturating_add(left.max(state.look_ns)))
        } else {
            (state.base, state.expires)
        };
        state.armed = Some(arm_by(base, deadline, self.clone())?);
        Ok(())
    }

    /// Sets the timer; returns what was left of the last setting.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn set(self: &Arc<Self>, new: Setting, absolute: bool) -> Result<Setting> {
        let is_realtime = matches!(self.source, Source::Realtime);
        let mut state = self.state.lock();
        state.disarm();
        let old = self.left(&mut state);
        state.fired = false;
        state.overrun = 0;
        state.count = 0;
        state.interval = if new.value > 0 { new.interval } else { 0 };
        state.expires = 0;
        state.look_ns = LOOK_NS[0];
        if new.value > 0 {
            state.base = if is_realtime && absolute { Base::Realtime } else { Base::Monotonic };
            let start = if absolute { 0 } else { self.now(state.base).unwrap_or(0) };
            state.expires = start.saturating_add(new.value);
            self.arm(&mut state)?;
        }
        Ok(old)
    }

    /// What is left of its setting.
    pub fn get(&self) -> Setting {
        self.left(&mut self.state.lock())
    }

    fn left(&self, state: &mut State) -> Setting {
        let is_silent = matches!(self.effect, Effect::Nothing);
        let is_over = state.fired && state.interval == 0;
        if state.expires == 0 || is_over {
            return Setting { value: 0, interval: state.interval };
        }
        if state.fired && matches!(self.effect, Effect::Interval(_)) {
            return Setting { value: 0, interval: state.interval };
        }
        let now = self.now(state.base).unwrap_or(0);
        if is_silent || state.fired {
            state.count += state.forward(now);
        }
        let least = match self.effect {
            Effect::Nothing => 0,
            Effect::Interval(_) => LEAST_LEFT_NS,
            Effect::Signal { .. } => 1,
        };
        let value = state.expires.saturating_sub(now).max(least);
        Setting { value, interval: state.interval }
    }

    /// How often it was due, beyond once, before its signal was last taken.
    pub fn overrun(&self) -> i32 {
        i32::try_from(self.state.lock().overrun).unwrap_or(i32::MAX)
    }

    /// Its signal was taken: it goes on. False if it did not wait for that.
    fn taken(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if !state.fired {
            return false;
        }
        if state.interval > 0
            && let Some(now) = self.now(state.base)
        {
            state.count += state.forward(now);
            state.fired = false;
            // Without memory it stands still until it is set again.
            let _ = self.arm(&mut state);
        }
        state.overrun = state.count.saturating_sub(1);
        state.count = 0;
        true
    }

    fn disarm(&self) {
        self.state.lock().disarm();
    }

    /// Sends what is to be sent; false if the signal is ignored.
    fn send(&self, process: &Process) -> bool {
        match &self.effect {
            Effect::Nothing => true,
            Effect::Interval(interval) => {
                send_by_timer(process, None, Information::new(interval.signal(), SI_KERNEL, 0))
            }
            Effect::Signal { signal, id, value, thread } => {
                let id = u64::from(id.cast_unsigned());
                let information =
                    Information { signal: *signal, code: SI_TIMER, detail: [id, *value, 0, 0] };
                match thread {
                    None => send_by_timer(process, None, information),
                    // A thread that has ended gets no signals, and no other does for it.
                    Some(thread) => thread
                        .upgrade()
                        .is_none_or(|thread| send_by_timer(process, Some(&thread), information)),
                }
            }
        }
    }
}

impl Expire for Timer {
    fn expire(&self) {
        let (Some(me), Some(process)) = (self.me.upgrade(), self.owner.upgrade()) else { return };
        let mut state = self.state.lock();
        if state.stale > 0 {
            state.stale -= 1;
            return;
        }
        state.armed = None;
        let Some(now) = self.now(state.base) else { return };
        if now < state.expires {
            // It was time to look at CPU time. Without memory for the next look, the timer stands still.
            let _ = me.arm(&mut state);
            return;
        }
        if matches!(self.effect, Effect::Interval(Interval::Virtual | Interval::Profiling)) {
            // These do not wait for anybody to take their signals.
            if state.forward(now) > 0 {
                let _ = me.arm(&mut state);
            } else {
                state.expires = 0;
            }
            drop(state);
            self.send(&process);
            return;
        }
        state.fired = true;
        drop(state);
        if !self.send(&process) && matches!(self.effect, Effect::Signal { .. }) {
            let mut state = self.state.lock();
            if state.interval > 0 && state.fired {
                let count = state.forward(now.saturating_add(IGNORED_NS));
                state.count += count;
                state.fired = false;
                let _ = me.arm(&mut state);
            }
        }
    }
}

/// The timers of a process.
#[derive(Default)]
pub struct Timers {
    interval: [Option<Arc<Timer>>; 3],
    /// Those of `timer_create`, by id.
    created: Vec<(i32, Arc<Timer>)>,
    next_id: i32,
}

impl Timers {
    /// None.
    pub const fn new() -> Self {
        Self { interval: [None, None, None], created: Vec::new(), next_id: 0 }
    }

    /// An interval timer, if it was ever set.
    pub fn interval(&self, which: Interval) -> Option<Arc<Timer>> {
        self.interval[which as usize].clone()
    }

    /// Adds an interval timer.
    pub fn set_interval(&mut self, which: Interval, timer: Arc<Timer>) {
        self.interval[which as usize] = Some(timer);
    }

    /// The timer with this id.
    pub fn created(&self, id: i32) -> Option<Arc<Timer>> {
        self.created.iter().find(|(other, _)| *other == id).map(|(_, timer)| timer.clone())
    }

    /// An id for one more timer, if there may be that many.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM.
    pub fn new_id(&mut self, limit: u64) -> Result<i32> {
        if self.created.len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        self.created.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        // As on Linux, they count up, and start again when they have reached the end.
        let mut id = self.next_id;
        while self.created.iter().any(|(other, _)| *other == id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        self.next_id = id.checked_add(1).unwrap_or(0);
        Ok(id)
    }

    /// Adds a timer under an id from [`Self::new_id`].
    pub fn add(&mut self, id: i32, timer: Arc<Timer>) {
        self.created.push((id, timer));
    }

    /// Takes out a timer.
    pub fn remove(&mut self, id: i32) -> Option<Arc<Timer>> {
        let at = self.created.iter().position(|(other, _)| *other == id)?;
        let (_, timer) = self.created.swap_remove(at);
        timer.disarm();
        Some(timer)
    }

    /// Takes out all that `timer_create` made, as `execve` does.
    pub fn remove_created(&mut self) -> Vec<(i32, Arc<Timer>)> {
        for (_, timer) in &self.created {
            timer.disarm();
        }
        core::mem::take(&mut self.created)
    }
}

/// No timer outlives the process.
impl Drop for Timers {
    fn drop(&mut self) {
        drop(self.remove_created());
        for timer in self.interval.iter().flatten() {
            timer.disarm();
        }
    }
}

/// A signal was taken by a thread of the process: a timer that sent it goes on, and tells what it missed.
pub fn signal_taken(process: &Process, information: &mut Information) {
    if information.code == SI_TIMER {
        // A program can send such a signal, too: then no timer waits for it.
        let [a, b, c, d, ..] = information.detail[0].to_le_bytes();
        let timer = process.timers.lock().created(i32::from_le_bytes([a, b, c, d]));
        if let Some(timer) = timer
            && timer.taken()
        {
            let overrun = u64::from(timer.overrun().cast_unsigned());
            information.detail[0] |= overrun << 32;
        }
    } else if information.signal == number::SIGALRM {
        let timer = process.timers.lock().interval(Interval::Real);
        if let Some(timer) = timer {
            timer.taken();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(expires: u64, interval: u64) -> State {
        State {
            base: Base::Monotonic,
            expires,
            interval,
            armed: None,
            stale: 0,
            fired: false,
            count: 0,
            overrun: 0,
            seen: 0,
            look_ns: 0,
        }
    }

    #[test]
    fn a_timer_moves_behind_now_by_whole_intervals() {
        let mut timer = state(100, 10);
        assert_eq!((timer.forward(99), timer.expires), (0, 100));
        assert_eq!((timer.forward(100), timer.expires), (1, 110));
        assert_eq!((timer.forward(139), timer.expires), (3, 140));
        assert_eq!((timer.forward(139), timer.expires), (0, 140));
        let mut late = state(u64::MAX - 5, 10);
        assert_eq!((late.forward(u64::MAX - 1), late.expires), (1, u64::MAX));
        assert_eq!(state(5, 0).forward(10), 0);
    }

    #[test]
    fn ids_count_up_and_are_not_used_twice() {
        let timer = || Timer::new(Weak::new(), Source::Monotonic, Effect::Nothing);
        let mut timers = Timers::new();
        for expected in 0..3 {
            let id = timers.new_id(3).unwrap();
            assert_eq!(id, expected);
            timers.add(id, timer());
        }
        assert_eq!(timers.new_id(3), Err(Errno::EAGAIN));
        assert!(timers.remove(1).is_some() && timers.remove(1).is_none());
        assert_eq!(timers.new_id(3), Ok(3));
        timers.next_id = i32::MAX;
        timers.add(i32::MAX, timer());
        assert_eq!(timers.new_id(10), Ok(1));
        assert_eq!(timers.remove_created().len(), 3);
    }
}
