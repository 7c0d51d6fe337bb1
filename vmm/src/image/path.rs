//! Paths in the guest.

use std::fmt;

use super::erofs::NAME_MAX;
use super::error::ImageError;

/// Longest path that a Linux system call takes, with its terminating NUL (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// An absolute path in the guest, without `.`, `..` and empty components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// A path as the user wrote it.
    ///
    /// # Errors
    ///
    /// If it is relative, too long, or has a component `..` or one that no file can be named.
    pub fn new(path: &[u8]) -> Result<Self, ImageError> {
        let refuse = |reason| Err(ImageError::GuestPath { path: Self(path.to_vec()), reason });
        if path.is_empty() {
            return refuse("is empty");
        }
        if path[0] != b'/' {
            return refuse("is relative; begin it with /");
        }
        let mut normal = Vec::with_capacity(path.len());
        for component in
            path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b"."))
        {
            if component == b".." {
                return refuse("has a component '..'");
            }
            if component.len() > NAME_MAX {
                return refuse("has a component of more than 255 bytes");
            }
            if component.contains(&0) {
                return refuse("has a NUL byte");
            }
            normal.push(b'/');
            normal.extend_from_slice(component);
        }
        if normal.is_empty() {
            normal.push(b'/');
        }
        if normal.len() >= PATH_MAX {
            return refuse("has more than 4095 bytes");
        }
        Ok(Self(normal))
    }

    /// The path that `name` has in the directory of this path.
    ///
    /// # Errors
    ///
    /// As for [`GuestPath::new`].
    pub fn join(&self, name: &[u8]) -> Result<Self, ImageError> {
        Self::new(&[&self.0, b"/".as_slice(), name].concat())
    }

    /// The components, from the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::GuestPath;

    fn normal(path: &str) -> Option<String> {
        GuestPath::new(path.as_bytes()).ok().map(|path| path.to_string())
    }

    #[test]
    fn redundant_components_disappear() {
        assert_eq!(normal("//a/./b//").as_deref(), Some("/a/b"));
        assert_eq!(normal("/").as_deref(), Some("/"));
        assert_eq!(normal("/./").as_deref(), Some("/"));
    }

    #[test]
    fn what_cannot_be_a_path_in_the_guest_is_refused() {
        let long_component = format!("/{}", "x".repeat(256));
        let long = "/x".repeat(2048);
        for path in ["", "a", "./a", "../a", "/..", "/a/../b", "/a\0b", &long_component, &long] {
            assert_eq!(normal(path), None, "{path:?}");
        }
        assert!(normal(&format!("/{}", "x".repeat(255))).is_some());
        assert!(normal(&format!("{}/", &long[..4095 - 1])).is_some());
    }
}
