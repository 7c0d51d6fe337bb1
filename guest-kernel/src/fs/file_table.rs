//! File descriptors.

use super::open_file::FileRef;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// Linux's `NR_OPEN`: no descriptor is higher, whatever the limit says.
const HIGHEST: usize = 1 << 20;

#[derive(Clone)]
struct Descriptor {
    file: FileRef,
    close_on_exec: bool,
}

/// A process's descriptors.
pub struct FileTable {
    descriptors: Vec<Option<Descriptor>>,
    /// No descriptor below this one is free.
    first_free: usize,
    /// `RLIMIT_NOFILE`: one more than the highest descriptor that may be made.
    limit: usize,
}

impl FileTable {
    /// An empty table.
    pub const fn new() -> Self {
        Self { descriptors: Vec::new(), first_free: 0, limit: 1024 }
    }

    /// A copy for a new process.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn try_clone(&self) -> Result<Self> {
        let used = self.descriptors.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let mut descriptors = Vec::new();
        descriptors.try_reserve_exact(used).map_err(|_| Errno::ENOMEM)?;
        descriptors.extend_from_slice(&self.descriptors[..used]);
        Ok(Self { descriptors, first_free: self.first_free.min(used), limit: self.limit })
    }

    /// Any descriptor's file, removed; repeated until there is none.
    pub fn take_any(&mut self) -> Option<FileRef> {
        self.first_free = 0;
        while let Some(slot) = self.descriptors.pop() {
            if let Some(descriptor) = slot {
                return Some(descriptor.file);
            }
        }
        None
    }

    /// Descriptors in use.
    pub fn count(&self) -> u64 {
        self.descriptors.iter().flatten().count() as u64
    }

    /// `RLIMIT_NOFILE`.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// One more than the highest descriptor that `select(2)` looks at: on Linux the size of the table,
    /// which starts with 64 and grows to 128 times a power of two for the highest descriptor so far.
    pub fn size(&self) -> usize {
        match self.descriptors.len() {
            0..=64 => 64,
            len => len.div_ceil(128).next_power_of_two() * 128,
        }
    }

    /// Sets `RLIMIT_NOFILE`.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(HIGHEST);
    }

    /// The file behind a descriptor.
    ///
    /// # Errors
    /// EBADF.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<FileRef> {
        Ok(self.descriptor(fd)?.file.clone())
    }

    #[inline]
    fn descriptor(&self, fd: i32) -> Result<&Descriptor> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.descriptors.get(index).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Gives a file the lowest free descriptor.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn add(&mut self, file: FileRef, close_on_exec: bool) -> Result<i32> {
        self.add_from(0, file, close_on_exec)
    }

    /// Whether a file could be added now.
    ///
    /// # Errors
    /// EMFILE.
    pub fn check_room(&self) -> Result<()> {
        let used = self.descriptors.get(self.first_free..).unwrap_or(&[]);
        let free = self.first_free + used.iter().position(Option::is_none).unwrap_or(used.len());
        if free < self.limit { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Gives a file the lowest free descriptor that is not below `lowest` (`F_DUPFD`).
    ///
    /// # Errors
    /// EMFILE, EINVAL if `lowest` is beyond the limit, ENOMEM.
    pub fn add_from(&mut self, lowest: usize, file: FileRef, close_on_exec: bool) -> Result<i32> {
        if lowest > 0 && lowest >= self.limit {
            return Err(Errno::EINVAL);
        }
        let start = lowest.max(self.first_free);
        let used = self.descriptors.get(start..).unwrap_or(&[]);
        let index = start + used.iter().position(Option::is_none).unwrap_or(used.len());
        if index >= self.limit {
            return Err(Errno::EMFILE);
        }
        let fd = i32::try_from(index).map_err(|_| Errno::EMFILE)?;
        self.grow(index)?;
        self.descriptors[index] = Some(Descriptor { file, close_on_exec });
        if lowest <= self.first_free {
            self.first_free = index + 1;
        }
        Ok(fd)
    }

    fn grow(&mut self, index: usize) -> Result<()> {
        if let Some(more) = (index + 1).checked_sub(self.descriptors.len()) {
            self.descriptors.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.descriptors.resize(index + 1, None);
        }
        Ok(())
    }

    /// Makes `fd` stand for a file; returns what it stood for before, to be dropped without a lock.
    ///
    /// # Errors
    /// EBADF beyond the limit, ENOMEM.
    pub fn set(&mut self, fd: i32, file: FileRef, close_on_exec: bool) -> Result<Option<FileRef>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index >= self.limit {
            return Err(Errno::EBADF);
        }
        self.grow(index)?;
        let old = self.descriptors[index].replace(Descriptor { file, close_on_exec });
        Ok(old.map(|descriptor| descriptor.file))
    }

    /// Frees a descriptor; returns its file, to be dropped without a lock.
    ///
    /// # Errors
    /// EBADF.
    pub fn remove(&mut self, fd: i32) -> Result<FileRef> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.descriptors.get_mut(index).ok_or(Errno::EBADF)?;
        let descriptor = slot.take().ok_or(Errno::EBADF)?;
        self.first_free = self.first_free.min(index);
        Ok(descriptor.file)
    }

    /// `FD_CLOEXEC`.
    ///
    /// # Errors
    /// EBADF.
    pub fn close_on_exec(&self, fd: i32) -> Result<bool> {
        Ok(self.descriptor(fd)?.close_on_exec)
    }

    /// Sets `FD_CLOEXEC`.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_close_on_exec(&mut self, fd: i32, close: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.descriptors.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        slot.close_on_exec = close;
        Ok(())
    }

    /// The lowest descriptor in use from `fd` on.
    pub fn next(&self, fd: i32) -> Option<i32> {
        let start = usize::try_from(fd).ok()?;
        let at = self.descriptors.get(start..)?.iter().position(Option::is_some)?;
        i32::try_from(start + at).ok()
    }

    /// A descriptor that `execve` closes, removed; repeated until there is none.
    pub fn take_close_on_exec(&mut self) -> Option<FileRef> {
        let is_marked = |slot: &Option<Descriptor>| {
            slot.as_ref().is_some_and(|descriptor| descriptor.close_on_exec)
        };
        let index = self.descriptors.iter().position(is_marked)?;
        self.first_free = self.first_free.min(index);
        self.descriptors[index].take().map(|descriptor| descriptor.file)
    }
}

impl Default for FileTable {
    fn default() -> Self {
        Self::new()
    }
}
