//! Finds the program that the user named, and its place in the guest.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;
use vmm::image::{self, GuestPath, ImageError};

use super::executable::{self, Needs, NotExecutable};

/// Directories of the guest that show no files of the root image: the kernel has its own there.
const KERNEL_DIRECTORIES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Where programs are when there is no `PATH`, as in execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program of the host, open and with the right headers.
#[derive(Debug)]
pub struct Program {
    /// The file.
    pub file: File,
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where it will be in the guest.
    pub guest: GuestPath,
    /// If that is a symbolic link: where it leads.
    pub target: Option<GuestPath>,
    /// What it needs beside itself.
    pub needs: Needs,
}

/// Why there is no such program, or none that can run.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// No file has that path.
    #[error("'{0}' does not exist")]
    Missing(PathBuf),
    /// No directory in `PATH` has such a program.
    #[error("'{0}' is in no directory of PATH; to run a file in this directory, write ./{0}")]
    NotInPath(PathBuf),
    /// It cannot be opened.
    #[error("cannot open '{path}': {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("'{0}' is {1}, not a program")]
    NotAFile(PathBuf, &'static str),
    /// Nobody may execute it.
    #[error("'{0}' is not executable; chmod +x makes it so")]
    NoPermission(PathBuf),
    /// Its contents are not a program for the guest.
    #[error("'{path}' {reason}")]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: NotExecutable,
    },
    /// Its interpreter cannot be used.
    #[error("'{program}' needs an interpreter: {error}")]
    Interpreter {
        /// The program.
        program: PathBuf,
        /// What is wrong with the interpreter.
        error: Box<ProgramError>,
    },
    /// It cannot have its place in the guest.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl ProgramError {
    /// The exit status that says so, as in a shell.
    pub fn status(&self) -> u8 {
        match self {
            Self::Missing(_) | Self::NotInPath(_) => super::NOT_FOUND,
            Self::Interpreter { error, .. } => error.status(),
            Self::Image(_) => super::FAILED,
            _ => super::NOT_EXECUTABLE,
        }
    }
}

impl Program {
    /// Finds a program as a shell does: a name with a slash is a path; any other is looked for in
    /// the directories of `search_path`.
    pub fn find(name: &OsStr, search_path: Option<&OsStr>) -> Result<Self, ProgramError> {
        if name.as_bytes().contains(&b'/') {
            return Self::open(Path::new(name));
        }
        let mut failure = ProgramError::NotInPath(name.into());
        for directory in std::env::split_paths(search_path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
            // An empty element means the current directory.
            let directory =
                if directory.as_os_str().is_empty() { Path::new(".").into() } else { directory };
            match Self::open(&directory.join(name)) {
                Err(ProgramError::Missing(_) | ProgramError::NotAFile(..)) => {}
                Err(error @ (ProgramError::NoPermission(_) | ProgramError::Unreadable { .. })) => {
                    failure = error
                }
                found => return found,
            }
        }
        Err(failure)
    }

    fn open(path: &Path) -> Result<Self, ProgramError> {
        let host = path.to_owned();
        let file = match image::open(path) {
            Ok(file) => file,
            Err(error) => {
                return Err(match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR) => ProgramError::Missing(host),
                    // A socket; a device without a driver.
                    Some(libc::ENXIO | libc::ENODEV) => {
                        ProgramError::NotAFile(host, "a socket or device")
                    }
                    _ => ProgramError::Unreadable { path: host, source: error },
                });
            }
        };
        let metadata = file
            .metadata()
            .map_err(|source| ProgramError::Unreadable { path: host.clone(), source })?;
        if metadata.is_dir() {
            return Err(ProgramError::NotAFile(host, "a directory"));
        }
        if !metadata.is_file() {
            return Err(ProgramError::NotAFile(host, "a device or pipe"));
        }
        if metadata.mode() & 0o111 == 0 {
            return Err(ProgramError::NoPermission(host));
        }
        let needs = executable::check(&file)
            .map_err(|reason| ProgramError::NotExecutable { path: host.clone(), reason })?;
        let guest = guest_path(path)?;
        let target = match link_target(path, &metadata) {
            Some(target) => Some(guest_path(&target)?),
            None => None,
        };
        Ok(Self { file, host, guest, target, needs })
    }

    /// How the program is called in the guest, if the user called it by `name` and the working
    /// directory is the same there: by that name, unless it would lead elsewhere.
    pub fn called(&self, name: &[u8]) -> Vec<u8> {
        let path = Path::new(OsStr::from_bytes(name));
        // A directory that is left again does not exist in the guest.
        let leads_back = path.components().is_sorted_by_key(|part| part != Component::ParentDir);
        let is_there = absolute(path).as_os_str().as_bytes() == self.guest.as_bytes();
        if name.contains(&b'/')
            && leads_back
            && is_there
            && !in_kernel_directory(&absolute(Path::new(".")))
        {
            name.to_vec()
        } else {
            self.guest.as_bytes().to_vec()
        }
    }

    /// Opens the program that another one needs to run.
    ///
    /// # Errors
    ///
    /// As for the other, if this one is missing or cannot run.
    pub fn open_interpreter(&self, path: &Path) -> Result<Self, ProgramError> {
        Self::open(path).map_err(|error| ProgramError::Interpreter {
            program: self.host.clone(),
            error: Box::new(error),
        })
    }
}

/// What a symbolic link leads to in the end, if the path is one, and if it leads to this file.
fn link_target(path: &Path, file: &Metadata) -> Option<PathBuf> {
    path.symlink_metadata().ok().filter(Metadata::is_symlink)?;
    let target = path.canonicalize().ok()?;
    // Links in /proc lead to files that may be elsewhere now, or nowhere.
    let metadata = target.symlink_metadata().ok()?;
    ((metadata.dev(), metadata.ino()) == (file.dev(), file.ino())).then_some(target)
}

/// The place of a host's file in the guest: its absolute path there, so that names that the user and
/// the program know are right in the guest too. What would be where the kernel has files of its
/// own (/dev, /proc, /sys) goes to /bin.
///
/// # Errors
///
/// If the path is too long.
pub fn guest_path(host: &Path) -> Result<GuestPath, ImageError> {
    let absolute = absolute(host);
    if in_kernel_directory(&absolute) {
        let name = absolute.file_name().unwrap_or_default();
        return GuestPath::new(b"/bin")?.join(name.as_bytes());
    }
    GuestPath::new(absolute.as_os_str().as_bytes())
}

/// The directory of the guest that is like the one that the user is in.
pub fn guest_directory() -> Result<GuestPath, ImageError> {
    let directory = absolute(Path::new("."));
    if in_kernel_directory(&directory) {
        return GuestPath::new(b"/");
    }
    GuestPath::new(directory.as_os_str().as_bytes())
}

fn in_kernel_directory(path: &Path) -> bool {
    KERNEL_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// The absolute form of a path, without `.` and `..`. Symbolic links are not followed: a link to a
/// program keeps the name by which it was called.
pub fn absolute(path: &Path) -> PathBuf {
    // Without a current directory (it was removed), the root is as good as any.
    let mut absolute = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    for component in path.components() {
        match component {
            Component::RootDir => absolute = PathBuf::from("/"),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::Normal(name) => absolute.push(name),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, search_path: &str) -> (String, u8) {
        let error = Program::find(OsStr::new(name), Some(OsStr::new(search_path))).unwrap_err();
        (error.to_string(), error.status())
    }

    #[test]
    fn what_is_missing_is_127_and_what_cannot_run_126() {
        assert_eq!(find("/no/such/program", "").1, 127);
        assert_eq!(find("/etc/passwd/program", "").1, 127);
        assert_eq!(find("no-such-program", "/bin:/usr/bin").1, 127);
        assert_eq!(find("/etc", ""), ("'/etc' is a directory, not a program".to_owned(), 126));
        assert_eq!(
            find("/dev/null", ""),
            ("'/dev/null' is a device or pipe, not a program".to_owned(), 126)
        );
        assert_eq!(
            find("/etc/passwd", ""),
            ("'/etc/passwd' is not executable; chmod +x makes it so".to_owned(), 126)
        );
    }

    #[test]
    fn a_program_without_permission_is_reported_rather_than_a_missing_one() {
        assert_eq!(find("passwd", "/nowhere:/etc:/proc"), find("/etc/passwd", ""));
    }

    #[test]
    fn this_test_is_found_by_path_and_by_name() {
        let path = std::env::current_exe().unwrap();
        let program = Program::find(path.as_os_str(), None).unwrap();
        assert_eq!(program.guest.as_bytes(), path.as_os_str().as_bytes());
        let name = path.file_name().unwrap();
        let program = Program::find(name, path.parent().map(Path::as_os_str)).unwrap();
        assert_eq!(program.host, path);
    }

    #[test]
    fn guest_paths_are_absolute_host_paths_but_where_the_kernel_has_its_own() {
        let of = |path: &str| guest_path(Path::new(path)).unwrap().to_string();
        assert_eq!(of("/a/b/../c/./d"), "/a/c/d");
        assert_eq!(of("/../.."), "/");
        assert_eq!(of("/dev/shm/x/tool"), "/bin/tool");
        assert_eq!(of("/proc/self/fd/3"), "/bin/3");
        assert_eq!(of("/devices/x"), "/devices/x");
        assert_eq!(of("x"), format!("{}/x", std::env::current_dir().unwrap().display()));
    }
}
