//! Images are read back twice: by a small reader here, written from the format's description, and
//! by erofs-utils where that is installed.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{GuestPath, ImageBuilder, ImageError};
use crate::config::{Piece, RootImage};
use crate::scratch::Scratch;

fn guest(path: &str) -> GuestPath {
    GuestPath::new(path.as_bytes()).unwrap()
}

/// The image as one run of bytes, as the guest sees it.
fn assembled(image: &RootImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in &image.pieces {
        match piece {
            Piece::Bytes(piece) => bytes.extend(piece),
            Piece::File { file, length } => {
                let mut content = vec![0; usize::try_from(*length).unwrap()];
                file.read_exact_at(&mut content, 0).unwrap();
                bytes.extend(content);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
    }
    bytes
}

/// A file that the reader found.
#[derive(Debug, PartialEq)]
struct Found {
    mode: u16,
    links: u32,
    content: Vec<u8>,
    modified: Option<(u64, u32)>,
}

/// Reads little-endian numbers and walks directories.
struct Reader<'image>(&'image [u8]);

impl Reader<'_> {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        self.0[at..at + bytes].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn index(&self, at: usize, bytes: usize) -> usize {
        usize::try_from(self.number(at, bytes)).unwrap()
    }

    fn inode(&self, nid: usize) -> Found {
        let at = nid * 32;
        let format = self.index(at, 2);
        let extended = format & 1 == 1;
        let (header, size) =
            if extended { (64, self.index(at + 8, 8)) } else { (32, self.index(at + 8, 4)) };
        let mode = u16::try_from(self.number(at + 4, 2)).unwrap();
        let links = if extended { self.number(at + 44, 4) } else { self.number(at + 6, 2) };
        let modified = extended
            .then(|| (self.number(at + 32, 8), u32::try_from(self.number(at + 40, 4)).unwrap()));
        let owner = if extended { self.number(at + 24, 8) } else { self.number(at + 24, 4) };
        assert_eq!(owner, 0, "everything is root's");
        let start = match format >> 1 {
            0 if size == 0 => at,
            0 => self.index(at + 16, 4) * 4096,
            2 => {
                assert!(at % 4096 + header + size <= 4096, "inline data crosses no block");
                at + header
            }
            layout => panic!("layout {layout}"),
        };
        if mode & 0o170_000 == 0o100_000 && size > 512 {
            assert_eq!(format >> 1, 0, "regular files can be mapped in place");
        }
        let content = self.0[start..start + size].to_vec();
        Found { mode, links: u32::try_from(links).unwrap(), content, modified }
    }

    fn walk(&self, nid: usize, parent: usize, path: &str, found: &mut BTreeMap<String, Found>) {
        let inode = self.inode(nid);
        if inode.mode & 0o170_000 == 0o040_000 {
            let mut last = Vec::new();
            let mut own = 0;
            for block in inode.content.chunks(4096) {
                let reader = Reader(block);
                let count = reader.index(8, 2) / 12;
                for entry in 0..count {
                    let start = reader.index(entry * 12 + 8, 2);
                    let end = if entry + 1 < count {
                        reader.index(entry * 12 + 20, 2)
                    } else {
                        block.len()
                    };
                    let mut name = block[start..end].to_vec();
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    assert!(name > last, "sorted: {name:?} after {last:?}");
                    last.clone_from(&name);
                    let child = reader.index(entry * 12, 8);
                    let file_type = block[entry * 12 + 10];
                    let expected = match self.inode(child).mode >> 12 {
                        0o10 => 1,
                        0o04 => 2,
                        0o12 => 7,
                        other => panic!("type {other:o}"),
                    };
                    assert_eq!(file_type, expected);
                    match name.as_slice() {
                        b"." => {
                            assert_eq!(child, nid);
                            own += 1;
                        }
                        b".." => {
                            assert_eq!(child, parent);
                            own += 1;
                        }
                        _ => self.walk(
                            child,
                            nid,
                            &format!("{path}/{}", String::from_utf8(name).unwrap()),
                            found,
                        ),
                    }
                }
            }
            assert_eq!(own, 2, "{path} has . and ..");
        }
        found.insert(path.to_owned(), inode);
    }
}

fn read(bytes: &[u8]) -> BTreeMap<String, Found> {
    let reader = Reader(bytes);
    assert_eq!(reader.number(1024, 4), 0xe0f5_e1e2);
    assert_eq!(reader.index(1024 + 36, 4) * 4096, bytes.len(), "the superblock knows the size");
    let root = reader.index(1024 + 14, 2);
    let mut found = BTreeMap::new();
    reader.walk(root, root, "", &mut found);
    assert_eq!(
        reader.index(1024 + 16, 8),
        found.len(),
        "the superblock knows the number of inodes"
    );
    found
}

/// Has erofs-utils check an image and extract it; `None` if it is not installed.
fn extracted(scratch: &Scratch, image: &[u8]) -> Option<PathBuf> {
    let path = scratch.file("image", image);
    let to = scratch.0.join("extracted");
    let output = Command::new("fsck.erofs")
        .arg(format!("--extract={}", to.display()))
        .arg(&path)
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "fsck.erofs: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    Some(to)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_image_without_files_is_a_minimal_root() {
    let bytes = assembled(&ImageBuilder::new().build().unwrap());
    let found = read(&bytes);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["", "/bin", "/dev", "/etc", "/etc/group", "/etc/passwd", "/proc", "/root", "/tmp"]
    );
    assert_eq!(found["/tmp"].mode, 0o041_777);
    assert_eq!(found[""].links, 2 + 6);
    assert!(found["/etc/passwd"].content.starts_with(b"root:x:0:0:"));
    assert_eq!(bytes.len(), 4096, "all of it is in one block");
}

#[test]
fn host_files_keep_content_mode_and_time_whatever_their_size() {
    let scratch = Scratch::new("image-sizes");
    let mut builder = ImageBuilder::new();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let sizes = [0_usize, 1, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 100_000];
    for size in sizes {
        let content: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let path = scratch.file(&format!("{size}"), &content);
        fs::set_permissions(&path, Permissions::from_mode(0o751)).unwrap();
        File::open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        builder.add(&path, &guest(&format!("/data/{size}"))).unwrap();
    }
    let image = builder.build().unwrap();
    assert_eq!(image.pieces.len(), 1 + 5, "files of more than a page are not copied");
    let bytes = assembled(&image);
    let found = read(&bytes);
    let extracted = extracted(&scratch, &bytes);
    for size in sizes {
        let host = fs::read(scratch.0.join(size.to_string())).unwrap();
        let file = &found[&format!("/data/{size}")];
        assert!(file.content == host, "{size}");
        assert_eq!((file.mode, file.links), (0o100_751, 1));
        assert_eq!(file.modified, Some((1_234_567_890, 123_456_789)));
        if let Some(extracted) = &extracted {
            let copy = extracted.join(format!("data/{size}"));
            assert!(fs::read(&copy).unwrap() == host, "{size}");
            let metadata = fs::metadata(&copy).unwrap();
            assert_eq!((metadata.mtime(), metadata.mode() & 0o7777), (1_234_567_890, 0o751));
        }
    }
}

#[test]
fn a_directory_brings_all_that_is_in_it() {
    let scratch = Scratch::new("image-tree");
    // Names around "." and ".." in the order of bytes, and more than fit into a block.
    let odd = ["!", "-", "-x", ".-", ".a", "..b", "...", "/deeper/still/x", "é"];
    for name in odd {
        scratch.file(&format!("host/{name}"), name.as_bytes());
    }
    for number in 0..300 {
        scratch.file(&format!("host/many/a-rather-long-name-{number:03}"), b"");
    }
    symlink("../elsewhere", scratch.0.join("host/link")).unwrap();
    symlink("x".repeat(4090), scratch.0.join("host/long-link")).unwrap();
    let mut builder = ImageBuilder::new();
    builder.add(&scratch.0.join("host"), &guest("/srv")).unwrap();
    let bytes = assembled(&builder.build().unwrap());
    let found = read(&bytes);
    for name in odd {
        let path = format!("/srv/{}", name.trim_start_matches('/'));
        assert_eq!(text(&found[&path].content), *name);
    }
    assert_eq!(found.keys().filter(|path| path.starts_with("/srv/many/")).count(), 300);
    assert_eq!(found["/srv/link"].content, b"../elsewhere");
    assert_eq!(found["/srv/link"].mode, 0o120_777);
    assert_eq!(found["/srv/long-link"].content.len(), 4090);
    assert_eq!(found["/srv"].links, 2 + 2, "many and deeper");
    if let Some(extracted) = extracted(&scratch, &bytes) {
        let output = Command::new("diff")
            .arg("-r")
            .arg("--no-dereference")
            .arg(scratch.0.join("host"))
            .arg(extracted.join("srv"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}

#[test]
fn thousands_of_files_are_copied_rather_than_opened() {
    let scratch = Scratch::new("image-many");
    for number in 0..700 {
        scratch.file(&format!("host/{number}"), &[7; 16384]);
    }
    let mut builder = ImageBuilder::new();
    builder.add(&scratch.0.join("host"), &guest("/data")).unwrap();
    let image = builder.build().unwrap();
    assert_eq!(image.pieces.len(), 1 + 512);
    let found = read(&assembled(&image));
    assert!((0..700).all(|number| found[&format!("/data/{number}")].content == [7; 16384]));
}

#[test]
fn places_that_are_taken_are_errors() {
    let scratch = Scratch::new("image-taken");
    let one = scratch.file("one", b"1");
    let two = scratch.file("two", b"2");
    let mut builder = ImageBuilder::new();
    builder.add(&one, &guest("/a/b")).unwrap();
    let add = |builder: &mut ImageBuilder, host: &Path, path: &str| {
        builder.add(host, &guest(path)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(add(&mut builder, &two, "/a/b").contains("'/a/b' in the guest is given twice"));
    assert!(add(&mut builder, &two, "/a/b/c").contains("as a directory"));
    assert!(add(&mut builder, &two, "/a").contains("as a directory"));
    assert!(add(&mut builder, &two, "/").contains("as a directory"));
    assert!(add(&mut builder, &two, "/tmp").contains("as a directory"));
    assert!(builder.add_directory(&guest("/a/b")).is_err());
    assert!(builder.add_embedded(b"x", &guest("/a/b")).is_err());
    assert_eq!(add(&mut builder, &one, "/a/b"), "", "the very same file may be named twice");
    assert_eq!(add(&mut builder, &two, "/etc/passwd"), "", "what Airlock makes up gives way");
    let found = read(&assembled(&builder.build().unwrap()));
    assert_eq!(
        (found["/a/b"].content.as_slice(), found["/etc/passwd"].content.as_slice()),
        (&b"1"[..], &b"2"[..])
    );
}

#[test]
fn what_is_no_file_is_an_error() {
    let mut builder = ImageBuilder::new();
    let error = builder.add(Path::new("/dev/null"), &guest("/x")).unwrap_err();
    assert!(matches!(error, ImageError::SpecialFile(_)), "{error}");
    let error = builder.add(Path::new("/no/such/file"), &guest("/x")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read '/no/such/file': No such file"), "{error}");
}

#[test]
fn more_than_the_guest_has_room_for_is_an_error() {
    let scratch = Scratch::new("image-huge");
    let path = scratch.0.join("sparse");
    File::create(&path).unwrap().set_len(200 << 30).unwrap();
    let mut builder = ImageBuilder::new();
    builder.add(&path, &guest("/one")).unwrap();
    builder.add(&path, &guest("/two")).unwrap();
    let error = builder.build().unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 256 }), "{error}");
}

#[test]
fn a_file_of_more_than_4_gib_has_its_size() {
    let scratch = Scratch::new("image-large");
    let path = scratch.0.join("sparse");
    File::create(&path).unwrap().set_len((5 << 30) + 1).unwrap();
    let mut builder = ImageBuilder::new();
    builder.add(&path, &guest("/large")).unwrap();
    let image = builder.build().unwrap();
    let [Piece::Bytes(bytes), Piece::File { length, .. }] = image.pieces.as_slice() else {
        panic!("{:?}", image.pieces.len());
    };
    assert_eq!(*length, (5 << 30) + 1);
    // Blocks: what is in memory, and the file's.
    let blocks = Reader(bytes).number(1024 + 36, 4);
    assert_eq!(blocks, u64::try_from(bytes.len()).unwrap() / 4096 + length.div_ceil(4096));
}

#[test]
fn a_typical_image_is_made_in_no_time() {
    let scratch = Scratch::new("image-speed");
    let program = scratch.file("program", &[1; 20_000]);
    // The best of several, so that a busy machine does not matter; generous for a debug build.
    let best = (0..50)
        .map(|_| {
            let start = std::time::Instant::now();
            let mut builder = ImageBuilder::new();
            builder.add(&program, &guest("/home/user/project/program")).unwrap();
            builder.build().unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("{best:?}");
    assert!(best < Duration::from_millis(1), "{best:?}");
}
