//! A directory of the host as the source of a root file system.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{RootfsError, reading};
use super::merge;
use super::output::Output;
use super::pack::Source;
use crate::image::erofs::{FileType, device, encode_attributes};
use crate::image::layout::Layout;
use crate::image::tree::{Attributes, Content, Node, NodeId, ROOT, Tree};

/// A file whose data goes into the image, as it was when the directory was listed.
#[derive(Debug)]
struct Listed {
    path: PathBuf,
    metadata: Metadata,
}

/// A directory, listed.
#[derive(Debug)]
pub struct Directory {
    tree: Tree,
    files: Vec<Listed>,
    key: [u8; 32],
}

impl Directory {
    /// Lists a directory.
    ///
    /// # Errors
    ///
    /// If something in it cannot be read.
    pub fn list(path: &Path) -> Result<Self, RootfsError> {
        let metadata = fs::metadata(path).map_err(reading(path))?;
        let mut tree = Tree::new();
        tree.nodes_mut()[ROOT] = node(path, &metadata, Content::Directory(BTreeMap::new()))?;
        let mut listing =
            Listing { tree, files: Vec::new(), known: HashMap::new(), hash: Sha256::new() };
        listing.note(b"", &metadata, b"");
        listing.list(path, ROOT)?;
        let Listing { tree, files, hash, .. } = listing;
        Ok(Self { tree, files, key: hash.finalize().into() })
    }

    /// What tells this content from any other: names, types, modes, owners, sizes, times, inode numbers and
    /// link targets. Files themselves are not read.
    pub const fn key(&self) -> [u8; 32] {
        self.key
    }
}

struct Listing {
    tree: Tree,
    files: Vec<Listed>,
    /// Files with several names, by device and inode number.
    known: HashMap<(u64, u64), NodeId>,
    hash: Sha256,
}

impl Listing {
    fn list(&mut self, path: &Path, directory: NodeId) -> Result<(), RootfsError> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut names: Vec<_> =
            entries.map_err(reading(path))?.iter().map(fs::DirEntry::file_name).collect();
        // The order in which the host lists them is anyone's.
        names.sort_unstable();
        self.hash.update(names.len().to_le_bytes());
        for name in names {
            self.add(&path.join(&name), directory, &name)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, directory: NodeId, name: &OsStr) -> Result<(), RootfsError> {
        let metadata = fs::symlink_metadata(path).map_err(reading(path))?;
        let name = name.as_bytes();
        let identity = (metadata.dev(), metadata.ino());
        let file_type = metadata.file_type();
        if let Some(&node) = self.known.get(&identity) {
            self.note(name, &metadata, b"");
            merge::link(&mut self.tree, directory, name, node);
            return Ok(());
        }
        let mut target = Vec::new();
        let content = if file_type.is_dir() {
            Content::Directory(BTreeMap::new())
        } else if file_type.is_file() {
            self.files.push(Listed { path: path.to_owned(), metadata: metadata.clone() });
            Content::Stored { data: self.files.len() - 1, length: metadata.len() }
        } else if file_type.is_symlink() {
            target = fs::read_link(path).map_err(reading(path))?.into_os_string().into_vec();
            Content::Symlink(target.clone())
        } else {
            let kind = if file_type.is_char_device() {
                FileType::CharacterDevice
            } else if file_type.is_block_device() {
                FileType::BlockDevice
            } else if file_type.is_fifo() {
                FileType::Fifo
            } else {
                FileType::Socket
            };
            let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
            let number = metadata.rdev();
            let number = device(libc::major(number), libc::minor(number));
            Content::Special(kind, if is_device { number } else { 0 })
        };
        self.note(name, &metadata, &target);
        let node = node(path, &metadata, content)?;
        let node = merge::add(&mut self.tree, directory, name, node);
        if file_type.is_dir() {
            self.list(path, node)?;
        } else if metadata.nlink() > 1 {
            self.known.insert(identity, node);
        }
        Ok(())
    }

    /// Makes what is known of a file part of the key.
    fn note(&mut self, name: &[u8], metadata: &Metadata, target: &[u8]) {
        for text in [name, target] {
            self.hash.update(text.len().to_le_bytes());
            self.hash.update(text);
        }
        let signed =
            [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        for number in signed {
            self.hash.update(number.to_le_bytes());
        }
        let numbers = [metadata.dev(), metadata.ino(), metadata.size(), metadata.rdev()];
        for number in numbers {
            self.hash.update(number.to_le_bytes());
        }
        for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
            self.hash.update(number.to_le_bytes());
        }
    }
}

/// The node of a file, with its attributes.
fn node(path: &Path, metadata: &Metadata, content: Content) -> Result<Node, RootfsError> {
    let attributes = Attributes {
        permissions: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        user: metadata.uid(),
        group: metadata.gid(),
        // Times before 1970 are stored as Linux reads them: as a signed number.
        modified: Some((
            metadata.mtime().cast_unsigned(),
            u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        )),
        origin: None,
    };
    let mut node = Node::new(content, attributes);
    let attributes = extended_attributes(path).map_err(reading(path))?;
    node.extended = encode_attributes(&attributes).ok_or_else(|| RootfsError::Member {
        path: path.to_owned(),
        member: String::new(),
        reason: "whose extended attributes have no room in an image".to_owned(),
    })?;
    Ok(node)
}

/// The extended attributes of a file that EROFS has a place for, by name.
fn extended_attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string, and the buffer has the length that is given.
    let list =
        grown(|buffer, length| unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), length) })?;
    let mut attributes = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| is_kept(name)) {
        let c_name = CString::new(name)?;
        // SAFETY: as above.
        let value = grown(|buffer, length| unsafe {
            libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), buffer.cast(), length)
        })?;
        attributes.push((name.to_vec(), value));
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// Whether an attribute belongs to the file and not to the file system that it is on (such as overlayfs's,
/// or SELinux's).
pub fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.")
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
}

/// Calls what fills a buffer and says how much it would need, until it fits.
fn grown(mut call: impl FnMut(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let needed = |result: isize| usize::try_from(result).map_err(|_| io::Error::last_os_error());
    loop {
        let length = match needed(call(std::ptr::null_mut(), 0)) {
            Ok(0) => return Ok(Vec::new()),
            Ok(length) => length,
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENODATA) => return Ok(Vec::new()),
                _ => return Err(error),
            },
        };
        let mut buffer = vec![0; length];
        match needed(call(buffer.as_mut_ptr(), length)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            Err(error) => return Err(error),
        }
    }
}

impl Source for Directory {
    fn take_tree(&mut self) -> Tree {
        std::mem::replace(&mut self.tree, Tree::new())
    }

    fn write_data(&mut self, layout: &Layout, output: &mut Output) -> Result<(), RootfsError> {
        for &(data, offset, length) in &layout.stored {
            let Listed { path, metadata } = &self.files[data];
            let file = open(path).map_err(reading(path))?;
            let same = |now: &Metadata| {
                let of = |data: &Metadata| {
                    (data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec())
                };
                of(now) == of(metadata)
            };
            let changed = || RootfsError::Changed(path.clone());
            if !same(&file.metadata().map_err(reading(path))?) {
                return Err(changed());
            }
            let copied = output.copy(&file, reading(path), offset, length)?;
            if copied != length || !same(&file.metadata().map_err(reading(path))?) {
                return Err(changed());
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
