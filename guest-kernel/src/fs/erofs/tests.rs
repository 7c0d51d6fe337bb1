//! The reader against images that `mkfs.erofs` made.

use super::*;
use crate::memory::frame::{self, Content};
use crate::numbers::Random;
use std::process::Command;
use std::vec::Vec;

/// Puts an image into the test's RAM, where its pages have addresses.
pub fn place(bytes: &[u8]) -> (SharedBytes<'static>, PhysAddr) {
    frame::host::init();
    let pages = bytes.len().div_ceil(4096).next_power_of_two();
    let order = usize::try_from(pages.trailing_zeros()).expect("small");
    let address = frame::allocate_block(order, Content::Zeroes).expect("memory");
    // SAFETY: the block is at least as long as the bytes and belongs to this function.
    unsafe { address.to_pointer().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    // SAFETY: the block is never freed.
    (unsafe { SharedBytes::new(address.to_pointer(), bytes.len()) }, address)
}

/// A directory that is removed with everything in it.
pub struct Scratch(pub std::path::PathBuf);

impl Scratch {
    /// Makes one among the temporary files.
    pub fn new(name: &str) -> Self {
        Self::within(&std::env::temp_dir(), name)
    }

    /// Makes one in this directory.
    pub fn within(directory: &std::path::Path, name: &str) -> Self {
        let path = directory.join(std::format!("airlock-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes an image of a directory; `None` where `mkfs.erofs` is not installed.
pub fn make_image(directory: &std::path::Path, options: &[&str]) -> Option<Vec<u8>> {
    let image = directory.with_extension("erofs");
    let output = Command::new("mkfs.erofs")
        .arg("--quiet")
        .args(options)
        .arg(&image)
        .arg(directory)
        .output()
        .ok()?;
    assert!(output.status.success(), "mkfs.erofs {options:?}: {output:?}");
    let bytes = std::fs::read(&image).expect("the image");
    std::fs::remove_file(&image).expect("the image");
    Some(bytes)
}

fn fill(directory: &std::path::Path) {
    let write = |name: &str, len: u32| {
        let bytes: Vec<u8> =
            (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(directory.join(name), bytes).expect("a file");
    };
    for (name, len) in
        [("empty", 0), ("one", 1), ("page", 4096), ("almost", 4095), ("large", 300_000), ("+", 5)]
    {
        write(name, len);
    }
    let names = directory.join("names");
    std::fs::create_dir_all(names.join("deep/deeper")).expect("directories");
    for number in 0..700 {
        write(&std::format!("names/a rather long name of a file {}", number * 7919 % 1000), 3);
    }
    write(&std::format!("names/{}", "x".repeat(200)), 9);
    std::os::unix::fs::symlink("names/../large", directory.join("link")).expect("a link");
    std::os::unix::fs::symlink("y".repeat(4000), names.join("long link")).expect("a link");
    std::fs::hard_link(directory.join("one"), names.join("one more")).expect("a link");
    let sparse = std::fs::File::create(directory.join("sparse")).expect("a file");
    sparse.set_len(100_000).expect("a length");
}

/// Compares everything below a directory of the host with the image.
fn compare(image: &Image, inode: &Inode, path: &std::path::Path) {
    use std::os::unix::fs::MetadataExt;
    let ours = inode.metadata(image).expect("metadata");
    let theirs = path.symlink_metadata().expect("metadata");
    assert_eq!(ours.mode, theirs.mode(), "{path:?}");
    assert_eq!((ours.user, ours.group), (theirs.uid(), theirs.gid()), "{path:?}");
    assert_eq!(u64::from(ours.links), theirs.nlink(), "{path:?}");
    if theirs.is_symlink() {
        let target = std::fs::read_link(path).expect("a target").into_os_string();
        assert_eq!(inode.target(image), Ok(target.into_encoded_bytes()));
    } else if theirs.is_file() {
        let expected = std::fs::read(path).expect("content");
        assert_eq!(ours.size, expected.len() as u64);
        let mut bytes = Vec::new();
        while bytes.len() < expected.len() {
            match inode.run(image, bytes.len() as u64, 50_000).expect("data") {
                Run::Bytes(run) => {
                    let mut part = std::vec![0; run.len()];
                    run.copy_to(&mut part);
                    assert!(!part.is_empty());
                    bytes.extend(part);
                }
                Run::Zeroes(count) => bytes.resize(bytes.len() + count, 0),
            }
        }
        assert!(bytes == expected, "content of {path:?}");
        assert!(matches!(inode.run(image, ours.size, 1), Ok(Run::Bytes(rest)) if rest.is_empty()));
    } else {
        let mut names = Vec::new();
        let list = |position, names: &mut Vec<(Vec<u8>, u64)>| {
            let mut next_position = None;
            inode
                .entries(image, position, |entry, next| {
                    let mut name = std::vec![0; entry.name.len()];
                    entry.name.copy_to(&mut name);
                    names.push((name, entry.number));
                    next_position = Some(next);
                    !names.len().is_multiple_of(5)
                })
                .expect("entries");
            next_position
        };
        let mut position = Some(0);
        while let Some(at) = position {
            position = list(at, &mut names);
        }
        let mut expected: Vec<Vec<u8>> = std::fs::read_dir(path)
            .expect("entries")
            .map(|entry| entry.expect("an entry").file_name().into_encoded_bytes())
            .chain([Vec::from(b"."), Vec::from(b"..")])
            .collect();
        expected.sort();
        assert_eq!(names.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected);
        for (name, number) in &names {
            let found = inode.find(image, name).expect("a name").number;
            assert_eq!(found, *number);
            if name != b"." && name != b".." {
                let name = std::str::from_utf8(name).expect("a name");
                compare(image, &image.inode(found).expect("an inode"), &path.join(name));
            }
        }
        for absent in [b"!".as_slice(), b"link!", b"lin", b"zzz", b"a rather long name of a fil"] {
            assert!(matches!(inode.find(image, absent), Err(Errno::ENOENT)), "{absent:?}");
        }
    }
}

#[test]
fn images_of_every_kind_read_as_the_directory_they_were_made_of() {
    for (number, options) in [
        [].as_slice(),
        &["-Eforce-inode-extended"],
        &["-Eforce-inode-compact"],
        &["-Enoinline_data"],
        &["--chunksize=4096"],
        &["--chunksize=16384", "-Eforce-chunk-indexes"],
        &["-x-1", "-Eforce-inode-blockmap", "--chunksize=8192"],
    ]
    .iter()
    .enumerate()
    {
        let scratch = Scratch::new(&std::format!("erofs-{number}"));
        fill(&scratch.0);
        let Some(bytes) = make_image(&scratch.0, options) else {
            std::eprintln!("mkfs.erofs is not installed: nothing to compare with");
            return;
        };
        let (bytes, start) = place(&bytes);
        let image = Image::open(bytes, start).expect("a good image");
        compare(&image, &image.inode(image.root()).expect("the root"), &scratch.0);
    }
}

/// What any program could do with an image: look at everything in it.
fn explore(image: &Image, number: u64, depth: u32) -> Result<()> {
    let inode = image.inode(number)?;
    let _ = inode.metadata(image)?;
    let _ = inode.target(image);
    for position in [0, 5000, inode.size() / 2, inode.size().wrapping_sub(1), u64::MAX] {
        let _ = inode.run(image, position, 10_000);
        let _ = inode.locate(image, position);
    }
    if inode.is_directory() && depth < 4 {
        let mut names = Vec::new();
        let result = inode.entries(image, 0, |entry, _| {
            names.push(entry);
            names.len() < 1000
        });
        for entry in names {
            let mut name = std::vec![0; entry.name.len()];
            entry.name.copy_to(&mut name);
            let _ = inode.find(image, &name);
            let _ = explore(image, entry.number, depth + 1);
        }
        result?;
    }
    Ok(())
}

/// A small image made by mkfs.erofs 1.5: a file, a directory with a file, and a symbolic link.
pub const SMALL: &[u8] = include_bytes!("small.erofs");

#[test]
fn damaged_images_are_errors_and_never_panics() {
    frame::host::init();
    let mut random = Random(1);
    let (mut opened, mut failed) = (0, 0);
    let (bytes, start) = place(SMALL);
    explore(&Image::open(bytes, start).expect("a good image"), 36, 0).expect("a good image");
    for _ in 0..3000 {
        let mut damaged = SMALL.to_vec();
        // The superblock and the metadata block hold all there is to damage.
        for _ in 0..=random.index(8) {
            let at = 1024 + random.index((damaged.len() - 1024).min(4096));
            damaged[at] = [0, 0xff, 0x7f, 1, damaged[at] ^ 4][random.index(5)];
        }
        if random.index(16) == 0 {
            damaged.truncate(random.index(damaged.len()));
        }
        // Safe: the damaged copy lives as long as the test.
        let bytes: &'static [u8] = std::boxed::Box::leak(damaged.into_boxed_slice());
        match Image::open(SharedBytes::from_slice(bytes), PhysAddr(4096)) {
            Ok(image) => {
                opened += 1;
                failed += u32::from(explore(&image, image.root(), 0).is_err());
            }
            Err(error) => {
                assert!(matches!(error, Errno::EINVAL | Errno::EUCLEAN | Errno::EOPNOTSUPP))
            }
        }
    }
    assert!(opened > 100 && failed > 10, "{opened} opened, {failed} of them failed");
}

/// A number of the environment, or this one.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Also run by `scripts/fuzz-erofs`, for longer and with another seed.
#[test]
fn damaged_images_of_mkfs_are_errors_and_never_panics() {
    let scratch = Scratch::new("erofs-fuzz");
    fill(&scratch.0);
    let all_options = [[].as_slice(), &["--chunksize=4096"], &["-Eforce-inode-extended"]];
    let mut images = Vec::new();
    for options in all_options {
        let Some(image) = make_image(&scratch.0, options) else {
            std::eprintln!("mkfs.erofs is not installed: nothing to damage");
            return;
        };
        images.push(image);
    }
    let mut random = Random(setting("AIRLOCK_FUZZ_SEED", 1));
    let time = std::time::Duration::from_secs(setting("AIRLOCK_FUZZ_SECONDS", 0));
    let begin = std::time::Instant::now();
    let (mut rounds, mut opened) = (0_u64, 0_u64);
    while rounds < 60 || begin.elapsed() < time {
        let good = &images[random.index(images.len())];
        let mut damaged = good.clone();
        for _ in 0..=random.index(12) {
            // The superblock, the inodes behind it, or anything.
            let reach = [1024 + 128, 16384, damaged.len()][random.index(3)].min(damaged.len());
            let at = 1024 + random.index(reach - 1024);
            damaged[at] = [0, 0xff, 0x7f, 1, damaged[at] ^ 1 << random.index(8)][random.index(5)];
        }
        if random.index(8) == 0 {
            damaged.truncate(random.index(damaged.len()));
        }
        let pointer = std::boxed::Box::into_raw(damaged.into_boxed_slice());
        {
            // SAFETY: the bytes live until they are freed below, and nothing keeps what is made of them.
            let bytes: &'static [u8] = unsafe { &*pointer };
            if let Ok(image) = Image::open(SharedBytes::from_slice(bytes), PhysAddr(4096)) {
                opened += 1;
                let _ = explore(&image, image.root(), 3);
            }
        }
        // SAFETY: it came from a box, and nothing refers to it any more.
        drop(unsafe { std::boxed::Box::from_raw(pointer) });
        rounds += 1;
    }
    std::eprintln!("{rounds} damaged images, of which {opened} could be mounted");
    assert!(opened > 5, "{opened} of {rounds}");
}
