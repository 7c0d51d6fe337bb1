//! The inner door's table: every system call of `airlock_abi::syscalls` that is `done` has a
//! handler of its name here, and the dispatcher is made from the list.
//!
//! A handler is a plain function over typed arguments. Pointers arrive as [`UserPtr`]: allegations.

mod attributes;
mod caller;
mod capability;
#[cfg(target_os = "none")]
mod clone;
#[cfg(target_os = "none")]
mod deliver;
mod descriptor;
mod directory;
mod epoll;
mod event;
#[cfg(target_os = "none")]
mod exec;
#[cfg(any(test, target_os = "none"))]
mod futex;
pub mod handlers;
mod identity;
mod inotify;
mod locks;
#[cfg(target_os = "none")]
mod machine;
mod memory;
mod memory_lock;
mod message;
mod mount;
mod mqueue;
mod msg;
mod open;
mod pipe;
mod poll;
mod prctl;
mod process;
#[cfg(target_os = "none")]
mod process_file;
#[cfg(target_os = "none")]
mod process_memory;
mod read_write;
mod resource;
#[cfg(target_os = "none")]
mod rseq;
mod schedule;
mod sem;
mod shm;
#[cfg(target_os = "none")]
mod signal;
mod socket;
mod splice;
mod status;
mod system;
mod sysv;
mod time;
mod timer;
#[cfg(any(test, target_os = "none"))]
mod trace;
#[cfg(target_os = "none")]
mod wait;
#[cfg(target_os = "none")]
pub mod whole_frame;

use crate::errno::Result;
use crate::memory::UserPtr;

/// A file descriptor, as a register holds it: only its lower half counts, as on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fd(pub i32);

/// `AT_FDCWD`.
pub const AT_FDCWD: Fd = Fd(-100);

/// A type that an argument register can be read as.
pub trait FromRegister {
    /// What the register means.
    fn from_register(value: u64) -> Self;
}

macro_rules! from_low_half {
    ($($type:ty),+) => {
        $(impl FromRegister for $type {
            fn from_register(value: u64) -> Self {
                let [a, b, c, d, ..] = value.to_le_bytes();
                Self::from_le_bytes([a, b, c, d])
            }
        })+
    };
}
from_low_half!(i32, u32);

impl FromRegister for u64 {
    fn from_register(value: u64) -> Self {
        value
    }
}

impl FromRegister for i64 {
    fn from_register(value: u64) -> Self {
        value.cast_signed()
    }
}

impl FromRegister for usize {
    fn from_register(value: u64) -> Self {
        crate::memory::usize_from(value)
    }
}

impl FromRegister for Fd {
    fn from_register(value: u64) -> Self {
        Self(i32::from_register(value))
    }
}

impl<T> FromRegister for UserPtr<T> {
    fn from_register(value: u64) -> Self {
        Self::new(value)
    }
}

/// A type that a handler can return.
pub trait IntoRegister {
    /// What RAX shall hold.
    fn into_register(self) -> i64;
}

impl IntoRegister for () {
    fn into_register(self) -> i64 {
        0
    }
}

impl IntoRegister for i32 {
    fn into_register(self) -> i64 {
        self.into()
    }
}

impl IntoRegister for u32 {
    fn into_register(self) -> i64 {
        self.into()
    }
}

impl IntoRegister for i64 {
    fn into_register(self) -> i64 {
        self
    }
}

impl IntoRegister for u64 {
    fn into_register(self) -> i64 {
        self.cast_signed()
    }
}

impl IntoRegister for usize {
    fn into_register(self) -> i64 {
        (self as u64).cast_signed()
    }
}

impl IntoRegister for Fd {
    fn into_register(self) -> i64 {
        self.0.into()
    }
}

impl<T: IntoRegister> IntoRegister for Result<T> {
    fn into_register(self) -> i64 {
        match self {
            Ok(value) => value.into_register(),
            Err(error) => error.to_register(),
        }
    }
}

#[cfg(target_os = "none")]
pub use dispatch::*;
#[cfg(target_os = "none")]
pub use futex::leave_memory;
#[cfg(target_os = "none")]
pub use trace::end as record_end;

#[cfg(target_os = "none")]
mod dispatch {
    use super::{FromRegister, IntoRegister, handlers, trace};
    use crate::arch::{Cpu, TrapFrame, entry};
    use crate::errno::Errno;
    use airlock_abi::syscalls::{self, LIMIT, by_number, by_number32};
    use core::sync::atomic::{AtomicU64, Ordering};

    /// A row of the table that entry code calls, with the six argument registers.
    pub type Handler = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64) -> i64;

    const CLONE: usize = syscalls::number("clone") as usize;
    const FORK: usize = syscalls::number("fork") as usize;
    const VFORK: usize = syscalls::number("vfork") as usize;
    const CLONE3: usize = syscalls::number("clone3") as usize;

    macro_rules! make_table {
        (@row $table:ident, $number:literal, $name:ident, none, ($($argument:ident),*)) => {
            $table[$number] = {
                extern "C" fn missing(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
                    unknown_number($number)
                }
                missing
            };
        };
        (@row $table:ident, $number:literal, $name:ident, done, ($($argument:ident),*)) => {
            $table[$number] = {
                extern "C" fn handler(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
                    let registers = [a, b, c, d, e, f];
                    let mut next = 0;
                    let mut argument = || {
                        next += 1;
                        registers[next - 1]
                    };
                    let _ = &mut argument;
                    handlers::$name($({
                        let $argument = argument();
                        FromRegister::from_register($argument)
                    }),*).into_register()
                }
                handler
            };
        };
        ($(($number:literal, $number32:tt, $name:ident, $state:ident, ($($argument:ident: $kind:ident),*)))*) => {
            /// What entry code calls, by number.
            #[unsafe(no_mangle)]
            static SYSTEM_CALLS: [Handler; LIMIT] = {
                let mut table: [Handler; LIMIT] = [no_such_call; LIMIT];
                $(make_table!(@row table, $number, $name, $state, ($($argument),*));)*
                // Those that copy all of the program's registers come by way of code that saves them.
                table[CLONE] = entry::clone_entry;
                table[FORK] = entry::fork_entry;
                table[VFORK] = entry::vfork_entry;
                table[CLONE3] = entry::clone3_entry;
                table
            };
        };
    }

    airlock_abi::for_each_system_call!(make_table);

    extern "C" fn no_such_call(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
        Errno::ENOSYS.to_register()
    }

    /// Numbers that were already named in the log.
    static NAMED: [AtomicU64; LIMIT / 64] = [const { AtomicU64::new(0) }; LIMIT / 64];

    /// A number without a handler: ENOSYS, and a line in the log the first time.
    pub extern "C" fn unknown_number(number: u64) -> i64 {
        let index = crate::memory::usize_from(number);
        if let Some(word) = NAMED.get(index / 64) {
            let bit = 1 << (index % 64);
            if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let name =
                    u32::try_from(number).ok().and_then(by_number).map_or("?", |call| call.name);
                crate::log!("system call {number} ({name}) is not implemented");
            }
        }
        Errno::ENOSYS.to_register()
    }

    /// Makes a call for a program whose frame is complete.
    fn call(number: u64, arguments: [u64; 6]) -> i64 {
        let [a, b, c, d, e, f] = arguments;
        let number = number & 0xffff_ffff;
        let index = crate::memory::usize_from(number);
        if matches!(index, CLONE | FORK | VFORK | CLONE3) {
            Cpu::current().set_frame_complete();
        }
        // Also a mispredicted branch reads only from the table (Spectre v1).
        let index = crate::arch::instruction::masked_index(index, LIMIT);
        match SYSTEM_CALLS.get(index).filter(|_| number < LIMIT as u64) {
            // SAFETY: handlers take any arguments; those that read the program's frame find it whole.
            Some(handler) => unsafe { handler(a, b, c, d, e, f) },
            None => unknown_number(number),
        }
    }

    /// Called by entry code instead of the table when a trace is wanted.
    pub extern "C" fn traced_call(frame: &mut TrapFrame) -> i64 {
        let arguments = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
        trace::around(frame.code, false, arguments, || call(frame.code, arguments))
    }

    /// A system call whose frame is complete.
    pub fn whole_call(frame: &mut TrapFrame) -> i64 {
        if trace::is_on() {
            return traced_call(frame);
        }
        call(frame.code, [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9])
    }

    /// `int 0x80`: numbers of the 32-bit table, arguments of 32 bits (Linux's `entry_INT80_compat`).
    pub fn int80(frame: &mut TrapFrame) {
        let low = |value: u64| value & 0xffff_ffff;
        let arguments = [frame.rbx, frame.rcx, frame.rdx, frame.rsi, frame.rdi, frame.rbp].map(low);
        let number = low(frame.rax);
        frame.code = number;
        let compat = u32::try_from(number).ok().and_then(by_number32);
        let handle = || match compat {
            Some(row) => call(row.number.into(), arguments),
            None => Errno::ENOSYS.to_register(),
        };
        let result =
            if trace::is_on() { trace::around(number, true, arguments, handle) } else { handle() };
        frame.rax = result.cast_unsigned();
    }

    /// On the way back to ring 3, when something asked for it.
    pub extern "C" fn exit_work(frame: &mut TrapFrame, from_call: u32) {
        let cpu = Cpu::current();
        cpu.take_work();
        if cpu.take_switch() {
            crate::sched::run::preempt();
        }
        crate::process::relieve_reserve();
        crate::memory::reporting::attend();
        super::deliver::on_the_way_out(frame, from_call != 0);
    }
}

#[cfg(test)]
mod tests;
