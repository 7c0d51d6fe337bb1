//! Keys that take back what was typed, and what the screen shows of that.

use super::super::output::{Echo, is_continuation, is_control};
use super::Discipline;
use linux_raw_sys::general::{
    ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHOPRT, VERASE, VKILL, VWERASE,
};

impl Discipline {
    /// VERASE, VWERASE and VKILL.
    pub(super) fn erase(&mut self, key: u8) {
        if self.head == self.line_end {
            return;
        }
        let t = self.termios;
        let one = self.is_key(key, VERASE);
        let word = !one && self.is_key(key, VWERASE);
        if !one && !word {
            if !t.has_local(ECHO) {
                self.head = self.line_end;
                return;
            }
            if !(t.has_local(ECHOK) && t.has_local(ECHOKE) && t.has_local(ECHOE)) {
                self.head = self.line_end;
                self.finish_erasing();
                self.echo(t.character(VKILL));
                if t.has_local(ECHOK) {
                    self.output.echo(Echo::Byte(b'\n'));
                }
                return;
            }
        }
        let mut in_word = false;
        while self.head != self.line_end {
            let mut start = self.head;
            let byte = loop {
                start = start.wrapping_sub(1);
                let byte = self.byte(start);
                if !is_continuation(byte, &t) || start == self.line_end {
                    break byte;
                }
            };
            // A character that lacks its beginning stays.
            if is_continuation(byte, &t) {
                break;
            }
            if word {
                if is_word(byte) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let end = core::mem::replace(&mut self.head, start);
            if t.has_local(ECHO) {
                self.echo_erased(byte, end, one);
            }
            if one {
                break;
            }
        }
        if self.head == self.line_end && t.has_local(ECHO) {
            self.finish_erasing();
        }
    }

    /// Shows that the character from `head` to `end` is gone.
    fn echo_erased(&mut self, byte: u8, end: usize, one: bool) {
        let t = self.termios;
        if t.has_local(ECHOPRT) {
            if !core::mem::replace(&mut self.erasing, true) {
                self.output.echo(Echo::Byte(b'\\'));
            }
            self.echo(byte);
            let mut at = self.head.wrapping_add(1);
            while at != end {
                self.output.echo(Echo::Byte(self.byte(at)));
                self.output.echo(Echo::Back);
                at = at.wrapping_add(1);
            }
        } else if one && !t.has_local(ECHOE) {
            self.echo(t.character(VERASE));
        } else if byte == b'\t' {
            let (columns, after_tab) = self.columns_before();
            self.output.echo(Echo::EraseTab { columns, after_tab });
        } else {
            let width = if !is_control(byte) {
                1
            } else if t.has_local(ECHOCTL) {
                2
            } else {
                0
            };
            for _ in 0..width {
                for byte in [b'\x08', b' ', b'\x08'] {
                    self.output.echo(Echo::Byte(byte));
                }
            }
        }
    }

    /// Columns that the line takes before its end, since the last tab or else since its beginning.
    fn columns_before(&self) -> (usize, bool) {
        let mut columns = 0;
        let mut at = self.head;
        while at != self.line_end {
            at = at.wrapping_sub(1);
            let byte = self.byte(at);
            if byte == b'\t' {
                return (columns, true);
            }
            if is_control(byte) {
                columns += if self.termios.has_local(ECHOCTL) { 2 } else { 0 };
            } else if !is_continuation(byte, &self.termios) {
                columns += 1;
            }
        }
        (columns, false)
    }
}

/// Letters, digits and `_`, in Latin-1 as on Linux: what ^W erases at once.
const fn is_word(byte: u8) -> bool {
    let is_latin = byte >= 0xc0 && byte != 0xd7 && byte != 0xf7;
    byte.is_ascii_alphanumeric() || byte == b'_' || is_latin
}
