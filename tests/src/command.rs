//! Runs one command to its end, with a time limit, and sees what it leaves behind.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a command reads as standard input.
#[derive(Clone, Debug, Default)]
pub enum Input {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe with these bytes, closed behind them.
    Pipe(Vec<u8>),
    /// A pipe in which nothing ever arrives, and which is not closed while the command runs.
    Silence,
    /// A file.
    File(PathBuf),
    /// Nothing at all: descriptor 0 is closed.
    Closed,
}

/// Where a command's output goes.
#[derive(Clone, Debug, Default)]
pub enum Output {
    /// A pipe that is read to its end.
    #[default]
    Collected,
    /// Standard output and standard error are one pipe, as with `2>&1`.
    Merged,
    /// Standard output is a file that is opened for writing; standard error is collected.
    File(PathBuf),
    /// Standard output is a pipe that nobody reads any more; standard error is collected.
    Broken,
}

/// What a command did.
pub struct Run {
    /// What it wrote to standard output (and to standard error, if they were merged).
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Its exit status as a shell tells it: 128 + N when signal N killed it.
    pub status: u8,
    /// How long it took.
    pub time: Duration,
    /// How much processor time it used, the guest's included.
    pub processor: Duration,
    /// Processes that it started were still there when it had ended.
    pub leftovers: bool,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "status {} after {:?}\n--- stdout\n{}",
            self.status,
            self.time,
            excerpt(&self.stdout)
        )?;
        write!(f, "\n--- stderr\n{}", excerpt(&self.stderr))
    }
}

impl Run {
    /// Standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A command that is about to run, in a process group of its own.
#[derive(Debug)]
pub struct Spec {
    command: Command,
    input: Input,
    output: Output,
    limit: Duration,
    shown: String,
}

/// For a child before it executes a program: it ends with the tests, and what shells let those ignore that they run in the background has its
/// effect again.
///
/// # Errors
/// None.
pub fn heed_signals() -> std::io::Result<()> {
    // Tests that are interrupted leave nothing behind that goes on.
    // SAFETY: prctl(2) only sets what happens when the thread that started this ends.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: signal(2) is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

impl Spec {
    /// A command with no environment but what is added.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        command.env_clear().process_group(0);
        // SAFETY: system calls and nothing else.
        unsafe { command.pre_exec(heed_signals) };
        Self {
            command,
            input: Input::default(),
            output: Output::default(),
            limit: Duration::from_secs(120),
            shown: program.as_ref().to_string_lossy().into_owned(),
        }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            self.shown = format!("{} {}", self.shown, argument.as_ref().to_string_lossy());
            self.command.arg(argument);
        }
        self
    }

    /// Adds variables.
    pub fn envs(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Sets the working directory.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Sets standard input.
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Sets where the output goes.
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Kills it after this time (which is a failure of the test).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Does something in the new process before the command starts.
    ///
    /// # Safety
    ///
    /// As for [`CommandExt::pre_exec`]: only what is safe between fork and exec.
    pub unsafe fn before(
        mut self,
        prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.command.pre_exec(prepare) };
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Run, String> {
        self.start()?.finish()
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Running, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
        // What whoever started the tests left open is nobody's business; the guest does not have it either.
        let close_on_exec = || {
            // SAFETY: close_range(2) takes three numbers; where it does not exist, nothing happens.
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
            Ok(())
        };
        // SAFETY: a system call and nothing else.
        unsafe { self.command.pre_exec(close_on_exec) };
        let mut feed = None;
        let mut silence = None;
        match &self.input {
            Input::Null => {
                self.command.stdin(Stdio::null());
            }
            Input::Pipe(bytes) => {
                self.command.stdin(Stdio::piped());
                feed = Some(bytes.clone());
            }
            Input::Silence => {
                let (reader, writer) = io::pipe().map_err(|error| failed("make a pipe", error))?;
                self.command.stdin(reader);
                silence = Some(OwnedFd::from(writer));
            }
            Input::File(path) => {
                let file = File::open(path).map_err(|error| failed("open the input", error))?;
                self.command.stdin(file);
            }
            Input::Closed => {
                let close = || {
                    // SAFETY: the new process does not use the descriptor any more.
                    unsafe { libc::close(0) };
                    Ok(())
                };
                // SAFETY: close(2) is async-signal-safe.
                unsafe { self.command.pre_exec(close) };
            }
        }
        let mut merged = None;
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        match &self.output {
            Output::Collected => {}
            Output::Merged => {
                let (reader, writer) = io::pipe().map_err(|error| failed("make a pipe", error))?;
                let other =
                    writer.try_clone().map_err(|error| failed("copy a descriptor", error))?;
                self.command.stdout(writer).stderr(other);
                merged = Some(reader);
            }
            Output::File(path) => {
                let file = File::options().write(true).open(path);
                self.command.stdout(file.map_err(|error| failed("open the output", error))?);
            }
            Output::Broken => {
                let (reader, writer) = io::pipe().map_err(|error| failed("make a pipe", error))?;
                drop(reader);
                self.command.stdout(writer);
            }
        }
        let started = Instant::now();
        let mut child = spawn(&mut self.command)
            .map_err(|error| failed(&format!("start '{}'", self.shown), error))?;
        // The command holds the write ends of the pipes as long as it exists.
        drop(self.command);
        if let (Some(bytes), Some(mut pipe)) = (feed, child.stdin.take()) {
            // A command that does not read everything is no failure.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = match merged {
            Some(pipe) => collect(Some(pipe)),
            None => collect(child.stdout.take()),
        };
        let stderr = collect(child.stderr.take());
        Ok(Running {
            child,
            stdout,
            stderr,
            started,
            limit: self.limit,
            shown: self.shown,
            silence,
        })
    }
}

/// Starts a command. A file that was just written may be busy: a process that another test has forked, and that has not
/// executed its program yet, holds the descriptor that wrote it.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(5))
            }
            result => return result,
        }
    }
    command.spawn()
}

type Collector = thread::JoinHandle<Vec<u8>>;

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collector {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what the test sees.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Collector,
    stderr: Collector,
    started: Instant,
    limit: Duration,
    shown: String,
    silence: Option<OwnedFd>,
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its number is still its own.
        unsafe { libc::kill(self.number(), signal) };
    }

    /// Its process id.
    pub fn number(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Run, String> {
        let group = self.number();
        let in_time = self.wait_until_limit();
        if !in_time {
            kill_group(group);
        }
        let (status, processor) = wait(group)?;
        let time = self.started.elapsed();
        let leftovers = group_exists(group);
        if leftovers {
            kill_group(group);
        }
        drop(self.silence);
        let stdout = self.stdout.join().unwrap_or_default();
        let stderr = self.stderr.join().unwrap_or_default();
        if !in_time {
            return Err(format!(
                "still running after {:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
                self.limit,
                self.shown,
                excerpt(&stdout),
                excerpt(&stderr)
            ));
        }
        Ok(Run { stdout, stderr, status: shell_status(status), time, processor, leftovers })
    }

    fn wait_until_limit(&self) -> bool {
        // SAFETY: pidfd_open takes a process id and flags, and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.number(), 0) };
        let Ok(fd) = i32::try_from(fd) else { return true };
        if fd < 0 {
            return true;
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        let deadline = self.started + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd, which lives across the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
            if ready > 0 || left.is_zero() {
                return ready > 0;
            }
        }
    }
}

/// Waits for a child, and tells its processor time too (which `Child::wait` does not).
fn wait(child: i32) -> Result<(ExitStatus, Duration), String> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to local variables.
    while unsafe { libc::wait4(child, &raw mut status, 0, &raw mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(format!("cannot wait: {error}"));
        }
    }
    let duration = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Ok((ExitStatus::from_raw(status), duration(usage.ru_utime) + duration(usage.ru_stime)))
}

fn kill_group(group: i32) {
    // SAFETY: kill(2) takes two numbers.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn group_exists(group: i32) -> bool {
    // SAFETY: kill(2) takes two numbers; signal 0 only asks.
    unsafe { libc::kill(-group, 0) == 0 }
}

fn shell_status(status: ExitStatus) -> u8 {
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(status).unwrap_or(255)
}

/// The beginning of some output, fit for a report.
pub fn excerpt(bytes: &[u8]) -> String {
    const MOST: usize = 2000;
    let text = bytes[..bytes.len().min(MOST)].utf8_chunks().fold(String::new(), |text, chunk| {
        format!("{text}{}{}", chunk.valid(), chunk.invalid().escape_ascii())
    });
    if bytes.len() > MOST { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}
