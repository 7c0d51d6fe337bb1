//! The cases: what each guest does, and what a user must see of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use vmm::{Config, KernelImage, Outcome, Piece, RootImage};

use crate::{guests, kernel};

/// A test and its name.
type Case = (&'static str, fn());

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        /// All cases.
        pub const CASES: &[Case] = &[$((stringify!($name), $name)),+];
    };
}

cases!(
    status_is_that_of_the_guest,
    signal_is_that_of_the_guest,
    kernel_may_come_from_a_file,
    bad_kernels_are_told_apart,
    panic_is_told_within_100_ms,
    nonsense_on_the_exit_device_is_an_error,
    triple_fault_names_the_instruction,
    unknown_addresses_are_harmless,
    secondary_cpus_start,
    boot_information_is_true,
    time_limit_ends_a_sleeping_and_a_spinning_guest,
    signals_end_the_machine,
    idle_guest_uses_no_time,
    memory_has_bounds,
    input_reaches_output,
    slow_readers_are_waited_for,
    terminals_work_too,
    regular_files_work_too,
    closed_and_full_outputs_are_errors_of_the_guest,
    output_comes_from_all_memory,
    interrupts_wake_a_sleeping_guest,
);

/// How the child tells an outcome: each kind has its own range or word.
fn status_of(outcome: Result<Outcome, vmm::Error>) -> u8 {
    match outcome {
        Ok(Outcome::Exited(status)) => status,
        Ok(Outcome::Signaled(signal)) => 128 + signal,
        Ok(Outcome::TimedOut) => 124,
        Ok(Outcome::NotExecutable(_)) => 126,
        Ok(Outcome::NotFound | Outcome::NoInterpreter) => 127,
        Ok(Outcome::NoRoot(_) | Outcome::NoDirectory(_) | Outcome::NoVolume { .. }) => 125,
        Ok(Outcome::Interrupted(signal)) => {
            eprintln!("interrupted by {signal}");
            128 + signal
        }
        Err(error) => {
            eprintln!("{error}");
            125
        }
    }
}

fn code(name: &str) -> &'static [u8] {
    match name {
        "exits" => guests::exits(),
        "is_killed" => guests::is_killed(),
        "panics" => guests::panics(),
        "exits_badly" => guests::exits_badly(),
        "triple_faults" => guests::triple_faults(),
        "gropes" => guests::gropes(),
        "sleeps" => guests::sleeps(),
        "spins" => guests::spins(),
        "starts_cpus" => guests::starts_cpus(),
        "echoes" => guests::echoes(),
        "writes_in_pieces" => guests::writes_in_pieces(),
        "waits_for_an_interrupt" => guests::waits_for_an_interrupt(),
        "reads_boot_information" => guests::reads_boot_information(),
        other => panic!("no guest is called {other}"),
    }
}

/// An image in memory that is page-aligned and never freed, like the embedded kernel.
fn embedded(image: &[u8]) -> &'static [u8] {
    let padded = image.len() + 2 * 4096;
    let memory: &'static mut [u8] = vec![0; padded].leak();
    let offset = memory.as_ptr().align_offset(4096);
    let (_, aligned) = memory.split_at_mut(offset);
    aligned[..image.len()].copy_from_slice(image);
    &aligned[..image.len()]
}

/// The child's part: `--guest NAME [key=value]...`.
pub fn run_guest(arguments: &[String]) -> ExitCode {
    let (name, options) = arguments.split_first().expect("the name of a guest");
    env_logger::init();
    // The VMM ignores what whoever starts it ignores, as shells do for what runs in the background.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the default action, for signals that have one.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let image = kernel::image(code(name));
    let mut config = Config {
        volumes: Vec::new(),
        memory: 16 << 20,
        cpus: 1,
        kernel: KernelImage::Embedded(embedded(&image)),
        root: RootImage { pieces: vec![Piece::Bytes(vec![0x77; 100])] },
        program: b"/program".to_vec(),
        arguments: vec![b"program".to_vec()],
        environment: Vec::new(),
        directory: b"/".to_vec(),
        identity: vmm::Identity::default(),
        terminal: false,
        timeout: Some(Duration::from_secs(20)),
        strace: None,
        verbose: false,
    };
    for option in options {
        let (key, value) = option.split_once('=').expect("key=value");
        let number = || value.parse::<u64>().expect("a number");
        match key {
            "memory" => config.memory = number(),
            "cpus" => config.cpus = u8::try_from(number()).expect("few"),
            "timeout" => config.timeout = Some(Duration::from_millis(number())),
            "file" => config.kernel = KernelImage::File(value.into()),
            other => panic!("no option is called {other}"),
        }
    }
    ExitCode::from(status_of(vmm::run(config)))
}

fn child(arguments: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .arg("--guest")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

fn run(arguments: &[&str]) -> Output {
    child(arguments).wait_with_output().expect("a child that ends")
}

fn check(arguments: &[&str], status: i32, error: &str) {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert!(text.contains(error), "{arguments:?}: {text}");
    if error.is_empty() {
        assert_eq!(text, "");
    }
}

fn status_is_that_of_the_guest() {
    check(&["exits"], 42, "");
}

fn signal_is_that_of_the_guest() {
    check(&["is_killed"], 128 + 11, "");
}

/// A file that is removed when this is dropped.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, contents: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("airlock-test-{}-{name}", std::process::id()));
        std::fs::write(&path, contents).expect("a temporary file");
        Self(path)
    }

    fn option(&self) -> String {
        format!("file={}", self.0.display())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("the temporary file");
    }
}

fn kernel_may_come_from_a_file() {
    let file = TemporaryFile::new("kernel", &kernel::image(guests::exits()));
    check(&["exits", &file.option()], 42, "");
}

fn bad_kernels_are_told_apart() {
    let good = kernel::image(guests::exits());
    let altered = |offset: usize, byte: u8| {
        let mut image = good.clone();
        image[offset] = byte;
        image
    };
    for (image, error) in [
        (Vec::new(), "not an ELF file"),
        (b"#!/bin/sh\n".to_vec(), "not an ELF file"),
        (good[..40].to_vec(), "truncated"),
        (good[..0x1001].to_vec(), "truncated"),
        (altered(4, 1), "not a 64-bit"),
        (altered(18, 3), "not for x86-64"),
        (altered(16, 3), "fixed addresses"),
        (altered(0x800 + 12, b'X'), "not an Airlock guest kernel"),
        (altered(0x800 + 20, 9), "version 9 of the boot protocol"),
        (altered(0x800 + 36 + 3, 9), "page table root"),
        // The first segment's physical address, below the kernel's place and beyond low RAM.
        (altered(64 + 56 + 24 + 2, 0), "does not fit"),
        (altered(64 + 56 + 24 + 4, 1), "does not fit"),
    ] {
        let file = TemporaryFile::new("bad-kernel", &image);
        check(&["exits", &file.option()], 125, error);
    }
    check(&["exits", "file=/nonexistent"], 125, "cannot read the guest kernel /nonexistent");
}

fn panic_is_told_within_100_ms() {
    /// The shortest of a few runs: what else the machine does is not what is measured.
    fn shortest(run: impl Fn()) -> Duration {
        let time = |_| {
            let begin = Instant::now();
            run();
            begin.elapsed()
        };
        (0..5).map(time).min().unwrap_or_default()
    }
    let panic = shortest(|| {
        check(&["panics"], 125, "the guest kernel panicked: nothing works\nany more\n")
    });
    // An emulated machine takes longer than that to start a process, so that is not counted.
    let taken = panic.saturating_sub(shortest(|| check(&["exits"], 42, "")));
    assert!(taken < Duration::from_millis(100), "{taken:?} longer than a run without panic");
}

fn nonsense_on_the_exit_device_is_an_error() {
    check(&["exits_badly"], 125, "[00, 00, ad, de]");
}

fn triple_fault_names_the_instruction() {
    let output = run(&["triple_faults"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");
    let known = text.contains("triple fault at rip 0x100000, instruction bytes 0f 0b");
    // AMD's processors forget the state (APM volume 2, section 15.14.3), and KVM resets the vCPU.
    let lost = text.contains("triple fault (the processor does not tell where) at rip 0xfff0");
    assert!(known || lost, "{text}");
}

fn unknown_addresses_are_harmless() {
    check(&["gropes"], 7, "");
}

fn secondary_cpus_start() {
    check(&["starts_cpus", "cpus=2"], 1, "");
    check(&["starts_cpus", "cpus=5"], 4, "");
}

fn boot_information_is_true() {
    check(&["reads_boot_information"], 0x77, "");
    let file = TemporaryFile::new("kernel", &kernel::image(guests::reads_boot_information()));
    check(&["reads_boot_information", &file.option()], 0x77, "");
}

fn time_limit_ends_a_sleeping_and_a_spinning_guest() {
    for guest in ["sleeps", "spins"] {
        let begin = Instant::now();
        check(&[guest, "timeout=150"], 124, "");
        let taken = begin.elapsed();
        assert!(taken >= Duration::from_millis(150) && taken < Duration::from_secs(5), "{taken:?}");
    }
}

/// Until then a signal ends the process, as it does any other.
fn wait_until_signals_are_blocked(process: u32) {
    let terminate = 1 << (libc::SIGTERM - 1);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status =
            std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running child");
        let blocked = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:"))
            .expect("proc_pid_status(5)");
        if u64::from_str_radix(blocked.trim(), 16).expect("a mask") & terminate != 0 {
            return;
        }
        assert!(Instant::now() < deadline, "signals are still not blocked");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signals_end_the_machine() {
    for guest in ["sleeps", "spins"] {
        for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3)] {
            let child = child(&[guest]);
            wait_until_signals_are_blocked(child.id());
            let killed = Command::new("kill")
                .args([&format!("-{signal}"), &child.id().to_string()])
                .status();
            assert!(killed.expect("kill").success());
            let output = child.wait_with_output().expect("a child that ends");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(128 + number), "{text}");
            assert_eq!(text, format!("interrupted by {number}\n"));
        }
    }
}

/// Time that a process has used, in ticks of 10 ms: fields 14 and 15 of proc_pid_stat(5).
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a running child");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let times = after_name.split_whitespace().skip(11).take(2);
    times.map(|field| field.parse::<u64>().expect("ticks")).sum()
}

fn idle_guest_uses_no_time() {
    let mut child = child(&["sleeps", "timeout=1500"]);
    std::thread::sleep(Duration::from_millis(500));
    let before = ticks(child.id());
    std::thread::sleep(Duration::from_millis(500));
    let used = ticks(child.id()) - before;
    assert!(used <= 1, "{used} ticks of 10 ms");
    assert_eq!(child.wait().expect("a child that ends").code(), Some(124));
}

fn memory_has_bounds() {
    check(&["exits", "memory=4096"], 125, "use a larger --mem");
    check(&["exits", "memory=1099511627776"], 125, "use a smaller --mem");
    // Lazily: more than this host has.
    check(&["exits", "memory=68719476736"], 42, "");
}

/// Bytes that tell if any of them is lost or moved.
fn pattern(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    (0..size).map(|_| next()).collect()
}

fn input_reaches_output() {
    for size in [0, 1, 4096, 4097, 300_000] {
        let input = pattern(size);
        let mut child = child(&["echoes"]);
        let mut pipe = child.stdin.take().expect("a pipe");
        let sent = input.clone();
        let writer = std::thread::spawn(move || pipe.write_all(&sent).expect("a reader"));
        let output = child.wait_with_output().expect("a child that ends");
        writer.join().expect("all was written");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == input, "{size} bytes came back as {}", output.stdout.len());
    }
}

fn slow_readers_are_waited_for() {
    let input = pattern(200_000);
    let mut child = child(&["echoes"]);
    let mut pipe = child.stdin.take().expect("a pipe");
    let sent = input.clone();
    let writer = std::thread::spawn(move || {
        for part in sent.chunks(50_000) {
            std::thread::sleep(Duration::from_millis(20));
            pipe.write_all(part).expect("a reader");
        }
    });
    // Long enough for the pipe to be full.
    std::thread::sleep(Duration::from_millis(150));
    let output = child.wait_with_output().expect("a child that ends");
    writer.join().expect("all was written");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == input);
}

/// A pseudo-terminal: our side, and the side of the child.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: there is room for the two files; the rest may be null (openpty(3)).
    let result =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, none, none.cast(), none.cast()) };
    assert_eq!(result, 0, "a pseudo-terminal");
    // SAFETY: openpty made the files, and nobody else owns them.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

fn terminals_work_too() {
    if !std::path::Path::new("/dev/ptmx").exists()
        || !std::path::Path::new("/dev/pts/ptmx").exists()
    {
        println!("SKIPPED: the part with a terminal, because there are no pseudo-terminals here");
        return;
    }
    let (mut ours, theirs) = terminal();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--guest", "echoes"])
        .stdin(theirs.try_clone().expect("a file"))
        .stdout(theirs)
        .spawn()
        .expect("a child");
    std::thread::sleep(Duration::from_millis(30));
    ours.write_all(b"hello\n\x04").expect("a terminal");
    assert_eq!(child.wait().expect("a child that ends").code(), Some(0));
    let mut text = [0; 100];
    let mut length = 0;
    // Linux says EIO when the other side is closed.
    while let Ok(count @ 1..) = ours.read(&mut text[length..]) {
        length += count;
    }
    // The terminal's own echo, then the guest's.
    assert_eq!(String::from_utf8_lossy(&text[..length]), "hello\r\nhello\r\n");
}

fn regular_files_work_too() {
    let contents = pattern(100_000);
    let (input, output) =
        (TemporaryFile::new("input", &contents), TemporaryFile::new("output", b""));
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--guest", "echoes"])
        .stdin(File::open(&input.0).expect("the input"))
        .stdout(File::create(&output.0).expect("the output"))
        .status()
        .expect("a child");
    assert_eq!(status.code(), Some(0));
    assert!(std::fs::read(&output.0).expect("the output") == contents);
}

fn closed_and_full_outputs_are_errors_of_the_guest() {
    let input = TemporaryFile::new("input", b"something");
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    for (output, error) in [(Stdio::from(closed), libc::EPIPE), (Stdio::from(full), libc::ENOSPC)] {
        let status = Command::new(std::env::current_exe().expect("this program"))
            .args(["--guest", "echoes"])
            .stdin(File::open(&input.0).expect("the input"))
            .stdout(output)
            .status()
            .expect("a child");
        assert_eq!(status.code(), Some(error));
    }
}

fn output_comes_from_all_memory() {
    let output = run(&["writes_in_pieces"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let (information, rest) = output.stdout.split_at(216);
    assert!(information.starts_with(b"AIRLOCK\0"));
    let (zeroes, image) = rest.split_at(0x1_0000);
    assert!(zeroes.iter().all(|byte| *byte == 0));
    assert_eq!(image, [0x77; 100]);
}

fn interrupts_wake_a_sleeping_guest() {
    check(&["waits_for_an_interrupt"], 0, "");
}
