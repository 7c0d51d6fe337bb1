//! The tour: the program that `airlock run` runs when the user names none.
//!
//! It says where it is, then tries the two doors between a program and the host and reports what it
//! saw. It does not know how Airlock works, and it runs on any Linux; elsewhere than in Airlock, some
//! doors are open, and it says so and exits with status 1.

mod report;

use std::arch::x86_64::__cpuid;
use std::ffi::{CStr, c_char, c_long, c_void};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::ptr;

use airlock_abi::errno::Errno;
use report::Report;

/// Where the tour writes a file, and what.
const FILE: &str = "/tmp/airlock-tour";
const MESSAGE: &str = "Whoever reads this has passed the inner door.";

/// Addresses that belong to the kernel on x86-64: both ends of its half, and some between.
const KERNEL_ADDRESSES: [usize; 4] =
    [0xffff_8000_0000_0000, 0xffff_8880_0000_0000, 0xffff_ffff_8010_0000, 0xffff_ffff_ffff_f000];

fn main() -> ExitCode {
    let mut report = Report::default();
    report.text("A tour of the airlock: where a program is in here, and what it cannot reach.\n");
    show_surroundings(&mut report);
    try_files(&mut report);
    try_kernel(&mut report);
    try_host(&mut report);
    match report.failed() {
        0 => {
            report.text("\nBoth doors hold. To pass them with a program of your own: airlock run ./program\n");
            report.flush();
            if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        failed => {
            report.text(&format!("\n{failed} of the doors' locks did not hold.\n"));
            report.flush();
            ExitCode::FAILURE
        }
    }
}

fn show_surroundings(report: &mut Report) {
    report.heading("Where it is");
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    let mut memory = MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the calls fill in a structure each; all zeroes, as they are if a call fails, is valid.
    let (name, memory) = unsafe {
        libc::uname(name.as_mut_ptr());
        libc::sysinfo(memory.as_mut_ptr());
        (name.assume_init(), memory.assume_init())
    };
    report.line(&format!(
        "kernel   {} {} on {}: {}",
        text(&name.sysname),
        text(&name.release),
        text(&name.machine),
        text(&name.version),
    ));
    let unit = u64::from(memory.mem_unit.max(1));
    let mebibytes = |amount: u64| amount.saturating_mul(unit) >> 20;
    report.line(&format!(
        "machine  {} CPU, {} MiB of memory, {} MiB of it free",
        std::thread::available_parallelism().map_or(1, usize::from),
        mebibytes(memory.totalram),
        mebibytes(memory.freeram),
    ));
    // SAFETY: this call takes nothing and cannot fail.
    let user = unsafe { libc::getuid() };
    report.line(&format!("process  number {}, user {user}", std::process::id()));
}

/// Files: its own are its own, and the host's are not here.
fn try_files(report: &mut Report) {
    report.heading("Files of its own");
    let back = fs::write(FILE, MESSAGE).and_then(|()| fs::read(FILE));
    let what = format!("{} bytes written to {FILE} and read back", MESSAGE.len());
    report.outcome(
        back.as_ref().is_ok_and(|back| back == MESSAGE.as_bytes()),
        &what,
        back.err().map(errno),
    );
    let removed = fs::remove_file(FILE);
    report.outcome(removed.is_ok(), "the file removed again", removed.err().map(errno));
    for path in ["/etc/shadow", "/dev/kvm", "/dev/mem"] {
        let opened = File::open(path).map(|_| 0).map_err(errno);
        report.refusal(&format!("opening {path}"), opened, &[Errno::ENOENT]);
    }
}

/// The inner door: the guest kernel's system calls.
fn try_kernel(report: &mut Report) {
    report.heading("The inner door: the kernel of this machine");
    // SAFETY: the arguments are of no use to any kernel: no module, of no length.
    let loaded = check(unsafe { libc::syscall(libc::SYS_init_module, 0, 0, 0) });
    report.refusal("loading code into the kernel", loaded, &[Errno::ENOSYS, Errno::EPERM]);

    // Without the file, every attempt fails with EBADF, and the report says so.
    let output = File::create(FILE).ok();
    let output = output.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    refuse_all(report, "writing a file from kernel memory", |address| write_from(output, address));
    let input = fs::write(FILE, MESSAGE).and_then(|()| File::open(FILE)).ok();
    let input = input.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    refuse_all(report, "reading a file into kernel memory", |address| read_to(input, address));
    let _ = fs::remove_file(FILE);
}

/// Tries something with each address of the kernel. One line tells if all were refused alike; else, one
/// line each for those that were not.
fn refuse_all(report: &mut Report, what: &str, attempt: impl Fn(usize) -> Result<c_long, Errno>) {
    let results = KERNEL_ADDRESSES.map(|address| (address, attempt(address)));
    if results.iter().all(|(_, result)| *result == Err(Errno::EFAULT)) {
        report.refusal(
            &format!("{what}, at {} addresses", results.len()),
            results[0].1,
            &[Errno::EFAULT],
        );
        return;
    }
    for (address, result) in results {
        report.refusal(&format!("{what}, at {address:#x}"), result, &[Errno::EFAULT]);
    }
}

/// The outer door: what lies between this machine and its host.
fn try_host(report: &mut Report) {
    report.heading("The outer door: the host of this machine");
    // "Hypervisor present" is ECX bit 31 of leaf 1; its name is in EBX, ECX, EDX of leaf 0x4000_0000.
    let present = __cpuid(1).ecx >> 31 == 1;
    let leaf = __cpuid(0x4000_0000);
    let name: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    let name = String::from_utf8_lossy(&name);
    let name = if present { name.trim_end_matches('\0') } else { "none that says so" };
    report.outcome(present, &format!("the processor is a virtual one, of {name}"), None);
    // SAFETY: no pointer is involved.
    let (ports, network) = unsafe {
        (
            check(libc::syscall(libc::SYS_iopl, 3)),
            check(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into()),
        )
    };
    report.refusal("access to the machine's devices", ports, &[Errno::ENOSYS, Errno::EPERM]);
    report.refusal(
        "access to a network",
        network,
        &[Errno::ENOSYS, Errno::EAFNOSUPPORT, Errno::EPERM],
    );
}

/// Has the kernel write to a file from an address of its own.
fn write_from(file: RawFd, address: usize) -> Result<c_long, Errno> {
    let pointer = ptr::without_provenance::<c_void>(address);
    // SAFETY: the kernel reads there, or refuses to; none of this program's memory is involved.
    check(unsafe { libc::syscall(libc::SYS_write, file, pointer, 8) })
}

/// Has the kernel read a file to an address of its own.
fn read_to(file: RawFd, address: usize) -> Result<c_long, Errno> {
    let pointer = ptr::without_provenance_mut::<c_void>(address);
    // SAFETY: the kernel writes there, or refuses to; none of this program's memory is involved.
    check(unsafe { libc::syscall(libc::SYS_read, file, pointer, 8) })
}

/// The result of a system call: what it returned, or the error number it left.
fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 { Ok(result) } else { Err(errno(std::io::Error::last_os_error())) }
}

/// The error number in an error of the standard library.
fn errno(error: std::io::Error) -> Errno {
    let number = error.raw_os_error().and_then(|number| u64::try_from(number).ok());
    number.and_then(Errno::from_number).unwrap_or(Errno::EIO)
}

/// The text in a field of uname(2).
fn text(field: &[c_char]) -> String {
    // SAFETY: the array lives as long as the slice, and bytes of either sign are bytes.
    let bytes = unsafe { std::slice::from_raw_parts(field.as_ptr().cast::<u8>(), field.len()) };
    CStr::from_bytes_until_nul(bytes)
        .map_or_else(|_| "?".to_owned(), |text| text.to_string_lossy().into_owned())
}
