//! The line discipline of a terminal (`termios(3)`): what happens to bytes between the user and the
//! program.
//!
//! Pure: bytes go in, bytes and signals come out. It follows Linux's in what no standard says, such as
//! what a change between canonical and raw mode does to what was typed before.

mod erase;
mod reading;
#[cfg(test)]
mod tests;

pub use reading::Demand;

use super::output::{Echo, Output, is_control};
use super::termios::{DISABLED, Termios};
use crate::errno::{Errno, Result};
use crate::signal::number::{SIGINT, SIGQUIT, SIGTSTP};
use alloc::vec::Vec;
use linux_raw_sys::general::{
    ECHO, ECHOCTL, ECHONL, EXTPROC, ICANON, ICRNL, IEXTEN, IGNCR, INLCR, ISIG, ISTRIP, IUCLC,
    IXANY, IXON, NOFLSH, PARMRK, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VQUIT, VREPRINT,
    VSTART, VSTOP, VSUSP, VWERASE,
};

/// Bytes that wait to be read, at most (`N_TTY_BUF_SIZE`).
pub const CAPACITY: usize = 4096;
/// What a byte means when PARMRK is on: it is doubled, as it otherwise announces an error.
const MARK: u8 = 0xff;

/// What the arrival of input leads to, beside what can be read and what is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Signals for the foreground process group, each once, in the order of the keys; 0 is none.
    pub signals: [u8; 3],
    /// One of them has dropped what was typed, and is to drop what is not shown yet.
    pub flushed: bool,
    /// The last thing that happened to output: whether it was stopped or went on.
    pub stopped: Option<bool>,
}

impl Outcome {
    fn add_signal(&mut self, signal: u8) {
        if !self.signals.contains(&signal)
            && let Some(free) = self.signals.iter_mut().find(|slot| **slot == 0)
        {
            *free = signal;
        }
    }
}

/// A terminal's state.
pub struct Discipline {
    termios: Termios,
    /// Bytes that may mean more than themselves as input: bit N of the set is byte N.
    special: [u64; 4],
    /// No byte means anything: input is passed on as it is.
    raw: bool,
    /// A ring; positions only grow, and are counted modulo its size.
    ring: Vec<u8>,
    /// The places in the ring that end a line.
    ends: [u64; CAPACITY / 64],
    /// Where the next byte goes.
    head: usize,
    /// Where the complete lines end.
    line_end: usize,
    /// The next byte to be read.
    tail: usize,
    /// The next byte is taken literally (^V).
    literal: bool,
    /// Erased characters are being shown between a backslash and a slash (ECHOPRT).
    erasing: bool,
    output: Output,
    /// Output is held back, by a key (^S) or by a program.
    stopped: bool,
    /// It is by a program (TCOOFF): no key changes that.
    held: bool,
}

impl Discipline {
    /// A terminal with these settings.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(termios: Termios) -> Result<Self> {
        let mut ring = Vec::new();
        ring.try_reserve_exact(CAPACITY).map_err(|_| Errno::ENOMEM)?;
        ring.resize(CAPACITY, 0);
        let mut discipline = Self {
            termios,
            special: [0; 4],
            raw: false,
            ring,
            ends: [0; CAPACITY / 64],
            head: 0,
            line_end: 0,
            tail: 0,
            literal: false,
            erasing: false,
            output: Output::new(),
            stopped: false,
            held: false,
        };
        discipline.find_special();
        Ok(discipline)
    }

    /// The settings.
    pub const fn termios(&self) -> &Termios {
        &self.termios
    }

    const fn is_canonical(&self) -> bool {
        self.termios.has_local(ICANON)
    }

    /// Whether reads return lines; not if someone else edits them.
    const fn reads_lines(&self) -> bool {
        self.is_canonical() && !self.termios.has_local(EXTPROC)
    }

    fn is_key(&self, byte: u8, key: u32) -> bool {
        byte != DISABLED && self.termios.character(key) == byte
    }

    fn byte(&self, position: usize) -> u8 {
        self.ring[position % CAPACITY]
    }

    const fn ends_line(&self, position: usize) -> bool {
        let at = position % CAPACITY;
        self.ends[at / 64] & 1 << (at % 64) != 0
    }

    const fn mark_end(&mut self, position: usize, ends: bool) {
        let at = position % CAPACITY;
        let bit = 1 << (at % 64);
        if ends {
            self.ends[at / 64] |= bit;
        } else {
            self.ends[at / 64] &= !bit;
        }
    }

    /// Bytes in the ring.
    const fn len(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    fn put(&mut self, byte: u8) {
        let at = self.head % CAPACITY;
        self.ring[at] = byte;
        self.head = self.head.wrapping_add(1);
    }

    /// Changes the settings.
    pub fn set_termios(&mut self, termios: Termios, outcome: &mut Outcome) {
        let before = core::mem::replace(&mut self.termios, termios);
        if (before.local ^ termios.local) & (ICANON | EXTPROC) != 0 {
            self.ends = [0; CAPACITY / 64];
            if !self.is_canonical() || self.len() == 0 {
                self.line_end = self.tail;
            } else {
                // What was typed without being a line is one now.
                self.mark_end(self.head.wrapping_sub(1), true);
                self.line_end = self.head;
            }
            self.erasing = false;
            self.literal = false;
        }
        self.find_special();
        if before.has_input(IXON) && !termios.has_input(IXON) {
            self.start(outcome);
        }
    }

    fn find_special(&mut self) {
        let t = self.termios;
        self.raw = !t.has_input(ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK)
            && !t.has_local(ICANON | ISIG | ECHO);
        self.special = [0; 4];
        let mut add = |byte: u8| self.special[usize::from(byte / 64)] |= 1 << (byte % 64);
        if t.has_input(IGNCR | ICRNL) {
            add(b'\r');
        }
        if t.has_input(INLCR) {
            add(b'\n');
        }
        let mut add_keys = |keys: &[u32]| keys.iter().for_each(|&key| add(t.character(key)));
        if t.has_input(IXON) {
            add_keys(&[VSTART, VSTOP]);
        }
        if t.has_local(ISIG) {
            add_keys(&[VINTR, VQUIT, VSUSP]);
        }
        if t.has_local(ICANON) {
            add_keys(&[VERASE, VKILL, VEOF, VEOL]);
            if t.has_local(IEXTEN) {
                add_keys(&[VWERASE, VLNEXT, VEOL2]);
            }
            if t.has_local(IEXTEN) && t.has_local(ECHO) {
                add_keys(&[VREPRINT]);
            }
            self.special[0] |= 1 << b'\n';
        }
        self.special[0] &= !(1 << DISABLED);
    }

    /// Forgets what was typed and not read (TCFLSH).
    pub fn flush_input(&mut self) {
        (self.head, self.line_end, self.tail) = (0, 0, 0);
        self.ends = [0; CAPACITY / 64];
        self.erasing = false;
        self.literal = false;
    }

    /// Everything as it was at first (a hang-up).
    pub fn reset(&mut self, termios: Termios) {
        self.flush_input();
        self.output.drop_echoes();
        self.termios = termios;
        self.find_special();
        (self.stopped, self.held) = (false, false);
    }

    /// How many bytes [`Self::receive`] takes now. While no line is complete, nothing would make room:
    /// then the last byte of a line that is too long is overwritten until the line ends.
    pub const fn room(&self) -> usize {
        let free = CAPACITY.saturating_sub(self.len());
        let free = if self.termios.has_input(PARMRK) { free.div_ceil(3) } else { free };
        let free = free.saturating_sub(1);
        if free == 0 && self.is_overflowing() { 1 } else { free }
    }

    const fn is_overflowing(&self) -> bool {
        self.is_canonical() && self.line_end == self.tail
    }

    /// Takes bytes that the user typed, as many as there is room for.
    pub fn receive(&mut self, bytes: &[u8], outcome: &mut Outcome) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let room = self.room().min(bytes.len() - done);
            if room == 0 {
                break;
            }
            if self.len() >= CAPACITY && self.is_overflowing() {
                self.head = self.head.wrapping_sub(1);
            }
            for &byte in &bytes[done..done + room] {
                self.receive_byte(byte, outcome);
            }
            done += room;
        }
        done
    }

    fn receive_byte(&mut self, mut byte: u8, outcome: &mut Outcome) {
        if self.raw {
            return self.put(byte);
        }
        let literal = core::mem::take(&mut self.literal);
        if self.termios.has_input(ISTRIP) {
            byte &= 0x7f;
        }
        if self.termios.has_input(IUCLC) && self.termios.has_local(IEXTEN) {
            byte = lower(byte);
        }
        if self.termios.has_local(EXTPROC) {
            return self.put(byte);
        }
        if literal || self.special[usize::from(byte / 64)] & 1 << (byte % 64) == 0 {
            self.resume_by_any_key(outcome);
            return self.insert(byte);
        }
        self.receive_special(byte, outcome);
    }

    /// A stopped terminal may go on with any key (IXANY).
    fn resume_by_any_key(&mut self, outcome: &mut Outcome) {
        if self.termios.has_input(IXON) && self.termios.has_input(IXANY) {
            self.start(outcome);
        }
    }

    /// Puts a byte into the line, and shows it.
    fn insert(&mut self, byte: u8) {
        if self.termios.has_local(ECHO) {
            self.finish_erasing();
            self.echo_typed(byte);
        }
        self.put_marked(byte);
    }

    /// Shows a byte of the line, and notes where the line begins on the screen.
    fn echo_typed(&mut self, byte: u8) {
        if self.line_end == self.head {
            self.output.echo(Echo::Origin);
        }
        self.echo(byte);
    }

    fn put_marked(&mut self, byte: u8) {
        if byte == MARK && self.termios.has_input(PARMRK) {
            self.put(byte);
        }
        self.put(byte);
    }

    fn receive_special(&mut self, mut byte: u8, outcome: &mut Outcome) {
        let t = self.termios;
        if t.has_input(IXON) {
            if self.is_key(byte, VSTART) {
                return self.start(outcome);
            }
            if self.is_key(byte, VSTOP) {
                return self.stop(outcome);
            }
        }
        if t.has_local(ISIG) {
            let signals = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)];
            let found = signals.into_iter().find(|&(key, _)| self.is_key(byte, key));
            if let Some((_, signal)) = found {
                return self.receive_signal(byte, signal, outcome);
            }
        }
        self.resume_by_any_key(outcome);
        match byte {
            b'\r' if t.has_input(IGNCR) => return,
            b'\r' if t.has_input(ICRNL) => byte = b'\n',
            b'\n' if t.has_input(INLCR) => byte = b'\r',
            _ => {}
        }
        if !(t.has_local(ICANON) && self.edit(byte)) {
            // A line feed that a carriage return became is shown as one.
            if byte == b'\n' && t.has_local(ECHO) {
                self.finish_erasing();
                self.output.echo(Echo::Byte(byte));
                self.put_marked(byte);
            } else {
                self.insert(byte);
            }
        }
    }

    fn receive_signal(&mut self, byte: u8, signal: u8, outcome: &mut Outcome) {
        outcome.add_signal(signal);
        if !self.termios.has_local(NOFLSH) {
            self.flush_input();
            self.output.drop_echoes();
            outcome.flushed = true;
        }
        if self.termios.has_input(IXON) {
            self.start(outcome);
        }
        if self.termios.has_local(ECHO) {
            self.echo(byte);
        }
    }

    /// Does what a key does to the line (canonical mode); false if it is an ordinary one.
    fn edit(&mut self, byte: u8) -> bool {
        let echoes = self.termios.has_local(ECHO);
        let extended = self.termios.has_local(IEXTEN);
        if self.is_key(byte, VERASE)
            || self.is_key(byte, VKILL)
            || (extended && self.is_key(byte, VWERASE))
        {
            self.erase(byte);
        } else if extended && self.is_key(byte, VLNEXT) {
            self.literal = true;
            if echoes {
                self.finish_erasing();
                if self.termios.has_local(ECHOCTL) {
                    self.output.echo(Echo::Byte(b'^'));
                    self.output.echo(Echo::Byte(b'\x08'));
                }
            }
        } else if extended && echoes && self.is_key(byte, VREPRINT) {
            self.finish_erasing();
            self.echo(byte);
            self.output.echo(Echo::Byte(b'\n'));
            let mut at = self.line_end;
            while at != self.head {
                self.echo(self.byte(at));
                at = at.wrapping_add(1);
            }
        } else if byte == b'\n' {
            if echoes || self.termios.has_local(ECHONL) {
                self.output.echo(Echo::Byte(byte));
            }
            self.end_line(byte);
        } else if self.is_key(byte, VEOF) {
            self.end_line(DISABLED);
        } else if self.is_key(byte, VEOL) || (extended && self.is_key(byte, VEOL2)) {
            if echoes {
                self.echo_typed(byte);
            }
            if byte == MARK && self.termios.has_input(PARMRK) {
                self.put(byte);
            }
            self.end_line(byte);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: u8) {
        self.mark_end(self.head, true);
        self.put(byte);
        self.line_end = self.head;
    }

    /// Shows a typed byte: control characters as `^X`.
    fn echo(&mut self, byte: u8) {
        let two = self.termios.has_local(ECHOCTL) && is_control(byte) && byte != b'\t';
        self.output.echo(if two { Echo::Control(byte) } else { Echo::Byte(byte) });
    }

    fn finish_erasing(&mut self) {
        if core::mem::take(&mut self.erasing) {
            self.output.echo(Echo::Byte(b'/'));
        }
    }

    /// Appends the echoes that wait to `screen`, unless output is held back.
    pub fn show_echoes(&mut self, screen: &mut Vec<u8>, limit: usize) {
        if !self.stopped {
            self.output.show_echoes(&self.termios, screen, limit);
        }
    }

    /// Whether echoes wait.
    pub fn has_echoes(&self) -> bool {
        self.output.has_echoes()
    }

    /// Appends to `screen` what a program's output looks like there, up to `limit` bytes in it; says how
    /// much of it that is. Nothing, if output is held back.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn show(&mut self, bytes: &[u8], screen: &mut Vec<u8>, limit: usize) -> Result<usize> {
        if self.stopped {
            return Ok(0);
        }
        self.output.show(bytes, &self.termios, screen, limit)
    }

    /// Whether output is held back.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    const fn start(&mut self, outcome: &mut Outcome) {
        if self.stopped && !self.held {
            self.stopped = false;
            outcome.stopped = Some(false);
        }
    }

    const fn stop(&mut self, outcome: &mut Outcome) {
        if !self.stopped {
            self.stopped = true;
            outcome.stopped = Some(true);
        }
    }

    /// A program holds output back, or no longer (TCXONC).
    pub const fn hold(&mut self, held: bool, outcome: &mut Outcome) {
        if self.held == held {
            return;
        }
        self.held = held;
        if held { self.stop(outcome) } else { self.start(outcome) }
    }
}

/// The lower-case letter, in Latin-1 as on Linux.
const fn lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 0x20,
        _ => byte,
    }
}
