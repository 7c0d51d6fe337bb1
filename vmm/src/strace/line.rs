//! A record as the line that strace prints for it.

use airlock_abi::errno::Errno;
use airlock_abi::syscalls::{self, Kind as Argument, SystemCall};
use airlock_abi::trace::Kind;

use super::quote::quote;
use super::record::{Captured, Record};
use super::signals;
use super::values::{self, Values};

/// Where strace puts the `=` of a result, unless the call is longer.
const RESULT_COLUMN: usize = 40;

/// Appends the line for a record, its newline included.
pub fn write_line(line: &mut Vec<u8>, record: &Record<'_>) {
    let header = &record.header;
    match record.kind {
        Kind::Returned | Kind::Began => {
            let start = line.len();
            let call = Call::of(record);
            call.write(line);
            line.push(b' ');
            let end = start + RESULT_COLUMN;
            if line.len() < end {
                line.resize(end, b' ');
            }
            line.extend_from_slice(b"= ");
            line.extend_from_slice(call.result().as_bytes());
        }
        Kind::Signal => line.extend_from_slice(signal(record).as_bytes()),
        Kind::Exited => {
            let status = header.result & 0xff;
            line.extend_from_slice(format!("+++ exited with {status} +++").as_bytes());
        }
        Kind::Killed => {
            let name = signals::name(header.number);
            line.extend_from_slice(format!("+++ killed by {name} +++").as_bytes());
        }
    }
    line.push(b'\n');
}

fn signal(record: &Record<'_>) -> String {
    let header = &record.header;
    let [code, detail, ..] = header.arguments;
    let code = low(code).cast_signed();
    let name = signals::name(header.number);
    let code_name = signals::code_name(header.number, code);
    let detail = if signals::is_fault(header.number, code) {
        format!("si_addr={}", pointer(detail))
    } else {
        format!("si_pid={}, si_uid=0", low(detail).cast_signed())
    };
    format!("--- {name} {{si_signo={name}, si_code={code_name}, {detail}}} ---")
}

/// A system call and what is known about it.
struct Call<'a> {
    record: &'a Record<'a>,
    known: Option<&'static SystemCall>,
}

impl<'a> Call<'a> {
    fn of(record: &'a Record<'a>) -> Self {
        let number = record.header.number;
        let known = if record.header.compat == 0 {
            syscalls::by_number(number)
        } else {
            syscalls::by_number32(number)
        };
        Self { record, known }
    }

    fn name(&self) -> &'static str {
        self.known.map_or("", |call| call.name)
    }

    fn argument(&self, index: usize) -> u64 {
        self.record.header.arguments.get(index).copied().unwrap_or(0)
    }

    /// The call up to its closing parenthesis.
    fn write(&self, line: &mut Vec<u8>) {
        match self.known {
            Some(call) => {
                line.extend_from_slice(call.name.as_bytes());
                line.push(b'(');
                for index in 0..self.shown() {
                    if index > 0 {
                        line.extend_from_slice(b", ");
                    }
                    self.write_argument(line, call, index);
                }
            }
            None => {
                let number = self.record.header.number;
                let all = self.record.header.arguments.map(|value| format!("{value:#x}"));
                line.extend_from_slice(
                    format!("syscall_{number:#x}({}", all.join(", ")).as_bytes(),
                );
            }
        }
        line.push(b')');
    }

    /// How many arguments there are: some calls look at the last ones only for some values of others.
    fn shown(&self) -> usize {
        const GETTERS: [i32; 4] =
            [libc::F_GETFD, libc::F_GETFL, libc::F_GETOWN, libc::F_GETPIPE_SZ];
        let all = self.known.map_or(0, |call| call.arguments.len());
        let int = |index| low(self.argument(index)).cast_signed();
        let creates =
            |flags| flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
        match self.name() {
            "open" if !creates(int(1)) => 2,
            "openat" if !creates(int(2)) => 3,
            "fcntl" if GETTERS.contains(&int(1)) => 2,
            "mremap" if int(3) & (libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) == 0 => 4,
            "prctl" if int(0) == libc::PR_SET_NAME => 2,
            "futex" => match int(1) & 0x7f {
                libc::FUTEX_WAKE => 3,
                libc::FUTEX_WAIT => 4,
                _ => all,
            },
            _ => all,
        }
    }

    fn write_argument(&self, line: &mut Vec<u8>, call: &SystemCall, index: usize) {
        let Some(&(name, kind)) = call.arguments.get(index) else { return };
        let value = self.argument(index);
        if let Some(captured) = self.record.captured.get(index).copied().flatten() {
            write_captured(line, captured);
        } else {
            let text = match self.values(name, index) {
                Some(values) => values.name(low(value).into()),
                None => number(self.kind(kind, name), value),
            };
            line.extend_from_slice(text.as_bytes());
        }
    }

    /// The kind of an argument, where another argument decides about it.
    fn kind(&self, listed: Argument, name: &str) -> Argument {
        const NUMBERS: [i32; 4] =
            [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_SETOWN, libc::F_SETPIPE_SZ];
        let command = low(self.argument(1)).cast_signed();
        match (self.name(), name) {
            ("fcntl", "argument") if NUMBERS.contains(&command) => Argument::Signed,
            _ => listed,
        }
    }

    fn values(&self, name: &str, index: usize) -> Option<Values> {
        let call = self.known?;
        let kind = call.arguments.get(index)?.1;
        let command = low(self.argument(1)).cast_signed();
        match (call.name, name, kind) {
            ("open" | "openat" | "mq_open" | "open_by_handle_at", "flags", _)
            | ("fanotify_init", "event_flags", _) => Some(values::OPEN),
            ("fcntl", "argument", _) => match command {
                libc::F_SETFL => Some(values::OPEN),
                libc::F_SETFD => Some(values::FD_FLAGS),
                _ => None,
            },
            _ => values::of(call.name, name)
                .or((kind == Argument::OpenFlags).then_some(values::DESCRIPTOR)),
        }
    }

    /// What stands behind the `=`.
    fn result(&self) -> String {
        let result = self.record.header.result;
        if self.record.kind == Kind::Began {
            // The only call that goes on in another program, and so began without an end, is a
            // successful execve; the others end the thread.
            let execs = matches!(self.name(), "execve" | "execveat");
            return if execs { "0" } else { "?" }.to_owned();
        }
        if (-4095..0).contains(&result) {
            let number = result.unsigned_abs();
            return match Errno::from_number(number) {
                Some(errno) => format!("-1 {} ({})", errno.name(), errno.text()),
                None => format!("-1 (errno {number})"),
            };
        }
        let unsigned = result.cast_unsigned();
        match self.name() {
            "brk" | "mmap" | "mremap" | "shmat" => hexadecimal(unsigned),
            "umask" => octal(low(unsigned)),
            "fcntl" => match low(self.argument(1)).cast_signed() {
                libc::F_GETFL => {
                    let flags = values::OPEN.name(low(unsigned).into());
                    format!("{} (flags {flags})", hexadecimal(unsigned))
                }
                libc::F_GETFD if result != 0 => {
                    let flags = values::FD_FLAGS.name(low(unsigned).into());
                    format!("{} (flags {flags})", hexadecimal(unsigned))
                }
                _ => result.to_string(),
            },
            _ => result.to_string(),
        }
    }
}

fn write_captured(line: &mut Vec<u8>, captured: Captured<'_>) {
    quote(line, captured.bytes);
    if captured.truncated {
        line.extend_from_slice(b"...");
    }
}

/// An argument that nothing is known of but its kind.
fn number(kind: Argument, value: u64) -> String {
    let int = low(value).cast_signed();
    match kind {
        Argument::DirectoryFd if int == libc::AT_FDCWD => "AT_FDCWD".to_owned(),
        Argument::Fd | Argument::DirectoryFd | Argument::Signed | Argument::Pid => int.to_string(),
        Argument::Path | Argument::Text | Argument::In | Argument::Out | Argument::Pointer => {
            pointer(value)
        }
        Argument::Unsigned => low(value).to_string(),
        Argument::Long => value.cast_signed().to_string(),
        Argument::Size => value.to_string(),
        Argument::Hex | Argument::OpenFlags => hexadecimal(value),
        Argument::Octal => octal(low(value)),
        Argument::Signal => signals::name(low(value)),
    }
}

fn pointer(address: u64) -> String {
    if address == 0 { "NULL".to_owned() } else { format!("{address:#x}") }
}

/// As C's `%#x`: 0 has no prefix.
fn hexadecimal(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

/// As C's `%#03o`.
fn octal(value: u32) -> String {
    if value == 0 { "000".to_owned() } else { format!("0{value:02o}") }
}

/// The lower half of a register, which is all of it that is an `int` argument.
fn low(register: u64) -> u32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
