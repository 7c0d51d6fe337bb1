//! Gives the files of a tree their places in an EROFS image, and writes it.
//!
//! The image begins with its superblock and the inodes, with short directories, links and files
//! behind their inodes: a path walk touches one or two pages. Then come the blocks of long directories and
//! of files that are held in memory, then the files of the host, each from a block of its own on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use airlock_abi::layout::{DIRECT_MAP_SIZE, ROOT_IMAGE_BASE};

use super::erofs::{self, BLOCK_SIZE, Data, Entry, INODE_SLOT, Inode, Superblock, to_usize};
use super::error::ImageError;
use super::tree::{Content, DataId, Node, NodeId, ROOT, Tree};
use crate::config::{Piece, RootImage};

/// How much of the guest's address space root images have.
const MAX_IMAGE: u64 = DIRECT_MAP_SIZE - ROOT_IMAGE_BASE;

/// The most bytes of a regular file that lie behind its inode.
const MAX_INLINE_FILE: usize = 512;
/// The same of one whose data is written later.
const MAX_INLINE_STORED: u64 = 512;

/// Where a node has its inode.
struct Place {
    inode: Inode,
    /// Byte offset in the image.
    offset: u64,
}

/// Lays out a tree as an image of pieces.
///
/// # Errors
///
/// If the files are too large together.
pub fn assemble(tree: Tree) -> Result<RootImage, ImageError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let layout = lay_out(&tree, now)?;
    let mut pieces = vec![Piece::Bytes(layout.head)];
    for node in tree.into_nodes() {
        // The same order as in `place_data`, so that each begins where its inode says.
        if let Content::Mapped { file, length } = node.content {
            pieces.push(Piece::File { file, length });
        }
    }
    Ok(RootImage { pieces })
}

/// An image but for the data of [`Content::Mapped`] and [`Content::Stored`].
#[derive(Debug)]
pub struct Layout {
    /// The beginning of the image.
    pub head: Vec<u8>,
    /// How many blocks the image has.
    pub blocks: u32,
    /// Where in the image the data of [`Content::Stored`] goes: its number, byte offset and length.
    pub stored: Vec<(DataId, u64, u64)>,
}

/// Gives all nodes of a tree their places. `time` is the modification time of nodes without one.
///
/// # Errors
///
/// If the files are too large together.
pub fn lay_out(tree: &Tree, time: Duration) -> Result<Layout, ImageError> {
    let nodes = tree.nodes();
    let parents = parents(nodes);
    let (mut places, inodes_end) = place_inodes(nodes, &parents);
    let end = place_data(nodes, &mut places, inodes_end)?;

    let mut bytes = vec![0; to_usize(end.in_memory * BLOCK_SIZE)];
    let blocks = block_number(end.all)?;
    let superblock = Superblock {
        // The root directory is the first node, right behind the superblock.
        root: u16::try_from(places[ROOT].offset / INODE_SLOT).unwrap_or(u16::MAX),
        inodes: u64::try_from(places.len()).unwrap_or(u64::MAX),
        blocks,
        seconds: time.as_secs(),
        nanoseconds: time.subsec_nanos(),
    };
    put(&mut bytes, erofs::SUPERBLOCK_OFFSET, &superblock.encode());

    let mut stored = Vec::new();
    for (id, place) in places.iter().enumerate() {
        place.inode.store(&mut bytes[to_usize(place.offset)..]);
        put(&mut bytes, place.offset + place.inode.header_size(), &nodes[id].extended);
        let data = match place.inode.data {
            Data::Plain(None) | Data::Device(_) => continue,
            Data::Plain(Some(block)) => u64::from(block) * BLOCK_SIZE,
            Data::Inline => place.offset + place.inode.stored_size(),
        };
        match &nodes[id].content {
            Content::Directory(_) => {
                store_directory(&mut bytes, data, id, &parents, &places, nodes)
            }
            Content::Bytes(content) => put(&mut bytes, data, content),
            Content::Symlink(target) => put(&mut bytes, data, target),
            Content::Stored { data: number, length } => stored.push((*number, data, *length)),
            Content::Mapped { .. } | Content::Special(..) => {}
        }
    }
    Ok(Layout { head: bytes, blocks, stored })
}

/// The directory that each node is in; the root is in itself.
fn parents(nodes: &[Node]) -> Vec<NodeId> {
    let mut parents = vec![ROOT; nodes.len()];
    for (id, node) in nodes.iter().enumerate() {
        if let Content::Directory(entries) = &node.content {
            for &child in entries.values() {
                parents[child] = id;
            }
        }
    }
    parents
}

/// Gives every node an inode; returns them and the byte where the next would be.
fn place_inodes(nodes: &[Node], parents: &[NodeId]) -> (Vec<Place>, u64) {
    let mut links = vec![0_u32; nodes.len()];
    for (id, node) in nodes.iter().enumerate() {
        if let Content::Directory(entries) = &node.content {
            for &child in entries.values() {
                links[child] += 1;
            }
            // Its own "." and its ".." in the directory above, which for the root is itself.
            links[id] += 1;
            links[parents[id]] += 1;
        }
    }

    let mut next = erofs::SUPERBLOCK_OFFSET + erofs::SUPERBLOCK_SIZE;
    let mut places = Vec::with_capacity(nodes.len());
    for (id, node) in nodes.iter().enumerate() {
        let size = match &node.content {
            Content::Directory(entries) => erofs::directory_blocks(&names(entries)).0,
            Content::Bytes(bytes) => length(bytes),
            Content::Mapped { length, .. } | Content::Stored { length, .. } => *length,
            Content::Symlink(target) => length(target),
            Content::Special(..) => 0,
        };
        let data = match node.content {
            Content::Special(_, device) => Data::Device(device),
            _ => Data::Plain(None),
        };
        let mut inode = Inode {
            file_type: node.content.file_type(),
            permissions: node.attributes.permissions,
            size,
            data,
            number: u32::try_from(id + 1).unwrap_or(u32::MAX),
            links: links[id],
            user: node.attributes.user,
            group: node.attributes.group,
            attributes: length(&node.extended),
            modified: node.attributes.modified,
        };
        let header = inode.header_size();
        let mut stored = inode.stored_size();
        // A regular file begins a block, so that it can be mapped in place, unless a block would be a
        // waste: a page fault costs more than to copy what little there is.
        let can_be_inline = match &node.content {
            Content::Directory(_) | Content::Symlink(_) => true,
            Content::Bytes(bytes) => !bytes.is_empty() && bytes.len() <= MAX_INLINE_FILE,
            Content::Stored { length, .. } => (1..=MAX_INLINE_STORED).contains(length),
            Content::Mapped { .. } | Content::Special(..) => false,
        };
        if can_be_inline && stored + size <= BLOCK_SIZE {
            inode.data = Data::Inline;
            stored += size;
        }
        // Neither an inode nor what is inline with it crosses a block; extended attributes may.
        let whole = if inode.data == Data::Inline { stored } else { header };
        if next % BLOCK_SIZE + whole > BLOCK_SIZE {
            next = next.next_multiple_of(BLOCK_SIZE);
        }
        places.push(Place { inode, offset: next });
        next = (next + stored).next_multiple_of(INODE_SLOT);
    }
    (places, next)
}

/// Block numbers behind the parts of an image.
struct End {
    in_memory: u64,
    all: u64,
}

/// Gives what is not inline its blocks: first what is in memory, then the host's files.
fn place_data(nodes: &[Node], places: &mut [Place], inodes_end: u64) -> Result<End, ImageError> {
    let mut next = inodes_end.div_ceil(BLOCK_SIZE);
    let mut in_memory = next;
    for mapped in [false, true] {
        for (node, place) in nodes.iter().zip(places.iter_mut()) {
            let is_later = matches!(node.content, Content::Mapped { .. } | Content::Stored { .. });
            if is_later == mapped && place.inode.data == Data::Plain(None) && place.inode.size > 0 {
                place.inode.data = Data::Plain(Some(block_number(next)?));
                next = next.saturating_add(place.inode.size.div_ceil(BLOCK_SIZE));
            }
        }
        if !mapped {
            in_memory = next;
        }
    }
    block_number(next)?;
    Ok(End { in_memory, all: next })
}

fn block_number(block: u64) -> Result<u32, ImageError> {
    match u32::try_from(block) {
        Ok(number) if block <= MAX_IMAGE / BLOCK_SIZE => Ok(number),
        _ => Err(ImageError::TooLarge { limit: MAX_IMAGE >> 30 }),
    }
}

fn store_directory(
    bytes: &mut [u8],
    mut at: u64,
    id: NodeId,
    parents: &[NodeId],
    places: &[Place],
    nodes: &[Node],
) {
    let Content::Directory(children) = &nodes[id].content else {
        return;
    };
    let names = names(children);
    let blocks = erofs::directory_blocks(&names).1;
    let mut entries = names.into_iter().map(|name| {
        let node = match name {
            b"." => id,
            b".." => parents[id],
            _ => children[name],
        };
        Entry {
            name,
            inode: places[node].offset / INODE_SLOT,
            file_type: nodes[node].content.file_type(),
        }
    });
    for count in blocks {
        let block: Vec<Entry<'_>> = entries.by_ref().take(count).collect();
        erofs::store_entries(&mut bytes[to_usize(at)..], &block);
        at += BLOCK_SIZE;
    }
}

/// The names in a directory, `.` and `..` among them, in the order of their bytes.
fn names(children: &BTreeMap<Vec<u8>, NodeId>) -> Vec<&[u8]> {
    let mut names = vec![b".".as_slice(), b"..".as_slice()];
    names.extend(children.keys().map(Vec::as_slice));
    names.sort_unstable();
    names
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    let at = to_usize(at);
    bytes[at..at + value.len()].copy_from_slice(value);
}
