//! Memory: frames, the heap, a program's address space, and copies to and from it.

mod address;
pub mod areas;
mod bytes;
pub mod concurrency;
pub mod frame;
#[cfg(target_os = "none")]
pub mod heap;
pub mod page_table;
pub mod pool;
#[cfg(target_os = "none")]
pub mod reporting;
pub mod runs;
pub mod space;
pub mod user;

pub use address::{PAGE, PAGE_SIZE, PhysAddr, USER_END, page_ceil, page_floor, usize_from};
pub use bytes::SharedBytes;
pub use frame::{Content, Frame};
pub use user::{UserPtr, UserReader, UserSlice, UserWriter};

use crate::errno::Result;

/// A page that a file or device offers for mapping.
#[derive(Debug)]
pub enum Page {
    /// Part of the root image (guest-physical address): read-only memory that outlives everything.
    Image(PhysAddr),
    /// RAM, shared with the file.
    Frame(Frame),
}

/// What can be mapped into programs: a file's pages.
pub trait PageSource: Send + Sync {
    /// The page at `index` (in pages from the file's start). `write` says that a shared mapping is
    /// about to write to it, so that a hole must become a page and an image's page cannot serve.
    ///
    /// # Errors
    /// EFAULT where the file has ended (the program gets SIGBUS), ENOMEM, EIO.
    fn page(&self, index: u64, write: bool) -> Result<Page>;

    /// Pages from `index` on that are one after the other in an image: the guest-physical address of
    /// the first and how many there are; `None` if the page at `index` is not an image's.
    ///
    /// Only a quicker way to ask for many pages; an object that has none of an image's says `None`.
    fn image_run(&self, _index: u64) -> Option<(PhysAddr, u64)> {
        None
    }

    /// A program does not map it, or a part of it, any more.
    fn unmapped(&self) {}

    /// Whether it is a shared memory segment, which `shmdt(2)` unmaps.
    fn is_segment(&self) -> bool {
        false
    }

    /// Whether the page is in memory before anybody touches it (mincore(2)): what is not is a hole.
    fn is_resident(&self, _index: u64) -> bool {
        true
    }
}
