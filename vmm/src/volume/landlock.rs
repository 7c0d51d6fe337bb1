//! Landlock (landlock(7)): files that the process may use, by where they are.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// linux/landlock.h
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

mod access {
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIRECTORY: u64 = 1 << 3;
    pub const REMOVE_DIRECTORY: u64 = 1 << 4;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_DIRECTORY: u64 = 1 << 7;
    pub const MAKE_REGULAR: u64 = 1 << 8;
    pub const MAKE_SOCKET: u64 = 1 << 9;
    pub const MAKE_FIFO: u64 = 1 << 10;
    pub const MAKE_LINK: u64 = 1 << 12;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
}

/// What a server reads.
const READING: u64 = access::READ_FILE | access::READ_DIRECTORY;
/// What it changes, too.
const WRITING: u64 = access::WRITE_FILE
    | access::REMOVE_DIRECTORY
    | access::REMOVE_FILE
    | access::MAKE_DIRECTORY
    | access::MAKE_REGULAR
    | access::MAKE_SOCKET
    | access::MAKE_FIFO
    | access::MAKE_LINK
    | access::REFER
    | access::TRUNCATE;
/// TCP: bind and connect.
const NETWORK: u64 = 3;
/// Abstract sockets and signals of others.
const SCOPES: u64 = 3;

#[repr(C)]
struct RulesetAttributes {
    files: u64,
    network: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// All kinds of access to files that this version of the interface knows.
const fn known(version: libc::c_long) -> u64 {
    let kinds = match version {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << kinds) - 1
}

/// Leaves the calling thread, for good, only the files in this directory; returns the version of the
/// host's interface. The thread must have `no_new_privs`.
///
/// # Errors
/// ENOSYS or EOPNOTSUPP if the host has no Landlock.
pub fn restrict(directory: &OwnedFd, read_only: bool) -> io::Result<libc::c_long> {
    // SAFETY: asks for the version: there is no structure.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0,
            CREATE_RULESET_VERSION,
        )
    })?;
    let attributes = RulesetAttributes { files: known(version), network: NETWORK, scopes: SCOPES };
    // The structure has grown; what an older kernel does not know it must not be given.
    let size = match version {
        ..=3 => 8,
        4 | 5 => 16,
        _ => size_of::<RulesetAttributes>(),
    };
    // SAFETY: the structure has at least the length given.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0)
    })?;
    let ruleset =
        RawFd::try_from(ruleset).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a new descriptor that nobody else owns.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    let wanted = if read_only { READING } else { READING | WRITING };
    let rule = PathBeneath { allowed: wanted & known(version), parent: directory.as_raw_fd() };
    // SAFETY: the structure is that of the rule's type.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    })?;
    // SAFETY: no memory is touched.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(version)
}
