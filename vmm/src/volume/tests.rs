//! A hostile guest's messages, to a server in this process; and once to a confined one.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::host::Descriptors;
use super::server::Server;
use super::wire::{HEADER, NO_TAG, kind};

/// A directory that goes with the test, with `shared` and `outside` in it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("airlock-volume-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("shared/sub")).unwrap();
        fs::create_dir_all(path.join("outside")).unwrap();
        fs::write(path.join("outside/secret"), "secret").unwrap();
        fs::write(path.join("shared/file"), "hello").unwrap();
        Self(path)
    }

    fn shared(&self) -> PathBuf {
        self.0.join("shared")
    }

    fn server(&self, read_only: bool, fids: usize) -> Guest {
        let root = open(&self.shared());
        let server = Server::new(root, Descriptors::open().unwrap(), read_only, fids);
        let mut guest = Guest(server);
        let answer = guest.ask(kind::VERSION, &[&u32(1 << 20), &text(b"9P2000.L")]).unwrap();
        assert_eq!(&answer[6..], b"9P2000.L");
        guest.ask(kind::ATTACH, &[&u32(0), &u32(!0), &text(b"root"), &text(b""), &u32(0)]).unwrap();
        guest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap().into()
}

fn u32(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn u64(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut text = u16::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    text.extend_from_slice(bytes);
    text
}

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = u32::try_from(HEADER + body.len()).unwrap();
    let mut message = size.to_le_bytes().to_vec();
    message.push(kind);
    message.extend_from_slice(&7u16.to_le_bytes());
    message.extend_from_slice(&body);
    message
}

struct Guest(Server);

impl Guest {
    /// The body of the answer, or the error.
    fn ask(&mut self, kind: u8, parts: &[&[u8]]) -> Result<Vec<u8>, i32> {
        let answer = self.0.serve(&message(kind, parts));
        assert_eq!(u32::from_le_bytes(answer[..4].try_into().unwrap()) as usize, answer.len());
        assert_eq!(&answer[5..7], &7u16.to_le_bytes());
        match answer[4] {
            7 => Err(i32::from_le_bytes(answer[7..11].try_into().unwrap())),
            other => {
                assert_eq!(other, kind + 1);
                Ok(answer[HEADER..].to_vec())
            }
        }
    }

    fn walk(&mut self, from: u32, to: u32, names: &[&[u8]]) -> Result<u16, i32> {
        let count = u16::try_from(names.len()).unwrap().to_le_bytes();
        let names: Vec<u8> = names.iter().flat_map(|name| text(name)).collect();
        let answer = self.ask(kind::WALK, &[&u32(from), &u32(to), &count, &names])?;
        Ok(u16::from_le_bytes([answer[0], answer[1]]))
    }

    fn open(&mut self, fid: u32, flags: i32) -> Result<(), i32> {
        self.ask(kind::LOPEN, &[&u32(fid), &u32(flags.cast_unsigned())]).map(|_| ())
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, i32> {
        self.ask(kind::READ, &[&u32(fid), &u64(offset), &u32(count)])
            .map(|bytes| bytes[4..].to_vec())
    }

    fn clunk(&mut self, fid: u32) -> Result<(), i32> {
        self.ask(kind::CLUNK, &[&u32(fid)]).map(|_| ())
    }

    fn names(&mut self, fid: u32, count: u32) -> Vec<String> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let data = self.ask(kind::READDIR, &[&u32(fid), &u64(offset), &u32(count)]).unwrap();
            let mut rest = &data[4..];
            if rest.is_empty() {
                names.sort();
                return names;
            }
            while !rest.is_empty() {
                offset = u64::from_le_bytes(rest[13..21].try_into().unwrap());
                let length = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
                names.push(String::from_utf8(rest[24..24 + length].to_vec()).unwrap());
                rest = &rest[24 + length..];
            }
        }
    }
}

#[test]
fn reads_writes_and_lists() {
    let place = Place::new();
    let mut guest = place.server(false, 100);
    assert_eq!(guest.walk(0, 1, &[b"file"]), Ok(1));
    assert_eq!(guest.read(1, 0, 10), Err(libc::EBADF));
    guest.open(1, libc::O_RDWR).unwrap();
    assert_eq!(guest.read(1, 1, 100).unwrap(), b"ello");
    assert_eq!(guest.read(1, 100, 100).unwrap(), b"");
    let count = guest.ask(kind::WRITE, &[&u32(1), &u64(5), &u32(2), b"!!"]).unwrap();
    assert_eq!(count, u32(2));
    assert_eq!(fs::read(place.shared().join("file")).unwrap(), b"hello!!");

    assert_eq!(guest.walk(0, 2, &[b"sub"]), Ok(1));
    guest.ask(kind::LCREATE, &[&u32(2), &text(b"new"), &u32(2), &u32(0o640), &u32(0)]).unwrap();
    guest.ask(kind::WRITE, &[&u32(2), &u64(0), &u32(1), b"x"]).unwrap();
    let made = fs::metadata(place.shared().join("sub/new")).unwrap();
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (1, 0o640));

    for number in 0..300 {
        fs::write(place.shared().join(format!("sub/{number:0200}")), "").unwrap();
    }
    guest.walk(0, 3, &[b"sub"]).unwrap();
    guest.open(3, libc::O_RDONLY).unwrap();
    assert_eq!(guest.names(3, 1 << 20).len(), 303);
    assert_eq!(guest.names(3, 600).len(), 303);
    // Too little for even one.
    let none = guest.ask(kind::READDIR, &[&u32(3), &u64(0), &u32(10)]).unwrap();
    assert_eq!(none, u32(0));
}

#[test]
fn no_name_leads_outside() {
    let place = Place::new();
    symlink(place.0.join("outside"), place.shared().join("absolute")).unwrap();
    symlink("../outside", place.shared().join("relative")).unwrap();
    symlink("/proc/self/fd/1", place.shared().join("magic")).unwrap();
    let mut guest = place.server(false, 100);
    for name in [&b".."[..], b".", b"", b"sub/..", b"../outside", b"/", b"/etc", b"a\0b", b"sub/"] {
        assert_eq!(guest.walk(0, 1, &[name]), Err(libc::EINVAL), "{name:?}");
        let mkdir = guest.ask(kind::MKDIR, &[&u32(0), &text(name), &u32(0o755), &u32(0)]);
        assert_eq!(mkdir, Err(libc::EINVAL), "{name:?}");
        let link = guest.ask(kind::SYMLINK, &[&u32(0), &text(name), &text(b"x"), &u32(0)]);
        assert_eq!(link, Err(libc::EINVAL), "{name:?}");
        let rename = guest.ask(kind::RENAMEAT, &[&u32(0), &text(b"file"), &u32(0), &text(name)]);
        assert_eq!(rename, Err(libc::EINVAL), "{name:?}");
        let unlink = guest.ask(kind::UNLINKAT, &[&u32(0), &text(name), &u32(0)]);
        assert_eq!(unlink, Err(libc::EINVAL), "{name:?}");
    }
    assert_eq!(guest.walk(0, 1, &[&[b'x'; 256]]), Err(libc::ENAMETOOLONG));
    // A walk that fails later says how far it came, and makes no fid.
    assert_eq!(guest.walk(0, 1, &[b"sub", b".."]), Ok(1));
    assert_eq!(guest.clunk(1), Err(libc::EBADF));
    for link in [&b"absolute"[..], b"relative", b"magic"] {
        assert_eq!(guest.walk(0, 1, &[link]), Ok(1));
        assert_eq!(guest.open(1, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(guest.walk(1, 2, &[b"secret"]), Err(libc::ENOTDIR));
        let made = guest.ask(kind::MKDIR, &[&u32(1), &text(b"x"), &u32(0o755), &u32(0)]);
        assert_eq!(made, Err(libc::ENOTDIR));
        guest.clunk(1).unwrap();
        // Nothing is made behind a link, either.
        guest.walk(0, 1, &[]).unwrap();
        let create =
            guest.ask(kind::LCREATE, &[&u32(1), &text(link), &u32(1), &u32(0o644), &u32(0)]);
        assert_eq!(create, Err(libc::EEXIST));
        guest.clunk(1).unwrap();
    }
    assert_eq!(fs::read_dir(place.0.join("outside")).unwrap().count(), 1);
}

#[test]
fn a_directory_that_moves_meanwhile_takes_nobody_outside() {
    let place = Place::new();
    let shared = place.shared();
    fs::create_dir_all(shared.join("a/b")).unwrap();
    let mut guest = place.server(false, 100);
    guest.walk(0, 1, &[b"a", b"b"]).unwrap();
    // The directory is moved out by the host: the fid is still that directory, and ends there.
    fs::rename(shared.join("a"), place.0.join("outside/a")).unwrap();
    assert_eq!(guest.walk(1, 2, &[b".."]), Err(libc::EINVAL));

    // A name that is now a directory, now a link to the outside, while it is walked.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            symlink(place.0.join("outside"), shared.join("link")).unwrap();
            fs::create_dir(shared.join("directory")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                fs::rename(shared.join("directory"), shared.join("x")).unwrap();
                fs::rename(shared.join("x"), shared.join("directory")).unwrap();
                fs::rename(shared.join("link"), shared.join("x")).unwrap();
                fs::rename(shared.join("x"), shared.join("link")).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok(walked) = guest.walk(0, 3, &[b"x", b"secret"]) {
                assert!(walked < 2);
                let _ = guest.clunk(3);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nothing_is_opened_but_files_and_directories() {
    let place = Place::new();
    let fifo = std::ffi::CString::new(place.shared().join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the path ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o666) }, 0);
    let _socket = std::os::unix::net::UnixListener::bind(place.shared().join("socket")).unwrap();
    let mut guest = place.server(false, 100);
    for name in [&b"fifo"[..], b"socket"] {
        guest.walk(0, 1, &[name]).unwrap();
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert_eq!(guest.open(1, flags), Err(libc::ENXIO));
        }
        guest.clunk(1).unwrap();
    }
    for (mode, result) in [
        (libc::S_IFCHR, Err(libc::EPERM)),
        (libc::S_IFBLK, Err(libc::EPERM)),
        (libc::S_IFREG, Err(libc::EPERM)),
        (libc::S_IFIFO, Ok(())),
        (libc::S_IFSOCK, Ok(())),
    ] {
        let name = text(format!("node{mode}").as_bytes());
        let parts: [&[u8]; 6] = [&u32(0), &name, &u32(mode | 0o666), &u32(1), &u32(3), &u32(0)];
        assert_eq!(guest.ask(kind::MKNOD, &parts).map(|_| ()), result, "{mode:o}");
    }
}

#[test]
fn no_program_with_anothers_rights_is_left_on_the_host() {
    let place = Place::new();
    let mut guest = place.server(false, 100);
    guest.walk(0, 1, &[b"file"]).unwrap();
    let zero = [0; 8 * 5];
    let chmod = |guest: &mut Guest, mode: u32| {
        let parts: [&[u8]; 6] = [&u32(1), &u32(1), &u32(mode), &u32(0), &u32(0), &zero];
        guest.ask(kind::SETATTR, &parts).map(|_| ())
    };
    assert_eq!(chmod(&mut guest, 0o4755), Err(libc::EPERM));
    assert_eq!(chmod(&mut guest, 0o2755), Err(libc::EPERM));
    chmod(&mut guest, 0o700).unwrap();
    let create: [&[u8]; 5] = [&u32(0), &text(b"new"), &u32(1), &u32(0o4755), &u32(0)];
    assert_eq!(guest.ask(kind::LCREATE, &create), Err(libc::EPERM));
    assert_eq!(fs::metadata(place.shared().join("file")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_hard_link_gives_a_file_inside_a_name_inside() {
    let place = Place::new();
    let mut guest = place.server(false, 100);
    guest.walk(0, 1, &[b"file"]).unwrap();
    guest.ask(kind::LINK, &[&u32(0), &u32(1), &text(b"second")]).unwrap();
    assert_eq!(fs::metadata(place.shared().join("second")).unwrap().nlink(), 2);
    // A link to a link is one to the link itself, not to what it names outside.
    symlink(place.0.join("outside/secret"), place.shared().join("link")).unwrap();
    guest.walk(0, 2, &[b"link"]).unwrap();
    guest.ask(kind::LINK, &[&u32(0), &u32(2), &text(b"third")]).unwrap();
    assert!(fs::symlink_metadata(place.shared().join("third")).unwrap().is_symlink());
    assert_eq!(fs::metadata(place.0.join("outside/secret")).unwrap().nlink(), 1);
    guest.walk(0, 3, &[b"sub"]).unwrap();
    assert_eq!(guest.ask(kind::LINK, &[&u32(0), &u32(3), &text(b"d")]), Err(libc::EPERM));
}

#[test]
fn read_only_is_the_servers_business() {
    let place = Place::new();
    let before = fs::metadata(place.shared()).unwrap().mtime_nsec();
    let mut guest = place.server(true, 100);
    guest.walk(0, 1, &[b"file"]).unwrap();
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_RDWR | libc::O_TRUNC] {
        assert_eq!(guest.open(1, flags), Err(libc::EROFS));
    }
    guest.open(1, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(1, 0, 100).unwrap(), b"hello");
    for kind in [
        kind::LCREATE,
        kind::SYMLINK,
        kind::MKNOD,
        kind::SETATTR,
        kind::LINK,
        kind::MKDIR,
        kind::RENAMEAT,
        kind::UNLINKAT,
        kind::WRITE,
    ] {
        assert_eq!(guest.ask(kind, &[&[1; 40]]), Err(libc::EROFS));
    }
    assert_eq!(fs::metadata(place.shared()).unwrap().mtime_nsec(), before);
}

#[test]
fn fids_are_bounded_and_none_is_used_twice() {
    let place = Place::new();
    let mut guest = place.server(false, 3);
    assert_eq!(guest.walk(0, 0, &[]), Ok(0));
    assert_eq!(guest.walk(0, 1, &[b"sub"]), Ok(1));
    assert_eq!(guest.walk(0, 1, &[b"sub"]), Err(libc::EBADF));
    assert_eq!(guest.walk(0, 2, &[b"sub"]), Ok(1));
    assert_eq!(guest.walk(0, 3, &[b"sub"]), Err(libc::ENFILE));
    assert_eq!(guest.walk(9, 4, &[]), Err(libc::ENFILE));
    guest.clunk(2).unwrap();
    assert_eq!(guest.walk(9, 4, &[]), Err(libc::EBADF));
    assert_eq!(guest.clunk(2), Err(libc::EBADF));
    assert_eq!(guest.walk(0, !0, &[]), Ok(0));
}

#[test]
fn sizes_and_counts_are_only_claims() {
    let place = Place::new();
    let mut guest = place.server(false, 100);
    guest.walk(0, 1, &[b"file"]).unwrap();
    guest.open(1, libc::O_RDWR).unwrap();
    assert_eq!(guest.read(1, 0, u32::MAX).unwrap(), b"hello");
    assert_eq!(guest.read(1, u64::MAX, 1), Err(libc::EINVAL));
    // A Twrite that says more than it has, and one that says less.
    assert_eq!(guest.ask(kind::WRITE, &[&u32(1), &u64(0), &u32(!0), b"x"]), Err(libc::EINVAL));
    assert_eq!(guest.ask(kind::WRITE, &[&u32(1), &u64(0), &u32(0), b"x"]), Err(libc::EINVAL));
    // More names than a walk may have, and than there are.
    let many: Vec<&[u8]> = vec![b"sub"; 17];
    assert_eq!(guest.walk(0, 2, &many), Err(libc::EINVAL));
    assert_eq!(guest.ask(kind::WALK, &[&u32(0), &u32(2), &[5, 0]]), Err(libc::EINVAL));
    let size = [&u32(1)[..], &u32(8), &[0; 12], &u64(u64::MAX), &[0; 32]].concat();
    assert_eq!(guest.ask(kind::SETATTR, &[&size]), Err(libc::EINVAL));
}

/// Every message cut at every place, with every byte changed, and with a wrong size: one answer each.
#[test]
fn malformed_messages_are_answered() {
    let place = Place::new();
    let mut guest = place.server(false, 100);
    for kind in 0..=255u8 {
        for length in 0..64 {
            let body: Vec<u8> = (0..length).map(|byte: u8| byte.wrapping_mul(37) % 5).collect();
            let message = message(kind, &[&body]);
            let answer = guest.0.serve(&message);
            assert!(
                answer.len() >= HEADER && (answer[4] == 7 || answer[4] == kind.wrapping_add(1))
            );
        }
    }
    let whole = message(kind::WALK, &[&u32(0), &u32(50), &[1, 0], &text(b"file")]);
    for cut in 0..whole.len() {
        let answer = guest.0.serve(&whole[..cut]);
        assert_eq!(answer[4], 7);
        assert_eq!(u16::from_le_bytes([answer[5], answer[6]]), if cut < 7 { NO_TAG } else { 7 });
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            assert!(guest.0.serve(&changed).len() >= HEADER);
        }
    }
    // Another dialect is refused, as is a message size that has no room for a name.
    let mut guest = place.server(false, 100);
    let other = guest.ask(kind::VERSION, &[&u32(8192), &text(b"9P2000.u")]).unwrap();
    assert_eq!(&other[6..], b"unknown");
    assert_eq!(guest.ask(kind::VERSION, &[&u32(100), &text(b"9P2000.L")]), Err(libc::EINVAL));
}

#[test]
fn other_processes_are_not_files() {
    let root = open(Path::new("/"));
    let mut guest = Guest(Server::new(root, Descriptors::open().unwrap(), false, 100));
    guest.ask(kind::VERSION, &[&u32(1 << 20), &text(b"9P2000.L")]).unwrap();
    guest.ask(kind::ATTACH, &[&u32(0), &u32(!0), &text(b""), &text(b""), &u32(0)]).unwrap();
    assert_eq!(guest.walk(0, 1, &[b"proc"]), Err(libc::EACCES));
}
