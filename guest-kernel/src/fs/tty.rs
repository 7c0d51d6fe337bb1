//! The line discipline of a terminal (`termios(3)`): what happens to bytes between the user and the
//! program.
//!
//! Pure: bytes go in, bytes and signals come out. [`super::terminal`] connects it to the console.

use crate::memory::user::Plain;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    CREAD, CS8, ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, HUPCL, ICANON, ICRNL, IEXTEN, IGNCR,
    INLCR, ISIG, IUTF8, IXANY, IXON, NOFLSH, OCRNL, ONLCR, ONLRET, ONOCR, OPOST, SIGINT, SIGQUIT,
    SIGTSTP, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN, VQUIT, VREPRINT, VSTART, VSTOP,
    VSUSP, VTIME, VWERASE,
};

/// Bytes that wait to be read, at most (`N_TTY_BUF_SIZE`).
const CAPACITY: usize = 4096;
/// `_POSIX_VDISABLE`: no key has this function.
const DISABLED: u8 = 0;
/// 38400 baud, the usual pretence.
const B38400: u32 = 0xf;

/// The kernel's `struct termios`, as TCGETS and TCSETS copy it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    /// Input modes.
    pub input: u32,
    /// Output modes.
    pub output: u32,
    /// Control modes.
    pub control: u32,
    /// Local modes.
    pub local: u32,
    /// Number of the line discipline.
    pub line: u8,
    /// Special characters.
    pub characters: [u8; 19],
}

// SAFETY: integers, 36 bytes without a gap.
unsafe impl Plain for Termios {}
const _: () = assert!(size_of::<Termios>() == 36);

impl Termios {
    /// What a terminal starts with.
    pub const DEFAULT: Self = Self {
        input: ICRNL | IXON | IUTF8,
        output: OPOST | ONLCR,
        control: B38400 | CS8 | CREAD | HUPCL,
        local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        line: 0,
        // intr ^C, quit ^\, erase DEL, kill ^U, eof ^D, time 0, min 1, swtc -, start ^Q, stop ^S,
        // susp ^Z, eol -, reprint ^R, discard ^O, werase ^W, lnext ^V, eol2 -
        characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
    };

    const fn has_input(&self, flag: u32) -> bool {
        self.input & flag != 0
    }

    const fn has_output(&self, flag: u32) -> bool {
        self.output & flag != 0
    }

    const fn has_local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    fn is_key(&self, byte: u8, key: u32) -> bool {
        byte != DISABLED && self.characters.get(key as usize) == Some(&byte)
    }

    fn character(&self, key: u32) -> u8 {
        self.characters.get(key as usize).copied().unwrap_or(DISABLED)
    }
}

/// `struct winsize`, as TIOCGWINSZ copies it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// Width in pixels, if known.
    pub width: u16,
    /// Height in pixels, if known.
    pub height: u16,
}

// SAFETY: four integers without a gap.
unsafe impl Plain for WindowSize {}

/// What a read has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it returns what there is.
    Ready,
    /// More input.
    Input,
    /// More input, or the end of so many tenths of a second.
    InputWithin(u8),
}

/// A terminal's state.
pub struct Discipline {
    termios: Termios,
    /// The line being typed (canonical mode).
    editing: Vec<u8>,
    /// Whether the next byte is taken literally (^V).
    literal: bool,
    /// What can be read.
    ready: VecDeque<u8>,
    /// Lengths of the lines in `ready`; an empty one is an end of file. Bytes beyond the last are
    /// not part of any line: they came in raw mode.
    lines: VecDeque<usize>,
    /// Where the cursor is, as far as output tells, for ONOCR.
    column: usize,
    /// Output is held back (^S).
    stopped: bool,
    /// Nobody is at the other side any more.
    hung_up: bool,
}

impl Discipline {
    /// A terminal in its default mode.
    pub const fn new() -> Self {
        Self {
            termios: Termios::DEFAULT,
            editing: Vec::new(),
            literal: false,
            ready: VecDeque::new(),
            lines: VecDeque::new(),
            column: 0,
            stopped: false,
            hung_up: false,
        }
    }

    /// TCGETS.
    pub const fn termios(&self) -> &Termios {
        &self.termios
    }

    /// TCSETS; with `flush` what was typed and not read is forgotten (TCSETSF).
    pub fn set_termios(&mut self, termios: Termios, flush: bool) {
        if flush {
            self.flush_input();
        }
        let was_canonical = self.termios.has_local(ICANON);
        if self.termios.has_input(IXON) && !termios.has_input(IXON) {
            self.stopped = false;
        }
        self.termios = termios;
        if was_canonical && !termios.has_local(ICANON) {
            // What was typed so far can be read at once.
            self.ready.extend(self.editing.drain(..));
            self.lines.clear();
        } else if !was_canonical && termios.has_local(ICANON) && !self.ready.is_empty() {
            self.lines.push_back(self.ready.len());
        }
    }

    /// Forgets what was typed and not read (TCFLSH).
    pub fn flush_input(&mut self) {
        self.editing.clear();
        self.ready.clear();
        self.lines.clear();
        self.literal = false;
    }

    /// Takes a byte that the user typed. What is to appear on the screen is appended to `echo`;
    /// the result is the signal that the key stands for.
    pub fn input(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<u32> {
        let termios = self.termios;
        if core::mem::take(&mut self.literal) {
            self.insert(byte, echo);
            return None;
        }
        if termios.has_input(IXON) {
            if termios.is_key(byte, VSTART) || termios.is_key(byte, VSTOP) {
                self.stopped = termios.is_key(byte, VSTOP);
                return None;
            }
            self.stopped &= !termios.has_input(IXANY);
        }
        if termios.has_local(ISIG) {
            let signal = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)]
                .into_iter()
                .find(|&(key, _)| termios.is_key(byte, key));
            if let Some((_, signal)) = signal {
                if !termios.has_local(NOFLSH) {
                    self.flush_input();
                }
                if termios.has_input(IXON) {
                    self.stopped = false;
                }
                self.echo(byte, echo);
                return Some(signal);
            }
        }
        let byte = match byte {
            b'\r' if termios.has_input(IGNCR) => return None,
            b'\r' if termios.has_input(ICRNL) => b'\n',
            b'\n' if termios.has_input(INLCR) => b'\r',
            byte => byte,
        };
        if !termios.has_local(ICANON) {
            self.insert(byte, echo);
            return None;
        }
        let extended = termios.has_local(IEXTEN);
        if termios.is_key(byte, VERASE) {
            self.erase_character(echo);
        } else if extended && termios.is_key(byte, VWERASE) {
            self.erase_word(echo);
        } else if termios.is_key(byte, VKILL) {
            while self.erase_character(echo) {}
        } else if extended && termios.is_key(byte, VLNEXT) {
            self.literal = true;
            if termios.has_local(ECHO) && termios.has_local(ECHOCTL) {
                echo.extend_from_slice(b"^\x08");
            }
        } else if extended && termios.has_local(ECHO) && termios.is_key(byte, VREPRINT) {
            self.reprint(byte, echo);
        } else if termios.is_key(byte, VEOF) {
            self.end_line();
        } else if byte == b'\n' {
            if termios.has_local(ECHO) || termios.has_local(ECHONL) {
                self.output(b"\n", echo);
            }
            self.editing.push(byte);
            self.end_line();
        } else if termios.is_key(byte, VEOL) || (extended && termios.is_key(byte, VEOL2)) {
            self.insert(byte, echo);
            self.end_line();
        } else {
            self.insert(byte, echo);
        }
        None
    }

    fn insert(&mut self, byte: u8, echo: &mut Vec<u8>) {
        // One place stays free, so that a line can always be ended.
        if self.editing.len() + self.ready.len() + 1 >= CAPACITY {
            return;
        }
        if self.termios.has_local(ICANON) {
            self.editing.push(byte);
        } else {
            self.ready.push_back(byte);
        }
        self.echo(byte, echo);
    }

    fn end_line(&mut self) {
        if self.lines.len() >= CAPACITY {
            // Ends of file that nobody reads are not kept without end.
            self.editing.clear();
            return;
        }
        self.lines.push_back(self.editing.len());
        self.ready.extend(self.editing.drain(..));
    }

    /// Shows a typed byte: control characters as `^X`.
    fn echo(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if !self.termios.has_local(ECHO) {
            return;
        }
        if self.shows_as_two(byte) {
            echo.extend_from_slice(&[b'^', byte ^ 0x40]);
            self.column += 2;
        } else {
            self.output(&[byte], echo);
        }
    }

    fn shows_as_two(&self, byte: u8) -> bool {
        let is_control = byte < 0x20 || byte == 0x7f;
        self.termios.has_local(ECHOCTL) && is_control && byte != b'\t' && byte != b'\n'
    }

    /// Shows the line that is being typed once more.
    fn reprint(&mut self, key: u8, echo: &mut Vec<u8>) {
        self.echo(key, echo);
        self.output(b"\n", echo);
        let line = core::mem::take(&mut self.editing);
        for &byte in &line {
            self.echo(byte, echo);
        }
        self.editing = line;
    }

    fn erase_character(&mut self, echo: &mut Vec<u8>) -> bool {
        let Some(mut last) = self.editing.pop() else { return false };
        // The bytes that continue a UTF-8 character go with its first.
        while self.termios.has_input(IUTF8) && last & 0xc0 == 0x80 {
            match self.editing.pop() {
                Some(byte) => last = byte,
                None => break,
            }
        }
        if self.termios.has_local(ECHO) && self.termios.has_local(ECHOE) {
            let width = if self.shows_as_two(last) { 2 } else { 1 };
            for _ in 0..width {
                echo.extend_from_slice(b"\x08 \x08");
            }
            self.column = self.column.saturating_sub(width);
        }
        true
    }

    fn erase_word(&mut self, echo: &mut Vec<u8>) {
        while self.editing.last().is_some_and(u8::is_ascii_whitespace) {
            self.erase_character(echo);
        }
        while self.editing.last().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            self.erase_character(echo);
        }
    }

    /// Appends to `screen` what a program's output looks like there.
    pub fn output(&mut self, bytes: &[u8], screen: &mut Vec<u8>) {
        if !self.termios.has_output(OPOST) {
            screen.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            match byte {
                b'\n' => {
                    if self.termios.has_output(ONLCR) {
                        screen.push(b'\r');
                    }
                    if self.termios.has_output(ONLCR | ONLRET) {
                        self.column = 0;
                    }
                    screen.push(b'\n');
                }
                b'\r' => {
                    if self.termios.has_output(ONOCR) && self.column == 0 {
                        continue;
                    }
                    self.column = 0;
                    screen.push(if self.termios.has_output(OCRNL) { b'\n' } else { b'\r' });
                }
                b'\x08' => {
                    self.column = self.column.saturating_sub(1);
                    screen.push(byte);
                }
                _ => {
                    self.column = self.column.saturating_add(usize::from(byte >= 0x20));
                    screen.push(byte);
                }
            }
        }
    }

    /// Bytes that a read would return (FIONREAD).
    pub fn readable_bytes(&self) -> usize {
        self.ready.len()
    }

    /// How many more bytes it can take; the host keeps the rest until there is room.
    pub fn room(&self) -> usize {
        if self.hung_up {
            return 0;
        }
        let free = CAPACITY.saturating_sub(self.editing.len() + self.ready.len() + 1);
        // While nothing can be read, nothing would make room: a line that is too long loses bytes, so
        // that it can end.
        if self.termios.has_local(ICANON) && self.lines.is_empty() { free.max(1) } else { free }
    }

    /// Whether output is held back.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Holds output back, or no longer (TCXONC).
    pub const fn stop(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// The other side is gone: reads find the end.
    pub const fn hang_up(&mut self) {
        self.hung_up = true;
        self.stopped = false;
    }

    /// What `poll(2)` says.
    pub fn is_readable(&self) -> bool {
        // Linux looks at VMIN only where no time limits the wait for it.
        let minimum = match self.termios.character(VTIME) {
            0 => usize::from(self.termios.character(VMIN)),
            _ => 1,
        };
        self.demand(minimum.max(1)) == Demand::Ready && (self.hung_up || !self.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.lines.is_empty()
    }

    /// What a read of `len` bytes has to wait for (termios(3), "Canonical and noncanonical mode").
    pub fn demand(&self, len: usize) -> Demand {
        if self.hung_up {
            return Demand::Ready;
        }
        if self.termios.has_local(ICANON) {
            return if self.lines.is_empty() { Demand::Input } else { Demand::Ready };
        }
        let available = self.ready.len();
        let minimum = usize::from(self.termios.character(VMIN)).min(len);
        match (minimum, self.termios.character(VTIME)) {
            (0, 0) => Demand::Ready,
            (minimum, _) if available >= minimum.max(1) => Demand::Ready,
            (0, time) => Demand::InputWithin(time),
            (_, 0) => Demand::Input,
            // The clock runs from byte to byte.
            (_, time) if available > 0 => Demand::InputWithin(time),
            _ => Demand::Input,
        }
    }

    /// Takes what one read returns into `buffer`. Nothing at all is the end of the file.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let mut count = self.ready.len().min(buffer.len());
        if self.termios.has_local(ICANON) {
            // At most one line; what does not fit is left for the next read.
            let line = self.lines.front().copied().unwrap_or(0);
            count = count.min(line);
            if count == line {
                self.lines.pop_front();
            } else if let Some(front) = self.lines.front_mut() {
                *front -= count;
            }
        }
        for (target, byte) in buffer.iter_mut().zip(self.ready.drain(..count)) {
            *target = byte;
        }
        count
    }
}

impl Default for Discipline {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn type_keys(tty: &mut Discipline, keys: &[u8]) -> (String, Vec<u32>) {
        let (mut echo, mut signals) = (Vec::new(), Vec::new());
        for &key in keys {
            signals.extend(tty.input(key, &mut echo));
        }
        (String::from_utf8(echo).expect("text"), signals)
    }

    fn read(tty: &mut Discipline, len: usize) -> Option<String> {
        let mut buffer = std::vec![0; len];
        if tty.demand(len) != Demand::Ready {
            return None;
        }
        let count = tty.take(&mut buffer);
        buffer.truncate(count);
        Some(String::from_utf8(buffer).expect("text"))
    }

    #[test]
    fn a_line_is_read_when_it_is_complete() {
        let mut tty = Discipline::new();
        assert_eq!(type_keys(&mut tty, b"ab").0, "ab");
        assert_eq!(read(&mut tty, 10), None);
        assert_eq!(type_keys(&mut tty, b"\rcd\r").0, "\r\ncd\r\n");
        assert_eq!(read(&mut tty, 2).as_deref(), Some("ab"));
        assert_eq!(read(&mut tty, 10).as_deref(), Some("\n"));
        assert_eq!(read(&mut tty, 10).as_deref(), Some("cd\n"));
        assert_eq!(read(&mut tty, 10), None);
    }

    #[test]
    fn keys_edit_the_line() {
        let mut tty = Discipline::new();
        let (echo, _) = type_keys(&mut tty, b"one two\x17x\x7fy\x01\x7f\n");
        assert_eq!(read(&mut tty, 99).as_deref(), Some("one y\n"));
        assert!(echo.ends_with("^A\x08 \x08\x08 \x08\r\n"), "{echo:?}");
        type_keys(&mut tty, b"gone\x15kept\n");
        assert_eq!(read(&mut tty, 99).as_deref(), Some("kept\n"));
        type_keys(&mut tty, "aä\x7fb\x16\x7f\n".as_bytes());
        assert_eq!(read(&mut tty, 99).as_deref(), Some("ab\x7f\n"));
    }

    #[test]
    fn control_d_ends_the_file_or_hands_over_a_part_of_a_line() {
        let mut tty = Discipline::new();
        type_keys(&mut tty, b"part\x04\x04");
        assert_eq!(read(&mut tty, 99).as_deref(), Some("part"));
        assert_eq!(read(&mut tty, 99).as_deref(), Some(""));
        assert_eq!(read(&mut tty, 99), None);
    }

    #[test]
    fn keys_are_signals_and_drop_what_was_typed() {
        let mut tty = Discipline::new();
        let (echo, signals) = type_keys(&mut tty, b"abc\x03\x1c\x1a\n");
        assert_eq!(signals, [SIGINT, SIGQUIT, SIGTSTP]);
        assert_eq!(echo, "abc^C^\\^Z\r\n");
        assert_eq!(read(&mut tty, 99).as_deref(), Some("\n"));
    }

    #[test]
    fn raw_mode_hands_over_every_byte_and_changes_none() {
        let mut tty = Discipline::new();
        type_keys(&mut tty, b"typed");
        let mut raw = Termios { input: 0, output: 0, local: 0, ..*tty.termios() };
        tty.set_termios(raw, false);
        assert_eq!(read(&mut tty, 99).as_deref(), Some("typed"));
        assert_eq!(type_keys(&mut tty, b"\r\x03\x04\x7f"), (String::new(), Vec::new()));
        assert_eq!(read(&mut tty, 99).as_deref(), Some("\r\x03\x04\x7f"));
        assert_eq!(read(&mut tty, 99), None);
        raw.characters[VMIN as usize] = 3;
        tty.set_termios(raw, false);
        type_keys(&mut tty, b"12");
        assert_eq!(read(&mut tty, 99), None);
        type_keys(&mut tty, b"3");
        assert_eq!(read(&mut tty, 99).as_deref(), Some("123"));
        raw.characters[VMIN as usize] = 0;
        raw.characters[VTIME as usize] = 5;
        tty.set_termios(raw, false);
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::InputWithin(5), false));
        raw.characters[VTIME as usize] = 0;
        tty.set_termios(raw, false);
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Ready, false));
        let mut screen = Vec::new();
        tty.output(b"a\nb", &mut screen);
        assert_eq!(screen, b"a\nb");
    }

    #[test]
    fn a_raw_read_waits_for_its_minimum_or_from_byte_to_byte() {
        let mut tty = Discipline::new();
        let mut raw = Termios { input: 0, local: 0, ..*tty.termios() };
        raw.characters[VMIN as usize] = 3;
        raw.characters[VTIME as usize] = 2;
        tty.set_termios(raw, false);
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Input, false));
        type_keys(&mut tty, b"1");
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::InputWithin(2), true));
        // A read of one byte has all that it can take.
        assert_eq!(tty.demand(1), Demand::Ready);
        type_keys(&mut tty, b"23");
        assert_eq!(tty.demand(9), Demand::Ready);
        raw.characters[VTIME as usize] = 0;
        raw.characters[VMIN as usize] = 4;
        tty.set_termios(raw, false);
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Input, false));
    }

    #[test]
    fn control_s_holds_output_back_until_control_q_or_a_signal() {
        let mut tty = Discipline::new();
        assert_eq!(type_keys(&mut tty, b"a\x13b"), (String::from("ab"), Vec::new()));
        assert!(tty.is_stopped());
        type_keys(&mut tty, b"\x11");
        assert!(!tty.is_stopped());
        type_keys(&mut tty, b"\x13\x03");
        assert!(!tty.is_stopped());
        type_keys(&mut tty, b"\x13");
        tty.set_termios(Termios { input: 0, ..*tty.termios() }, false);
        assert!(!tty.is_stopped());
    }

    #[test]
    fn the_host_keeps_what_there_is_no_room_for() {
        let mut tty = Discipline::new();
        type_keys(&mut tty, b"line\n");
        type_keys(&mut tty, &[b'x'; CAPACITY]);
        assert_eq!(tty.room(), 0);
        assert_eq!(read(&mut tty, 99).as_deref(), Some("line\n"));
        // Now only the end of the long line can make something readable.
        assert!(tty.room() > 0);
        tty.hang_up();
        assert_eq!(tty.room(), 0);
        assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Ready, true));
    }

    #[test]
    fn a_user_who_types_without_end_does_not_fill_memory() {
        let mut tty = Discipline::new();
        type_keys(&mut tty, &[b'x'; 10_000]);
        assert!(tty.editing.len() < CAPACITY);
        type_keys(&mut tty, b"\n");
        let line = read(&mut tty, 10_000).expect("a line");
        assert!(line.ends_with("x\n") && line.len() <= CAPACITY);
        let mut ends = Discipline::new();
        type_keys(&mut ends, &[4; 10_000]);
        assert!(ends.lines.len() <= CAPACITY);
    }
}
