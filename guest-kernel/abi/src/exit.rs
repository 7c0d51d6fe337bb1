//! How the guest ends the virtual machine: one 32-bit write to [`crate::layout::EXIT_PORT`].
//!
//! Bits 7:0 are a value, bits 15:8 its kind, bits 23:16 which of several it is about; the rest is zero. The VMM treats anything else as a
//! broken kernel. The port is QEMU's `isa-debug-exit` by default, so a QEMU guest ends too.

/// How the virtual machine ended, as the guest tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program called `exit_group` with this status.
    Exited(u8),
    /// This signal killed the program.
    Signaled(u8),
    /// The kernel panicked; why is on the serial port.
    Panicked,
    /// The program could not be started, with this error number: it is not something the kernel can
    /// execute.
    NotExecutable(u8),
    /// The program could not be started: no such file in the root image.
    NotFound,
    /// The program could not be started: its interpreter or dynamic linker is not in the root image.
    NoInterpreter,
    /// The root image could not be mounted, with this error number.
    NoRoot(u8),
    /// The working directory could not be entered, with this error number.
    NoDirectory(u8),
    /// A volume could not be mounted.
    NoVolume {
        /// Which, as they are on the command line.
        index: u8,
        /// The error number.
        error: u8,
    },
}

const EXITED: u32 = 0;
const SIGNALED: u32 = 1;
const PANICKED: u32 = 2;
const NOT_EXECUTABLE: u32 = 3;
const NOT_FOUND: u32 = 4;
const NO_INTERPRETER: u32 = 5;
const NO_ROOT: u32 = 6;
const NO_DIRECTORY: u32 = 7;
const NO_VOLUME: u32 = 8;

impl Exit {
    /// The word to write to the port.
    pub const fn to_word(self) -> u32 {
        let (kind, value) = match self {
            Self::Exited(status) => (EXITED, status),
            Self::Signaled(signal) => (SIGNALED, signal),
            Self::Panicked => (PANICKED, 0),
            Self::NotExecutable(error) => (NOT_EXECUTABLE, error),
            Self::NotFound => (NOT_FOUND, 0),
            Self::NoInterpreter => (NO_INTERPRETER, 0),
            Self::NoRoot(error) => (NO_ROOT, error),
            Self::NoDirectory(error) => (NO_DIRECTORY, error),
            Self::NoVolume { index, error } => ((index as u32) << 8 | NO_VOLUME, error),
        };
        kind << 8 | value as u32
    }

    /// The meaning of a word that the guest wrote, if it has one.
    pub const fn from_word(word: u32) -> Option<Self> {
        let [value, kind, index, _] = word.to_le_bytes();
        if kind as u32 == NO_VOLUME && word >> 24 == 0 {
            return Some(Self::NoVolume { index, error: value });
        }
        Some(match word >> 8 {
            EXITED => Self::Exited(value),
            SIGNALED if value > 0 && value <= 64 => Self::Signaled(value),
            PANICKED if value == 0 => Self::Panicked,
            NOT_EXECUTABLE => Self::NotExecutable(value),
            NOT_FOUND if value == 0 => Self::NotFound,
            NO_INTERPRETER if value == 0 => Self::NoInterpreter,
            NO_ROOT => Self::NoRoot(value),
            NO_DIRECTORY => Self::NoDirectory(value),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn every_word_that_has_a_meaning_is_written_the_same_way() {
        for word in (0..0x1_0000).chain([0xff_08ff]) {
            if let Some(exit) = Exit::from_word(word) {
                assert_eq!(exit.to_word(), word);
            }
        }
        assert_eq!(Exit::from_word(0x1_0000), None);
        assert_eq!(Exit::from_word(Exit::Signaled(9).to_word()), Some(Exit::Signaled(9)));
    }
}
