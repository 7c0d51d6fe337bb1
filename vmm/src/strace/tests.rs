//! Lines that records become, and that nothing a guest sends does harm.

mod real_strace;

use airlock_abi::syscalls;
use airlock_abi::trace::{Kind, MAX_RECORD};

use super::Strace;
use super::record::tests::record;
use crate::trace::TraceSink;

fn trace(bytes: &[u8]) -> String {
    let mut strace = Strace::new(Vec::new());
    strace.records(bytes).unwrap();
    assert!(strace.batch.is_empty(), "all is written when the buffer is done");
    String::from_utf8(strace.output).unwrap()
}

fn number(name: &str) -> u32 {
    syscalls::by_name(name).unwrap().number
}

fn int(value: i32) -> u64 {
    value.cast_unsigned().into()
}

/// The line of one call.
fn call(name: &str, arguments: &[u64], result: i64, captures: &[(u8, &[u8], bool)]) -> String {
    trace(&record(Kind::Returned, number(name), arguments, result, captures))
}

#[test]
fn a_call_is_a_line() {
    assert_eq!(
        call("write", &[1, 0x1000, 6], 6, &[(1, b"hello\n", false)]),
        "write(1, \"hello\\n\", 6)                  = 6\n"
    );
    assert_eq!(
        call("openat", &[int(libc::AT_FDCWD), 0x1000, 0x80000, 7], -2, &[(1, b"x", false)]),
        "openat(AT_FDCWD, \"x\", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)\n"
    );
    assert_eq!(
        call("open", &[0x1000, 0o1101, 0o644], 3, &[(0, b"/tmp/a b", true)]),
        "open(\"/tmp/a b\"..., O_WRONLY|O_CREAT|O_TRUNC, 0644) = 3\n"
    );
    assert_eq!(
        call("mmap", &[0, 4096, 3, 0x22, u64::MAX, 0], 0x7f00_1000, &[]),
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f001000\n"
    );
    assert_eq!(
        call("brk", &[0], 0x40_0000, &[]),
        "brk(NULL)                               = 0x400000\n"
    );
    assert_eq!(
        call("read", &[0, 0xffff_8000_0000_0000, 10], -14, &[]),
        "read(0, 0xffff800000000000, 10)         = -1 EFAULT (Bad address)\n"
    );
    assert_eq!(
        call("kill", &[int(-1), 15], -600, &[]),
        "kill(-1, SIGTERM)                       = -1 (errno 600)\n"
    );
}

#[test]
fn a_call_that_does_not_return_has_no_result() {
    assert_eq!(
        trace(&record(Kind::Began, number("exit_group"), &[0], 0, &[])),
        "exit_group(0)                           = ?\n"
    );
    let execve =
        record(Kind::Began, number("execve"), &[0x1000, 0x2000, 0x3000], 0, &[(0, b"/p", false)]);
    assert_eq!(trace(&execve), "execve(\"/p\", 0x2000, 0x3000)            = 0\n");
}

#[test]
fn an_unknown_call_has_numbers() {
    assert_eq!(
        trace(&record(Kind::Returned, 600, &[1, 2, 0, 4, 5, 6], -38, &[])),
        "syscall_0x258(0x1, 0x2, 0x0, 0x4, 0x5, 0x6) = -1 ENOSYS (Function not implemented)\n"
    );
}

#[test]
fn signals_and_ends_are_told() {
    let lines = [
        (
            record(Kind::Signal, 11, &[1, 0x10], 0, &[]),
            "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---\n",
        ),
        (
            record(Kind::Signal, 11, &[1, 0], 0, &[]),
            "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---\n",
        ),
        (
            record(Kind::Signal, 15, &[0, 7], 0, &[]),
            "--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=7, si_uid=0} ---\n",
        ),
        (
            record(Kind::Signal, 6, &[int(-6), 1], 0, &[]),
            "--- SIGABRT {si_signo=SIGABRT, si_code=SI_TKILL, si_pid=1, si_uid=0} ---\n",
        ),
        (record(Kind::Exited, 0, &[], 3, &[]), "+++ exited with 3 +++\n"),
        (record(Kind::Killed, 11, &[], 0, &[]), "+++ killed by SIGSEGV +++\n"),
        (record(Kind::Killed, 34, &[], 0, &[]), "+++ killed by SIGRT_2 +++\n"),
    ];
    for (bytes, line) in lines {
        assert_eq!(trace(&bytes), line);
    }
}

#[test]
fn threads_are_told_apart_once_there_are_two() {
    let one = record(Kind::Returned, number("getpid"), &[], 1, &[]);
    let mut two = one.clone();
    two[8] = 12;
    let line = "getpid()                                = 1\n";
    let both = [one.as_slice(), &two, &one].concat();
    assert_eq!(trace(&both), format!("{line}[pid    12] {line}[pid     1] {line}"));
}

#[test]
fn a_32_bit_call_is_looked_up_in_its_own_table() {
    let mut bytes = record(Kind::Returned, 20, &[], 1, &[]);
    bytes[6] = 1;
    let text = trace(&bytes);
    assert_eq!(
        text,
        "[ Process PID=1 runs in 32 bit mode. ]\ngetpid()                                = 1\n"
    );
}

#[test]
fn what_follows_a_malformed_record_is_dropped() {
    let good = record(Kind::Returned, number("getpid"), &[], 1, &[]);
    let mut bad = good.clone();
    bad[4] = 9;
    let mut strace = Strace::new(Vec::new());
    strace.records(&[good.as_slice(), &bad, &good].concat()).unwrap();
    assert!(strace.warned);
    strace.records(&good).unwrap();
    assert_eq!(strace.output.iter().filter(|&&byte| byte == b'\n').count(), 2);
}

/// Splitmix64, for inputs that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A number that is as likely to be small, negative or all ones as anything else.
    fn number(&mut self) -> u64 {
        let value = self.next() >> (self.next() % 64);
        match self.next() % 4 {
            0 => value.wrapping_neg(),
            1 => !(value << 12),
            _ => value,
        }
    }
}

fn is_harmless(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = Random(1);
    let mut strace = Strace::new(Vec::new());
    for _ in 0..20_000 {
        let length = random.below(512);
        let bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        strace.records(&bytes).unwrap();
    }
    assert!(is_harmless(&strace.output));
}

#[test]
fn random_records_become_one_bounded_line_each() {
    let mut random = Random(2);
    for _ in 0..50_000 {
        let kind = Kind::from_number(u16::try_from(random.below(5)).unwrap()).unwrap();
        let arguments: Vec<u64> = (0..6).map(|_| random.number()).collect();
        let captured: Vec<u8> = (0..random.below(257)).map(|_| random.byte()).collect();
        let captures: Vec<_> = (0..random.below(7))
            .map(|_| (u8::try_from(random.below(6)).unwrap(), captured.as_slice(), true))
            .collect();
        let call = u32::try_from(random.below(512)).unwrap();
        let result = random.number().cast_signed();
        let mut bytes = record(kind, call, &arguments, result, &captures);
        assert!(bytes.len() <= MAX_RECORD);
        // Most stay records, some get a byte that was not meant to be.
        if random.below(4) == 0 {
            let position = random.below(bytes.len());
            bytes[position] = random.byte();
        }
        let mut strace = Strace::new(Vec::new());
        strace.records(&bytes).unwrap();
        let lines = strace.output.iter().filter(|&&byte| byte == b'\n').count();
        assert!(lines <= 2 && (lines > 0 || strace.warned));
        assert!(is_harmless(&strace.output));
        assert!(strace.output.len() <= 1024 + 4 * bytes.len(), "{}", strace.output.len());
    }
}

#[test]
fn many_records_are_written_as_they_come() {
    struct Pieces(Vec<usize>);
    impl std::io::Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            assert_eq!(bytes.last(), Some(&b'\n'));
            self.0.push(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let one = record(Kind::Returned, number("getpid"), &[], 1, &[]);
    let mut strace = Strace::new(Pieces(Vec::new()));
    strace.records(&one.repeat(10_000)).unwrap();
    assert_eq!(strace.output.0.iter().sum::<usize>(), 44 * 10_000);
    assert!(strace.output.0.iter().all(|&length| length <= super::BATCH + 8192));
}
