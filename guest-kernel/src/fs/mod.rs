//! Files.
//!
//! A program's descriptor leads through its [`FileTable`] to an [`OpenFile`], which has an [`Inode`]:
//! a file of the [`root`] file system (an EROFS image below, memory above), one that the kernel makes
//! up, or a [`stream`]. Paths are resolved by [`path`]. Nothing is built before it is asked for.
//!
//! The layer knows nothing of processes and system calls: what it needs of those is passed to it, or
//! given once as [`services::Services`]. So all of it runs in tests on the host.

pub mod console;
mod context;
pub mod epoll;
pub mod erofs;
pub mod event;
mod executing;
pub mod facts;
mod file_table;
mod inode;
pub mod inotify;
pub mod listing;
pub mod locks;
pub mod metadata;
pub mod mount;
pub mod namespace;
pub mod ninep;
mod open;
mod open_file;
pub mod path;
pub mod permission;
pub mod pipe;
pub mod root;
pub mod services;
pub mod size_limit;
pub mod source;
pub mod stream;
pub mod synthetic;
pub mod tmpfs;
pub mod tty;
pub mod usage;

pub use context::Context;
pub use executing::{Executing, check_writable};
pub use file_table::FileTable;
pub use inode::{Inode, Target};
pub use metadata::{Metadata, Timestamp};
pub use mount::Location;
pub use open::{open, standard_files, terminal_files};
pub use open_file::{FileRef, OpenFile, Whence};
pub use root::FileSystem;

#[cfg(test)]
mod tests;
