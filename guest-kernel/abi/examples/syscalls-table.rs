//! Prints `docs/syscalls.md`; `scripts/generate-docs` writes it.

use std::fmt::Write;

use airlock_abi::syscalls::{Kind, LIST, SystemCall};

#[allow(dead_code, reason = "the test that compares the file includes this one")]
fn main() {
    print!("{}", document());
}

/// The whole file.
pub fn document() -> String {
    let done = LIST.iter().filter(|call| call.implemented).count();
    let mut text = format!(
        "# System calls\n\
         \n\
         <!-- Made by scripts/generate-docs from guest-kernel/abi/src/syscalls.rs: do not edit. -->\n\
         \n\
         The guest kernel handles {done} of the {} system calls that Linux 6.18 lists on x86-64. The others answer\n\
         `ENOSYS`, and the kernel's log (`airlock run -v`) names each of them once. The second column is the\n\
         number for `int 0x80`, where the call exists there too.\n\
         \n\
         | number | i386 | name | arguments | state |\n\
         |---:|---:|---|---|---|\n",
        LIST.len()
    );
    for call in LIST {
        let number32 = call.number32.map_or(String::new(), |number| number.to_string());
        let state = if call.implemented { "done" } else { "ENOSYS" };
        writeln!(
            text,
            "| {} | {number32} | `{}` | {} | {state} |",
            call.number,
            call.name,
            arguments(call)
        )
        .expect("a String takes everything");
    }
    text
}

fn arguments(call: &SystemCall) -> String {
    let one = |&(name, kind): &(&str, Kind)| {
        let kind = description(kind);
        if kind == name { name.to_owned() } else { format!("{name}: {kind}") }
    };
    call.arguments.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::Fd => "fd",
        Kind::DirectoryFd => "directory fd",
        Kind::Path => "path",
        Kind::Text => "string",
        Kind::In => "bytes in",
        Kind::Out => "bytes out",
        Kind::Pointer => "pointer",
        Kind::Signed => "int",
        Kind::Unsigned => "unsigned",
        Kind::Long => "long",
        Kind::Size => "size",
        Kind::Hex => "bits",
        Kind::OpenFlags => "open flags",
        Kind::Octal => "mode",
        Kind::Signal => "signal",
        Kind::Pid => "pid",
    }
}
