//! Root file systems that the user brings: EROFS images as they are, and directories, archives and container
//! images, of which an EROFS image is made.

mod archive;
mod cache;
mod defaults;
mod directory;
mod error;
mod identity;
mod merge;
mod oci;
mod output;
mod pack;
mod progress;
mod stream;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::allocator;
use crate::config::{Piece, RootImage};
use crate::image::erofs::{BLOCK_SIZE, SUPERBLOCK_OFFSET};
use crate::image::tree::ROOT;
use archive::{Archives, Layer};
pub use defaults::Defaults;
use directory::Directory;
pub use error::RootfsError;
use error::{damaged, reading};
use oci::Store;
use output::Output;
use stream::{Blob, decompressed, is_compressed};

/// A root file system that is ready to be used.
#[derive(Debug)]
pub struct Rootfs {
    /// The image.
    pub image: RootImage,
    /// How the source wants it to be run.
    pub defaults: Defaults,
}

/// What the user named.
enum Kind {
    Image(File),
    Directory,
    Layout,
    Archive(File, Metadata),
}

fn kind(path: &Path) -> Result<Kind, RootfsError> {
    let metadata = fs::metadata(path).map_err(reading(path))?;
    if metadata.is_dir() {
        if fs::canonicalize(path).map_err(reading(path))? == Path::new("/") {
            return Err(RootfsError::HostRoot);
        }
        return Ok(if oci::is_layout(path) { Kind::Layout } else { Kind::Directory });
    }
    if !metadata.is_file() {
        return Err(RootfsError::Unknown(path.to_owned()));
    }
    let file = File::open(path).map_err(reading(path))?;
    let mut magic = [0; 4];
    let at_superblock = file.read_exact_at(&mut magic, SUPERBLOCK_OFFSET);
    if at_superblock.is_ok() && superblock::is_erofs(magic) {
        return Ok(Kind::Image(file));
    }
    Ok(Kind::Archive(file, metadata))
}

/// Makes a source ready to be the root file system of a guest. What has to be packed is packed once, and kept.
///
/// # Errors
///
/// If it is none, is damaged, or cannot be packed.
pub fn open(path: &Path) -> Result<Rootfs, RootfsError> {
    // Nothing of what this allocates stays, and it may be much.
    let file = allocator::outside_arena(|| find(path))?;
    let blocks = superblock::check(&file, path)?;
    let end = blocks * BLOCK_SIZE;
    let length = file.metadata().map_err(reading(path))?.len();
    let defaults = Defaults::read(&file, end, length).map_err(reading(path))?;
    let pieces = vec![Piece::File { file, length: end.min(length) }];
    Ok(Rootfs { image: RootImage { pieces }, defaults })
}

/// The image of a source, out of the cache if it has to be packed.
fn find(path: &Path) -> Result<File, RootfsError> {
    match kind(path)? {
        Kind::Image(file) => Ok(file),
        Kind::Directory => {
            let mut directory = Directory::list(path)?;
            let key = directory.key();
            cache::image(&[b"directory", &key], |output| pack::write(&mut directory, None, output))
        }
        Kind::Layout => {
            // It names everything else by digest.
            let index = path.join("index.json");
            let index = fs::read(&index).map_err(reading(&index))?;
            cache::image(&[b"layout", &index], |output| pack_layout(path, output))
        }
        Kind::Archive(file, metadata) => {
            let key: Vec<u8> = [
                metadata.dev(),
                metadata.ino(),
                metadata.len(),
                metadata.mtime().cast_unsigned(),
                metadata.mtime_nsec().cast_unsigned(),
                metadata.ctime().cast_unsigned(),
                metadata.ctime_nsec().cast_unsigned(),
            ]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
            cache::image(&[b"archive", &key], |output| {
                pack_archive(file, metadata.len(), path, output)
            })
        }
    }
}

/// Writes the image of a source to a file.
///
/// # Errors
///
/// As for [`open`], and if the file cannot be written; it is as before then.
pub fn pack(path: &Path, to: &Path) -> Result<(), RootfsError> {
    let kind = kind(path)?;
    let mut output = Output::create(to)?;
    match kind {
        Kind::Image(file) => {
            superblock::check(&file, path)?;
            let length = file.metadata().map_err(reading(path))?.len();
            output.progress.expect(length);
            output.set_length(length)?;
            output.copy(&file, reading(path), 0, length)?;
        }
        Kind::Directory => pack::write(&mut Directory::list(path)?, None, &mut output)?,
        Kind::Layout => pack_layout(path, &mut output)?,
        Kind::Archive(file, metadata) => {
            pack_archive(file, metadata.len(), path, &mut output)?;
        }
    }
    output.finish().map(drop)
}

fn pack_layout(path: &Path, output: &mut Output) -> Result<(), RootfsError> {
    let (mut archives, container) = oci::read(&Store::Directory(path.to_owned()), output)?;
    pack::write(&mut archives, Some(container), output)
}

fn pack_archive(
    file: File,
    length: u64,
    path: &Path,
    output: &mut Output,
) -> Result<(), RootfsError> {
    let mut start = [0; 4];
    let compressed = file.read_exact_at(&mut start, 0).is_ok() && is_compressed(&start);
    let beginning = archive::beginning(&file, length).map_err(damaged(path))?;
    if !archive::is_tar(&beginning) {
        return Err(RootfsError::Unknown(path.to_owned()));
    }
    if !compressed {
        let members = archive::index(&file, length, path)?;
        if oci::is_container(|name| members.contains_key(name.as_bytes())) {
            let store = Store::Archive { file, path: path.to_owned(), members };
            let (mut archives, container) = oci::read(&store, output)?;
            return pack::write(&mut archives, Some(container), output);
        }
    }
    let layer = Layer::new(file.try_clone().map_err(reading(path))?, 0, length, path);
    let reader = decompressed(layer.blob()?).map_err(damaged(path))?;
    let mut archives = Archives::new();
    archives.add(layer, reader, false, output)?;
    let root = archives.tree();
    if compressed && oci::is_container(|name| merge::child(root, ROOT, name.as_bytes()).is_some()) {
        return pack_compressed_container(file, length, path, output);
    }
    pack::write(&mut archives, None, output)
}

/// Layers are read more than once and out of order, so what contains them must not be compressed.
fn pack_compressed_container(
    file: File,
    length: u64,
    path: &Path,
    output: &mut Output,
) -> Result<(), RootfsError> {
    let mut reader = decompressed(Blob::new(file, 0, length)).map_err(damaged(path))?;
    let (plain, length) = output.spool(&mut reader, damaged(path))?;
    let members = archive::index(&plain, length, path)?;
    let store = Store::Archive { file: plain, path: path.to_owned(), members };
    let (mut archives, container) = oci::read(&store, output)?;
    pack::write(&mut archives, Some(container), output)
}

/// What has to be known of an EROFS image before a guest gets it.
mod superblock {
    use super::*;

    const MAGIC: u32 = 0xe0f5_e1e2;
    /// The size of pages, which is what blocks are mapped as.
    const BLOCK_SIZE_BITS: u8 = 12;
    /// Features that the guest kernel knows: zero padding (of compressed data), chunk-based files, and
    /// prefixes of extended attributes.
    const KNOWN_FEATURES: u32 = 0x1 | 0x4 | 0x40;
    const COMPRESSION_FEATURES: u32 = 0x2 | 0x10 | 0x20;
    const DEVICES_FEATURE: u32 = 0x8;

    pub fn is_erofs(magic: [u8; 4]) -> bool {
        u32::from_le_bytes(magic) == MAGIC
    }

    /// Checks that an image is one that the guest kernel can mount, as far as the superblock says; returns its
    /// number of blocks.
    pub fn check(file: &File, path: &Path) -> Result<u64, RootfsError> {
        let refuse = |reason: String| Err(RootfsError::Image { path: path.to_owned(), reason });
        let length = file.metadata().map_err(reading(path))?.len();
        let mut bytes = [0; 128];
        if file.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET).is_err() {
            return refuse("ends in its superblock".to_owned());
        }
        let number =
            |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if number(0) != MAGIC {
            return refuse("has no superblock".to_owned());
        }
        if bytes[12] != BLOCK_SIZE_BITS || bytes[90] != 0 {
            let size = 1_u64.checked_shl(bytes[12].into()).unwrap_or(0);
            return refuse(format!("has blocks of {size} bytes; the guest kernel takes 4096"));
        }
        let features = number(80);
        if features & COMPRESSION_FEATURES != 0 {
            return refuse("is compressed; make it without compression".to_owned());
        }
        if features & DEVICES_FEATURE != 0 {
            return refuse("has its data on other devices".to_owned());
        }
        if features & !KNOWN_FEATURES != 0 {
            return refuse(format!("has unknown features ({features:#x})"));
        }
        let blocks = u64::from(number(36));
        if blocks == 0 {
            return Ok(length.div_ceil(BLOCK_SIZE));
        }
        if blocks * BLOCK_SIZE > length.next_multiple_of(BLOCK_SIZE) {
            return refuse(format!(
                "is truncated: it has {length} bytes of {}",
                blocks * BLOCK_SIZE
            ));
        }
        Ok(blocks)
    }
}
