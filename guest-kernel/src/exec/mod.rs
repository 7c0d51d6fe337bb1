//! Starting a program: its address space from an ELF file, and its first stack.

pub mod elf;
pub mod script;
pub mod stack;
mod strings;

use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::memory::areas::FileLabel;
use crate::memory::{Content, Frame, PAGE_SIZE, Page, PageSource, SharedBytes, usize_from};
use alloc::sync::Arc;
use alloc::vec::Vec;
pub use strings::StringList;

/// An open file that may be a program.
#[derive(Clone)]
pub struct Executable {
    /// Its pages.
    pub source: Arc<dyn PageSource>,
    /// Its length in bytes.
    pub size: u64,
    /// What `/proc/PID/maps` calls it.
    pub label: Arc<FileLabel>,
}

impl Executable {
    /// An open file under the name that it has for the program's user.
    ///
    /// # Errors
    /// Those of the file.
    pub fn new(file: FileRef, path: Vec<u8>) -> Result<Self> {
        file.inode().prepare_mapping()?;
        let metadata = file.metadata()?;
        let label = FileLabel { device: metadata.device, inode: metadata.number, path };
        Ok(Self { size: metadata.size, label: Arc::new(label), source: file })
    }

    /// Reads bytes at an offset; fewer where the file ends.
    ///
    /// # Errors
    /// Those of the file's pages.
    pub fn read_at(&self, mut offset: u64, target: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < target.len() && offset < self.size {
            let within = usize_from(offset % PAGE_SIZE as u64);
            let left = usize_from(self.size - offset).min(target.len() - done);
            let page = self.source.page(offset / PAGE_SIZE as u64, false)?;
            let count = page.bytes().part(within, left).copy_to(&mut target[done..]);
            if count == 0 {
                break;
            }
            done += count;
            offset += count as u64;
        }
        Ok(done)
    }
}

impl Page {
    /// The page's bytes, which a program may be changing.
    pub fn bytes(&self) -> SharedBytes<'_> {
        match self {
            // SAFETY: an image's pages stay in the direct map for good.
            Self::Image(address) => unsafe { SharedBytes::new(address.to_pointer(), PAGE_SIZE) },
            Self::Frame(frame) => frame.bytes(0, PAGE_SIZE),
        }
    }
}

/// Random numbers for the layout of an address space, as Linux draws them.
pub struct Entropy<'a>(pub &'a mut dyn FnMut() -> u64);

impl Entropy<'_> {
    /// A number of this many random bits.
    pub fn bits(&mut self, count: u32) -> u64 {
        (self.0)() & ((1 << count) - 1)
    }
}

/// A page of the file's first `len` bytes of the page at `index`, then zeroes: where the data of a
/// segment ends and the rest of its memory begins.
fn partial_page(source: &Arc<dyn PageSource>, index: u64, len: usize) -> Result<Frame> {
    let page = source.page(index, false).map_err(|_| Errno::ENOEXEC)?;
    let frame = Frame::allocate(Content::Zeroes)?;
    frame.fill(0, page.bytes().part(0, len));
    Ok(frame)
}
