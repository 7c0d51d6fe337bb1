//! Sources of every kind, good and bad.
//!
//! Where erofs-utils are installed, they judge what is written.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{RootfsError, pack};
use crate::scratch::Scratch;

impl Scratch {
    /// The image of a source, or in one line why there is none. Nothing is left behind then.
    fn pack(&self, source: &Path) -> Result<Vec<u8>, String> {
        let outputs = self.0.join("outputs");
        fs::create_dir_all(&outputs).unwrap();
        let to = outputs.join("image");
        let result = pack(source, &to);
        let image = fs::read(&to).ok();
        drop(fs::remove_file(&to));
        assert_eq!(fs::read_dir(&outputs).unwrap().count(), 0, "something is left behind");
        match result {
            Ok(()) => Ok(image.expect("an image")),
            Err(error) => {
                let message = error.to_string();
                assert!(image.is_none() && !message.contains('\n'), "{message:?}");
                Err(message)
            }
        }
    }

    fn pack_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let path = self.file("source", bytes);
        self.pack(&path)
    }

    /// Has erofs-utils check an image and extract it; `None` if they are not installed.
    fn extracted(&self, image: &[u8]) -> Option<PathBuf> {
        let path = self.file("checked", image);
        let to = self.0.join("extracted");
        drop(fs::remove_dir_all(&to));
        let output = Command::new("fsck.erofs")
            .arg(format!("--extract={}", to.display()))
            .arg(&path)
            .output()
            .ok()?;
        assert!(output.status.success(), "{output:?}");
        Some(to)
    }
}

/// A member of an archive: its name, kind, link target and content.
type Member<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

fn file<'a>(name: &'a str, content: &'a [u8]) -> Member<'a> {
    (name, EntryType::Regular, "", content)
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size.try_into().unwrap());
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o640 });
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_000_000_000);
    header
}

/// Puts a name into a header as it is.
fn set_name(header: &mut Header, name: &str) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
}

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, target, content) in members {
        let mut header = header(*kind, content.len());
        set_name(&mut header, name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(259).unwrap();
        }
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// An archive with something of everything.
fn everything() -> Vec<u8> {
    let large = noise(20_000);
    archive(&[
        ("./", EntryType::Directory, "", b""),
        ("./a/", EntryType::Directory, "", b""),
        file("./a/small", b"small\n"),
        file("/a/absolute", b"absolute\n"),
        file("a/large", &large),
        ("a/link", EntryType::Symlink, "../a/small", b""),
        ("b", EntryType::Link, "a/large", b""),
        ("null", EntryType::Char, "", b""),
        ("block", EntryType::Block, "", b""),
        ("fifo", EntryType::Fifo, "", b""),
        file("c/made/above", b"made"),
        file("a/replaced", b"old"),
        file("a/replaced", b"new"),
    ])
}

#[test]
fn archives_keep_everything_whatever_compresses_them() {
    let scratch = Scratch::new("rootfs-archives");
    let plain = everything();
    let image = scratch.pack_bytes(&plain).unwrap();
    assert!(image == scratch.pack_bytes(&gzip(&plain)).unwrap(), "gzip");
    assert!(image == scratch.pack_bytes(&zstd(&plain)).unwrap(), "zstd");
    let frames =
        [zstd(&plain[..7000]), b"\x52\x2a\x4d\x18\x03\0\0\0xyz".to_vec(), zstd(&plain[7000..])];
    assert!(image == scratch.pack_bytes(&frames.concat()).unwrap(), "frames of zstd");
    let members = [gzip(&plain[..9000]), gzip(&plain[9000..])];
    assert!(image == scratch.pack_bytes(&members.concat()).unwrap(), "members of gzip");
    let Some(root) = scratch.extracted(&image) else { return };
    let content = |name: &str| fs::read(root.join(name)).unwrap();
    assert_eq!(content("a/small"), b"small\n");
    assert_eq!(content("a/absolute"), b"absolute\n");
    assert!(content("a/large") == noise(20_000) && content("b") == noise(20_000));
    assert_eq!(content("c/made/above"), b"made");
    assert_eq!(content("a/replaced"), b"new");
    assert_eq!(fs::read_link(root.join("a/link")).unwrap(), Path::new("../a/small"));
}

#[test]
fn members_that_lead_outside_or_nowhere_are_refused() {
    let scratch = Scratch::new("rootfs-outside");
    let refused = |member: Member<'_>, word: &str| {
        let message = scratch.pack_bytes(&archive(&[file("x", b""), member])).unwrap_err();
        assert!(message.contains(member.0) && message.contains(word), "{message}");
    };
    refused(file("../out", b"x"), "'..'");
    refused(file("a/../../out", b"x"), "'..'");
    refused(file("/..", b"x"), "'..'");
    refused(("hard", EntryType::Link, "../../etc/passwd", b""), "outside");
    refused(("hard", EntryType::Link, "/etc/passwd", b""), "not in it");
    refused(("soft", EntryType::Symlink, "", b""), "nowhere");
    refused(("odd", EntryType::new(b'Z'), "", b""), "kind");
    // A link may say what it likes, and what comes after it stays inside.
    let tricky = archive(&[
        ("etc", EntryType::Symlink, "../../../../../../etc", b""),
        file("etc/passwd", b"inside"),
        ("self", EntryType::Symlink, "self", b""),
        file("self/x", b"inside"),
    ]);
    let image = scratch.pack_bytes(&tricky).unwrap();
    if let Some(root) = scratch.extracted(&image) {
        assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), b"inside");
        assert_eq!(fs::read(root.join("self/x")).unwrap(), b"inside");
    }
}

/// A number of eleven octal digits.
fn octal(number: u64) -> Vec<u8> {
    format!("{number:011o}\0").into_bytes()
}

#[test]
fn claims_of_sizes_are_not_believed_before_they_are_true() {
    let scratch = Scratch::new("rootfs-claims");
    let ten = 10 << 30;
    let mut claim = header(EntryType::Regular, 0);
    set_name(&mut claim, "huge");
    claim.set_size(ten);
    claim.set_cksum();
    let mut bytes = claim.as_bytes().to_vec();
    bytes.extend([0; 4096]);
    assert!(scratch.pack_bytes(&bytes).unwrap_err().contains("ends in the middle"));
    assert!(scratch.pack_bytes(&gzip(&bytes)).unwrap_err().contains("ends in the middle"));
    // A sparse file of 1 GiB with one byte of data takes no more than its metadata in the image.
    let mut sparse = header(EntryType::GNUSparse, 512);
    set_name(&mut sparse, "sparse");
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(&octal(1 << 30));
    gnu.sparse[0].offset.copy_from_slice(&octal(512 << 20));
    gnu.sparse[0].numbytes.copy_from_slice(&octal(512));
    gnu.sparse[1].offset.copy_from_slice(&octal(1 << 30));
    gnu.sparse[1].numbytes.copy_from_slice(&octal(0));
    sparse.set_cksum();
    let mut bytes = sparse.as_bytes().to_vec();
    bytes.extend(vec![b'd'; 512]);
    bytes.extend([0; 1024]);
    let (source, to) = (scratch.file("sparse.tar", &bytes), scratch.0.join("sparse.erofs"));
    pack(&source, &to).unwrap();
    let metadata = fs::metadata(&to).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&metadata);
    assert!(metadata.len() > 1 << 30 && blocks < 1000, "{metadata:?}");
}

/// Damages a source in many places. There is an image that is as good as the other, or one line that says
/// why there is none; `may_differ` for formats that have no checksum of data.
fn damage(name: &str, good: &[u8], may_differ: bool) {
    let scratch = Scratch::new(&format!("rootfs-{name}"));
    let image = scratch.pack_bytes(good).unwrap();
    let mut refused = 0;
    let lengths =
        (0..good.len()).step_by((good.len() / 60).max(1)).chain(good.len() - 3..good.len());
    for length in lengths {
        match scratch.pack_bytes(&good[..length]) {
            Ok(packed) => assert!(packed == image, "{name} cut to {length} of {}", good.len()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{name}: {refused}");
    for (round, &at) in noise(400).as_chunks::<4>().0.iter().enumerate() {
        let mut damaged = good.to_vec();
        // Headers are where damage matters.
        let reach = if round % 2 == 0 { good.len() } else { good.len().min(4096) };
        let at = usize::try_from(u32::from_le_bytes(at)).unwrap() % reach;
        damaged[at] ^= 1 << (round % 8);
        if let Ok(packed) = scratch.pack_bytes(&damaged) {
            assert!(may_differ || packed == image, "{name} damaged at {at}");
        }
    }
}

#[test]
fn damaged_archives_are_refused() {
    damage("damaged-tar", &everything(), true);
    damage("damaged-gzip", &gzip(&everything()), false);
    damage("damaged-docker", &docker_archive(), true);
}

#[test]
fn damaged_zstd_archives_are_refused() {
    damage("damaged-zstd", &zstd(&everything()), false);
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Layers and the configuration of a container image.
fn container() -> ([Vec<u8>; 2], Vec<u8>) {
    let passwd = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n";
    let base = archive(&[
        file("etc/passwd", passwd),
        file("etc/group", b"web:x:34:\nlog:x:40:web\n"),
        file("usr/lib/old", b"old"),
        ("lib", EntryType::Symlink, "usr/lib", b""),
        file("gone", b"gone"),
        file("opaque/gone", b"gone"),
    ]);
    let upper = archive(&[
        file(".wh.gone", b""),
        file("opaque/kept", b"kept"),
        file("opaque/.wh..wh..opq", b""),
        file("lib/new", b"new"),
    ]);
    let layers = [base, upper];
    let configuration = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"User":"web","Entrypoint":["/bin/sh","-c"],
        "Cmd":["id"],"Env":["A=b"],"WorkingDir":"/work/here"}},"rootfs":{{"type":"layers",
        "diff_ids":["sha256:{}","sha256:{}"]}}}}"#,
        digest(&layers[0]),
        digest(&layers[1])
    );
    (layers, configuration.into_bytes())
}

/// What `docker save` wrote before it wrote OCI layouts.
fn docker_archive() -> Vec<u8> {
    let (layers, configuration) = container();
    let name = format!("{}.json", digest(&configuration));
    let manifest = format!(r#"[{{"Config":"{name}","Layers":["1/layer.tar","2/layer.tar"]}}]"#);
    archive(&[
        file(&name, &configuration),
        file("1/layer.tar", &layers[0]),
        file("2/layer.tar", &layers[1]),
        file("manifest.json", manifest.as_bytes()),
    ])
}

/// An OCI layout in a directory.
fn layout(scratch: &Scratch) -> PathBuf {
    let (layers, configuration) = container();
    let blob = |bytes: &[u8]| {
        scratch.file(&format!("oci/blobs/sha256/{}", digest(bytes)), bytes);
        format!(r#""digest":"sha256:{}","size":{}"#, digest(bytes), bytes.len())
    };
    let [base, upper] = [gzip(&layers[0]), zstd(&layers[1])];
    let manifest = format!(
        r#"{{"config":{{{}}},"layers":[{{{}}},{{{}}}]}}"#,
        blob(&configuration),
        blob(&base),
        blob(&upper)
    );
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:00","platform":{{"architecture":"arm64","os":"linux"}}}},
        {{{},"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
        blob(manifest.as_bytes())
    );
    scratch.file("oci/index.json", index.as_bytes());
    scratch.file("oci/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    scratch.0.join("oci")
}

#[test]
fn container_images_are_merged_and_say_how_they_are_run() {
    let scratch = Scratch::new("rootfs-container");
    let image = scratch.pack(&layout(&scratch)).unwrap();
    let saved = docker_archive();
    assert!(image == scratch.pack_bytes(&saved).unwrap(), "docker archive");
    assert!(image == scratch.pack_bytes(&gzip(&saved)).unwrap(), "compressed docker archive");
    let path = scratch.file("image", &image);
    let defaults = super::open(&path).unwrap().defaults;
    assert_eq!(defaults.entrypoint, ["/bin/sh", "-c"]);
    assert_eq!((defaults.command, defaults.environment), (vec!["id".into()], vec!["A=b".into()]));
    assert_eq!((defaults.user, defaults.group, defaults.groups), (33, 34, vec![40]));
    assert_eq!((defaults.directory.as_str(), defaults.home.as_str()), ("/work/here", "/srv"));
    let Some(root) = scratch.extracted(&image) else { return };
    assert!(!root.join("gone").exists() && !root.join("opaque/gone").exists());
    assert_eq!(fs::read(root.join("opaque/kept")).unwrap(), b"kept");
    assert_eq!(fs::read(root.join("usr/lib/new")).unwrap(), b"new");
    assert!(root.join("work/here").is_dir() && root.join("lib").is_symlink());
}

#[test]
fn parts_of_container_images_are_what_their_digests_say() {
    let scratch = Scratch::new("rootfs-digests");
    let directory = layout(&scratch);
    let blobs = fs::read_dir(directory.join("blobs/sha256")).unwrap();
    let mut count = 0;
    for blob in blobs {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let message = scratch.pack(&directory).unwrap_err();
        assert!(message.contains("has no") && message.contains(&name), "{message}");
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        for bad in [bad, good[..good.len() - 1].to_vec(), Vec::new()] {
            fs::write(&path, bad).unwrap();
            let message = scratch.pack(&directory).unwrap_err();
            assert!(message.contains("damaged") && message.contains(&name), "{message}");
        }
        fs::write(&path, good).unwrap();
        count += 1;
    }
    assert_eq!(count, 4);
    scratch.pack(&directory).unwrap();
    for (index, word) in [
        ("{", "damaged"),
        (r#"{"manifests":[]}"#, "no image for linux/amd64"),
        (r#"{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}"#, "no SHA-256"),
        (r#"{"manifests":[{"digest":"md5:00"}]}"#, "no SHA-256"),
    ] {
        scratch.file("oci/index.json", index.as_bytes());
        let message = scratch.pack(&directory).unwrap_err();
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn directories_are_packed_with_all_that_is_in_them() {
    let scratch = Scratch::new("rootfs-directory");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    for (name, length) in
        [("empty", 0), ("one", 1), ("512", 512), ("513", 513), ("page", 4096), ("more", 300_001)]
    {
        let path = scratch.file(&format!("root/{name}"), &noise(length));
        File::open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    for number in 0..400 {
        scratch.file(&format!("root/many/a rather long name of a file {number}"), b"x");
    }
    let root = scratch.0.join("root");
    symlink("/nowhere/at/all", root.join("link")).unwrap();
    fs::hard_link(root.join("more"), root.join("many/again")).unwrap();
    drop(File::create(root.join("sparse")).unwrap().set_len(1 << 20));
    let image = scratch.pack(&root).unwrap();
    assert!(image == scratch.pack(&root).unwrap(), "the same input gives the same image");
    assert!(image.len() < (300_001 + (1 << 20) + 200_000), "data of hard links is there once");
    let Some(extracted) = scratch.extracted(&image) else { return };
    let output =
        Command::new("diff").args(["-r", "--no-dereference"]).arg(&root).arg(&extracted).output();
    assert!(output.unwrap().status.success());
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(modified(&extracted.join("more")), time);
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let scratch = Scratch::new("rootfs-refused");
    let refused = |path: &Path, word: &str| {
        let message = scratch.pack(path).unwrap_err();
        assert!(message.contains(word), "{message}");
    };
    refused(&scratch.0.join("absent"), "No such file");
    refused(Path::new("/"), "host's /");
    refused(Path::new("/usr/.."), "host's /");
    refused(Path::new("/dev/null"), "no root file system");
    for content in
        [b"".as_slice(), b"x", &[0; 4096], &noise(5000), b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]
    {
        let path = scratch.file("odd", content);
        let message = scratch.pack(&path).unwrap_err();
        assert!(message.contains("odd"), "{message}");
    }
    assert!(matches!(
        pack(&scratch.0, Path::new("/no/such/directory/x")),
        Err(RootfsError::Write { .. })
    ));
}

#[test]
fn superblocks_are_looked_at_before_a_guest_is() {
    let scratch = Scratch::new("rootfs-superblock");
    let good = scratch.pack_bytes(&everything()).unwrap();
    let image = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let path = scratch.file("image", &bytes);
        super::open(&path).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(image(&|_| {}), Ok(()));
    let refused = |change: &dyn Fn(&mut Vec<u8>), word: &str| {
        let message = image(change).unwrap_err();
        assert!(message.contains(word), "{message}");
    };
    refused(&|bytes| bytes[1036] = 14, "blocks of 16384 bytes");
    refused(&|bytes| bytes[1104] |= 2, "compressed");
    refused(&|bytes| bytes[1104] |= 8, "other devices");
    refused(&|bytes| bytes[1107] |= 0x80, "unknown features");
    refused(&|bytes| bytes[1063] = 0xff, "truncated");
    refused(&|bytes| bytes.truncate(1100), "superblock");
    refused(&|bytes| bytes.truncate(8192), "truncated");
}
