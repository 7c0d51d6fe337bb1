//! The file system calls beside those of the Linux that runs the tests.
//!
//! The same calls with the same arguments go to the handlers, whose root is an image made of a
//! directory, and to the host's kernel, in that directory: results and errors must be the same.

mod content;
mod host;
mod names;

use super::{FromRegister, IntoRegister, handlers};
use crate::fs::erofs::tests::{Scratch, make_image, place};
use crate::fs::{Context, FileSystem, FileTable};
use crate::memory::PhysAddr;
use crate::memory::frame;
use crate::memory::space::AddressSpace;
use crate::process::{self, First, Program};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec::Vec;

/// The process that makes the calls. There is one at a time, as in the kernel.
pub struct Machine(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Machine {
    /// A process whose root is this image.
    pub fn with_image(image: &[u8]) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        static SPACE: OnceLock<Arc<AddressSpace>> = OnceLock::new();
        let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        frame::host::init();
        let (bytes, start) = place(image);
        let root = FileSystem::mount_with_limit(bytes, start, 8 << 20).expect("a good image");
        let memory =
            SPACE.get_or_init(|| Arc::new(AddressSpace::new(PhysAddr(0), &[]).expect("memory")));
        process::start_first(First {
            memory: memory.clone(),
            files: FileTable::new(),
            fs: Context::new(root),
            terminal: None,
            credentials: process::Credentials::root(),
            program: Program::default(),
            name: Vec::new(),
            start_ns: 0,
        });
        Self(guard)
    }
}

/// Where a value is, as a program would pass it.
pub fn address<T: ?Sized>(value: &T) -> u64 {
    core::ptr::from_ref(value).cast::<u8>().expose_provenance() as u64
}

macro_rules! dispatch {
    ($($number:literal $name:ident($($argument:ident),*);)*) => {
        /// Makes a call like the dispatcher does.
        pub fn call(number: u64, arguments: [u64; 6]) -> i64 {
            let mut next = arguments.into_iter();
            let mut argument = || next.next().expect("at most six arguments");
            match number {
                $($number => {
                    $(let $argument = argument();)*
                    handlers::$name($(FromRegister::from_register($argument)),*).into_register()
                })*
                _ => panic!("call {number} is not in the list of these tests"),
            }
        }
    };
}

dispatch! {
    0 read(a, b, c);
    1 write(a, b, c);
    3 close(a);
    5 fstat(a, b);
    8 lseek(a, b, c);
    17 pread64(a, b, c, d);
    18 pwrite64(a, b, c, d);
    32 dup(a);
    40 sendfile(a, b, c, d);
    72 fcntl(a, b, c);
    73 flock(a, b);
    76 truncate(a, b);
    77 ftruncate(a, b);
    79 getcwd(a, b);
    80 chdir(a);
    91 fchmod(a, b);
    217 getdents64(a, b, c);
    257 openat(a, b, c, d);
    258 mkdirat(a, b, c);
    259 mknodat(a, b, c, d);
    260 fchownat(a, b, c, d, e);
    262 newfstatat(a, b, c, d);
    263 unlinkat(a, b, c);
    265 linkat(a, b, c, d, e);
    266 symlinkat(a, b, c);
    267 readlinkat(a, b, c, d);
    268 fchmodat(a, b, c);
    280 utimensat(a, b, c, d);
    285 fallocate(a, b, c, d);
    293 pipe2(a, b);
    316 renameat2(a, b, c, d, e);
    326 copy_file_range(a, b, c, d, e, f);
    439 faccessat2(a, b, c, d);
}

/// Makes the image of a directory that `fill` has filled; `None` without `mkfs.erofs`.
pub fn image_of(scratch: &Scratch) -> Option<Vec<u8>> {
    make_image(&scratch.0, &[])
}
