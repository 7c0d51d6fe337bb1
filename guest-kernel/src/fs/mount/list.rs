//! /proc/PID/mounts and /proc/PID/mountinfo (`proc(5)`).

use super::super::context::Context;
use super::super::metadata::device_parts;
use super::super::path::path_of;
use super::attach::subtree;
use super::{Kind, Location, Mount, NO_DEVICES, NO_EXECUTE, NO_SUID, READ_ONLY, TREE};
use crate::errno::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

/// Mounts that can be reached from the root of a process, and their mount points.
fn visible(context: &Context) -> Result<Vec<(Arc<Mount>, Vec<u8>)>> {
    let mut all = {
        let _tree = TREE.lock();
        subtree(&context.mounts.root())?
    };
    all.sort_by_key(|mount| mount.id());
    let mut visible = Vec::new();
    visible.try_reserve_exact(all.len()).map_err(|_| Errno::ENOMEM)?;
    for mount in all {
        let top = Location { inode: mount.root().clone(), mount: mount.clone() };
        if let Ok(Some(path)) = path_of(&context.root, &top) {
            visible.push((mount, path));
        }
    }
    Ok(visible)
}

/// Appends a string as these tables have it: what would break a line is escaped.
fn push_escaped(text: &mut Vec<u8>, bytes: &[u8], also: &[u8]) {
    for &byte in bytes {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') || also.contains(&byte) {
            text.push(b'\\');
            text.extend([byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| b'0' + digit));
        } else {
            text.push(byte);
        }
    }
}

fn source_of(mount: &Mount) -> &[u8] {
    if mount.source.is_empty() { b"none" } else { &mount.source }
}

fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

/// The flags of a mount, behind whether it can be written to.
fn push_flags(text: &mut String, mount: &Mount) {
    let flags = [(NO_SUID, ",nosuid"), (NO_DEVICES, ",nodev"), (NO_EXECUTE, ",noexec")];
    for (flag, name) in flags {
        if mount.has(flag) {
            text.push_str(name);
        }
    }
    // Access times are not kept, whatever a mount asks for.
    match mount.superblock().kind() {
        Kind::Root | Kind::Tmpfs(..) => text.push_str(",noatime"),
        Kind::Volume(_) => text.push_str(",relatime"),
        Kind::Synthetic(_) => {}
    }
}

/// `/proc/PID/mounts`.
///
/// # Errors
/// ENOMEM.
pub fn mounts(context: &Context) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for (mount, path) in visible(context)? {
        let superblock = mount.superblock();
        push_escaped(&mut text, source_of(&mount), b"#");
        text.push(b' ');
        push_escaped(&mut text, &path, b"");
        let mut rest = String::new();
        write!(rest, " {} {}", superblock.type_name(), access(mount.is_read_only()))
            .map_err(|_| Errno::EIO)?;
        push_flags(&mut rest, &mount);
        superblock.show_options(&mut rest).map_err(|_| Errno::EIO)?;
        rest.push_str(" 0 0\n");
        text.extend_from_slice(rest.as_bytes());
    }
    Ok(text)
}

/// `/proc/PID/mountinfo`.
///
/// # Errors
/// ENOMEM.
pub fn mount_information(context: &Context) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for (mount, path) in visible(context)? {
        let superblock = mount.superblock();
        let (major, minor) = device_parts(superblock.device());
        let above = mount.above().map_or(0, |above| above.id());
        let mut part = String::new();
        write!(part, "{} {above} {major}:{minor} ", mount.id()).map_err(|_| Errno::EIO)?;
        text.extend_from_slice(part.as_bytes());
        push_escaped(&mut text, &mount.root_path, b"");
        text.push(b' ');
        push_escaped(&mut text, &path, b"");
        part.clear();
        write!(part, " {}", access(mount.has(READ_ONLY))).map_err(|_| Errno::EIO)?;
        push_flags(&mut part, &mount);
        if mount.unbindable.load(core::sync::atomic::Ordering::Relaxed) {
            part.push_str(" unbindable");
        }
        write!(part, " - {} ", superblock.type_name()).map_err(|_| Errno::EIO)?;
        text.extend_from_slice(part.as_bytes());
        push_escaped(&mut text, source_of(&mount), b"#");
        part.clear();
        write!(part, " {}", access(superblock.is_read_only())).map_err(|_| Errno::EIO)?;
        superblock.show_options(&mut part).map_err(|_| Errno::EIO)?;
        part.push('\n');
        text.extend_from_slice(part.as_bytes());
    }
    Ok(text)
}
