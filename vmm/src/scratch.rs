//! Directories for tests.

use std::fs;
use std::path::PathBuf;

/// A directory that is gone when the test ends.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes an empty one.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("airlock-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file, and the directories that it is in.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
