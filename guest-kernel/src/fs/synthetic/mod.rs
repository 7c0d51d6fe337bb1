//! Files that the kernel makes up: /dev, /proc and /sys.
//!
//! The trees are constant tables; a file is an entry of a table and the numbers that its path held (the
//! process, the descriptor). Content is made when it is read. Nothing exists before it is asked for.

mod device;
mod proc;
mod system;
mod terminals;

use super::inode::{Inode, Target};
use super::metadata::{Metadata, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, devices, entry_type};
use super::root::FileSystem;
use super::services::now;
use super::stream::Stream;
use super::tmpfs::Listed;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// An entry of a table.
pub struct Entry {
    /// Inode number, unique in its tree.
    number: u16,
    name: &'static str,
    /// Permission bits.
    mode: u32,
    kind: Kind,
}

/// What an entry stands for.
pub(super) enum Kind {
    /// These entries.
    Directory(&'static [Entry]),
    /// The same, and those that depend on the process or descriptor.
    Dynamic(&'static [Entry], &'static dyn Dynamic),
    /// Text that is made when it is read.
    Text(fn(&Node) -> Result<Vec<u8>>),
    /// A symbolic link.
    Link(fn(&Node) -> Result<Target>),
    /// A character device: its number, and where reads and writes go.
    Device(u32, u32, &'static (dyn Stream + Sync)),
    /// A character device that is opened as one terminal or another.
    Terminal(u32, u32, terminals::Terminal),
}

/// Entries that no table can hold.
pub(super) trait Dynamic: Sync {
    /// Finds a name.
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node>;
    /// The first name from `number` on: the number, and the file.
    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>>;
    /// What its names have before the number.
    fn prefix(&self) -> &'static str {
        ""
    }
}

/// A file.
#[derive(Clone, Copy)]
pub struct Node {
    pub(super) file_system: &'static FileSystem,
    entry: &'static Entry,
    /// The process that the path named, or 0.
    process: u32,
    /// Its thread that the path named (`/proc/PID/task/TID`), or 0.
    thread: u32,
    /// The descriptor that the path named.
    item: u32,
}

/// One of the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Devices (`/dev`).
    Devices,
    /// Processes and the machine (`/proc`).
    Processes,
    /// Hardware and the kernel (`/sys`).
    System,
    /// Terminals (`/dev/pts`).
    Terminals,
}

static TREES: [&Entry; 4] = [&device::ROOT, &terminals::ROOT, &proc::ROOT, &system::ROOT];

/// The root directory of a tree.
pub(super) fn root(file_system: &'static FileSystem, tree: Tree) -> Inode {
    let entry = match tree {
        Tree::Devices => &device::ROOT,
        Tree::Processes => &proc::ROOT,
        Tree::System => &system::ROOT,
        Tree::Terminals => &terminals::ROOT,
    };
    Inode::Synthetic(Node::new(file_system, entry))
}

/// Directories of the root file system that are there whatever the image holds, to mount the trees on.
/// Nothing is in them.
static POINTS: [&Entry; 3] = [
    &Entry { mode: 0o755, ..directory(200, "dev", &[]) },
    &directory(201, "proc", &[]),
    &directory(202, "sys", &[]),
];

/// The directory for a mount that has this name in the root directory.
pub(super) fn mount_point(file_system: &'static FileSystem, name: &[u8]) -> Option<Inode> {
    // All names have this length or one more: nearly every other name ends here.
    if name.len() != 3 && name.len() != 4 {
        return None;
    }
    let entry = POINTS.iter().find(|entry| entry.name.as_bytes() == name)?;
    Some(Inode::Synthetic(Node::new(file_system, entry)))
}

/// How many there are.
pub(super) const MOUNT_COUNT: u64 = 3;

/// Whether one of them has this name.
pub(super) fn is_mount_point(name: &[u8]) -> bool {
    POINTS.iter().any(|entry| entry.name.as_bytes() == name)
}

/// Lists them.
pub(super) fn list_mount_points(position: u64, each: &mut dyn FnMut(&Listed<'_>, u64) -> bool) {
    for (at, entry) in (0..).zip(POINTS) {
        let listed = Listed { name: entry.name.as_bytes(), number: entry.number.into(), kind: 4 };
        if at >= position && !each(&listed, at + 1) {
            break;
        }
    }
}

impl Node {
    const fn new(file_system: &'static FileSystem, entry: &'static Entry) -> Self {
        Self { file_system, entry, process: 0, thread: 0, item: 0 }
    }

    fn with(&self, entry: &'static Entry) -> Self {
        Self { entry, ..*self }
    }

    /// Whether both are the same file.
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.entry, other.entry)
            && (self.process, self.thread, self.item) == (other.process, other.thread, other.item)
    }

    /// The inode number.
    pub fn number(&self) -> u64 {
        /// Set in what is below a thread: that has the same entries as a process, and a thread's
        /// number may be a process's, too.
        const OF_THREAD: u64 = 1 << 11;
        let (id, flag) =
            if self.thread == 0 { (self.process, 0) } else { (self.thread, OF_THREAD) };
        u64::from(id) << 32 | u64::from(self.item) << 12 | flag | u64::from(self.entry.number)
    }

    /// The number that a directory shows, which is what `stat(2)` tells.
    fn listed_number(&self) -> u64 {
        if self.is_in_terminals() { self.metadata().number } else { self.number() }
    }

    /// Type and permissions.
    pub const fn mode(&self) -> u32 {
        self.entry.mode
            | match self.entry.kind {
                Kind::Directory(_) | Kind::Dynamic(..) => S_IFDIR,
                Kind::Text(_) => S_IFREG,
                Kind::Link(_) => S_IFLNK,
                Kind::Device(..) | Kind::Terminal(..) => S_IFCHR,
            }
    }

    /// What `stat(2)` tells.
    pub fn metadata(&self) -> Metadata {
        let special = match self.entry.kind {
            Kind::Device(major, minor, _) | Kind::Terminal(major, minor, _) => {
                super::metadata::device_number(major, minor)
            }
            _ => 0,
        };
        // Made up now, with everything in it.
        let time = now();
        let tree = if self.is_point() {
            devices::ROOT
        } else if device::ROOT.holds(self.entry) {
            devices::DEV
        } else if system::holds(self.entry) {
            devices::SYS
        } else {
            devices::PROC
        };
        let metadata = Metadata {
            device: tree,
            number: self.number(),
            mode: self.mode(),
            links: if self.is_directory() { 2 } else { 1 },
            special,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            ..Metadata::default()
        };
        if self.is_in_terminals() { self.as_terminal(metadata) } else { metadata }
    }

    const fn is_directory(&self) -> bool {
        matches!(self.entry.kind, Kind::Directory(_) | Kind::Dynamic(..))
    }

    /// The device, if it is one.
    pub fn device(&self) -> Option<&'static dyn Stream> {
        match self.entry.kind {
            Kind::Device(_, _, stream) => Some(stream),
            _ => None,
        }
    }

    /// Finds a name.
    pub fn lookup(&self, name: &[u8]) -> Result<Inode> {
        let (children, dynamic) = self.children()?;
        if let Some(entry) = children.iter().find(|entry| entry.name.as_bytes() == name) {
            return Ok(Inode::Synthetic(self.with(entry)));
        }
        dynamic.ok_or(Errno::ENOENT)?.find(self, name).map(Inode::Synthetic)
    }

    fn children(&self) -> Result<(&'static [Entry], Option<&'static dyn Dynamic>)> {
        match self.entry.kind {
            Kind::Directory(children) => Ok((children, None)),
            Kind::Dynamic(children, dynamic) => Ok((children, Some(dynamic))),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Lists a directory.
    pub fn list(
        &self,
        position: u64,
        each: &mut dyn FnMut(&Listed<'_>, u64) -> bool,
    ) -> Result<()> {
        let (children, dynamic) = self.children()?;
        for (at, entry) in (0..).zip(children) {
            let node = self.with(entry);
            let kind = entry_type(node.mode());
            let number = node.listed_number();
            let listed = Listed { name: entry.name.as_bytes(), number, kind };
            if at >= position && !each(&listed, at + 1) {
                return Ok(());
            }
        }
        let Some(dynamic) = dynamic else { return Ok(()) };
        let first = children.len() as u64;
        let mut from = u32::try_from(position.saturating_sub(first)).unwrap_or(u32::MAX);
        while let Some((number, node)) = dynamic.next(self, from)? {
            let mut digits = [0; 10];
            let digits = decimal(number, &mut digits);
            let prefix = dynamic.prefix().as_bytes();
            let mut name = [0; 16];
            let len = prefix.len() + digits.len();
            name[..prefix.len()].copy_from_slice(prefix);
            name[prefix.len()..len].copy_from_slice(digits);
            let kind = entry_type(node.mode());
            let listed = Listed { name: &name[..len], number: node.listed_number(), kind };
            let Some(next) = number.checked_add(1) else { break };
            if !each(&listed, first + u64::from(next)) {
                break;
            }
            from = next;
        }
        Ok(())
    }

    /// The directory that it is in; a root is in itself.
    pub fn parent(&self) -> Result<Inode> {
        if TREES.iter().any(|root| core::ptr::eq(*root, self.entry)) {
            return Ok(Inode::Synthetic(*self));
        }
        if self.is_point() {
            return Ok(self.file_system.root());
        }
        let parent = TREES.iter().find_map(|root| root.parent_of(self.entry));
        if let Some(parent) = parent {
            return Ok(Inode::Synthetic(self.with(parent)));
        }
        if let Some(parent) = terminals::parent_of_dynamic(self.entry) {
            return Ok(Inode::Synthetic(Self::new(self.file_system, parent)));
        }
        if let Some((parent, item)) = system::parent_of_dynamic(self.entry, self.item) {
            return Ok(Inode::Synthetic(Self { item, ..Self::new(self.file_system, parent) }));
        }
        Ok(Inode::Synthetic(proc::parent_of(self)))
    }

    /// Whether it is a directory of the root file system, for a mount.
    fn is_point(&self) -> bool {
        POINTS.iter().any(|entry| core::ptr::eq(*entry, self.entry))
    }

    /// The name in the root directory, of such a directory.
    pub fn mount_name(&self) -> Option<&'static str> {
        self.is_point().then_some(self.entry.name)
    }

    /// Where a symbolic link leads.
    pub fn target(&self) -> Result<Target> {
        match self.entry.kind {
            Kind::Link(target) => target(self),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether it can be waited for (`epoll_ctl(2)`): on Linux, text can but for that of processes, of
    /// which the lists of mounts can.
    pub fn can_poll(&self) -> bool {
        matches!(self.entry.kind, Kind::Text(_))
            && (self.process == 0 || self.entry.name.starts_with("mount"))
    }

    /// Makes the content.
    pub fn text(&self) -> Result<Vec<u8>> {
        match self.entry.kind {
            Kind::Text(make) => make(self),
            Kind::Directory(_) | Kind::Dynamic(..) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether it is a device.
    pub const fn is_device(&self) -> bool {
        matches!(self.entry.kind, Kind::Device(..) | Kind::Terminal(..))
    }

    /// Whether names could be made here if they were not constant; else they simply don't exist.
    pub fn is_in_dev(&self) -> bool {
        device::ROOT.holds(self.entry)
    }
}

impl Entry {
    const fn entries(&self) -> &'static [Self] {
        match self.kind {
            Kind::Directory(children) | Kind::Dynamic(children, _) => children,
            _ => &[],
        }
    }

    /// Whether `entry` is this one or below it. The tables are a few levels deep.
    fn holds(&self, entry: &Self) -> bool {
        core::ptr::eq(self, entry) || self.entries().iter().any(|child| child.holds(entry))
    }

    fn parent_of(&'static self, entry: &Self) -> Option<&'static Self> {
        let children = self.entries();
        if children.iter().any(|child| core::ptr::eq(child, entry)) {
            return Some(self);
        }
        children.iter().find_map(|child| child.parent_of(entry))
    }
}

/// A number in decimal.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The number that a name is, as /proc writes it: no sign, no leading zero.
fn parse_decimal(name: &[u8]) -> Option<u32> {
    if name.len() > 1 && name[0] == b'0' {
        return None;
    }
    if !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

const fn directory(number: u16, name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { number, name, mode: 0o555, kind: Kind::Directory(entries) }
}

const fn text(number: u16, name: &'static str, make: fn(&Node) -> Result<Vec<u8>>) -> Entry {
    Entry { number, name, mode: 0o444, kind: Kind::Text(make) }
}

const fn link(number: u16, name: &'static str, target: fn(&Node) -> Result<Target>) -> Entry {
    Entry { number, name, mode: 0o777, kind: Kind::Link(target) }
}
