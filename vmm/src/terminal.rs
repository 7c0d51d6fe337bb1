//! The terminal behind `airlock run -t`.
//!
//! While a program has the terminal, every byte typed is the program's: the terminal is in raw mode,
//! and the guest kernel does what a terminal does. However Airlock ends, the mode must be as it was.
//! Dropping [`RawMode`] restores it. In case that never happens (SIGKILL, a seccomp violation), a small
//! process waits for Airlock's end and restores it then.

use std::fs::File;
use std::io::{self, Read, Write, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use thiserror::Error;

use crate::seccomp::{self, Thread};

/// Descriptor of the terminal: standard input.
const TERMINAL: libc::c_int = libc::STDIN_FILENO;

/// Why there can be no terminal.
#[derive(Debug, Error)]
pub enum TerminalError {
    /// Standard input is something else.
    #[error("-t needs a terminal, and standard input is not one; run without -t")]
    NotATerminal,
    /// The terminal's mode cannot be changed.
    #[error("cannot set the mode of the terminal: {0}")]
    Mode(io::Error),
    /// The process that would restore the mode cannot be started.
    #[error("cannot start a process to restore the terminal: {0}")]
    Guardian(io::Error),
}

/// How many characters a terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// The size of the terminal's window, if standard input is one; ask again after SIGWINCH.
pub fn window_size() -> Option<WindowSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to where the argument points.
    let result = unsafe { libc::ioctl(TERMINAL, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(WindowSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// The terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct RawMode {
    saved: Mode,
    /// A byte through here tells the guardian that there is nothing left to restore.
    guardian: File,
}

impl RawMode {
    /// Switches the terminal to raw mode. Call this before there are other threads: it forks.
    ///
    /// # Errors
    ///
    /// If standard input is not a terminal, or the host refuses.
    pub fn enter() -> Result<Self, TerminalError> {
        let saved = Mode::current().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EBADF) => TerminalError::NotATerminal,
            _ => TerminalError::Mode(error),
        })?;
        let guardian = start_guardian(&saved).map_err(TerminalError::Guardian)?;
        let raw_mode = Self { saved, guardian };
        saved.raw().set().map_err(TerminalError::Mode)?;
        Ok(raw_mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the mode cannot be restored here (the terminal may be gone), neither can it elsewhere.
        if self.saved.set().is_ok() {
            let _ = self.guardian.write_all(&[1]);
        }
    }
}

/// A terminal's mode, as of tcgetattr(3).
#[derive(Clone, Copy, Debug)]
struct Mode(libc::termios);

impl Mode {
    fn current() -> io::Result<Self> {
        let mut mode = MaybeUninit::uninit();
        // SAFETY: tcgetattr writes a whole `termios` to where the argument points if it succeeds.
        unsafe {
            if libc::tcgetattr(TERMINAL, mode.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(mode.assume_init()))
        }
    }

    fn raw(mut self) -> Self {
        // SAFETY: the argument is a `termios` that tcgetattr has filled in.
        unsafe { libc::cfmakeraw(&raw mut self.0) };
        self
    }

    fn set(&self) -> io::Result<()> {
        // At once: waiting for pending output could take forever (Ctrl-S).
        // SAFETY: tcsetattr only reads the `termios`.
        match unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Forks the process that restores `mode` when this process ends without saying that it did so.
fn start_guardian(mode: &Mode) -> io::Result<File> {
    let (reader, writer) = pipe()?;
    // SAFETY: there are no other threads yet, so the child may do what any process may; it never
    // returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => guard(mode, File::from(OwnedFd::from(reader))),
        _ => Ok(File::from(OwnedFd::from(writer))),
    }
}

/// What the guardian does.
fn guard(mode: &Mode, mut reader: File) -> ! {
    // SAFETY: these calls affect nothing but this process, which owns no object with a descriptor
    // but `reader`, kept open. A session of its own keeps the terminal's signals and those to the
    // process group away; and no terminal stops a process for setting the mode of one that is not its own.
    unsafe {
        libc::setsid();
        let reader = libc::c_uint::try_from(reader.as_raw_fd()).unwrap_or(libc::c_uint::MAX);
        // Whoever reads Airlock's output must not wait for this process.
        if reader > 1 {
            libc::syscall(libc::SYS_close_range, 1, reader - 1, 0);
        }
        libc::syscall(
            libc::SYS_close_range,
            reader.saturating_add(1),
            libc::c_uint::MAX,
            0,
        );
    }
    let restricted = seccomp::restrict(Thread::Vmm).is_ok();
    let done = matches!(reader.read(&mut [0]), Ok(1..));
    if restricted && !done {
        let _ = mode.set();
    }
    // SAFETY: ends this process, without running what was registered in the one it was forked from.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_mode_passes_every_byte() {
        // SAFETY: all zeroes is a `termios`, with every flag off.
        let mut mode = Mode(unsafe { MaybeUninit::zeroed().assume_init() });
        mode.0.c_lflag = libc::ISIG | libc::ICANON | libc::ECHO;
        mode.0.c_oflag = libc::OPOST;
        mode.0.c_iflag = libc::ICRNL | libc::IXON;
        let raw = mode.raw().0;
        assert_eq!(raw.c_lflag & (libc::ISIG | libc::ICANON | libc::ECHO), 0);
        assert_eq!(
            (
                raw.c_oflag & libc::OPOST,
                raw.c_iflag & (libc::ICRNL | libc::IXON)
            ),
            (0, 0)
        );
    }
}
