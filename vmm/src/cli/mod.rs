//! The `airlock` command: from its arguments to an exit status.

mod executable;
mod ld_cache;
mod libraries;
mod options;
mod program;
mod rootfs;
mod run;
mod volumes;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use vmm::seccomp::Thread;

use options::{Command, CommandLine, SeccompCommand};

/// Exit status when the time limit ended the program, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// Exit status when Airlock itself failed.
const FAILED: u8 = 125;
/// Exit status when the program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status when there is no such program.
const NOT_FOUND: u8 = 127;
/// Exit status when a signal ended the program, less the number of the signal.
const SIGNALED: u8 = 128;

/// Why the command ends without the program's own status.
struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// A failure of Airlock itself.
    fn new(message: impl Into<String>) -> Self {
        Self { status: FAILED, message: message.into() }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return answer_without_command(&error),
    };
    let result = match command_line.command {
        Command::Run(options) => run::run(*options),
        Command::Pack { source, output } => {
            vmm::rootfs::pack(&source, &output).map(|()| 0).map_err(Failure::from)
        }
        Command::Seccomp { command: SeccompCommand::Print { thread } } => {
            print_seccomp(thread.map(Thread::from))
        }
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            report(&failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// Prints help or the version if that was asked for; else, in one line, what is wrong.
fn answer_without_command(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            ExitCode::from(print(&error.to_string()))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            report("no command is given; see 'airlock --help'");
            ExitCode::from(FAILED)
        }
        _ => {
            report(&format!("{}; see 'airlock run --help'", first_line(&error.to_string())));
            ExitCode::from(FAILED)
        }
    }
}

/// The line of clap's message that says what is wrong.
fn first_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line is wrong");
    let first = first.strip_prefix("error: ").unwrap_or(first);
    match (first.strip_suffix(':'), lines.next()) {
        (Some(first), Some(second)) => format!("{first}: {second}"),
        (None, Some(values)) if values.starts_with("[possible values") => {
            format!("{first} {values}")
        }
        _ => first.to_owned(),
    }
}

fn print_seccomp(only: Option<Thread>) -> Result<u8, Failure> {
    let mut text = String::new();
    let mut all: Vec<&str> = Vec::new();
    for thread in Thread::ALL.into_iter().filter(|thread| only.is_none_or(|only| only == *thread)) {
        let calls = thread.filter().system_calls();
        let (name, count) = (thread.name(), calls.len());
        text.push_str(&format!(
            "{name} thread: {count} system calls; any other ends the process (SIGSYS)\n"
        ));
        text.push_str(&thread.filter().to_string());
        text.push('\n');
        all.extend(calls);
    }
    if only.is_none() {
        all.sort_unstable();
        all.dedup();
        text.push_str(&format!("all threads: {} system calls: {}\n", all.len(), all.join(" ")));
    }
    Ok(print(text.trim_end_matches('\n').to_owned().as_str()))
}

/// Writes to standard output; the status says whether that worked. A reader that has seen enough
/// (`| head`) is no failure.
fn print(text: &str) -> u8 {
    let mut output = io::stdout().lock();
    let written = output
        .write_all(text.trim_end_matches('\n').as_bytes())
        .and_then(|()| output.write_all(b"\n"));
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report(&format!("cannot write to standard output: {error}"));
            FAILED
        }
        _ => 0,
    }
}

/// Writes one line to standard error. If that is closed too, there is no one to tell.
fn report(message: &str) {
    let _ = io::stderr().write_all(line(message).as_bytes());
}

/// A message as one line, in which no character that came from a file commands the terminal.
fn line(message: &str) -> String {
    let mut line = "airlock: ".to_owned();
    for character in message.chars() {
        match character {
            '\n' => line.push(' '),
            _ if character.is_control() => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::{first_line, line};
    use clap::Parser;

    #[test]
    fn a_message_is_one_line_without_commands() {
        assert_eq!(line("'a\nb\x1b[2J' é"), "airlock: 'a b\\u{1b}[2J' é\n");
    }

    fn message(arguments: &[&str]) -> String {
        let line = super::CommandLine::try_parse_from([&["airlock"], arguments].concat());
        first_line(&line.unwrap_err().to_string())
    }

    #[test]
    fn one_line_says_what_is_wrong() {
        assert_eq!(message(&["frob"]), "unrecognized subcommand 'frob'");
        assert_eq!(message(&["run", "--frob"]), "unexpected argument '--frob' found");
        assert_eq!(
            message(&["seccomp", "print", "--thread", "x"]),
            "invalid value 'x' for '--thread <KIND>' [possible values: vcpu, vmm, volume]"
        );
        assert!(message(&["run", "--mem", "1M"]).ends_with("the guest needs at least 16M"));
    }
}
