//! Capabilities: the parts that the superuser's power is made of (capabilities(7)).

use core::ops::{BitAnd, BitOr};

/// What a thread may be allowed to do, by its number on Linux. Those that nothing here asks for have
/// no name, and can be held and dropped all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Give files to others.
    Chown = 0,
    /// Read, write, execute whatever the permission bits say.
    DacOverride = 1,
    /// Read files and search directories whatever the permission bits say.
    DacReadSearch = 2,
    /// Do what only a file's owner may.
    Fowner = 3,
    /// Keep set-user-ID and set-group-ID bits.
    Fsetid = 4,
    /// Send signals to anybody.
    Kill = 5,
    /// Change group IDs.
    Setgid = 6,
    /// Change user IDs.
    Setuid = 7,
    /// Change capability sets beyond the permitted ones.
    Setpcap = 8,
    /// Use ports below 1024.
    NetBindService = 10,
    /// Configure networks.
    NetAdmin = 12,
    /// Lock memory without limit.
    IpcLock = 14,
    /// Use System V objects whatever their permissions say.
    IpcOwner = 15,
    /// Change the root directory.
    SysChroot = 18,
    /// Look into other processes.
    SysPtrace = 19,
    /// Administrate.
    SysAdmin = 21,
    /// Restart the machine.
    SysBoot = 22,
    /// Raise priorities.
    SysNice = 23,
    /// Exceed resource limits.
    SysResource = 24,
    /// Set the clocks.
    SysTime = 25,
    /// Hang up terminals.
    SysTtyConfig = 26,
    /// Make device nodes.
    Mknod = 27,
    /// Set alarms that wake the machine.
    WakeAlarm = 35,
}

/// The highest that there is: `CAP_CHECKPOINT_RESTORE`.
pub const LAST: u8 = 40;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All.
    pub const ALL: Self = Self((1 << (LAST + 1)) - 1);
    /// Those that matter for files alone, and so come and go with the file system user ID: Linux's
    /// `CAP_FS_SET`, which are the first five, LINUX_IMMUTABLE (9), MKNOD (27), MAC_OVERRIDE (32).
    pub const OF_FILES: Self = Self(0x1f | 1 << 9 | 1 << 27 | 1 << 32);

    /// From a word with bit n for capability n; bits beyond the last do not count.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The word with bit n for capability n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set with this one, if there is a capability of that number.
    pub const fn single(number: u64) -> Option<Self> {
        if number <= LAST as u64 { Some(Self(1 << number)) } else { None }
    }

    /// Whether a capability is in the set.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> capability as u8 & 1 != 0
    }

    /// Whether everything in the set is in the other, too.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitAnd for CapabilitySet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for CapabilitySet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
