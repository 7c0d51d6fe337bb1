//! Tar archives as the source of a root file system, and as layers of container images.
//!
//! An archive is read twice: to learn what is in it, and to copy the data of what is left of it after
//! later members and layers replaced others. So nothing but names and attributes is ever in memory, and
//! the image has no data that no name leads to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::directory::is_kept;
use super::error::{RootfsError, damaged, reading};
use super::merge;
use super::output::{Output, fill};
use super::pack::Source;
use super::stream::{Blob, decompressed};
use crate::image::erofs::{FileType, device, encode_attributes};
use crate::image::layout::Layout;
use crate::image::tree::{Attributes, Content, Node, NodeId, ROOT, Tree};

/// Names in a layer that remove something of the layers below (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// In a directory: all of it in the layers below is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// A tar archive consists of blocks of this size, and ends in one of zeroes.
const BLOCK: u64 = 512;
/// Data of a sparse member is looked at in its headers and not read; beyond this it would be in no image.
const MAX_MEMBER: u64 = 1 << 38;

/// An archive or a layer: a part of a file, compressed or not.
#[derive(Debug)]
pub struct Layer {
    file: File,
    start: u64,
    length: u64,
    /// For messages.
    path: PathBuf,
}

impl Layer {
    /// The archive in `length` bytes of a file from `start` on.
    pub fn new(file: File, start: u64, length: u64, path: &Path) -> Self {
        Self { file, start, length, path: path.to_owned() }
    }

    /// The bytes, as they are.
    ///
    /// # Errors
    ///
    /// If the host has no more descriptors.
    pub fn blob(&self) -> Result<Blob, RootfsError> {
        let file = self.file.try_clone().map_err(reading(&self.path))?;
        Ok(Blob::new(file, self.start, self.length))
    }

    fn damaged(&self, reason: &str) -> RootfsError {
        RootfsError::Damaged { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Counts what is read.
struct Counted<'a, R> {
    reader: R,
    count: &'a std::cell::Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.set(self.count.get() + u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

/// The names that a layer itself brought, by their directories: its whiteouts leave them alone, wherever
/// in the layer they stand.
type OwnNames = HashSet<(NodeId, Vec<u8>)>;

/// Members of archives, merged: later ones replace earlier ones.
#[derive(Debug)]
pub struct Archives {
    tree: Tree,
    layers: Vec<Layer>,
    /// Layer and member of each file's data.
    files: Vec<(usize, u64)>,
}

impl Archives {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { tree: Tree::new(), layers: Vec::new(), files: Vec::new() }
    }

    /// The tree so far.
    pub const fn tree(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Adds what is in an archive. `reader` gives its bytes, decompressed; in a `layer` of a container
    /// image some names are whiteouts.
    ///
    /// # Errors
    ///
    /// If it is damaged, or has members that can be in no image.
    pub fn add(
        &mut self,
        layer: Layer,
        reader: impl Read,
        whiteouts: bool,
        output: &mut Output,
    ) -> Result<(), RootfsError> {
        let count = std::cell::Cell::new(0);
        let mut archive = Archive::new(Counted { reader, count: &count });
        let mut end = 0;
        let mut own = OwnNames::new();
        let path = layer.path.clone();
        let damaged = damaged(&path);
        let entries = archive.entries().map_err(&damaged)?;
        for (number, entry) in (0..).zip(entries) {
            let mut entry = entry.map_err(&damaged)?;
            let before = count.get();
            // What lies in the archive of a sparse member is less than its size.
            let is_sparse = entry.header().entry_type().is_gnu_sparse();
            let stored = if is_sparse { entry.header().entry_size() } else { Ok(entry.size()) };
            let stored = stored.map_err(&damaged)?;
            end = entry.raw_file_position().saturating_add(stored);
            self.add_member(&layer, number, &mut entry, whiteouts, &mut own)?;
            output.progress.advance(count.get().saturating_sub(before) + entry.size());
        }
        let mut rest = archive.into_inner();
        if count.get() < end.next_multiple_of(BLOCK) + BLOCK {
            return Err(layer.damaged("it ends without an end mark"));
        }
        // Checksums and digests cover all of it.
        io::copy(&mut rest, &mut io::sink()).map_err(&damaged)?;
        self.layers.push(layer);
        Ok(())
    }

    fn add_member(
        &mut self,
        layer: &Layer,
        number: u64,
        entry: &mut Entry<'_, impl Read>,
        whiteouts: bool,
        own: &mut OwnNames,
    ) -> Result<(), RootfsError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let full_name = entry.path_bytes().into_owned();
        let refused = |reason: &str| RootfsError::Member {
            path: layer.path.clone(),
            member: String::from_utf8_lossy(&full_name).into_owned(),
            reason: reason.to_owned(),
        };
        let path = merge::components(&full_name).map_err(refused)?;
        let attributes = attributes(entry).map_err(damaged(&layer.path))?;
        let Some((&name, above)) = path.split_last() else {
            if kind.is_dir() {
                let node = &mut self.tree.nodes_mut()[ROOT];
                (node.attributes, node.extended) =
                    (attributes, extended(entry).ok_or_else(|| refused(NO_ROOM))?);
            }
            return Ok(());
        };
        let directory = merge::directory(&mut self.tree, above);
        if whiteouts && name.starts_with(WHITEOUT) {
            self.white_out(directory, name, own);
            return Ok(());
        }
        if whiteouts {
            own.insert((directory, name.to_vec()));
        }
        let existing = merge::child(&self.tree, directory, name);
        let content = match kind {
            EntryType::Directory => {
                if let Some(node) = existing.filter(|&node| {
                    matches!(self.tree.nodes()[node].content, Content::Directory(_))
                }) {
                    let extended = extended(entry).ok_or_else(|| refused(NO_ROOM))?;
                    let node = &mut self.tree.nodes_mut()[node];
                    (node.attributes, node.extended) = (attributes, extended);
                    return Ok(());
                }
                Content::Directory(BTreeMap::new())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let length = entry.size();
                if length > MAX_MEMBER {
                    return Err(refused("which is too large"));
                }
                self.files.push((self.layers.len(), number));
                Content::Stored { data: self.files.len() - 1, length }
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned());
                match target {
                    Some(target)
                        if !target.is_empty() && target.len() < 4096 && !target.contains(&0) =>
                    {
                        Content::Symlink(target)
                    }
                    _ => return Err(refused("a symbolic link that leads nowhere")),
                }
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = merge::components(&target)
                    .map_err(|_| refused("a hard link to a name outside"))?;
                let node = merge::find(&self.tree, &target, false).filter(|&node| {
                    !matches!(self.tree.nodes()[node].content, Content::Directory(_))
                });
                let node = node.ok_or_else(|| refused("a hard link to what is not in it"))?;
                merge::link(&mut self.tree, directory, name, node);
                return Ok(());
            }
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let number = |part: io::Result<Option<u32>>| part.ok().flatten();
                let (major, minor) = (number(header.device_major()), number(header.device_minor()));
                let (Some(major), Some(minor)) = (major, minor) else {
                    return Err(refused("a device without a number"));
                };
                if major > 0xfff || minor > 0xf_ffff {
                    return Err(refused("a device whose number is too large"));
                }
                let kind = if kind == EntryType::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                Content::Special(kind, device(major, minor))
            }
            EntryType::Fifo => Content::Special(FileType::Fifo, 0),
            _ => return Err(refused("of a kind that is not known")),
        };
        let mut node = Node::new(content, attributes);
        node.extended = extended(entry).ok_or_else(|| refused(NO_ROOM))?;
        merge::add(&mut self.tree, directory, name, node);
        Ok(())
    }

    /// Does what a whiteout says, to what is of the layers below.
    fn white_out(&mut self, directory: NodeId, name: &[u8], own: &OwnNames) {
        let is_own = |directory, name: &[u8]| own.contains(&(directory, name.to_vec()));
        if name == OPAQUE {
            merge::prune(&mut self.tree, directory, None, is_own);
        } else {
            merge::prune(&mut self.tree, directory, Some(&name[WHITEOUT.len()..]), is_own);
        }
    }
}

const NO_ROOM: &str = "whose extended attributes have no room in an image";

/// Values of a member's extended header (pax(1)), by key.
fn pax<'a>(entry: &'a mut Entry<'_, impl Read>) -> io::Result<Vec<(&'a [u8], &'a [u8])>> {
    let mut pairs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for pair in extensions {
            let pair = pair?;
            pairs.push((pair.key_bytes(), pair.value_bytes()));
        }
    }
    Ok(pairs)
}

fn attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Attributes> {
    let header = entry.header();
    let permissions = u16::try_from(header.mode()? & 0o7777).unwrap_or(0);
    let (mut user, mut group) = (header.uid()?, header.gid()?);
    let mut modified = (header.mtime()?, 0);
    let invalid = |what| io::Error::other(format!("a member's {what} is no number"));
    for (key, value) in pax(entry)? {
        let text = std::str::from_utf8(value);
        match key {
            b"uid" => {
                user = text.ok().and_then(|text| text.parse().ok()).ok_or_else(|| invalid("uid"))?
            }
            b"gid" => {
                group =
                    text.ok().and_then(|text| text.parse().ok()).ok_or_else(|| invalid("gid"))?
            }
            b"mtime" => modified = text.ok().and_then(time).ok_or_else(|| invalid("mtime"))?,
            _ => {}
        }
    }
    let id = |id: u64| u32::try_from(id).map_err(|_| invalid("owner"));
    Ok(Attributes {
        permissions,
        user: id(user)?,
        group: id(group)?,
        modified: Some(modified),
        origin: None,
    })
}

/// A time of an extended header: seconds, with or without a fraction, before or after 1970.
fn time(text: &str) -> Option<(u64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?.cast_unsigned(), 1_000_000_000 - nanoseconds));
    }
    Some((seconds.cast_unsigned(), nanoseconds))
}

/// The extended attributes of a member as an image has them, if it has room.
fn extended(entry: &mut Entry<'_, impl Read>) -> Option<Vec<u8>> {
    let mut attributes: Vec<(Vec<u8>, Vec<u8>)> = pax(entry)
        .ok()?
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, value)))
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    attributes.sort_unstable();
    attributes.dedup_by(|later, earlier| later.0 == earlier.0);
    encode_attributes(&attributes)
}

impl Source for Archives {
    fn take_tree(&mut self) -> Tree {
        merge::compact(std::mem::replace(&mut self.tree, Tree::new()))
    }

    fn write_data(&mut self, layout: &Layout, output: &mut Output) -> Result<(), RootfsError> {
        let places: HashMap<(usize, u64), (u64, u64)> = layout
            .stored
            .iter()
            .map(|&(data, offset, length)| (self.files[data], (offset, length)))
            .collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let failed = damaged(&layer.path);
            let mut archive = Archive::new(decompressed(layer.blob()?).map_err(&failed)?);
            for (number, entry) in (0..).zip(archive.entries().map_err(&failed)?) {
                let entry = entry.map_err(&failed)?;
                let Some(&(offset, length)) = places.get(&(index, number)) else { continue };
                if entry.size() != length || output.copy(entry, &failed, offset, length)? != length
                {
                    return Err(RootfsError::Changed(layer.path.clone()));
                }
            }
        }
        Ok(())
    }
}

/// Where the members of a plain archive lie in its file, by name; links are followed. For the archives in
/// which container images are kept.
///
/// # Errors
///
/// If it is damaged.
pub fn index(
    file: &File,
    length: u64,
    path: &Path,
) -> Result<HashMap<Vec<u8>, (u64, u64)>, RootfsError> {
    let damaged = damaged(path);
    let blob = Blob::new(file.try_clone().map_err(reading(path))?, 0, length);
    let mut archive = Archive::new(blob);
    let mut members = HashMap::new();
    let mut links = Vec::new();
    let entries = archive.entries_with_seek();
    for entry in entries.map_err(&damaged)? {
        let entry = entry.map_err(&damaged)?;
        let name = |bytes: &[u8]| bytes.strip_prefix(b"./").unwrap_or(bytes).to_vec();
        let own = name(&entry.path_bytes());
        match entry.header().entry_type() {
            EntryType::Regular => {
                let (start, size) = (entry.raw_file_position(), entry.size());
                if start.checked_add(size).is_none_or(|end| end > length) {
                    return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
                }
                members.insert(own, (start, size));
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let base = match own.iter().rposition(|&byte| byte == b'/') {
                    Some(slash) if entry.header().entry_type() == EntryType::Symlink => {
                        &own[..slash]
                    }
                    _ => &[],
                };
                links.push((own.clone(), normal(base, &target)));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(&place) = members.get(&target) {
            members.insert(name, place);
        }
    }
    Ok(members)
}

/// A path relative to a directory, without `.` and `..`.
fn normal(base: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|&byte| byte == b'/').chain(path.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join(b"/".as_slice())
}

/// Whether data that begins so is a tar archive: the checksum of the first header is right.
pub fn is_tar(start: &[u8]) -> bool {
    let Some(header) = start.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(header);
    let bytes = header.as_bytes();
    let sum = bytes.iter().enumerate().fold(0_u32, |sum, (at, &byte)| {
        sum + u32::from(if (148..156).contains(&at) { b' ' } else { byte })
    });
    bytes.iter().any(|&byte| byte != 0) && header.cksum().is_ok_and(|stored| stored == sum)
}

/// The first bytes of what is in a file, decompressed.
///
/// # Errors
///
/// Those of reading or decompressing.
pub fn beginning(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut reader = decompressed(Blob::new(file.try_clone()?, 0, length))?;
    let mut bytes = vec![0; 512];
    let count = fill(&mut reader, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Reads all of a short file of a container image.
///
/// # Errors
///
/// Those of reading.
pub fn read_all(file: &File, start: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(time("-1.25"), Some(((-2_i64).cast_unsigned(), 750_000_000)));
        assert_eq!(time("-0.25"), Some(((-1_i64).cast_unsigned(), 750_000_000)));
        for bad in ["", ".5", "x", "1.x"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
