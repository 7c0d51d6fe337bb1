//! /dev/tty, /dev/console, /dev/ptmx, and the directory of terminals: /dev/pts (`pts(4)`).

use super::super::metadata::{Metadata, device_number, devices};
use super::super::stream::StreamRef;
use super::super::tmpfs::Attributes;
use super::super::tty::{self, MAJOR, Tty, job, registry};
use super::{Dynamic, Entry, Kind, Node, parse_decimal};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use linux_raw_sys::general::O_NOCTTY;

/// Inode numbers in /dev/pts, as Linux's devpts has them.
const DIRECTORY_NUMBER: u64 = 1;
const MULTIPLEXER_NUMBER: u64 = 2;
const FIRST_NUMBER: u64 = 3;

/// A device that is a terminal or makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs) enum Terminal {
    /// The controlling terminal of whoever asks.
    Controlling,
    /// The user's.
    Console,
    /// A new master.
    Multiplexer,
    /// The one with the number of the node.
    Numbered,
}

/// The tree.
pub(super) static ROOT: Entry =
    Entry { number: 14, name: "", mode: 0o755, kind: Kind::Dynamic(ENTRIES, &Terminals) };

/// What /dev/pts always holds.
static ENTRIES: &[Entry] = &[device(16, "ptmx", 5, 2, Terminal::Multiplexer)];

/// What /dev/pts holds for each terminal.
static NUMBERED: Entry = device(17, "", MAJOR, 0, Terminal::Numbered);

pub(super) const fn device(
    number: u16,
    name: &'static str,
    major: u32,
    minor: u32,
    which: Terminal,
) -> Entry {
    Entry { number, name, mode: 0o666, kind: Kind::Terminal(major, minor, which) }
}

/// The other names in /dev/pts.
pub(super) struct Terminals;

impl Terminals {
    fn node(directory: &Node, tty: &Tty) -> Node {
        Node { entry: &NUMBERED, process: tty.serial(), item: tty.index(), ..*directory }
    }
}

impl Dynamic for Terminals {
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let index = parse_decimal(name).ok_or(Errno::ENOENT)?;
        let tty = registry::find(index).ok_or(Errno::ENOENT)?;
        Ok(Self::node(directory, &tty))
    }

    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>> {
        let next = registry::next(number);
        Ok(next.map(|tty| (tty.index(), Self::node(directory, &tty))))
    }
}

/// The directory of an entry that is in no table.
pub(super) fn parent_of_dynamic(entry: &Entry) -> Option<&'static Entry> {
    if core::ptr::eq(entry, &NUMBERED) { Some(&ROOT) } else { None }
}

impl Node {
    /// The terminal whose node this is; none once that is gone.
    pub fn terminal(&self) -> Option<Arc<Tty>> {
        if !core::ptr::eq(self.entry, &NUMBERED) {
            return None;
        }
        registry::find(self.item).filter(|tty| tty.serial() == self.process)
    }

    /// Whether it is in /dev/pts.
    pub(in crate::fs) fn is_in_terminals(&self) -> bool {
        core::ptr::eq(self.entry, &NUMBERED) || ROOT.holds(self.entry)
    }

    /// What is different about the nodes in /dev/pts.
    pub(super) fn as_terminal(&self, metadata: Metadata) -> Metadata {
        let metadata = Metadata { device: devices::PTS, ..metadata };
        if self.is_directory() {
            return Metadata { number: DIRECTORY_NUMBER, ..metadata };
        }
        if !core::ptr::eq(self.entry, &NUMBERED) {
            return Metadata { number: MULTIPLEXER_NUMBER, ..metadata };
        }
        let metadata = Metadata {
            number: FIRST_NUMBER + u64::from(self.item),
            special: device_number(MAJOR, self.item),
            ..metadata
        };
        let Some(tty) = self.terminal() else { return Metadata { links: 0, ..metadata } };
        let Attributes { mode, user, group, accessed, modified, changed, born, .. } =
            tty.attributes();
        Metadata { mode, user, group, accessed, modified, changed, born, ..metadata }
    }

    /// Opens what the node stands for, if that is a terminal.
    pub(in crate::fs) fn open_terminal(&self, flags: u32) -> Option<Result<StreamRef>> {
        let Kind::Terminal(_, _, which) = self.entry.kind else { return None };
        Some(self.open_one(which, flags))
    }

    fn open_one(&self, which: Terminal, flags: u32) -> Result<StreamRef> {
        let mut free = flags & O_NOCTTY != 0;
        let tty = match which {
            Terminal::Multiplexer => return Ok(StreamRef::Shared(tty::open_master()?)),
            Terminal::Controlling => {
                job::jobs().and_then(|jobs| jobs.caller().terminal).ok_or(Errno::ENXIO)?
            }
            // Never becomes a controlling terminal by being opened, as on Linux.
            Terminal::Console => {
                free = true;
                tty::console().ok_or(Errno::ENXIO)?
            }
            // Its name may be gone, and it may still be open.
            Terminal::Numbered => self.terminal().ok_or(Errno::EIO)?,
        };
        Ok(StreamRef::Shared(tty::open_slave(tty, flags, free)?))
    }
}
