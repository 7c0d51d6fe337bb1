//! What the tour prints.

use std::ffi::c_long;
use std::io::{self, Write};

use airlock_abi::errno::Errno;

/// Text on its way to standard output, and how many checks failed so far.
#[derive(Default)]
pub struct Report {
    text: String,
    failed: u32,
    /// Something could not be printed.
    cut: bool,
}

impl Report {
    /// How many checks failed.
    pub const fn failed(&self) -> u32 {
        self.failed
    }

    /// Prints text.
    pub fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Begins a part of the report. What is before it gets printed now, whatever comes.
    pub fn heading(&mut self, heading: &str) {
        self.flush();
        self.text(&format!("\n{heading}\n"));
    }

    /// A line of a part.
    pub fn line(&mut self, line: &str) {
        self.text(&format!("  {line}\n"));
    }

    /// A line about something that has to be so, and the error if there was one.
    pub fn outcome(&mut self, holds: bool, what: &str, error: Option<Errno>) {
        let mark = if holds { "ok" } else { "FAILED" };
        self.failed += u32::from(!holds);
        match error {
            Some(error) => self.line(&format!("{mark:6} {what}: {} ({error})", error.name())),
            None => self.line(&format!("{mark:6} {what}")),
        }
    }

    /// A line about something that must be refused, with one of these errors.
    pub fn refusal(&mut self, what: &str, result: Result<c_long, Errno>, expected: &[Errno]) {
        match result {
            Err(error) => {
                self.outcome(expected.contains(&error), &format!("refused: {what}"), Some(error))
            }
            Ok(value) => self.outcome(false, &format!("allowed: {what} (result {value})"), None),
        }
    }

    /// Whether all could be printed, or the reader did not want it.
    pub const fn is_complete(&self) -> bool {
        !self.cut
    }

    /// Prints what there is so far. If whoever reads it is gone, that is all right.
    pub fn flush(&mut self) {
        let printed = io::stdout().write_all(self.text.as_bytes());
        match printed.and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !self.cut => {
                self.cut = true;
                eprintln!("tour: cannot print what was found: {error}");
            }
            _ => {}
        }
        self.text.clear();
    }
}
