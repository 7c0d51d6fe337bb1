//! The files of a root image, before they have places in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;

use super::erofs::FileType;
use super::error::ImageError;
use super::path::GuestPath;

/// Index of a node in its tree.
pub type NodeId = usize;
/// The root directory.
pub const ROOT: NodeId = 0;

/// A file system tree, in memory.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// A file of any kind.
#[derive(Debug)]
pub struct Node {
    /// What it is and what it holds.
    pub content: Content,
    /// Its permissions and times.
    pub attributes: Attributes,
    /// Its extended attributes as the image stores them: see [`super::erofs::encode_attributes`].
    pub extended: Vec<u8>,
}

impl Node {
    /// A node without extended attributes.
    pub const fn new(content: Content, attributes: Attributes) -> Self {
        Self { content, attributes, extended: Vec::new() }
    }
}

/// Number of a file's data in the source of a packed image.
pub type DataId = usize;

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    /// A directory: nodes by name, sorted as EROFS wants them.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file.
    Bytes(Cow<'static, [u8]>),
    /// A regular file whose data stays in a file of the host.
    Mapped {
        /// The file of the host.
        file: File,
        /// Its length in bytes.
        length: u64,
    },
    /// A regular file whose data is written into the image later, from the source of the tree.
    Stored {
        /// Which of the source's files it is.
        data: DataId,
        /// Its length in bytes.
        length: u64,
    },
    /// A symbolic link and where it leads.
    Symlink(Vec<u8>),
    /// A device, FIFO or socket, and the device's number.
    Special(FileType, u32),
}

impl Content {
    /// The file type.
    pub const fn file_type(&self) -> FileType {
        match self {
            Self::Directory(_) => FileType::Directory,
            Self::Bytes(_) | Self::Mapped { .. } | Self::Stored { .. } => FileType::Regular,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special(file_type, _) => *file_type,
        }
    }
}

/// What else is kept of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits: 12 bits.
    pub permissions: u16,
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
    /// Modification time in seconds and nanoseconds, of files that come from the host.
    pub modified: Option<(u64, u32)>,
    /// Device and inode of the host's file that this is a copy of.
    pub origin: Option<(u64, u64)>,
}

impl Attributes {
    /// Attributes of what Airlock makes up.
    pub const fn made_up(permissions: u16) -> Self {
        Self { permissions, user: 0, group: 0, modified: None, origin: None }
    }
}

impl Tree {
    /// An empty tree: a root directory.
    pub fn new() -> Self {
        let content = Content::Directory(BTreeMap::new());
        Self { nodes: vec![Node::new(content, Attributes::made_up(0o755))] }
    }

    /// A tree of these nodes, of which the first is the root directory.
    pub const fn of(nodes: Vec<Node>) -> Self {
        Self { nodes }
    }

    /// All nodes, to be changed.
    pub const fn nodes_mut(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    /// All nodes, by [`NodeId`].
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes themselves.
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Whether something has this path.
    pub fn contains(&self, path: &GuestPath) -> bool {
        let mut directory = ROOT;
        path.components().all(|name| match &self.nodes[directory].content {
            Content::Directory(entries) => entries.get(name).is_some_and(|&node| {
                directory = node;
                true
            }),
            _ => false,
        })
    }

    /// Makes a directory, and those above it, where there are none yet. One that exists stays as it is.
    ///
    /// # Errors
    ///
    /// If something else than a directory is in the way.
    pub fn add_directory(
        &mut self,
        path: &GuestPath,
        attributes: Attributes,
    ) -> Result<(), ImageError> {
        let mut components = path.components().peekable();
        let mut node = ROOT;
        while let Some(name) = components.next() {
            let attributes =
                if components.peek().is_none() { attributes } else { Attributes::made_up(0o755) };
            node = self
                .child(node, name, path, || {
                    Node::new(Content::Directory(BTreeMap::new()), attributes)
                })?
                .0;
        }
        match self.nodes[node].content {
            Content::Directory(_) => Ok(()),
            _ => Err(ImageError::NotADirectory(path.clone())),
        }
    }

    /// Adds a file or a symbolic link, and the directories above it.
    ///
    /// # Errors
    ///
    /// If the path is taken, by anything but the very same file, or leads through a file.
    pub fn add_file(
        &mut self,
        path: &GuestPath,
        content: Content,
        attributes: Attributes,
    ) -> Result<(), ImageError> {
        let mut components: Vec<&[u8]> = path.components().collect();
        let Some(name) = components.pop() else {
            return Err(ImageError::NotADirectory(path.clone()));
        };
        let mut directory = ROOT;
        for component in components {
            directory = self
                .child(directory, component, path, || {
                    Node::new(Content::Directory(BTreeMap::new()), Attributes::made_up(0o755))
                })?
                .0;
        }
        let (node, added) = self.child(directory, name, path, || Node::new(content, attributes))?;
        let there = &self.nodes[node];
        if added
            || (there.attributes.origin.is_some() && there.attributes.origin == attributes.origin)
        {
            Ok(())
        } else if matches!(there.content, Content::Directory(_)) {
            Err(ImageError::NotADirectory(path.clone()))
        } else {
            Err(ImageError::Duplicate(path.clone()))
        }
    }

    /// The node of this name in a directory, made if there is none, and whether it was made. `path`
    /// is what is being added.
    fn child(
        &mut self,
        directory: NodeId,
        name: &[u8],
        path: &GuestPath,
        make: impl FnOnce() -> Node,
    ) -> Result<(NodeId, bool), ImageError> {
        let next = self.nodes.len();
        let Content::Directory(entries) = &mut self.nodes[directory].content else {
            return Err(ImageError::NotADirectory(path.clone()));
        };
        if let Some(&node) = entries.get(name) {
            return Ok((node, false));
        }
        entries.insert(name.to_vec(), next);
        self.nodes.push(make());
        Ok((next, true))
    }
}
