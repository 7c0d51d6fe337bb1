//! The options of a tmpfs (`tmpfs(5)`).

use super::super::metadata::PERMISSIONS;
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, frame};
use alloc::string::String;
use core::fmt::Write;

/// Permissions of the root directory, unless `mode=` says otherwise.
const MODE: u32 = 0o1777;

/// What a tmpfs was mounted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Pages that content may take; `None` is half of RAM, and 0 no limit.
    pages: Option<u64>,
    /// Files that there may be; `None` is one for two pages of RAM, and 0 no limit.
    nodes: Option<u64>,
    /// Permissions of the root directory.
    pub mode: u32,
    /// Its owner.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

impl Tmpfs {
    /// No options, for a file system that this user mounts.
    pub const fn new(user: u32, group: u32) -> Self {
        Self { pages: None, nodes: None, mode: MODE, user, group }
    }

    /// Bytes that content may take.
    pub fn size(&self) -> u64 {
        match self.pages {
            None => frame::total() / 2 * PAGE,
            Some(0) => u64::MAX,
            Some(pages) => pages.saturating_mul(PAGE),
        }
    }

    /// Files that there may be.
    pub fn nodes(&self) -> u64 {
        match self.nodes {
            None => frame::total() / 2,
            Some(0) => u64::MAX,
            Some(nodes) => nodes,
        }
    }

    /// Takes what a text names. When an existing file system is changed, that is not the root directory.
    ///
    /// # Errors
    /// EINVAL.
    pub fn parse(&mut self, text: &[u8], is_new: bool) -> Result<()> {
        for option in text.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
            let at = option.iter().position(|&byte| byte == b'=');
            let (name, value) = match at {
                Some(at) => (&option[..at], Some(&option[at + 1..])),
                None => (option, None),
            };
            let value = value.and_then(|value| core::str::from_utf8(value).ok());
            let number = |radix| -> Result<u32> {
                let value = value.ok_or(Errno::EINVAL)?;
                u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL)
            };
            match name {
                b"size" => self.pages = Some(pages(value.ok_or(Errno::EINVAL)?)?),
                b"nr_blocks" => self.pages = Some(memory_size(value.ok_or(Errno::EINVAL)?)?),
                b"nr_inodes" => self.nodes = Some(memory_size(value.ok_or(Errno::EINVAL)?)?),
                // Linux takes these when it changes one, too, and does nothing with them.
                b"mode" => {
                    let mode = number(8)? & PERMISSIONS;
                    self.mode = if is_new { mode } else { self.mode };
                }
                b"uid" => {
                    let user = number(10)?;
                    self.user = if is_new { user } else { self.user };
                }
                b"gid" => {
                    let group = number(10)?;
                    self.group = if is_new { group } else { self.group };
                }
                b"inode64" if value.is_none() => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(())
    }

    /// Appends them as Linux shows them: those that are not as usual.
    pub fn show(&self, text: &mut String) -> core::fmt::Result {
        if let Some(pages) = self.pages
            && pages != frame::total() / 2
        {
            write!(text, ",size={}k", pages * (PAGE / 1024))?;
        }
        if let Some(nodes) = self.nodes
            && nodes != frame::total() / 2
        {
            write!(text, ",nr_inodes={nodes}")?;
        }
        if self.mode != MODE {
            write!(text, ",mode={:03o}", self.mode)?;
        }
        if self.user != 0 {
            write!(text, ",uid={}", self.user)?;
        }
        if self.group != 0 {
            write!(text, ",gid={}", self.group)?;
        }
        Ok(())
    }
}

/// `size=`: bytes, or a part of RAM.
fn pages(value: &str) -> Result<u64> {
    if let Some(percent) = value.strip_suffix('%') {
        let percent = memory_size(percent)?;
        return Ok(frame::total().saturating_mul(percent) / 100);
    }
    Ok(memory_size(value)?.div_ceil(PAGE))
}

/// A number, decimal, octal or hexadecimal, with a unit (Linux: `memparse`).
fn memory_size(value: &str) -> Result<u64> {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    // A hexadecimal number ends in letters, too.
    let is_hexadecimal = value.starts_with("0x") || value.starts_with("0X");
    let (digits, unit) = if is_hexadecimal {
        let end = value[2..]
            .find(|letter: char| !letter.is_ascii_hexdigit())
            .map_or(value.len(), |at| at + 2);
        value.split_at(end)
    } else {
        value.split_at(digits.len())
    };
    let number = if is_hexadecimal {
        u64::from_str_radix(&digits[2..], 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    }
    .map_err(|_| Errno::EINVAL)?;
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(memory_size("12"), Ok(12));
        assert_eq!(memory_size("0x10k"), Ok(16 << 10));
        assert_eq!(memory_size("010m"), Ok(8 << 20));
        for wrong in ["", "k", "1kk", "1x", "-1", "18446744073709551615k"] {
            assert_eq!(memory_size(wrong), Err(Errno::EINVAL), "{wrong}");
        }
        assert_eq!(pages("4097"), Ok(2));
    }

    #[test]
    fn options_are_known_or_refused() {
        let mut options = Tmpfs::new(0, 0);
        assert_eq!(options.parse(b"size=64k,mode=0700,uid=3,,nr_inodes=10", true), Ok(()));
        assert_eq!(
            (options.size(), options.nodes(), options.mode, options.user),
            (65536, 10, 0o700, 3)
        );
        assert_eq!(options.parse(b"mode=0755,size=0", false), Ok(()));
        assert_eq!((options.size(), options.mode), (u64::MAX, 0o700));
        let mut text = String::new();
        options.show(&mut text).expect("text");
        assert_eq!(text, ",size=0k,nr_inodes=10,mode=700,uid=3");
        for wrong in [b"siz=1".as_slice(), b"size", b"mode=8", b"uid=x", b"nr_inodes=1x"] {
            assert_eq!(options.parse(wrong, true), Err(Errno::EINVAL));
        }
    }
}
