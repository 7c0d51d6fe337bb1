//! Files that are no programs, or malicious ones: one clear line and the right status.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{ensure, noise};
use crate::comparison::Program;
use crate::harness::{Context, Tests};

/// A small static executable: an ELF header, program headers, and code that leaves with status 7.
#[derive(Clone)]
struct Executable {
    header: Vec<u8>,
    segments: Vec<Segment>,
    body: Vec<u8>,
}

/// A program header.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

const BASE: u64 = 0x40_0000;
const LOAD: u32 = 1;
const READ_EXECUTE: u32 = 5;
const READ_WRITE: u32 = 6;
const HEADER_SIZE: usize = 64;
const SEGMENT_SIZE: usize = 56;
/// Where the code begins, behind the headers.
const CODE: u64 = 0x1000;
/// mov edi, 7; mov eax, 60; syscall; ud2
const EXIT_7: [u8; 14] = [0xbf, 7, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b];

impl Segment {
    fn code() -> Self {
        Self {
            kind: LOAD,
            flags: READ_EXECUTE,
            offset: 0,
            address: BASE,
            file_size: 0x1100,
            memory_size: 0x1100,
            alignment: 0x1000,
        }
    }

    fn data() -> Self {
        Self {
            flags: READ_WRITE,
            offset: 0x1000,
            address: BASE + 0x20_0000,
            file_size: 0x100,
            memory_size: 0x2000,
            ..Self::code()
        }
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = [self.kind.to_le_bytes(), self.flags.to_le_bytes()].concat();
        for word in [
            self.offset,
            self.address,
            self.address,
            self.file_size,
            self.memory_size,
            self.alignment,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

impl Executable {
    fn new() -> Self {
        let mut header = vec![0; HEADER_SIZE];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[16] = 2; // ET_EXEC
        header[18] = 62; // EM_X86_64
        header[20] = 1;
        header[24..32].copy_from_slice(&(BASE + CODE).to_le_bytes());
        header[32] = 64; // e_phoff
        header[52] = 64;
        header[54] = 56;
        header[58] = 64;
        Self { header, segments: vec![Segment::code()], body: EXIT_7.to_vec() }
    }

    /// Overwrites bytes of the ELF header.
    fn header(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn entry(self, address: u64) -> Self {
        self.header(24, &address.to_le_bytes())
    }

    fn first(mut self, change: impl FnOnce(&mut Segment)) -> Self {
        change(&mut self.segments[0]);
        self
    }

    fn also(mut self, segment: Segment) -> Self {
        self.segments.push(segment);
        self
    }

    fn bytes(mut self) -> Vec<u8> {
        // A count that a test has set stays.
        if self.header[56..58] == [0, 0] {
            let count = u16::try_from(self.segments.len()).unwrap_or(u16::MAX);
            self.header[56..58].copy_from_slice(&count.to_le_bytes());
        }
        let mut bytes = self.header;
        for segment in &self.segments {
            bytes.extend(segment.bytes());
        }
        bytes.resize(bytes.len().max(0x1000), 0);
        bytes.extend(self.body);
        bytes.resize(bytes.len().max(0x1100), 0x90);
        bytes
    }
}

/// The files, by name, and whether Linux refuses them.
fn malicious() -> Vec<(&'static str, Vec<u8>)> {
    let new = Executable::new;
    let whole = new().bytes();
    let huge = u64::MAX - 0xfff;
    let tls = Segment { kind: 7, flags: 4, ..Segment::data() };
    let header_loop = Segment { kind: 6, offset: 64, address: BASE + 64, ..Segment::code() };
    vec![
        ("empty", Vec::new()),
        ("one byte", vec![0x7f]),
        ("noise", noise(10_000)),
        ("text", b"just some text\n".to_vec()),
        ("a script", b"#!/no/such/interpreter\n".to_vec()),
        ("a header alone", whole[..64].to_vec()),
        ("half a header", whole[..40].to_vec()),
        ("half a program header", whole[..90].to_vec()),
        ("truncated in a segment", whole[..0x800].to_vec()),
        ("32-bit", new().header(4, &[1]).bytes()),
        ("i386", new().header(4, &[1]).header(18, &[3]).bytes()),
        ("big-endian", new().header(5, &[2]).bytes()),
        ("aarch64", new().header(18, &183_u16.to_le_bytes()).bytes()),
        ("object file", new().header(16, &[1]).bytes()),
        ("core file", new().header(16, &[4]).bytes()),
        (
            "no program headers",
            new().header(56, &[0, 0]).header(32, &[0]).first(|segment| segment.kind = 0).bytes(),
        ),
        ("program headers far away", new().header(32, &0x7fff_ffff_ffff_u64.to_le_bytes()).bytes()),
        ("program headers at the last byte", new().header(32, &u64::MAX.to_le_bytes()).bytes()),
        ("program headers of a wrong size", new().header(54, &[1, 0]).bytes()),
        ("65535 program headers", new().header(56, &[0xff, 0xff]).bytes()),
        ("program headers on the ELF header", new().header(32, &[0]).bytes()),
        (
            "a program header of the program headers that points elsewhere",
            new().also(Segment { offset: 0xffff_0000, ..header_loop }).bytes(),
        ),
        (
            "two interpreters",
            new()
                .also(Segment { kind: 3, ..Segment::data() })
                .also(Segment { kind: 3, ..Segment::data() })
                .bytes(),
        ),
        (
            "an interpreter without a name",
            new().also(Segment { kind: 3, file_size: 0, ..Segment::data() }).bytes(),
        ),
        (
            "an interpreter far away",
            new().also(Segment { kind: 3, offset: huge, file_size: 10, ..Segment::data() }).bytes(),
        ),
        ("entry outside", new().entry(0x1234_5678).bytes()),
        ("entry 0", new().entry(0).bytes()),
        ("entry in the kernel", new().entry(0xffff_ffff_8000_0000).bytes()),
        ("entry not canonical", new().entry(0x8000_0000_0000_0000).bytes()),
        ("entry at the end of the lower half", new().entry(0x7fff_ffff_ffff).bytes()),
        ("entry in data", new().also(Segment::data()).entry(BASE + 0x20_0000).bytes()),
        (
            "segment in the kernel",
            new().first(|segment| segment.address = 0xffff_8000_0010_0000).bytes(),
        ),
        (
            "segment at the top",
            new().first(|segment| segment.address = 0xffff_ffff_ffff_f000).bytes(),
        ),
        (
            "segment across the end of the lower half",
            new()
                .also(Segment {
                    address: 0x7fff_ffff_e000,
                    memory_size: 0x10_000,
                    ..Segment::data()
                })
                .bytes(),
        ),
        ("segment at 0", new().first(|segment| segment.address = 0).entry(CODE).bytes()),
        (
            "segment not canonical",
            new().first(|segment| segment.address = 0x8000_0000_0000_0000).bytes(),
        ),
        (
            "file size larger than the file",
            new()
                .first(|segment| {
                    segment.file_size = 0x100_0000;
                    segment.memory_size = 0x100_0000;
                })
                .bytes(),
        ),
        (
            "file size larger than memory size",
            new().first(|segment| segment.memory_size = 0x10).bytes(),
        ),
        (
            "file size huge",
            new()
                .first(|segment| {
                    segment.file_size = huge;
                    segment.memory_size = huge;
                })
                .bytes(),
        ),
        ("memory size huge", new().also(Segment { memory_size: huge, ..Segment::data() }).bytes()),
        (
            "memory size beyond memory",
            new().also(Segment { memory_size: 1 << 45, ..Segment::data() }).bytes(),
        ),
        (
            "sizes that wrap around",
            new()
                .also(Segment {
                    address: 0x1000,
                    memory_size: 0u64.wrapping_sub(0x1000),
                    file_size: 0x10,
                    ..Segment::data()
                })
                .bytes(),
        ),
        ("offset huge", new().first(|segment| segment.offset = huge).bytes()),
        (
            "offset that wraps around",
            new()
                .first(|segment| {
                    segment.offset = huge;
                    segment.file_size = 0x2000;
                })
                .bytes(),
        ),
        ("offset not congruent", new().first(|segment| segment.offset = 0x10).bytes()),
        (
            "alignment that is no power of two",
            new().first(|segment| segment.alignment = 0x1001).bytes(),
        ),
        (
            "alignment huge",
            new()
                .header(16, &[3])
                .first(|segment| {
                    segment.alignment = 1 << 62;
                    segment.address = 0;
                })
                .entry(CODE)
                .bytes(),
        ),
        (
            "a position-independent one at the top",
            new().header(16, &[3]).first(|segment| segment.address = 0xffff_ffff_ffff_f000).bytes(),
        ),
        (
            "segments that overlap",
            new().also(Segment { address: BASE, offset: 0x1000, ..Segment::data() }).bytes(),
        ),
        (
            "segments that overlap in part",
            new()
                .also(Segment { address: BASE + 0x1000, offset: 0x1000, ..Segment::data() })
                .bytes(),
        ),
        (
            "segments in descending order",
            new().also(Segment { address: 0x1_0000, ..Segment::data() }).bytes(),
        ),
        (
            "a thousand segments",
            (0..1000)
                .fold(new(), |file, number| {
                    file.also(Segment {
                        address: BASE + 0x100_0000 + number * 0x1000,
                        offset: 0,
                        file_size: 0x10,
                        memory_size: 0x1000,
                        ..Segment::data()
                    })
                })
                .bytes(),
        ),
        ("nothing to load", new().first(|segment| segment.kind = 4).bytes()),
        ("no segment executable", new().first(|segment| segment.flags = 4).bytes()),
        ("TLS huge", new().also(Segment { memory_size: huge, ..tls }).bytes()),
        ("TLS far away", new().also(Segment { address: 0xffff_8000_0000_0000, ..tls }).bytes()),
        (
            "no room for a stack",
            (0..200)
                .fold(new(), |file, number| {
                    file.also(Segment {
                        address: 0x1000_0000_0000 + number * 0x80_0000_0000,
                        memory_size: 0x80_0000_0000,
                        file_size: 0,
                        ..Segment::data()
                    })
                })
                .bytes(),
        ),
    ]
}

/// The statuses of a program that Linux begins to execute and then kills.
const KILLED: [u8; 3] = [128 + 11, 128 + 9, 128 + 7];

fn check(context: &Context, bytes: &[u8]) -> Result<(), String> {
    let path = context.directory.join("program");
    let failed = |error: std::io::Error| error.to_string();
    fs::write(&path, bytes).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let program = Program::new(&path).limit(Duration::from_secs(20));
    // Where execve(2) itself fails, there is no run on the host to compare with.
    let expected = program.run_on_host(context).ok().map(|run| run.status);
    let run = program.run_in_guest(context)?;
    let lines = run.complaint().lines().count();
    if run.status == 126 || run.status == 127 {
        // What it names as its interpreter is nowhere.
        let refusal = if run.complaint().contains("needs an interpreter") { 127 } else { 126 };
        // Airlock may refuse before the guest what Linux kills on its way, or what only harms itself.
        let acceptable = expected.is_none_or(|status| KILLED.contains(&status) || status == 7);
        return ensure(
            acceptable && run.status == refusal && lines == 1 && run.stdout.is_empty(),
            || format!("on the host: {expected:?}; {run:?}"),
        );
    }
    match expected {
        // Which signal it is, and whether there is too little memory for it, is the host's own business.
        Some(status) if KILLED.contains(&status) => {
            ensure((KILLED.contains(&run.status) || run.status == 7) && lines == 0, || {
                format!("on the host: {status}; {run:?}")
            })
        }
        Some(status) => {
            ensure(run.status == status && lines == 0, || format!("on the host: {status}; {run:?}"))
        }
        None => ensure(KILLED.contains(&run.status), || format!("the host refuses it; {run:?}")),
    }
}

pub(super) fn add(tests: &mut Tests) {
    tests.add("executables/a small one", |context| {
        let path = context.directory.join("program");
        fs::write(&path, Executable::new().also(Segment::data()).bytes())
            .map_err(|error| error.to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
        let run = Program::new(&path).compare(context)?;
        ensure(run.status == 7, || format!("{run:?}"))
    });
    for (name, bytes) in malicious() {
        tests.add(format!("executables/{name}"), move |context| check(context, &bytes));
    }
    // Any byte of a good program's headers may be anything.
    for seed in 0..4_usize {
        tests.add(format!("executables/damaged headers {seed}"), move |context| {
            let good = Executable::new().also(Segment::data()).bytes();
            let random = noise(40 * 16 * 4);
            for (number, damage) in random.chunks(16).skip(seed * 40).take(40).enumerate() {
                let mut bytes = good.clone();
                // One to three bytes of the headers.
                for position in 0..=usize::from(damage[0] % 3) {
                    let at = (usize::from(damage[1 + position]) * 256
                        + usize::from(damage[4 + position]))
                        % (HEADER_SIZE + 2 * SEGMENT_SIZE);
                    bytes[at] = damage[8 + position];
                }
                check(context, &bytes).map_err(|why| format!("variant {number}: {why}"))?;
            }
            Ok(())
        });
    }
}
