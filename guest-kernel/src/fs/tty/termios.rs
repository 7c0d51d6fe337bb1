//! The settings of a terminal, as `termios(3)` and the ioctls that carry them have them.

use crate::memory::user::Plain;
use linux_raw_sys::general::{
    B0, BOTHER, CBAUD, CREAD, CS8, CSIZE, ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, HUPCL, ICANON,
    ICRNL, IEXTEN, ISIG, IUTF8, IXON, ONLCR, OPOST, PARENB, VSTART, VSTOP,
};

/// `_POSIX_VDISABLE`: no key has this function.
pub const DISABLED: u8 = 0;
/// 38400 baud, the usual pretence.
const B38400: u32 = 0xf;
/// How far the input speed is from the output speed in the control modes.
const IBSHIFT: u32 = 16;

/// The rates that the control modes have a number for: first those without the bit `CBAUDEX`, then
/// those with it, of which the first is `BOTHER`.
const BAUD: [u32; 32] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 0, 57600,
    115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
    2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// `struct termios2`: all there is.
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
    /// Rate of input, in baud.
    pub input_speed: u32,
    /// Rate of output, in baud.
    pub output_speed: u32,
}

// SAFETY: integers, 44 bytes without a gap.
unsafe impl Plain for Termios {}
const _: () = assert!(size_of::<Termios>() == 44);

/// The kernel's `struct termios`, as TCGETS and TCSETS copy it: without rates.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ShortTermios {
    modes: [u32; 4],
    line: u8,
    characters: [u8; 19],
}

// SAFETY: integers, 36 bytes without a gap.
unsafe impl Plain for ShortTermios {}
const _: () = assert!(size_of::<ShortTermios>() == 36);

/// `struct termio` of System V, as TCGETA and TCSETA copy it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Termio {
    modes: [u16; 4],
    line: u8,
    characters: [u8; 8],
    padding: u8,
}

// SAFETY: integers; the gap is a field of its own.
unsafe impl Plain for Termio {}
const _: () = assert!(size_of::<Termio>() == 18);

fn low_half(mode: u32) -> u16 {
    let [low, high, ..] = mode.to_le_bytes();
    u16::from_le_bytes([low, high])
}

impl Termios {
    /// What a pseudo-terminal starts with.
    pub const PSEUDO: Self = Self {
        input: ICRNL | IXON,
        output: OPOST | ONLCR,
        control: B38400 | CS8 | CREAD,
        local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        line: 0,
        // intr ^C, quit ^\, erase DEL, kill ^U, eof ^D, time 0, min 1, swtc -, start ^Q, stop ^S,
        // susp ^Z, eol -, reprint ^R, discard ^O, werase ^W, lnext ^V, eol2 -
        characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        input_speed: 38400,
        output_speed: 38400,
    };

    /// What the user's terminal starts with: terminals of today speak UTF-8.
    pub const CONSOLE: Self =
        Self { input: ICRNL | IXON | IUTF8, control: B38400 | CS8 | CREAD | HUPCL, ..Self::PSEUDO };

    /// No bit and no character: nothing is locked (TIOCGLCKTRMIOS).
    pub const NOTHING: Self = Self {
        input: 0,
        output: 0,
        control: 0,
        local: 0,
        line: 0,
        characters: [0; 19],
        input_speed: 0,
        output_speed: 0,
    };

    /// Whether one of these input modes is on.
    pub const fn has_input(&self, flags: u32) -> bool {
        self.input & flags != 0
    }

    /// Whether one of these output modes is on.
    pub const fn has_output(&self, flags: u32) -> bool {
        self.output & flags != 0
    }

    /// Whether one of these local modes is on.
    pub const fn has_local(&self, flags: u32) -> bool {
        self.local & flags != 0
    }

    /// A special character, by its `V` number.
    pub fn character(&self, key: u32) -> u8 {
        self.characters.get(key as usize).copied().unwrap_or(DISABLED)
    }

    /// Whether keys hold output back, and are the usual ones (packet mode tells of that).
    pub fn has_usual_flow_control(&self) -> bool {
        self.has_input(IXON) && self.character(VSTOP) == 0x13 && self.character(VSTART) == 0x11
    }

    /// The rates that the control modes stand for, in numbers.
    #[must_use]
    pub fn with_speeds(mut self) -> Self {
        let rate = |code: u32, other: u32| {
            if code == BOTHER {
                return other;
            }
            let extended = if code & BOTHER != 0 { 16 } else { 0 };
            BAUD.get((code & 0xf | extended) as usize).copied().unwrap_or(0)
        };
        let output = rate(self.control & CBAUD, self.output_speed);
        let input = self.control >> IBSHIFT & CBAUD;
        self.input_speed = if input == B0 { output } else { rate(input, self.input_speed) };
        self.output_speed = output;
        self
    }

    /// What of these settings a pseudo-terminal takes: it has eight bits and no parity.
    #[must_use]
    pub const fn of_pseudo(mut self) -> Self {
        self.control = self.control & !(CSIZE | PARENB) | CS8 | CREAD;
        self
    }

    /// These settings, but for what is locked, which stays as it is in `before`.
    #[must_use]
    pub fn unless_locked(mut self, locked: &Self, before: &Self) -> Self {
        let merge = |new: &mut u32, old: u32, mask: u32| *new = *new & !mask | old & mask;
        merge(&mut self.input, before.input, locked.input);
        merge(&mut self.output, before.output, locked.output);
        merge(&mut self.control, before.control, locked.control);
        merge(&mut self.local, before.local, locked.local);
        if locked.line != 0 {
            self.line = before.line;
        }
        for (at, key) in self.characters.iter_mut().enumerate() {
            if locked.characters[at] != 0 {
                *key = before.characters[at];
            }
        }
        self
    }

    /// The same without rates.
    pub const fn short(&self) -> ShortTermios {
        ShortTermios {
            modes: [self.input, self.output, self.control, self.local],
            line: self.line,
            characters: self.characters,
        }
    }

    /// These settings, changed by those.
    #[must_use]
    pub const fn with_short(self, short: &ShortTermios) -> Self {
        let [input, output, control, local] = short.modes;
        let ShortTermios { line, characters, .. } = *short;
        Self { input, output, control, local, line, characters, ..self }
    }

    /// The part that System V had.
    pub fn termio(&self) -> Termio {
        let mut characters = [0; 8];
        characters.copy_from_slice(&self.characters[..8]);
        Termio {
            modes: [self.input, self.output, self.control, self.local].map(low_half),
            line: self.line,
            characters,
            padding: 0,
        }
    }

    /// These settings, with that part changed.
    #[must_use]
    pub fn with_termio(mut self, termio: &Termio) -> Self {
        let modes = [&mut self.input, &mut self.output, &mut self.control, &mut self.local];
        for (mode, low) in modes.into_iter().zip(termio.modes) {
            *mode = *mode & !0xffff | u32::from(low);
        }
        self.line = termio.line;
        self.characters[..8].copy_from_slice(&termio.characters);
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_control_modes() {
        let with = |control| Termios { control, ..Termios::PSEUDO }.with_speeds();
        let speeds = |control| (with(control).input_speed, with(control).output_speed);
        assert_eq!(speeds(0xd), (9600, 9600));
        assert_eq!(speeds(0x1002), (115_200, 115_200));
        assert_eq!(speeds(0xd << IBSHIFT | 0x1001), (9600, 57600));
        // The numbers themselves.
        assert_eq!(speeds(BOTHER), (38400, 38400));
    }

    #[test]
    fn what_is_locked_stays() {
        let locked = Termios { local: ECHO, ..Termios::NOTHING };
        let new = Termios { local: 0, ..Termios::PSEUDO };
        assert_eq!(new.unless_locked(&locked, &Termios::PSEUDO).local, ECHO);
    }

    #[test]
    fn the_old_structure_is_a_part_of_the_new_one() {
        let mut termio = Termios::CONSOLE.termio();
        assert_eq!(Termios::CONSOLE.with_termio(&termio), Termios::CONSOLE);
        termio.characters[0] = 9;
        assert_eq!(Termios::CONSOLE.with_termio(&termio).character(0), 9);
    }
}
