//! `--volume HOST:GUEST[:ro]`.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vmm::image::GuestPath;
use vmm::volume::Volume;

use super::Failure;

/// Opens the directories that the guest shall share.
pub fn open(arguments: &[OsString]) -> Result<Vec<Volume>, Failure> {
    let mut volumes: Vec<Volume> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let volume = open_one(argument)?;
        if volumes.iter().any(|other| other.guest == volume.guest) {
            let place = String::from_utf8_lossy(&volume.guest).into_owned();
            return Err(Failure::new(format!("two volumes at '{place}' in the guest")));
        }
        volumes.push(volume);
    }
    Ok(volumes)
}

fn open_one(argument: &OsStr) -> Result<Volume, Failure> {
    let (host, guest, read_only) = split(argument).ok_or_else(|| {
        let text = argument.to_string_lossy();
        Failure::new(format!("--volume '{text}' is not HOST:GUEST or HOST:GUEST:ro"))
    })?;
    let guest = GuestPath::new(guest)?;
    let first = guest.components().next();
    if matches!(first, None | Some(b"dev" | b"proc" | b"sys")) {
        return Err(Failure::new(format!("no volume can be at '{guest}' in the guest")));
    }
    // O_PATH: the caller need not be able to list it, and nothing happens to what is none.
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(host)
        .map_err(|error| Failure::new(format!("cannot share '{}': {error}", host.display())))?;
    let (host, guest) = (host.to_owned(), guest.as_bytes().to_vec());
    Ok(Volume { host, directory, guest, read_only })
}

/// Host, guest, and whether it is read-only. A colon separates what is behind the last one that begins a
/// path in the guest.
fn split(argument: &OsStr) -> Option<(&Path, &[u8], bool)> {
    let bytes = argument.as_bytes();
    let (bytes, read_only) = match bytes.strip_suffix(b":ro") {
        Some(bytes) => (bytes, true),
        None => (bytes.strip_suffix(b":rw").unwrap_or(bytes), false),
    };
    let colon = bytes.iter().rposition(|&byte| byte == b':')?;
    let (host, guest) = (&bytes[..colon], &bytes[colon + 1..]);
    if host.is_empty() || guest.is_empty() {
        return None;
    }
    Some((Path::new(OsStr::from_bytes(host)), guest, read_only))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_split_at_the_last_colon() {
        let split = |text: &'static str| {
            split(OsStr::new(text)).map(|(host, guest, read_only)| {
                (host.to_str().unwrap(), std::str::from_utf8(guest).unwrap(), read_only)
            })
        };
        assert_eq!(split("/a:/b"), Some(("/a", "/b", false)));
        assert_eq!(split("a:/b:ro"), Some(("a", "/b", true)));
        assert_eq!(split("/a:/b:rw"), Some(("/a", "/b", false)));
        assert_eq!(split("/a:b:/c:ro"), Some(("/a:b", "/c", true)));
        for bad in ["/a", "/a:", ":/b", "/a:ro", ":ro", "", ":"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_shared_is_said_in_one_line() {
        for (argument, expected) in [
            ("/", "is not HOST:GUEST"),
            ("/tmp:relative", "is relative"),
            ("/tmp:/../x", "'..'"),
            ("/tmp:/", "no volume can be at '/'"),
            ("/tmp:/proc/x", "no volume can be at '/proc/x'"),
            ("/does/not/exist:/x", "cannot share '/does/not/exist': No such file"),
            ("/dev/null:/x", "cannot share '/dev/null': Not a directory"),
        ] {
            let failure = open(&[argument.into()]).expect_err(argument);
            assert!(failure.message.contains(expected), "{}", failure.message);
            assert!(!failure.message.contains('\n'));
        }
        let twice = open(&["/tmp:/x".into(), "/:/x/".into()]).expect_err("refused");
        assert!(twice.message.contains("two volumes at '/x'"), "{}", twice.message);
    }
}
