//! The command line's grammar. `--help` is made from what is here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use airlock_abi::layout::{HIGH_RAM_BASE, LOW_RAM_END, ROOT_IMAGE_BASE};
use clap::{Args, Parser, Subcommand, ValueEnum};
use vmm::seccomp::Thread;

/// The least memory that a guest can have.
const MIN_MEMORY: u64 = 16 << 20;
/// The most memory for which the guest has physical addresses.
const MAX_MEMORY: u64 = LOW_RAM_END + (ROOT_IMAGE_BASE - HIGH_RAM_BASE);
/// Each vCPU has an APIC ID of 8 bits, and 255 addresses all of them.
const MAX_CPUS: i64 = 254;

const RUN_EXAMPLES: &str = "\
PROGRAM is an x86-64 Linux executable or a script. A name without a slash is looked for in PATH. The
guest sees it, the dynamic linker, libraries or interpreter that it names, and the files given with
--file, at the same absolute paths as on the host (those below /dev, /proc and /sys in /bin), in a file
system of their own: what it writes is gone when it ends.

Examples:
  airlock run                                  show where a program in here is, and what holds it
  airlock run ./prog arg1 < input > output     run a program as if there were no virtual machine
  airlock run --file data.csv ./prog data.csv  the program sees this file, and no others
  airlock run --file ./site:/srv ./httpd /srv  a directory, at another place
  airlock run --volume $PWD:/src:ro ./lint /src
                                               a directory as it is on the host, not to be changed
  airlock run --timeout 10 --mem 1G ./prog     no more than 10 seconds and 1 GiB
  airlock run --rootfs ./debian bash -c 'ls /' another system: PROGRAM is a path or name in there
  airlock run -t --env LANG=C ./editor         on the terminal, with a variable
  airlock run --strace=calls.txt ./prog        write down every system call

With --rootfs the guest has the files of SOURCE instead, and what it writes is gone when it ends. What is no
EROFS image is packed first, and kept in ~/.cache/airlock. A container image that names an entry point,
arguments, variables, a directory or a user has them, as with docker run.

Exit status: the program's own; 128 + N if signal N ended it; 124 if the time limit did;
125 if Airlock failed; 126 if PROGRAM cannot be executed; 127 if it does not exist.";

const PACK_EXAMPLES: &str = "\
SOURCE is what --rootfs takes: a directory; a tar archive, plain or compressed by gzip or zstd; an OCI image
layout; or what docker save wrote. The same input gives the same image, bit for bit. Linux can mount it, too.

Examples:
  airlock pack ./debian -o debian.erofs       a directory
  airlock pack rootfs.tar.zst -o root.erofs   an archive
  docker save alpine | gzip > alpine.tar.gz
  airlock pack alpine.tar.gz -o alpine.erofs  a container image; how it is run is kept in the image
  airlock run --rootfs alpine.erofs cat /etc/os-release

Exit status: 0, or 125 if there is no image, or not a new one.";

/// Runs one Linux program in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "airlock", version, disable_help_subcommand = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What Airlock can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program in a microVM (without PROGRAM: a tour of it)
    #[command(
        override_usage = "airlock run [OPTIONS] [PROGRAM [ARGUMENTS]...]",
        after_help = RUN_EXAMPLES,
    )]
    Run(Box<RunOptions>),
    /// Make an EROFS image of a directory, archive or container image
    #[command(after_help = PACK_EXAMPLES)]
    Pack {
        /// A directory, a tar archive, an OCI layout or a docker archive
        source: PathBuf,
        /// The image; it is replaced when the new one is complete
        #[arg(short, long, value_name = "IMAGE")]
        output: PathBuf,
    },
    /// Show what the host's kernel lets Airlock's own threads do
    Seccomp {
        /// What to do with the filters.
        #[command(subcommand)]
        command: SeccompCommand,
    },
}

/// What can be done with seccomp filters.
#[derive(Debug, Subcommand)]
pub enum SeccompCommand {
    /// Print the system calls that are allowed, and why
    Print {
        /// Only for this kind of thread
        #[arg(long, value_name = "KIND")]
        thread: Option<ThreadKind>,
    },
}

/// Kinds of threads, as they are named on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ThreadKind {
    /// Runs guest code
    Vcpu,
    /// Handles devices
    Vmm,
    /// Serves a shared directory
    Volume,
}

impl From<ThreadKind> for Thread {
    fn from(kind: ThreadKind) -> Self {
        match kind {
            ThreadKind::Vcpu => Self::Vcpu,
            ThreadKind::Vmm => Self::Vmm,
            ThreadKind::Volume => Self::Volume,
        }
    }
}

/// Options of `airlock run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Memory of the guest, with K, M or G; the host gives what the program uses
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    pub mem: u64,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_CPUS))]
    pub cpus: u8,
    /// Set a variable, or pass one on; PATH, HOME and (with -t) TERM are set without this
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = clap::builder::OsStringValueParser::new())]
    pub env: Vec<OsString>,
    /// The program's working directory [default: the same as here]
    #[arg(long, value_name = "GUEST")]
    pub workdir: Option<OsString>,
    /// Add a file or directory to what the guest sees [GUEST: the same absolute path as on the host]
    #[arg(long, value_name = "HOST[:GUEST]", value_parser = clap::builder::OsStringValueParser::new())]
    pub file: Vec<OsString>,
    /// Share a directory with the guest, live; with `:ro` it may not change it
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = clap::builder::OsStringValueParser::new())]
    pub volume: Vec<OsString>,
    /// The guest's files: an EROFS image, a directory, a tar archive, an OCI layout or a docker archive
    #[arg(long, value_name = "SOURCE")]
    pub rootfs: Option<PathBuf>,
    /// End the program after this time: 10, 1.5s, 200ms, 2m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Boot this kernel, an ELF file, instead of the one inside
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Connect the program to this terminal
    #[arg(short, long)]
    pub terminal: bool,
    /// Log what Airlock and the guest kernel do (RUST_LOG says in more detail what)
    #[arg(short, long)]
    pub verbose: bool,
    /// Write a line for every system call, to FILE or standard error
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[expect(
        clippy::option_option,
        reason = "clap's way to tell no option from one without a value"
    )]
    pub strace: Option<Option<PathBuf>>,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true, hide = true)]
    pub command: Vec<OsString>,
}

/// Reads a size of memory: a number of bytes, or of binary kilobytes, megabytes or gigabytes.
fn memory(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a size is a whole number with K, M or G, such as 256M".to_owned());
    }
    // Digits alone fail to parse only if there are too many.
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .unwrap_or(u64::MAX);
    if bytes < MIN_MEMORY {
        return Err(format!("the guest needs at least {}M", MIN_MEMORY >> 20));
    }
    if bytes > MAX_MEMORY {
        return Err(format!("the guest can have at most {}G", MAX_MEMORY >> 30));
    }
    Ok(bytes.next_multiple_of(4096))
}

/// Reads a time: a decimal number of seconds, or with a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || "a time is a number with ms, s, m or h, such as 1.5s".to_owned();
    let unit_at =
        text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(malformed()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(malformed());
    }
    let seconds = number.parse::<f64>().map_err(|_| malformed())? * scale;
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Err("the time has to be more than zero".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("the time is too long".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &[&str]) -> RunOptions {
        let line = CommandLine::try_parse_from([&["airlock", "run"], arguments].concat()).unwrap();
        match line.command {
            Command::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        CommandLine::try_parse_from([&["airlock", "run"], arguments].concat())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_grammar_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn everything_behind_the_program_is_the_programs() {
        let options = run(&["--cpus", "2", "prog", "--mem", "1M", "-t", "--", "--help", "-x"]);
        assert_eq!(options.command, ["prog", "--mem", "1M", "-t", "--", "--help", "-x"]);
        assert_eq!((options.cpus, options.terminal), (2, false));
        assert_eq!(run(&["--", "-odd", "-v"]).command, ["-odd", "-v"]);
        assert_eq!(run(&["-t", "prog", "-v"]).command, ["prog", "-v"]);
        assert!(run(&[]).command.is_empty());
    }

    #[test]
    fn strace_takes_a_file_only_with_an_equals_sign() {
        assert_eq!(run(&["prog"]).strace, None);
        let options = run(&["--strace", "prog"]);
        assert_eq!((options.strace, options.command), (Some(None), vec!["prog".into()]));
        assert_eq!(run(&["--strace=log", "prog"]).strace, Some(Some("log".into())));
    }

    #[test]
    fn sizes_of_memory() {
        assert_eq!(memory("16M"), Ok(16 << 20));
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(memory("16777217"), Ok((16 << 20) + 4096));
        assert_eq!(memory("255G"), Ok(255 << 30));
        for few in ["1M", "0", "512", "16777215"] {
            assert!(memory(few).unwrap_err().contains("at least 16M"), "{few}");
        }
        for many in ["1T", "256G", "99999999999999999999999", "18446744073709551615K"] {
            assert!(memory(many).unwrap_err().contains("at most 255G"), "{many}");
        }
        for malformed in ["", "M", "-1M", "+1G", "1.5G", "64MB", "64 M", "é"] {
            assert!(memory(malformed).unwrap_err().contains("whole number"), "{malformed}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "-1", "1d", "1e3", "inf", "nan", "1.2.3", "0", "0ms", "1 s", "1sm"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration(&"9".repeat(400)).is_err());
    }

    #[test]
    fn limits_are_in_the_messages() {
        assert!(refused(&["--cpus", "0"]).contains("1..=254"));
        assert!(refused(&["--cpus", "1000"]).contains("1..=254"));
        assert!(refused(&["--mem", "1T"]).contains("at most 255G"));
    }
}
