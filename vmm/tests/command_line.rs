//! Command lines that are wrong, and programs that cannot run: one line that says why, the right
//! status, and no virtual machine. None of this needs KVM.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs `airlock` with these arguments, in a directory with some files.
fn airlock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_airlock"))
        .args(arguments)
        .current_dir(files())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A directory with files that are no programs.
fn files() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-programs");
    fs::create_dir_all(directory.join("directory")).unwrap();
    let mut header = fs::read(env!("CARGO_BIN_EXE_airlock")).unwrap();
    header.truncate(64);
    let with = |at: usize, byte: u8| {
        let mut header = header.clone();
        header[at] = byte;
        header
    };
    let files: [(&str, Vec<u8>, u32); 8] = [
        ("empty", Vec::new(), 0o755),
        ("script", b"#! \n/bin/sh\n".to_vec(), 0o755),
        ("text", b"hello\n".to_vec(), 0o755),
        ("forbidden", header.clone(), 0o644),
        ("headers-only", header.clone(), 0o755),
        ("part-of-a-header", header[..20].to_vec(), 0o755),
        ("32-bit", with(4, 1), 0o755),
        ("aarch64", with(18, 183), 0o755),
    ];
    for (name, content, mode) in files {
        // Other tests may read the file meanwhile: it appears whole.
        let path = directory.join(name);
        if !path.exists() {
            let draft = directory.join(format!("{name}.{:?}", std::thread::current().id()));
            fs::write(&draft, content).unwrap();
            fs::set_permissions(&draft, Permissions::from_mode(mode)).unwrap();
            fs::rename(&draft, &path).unwrap();
        }
    }
    directory
}

/// Expects a status, nothing on standard output, and one line on standard error that has the text.
fn refused(arguments: &[&str], status: i32, text: &str) {
    let output = airlock(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    assert!(error.starts_with("airlock: ") && error.contains(text), "{arguments:?}: {error}");
    assert_eq!((error.lines().count(), error.ends_with('\n')), (1, true), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn wrong_command_lines_are_125() {
    refused(&[], 125, "no command");
    refused(&["frob"], 125, "'frob'");
    refused(&["run", "--frob"], 125, "'--frob'");
    refused(&["run", "--mem"], 125, "--mem");
    refused(&["run", "--mem", "1M"], 125, "at least 16M");
    refused(&["run", "--mem", "1T"], 125, "at most 255G");
    refused(&["run", "--mem", "lots"], 125, "whole number");
    refused(&["run", "--cpus", "0"], 125, "1..=254");
    refused(&["run", "--cpus", "1000"], 125, "1..=254");
    refused(&["run", "--timeout", "soon"], 125, "a time is");
    refused(&["run", "--timeout", "0"], 125, "more than zero");
    refused(&["run", "--env", "=x"], 125, "no name");
    refused(&["run", "--workdir", "x"], 125, "relative");
    refused(&["run", "--workdir", "/x/.."], 125, "'..'");
    refused(&["run", "--file", "/no/such/file"], 125, "No such file");
    refused(&["run", "--file", "text:relative"], 125, "relative");
    refused(&["run", "--file", "text:"], 125, "empty");
    refused(&["run", "--file", "text:/../x"], 125, "'..'");
    refused(&["run", "--file", &format!("text:/{}", "x".repeat(256))], 125, "255 bytes");
    refused(&["run", "--file", "/dev/null:/x"], 125, "neither a regular file nor a directory");
    refused(&["run", "--file", "text:/a", "--file", "script:/a"], 125, "given twice");
    refused(&["run", "--file", "text:/a", "--file", "script:/a/b"], 125, "as a directory");
    refused(&["run", "--file", "text:/bin"], 125, "as a directory");
    refused(&["run", "--strace=/no/such/directory/file"], 125, "No such file");
    refused(&["run", "-t"], 125, "not one; run without -t");
    refused(&["seccomp", "print", "--thread", "main"], 125, "vcpu, vmm");
}

#[test]
fn programs_that_do_not_exist_are_127() {
    refused(&["run", "./missing"], 127, "'./missing' does not exist");
    refused(&["run", "text/missing"], 127, "does not exist");
    refused(&["run", ""], 127, "''");
    refused(&["run", "missing"], 127, "PATH");
    // As in a shell, the current directory is not in PATH.
    refused(&["run", "text"], 127, "./text");
}

#[test]
fn programs_that_cannot_be_executed_are_126() {
    refused(&["run", "./directory"], 126, "directory");
    refused(&["run", "/dev/null"], 126, "device");
    refused(&["run", "./empty"], 126, "empty");
    refused(&["run", "./script"], 126, "script");
    refused(&["run", "./text"], 126, "not an ELF");
    refused(&["run", "./forbidden"], 126, "chmod +x");
    refused(&["run", "./headers-only"], 126, "truncated");
    refused(&["run", "./part-of-a-header"], 126, "truncated");
    refused(&["run", "./32-bit"], 126, "32-bit");
    refused(&["run", "./aarch64"], 126, "aarch64");
}

#[test]
fn help_and_lists_go_to_standard_output() {
    for arguments in [
        ["--help"].as_slice(),
        &["--version"],
        &["run", "--help"],
        &["seccomp", "print"],
        &["seccomp", "print", "--thread", "vcpu"],
    ] {
        let output = airlock(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let text = String::from_utf8(airlock(&["seccomp", "print"]).stdout).unwrap();
    assert!(text.contains("KVM_RUN") && text.contains("vcpu thread: "), "{text}");
    assert!(text.contains("all threads: "), "{text}");
}

#[test]
fn output_that_cannot_be_written_is_a_failure_unless_the_reader_left() {
    let run = |stdout: Stdio| {
        let mut airlock = Command::new(env!("CARGO_BIN_EXE_airlock"));
        airlock.args(["seccomp", "print"]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = run(full.into()).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()).wait().unwrap().code(), Some(0));
}
