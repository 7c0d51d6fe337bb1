//! Arguments and environments: lists of strings as they will lie on a new program's stack.

use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// Strings one after the other, each with its NUL, and how many there are.
#[derive(Default)]
pub struct StringList {
    bytes: Vec<u8>,
    count: usize,
}

impl StringList {
    /// A copy of strings that each end with NUL.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn copy_of(strings: &[u8]) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(strings.len()).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(strings);
        let count = strings.iter().filter(|&&byte| byte == 0).count();
        Ok(Self { bytes, count })
    }

    /// All of them, with their NULs.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a string that has no NUL.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn push(&mut self, string: &[u8]) -> Result<()> {
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    /// Puts strings in the place of the first.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn replace_first(&mut self, new: &[&[u8]]) -> Result<()> {
        let first = self.bytes.iter().position(|&byte| byte == 0).map_or(0, |end| end + 1);
        let rest = &self.bytes[first..];
        let mut all = Self::default();
        for string in new {
            all.push(string)?;
        }
        all.bytes.try_reserve(rest.len()).map_err(|_| Errno::ENOMEM)?;
        all.bytes.extend_from_slice(rest);
        all.count += self.count.saturating_sub(1);
        *self = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_string_gives_way_to_several() {
        let mut list = StringList::copy_of(b"./script\0-a\0\0").unwrap();
        assert_eq!(list.len(), 3);
        list.replace_first(&[b"/bin/sh", b"-e", b"./script"]).unwrap();
        assert_eq!((list.bytes(), list.len()), (b"/bin/sh\0-e\0./script\0-a\0\0".as_slice(), 5));
        let mut empty = StringList::default();
        empty.replace_first(&[b"x"]).unwrap();
        assert_eq!((empty.bytes(), empty.len()), (b"x\0".as_slice(), 1));
    }
}
