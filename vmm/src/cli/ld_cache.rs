//! glibc's cache of libraries, `/etc/ld.so.cache` (ldconfig(8); its layout is in glibc's
//! `sysdeps/generic/dl-cache.h`).
//!
//! Only the format that glibc has written since 2.2 is read, alone or behind the one before it.

use std::fs;
use std::path::Path;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Size of the header, and where in it the number of entries is.
const HEADER_SIZE: usize = 48;
const COUNT: usize = 20;
/// Size of an entry, and where in it are its flags, the name and the path.
const ENTRY_SIZE: usize = 24;
const NAME: usize = 4;
const PATH: usize = 8;
/// Flags of a 64-bit x86-64 library for glibc.
const X86_64: u32 = 0x0303;

/// The cache's bytes, from its header on.
#[derive(Debug)]
pub struct Cache(Vec<u8>);

impl Cache {
    /// The cache in a file, if it is one.
    pub fn read(path: &Path) -> Option<Self> {
        let mut bytes = fs::read(path).ok()?;
        let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        bytes.drain(..start);
        Some(Self(bytes))
    }

    /// The paths of a library with this name, those for newer processors among them.
    pub fn paths<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let count = word(&self.0, COUNT).and_then(|count| usize::try_from(count).ok());
        let entries = self.0.get(HEADER_SIZE..).unwrap_or_default().chunks_exact(ENTRY_SIZE);
        entries.take(count.unwrap_or(0)).filter_map(move |entry| {
            (word(entry, 0) == Some(X86_64) && self.string(word(entry, NAME)?)? == name)
                .then(|| self.string(word(entry, PATH)?))?
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let bytes = self.0.get(usize::try_from(offset).ok()?..)?;
        Some(&bytes[..bytes.iter().position(|&byte| byte == 0)?])
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(u32, u32, u32)], strings: &[u8]) -> Cache {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(HEADER_SIZE, 0);
        for &(flags, name, path) in entries {
            for word in [flags, name, path, 0, 0, 0] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes.extend(strings);
        Cache(bytes)
    }

    #[test]
    fn paths_of_the_right_kind_are_found_by_name() {
        // Strings begin at 48 + 2 * 24 = 96.
        let cache = cache(&[(0x0303, 96, 103), (0x0003, 96, 103)], b"liba.1\0/lib/liba.1\0");
        assert_eq!(cache.paths(b"liba.1").collect::<Vec<_>>(), [b"/lib/liba.1"]);
        assert_eq!(cache.paths(b"liba").count(), 0);
    }

    #[test]
    fn damage_is_not_followed() {
        assert_eq!(cache(&[(0x0303, u32::MAX, 0)], b"").paths(b"a").count(), 0);
        let mut cut = cache(&[(0x0303, 72, 74)], b"a\0/a\0");
        assert_eq!(cut.paths(b"a").count(), 1);
        for len in (0..cut.0.len()).rev() {
            cut.0.truncate(len);
            assert!(cut.paths(b"a").count() == 0, "{len}");
        }
    }
}
