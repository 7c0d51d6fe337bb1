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
    /// A directory of ordinary files in memory.
    Memory,
}

/// Entries that no table can hold.
pub(super) trait Dynamic: Sync {
    /// Finds a name.
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node>;
    /// The first name from `number` on: the number, and the file.
    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>>;
}

/// A file.
#[derive(Clone, Copy)]
pub struct Node {
    pub(super) file_system: &'static FileSystem,
    entry: &'static Entry,
    /// The process that the path named, or 0.
    process: u32,
    /// The descriptor that the path named.
    item: u32,
}

/// Where the trees are: entries of the root directory that lie over whatever it holds.
static MOUNTS: [&Entry; 3] = [&device::ROOT, &proc::ROOT, &system::ROOT];

/// The tree that lies over this name of the root directory.
pub(super) fn mount_point(file_system: &'static FileSystem, name: &[u8]) -> Option<Inode> {
    // All names have this length or one more: nearly every other name ends here.
    if name.len() != 3 && name.len() != 4 {
        return None;
    }
    let entry = MOUNTS.iter().find(|entry| entry.name.as_bytes() == name)?;
    Some(Inode::Synthetic(Node { file_system, entry, process: 0, item: 0 }))
}

/// How many there are.
pub(super) const MOUNT_COUNT: u64 = 3;

/// Whether one of the trees has this name.
pub(super) fn is_mount_point(name: &[u8]) -> bool {
    MOUNTS.iter().any(|entry| entry.name.as_bytes() == name)
}

/// Lists the trees.
pub(super) fn list_mount_points(position: u64, each: &mut dyn FnMut(&Listed<'_>, u64) -> bool) {
    for (at, entry) in (0..).zip(MOUNTS) {
        let listed = Listed { name: entry.name.as_bytes(), number: entry.number.into(), kind: 4 };
        if at >= position && !each(&listed, at + 1) {
            break;
        }
    }
}

impl Node {
    fn with(&self, entry: &'static Entry) -> Self {
        Self { entry, ..*self }
    }

    /// Whether both are the same file.
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.entry, other.entry)
            && (self.process, self.item) == (other.process, other.item)
    }

    /// The inode number.
    pub fn number(&self) -> u64 {
        u64::from(self.process) << 32 | u64::from(self.item) << 12 | u64::from(self.entry.number)
    }

    /// The number that a directory shows, which is what `stat(2)` tells.
    fn listed_number(&self) -> u64 {
        if self.is_in_terminals() { self.metadata().number } else { self.number() }
    }

    /// Type and permissions.
    pub const fn mode(&self) -> u32 {
        self.entry.mode
            | match self.entry.kind {
                Kind::Directory(_) | Kind::Dynamic(..) | Kind::Memory => S_IFDIR,
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
        let tree = if device::ROOT.holds(self.entry) {
            devices::DEV
        } else if system::ROOT.holds(self.entry) {
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
            return match entry.kind {
                Kind::Memory => self.file_system.shared_memory(Inode::Synthetic(*self)),
                _ => Ok(Inode::Synthetic(self.with(entry))),
            };
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
            let name = decimal(number, &mut digits);
            let kind = entry_type(node.mode());
            let listed = Listed { name, number: node.listed_number(), kind };
            let Some(next) = number.checked_add(1) else { break };
            if !each(&listed, first + u64::from(next)) {
                break;
            }
            from = next;
        }
        Ok(())
    }

    /// The directory that it is in.
    pub fn parent(&self) -> Result<Inode> {
        if self.entry.is_mount_point() {
            return Ok(self.file_system.root());
        }
        let parent = MOUNTS.iter().find_map(|root| root.parent_of(self.entry));
        if let Some(parent) = parent {
            return Ok(Inode::Synthetic(self.with(parent)));
        }
        if let Some(parent) = terminals::parent_of_dynamic(self.entry) {
            return Ok(Inode::Synthetic(Self { entry: parent, process: 0, item: 0, ..*self }));
        }
        let (entry, process) = proc::parent_of(self.entry, self.process);
        Ok(Inode::Synthetic(Self { entry, process, item: 0, ..*self }))
    }

    /// The name in that directory, where this is the root of a tree.
    pub fn mount_name(&self) -> Option<&'static str> {
        self.entry.is_mount_point().then_some(self.entry.name)
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

    /// The root of the tree that it is somewhere in.
    pub fn root(&self) -> Inode {
        self.file_system.root()
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
    fn is_mount_point(&self) -> bool {
        MOUNTS.iter().any(|entry| core::ptr::eq(*entry, self))
    }

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
