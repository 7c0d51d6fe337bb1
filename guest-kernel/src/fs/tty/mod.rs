//! Terminals: the user's (`airlock run -t`) and pseudo-terminals (`pty(7)`).
//!
//! * `termios`: settings
//! * `discipline`: what happens to typed bytes, and `output`: to those on their way to the screen
//! * `slave`: the side that programs use; `master`: the other side of a pseudo-terminal; `ioctl`: requests
//! * `job`: controlling terminals and job control
//! * `registry`: which terminals there are (/dev/pts)
//!
//! A [`Tty`] has one lock. It is not held while signals are sent or others are asked, so that it may be
//! taken with any of theirs.

pub mod discipline;
mod ioctl;
pub mod job;
mod master;
mod output;
pub mod registry;
mod slave;
pub mod termios;

pub use master::{Master, open_master};
pub use slave::{Slave, open_slave};

use super::metadata::device_number;
use super::services::now;
use super::stream::Events;
use super::tmpfs::Attributes;
use crate::errno::Result;
use crate::sched::WaitQueue;
use crate::signal::number::SIGWINCH;
use crate::sync::SpinLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use discipline::{CAPACITY, Discipline, Outcome};
use termios::{Termios, WindowSize};

/// Major device number of what is in /dev/pts.
pub const MAJOR: u32 = 136;
/// Bytes that wait between the two sides of a pseudo-terminal, at most, in each direction.
const QUEUE_LIMIT: usize = 1 << 16;
/// Linux moves output to where the other side reads it, as long as there is room; what is there is not
/// dropped any more.
const KEPT_OUTPUT: usize = CAPACITY - 1;
/// Empty queues do not keep more memory than this.
const QUEUE_KEPT: usize = 4096;
/// Group of the nodes in /dev/pts: `tty` in all distributions.
const TTY_GROUP: u32 = 5;

/// Who is at the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The user, by way of the console.
    Console,
    /// A program that has the master open.
    Master,
}

/// A terminal.
pub struct Tty {
    /// Its name in /dev/pts, and its minor device number.
    index: u32,
    /// Tells it from those that had the index before.
    serial: u32,
    side: Side,
    state: SpinLock<State>,
    /// Where programs wait that use it: for input, for room, for output to go on.
    queue: WaitQueue,
    /// Where the master waits.
    master_queue: WaitQueue,
}

struct State {
    discipline: Discipline,
    /// What of the settings cannot be changed (TIOCSLCKTRMIOS).
    locked_settings: Termios,
    size: WindowSize,
    /// The session that it is the controlling terminal of, or 0.
    session: i32,
    /// The foreground process group, or 0.
    group: i32,
    /// Hang-ups so far: who opened it before the last one is cut off.
    hang_ups: u32,
    /// How often it is open.
    opens: usize,
    /// It was open, and is not any more: the master finds an error at the end.
    left: bool,
    /// Nobody but the superuser may open it (TIOCEXCL); and the same of the master.
    exclusive: [bool; 2],
    attributes: Attributes,
    master: MasterState,
}

/// What the other side of a pseudo-terminal has.
struct MasterState {
    /// Somebody has it open.
    open: bool,
    /// The terminal cannot be opened yet (TIOCSPTLCK).
    locked: bool,
    /// Packet mode (TIOCPKT), and what is to be told next.
    packet: bool,
    status: u8,
    /// Its writes are held back (TCXONC at the master).
    stopped: bool,
    /// Written by it, and not taken by the line discipline.
    incoming: VecDeque<u8>,
    /// For it to be read.
    outgoing: VecDeque<u8>,
}

/// What packet mode tells (`TIOCPKT_*`).
mod packet {
    /// What follows is output.
    pub(super) const DATA: u8 = 0;
    /// What was typed was dropped.
    pub(super) const FLUSHREAD: u8 = 1;
    /// Output was dropped.
    pub(super) const FLUSHWRITE: u8 = 2;
    /// Output is held back.
    pub(super) const STOP: u8 = 4;
    /// It goes on.
    pub(super) const START: u8 = 8;
    /// ^S and ^Q are ordinary keys.
    pub(super) const NOSTOP: u8 = 16;
    /// They hold output back and let it go on.
    pub(super) const DOSTOP: u8 = 32;
    /// The settings have changed, and the master edits lines.
    pub(super) const IOCTL: u8 = 64;
}

impl Tty {
    fn new(index: u32, side: Side, termios: Termios) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let time = now();
        let owner = job::jobs().map_or(0, |jobs| jobs.file_user());
        let attributes = Attributes {
            mode: super::metadata::S_IFCHR | 0o620,
            links: 1,
            user: owner,
            group: TTY_GROUP,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
        };
        let state = State {
            discipline: Discipline::new(termios)?,
            locked_settings: Termios::NOTHING,
            size: WindowSize::default(),
            session: 0,
            group: 0,
            hang_ups: 0,
            opens: 0,
            left: false,
            exclusive: [false; 2],
            attributes,
            master: MasterState {
                open: side == Side::Master,
                locked: true,
                packet: false,
                status: 0,
                stopped: false,
                incoming: VecDeque::new(),
                outgoing: VecDeque::new(),
            },
        };
        Ok(Self {
            index,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            side,
            state: SpinLock::new(state),
            queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// Its name in /dev/pts, and its minor device number.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Its device number.
    pub const fn device(&self) -> u64 {
        device_number(MAJOR, self.index)
    }

    /// Tells it from those that had the index before.
    pub const fn serial(&self) -> u32 {
        self.serial
    }

    /// The foreground process group, or 0.
    pub fn foreground(&self) -> i32 {
        self.state.lock().group
    }

    /// Owner, permissions and times of its node.
    pub fn attributes(&self) -> Attributes {
        self.state.lock().attributes
    }

    /// Changes them.
    pub fn change_attributes(&self, change: impl FnOnce(&mut Attributes)) {
        let time = now();
        let mut state = self.state.lock();
        change(&mut state.attributes);
        state.attributes.changed = time;
    }

    /// Whether its node is still in /dev/pts.
    fn is_listed(&self) -> bool {
        self.side == Side::Console || self.state.lock().master.open
    }

    /// Takes bytes that the user of the console typed, as many as [`Self::room`] says, and sends the
    /// signals that they mean.
    pub fn received(&self, bytes: &[u8]) {
        let mut outcome = Outcome::default();
        let group = {
            let mut state = self.state.lock();
            state.discipline.receive(bytes, &mut outcome);
            state.group
        };
        self.settle(outcome, group);
    }

    /// How many bytes [`Self::received`] can take now.
    pub fn room(&self) -> usize {
        self.state.lock().discipline.room()
    }

    /// The next echoes for the screen of the console.
    pub fn next_echoes(&self, screen: &mut Vec<u8>, limit: usize) {
        self.state.lock().discipline.show_echoes(screen, limit);
    }

    /// Sends the signals that keys meant, and wakes those who wait.
    fn settle(&self, outcome: Outcome, group: i32) {
        for signal in outcome.signals.into_iter().filter(|&signal| signal != 0) {
            job::signal_group(group, signal, true);
        }
        self.queue.wake_all();
        if self.side == Side::Master {
            self.master_queue.wake_all();
        }
    }

    /// Gives the window another size; who is in the foreground is told if it is one.
    pub fn resize(&self, size: WindowSize) {
        let (group, changed) = {
            let mut state = self.state.lock();
            (state.group, core::mem::replace(&mut state.size, size) != size)
        };
        if changed {
            job::signal_group(group, SIGWINCH, true);
        }
    }

    /// Nobody is at the other side any more, or it shall look so: whoever has it open finds the end of
    /// the file, and nobody's controlling terminal is it.
    pub fn hang_up(&self) {
        let (session, group) = {
            let mut state = self.state.lock();
            let before = (state.session, state.group);
            (state.session, state.group) = (0, 0);
            state.hang_ups = state.hang_ups.wrapping_add(1);
            let termios = self.first_termios();
            state.discipline.reset(termios);
            state.master.status = 0;
            before
        };
        job::hang_up_session(session, group, self);
        self.queue.wake_all();
        self.master_queue.wake_all();
    }

    const fn first_termios(&self) -> Termios {
        match self.side {
            Side::Console => Termios::CONSOLE,
            Side::Master => Termios::PSEUDO,
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        registry::free(self.index);
    }
}

impl State {
    /// Moves what the master wrote to the line discipline, as far as there is room, and echoes to the
    /// master. Returns what is to be settled when the lock is released, and for which group.
    fn feed(&mut self) -> (Outcome, i32) {
        let mut outcome = Outcome::default();
        loop {
            let (front, _) = self.master.incoming.as_slices();
            if front.is_empty() {
                break;
            }
            let count = self.discipline.receive(front, &mut outcome);
            if count == 0 {
                break;
            }
            self.master.incoming.drain(..count);
        }
        shrink(&mut self.master.incoming);
        self.note(&outcome);
        self.show_echoes();
        (outcome, self.group)
    }

    /// What keys or settings did is a packet to the master, and drops its output.
    fn note(&mut self, outcome: &Outcome) {
        if outcome.flushed {
            self.drop_output();
            self.tell(packet::FLUSHREAD, 0);
        }
        match outcome.stopped {
            Some(true) => self.tell(packet::STOP, packet::START),
            Some(false) => self.tell(packet::START, packet::STOP),
            None => {}
        }
    }

    /// Notes something for packet mode.
    const fn tell(&mut self, status: u8, not: u8) {
        if self.master.packet {
            self.master.status = self.master.status & !not | status;
        }
    }

    fn drop_output(&mut self) {
        self.master.outgoing.truncate(KEPT_OUTPUT);
        self.tell(packet::FLUSHWRITE, 0);
    }

    /// How much output the master's queue takes.
    fn output_room(&self) -> usize {
        (QUEUE_LIMIT + KEPT_OUTPUT).saturating_sub(self.master.outgoing.len())
    }

    /// Moves echoes to the master, if that is a program.
    fn show_echoes(&mut self) {
        // Those of the console are asked for.
        while self.master.open && self.discipline.has_echoes() {
            let mut screen = Vec::new();
            let limit = self.output_room().min(QUEUE_KEPT);
            if screen.try_reserve(limit).is_err()
                || self.master.outgoing.try_reserve(limit).is_err()
            {
                return;
            }
            self.discipline.show_echoes(&mut screen, limit);
            if screen.is_empty() {
                return;
            }
            self.master.outgoing.extend(&screen);
        }
    }

    /// What `poll(2)` finds at the terminal.
    fn poll(&self, side: Side) -> Events {
        let has_room = side == Side::Console || self.output_room() >= output::LONGEST;
        Events::IN
            .when(self.discipline.is_readable())
            .with(Events::OUT.when(has_room && !self.discipline.is_stopped()))
    }
}

fn shrink(queue: &mut VecDeque<u8>) {
    if queue.is_empty() && queue.capacity() > QUEUE_KEPT {
        *queue = VecDeque::new();
    }
}

/// Makes the user's terminal, with the index 0.
///
/// # Errors
/// ENOMEM.
pub fn make_console(size: WindowSize) -> Result<Arc<Tty>> {
    let tty = registry::allocate(|index| Tty::new(index, Side::Console, Termios::CONSOLE))?;
    tty.state.lock().size = size;
    *CONSOLE.lock() = Some(tty.clone());
    Ok(tty)
}

static CONSOLE: SpinLock<Option<Arc<Tty>>> = SpinLock::new(None);

/// The user's terminal, if there is one.
pub fn console() -> Option<Arc<Tty>> {
    CONSOLE.lock().clone()
}
