//! The lines of real strace(1) for the same system calls.

use std::ffi::CString;
use std::process::Command;

use super::{call, int, number};

/// Calls that both real strace and this one print, made with these registers.
fn calls() -> Vec<(&'static str, Vec<Value>)> {
    use Value::{In, Number, Text};
    let cwd = Number(int(libc::AT_FDCWD));
    let bad = Number(int(-1));
    let n = |value: u64| Number(value);
    vec![
        ("write", vec![bad, In(b"hello\n\x1b[0m\x007\x01x\xff\"\\\t\r\x0b\x0c"), n(21)]),
        ("write", vec![bad, In(b"0123456789012345678901234567890123456789"), n(40)]),
        ("write", vec![n(1), n(0xffff_8000_0000_0000), n(5)]),
        ("write", vec![bad, In(b""), n(0)]),
        ("read", vec![bad, n(0), n(5)]),
        ("read", vec![bad, n(0x1234_5000), n(1 << 40)]),
        ("close", vec![n(777)]),
        ("open", vec![Text("/nonexistent/x"), n(0)]),
        ("open", vec![Text("/nonexistent/x"), n(0o1102), n(0o644)]),
        ("openat", vec![cwd, Text("/nonexistent/x"), n(0x80000)]),
        ("openat", vec![cwd, Text("/nonexistent/x"), n(0x9_8800)]),
        ("openat", vec![cwd, Text("/nonexistent/x"), n(0x41_0002), n(0o600)]),
        ("openat", vec![n(77), Text("x"), n(0x8000_0001)]),
        ("openat", vec![cwd, n(0), n(0x10_1002)]),
        ("creat", vec![Text("/nonexistent/x"), n(0o7)]),
        ("mkdir", vec![Text("/proc"), n(0)]),
        ("mkdirat", vec![bad, Text("/nonexistent/x"), n(0o1777)]),
        ("unlinkat", vec![bad, Text("/nonexistent/x"), n(0x200)]),
        ("rename", vec![Text("/nonexistent/x"), Text("/nonexistent/y")]),
        ("linkat", vec![bad, Text("/nonexistent/x"), bad, Text("/nonexistent/y"), n(0x400)]),
        ("symlink", vec![Text("target"), Text("/nonexistent/y")]),
        ("chdir", vec![Text("/nonexistent/a b")]),
        ("chmod", vec![Text("/nonexistent/x"), n(0o4755)]),
        ("chown", vec![Text("/nonexistent/x"), Number(int(-1)), n(7)]),
        ("fchownat", vec![bad, Text("x"), n(1), n(2), n(0x1100)]),
        ("truncate", vec![Text("/nonexistent/x"), n(1 << 33)]),
        ("ftruncate", vec![bad, n(1 << 33)]),
        ("access", vec![Text("/nonexistent/x"), n(0)]),
        ("access", vec![Text("/nonexistent/x"), n(5)]),
        ("access", vec![Text("/nonexistent/x"), n(9)]),
        ("faccessat2", vec![bad, Text("x"), n(2), n(0x300)]),
        ("newfstatat", vec![bad, Text("x"), n(0), n(0x100)]),
        ("statx", vec![bad, Text("x"), n(0x2100), n(0x7ff), n(0)]),
        ("lseek", vec![bad, Number((-5_i64).cast_unsigned()), n(2)]),
        ("lseek", vec![n(0), n(0), n(77)]),
        ("dup", vec![n(777)]),
        ("dup2", vec![n(777), n(778)]),
        ("dup3", vec![n(777), n(778), n(0)]),
        ("dup3", vec![n(777), n(778), n(0x80000)]),
        ("dup3", vec![n(777), n(778), n(2)]),
        ("pipe2", vec![n(0), n(0x80800)]),
        ("fcntl", vec![bad, n(1)]),
        ("fcntl", vec![bad, n(2), n(1)]),
        ("fcntl", vec![bad, n(4), n(0x802)]),
        ("fcntl", vec![n(777), n(1030), n(3)]),
        ("ioctl", vec![bad, n(0x5413), n(0)]),
        ("ioctl", vec![bad, n(0x5401), n(0)]),
        ("mmap", vec![n(0x10), n(4096), n(7), n(0x4022), bad, n(0x1_0000_0000)]),
        ("mmap", vec![n(0), n(0), n(0), n(0x32), bad, n(0)]),
        ("mprotect", vec![n(1), n(4096), n(3)]),
        ("munmap", vec![n(1), n(4096)]),
        ("mremap", vec![n(1), n(2), n(3), n(1)]),
        ("madvise", vec![n(1), n(4096), n(4)]),
        ("msync", vec![n(1), n(4096), n(4)]),
        ("brk", vec![n(0)]),
        ("umask", vec![n(0o22)]),
        ("umask", vec![n(0)]),
        ("kill", vec![n(0x7fff_fff0), n(15)]),
        ("kill", vec![n(0x7fff_fff0), n(99)]),
        ("tgkill", vec![n(0x7fff_fff0), n(1), n(34)]),
        ("clock_gettime", vec![n(1), n(8)]),
        ("clock_gettime", vec![n(99), n(0)]),
        ("clock_nanosleep", vec![n(0), n(1), n(8), n(0)]),
        ("socket", vec![n(1), n(0x80801), n(0x7fff)]),
        ("getrandom", vec![n(8), n(8), n(5)]),
        ("close_range", vec![n(9), n(8), n(2)]),
        ("futex", vec![n(8), n(128), n(1), n(0)]),
        ("getpid", vec![]),
        ("getppid", vec![]),
        ("gettid", vec![]),
        ("geteuid", vec![]),
        ("sched_yield", vec![]),
        ("setpgid", vec![n(0x7fff_fff0), Number(int(-1))]),
        ("sendfile", vec![bad, bad, n(0), n(4096)]),
        ("copy_file_range", vec![bad, n(0), bad, n(0), n(4096), n(0)]),
        ("eventfd2", vec![n(0), n(0x4000_0000)]),
        ("epoll_create1", vec![n(1)]),
        ("timerfd_create", vec![n(1), n(0x8_0810)]),
        ("removexattr", vec![Text("/nonexistent/x"), Text("user.a")]),
        ("setxattr", vec![Text("/nonexistent/x"), Text("user.a"), In(b"abc"), n(3), n(0)]),
    ]
}

/// What an argument register of [`calls`] holds.
#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Text(&'static str),
    In(&'static [u8]),
}

/// An argument, what of it is captured, and whether there was more.
type Captured = (u8, &'static [u8], bool);

/// Registers, what they point to, and what the kernel would capture for them.
fn registers(values: &[Value]) -> (Vec<u64>, Vec<CString>, Vec<Captured>) {
    let mut keep = Vec::new();
    let mut captures = Vec::new();
    let mut arguments = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let index = u8::try_from(index).unwrap();
        arguments.push(match *value {
            Value::Number(number) => number,
            Value::Text(text) => {
                keep.push(CString::new(text).unwrap());
                captures.push((index, text.as_bytes(), false));
                keep.last().unwrap().as_ptr().expose_provenance().try_into().unwrap()
            }
            Value::In(bytes) => {
                let most = airlock_abi::trace::BUFFER_CAPTURE.min(bytes.len());
                captures.push((index, &bytes[..most], bytes.len() > most));
                bytes.as_ptr().expose_provenance().try_into().unwrap()
            }
        });
    }
    (arguments, keep, captures)
}

const REAL_STRACE: &str = "AIRLOCK_TEST_UNDER_STRACE";

/// Makes the calls by the instruction, as only then do all six registers arrive as they are.
fn make_calls() {
    for (name, values) in calls() {
        let (mut arguments, keep, _) = registers(&values);
        arguments.resize(6, 0);
        let mut result = u64::from(number(name));
        // SAFETY: no call of the list reads or writes memory but through pointers that are valid for
        // it or fail, and none changes a mapping that exists.
        unsafe {
            std::arch::asm!(
                "syscall",
                inout("rax") result,
                in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
                in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
                out("rcx") _, out("r11") _,
            );
        }
        drop(keep);
        println!("result {}", result.cast_signed());
    }
}

/// Runs this test again under strace(1), and compares what that printed with what we do, line by line.
#[test]
fn it_prints_the_same() {
    if std::env::var_os(REAL_STRACE).is_some() {
        make_calls();
        return;
    }
    let directory = std::env::temp_dir().join(format!("airlock-strace-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let test = "strace::tests::real_strace::it_prints_the_same";
    // -ff: a file for each thread.
    let ran = Command::new("strace")
        .args(["-ff", "-o"])
        .arg(directory.join("thread"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(REAL_STRACE, "1")
        .output();
    let theirs: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .filter(|text| text.contains("\"result "))
        .collect();
    std::fs::remove_dir_all(&directory).unwrap();
    let output = match ran {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("strace(1) is not installed: there is nothing to compare with");
            return;
        }
        Err(error) => panic!("cannot run strace: {error}"),
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(theirs.len(), 1, "one thread makes the calls");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let mut results =
        stdout.lines().filter_map(|line| line.split_once("result ")).map(|(_, result)| result);
    // Each call is followed by the line that prints its result.
    let lines: Vec<&str> = theirs[0].lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].contains("\"result "));
    let theirs: Vec<&str> = pairs.map(|pair| pair[0]).collect();
    let mut ours = Vec::new();
    for (name, values) in calls() {
        let result: i64 = results.next().unwrap().parse().unwrap();
        let (arguments, _keep, captures) = registers(&values);
        ours.push(call(name, &arguments, result, &captures));
    }
    let ours: Vec<&str> = ours.iter().map(|line| line.trim_end()).collect();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if ours != theirs {
            eprintln!("ours:   {ours}\ntheirs: {theirs}");
        }
    }
    assert!(ours == theirs);
}
