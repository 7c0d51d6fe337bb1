//! `airlock run -t`: a terminal for the program, and the user's terminal as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::ensure;
use crate::harness::{Context, Tests};

/// A pseudo-terminal and a command on it.
struct Session {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: Vec<u8>,
    deadline: Instant,
}

impl Session {
    /// Starts `airlock run -t PROGRAM...` on a terminal of 33 rows and 101 columns.
    fn start(context: &Context, program: &[&str]) -> Result<Self, String> {
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
        let mut command = Command::new(&context.airlock);
        command.args(["run", "-t"]).arg(context.fixture(program[0])).args(&program[1..]);
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?).env("TERM", "vt100");
        let become_leader = || {
            // SAFETY: setsid(2) takes nothing, and TIOCSCTTY a number.
            let result = unsafe { libc::setsid() | libc::ioctl(0, libc::TIOCSCTTY, 0) };
            if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: the closure makes two system calls and nothing else.
        unsafe { command.pre_exec(become_leader) };
        let child = command.spawn().map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(20) * context.patience;
        Ok(Self { master, slave, child, seen: Vec::new(), deadline })
    }

    /// Reads until the screen has shown these words.
    fn expect(&mut self, words: &str) -> Result<(), String> {
        while !self.seen.windows(words.len()).any(|window| window == words.as_bytes()) {
            let mut poll =
                libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let left = self.deadline.saturating_duration_since(Instant::now());
            // SAFETY: one pollfd, which lives across the call.
            let ready = unsafe {
                libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis()).unwrap_or(i32::MAX))
            };
            ensure(ready > 0, || {
                format!("waited for '{words}', and saw '{}'", self.seen.escape_ascii())
            })?;
            let mut some = [0; 1000];
            let count = self
                .master
                .read(&mut some)
                .map_err(|error| format!("{error}: '{}'", self.seen.escape_ascii()))?;
            self.seen.extend(&some[..count]);
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.master.write_all(bytes).map_err(|error| error.to_string())
    }

    /// The local modes of the terminal: whether it echoes, edits lines, and makes signals of keys.
    fn modes(&self) -> u32 {
        // SAFETY: all-zero bytes are a valid `termios`, and the call fills it in.
        let settings = unsafe {
            let mut settings: libc::termios = mem::zeroed();
            libc::tcgetattr(self.slave.as_raw_fd(), &raw mut settings);
            settings
        };
        settings.c_lflag
    }

    fn finish(&mut self) -> Result<i32, String> {
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
        let before = session.modes();
        std::thread::sleep(Duration::from_millis(300) * context.patience);
        session.send(b"wrong\x15typed lime\x7f\x7fne\r")?;
        // Once by the echo, once by head.
        session
            .expect("typed line\r\ntyped line\r\n")
            .or_else(|_| session.expect("\ntyped line\r\n"))?;
        let status = session.finish()?;
        ensure(status == 0 && session.modes() == before, || format!("status {status}"))
    });
    for (key, name, status) in [(b'\x03', "Ctrl-C", 130), (b'\x1c', "Ctrl-\\", 131)] {
        for state in ["sleep", "spin", "read"] {
            tests.add(
                format!("terminal/{name} to a program that does '{state}'"),
                move |context| {
                    let mut session = Session::start(context, &["wait", state])?;
                    let before = session.modes();
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
            let before = session.modes();
            session.expect("ready")?;
            // SAFETY: the child has not been waited for, so its number is still its own.
            unsafe { libc::kill(i32::try_from(session.child.id()).unwrap_or(0), signal) };
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
