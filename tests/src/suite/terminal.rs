//! `airlock run -t`: a terminal for the program, and the user's terminal as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::ensure;
use crate::command::heed_signals;
use crate::harness::{Context, Tests};

/// A pseudo-terminal and a command on it.
pub(super) struct Session {
    master: File,
    slave: OwnedFd,
    child: Child,
    /// The local modes of the terminal before the command began.
    pub(super) before: u32,
    seen: Vec<u8>,
    deadline: Instant,
}

impl Session {
    /// Starts `airlock run -t PROGRAM...` on a terminal of 33 rows and 101 columns.
    pub(super) fn start(context: &Context, program: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(&context.airlock);
        command.args(["run", "-t"]).arg(context.fixture(program[0])).args(&program[1..]);
        Self::start_command(context, command)
    }

    /// Starts a program on such a terminal without a microVM.
    pub(super) fn start_on_host(context: &Context, program: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(context.fixture(program[0]));
        command.args(&program[1..]);
        Self::start_command(context, command)
    }

    fn start_command(context: &Context, mut command: Command) -> Result<Self, String> {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: two descriptors to fill in, no name, no settings, and a size that lives across the call.
        let result = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        ensure(result == 0, || "cannot open a pseudo-terminal".to_owned())?;
        // SAFETY: both descriptors are new, and nobody else's.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let copy = || slave.try_clone().map_err(|error| error.to_string());
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?).env("TERM", "vt100");
        let become_leader = || {
            // SAFETY: setsid(2) takes nothing, and TIOCSCTTY a number.
            let result = unsafe { libc::setsid() | libc::ioctl(0, libc::TIOCSCTTY, 0) };
            if result < 0 { Err(std::io::Error::last_os_error()) } else { heed_signals() }
        };
        // SAFETY: the closure makes system calls and nothing else.
        unsafe { command.pre_exec(become_leader) };
        let before = local_modes(&slave);
        let child = command.spawn().map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(20) * context.patience;
        Ok(Self { master, slave, child, before, seen: Vec::new(), deadline })
    }

    /// Reads until the screen has shown these words.
    pub(super) fn expect(&mut self, words: &str) -> Result<(), String> {
        while !self.shows(words) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure(self.read_within(left)?, || {
                format!("waited for '{words}', and saw '{}'", self.seen.escape_ascii())
            })?;
        }
        Ok(())
    }

    /// Reads until the last thing that the screen has shown is one of these.
    pub(super) fn expect_last(&mut self, ends: &[&str]) -> Result<(), String> {
        while !ends.iter().any(|end| self.seen.ends_with(end.as_bytes())) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure(self.read_within(left)?, || {
                format!("waited for one of {ends:?}, and saw '{}'", self.seen.escape_ascii())
            })?;
        }
        Ok(())
    }

    /// Makes sure that the screen does not show these words.
    pub(super) fn expect_hidden(&mut self, words: &str) -> Result<(), String> {
        while self.read_within(Duration::ZERO)? {}
        ensure(!self.shows(words), || format!("'{words}' in '{}'", self.seen.escape_ascii()))
    }

    fn shows(&self, words: &str) -> bool {
        self.seen.windows(words.len()).any(|window| window == words.as_bytes())
    }

    /// Reads what the screen is to show; false if that is nothing for so long.
    fn read_within(&mut self, limit: Duration) -> Result<bool, String> {
        let mut poll =
            libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which lives across the call.
        if unsafe { libc::poll(&raw mut poll, 1, limit) } <= 0 {
            return Ok(false);
        }
        let mut some = [0; 1000];
        let count = self
            .master
            .read(&mut some)
            .map_err(|error| format!("{error}: '{}'", self.seen.escape_ascii()))?;
        self.seen.extend(&some[..count]);
        Ok(true)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.master.write_all(bytes).map_err(|error| error.to_string())
    }

    /// Gives the terminal's window another size.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the call reads one size, which lives across it.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    /// Sends the command a signal.
    pub(super) fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its number is still its own.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap_or(0), signal) };
    }

    /// The local modes of the terminal now.
    pub(super) fn modes(&self) -> u32 {
        local_modes(&self.slave)
    }

    /// Waits until the command has the terminal in raw mode: what is typed before that, the host shows.
    pub(super) fn wait_until_raw(&self) -> Result<(), String> {
        while self.modes() & libc::ICANON != 0 {
            ensure(Instant::now() < self.deadline, || "the terminal stays as it was".to_owned())?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<i32, String> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
            }
            if Instant::now() > self.deadline {
                drop(self.child.kill());
                drop(self.child.wait());
                return Err(format!(
                    "it does not end; the screen shows '{}'",
                    self.seen.escape_ascii()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing of a test that failed stays behind; both calls do nothing to a child that was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a terminal echoes, edits lines, and makes signals of keys.
fn local_modes(terminal: &OwnedFd) -> u32 {
    // SAFETY: all-zero bytes are a valid `termios`, and the call fills it in.
    let settings = unsafe {
        let mut settings: libc::termios = mem::zeroed();
        libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings);
        settings
    };
    settings.c_lflag
}

pub(super) fn add(tests: &mut Tests) {
    tests.add("terminal/size and kind", |context| {
        let mut session = Session::start(context, &["busybox", "stty", "size"])?;
        session.expect("33 101")?;
        let status = session.finish()?;
        ensure(status == 0, || format!("status {status}"))
    });
    tests.add("terminal/is one", |context| {
        let mut session = Session::start(
            context,
            &["busybox", "sh", "-c", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; exit 3"],
        )?;
        session.expect("all three")?;
        let status = session.finish()?;
        ensure(status == 3, || format!("status {status}"))
    });
    tests.add("terminal/lines and their echo", |context| {
        let mut session = Session::start(context, &["busybox", "head", "-n", "1"])?;
        let before = session.before;
        session.wait_until_raw()?;
        session.send(b"wrong\x15typed lime\x7f\x7fne\r")?;
        // By head: the echo shows the mistakes, too.
        session.expect("\ntyped line\r\n")?;
        let status = session.finish()?;
        ensure(status == 0 && session.modes() == before, || format!("status {status}"))
    });
    for (key, name, status) in [(b'\x03', "Ctrl-C", 130), (b'\x1c', "Ctrl-\\", 131)] {
        for state in ["sleep", "spin", "read"] {
            tests.add(
                format!("terminal/{name} to a program that does '{state}'"),
                move |context| {
                    let mut session = Session::start(context, &["wait", state])?;
                    let before = session.before;
                    session.expect("ready")?;
                    session.send(&[key])?;
                    let ended = session.finish()?;
                    ensure(ended == status, || format!("status {ended} instead of {status}"))?;
                    ensure(session.modes() == before, || "the terminal is not as it was".to_owned())
                },
            );
        }
    }
    for (name, signal) in [("SIGTERM", libc::SIGTERM), ("SIGHUP", libc::SIGHUP)] {
        tests.add(format!("terminal/is as it was after {name}"), move |context| {
            let mut session = Session::start(context, &["wait", "spin"])?;
            let before = session.before;
            session.expect("ready")?;
            session.signal(signal);
            let ended = session.finish()?;
            ensure(ended == 128 + signal, || format!("status {ended}"))?;
            ensure(session.modes() == before, || "the terminal is not as it was".to_owned())
        });
    }
    tests.add("terminal/-t without a terminal", |context| {
        let hello = context.fixture("hello-musl");
        let run = context
            .airlock()
            .args(["run", "-t"])
            .args([&hello])
            .directory(&context.directory)
            .run()?;
        ensure(run.status == 125 && run.complaint().lines().count() == 1, || {
            format!("{run:?}\n{}", run.complaint())
        })
    });
}
