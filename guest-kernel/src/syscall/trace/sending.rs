//! When records are made.

use super::record::Record;
use crate::signal::Information;
use crate::{boot, drivers, process, time};
use airlock_abi::boot::flags;
use airlock_abi::console::PORT_TRACE;
use airlock_abi::exit::Exit;
use airlock_abi::syscalls::{self, by_number, by_number32};
use airlock_abi::trace::Kind;
use core::sync::atomic::{AtomicBool, Ordering};

/// Calls that do not return.
const LAST_CALLS: [u32; 2] = [syscalls::number("exit"), syscalls::number("exit_group")];

/// Whether a trace is wanted.
pub fn is_on() -> bool {
    boot::has_flag(flags::STRACE)
}

/// Makes a call and records it.
pub fn around(number: u64, compat: bool, arguments: [u64; 6], call: impl FnOnce() -> i64) -> i64 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    let number = u32::from_le_bytes([a, b, c, d]);
    let row = if compat { by_number32(number) } else { by_number(number) };
    let mut record = Record::new(Kind::Returned, thread(), number, arguments);
    if compat {
        record.set_compat();
    }
    if let Some(row) = row {
        record.capture_inputs(row, &arguments);
        if LAST_CALLS.contains(&row.number) {
            record.set_kind(Kind::Began);
            send(&mut record);
            return call();
        }
    }
    let begin = time::monotonic_ns();
    let result = call();
    record.set_time(begin, time::monotonic_ns().saturating_sub(begin));
    record.set_result(result);
    if let Some(row) = row {
        record.capture_outputs(row, &arguments, result);
    }
    send(&mut record);
    result
}

/// Records that a signal is delivered.
pub fn signal(information: &Information) {
    if is_on() {
        let code = u64::from(information.code.cast_unsigned());
        let arguments = [code, information.detail[0], 0, 0, 0, 0];
        send(&mut Record::new(Kind::Signal, thread(), information.signal.into(), arguments));
    }
}

/// Records the end of the program.
pub fn end(exit: Exit) {
    if is_on() {
        let mut record = match exit {
            Exit::Signaled(signal) => Record::new(Kind::Killed, thread(), signal.into(), [0; 6]),
            Exit::Exited(_) => Record::new(Kind::Exited, thread(), 0, [0; 6]),
            _ => return,
        };
        if let Exit::Exited(status) = exit {
            record.set_result(status.into());
        }
        send(&mut record);
    }
}

fn thread() -> u32 {
    process::current().tid().cast_unsigned()
}

fn send(record: &mut Record) {
    static LOST: AtomicBool = AtomicBool::new(false);
    if let Err(error) = drivers::console::write_kernel(PORT_TRACE, record.bytes())
        && !LOST.swap(true, Ordering::Relaxed)
    {
        crate::log!("the trace has gaps: {error}");
    }
}
