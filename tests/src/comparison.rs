//! Runs a program on the host and in a microVM, and compares.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Input, Output, Run, Spec, excerpt};
use crate::harness::Context;

/// What `airlock run` sets without being asked.
const GUEST_ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];

/// A file that the program finds in its working directory.
#[derive(Clone, Debug)]
struct InputFile {
    name: String,
    bytes: Vec<u8>,
    mode: u32,
}

/// A program, how it is started, and what it finds.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    files: Vec<InputFile>,
    input: Input,
    output: Output,
    limit: Duration,
    normalise: fn(Vec<u8>) -> Vec<u8>,
}

impl Program {
    /// A program by its path, the same on the host and in the guest.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            options: Vec::new(),
            environment: GUEST_ENVIRONMENT
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            files: Vec::new(),
            input: Input::default(),
            output: Output::default(),
            limit: Duration::from_secs(60),
            normalise: |bytes| bytes,
        }
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds options for `airlock run`.
    pub fn options<A: Into<OsString>>(mut self, options: impl IntoIterator<Item = A>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the program.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        let value = value.into();
        let mut option = OsString::from(name);
        option.push("=");
        option.push(&value);
        self.options.extend(["--env".into(), option]);
        self.environment.push((name.into(), value));
        self
    }

    /// Puts a file into the working directory.
    pub fn file(self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.file_with_mode(name, bytes, 0o644)
    }

    /// Puts a file with these permissions into the working directory.
    pub fn file_with_mode(mut self, name: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push(InputFile { name: name.to_owned(), bytes: bytes.into(), mode });
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

    /// Sets how long it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Applies this to both standard errors before they are compared: for process numbers and the like.
    pub fn normalise(mut self, normalise: fn(Vec<u8>) -> Vec<u8>) -> Self {
        self.normalise = normalise;
        self
    }

    fn lay_out(&self, directory: &Path) -> Result<(), String> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make a directory: {error}"))?;
        for file in &self.files {
            let path = directory.join(&file.name);
            fs::write(&path, &file.bytes)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)))
                .map_err(|error| format!("cannot write an input file: {error}"))?;
        }
        Ok(())
    }

    fn spec(&self, context: &Context, spec: Spec, directory: &Path) -> Spec {
        spec.directory(directory)
            .input(self.input.clone())
            .output(self.output.clone())
            .limit(self.limit * context.patience)
    }

    /// Runs it on the host, in a new directory that is removed afterwards.
    pub fn run_on_host(&self, context: &Context) -> Result<Run, String> {
        let directory = context.directory.join("work");
        self.lay_out(&directory)?;
        let spec = Spec::new(&self.path).args(&self.arguments).envs(self.environment.clone());
        let run = self.spec(context, spec, &directory).run();
        remove(&directory)?;
        run
    }

    /// Runs it in a microVM, and makes sure that nothing was left behind or changed on the host.
    pub fn run_in_guest(&self, context: &Context) -> Result<Run, String> {
        // The same directory as on the host, and so the same in the guest.
        let directory = context.directory.join("work");
        self.lay_out(&directory)?;
        let before = listing(&directory)?;
        let spec = self.spec(context, self.guest_spec(context), &directory);
        let run = spec.run()?;
        let after = listing(&directory)?;
        remove(&directory)?;
        if before != after {
            return Err(format!(
                "the microVM changed the host's directory:\n{before:?}\n{after:?}"
            ));
        }
        if run.leftovers {
            return Err("processes were left behind".to_owned());
        }
        context.check_nothing_left()?;
        Ok(run)
    }

    /// The command that runs it in a microVM.
    pub fn guest_spec(&self, context: &Context) -> Spec {
        let mut spec = context.airlock().args(["run"]).args(&self.options);
        for file in &self.files {
            spec = spec.args(["--file", &file.name]);
        }
        spec.args([&self.path]).args(&self.arguments)
    }

    /// Runs it on both, and tells what differs.
    pub fn compare(&self, context: &Context) -> Result<Run, String> {
        let mut expected = self.run_on_host(context)?;
        let mut actual = self.run_in_guest(context)?;
        expected.stderr = (self.normalise)(expected.stderr);
        actual.stderr = (self.normalise)(actual.stderr);
        let mut differences = Vec::new();
        if expected.status != actual.status {
            differences.push(format!(
                "exit status: {} on the host, {} in the guest",
                expected.status, actual.status
            ));
        }
        differences.extend(difference("standard output", &expected.stdout, &actual.stdout));
        differences.extend(difference("standard error", &expected.stderr, &actual.stderr));
        if differences.is_empty() {
            return Ok(actual);
        }
        if !actual.stderr.is_empty() && actual.stderr == expected.stderr {
            differences.push(format!("both standard errors: {}", excerpt(&actual.stderr)));
        }
        Err(differences.join("\n"))
    }
}

fn remove(directory: &Path) -> Result<(), String> {
    fs::remove_dir_all(directory)
        .map_err(|error| format!("cannot remove '{}': {error}", directory.display()))
}

type Entry = (PathBuf, u64, u32);

fn listing(directory: &Path) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let failed = |error| format!("cannot list '{}': {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        entries.push((entry.path(), metadata.len(), metadata.permissions().mode()));
    }
    entries.sort();
    Ok(entries)
}

/// Says where two outputs part, if they do.
pub fn difference(what: &str, expected: &[u8], actual: &[u8]) -> Option<String> {
    if expected == actual {
        return None;
    }
    let at = expected.iter().zip(actual).take_while(|(a, b)| a == b).count();
    let line = expected[..at].iter().filter(|&&byte| byte == b'\n').count();
    let around = |bytes: &[u8]| {
        let start =
            bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let start = start.max(at.saturating_sub(200));
        let rest = &bytes[start..];
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()).min(300);
        rest[..end].escape_ascii().to_string()
    };
    Some(format!(
        "{what} differs at byte {at}, line {} (host {} bytes, guest {} bytes)\n  host:  {}\n  guest: {}",
        line + 1,
        expected.len(),
        actual.len(),
        around(expected),
        around(actual)
    ))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn equal_outputs_do_not_differ() {
        assert_eq!(difference("output", b"same", b"same"), None);
    }

    #[test]
    fn a_difference_is_shown_with_its_line() {
        let text =
            difference("output", b"one\ntwo\nthree\n", b"one\ntwo\nthrew\n").unwrap_or_default();
        assert!(text.contains("byte 12, line 3"), "{text}");
        assert!(text.contains("host:  three\n  guest: threw"), "{text}");
    }

    #[test]
    fn a_missing_end_is_a_difference() {
        let text = difference("output", b"one\n", b"").unwrap_or_default();
        assert!(text.contains("byte 0, line 1 (host 4 bytes, guest 0 bytes)"), "{text}");
        assert!(difference("output", b"", b"more").is_some());
    }
}
