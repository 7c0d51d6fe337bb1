//! Tells from its headers whether a file can be a program of the guest.
//!
//! The guest kernel checks whatever its safety rests on. What is checked here is checked so that the
//! user reads one line that says what is the matter, and no virtual machine is made in vain.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use thiserror::Error;

/// Sizes, offsets and numbers of 64-bit ELF files (System V gABI, chapters 4 and 5).
mod elf {
    pub const MAGIC: &[u8] = b"\x7fELF";
    pub const HEADER_SIZE: usize = 64;
    pub const CLASS: usize = 4;
    pub const CLASS_32: u8 = 1;
    pub const CLASS_64: u8 = 2;
    pub const BYTE_ORDER: usize = 5;
    pub const LITTLE_ENDIAN: u8 = 1;
    pub const TYPE: usize = 16;
    pub const TYPE_EXECUTABLE: u16 = 2;
    pub const TYPE_SHARED: u16 = 3;
    pub const MACHINE: usize = 18;
    pub const MACHINE_X86_64: u16 = 62;
    pub const PROGRAM_HEADERS: usize = 32;
    pub const PROGRAM_HEADER_SIZE: usize = 54;
    pub const PROGRAM_HEADER_COUNT: usize = 56;
    /// The only size of a program header that Linux accepts.
    pub const PROGRAM_HEADER: usize = 56;
    pub const SEGMENT_OFFSET: usize = 8;
    pub const SEGMENT_FILE_SIZE: usize = 32;
    pub const SEGMENT_INTERPRETER: u32 = 3;
}

/// Longest name of an interpreter: `PATH_MAX`.
const INTERPRETER_MAX: usize = 4096;
/// Linux reads so much of a script's first line.
const FIRST_LINE: usize = 256;

/// Why a file is no program for the guest.
#[derive(Debug, Error)]
pub enum NotExecutable {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It begins with `#!`, and nothing that could be a path follows.
    #[error("is a script whose first line names no interpreter")]
    Script,
    /// It is something else than an ELF file.
    #[error("is not an ELF executable")]
    NotElf,
    /// It ends before its headers do.
    #[error("is truncated: it ends within its ELF headers")]
    Truncated,
    /// It is for 32-bit processors.
    #[error("is a 32-bit program; Airlock runs 64-bit x86-64 programs")]
    ThirtyTwoBit,
    /// It is for another processor.
    #[error("is built for {0}; Airlock runs x86-64 programs")]
    WrongArchitecture(String),
    /// It is an object file, a core dump or the like.
    #[error("is an ELF file, but not an executable one (ELF type {0})")]
    WrongType(u16),
    /// Its headers contradict the standard.
    #[error("has damaged ELF headers: {0}")]
    Damaged(&'static str),
}

/// What a program needs beside itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it is linked statically.
    Nothing,
    /// A dynamic linker, and the libraries that it finds.
    DynamicLinker(PathBuf),
    /// The program that runs this script.
    Interpreter(PathBuf),
}

/// Checks the headers of an open file.
pub fn check(file: &File) -> Result<Needs, NotExecutable> {
    let mut bytes = [0; elf::HEADER_SIZE];
    let length = read_up_to(file, &mut bytes, 0)?;
    let header = &bytes[..length];
    if header.is_empty() {
        return Err(NotExecutable::Empty);
    }
    if header.starts_with(b"#!") {
        return script(file);
    }
    if !header.starts_with(elf::MAGIC) {
        return Err(NotExecutable::NotElf);
    }
    check_identity(header)?;
    if length < elf::HEADER_SIZE {
        return Err(NotExecutable::Truncated);
    }
    match read_u16(header, elf::TYPE) {
        Some(elf::TYPE_EXECUTABLE | elf::TYPE_SHARED) => {}
        other => return Err(NotExecutable::WrongType(other.unwrap_or(0))),
    }
    check_segments(file, header)
}

/// Checks class, byte order and machine, as far as `header` has them.
fn check_identity(header: &[u8]) -> Result<(), NotExecutable> {
    let class = *header.get(elf::CLASS).ok_or(NotExecutable::Truncated)?;
    let order = *header.get(elf::BYTE_ORDER).ok_or(NotExecutable::Truncated)?;
    if order != elf::LITTLE_ENDIAN {
        return Err(NotExecutable::WrongArchitecture("a big-endian processor".to_owned()));
    }
    let machine = read_u16(header, elf::MACHINE).ok_or(NotExecutable::Truncated)?;
    let name = match (class, machine) {
        // An x32 program has the machine of a 64-bit one.
        (elf::CLASS_32, elf::MACHINE_X86_64 | 3) => return Err(NotExecutable::ThirtyTwoBit),
        (elf::CLASS_64, elf::MACHINE_X86_64) => return Ok(()),
        (elf::CLASS_32 | elf::CLASS_64, machine) => match machine {
            8 => "MIPS".to_owned(),
            21 => "64-bit PowerPC".to_owned(),
            40 => "32-bit ARM".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "RISC-V".to_owned(),
            258 => "LoongArch".to_owned(),
            other => format!("another processor (ELF machine {other})"),
        },
        _ => {
            return Err(NotExecutable::Damaged("the class is neither 32-bit nor 64-bit"));
        }
    };
    Err(NotExecutable::WrongArchitecture(name))
}

/// Looks for an interpreter among the program headers.
fn check_segments(file: &File, header: &[u8]) -> Result<Needs, NotExecutable> {
    let table = read_u64(header, elf::PROGRAM_HEADERS).unwrap_or(0);
    let size = read_u16(header, elf::PROGRAM_HEADER_SIZE).unwrap_or(0);
    let count = read_u16(header, elf::PROGRAM_HEADER_COUNT).unwrap_or(0);
    if count == 0 {
        return Err(NotExecutable::Damaged("it has no program headers"));
    }
    if usize::from(size) != elf::PROGRAM_HEADER {
        return Err(NotExecutable::Damaged("its program headers have a wrong size"));
    }
    // At most 65,535 headers of 56 bytes.
    let mut headers = vec![0; usize::from(count) * elf::PROGRAM_HEADER];
    if read_up_to(file, &mut headers, table)? < headers.len() {
        return Err(NotExecutable::Truncated);
    }
    let is_interpreter =
        |segment: &&[u8]| segment.starts_with(&elf::SEGMENT_INTERPRETER.to_le_bytes());
    let Some(interpreter) = headers.chunks_exact(elf::PROGRAM_HEADER).find(is_interpreter) else {
        return Ok(Needs::Nothing);
    };
    // What follows is what Linux wants of it, too.
    let offset = read_u64(interpreter, elf::SEGMENT_OFFSET).unwrap_or(0);
    let length = read_u64(interpreter, elf::SEGMENT_FILE_SIZE).unwrap_or(0);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(2..=INTERPRETER_MAX).contains(&length) {
        return Err(NotExecutable::Damaged("the name of its interpreter has an impossible length"));
    }
    let mut name = vec![0; length];
    if read_up_to(file, &mut name, offset)? < length {
        return Err(NotExecutable::Truncated);
    }
    if name.last() != Some(&0) {
        return Err(NotExecutable::Damaged("the name of its interpreter does not end"));
    }
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Needs::DynamicLinker(path(name)))
}

/// The interpreter in a script's first line; the guest kernel reads the rest.
fn script(file: &File) -> Result<Needs, NotExecutable> {
    let mut line = [0; FIRST_LINE];
    let length = read_up_to(file, &mut line, 0)?;
    let line = line[2..length].split(|&byte| byte == b'\n' || byte == 0).next();
    let mut words = line.unwrap_or_default().split(|&byte| byte == b' ' || byte == b'\t');
    match words.find(|word| !word.is_empty()) {
        Some(word) => Ok(Needs::Interpreter(path(word))),
        None => Err(NotExecutable::Script),
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Reads from an offset until the buffer is full or the file ends.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    // Offsets beyond this are errors of pread(2); no file has bytes there.
    if i64::try_from(offset).is_err() {
        return Ok(0);
    }
    let mut length = 0;
    while length < buffer.len() {
        let at = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        match file.read_at(&mut buffer[length..], at) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The offset is so large that its end is beyond the largest.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A header of a static x86-64 executable with one program header behind it.
    fn valid() -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16] = 2;
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1;
        bytes
    }

    fn checked(bytes: &[u8]) -> Result<Needs, NotExecutable> {
        // An unnamed file: nothing is left behind.
        let name = std::ffi::CString::new("elf").unwrap();
        // SAFETY: the name is a C string, and the descriptor that comes back is nobody else's.
        let mut file = unsafe {
            let descriptor = libc::memfd_create(name.as_ptr(), 0);
            assert!(descriptor >= 0);
            <File as std::os::fd::FromRawFd>::from_raw_fd(descriptor)
        };
        file.write_all(bytes).unwrap();
        check(&file)
    }

    fn message(bytes: &[u8]) -> String {
        checked(bytes).err().map_or_else(String::new, |error| error.to_string())
    }

    fn changed(at: usize, with: &[u8]) -> String {
        let mut bytes = valid();
        bytes[at..at + with.len()].copy_from_slice(with);
        message(&bytes)
    }

    #[test]
    fn a_static_executable_passes() {
        assert_eq!(message(&valid()), "");
        assert_eq!(changed(16, &[3]), "", "a static PIE");
    }

    #[test]
    fn each_kind_of_other_file_gets_its_own_message() {
        assert_eq!(message(b""), "is empty");
        assert!(message(b"#! \n/bin/sh").contains("script"));
        assert!(message(b"hello").contains("not an ELF"));
        assert!(message(b"\x7fELF").contains("truncated"));
        assert!(message(&valid()[..63]).contains("truncated"));
        assert!(message(&valid()[..119]).contains("truncated"));
        assert!(changed(4, &[1]).contains("32-bit"));
        assert!(changed(4, &[9]).contains("class"));
        assert!(changed(5, &[2]).contains("big-endian"));
        assert!(changed(18, &[183]).contains("aarch64"));
        assert!(changed(18, &[3]).contains("machine 3"));
        assert!(changed(16, &[1]).contains("ELF type 1"));
        assert!(changed(54, &[0]).contains("wrong size"));
        assert!(changed(56, &[0]).contains("no program headers"));
    }

    #[test]
    fn tables_and_names_beyond_the_end_are_no_trouble() {
        for offset in [120_u64, u64::MAX, u64::MAX >> 1, (u64::MAX >> 1) - 10] {
            assert!(changed(32, &offset.to_le_bytes()).contains("truncated"), "{offset:#x}");
        }
        let mut interpreter = valid();
        interpreter[64] = 3;
        interpreter[72..80].copy_from_slice(&120_u64.to_le_bytes());
        interpreter.extend(b"/lib/ld.so\0x");
        let of_length = |length: u64| {
            let mut bytes = interpreter.clone();
            bytes[96..104].copy_from_slice(&length.to_le_bytes());
            checked(&bytes)
        };
        assert_eq!(of_length(11).unwrap(), Needs::DynamicLinker("/lib/ld.so".into()));
        for length in [0, 1, 10, 12, 13, 4097, u64::MAX] {
            assert!(of_length(length).is_err(), "{length}");
        }
    }

    #[test]
    fn scripts_name_their_interpreter() {
        let interpreter = |script: &str| match checked(script.as_bytes()) {
            Ok(Needs::Interpreter(path)) => path.display().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(interpreter("#!/bin/sh\n"), "/bin/sh");
        assert_eq!(interpreter("#! /usr/bin/env\tsh\nx"), "/usr/bin/env");
        assert_eq!(interpreter("#!/bin/sh"), "/bin/sh");
    }
}
