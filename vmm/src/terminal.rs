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
        libc::syscall(libc::SYS_close_range, reader.saturating_add(1), libc::c_uint::MAX, 0);
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
    use std::env;
    use std::fs::OpenOptions;
    use std::io::{BufRead, BufReader};
    use std::os::fd::FromRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Tells a copy of this test program to be the one in the terminal, and how to end.
    const ENDING: &str = "AIRLOCK_TEST_TERMINAL_ENDING";

    /// A pseudo-terminal.
    struct PseudoTerminal {
        controller: File,
        terminal: File,
    }

    impl PseudoTerminal {
        fn open() -> Self {
            let (mut controller, mut terminal) = (-1, -1);
            // SAFETY: openpty stores two descriptors, which are nobody else's; the other arguments
            // may be null.
            unsafe {
                let name = std::ptr::null_mut();
                let result = libc::openpty(
                    &raw mut controller,
                    &raw mut terminal,
                    name,
                    std::ptr::null(),
                    std::ptr::null(),
                );
                assert_eq!(result, 0);
                Self {
                    controller: File::from_raw_fd(controller),
                    terminal: File::from_raw_fd(terminal),
                }
            }
        }

        fn is_raw(&self) -> bool {
            let mut mode = MaybeUninit::uninit();
            // SAFETY: tcgetattr writes a whole `termios` if it succeeds.
            let mode: libc::termios = unsafe {
                assert_eq!(libc::tcgetattr(self.terminal.as_raw_fd(), mode.as_mut_ptr()), 0);
                mode.assume_init()
            };
            mode.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
        }

        /// Starts `in_the_terminal` in a process of its own and waits until it says that it is ready.
        fn start(&self, ending: &str) -> (Child, impl Sized + use<>) {
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["--exact", "terminal::tests::in_the_terminal", "--nocapture"])
                .env(ENDING, ending)
                .stdin(self.terminal.try_clone().unwrap())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(output.any(|line| line.unwrap().contains("ready")));
            // The reader too, since the child writes more to it.
            (child, output)
        }

        fn restored_within(&self, limit: Duration) -> bool {
            let start = Instant::now();
            while self.is_raw() && start.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(1));
            }
            !self.is_raw()
        }
    }

    /// Not a test by itself: what the tests below run in a terminal.
    #[test]
    fn in_the_terminal() {
        let Ok(ending) = env::var(ENDING) else { return };
        let raw_mode = RawMode::enter().unwrap();
        println!("ready");
        let mut byte = [0];
        // The test has looked at the mode when it types this.
        io::stdin().read_exact(&mut byte).unwrap();
        match ending.as_str() {
            "drop" => drop(raw_mode),
            "exit" => std::process::exit(7),
            "abort" => std::process::abort(),
            "seccomp" => {
                seccomp::restrict(Thread::Vmm).unwrap();
                // SAFETY: no filter allows this call, and it takes nothing.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            _ => std::thread::sleep(Duration::from_secs(60)),
        }
    }

    fn ends_restored(ending: &str) -> std::process::ExitStatus {
        let mut terminal = PseudoTerminal::open();
        assert!(!terminal.is_raw());
        let (mut child, _output) = terminal.start(ending);
        assert!(terminal.is_raw());
        // Ctrl-C is a byte like any other.
        terminal.controller.write_all(&[3]).unwrap();
        if ending == "kill" {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        assert!(terminal.restored_within(Duration::from_secs(5)), "{ending}");
        status
    }

    #[test]
    fn the_mode_is_restored_however_the_process_ends() {
        assert!(ends_restored("drop").success());
        assert_eq!(ends_restored("exit").code(), Some(7));
        assert_eq!(ends_restored("abort").signal(), Some(libc::SIGABRT));
        assert_eq!(ends_restored("kill").signal(), Some(libc::SIGKILL));
        assert_eq!(ends_restored("seccomp").signal(), Some(libc::SIGSYS));
    }

    #[test]
    fn nothing_but_a_terminal_is_a_terminal() {
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "terminal::tests::in_the_terminal", "--nocapture"])
            .env(ENDING, "drop")
            .stdin(OpenOptions::new().read(true).open("/dev/null").unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(!status.status.success());
        assert!(String::from_utf8_lossy(&status.stderr).contains("NotATerminal"));
    }

    #[test]
    fn raw_mode_passes_every_byte() {
        // SAFETY: all zeroes is a `termios`, with every flag off.
        let mut mode = Mode(unsafe { MaybeUninit::zeroed().assume_init() });
        mode.0.c_lflag = libc::ISIG | libc::ICANON | libc::ECHO;
        mode.0.c_oflag = libc::OPOST;
        mode.0.c_iflag = libc::ICRNL | libc::IXON;
        let raw = mode.raw().0;
        assert_eq!(raw.c_lflag & (libc::ISIG | libc::ICANON | libc::ECHO), 0);
        assert_eq!((raw.c_oflag & libc::OPOST, raw.c_iflag & (libc::ICRNL | libc::IXON)), (0, 0));
    }
}
