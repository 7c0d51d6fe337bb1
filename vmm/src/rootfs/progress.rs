//! How far packing is, for someone who waits at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Who waits for less is not told anything.
const QUIET: Duration = Duration::from_millis(500);
/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(100);
const BAR: u64 = 30;

/// A line on standard error that says how far packing is. It is wiped out when this is dropped.
#[derive(Debug)]
pub struct Progress {
    next: Option<Instant>,
    shown: bool,
    done: u64,
    total: Option<u64>,
}

impl Progress {
    /// Nothing is done yet, and how much there is to do is not known.
    pub fn new() -> Self {
        let next = io::stderr().is_terminal().then(|| Instant::now() + QUIET);
        Self { next, shown: false, done: 0, total: None }
    }

    /// Begins the part of the work of which the end can be foreseen.
    pub const fn expect(&mut self, total: u64) {
        self.done = 0;
        self.total = Some(total);
    }

    /// So many more bytes are done.
    pub fn advance(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + INTERVAL);
        self.shown = true;
        let line = self.line();
        // Whether anyone can see it is nothing that packing depends on.
        drop(io::stderr().write_all(line.as_bytes()));
    }

    fn line(&self) -> String {
        let mebibytes = self.done >> 20;
        match self.total.filter(|&total| total > 0) {
            Some(total) => {
                let done = self.done.min(total);
                let filled = usize::try_from(done.saturating_mul(BAR) / total).unwrap_or(0);
                let percent = done.saturating_mul(100) / total;
                let width = usize::try_from(BAR).unwrap_or(0);
                format!("\r\x1b[Kpacking [{:<width$}] {percent:>3} %", "#".repeat(filled))
            }
            None => format!("\r\x1b[Kreading: {mebibytes} MiB"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            drop(io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_is_done() {
        let mut progress = Progress { next: None, shown: false, done: 0, total: None };
        progress.advance(3 << 20);
        assert!(progress.line().ends_with("reading: 3 MiB"));
        progress.expect(10);
        progress.advance(5);
        assert!(progress.line().ends_with("[###############               ]  50 %"));
        progress.advance(50);
        assert!(progress.line().ends_with("[##############################] 100 %"));
        progress.expect(0);
        assert!(progress.line().ends_with("0 MiB"));
    }
}
