//! Measures what starting a program costs, and prints a table; `--json FILE` writes the figures down. With
//! `kernel`, what the kernel's basic operations cost, next to Linux's.
//!
//! Wall times are medians of interleaved runs: each round runs every command once, so that whatever
//! else the machine does hits all of them alike. Everything that can be counted instead of timed is
//! counted: instructions, pages, system calls.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

#[path = "bench/kernel.rs"]
mod kernel;

type Failure = Box<dyn std::error::Error>;

const WARM_UP: usize = 10;
const ROUNDS: usize = 100;
/// These take tens of milliseconds, and are there for comparison only.
const SLOW_ROUNDS: usize = 15;

/// A figure of the report.
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it has to be at most.
    bound: Option<f64>,
}

/// Where everything is.
struct Paths {
    top: PathBuf,
    airlock: PathBuf,
    floor: PathBuf,
}

impl Paths {
    fn fixture(&self, name: &str) -> PathBuf {
        self.top.join("target/fixtures").join(name)
    }

    fn script(&self, name: &str) -> PathBuf {
        self.top.join("scripts").join(name)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = env::args().skip(1);
    let mut json = None;
    let mut of_kernel = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(arguments.next().ok_or("--json needs a file")?)),
            "kernel" => of_kernel = true,
            other => {
                return Err(format!(
                    "unknown argument '{other}'; usage: bench [--json FILE] [kernel]"
                )
                .into());
            }
        }
    }
    let directory =
        env::current_exe()?.parent().ok_or("this executable is in no directory")?.to_owned();
    let paths = Paths {
        top: env::current_dir()?,
        airlock: directory.join("airlock"),
        floor: directory.join("floor"),
    };

    if of_kernel {
        let rows = kernel::measure(&paths)?;
        print!("{}", kernel::table(&rows));
        if let Some(path) = json {
            fs::write(path, kernel::to_json(&rows))?;
        }
        return Ok(());
    }

    let mut figures = start_up(&paths)?;
    figures.extend(counters(&paths)?);
    figures.extend(null_call(&paths)?);
    figures.extend(filters(&paths)?);
    figures.push(Figure {
        name: "size of the executable".to_owned(),
        value: number(fs::metadata(&paths.airlock)?.len()),
        unit: "bytes",
        bound: None,
    });

    print!("{}", table(&figures));
    if let Some(path) = json {
        fs::write(path, to_json(&figures))?;
    }
    Ok(())
}

/// A command to time.
struct Candidate {
    name: &'static str,
    command: Command,
    rounds: usize,
    times: Vec<Duration>,
    /// The exit status that says that it did what it was to do.
    status: i32,
}

impl Candidate {
    fn new(name: &'static str, program: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { name, command, rounds: ROUNDS, times: Vec::new(), status: 0 }
    }

    /// QEMU's microvm: slow, and ended by a status of its own.
    fn microvm(name: &'static str, arguments: &[&str]) -> Self {
        let machine =
            ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "512"];
        let exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
        let all = [&machine[..], &exit[..], arguments].concat();
        Self { rounds: SLOW_ROUNDS, status: 1, ..Self::new(name, "qemu-system-x86_64", &all) }
    }

    fn time(&mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        let status = self
            .command
            .status()
            .map_err(|error| format!("cannot start {}: {error}", self.name))?;
        let time = start.elapsed();
        if status.code() == Some(self.status) {
            Ok(time)
        } else {
            Err(format!("{}: {status}", self.name).into())
        }
    }
}

/// Wall time of whole commands.
fn start_up(paths: &Paths) -> Result<Vec<Figure>, Failure> {
    let hello = paths.fixture("hello-musl");
    let hello = hello.to_str().ok_or("the path is not UTF-8")?;
    let nothing = paths.fixture("nothing-pvh");
    let nothing = nothing.to_str().ok_or("the path is not UTF-8")?;
    let kvm = "microvm,accel=kvm,kernel-irqchip=split,pic=off,pit=off,rtc=off,isa-serial=off";
    let mut candidates = vec![
        Candidate::new("floor: split irqchip, one instruction", &paths.floor, &[]),
        Candidate::new("airlock run hello", &paths.airlock, &["run", hello]),
        Candidate::new("hello on the host", hello, &[]),
        Candidate::new(
            "bwrap --unshare-all hello",
            "bwrap",
            &["--unshare-all", "--ro-bind", "/", "/", hello],
        ),
        Candidate::microvm(
            "QEMU microvm, a guest that does nothing",
            &["-M", kvm, "-kernel", nothing],
        ),
    ];
    // What is not installed, or does not work here, is left out of the table.
    candidates.retain_mut(|candidate| match candidate.time() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("bench: left out: {error}");
            false
        }
    });
    for candidate in &mut candidates {
        for _ in 0..WARM_UP.min(candidate.rounds) {
            candidate.time()?;
        }
    }
    for round in 0..ROUNDS {
        for candidate in &mut candidates {
            if round < candidate.rounds {
                let time = candidate.time()?;
                candidate.times.push(time);
            }
        }
    }
    let mut figures = Vec::new();
    let mut floor = None;
    let mut airlock = None;
    for candidate in &mut candidates {
        candidate.times.sort_unstable();
        let median = candidate.times[candidate.times.len() / 2].as_secs_f64() * 1e3;
        let least = candidate.times[0].as_secs_f64() * 1e3;
        figures.push(Figure {
            name: candidate.name.to_owned(),
            value: median,
            unit: "ms",
            bound: None,
        });
        figures.push(Figure {
            name: format!("{} (least)", candidate.name),
            value: least,
            unit: "ms",
            bound: None,
        });
        if candidate.name.starts_with("floor") {
            floor = Some((median, least));
        } else if candidate.name.starts_with("airlock") {
            airlock = Some((median, least));
        }
    }
    if let (Some(floor), Some(airlock)) = (floor, airlock) {
        let ratio = |name: &str, value| Figure {
            name: name.to_owned(),
            value,
            unit: "x the floor",
            bound: Some(2.5),
        };
        figures.push(ratio("airlock run hello, medians", airlock.0 / floor.0));
        figures.push(ratio("airlock run hello, least times", airlock.1 / floor.1));
    }
    Ok(figures)
}

/// What KVM and the kernel counted in one run.
fn counters(paths: &Paths) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    // A program whose first instructions are an exit: all that remains is the way to it.
    for (program, title, bounds) in [
        (
            "exit-asm",
            "entry to first user instruction, and exit",
            [Some(20_000.0), None, None, None, None],
        ),
        ("hello-musl", "hello", [None, None, Some(256.0), Some(3072.0), None]),
    ] {
        let report = env::temp_dir().join(format!("airlock-bench-{}", std::process::id()));
        let status = Command::new(&paths.airlock)
            .arg("run")
            .arg(paths.fixture(program))
            .env("AIRLOCK_STATS", &report)
            .stdout(Stdio::null())
            .status()?;
        let text = fs::read_to_string(&report);
        drop(fs::remove_file(&report));
        if !status.success() {
            return Err(format!("airlock run {program}: {status}").into());
        }
        let text = text?;
        for ((key, what, unit), bound) in [
            ("insn_emulation", "interpreted ring 0 instructions", "instructions"),
            ("exits", "exits", "exits"),
            ("guest_pages", "guest memory touched", "pages"),
            ("vmm_resident_kib", "VMM memory besides guest memory", "KiB"),
            ("in_place_kib", "guest kernel and files used in the page cache", "KiB"),
        ]
        .into_iter()
        .zip(bounds)
        {
            // Where KVM does not interpret ring 0, it has nothing to count.
            if let Some(value) = field(&text, key) {
                figures.push(Figure { name: format!("{title}: {what}"), value, unit, bound });
            }
        }
    }
    Ok(figures)
}

/// A number in a flat JSON object.
fn field(json: &str, key: &str) -> Option<f64> {
    let rest = &json[json.find(&format!("\"{key}\""))?..];
    let value = rest.split_once(':')?.1.trim_start();
    value[..value.find([',', '}'])?].trim().parse().ok()
}

/// Instructions of a null system call, counted by QEMU.
fn null_call(paths: &Paths) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let program = paths.fixture("null-call");
    for (name, mut command) in [
        ("null system call, under QEMU microvm", {
            let mut command = Command::new(paths.script("microvm"));
            command.arg("--icount").arg(&program);
            command
        }),
        ("null system call, under hardware KVM", {
            let mut command = Command::new(paths.script("emulated-kvm"));
            command
                .args(["--icount", "--file"])
                .arg(&program)
                .arg(&paths.airlock)
                .arg("run")
                .arg(&program);
            command
        }),
    ] {
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.trim().parse() {
            Ok(value) => figures.push(Figure {
                name: name.to_owned(),
                value,
                unit: "instructions",
                bound: Some(60.0),
            }),
            Err(_) => eprintln!(
                "bench: left out: {name}: {}, {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    Ok(figures)
}

/// How many system calls the VMM's threads may make.
fn filters(paths: &Paths) -> Result<Vec<Figure>, Failure> {
    let allowed = |thread: &str| -> Result<BTreeSet<String>, Failure> {
        let output =
            Command::new(&paths.airlock).args(["seccomp", "print", "--thread", thread]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let names = text
            .lines()
            .filter(|line| line.starts_with("  "))
            .filter_map(|line| line.split([' ', '(']).find(|word| !word.is_empty()));
        Ok(names.map(str::to_owned).collect())
    };
    let (vcpu, vmm) = (allowed("vcpu")?, allowed("vmm")?);
    let figure = |name: &str, count: usize, bound| Figure {
        name: name.to_owned(),
        value: number(u64::try_from(count).unwrap_or(u64::MAX)),
        unit: "system calls",
        bound: Some(bound),
    };
    Ok(vec![
        figure("allowed on the vCPU thread", vcpu.len(), 15.0),
        figure("allowed on all threads", vcpu.union(&vmm).count(), 30.0),
    ])
}

/// A count as a figure; counts here are far below 2^53.
fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let mut text =
        format!("{:width$}  {:>12}  {:<12}  {:>8}\n", "figure", "value", "unit", "at most");
    for figure in figures {
        let bound = figure.bound.map_or_else(String::new, shown);
        let verdict = match figure.bound {
            Some(bound) if figure.value > bound => {
                format!("  OVER by {:.2} times", figure.value / bound)
            }
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>12}  {:<12}  {bound:>8}{verdict}",
            figure.name,
            shown(figure.value),
            figure.unit
        );
    }
    text
}

fn to_json(figures: &[Figure]) -> String {
    let rows = figures.iter().map(|figure| {
        let bound = figure.bound.map_or_else(|| "null".to_owned(), |bound| bound.to_string());
        // No name has a character that JSON would have escaped.
        format!(
            "  {{\"name\": \"{}\", \"value\": {}, \"unit\": \"{}\", \"at_most\": {bound}}}",
            figure.name, figure.value, figure.unit
        )
    });
    format!("[\n{}\n]\n", rows.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_report() {
        let text = "{\"insn_emulation\": 1234, \"exits\": null, \"guest_pages\":7}\n";
        assert_eq!(field(text, "insn_emulation"), Some(1234.0));
        assert_eq!(field(text, "exits"), None);
        assert_eq!(field(text, "guest_pages"), Some(7.0));
        assert_eq!(field(text, "absent"), None);
    }

    #[test]
    fn a_figure_over_its_bound_is_marked() {
        let figure = |value| Figure { name: "x".to_owned(), value, unit: "u", bound: Some(2.0) };
        assert!(table(&[figure(3.0)]).contains("OVER by 1.50 times"));
        assert!(!table(&[figure(2.0)]).contains("OVER"));
        assert_eq!(
            to_json(&[figure(2.0)]),
            "[\n  {\"name\": \"x\", \"value\": 2, \"unit\": \"u\", \"at_most\": 2}\n]\n"
        );
    }
}
