//! All sockets, for `/proc/net/unix`.

use super::{Phase, Socket};
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;

static ALL: SpinLock<BTreeMap<u64, Weak<Socket>>> = SpinLock::new(BTreeMap::new());

/// Adds a new socket.
pub fn add(socket: &Arc<Socket>) {
    ALL.lock().insert(socket.number, Arc::downgrade(socket));
}

/// Removes one that has ended.
pub fn remove(socket: &Socket) {
    let removed = ALL.lock().remove(&socket.number);
    drop(removed);
}

/// `__SO_ACCEPTCON`.
const LISTENS: u32 = 0x1_0000;

/// What `/proc/net/unix` shows (`unix(7)`).
///
/// # Errors
/// ENOMEM.
pub fn text() -> Result<Vec<u8>> {
    let mut sockets = Vec::new();
    {
        let all = ALL.lock();
        sockets.try_reserve(all.len()).map_err(|_| Errno::ENOMEM)?;
        sockets.extend(all.values().filter_map(Weak::upgrade));
    }
    let mut text = Vec::from(b"Num       RefCount Protocol Flags    Type St Inode Path\n");
    for socket in sockets {
        let state = socket.state.lock();
        let (phase, address) = (state.phase, state.address.clone());
        let has_file = !state.dead && !state.waits;
        let is_connected = state.peer.is_some();
        drop(state);
        // SS_UNCONNECTED, SS_CONNECTING, SS_CONNECTED, SS_DISCONNECTING of Linux.
        let status = match (is_connected, has_file) {
            (false, true) => 1,
            (true, false) => 2,
            (true, true) => 3,
            (false, false) => 4,
        };
        let flags = if matches!(phase, Phase::Listening(_)) { LISTENS } else { 0 };
        let references = 2 + u32::from(is_connected);
        let mut line = String::new();
        // The first column would be an address in the kernel, which is nobody's business.
        write!(
            line,
            "{:016x}: {references:08X} 00000000 {flags:08X} {:04X} {status:02X} {:5}",
            0,
            socket.kind.number(),
            socket.number,
        )
        .map_err(|_| Errno::ENOMEM)?;
        let name = address.as_ref().map_or(&[][..], |address| &address[2..]);
        let shown = name.strip_suffix(&[0]).filter(|_| name.first() != Some(&0)).unwrap_or(name);
        text.try_reserve(line.len() + shown.len() + 2).map_err(|_| Errno::ENOMEM)?;
        text.extend_from_slice(line.as_bytes());
        if !shown.is_empty() {
            text.push(b' ');
            text.extend(shown.iter().map(|&byte| if byte == 0 { b'@' } else { byte }));
        }
        text.push(b'\n');
    }
    Ok(text)
}
