//! What the server asks of the host: each call is by descriptor, and no path has more than one part.

use std::ffi::{CStr, CString};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Errno;

/// Longest name in a directory.
const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, as on Linux.
const TARGET_MAX: usize = 4095;

/// No path leaves the directory that it starts in, and no link is followed: the guest does that.
const RESOLVE: u64 =
    libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS;

/// `PROC_SUPER_MAGIC`: its files are other processes, which a shared directory does not mean.
const PROC_FILE_SYSTEM: u64 = 0x9fa0;

/// Turns the result of a system call into ours.
fn check(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_error())
}

/// What the last system call failed with.
pub fn last_error() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A name that the guest sent, for one step in a directory.
///
/// # Errors
/// EINVAL for what is no such name: empty, `.`, `..`, with a slash or a NUL; ENAMETOOLONG.
pub fn name(bytes: &[u8]) -> Result<CString, Errno> {
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(Errno(libc::EINVAL));
    }
    if bytes.len() > NAME_MAX {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    CString::new(bytes).map_err(|_| Errno(libc::EINVAL))
}

/// The target of a symbolic link to be made: any text that Linux takes.
///
/// # Errors
/// ENOENT if it is empty, EINVAL, ENAMETOOLONG.
pub fn target(bytes: &[u8]) -> Result<CString, Errno> {
    if bytes.is_empty() {
        return Err(Errno(libc::ENOENT));
    }
    if bytes.len() > TARGET_MAX {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    CString::new(bytes).map_err(|_| Errno(libc::EINVAL))
}

/// `open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens or makes the file of this name in the directory.
pub fn open_in(
    directory: &OwnedFd,
    name: &CStr,
    flags: libc::c_int,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let how =
        OpenHow { flags: u64::try_from(flags).unwrap_or(0), mode: mode.into(), resolve: RESOLVE };
    loop {
        // SAFETY: the name ends with NUL, the structure has the length given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match check(result) {
            // Something was renamed meanwhile, so that openat2 could not be sure.
            Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(error),
            Ok(_) => return owned(result),
        }
    }
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let file = RawFd::try_from(result).map_err(|_| Errno(libc::EBADF))?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Another descriptor of a file; as one call, where the C library makes two.
pub fn duplicate(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is touched.
    let result =
        unsafe { libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    check(result)?;
    owned(result)
}

/// What statx(2) tells of a file.
pub fn status(file: &OwnedFd) -> Result<libc::statx, Errno> {
    // SAFETY: all zeroes is a valid `statx`.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is empty and ends with NUL, there is room for the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            &raw mut status,
        )
    };
    check(result).map(|_| status)
}

/// `struct statfs` as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of statfs(2)")]
pub struct FileSystemStatus {
    pub kind: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub id: u64,
    pub name_length: u64,
    pub fragment_size: u64,
    pub flags: u64,
    spare: [u64; 4],
}

/// What fstatfs(2) tells.
pub fn file_system_status(file: &OwnedFd) -> Result<FileSystemStatus, Errno> {
    let mut status = FileSystemStatus::default();
    // SAFETY: there is room for the structure.
    check(unsafe { libc::syscall(libc::SYS_fstatfs, file.as_raw_fd(), &raw mut status) })
        .map(|_| status)
}

/// Whether the file is one of /proc.
pub fn is_proc(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(file_system_status(file)?.kind == PROC_FILE_SYSTEM)
}

/// Reads at an offset.
pub fn read_at(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the buffer is writable for its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_pread64,
            file.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
            offset,
        )
    })
}

/// Writes at an offset.
pub fn write_at(file: &OwnedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the bytes are readable for their length.
    check(unsafe {
        libc::syscall(libc::SYS_pwrite64, file.as_raw_fd(), bytes.as_ptr(), bytes.len(), offset)
    })
}

/// Makes a directory's next entries be those after this offset, as `d_off` had it.
pub fn seek(directory: &OwnedFd, offset: u64) -> Result<(), Errno> {
    // SAFETY: no memory is touched.
    check(unsafe { libc::syscall(libc::SYS_lseek, directory.as_raw_fd(), offset, libc::SEEK_SET) })
        .map(|_| ())
}

/// The next entries of a directory, as `linux_dirent64`s.
pub fn entries(directory: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the buffer is writable for its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })
}

/// The target of a symbolic link.
pub fn read_link(link: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; TARGET_MAX + 1];
    // SAFETY: the path is empty and ends with NUL, the buffer is writable for its length.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            link.as_raw_fd(),
            c"".as_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })?;
    buffer.truncate(length);
    Ok(buffer)
}

/// mkdirat(2).
pub fn make_directory(directory: &OwnedFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_mkdirat, directory.as_raw_fd(), name.as_ptr(), mode) })
        .map(|_| ())
}

/// mknodat(2), for a FIFO or a socket.
pub fn make_node(directory: &OwnedFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL.
    check(unsafe {
        libc::syscall(libc::SYS_mknodat, directory.as_raw_fd(), name.as_ptr(), mode, 0)
    })
    .map(|_| ())
}

/// symlinkat(2).
pub fn make_link(directory: &OwnedFd, name: &CStr, target: &CStr) -> Result<(), Errno> {
    // SAFETY: both end with NUL.
    check(unsafe {
        libc::syscall(libc::SYS_symlinkat, target.as_ptr(), directory.as_raw_fd(), name.as_ptr())
    })
    .map(|_| ())
}

/// unlinkat(2).
pub fn remove(directory: &OwnedFd, name: &CStr, is_directory: bool) -> Result<(), Errno> {
    let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_unlinkat, directory.as_raw_fd(), name.as_ptr(), flags) })
        .map(|_| ())
}

/// renameat2(2).
pub fn rename(old: (&OwnedFd, &CStr), new: (&OwnedFd, &CStr), flags: u32) -> Result<(), Errno> {
    // SAFETY: both names end with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            old.0.as_raw_fd(),
            old.1.as_ptr(),
            new.0.as_raw_fd(),
            new.1.as_ptr(),
            flags,
        )
    })
    .map(|_| ())
}

/// fsync(2) or fdatasync(2).
pub fn synchronise(file: &OwnedFd, data_only: bool) -> Result<(), Errno> {
    let call = if data_only { libc::SYS_fdatasync } else { libc::SYS_fsync };
    // SAFETY: no memory is touched.
    check(unsafe { libc::syscall(call, file.as_raw_fd()) }).map(|_| ())
}

/// ftruncate(2).
pub fn truncate(file: &OwnedFd, size: u64) -> Result<(), Errno> {
    // SAFETY: no memory is touched.
    check(unsafe { libc::syscall(libc::SYS_ftruncate, file.as_raw_fd(), size) }).map(|_| ())
}

/// This process's descriptors as names, `/proc/self/fd`: the way to do to an `O_PATH` descriptor's very
/// file what Linux only does by name. The names are numbers that the server chooses.
#[derive(Debug)]
pub struct Descriptors(OwnedFd);

impl Descriptors {
    /// Opens the directory.
    ///
    /// # Errors
    /// If there is no /proc.
    pub fn open() -> Result<Self, Errno> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the path ends with NUL.
        let result = unsafe {
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/fd".as_ptr(), flags)
        };
        check(result)?;
        owned(result).map(Self)
    }

    /// Takes over a descriptor of the directory.
    ///
    /// # Safety
    /// It is open, and nobody else owns it.
    pub unsafe fn from_raw_fd(directory: RawFd) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { OwnedFd::from_raw_fd(directory) })
    }

    /// The descriptor of the directory itself.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The name of a descriptor.
    fn name(file: &OwnedFd) -> [u8; 12] {
        let mut name = [0; 12];
        // A descriptor has at most ten digits, so that a NUL stays behind them.
        let _ = write!(&mut name[..11], "{}", file.as_raw_fd());
        name
    }

    /// Opens the file itself behind an `O_PATH` descriptor.
    pub fn open_file(&self, file: &OwnedFd, flags: libc::c_int) -> Result<OwnedFd, Errno> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
        let name = Self::name(file);
        // SAFETY: the name ends with NUL.
        let result =
            unsafe { libc::syscall(libc::SYS_openat, self.0.as_raw_fd(), name.as_ptr(), flags) };
        check(result)?;
        owned(result)
    }

    /// fchmodat(2).
    pub fn change_mode(&self, file: &OwnedFd, mode: u32) -> Result<(), Errno> {
        let name = Self::name(file);
        // SAFETY: the name ends with NUL.
        check(unsafe { libc::syscall(libc::SYS_fchmodat, self.0.as_raw_fd(), name.as_ptr(), mode) })
            .map(|_| ())
    }

    /// utimensat(2).
    pub fn change_times(&self, file: &OwnedFd, times: [libc::timespec; 2]) -> Result<(), Errno> {
        let name = Self::name(file);
        // SAFETY: the name ends with NUL, and there are two times.
        check(unsafe {
            libc::syscall(libc::SYS_utimensat, self.0.as_raw_fd(), name.as_ptr(), times.as_ptr(), 0)
        })
        .map(|_| ())
    }

    /// linkat(2): another name for the file.
    pub fn link(&self, file: &OwnedFd, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let old = Self::name(file);
        // SAFETY: both names end with NUL.
        check(unsafe {
            libc::syscall(
                libc::SYS_linkat,
                self.0.as_raw_fd(),
                old.as_ptr(),
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        })
        .map(|_| ())
    }
}

/// fchownat(2) of the file itself; `None` leaves one as it is.
pub fn change_owner(file: &OwnedFd, user: Option<u32>, group: Option<u32>) -> Result<(), Errno> {
    // SAFETY: the path is empty and ends with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_fchownat,
            file.as_raw_fd(),
            c"".as_ptr(),
            user.unwrap_or(u32::MAX),
            group.unwrap_or(u32::MAX),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
        )
    })
    .map(|_| ())
}
