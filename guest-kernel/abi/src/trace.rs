//! Records behind `--strace`, from the kernel to the VMM through [`crate::console::PORT_TRACE`].
//!
//! A record is a [`Header`], then [`Header::data`] bytes of captured strings: each a [`Capture`]
//! followed by its bytes, padded to a multiple of 8. The kernel copies what the kinds of the
//! arguments in [`crate::syscalls`] call for; the VMM alone knows how to print it.

/// What a record tells. The numbers are what [`Header::kind`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A system call returned.
    Returned = 0,
    /// A system call that does not return (`exit`, `exit_group`, a successful `execve`) began.
    Began = 1,
    /// A signal is delivered: `number` is the signal, `arguments[0]` its `si_code`, `arguments[1]` its `si_addr` or sender.
    Signal = 2,
    /// The process exited: `result` is the status.
    Exited = 3,
    /// The process was killed: `number` is the signal.
    Killed = 4,
}

impl Kind {
    /// The kind that a number stands for.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Returned,
            1 => Self::Began,
            2 => Self::Signal,
            3 => Self::Exited,
            4 => Self::Killed,
            _ => return None,
        })
    }
}

/// Fixed part of a record; little-endian, 88 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// Bytes of the whole record, this header included; a multiple of 8.
    pub length: u32,
    /// [`Kind`] as a number.
    pub kind: u16,
    /// 1 if the call came through `int 0x80`, with `number` from the 32-bit table.
    pub compat: u16,
    /// Thread (tid) that made the call.
    pub thread: u32,
    /// Number of the system call or signal.
    pub number: u32,
    /// Argument registers.
    pub arguments: [u64; 6],
    /// Return value: a negative error number or a result.
    pub result: i64,
    /// Nanoseconds of `CLOCK_MONOTONIC` when the call began...
    pub begin_ns: u64,
    /// ...and how long it took.
    pub duration_ns: u64,
}

/// Precedes the bytes of one captured argument.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Capture {
    /// Which argument this is (0 to 5).
    pub argument: u8,
    /// 1 if memory held more than was captured.
    pub truncated: u8,
    /// Unused, zero.
    pub reserved: u16,
    /// Bytes that follow, before padding.
    pub length: u32,
}

/// How many bytes of a buffer are captured, as with `strace -s 32`.
pub const BUFFER_CAPTURE: usize = 32;
/// How many bytes of a path or other string are captured.
pub const STRING_CAPTURE: usize = 256;
/// No record is longer than this many bytes.
pub const MAX_RECORD: usize = core::mem::size_of::<Header>() + 6 * (8 + STRING_CAPTURE);

const _: () = assert!(core::mem::size_of::<Header>() == 88);
const _: () = assert!(core::mem::size_of::<Capture>() == 8);
