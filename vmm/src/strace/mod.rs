//! `--strace`: the guest kernel's trace records as lines in the form of strace(1).
//!
//! ```text
//! openat(AT_FDCWD, "/etc/motd", O_RDONLY) = -1 ENOENT (No such file or directory)
//! write(1, "hello\n", 6)                  = 6
//! exit_group(0)                           = ?
//! +++ exited with 0 +++
//! ```
//!
//! * [`record`]: bytes from the guest, checked
//! * [`line`]: one record, one line
//! * [`values`]: names of flags, commands, clocks
//! * [`signals`]: names of signals and their causes
//! * [`quote`]: bytes as a C string
//!
//! The guest is hostile: a record may hold anything, but what it becomes is a line of printable ASCII
//! whose length is bounded by the record's.

mod line;
mod quote;
mod record;
mod signals;
mod values;

use std::io::{self, Write};

use airlock_abi::trace::Kind;
use record::Record;

use crate::config::StraceTarget;
use crate::trace::TraceSink;

/// Lines that are held back before they are written; a buffer of records rarely makes more.
const BATCH: usize = 32 * 1024;

/// Writes a line for each record, those of one buffer at once.
///
/// Nothing is held back between buffers, so that no line is lost however the machine ends.
pub struct Strace<W> {
    output: W,
    batch: Vec<u8>,
    /// The thread of the first record: only when there is another do lines begin with their thread.
    first_thread: Option<u32>,
    several_threads: bool,
    /// Whether the last call came through `int 0x80`.
    compat: bool,
    warned: bool,
    /// Whether lines were lost, and the user has been told.
    incomplete: bool,
}

/// A trace to where the user wants it.
///
/// # Errors
/// When the file cannot be duplicated.
pub fn sink(target: &StraceTarget) -> io::Result<Box<dyn TraceSink>> {
    Ok(match target {
        StraceTarget::Stderr => Box::new(Strace::new(io::stderr())),
        StraceTarget::File(file) => Box::new(Strace::new(file.try_clone()?)),
    })
}

impl<W: Write> Strace<W> {
    /// A trace to `output`, which is given whole lines and should not buffer them.
    pub fn new(output: W) -> Self {
        Self {
            output,
            batch: Vec::new(),
            first_thread: None,
            several_threads: false,
            compat: false,
            warned: false,
            incomplete: false,
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        let header = &record.header;
        let first = *self.first_thread.get_or_insert(header.thread);
        self.several_threads |= header.thread != first;
        let is_call = matches!(record.kind, Kind::Returned | Kind::Began);
        if is_call && self.compat != (header.compat != 0) {
            self.compat = header.compat != 0;
            let bits = if self.compat { 32 } else { 64 };
            let text = format!("[ Process PID={} runs in {bits} bit mode. ]\n", header.thread);
            self.batch.extend_from_slice(text.as_bytes());
        }
        if self.several_threads {
            self.batch.extend_from_slice(format!("[pid {:5}] ", header.thread).as_bytes());
        }
        line::write_line(&mut self.batch, record);
    }

    /// Writes what there is. That the guest learns of an error helps nobody: the user has to.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.output.write_all(&self.batch);
        self.batch.clear();
        if let Err(error) = &written
            && !self.incomplete
        {
            self.incomplete = true;
            // If this is where the trace should have gone, too, nobody listens.
            let _ = writeln!(
                io::stderr(),
                "airlock: cannot write the trace, which is incomplete: {error}"
            );
        }
        written
    }
}

impl<W: Write + Send> TraceSink for Strace<W> {
    fn records(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(record) = Record::take(&mut bytes) else {
                if !self.warned {
                    self.warned = true;
                    log::warn!(
                        "the guest kernel sent a malformed trace record: some system calls are missing from the trace"
                    );
                }
                break;
            };
            self.record(&record);
            if self.batch.len() >= BATCH {
                self.flush()?;
            }
        }
        if self.batch.is_empty() { Ok(()) } else { self.flush() }
    }
}

#[cfg(test)]
mod tests;
