//! The server's process: how it is started, what it gives up, and its loop.
//!
//! Layers, each meant to hold by itself: a root that holds only the directory (mount namespace; for
//! ordinary users a user namespace around it), Landlock, capabilities, seccomp, and the server's own way
//! with paths. The first two depend on the host; what is missing is in the log.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Volume;
use super::host::Descriptors;
use super::landlock;
use super::server::{MAX_MESSAGE, Server};
use crate::error::Error;
use crate::seccomp::{self, Thread};

/// The numbers of the server's descriptors; the filter (`seccomp/volume.json`) knows them.
const DESCRIPTORS: RawFd = 3;
const SOCKET: RawFd = 4;
const ROOT: RawFd = 5;
/// The first that is for files.
const FIRST_FREE: RawFd = 6;
/// More files in use than this are nobody's need.
const MAX_FIDS: u64 = 1 << 16;
/// What a server tells when it is ready begins so; a failure does not.
const READY: &[u8] = b"ready: ";
/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE` and `CAP_FOWNER`: what makes a superuser's way with files.
const CAPABILITIES: u32 = 1 << 0 | 1 << 1 | 1 << 3;

/// A way to a server.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// The socket: a message each way is one packet, and it never makes its user wait.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

/// Starts a server. Call this before there are other threads: it forks.
///
/// # Errors
/// When the host refuses.
pub fn start(volume: &Volume) -> Result<Connection, Error> {
    let failed = |source| Error::Host { doing: "start the server of a volume", source };
    let mut pair: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: socketpair returned two new descriptors that nobody else owns.
    let [ours, theirs] = pair.map(|file| unsafe { OwnedFd::from_raw_fd(file) });
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    // SAFETY: there are no other threads yet, so the child may do what any process may; it never
    // returns from here.
    match unsafe { libc::fork() } {
        -1 => return Err(failed(io::Error::last_os_error())),
        0 => run(volume, &theirs, parent),
        _ => {}
    }
    drop(theirs);
    let mut buffer = [0; 512];
    let length = receive(ours.as_raw_fd(), &mut buffer).map_err(failed)?;
    let Some(layers) = buffer[..length].strip_prefix(READY) else {
        let reason = match length {
            0 => "it ended before it had begun".into(),
            _ => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        };
        return Err(Error::Volume { host: volume.host.clone(), reason });
    };
    log::debug!("volume {}: {}", volume.host.display(), String::from_utf8_lossy(layers));
    // SAFETY: no memory is touched.
    if unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(Connection { socket: ours })
}

/// What the child does.
fn run(volume: &Volume, socket: &OwnedFd, parent: libc::pid_t) -> ! {
    let end = |status| -> ! {
        // SAFETY: ends this process, without running what was registered in the one it was forked from.
        unsafe { libc::_exit(status) }
    };
    let Ok((mut server, layers)) = confine(volume, socket, parent).inspect_err(|reason| {
        // Before or after the descriptors got their numbers: one of them is the socket.
        let _ = send(socket.as_raw_fd(), reason.as_bytes())
            .or_else(|_| send(SOCKET, reason.as_bytes()));
    }) else {
        end(1)
    };
    if send(SOCKET, &[READY, layers.as_bytes()].concat()).is_err() {
        end(1);
    }
    let mut message = vec![0; MAX_MESSAGE];
    while let Ok(length @ 1..) = receive(SOCKET, &mut message) {
        if send(SOCKET, server.serve(&message[..length])).is_err() {
            break;
        }
    }
    end(0)
}

fn check(doing: &str, result: impl Into<i64>) -> Result<i64, String> {
    let result = result.into();
    if result < 0 {
        Err(format!("cannot {doing}: {}", io::Error::last_os_error()))
    } else {
        Ok(result)
    }
}

/// Gives up everything that a server does not need.
fn confine(
    volume: &Volume,
    socket: &OwnedFd,
    parent: libc::pid_t,
) -> Result<(Server, String), String> {
    let (read_only, first_free) = (volume.read_only, FIRST_FREE.cast_unsigned());
    // A session of its own keeps the terminal's signals and those to the process group away.
    // SAFETY: setsid and umask have no preconditions.
    unsafe {
        libc::setsid();
        libc::umask(0);
    }
    let descriptors = Descriptors::open()
        .map_err(|error| format!("cannot open /proc/self/fd, which it needs: {error}"))?;
    place([
        (descriptors.as_raw_fd(), DESCRIPTORS),
        (socket.as_raw_fd(), SOCKET),
        (volume.directory.as_raw_fd(), ROOT),
    ])?;
    // What had other numbers is open no longer, and owned by no one.
    std::mem::forget(descriptors);
    // SAFETY: nothing in this process uses any of those descriptors from here on.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, 2, 0);
        libc::syscall(libc::SYS_close_range, first_free, libc::c_uint::MAX, 0);
    }
    // SAFETY: the three descriptors were just made, and nobody else owns them.
    let (descriptors, root) =
        unsafe { (Descriptors::from_raw_fd(DESCRIPTORS), OwnedFd::from_raw_fd(ROOT)) };
    // Standard streams are expected to be there, and whatever is written to them must not be a file.
    let max_fids = raise_file_limit()?;
    let mut layers = match enter_root(&root, read_only) {
        Ok(()) => "a root of its own".to_owned(),
        Err(reason) => format!("no root of its own ({reason})"),
    };
    // SAFETY: no memory is touched.
    check("set no_new_privs", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    match landlock::restrict(&root, read_only) {
        Ok(version) => layers += &format!(", Landlock {version}"),
        Err(error) => layers += &format!(", no Landlock ({error})"),
    }
    drop_capabilities()?;
    // SAFETY: no memory is touched. Changed credentials make Linux forget it: so it comes after them.
    check("die with its parent", unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)
    })?;
    // SAFETY: getppid has no preconditions.
    if unsafe { libc::getppid() } != parent {
        return Err("its parent has ended".to_owned());
    }
    // With all the memory that it will need.
    let server = Server::new(root, descriptors, read_only, max_fids);
    seccomp::restrict(Thread::Volume)
        .map_err(|error| format!("cannot confine it with seccomp: {error}"))?;
    Ok((server, layers))
}

/// Gives descriptors these numbers.
fn place(files: [(RawFd, RawFd); 3]) -> Result<(), String> {
    /// Above all of the numbers that are wanted.
    const ASIDE: RawFd = 64;
    let mut aside = [0; 3];
    for (slot, (file, _)) in aside.iter_mut().zip(files) {
        // SAFETY: no memory is touched.
        let copy = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, ASIDE) };
        check("duplicate a descriptor", copy)?;
        *slot = copy;
    }
    for (copy, (_, number)) in aside.into_iter().zip(files) {
        // SAFETY: what had the number is not used again.
        check("duplicate a descriptor", unsafe { libc::dup2(copy, number) })?;
    }
    Ok(())
}

/// Lets the process have as many files as it may; returns how many fids that allows.
fn raise_file_limit() -> Result<usize, String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: there is room for the structure.
    check("ask for the limit on files", unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit)
    })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure is initialised.
    check("raise the limit on files", unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    })?;
    Ok(usize::try_from(limit.rlim_cur.min(MAX_FIDS)).unwrap_or(0))
}

/// Makes the directory the root of this process, and everything else of the host's files disappear.
fn enter_root(root: &OwnedFd, read_only: bool) -> Result<(), String> {
    // A descriptor stays in the mounts that it was opened in; a working directory comes along.
    // SAFETY: no memory is touched.
    check("enter the directory", unsafe { libc::fchdir(root.as_raw_fd()) })?;
    enter_namespaces()?;
    let empty = c"";
    let slash = c"/";
    // SAFETY: the strings end with NUL; nothing but this process's own mount namespace changes.
    unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        check(
            "make mounts private",
            libc::mount(none, slash.as_ptr(), none, private, none.cast()),
        )?;
        let clone = libc::c_uint::try_from(libc::AT_EMPTY_PATH | AT_RECURSIVE).unwrap_or(0)
            | OPEN_TREE_CLONE
            | OPEN_TREE_CLOEXEC;
        let here = libc::open(c".".as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        check("open the directory", here)?;
        check("use the directory", libc::dup2(here, ROOT))?;
        libc::close(here);
        let tree = check(
            "clone the directory's mounts",
            libc::syscall(libc::SYS_open_tree, ROOT, empty.as_ptr(), clone),
        )?;
        let mut attributes = MountAttributes {
            set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
            ..MountAttributes::default()
        };
        attributes.set |= if read_only { MOUNT_ATTR_RDONLY } else { 0 };
        check(
            "restrict the directory's mounts",
            libc::syscall(
                libc::SYS_mount_setattr,
                tree,
                empty.as_ptr(),
                libc::AT_EMPTY_PATH | AT_RECURSIVE,
                &raw const attributes,
                size_of::<MountAttributes>(),
            ),
        )?;
        // Over itself: no other place for a mount point is needed.
        check(
            "mount the directory",
            libc::syscall(
                libc::SYS_move_mount,
                tree,
                empty.as_ptr(),
                ROOT,
                empty.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
            ),
        )?;
        let tree = RawFd::try_from(tree).unwrap_or(-1);
        check("enter the directory", libc::fchdir(tree))?;
        let dot: *const libc::c_char = c".".as_ptr();
        // pivot_root(2), notes: with the same directory twice, the old root lies over the new one.
        check("change the root", libc::syscall(libc::SYS_pivot_root, dot, dot))?;
        check("leave the old root", libc::umount2(dot, libc::MNT_DETACH))?;
        check("enter the new root", libc::chdir(slash.as_ptr()))?;
        // From now on the directory is that of the new mount.
        check("use the new root", libc::dup2(tree, root.as_raw_fd()))?;
        libc::close(tree);
    }
    Ok(())
}

// linux/mount.h, linux/fcntl.h
const AT_RECURSIVE: libc::c_int = 0x8000;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = 0o2_000_000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A mount namespace of its own, with no network, messages and host name to share; without
/// privileges, in a user namespace in which it is still who it was.
fn enter_namespaces() -> Result<(), String> {
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: these calls change nothing but this process, which has one thread.
    let (result, user, group) = unsafe { (libc::unshare(own), libc::geteuid(), libc::getegid()) };
    if result == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    check("make namespaces", unsafe { libc::unshare(libc::CLONE_NEWUSER | own) })?;
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|error| format!("cannot write {path}: {error}"))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", format!("{group} {group} 1"))
}

fn drop_capabilities() -> Result<(), String> {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header: [u32; 2] = [VERSION, 0];
    let mut sets = [Sets::default(); 2];
    // SAFETY: the header and the two sets are as capget(2) says.
    check("ask for capabilities", unsafe {
        libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr())
    })?;
    let kept = sets[0].permitted & CAPABILITIES;
    let sets = [Sets { effective: kept, permitted: kept, inheritable: 0 }, Sets::default()];
    // SAFETY: as above.
    check("drop capabilities", unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
    })
    .map(|_| ())
}

/// Receives a message; 0 at the end of the connection.
fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let none = std::ptr::null_mut::<u8>();
        // SAFETY: the buffer is writable for its length.
        let result = unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                socket,
                buffer.as_mut_ptr(),
                buffer.len(),
                0,
                none,
                none,
            )
        };
        match usize::try_from(result) {
            Ok(length) => return Ok(length),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// Sends a message whole.
fn send(socket: RawFd, message: &[u8]) -> io::Result<()> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the message is readable for its length.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            socket,
            message.as_ptr(),
            message.len(),
            libc::MSG_NOSIGNAL,
            none,
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
