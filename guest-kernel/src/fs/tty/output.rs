//! The way to the screen: what output looks like there, and echoes that wait for it.

use super::termios::Termios;
use crate::errno::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use linux_raw_sys::general::{IUTF8, OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, XTABS};

/// Echoes that wait, at most; of more, the oldest are lost, as on Linux.
const ECHO_LIMIT: usize = 4096;
/// Columns from one tab stop to the next: no byte becomes more bytes than that.
pub const LONGEST: usize = 8;

/// Whether it is a control character.
pub const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// Whether it goes on with a character of several bytes.
pub const fn is_continuation(byte: u8, termios: &Termios) -> bool {
    termios.has_input(IUTF8) && byte & 0xc0 == 0x80
}

/// Something to be shown of what was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// This byte, as if it was output.
    Byte(u8),
    /// This control character as `^X`.
    Control(u8),
    /// The line that is typed begins at this column.
    Origin,
    /// What follows takes no place of its own: a byte of a character that was counted.
    Back,
    /// A tab disappears, which so many columns were before: since the tab before it, or else since
    /// the line's origin.
    EraseTab {
        /// Columns.
        columns: usize,
        /// Whether there is a tab before it.
        after_tab: bool,
    },
}

/// The state of what is on its way to the screen.
#[derive(Default)]
pub struct Output {
    /// Where the cursor is, as far as output tells.
    column: usize,
    /// Where the line that is typed begins.
    origin: usize,
    echoes: VecDeque<Echo>,
}

impl Output {
    /// Nothing shown yet.
    pub const fn new() -> Self {
        Self { column: 0, origin: 0, echoes: VecDeque::new() }
    }

    /// Adds an echo. Without memory for it, it is lost.
    pub fn echo(&mut self, echo: Echo) {
        if self.echoes.len() >= ECHO_LIMIT {
            self.echoes.pop_front();
        }
        if self.echoes.try_reserve(1).is_ok() {
            self.echoes.push_back(echo);
        }
    }

    /// Forgets the echoes that wait.
    pub fn drop_echoes(&mut self) {
        self.echoes.clear();
    }

    /// Whether echoes wait.
    pub fn has_echoes(&self) -> bool {
        !self.echoes.is_empty()
    }

    /// Appends the echoes that wait to `screen`, as long as that leaves it below `limit` bytes.
    pub fn show_echoes(&mut self, termios: &Termios, screen: &mut Vec<u8>, limit: usize) {
        while screen.len() + LONGEST <= limit {
            let Some(echo) = self.echoes.pop_front() else { return };
            match echo {
                Echo::Byte(byte) if termios.has_output(OPOST) => self.put(byte, termios, screen),
                Echo::Byte(byte) => screen.push(byte),
                Echo::Control(byte) => {
                    screen.extend_from_slice(&[b'^', byte ^ 0x40]);
                    self.column += 2;
                }
                Echo::Origin => self.origin = self.column,
                Echo::Back => self.column = self.column.saturating_sub(1),
                Echo::EraseTab { columns, after_tab } => {
                    let before = if after_tab { columns } else { columns + self.origin };
                    let count = LONGEST - before % LONGEST;
                    screen.extend(core::iter::repeat_n(b'\x08', count));
                    self.column = self.column.saturating_sub(count);
                }
            }
        }
    }

    /// Appends to `screen` what a program's output looks like there, as long as that leaves it below
    /// `limit` bytes; says how many bytes that was.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn show(
        &mut self,
        bytes: &[u8],
        termios: &Termios,
        screen: &mut Vec<u8>,
        limit: usize,
    ) -> Result<usize> {
        if !termios.has_output(OPOST) {
            let count = bytes.len().min(limit.saturating_sub(screen.len()));
            screen.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
            screen.extend_from_slice(&bytes[..count]);
            return Ok(count);
        }
        for (done, &byte) in bytes.iter().enumerate() {
            if screen.len() + LONGEST > limit {
                return Ok(done);
            }
            screen.try_reserve(LONGEST).map_err(|_| Errno::ENOMEM)?;
            self.put(byte, termios, screen);
        }
        Ok(bytes.len())
    }

    /// Output processing (termios(3), `c_oflag`).
    fn put(&mut self, mut byte: u8, termios: &Termios, screen: &mut Vec<u8>) {
        match byte {
            b'\n' => {
                if termios.has_output(ONLRET | ONLCR) {
                    self.column = 0;
                }
                self.origin = self.column;
                if termios.has_output(ONLCR) {
                    screen.push(b'\r');
                }
            }
            b'\r' if termios.has_output(ONOCR) && self.column == 0 => return,
            b'\r' => {
                let returns = !termios.has_output(OCRNL) || termios.has_output(ONLRET);
                if termios.has_output(OCRNL) {
                    byte = b'\n';
                }
                if returns {
                    (self.column, self.origin) = (0, 0);
                }
            }
            b'\t' => {
                let count = LONGEST - self.column % LONGEST;
                self.column += count;
                if termios.output & TABDLY == XTABS {
                    screen.extend(core::iter::repeat_n(b' ', count));
                    return;
                }
            }
            b'\x08' => self.column = self.column.saturating_sub(1),
            _ if is_control(byte) => {}
            _ => {
                if termios.has_output(OLCUC) {
                    byte = upper(byte);
                }
                if !is_continuation(byte, termios) {
                    self.column += 1;
                }
            }
        }
        screen.push(byte);
    }
}

/// The upper-case letter, in Latin-1 as on Linux.
const fn upper(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | 0xe0..=0xf6 | 0xf8..=0xfe => byte - 0x20,
        _ => byte,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(output: u32, bytes: &[u8]) -> Vec<u8> {
        let mut screen = Vec::new();
        let termios = Termios { output, ..Termios::PSEUDO };
        let count = Output::new().show(bytes, &termios, &mut screen, 1000);
        assert_eq!(count, Ok(bytes.len()));
        screen
    }

    #[test]
    fn line_ends_are_translated() {
        assert_eq!(shown(0, b"a\nb\r\tc"), b"a\nb\r\tc");
        assert_eq!(shown(OPOST | ONLCR, b"a\nb"), b"a\r\nb");
        assert_eq!(shown(OPOST | OCRNL, b"a\rb"), b"a\nb");
        assert_eq!(shown(OPOST | ONOCR, b"\ra\r\rb"), b"a\rb");
        // A line feed returns the cursor: the carriage return after it does nothing.
        assert_eq!(shown(OPOST | ONOCR | ONLRET, b"a\n\rb"), b"a\nb");
        assert_eq!(shown(OPOST | ONOCR, b"a\n\rb"), b"a\n\rb");
    }

    #[test]
    fn tabs_become_spaces() {
        assert_eq!(shown(OPOST | XTABS, b"ab\tc\t"), b"ab      c       ");
        assert_eq!(shown(OPOST | XTABS | ONLCR, b"ab\x08\n\tx"), b"ab\x08\r\n        x");
        assert_eq!(shown(OPOST | OLCUC, b"aB\xe4"), b"AB\xc4");
    }

    #[test]
    fn no_more_is_shown_than_there_is_room_for() {
        let mut screen = Vec::new();
        let mut output = Output::new();
        let lines = [b'\n'; 100];
        let count = output.show(&lines, &Termios::PSEUDO, &mut screen, 50).expect("memory");
        assert!(count > 10 && count < 25 && screen.len() == 2 * count);
        for _ in 0..10_000 {
            output.echo(Echo::Byte(b'x'));
        }
        output.show_echoes(&Termios::PSEUDO, &mut screen, usize::MAX);
        assert_eq!(screen.len(), 2 * count + ECHO_LIMIT);
    }
}
