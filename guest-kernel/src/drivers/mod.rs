//! Devices: what the command line announces, driven when it is first needed.

pub mod balloon;
pub mod console;
mod machine;
pub mod ninep;
pub mod platform;
pub mod terminal;
mod virtio;

use crate::boot;
use crate::errno::Result;
use crate::fs::facts::{MachineFacts, ProcessFacts};
use crate::fs::services::Services;
use crate::fs::tty::job::Jobs;
use crate::fs::{Timestamp, services};
use crate::memory::{UserReader, UserWriter};
use crate::sched::WaitQueue;
use crate::signal::{Information, number::SIGPIPE, number::SIGXFSZ};
use crate::{process, random, time};
use alloc::sync::Arc;

/// A virtio-mmio register window and its interrupt, as the command line has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Guest-physical address of the registers.
    pub base: u64,
    /// Interrupt number.
    pub line: u32,
}

/// The devices on the command line: `virtio_mmio.device=SIZE@ADDRESS:IRQ[:ID]`, as Linux reads it.
pub fn announced() -> impl Iterator<Item = Announced> {
    boot::command_line().split(|&byte| byte == b' ').filter_map(|word| {
        let value = word.strip_prefix(b"virtio_mmio.device=")?;
        let at = value.iter().position(|&byte| byte == b'@')?;
        let (base, rest) = number(&value[at + 1..])?;
        let (line, _) = number(rest.strip_prefix(b":")?)?;
        Some(Announced { base, line: u32::try_from(line).ok()? })
    })
}

/// The volumes on the command line, `airlock.volume=ADDRESS:IRQ:ro` or `:rw`: devices, and whether
/// nothing may be changed there.
pub fn volumes() -> impl Iterator<Item = (Announced, bool)> {
    boot::command_line().split(|&byte| byte == b' ').filter_map(|word| {
        let (base, rest) = number(word.strip_prefix(b"airlock.volume=")?)?;
        let (line, access) = number(rest.strip_prefix(b":")?)?;
        Some((Announced { base, line: u32::try_from(line).ok()? }, access == b":ro"))
    })
}

/// A number in C's notation, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (radix, digits) = match text.strip_prefix(b"0x") {
        Some(digits) => (16, digits),
        None => (10, text),
    };
    let len = digits.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
    if len == 0 || len > 16 {
        return None;
    }
    let value = digits[..len]
        .iter()
        .filter_map(|&byte| char::from(byte).to_digit(radix))
        .fold(0u64, |value, digit| value.wrapping_mul(radix.into()).wrapping_add(digit.into()));
    Some((value, &digits[len..]))
}

/// A device interrupt.
pub fn interrupt(line: u32) {
    console::interrupt(line);
    ninep::interrupt(line);
}

/// What files need of devices.
pub struct FileServices;

/// The one instance.
pub static FILE_SERVICES: FileServices = FileServices;

impl Services for FileServices {
    fn now(&self) -> Timestamp {
        let ns = time::realtime_ns();
        Timestamp {
            seconds: i64::try_from(ns / time::NANOSECONDS).unwrap_or(i64::MAX),
            nanoseconds: u32::try_from(ns % time::NANOSECONDS).unwrap_or(0),
        }
    }

    fn random(&self, bytes: &mut [u8]) {
        random::fill(bytes);
    }

    fn console_write(&self, port: u32, data: &mut UserReader) -> Result<usize> {
        console::write(port, data)
    }

    fn console_read(&self, port: u32, buffer: &mut UserWriter) -> Result<usize> {
        console::read(port, buffer)
    }

    fn console_readable(&self, port: u32) -> bool {
        console::is_readable(port)
    }

    fn console_available(&self, port: u32) -> Result<usize> {
        console::available(port)
    }

    fn console_write_kernel(&self, port: u32, bytes: &[u8]) -> Result<usize> {
        for piece in bytes.chunks(crate::memory::PAGE_SIZE) {
            console::write_kernel(port, piece)?;
        }
        Ok(bytes.len())
    }

    fn console_queue(&self, _port: u32) -> &WaitQueue {
        console::waiters()
    }

    fn terminal_write(&self, bytes: &[u8], wait: bool) -> Result<()> {
        for piece in bytes.chunks(crate::memory::PAGE_SIZE) {
            terminal::write(piece, wait)?;
        }
        Ok(())
    }

    fn terminal_listen(&self) {
        terminal::listen();
    }

    fn jobs(&self) -> Option<&'static dyn Jobs> {
        process::exists().then_some(&process::JOBS)
    }

    fn monotonic_ns(&self) -> u64 {
        time::monotonic_ns()
    }

    fn broken_pipe(&self) {
        // SI_USER, from the process itself, as on Linux.
        let process = process::current();
        let who = u64::from(process.pid.cast_unsigned());
        let _ = process::send_to_thread(&process, Information::new(SIGPIPE, process::SI_USER, who));
    }

    fn message_arrived(&self, pid: i32, signal: u8, value: u64) {
        /// `SI_MESGQ`.
        const CODE: i32 = -3;
        let sender = process::current();
        let user = sender.credentials().uid;
        let who = u64::from(sender.pid.cast_unsigned()) | u64::from(user) << 32;
        if signal > 0
            && let Some(target) = process::find(pid)
        {
            let information = Information { signal, code: CODE, detail: [who, value, 0, 0] };
            let _ = process::send_to_process(&target, information);
        }
    }

    fn caller(&self) -> services::Caller {
        let process = process::current();
        let who = process.credentials();
        services::Caller {
            pid: process.pid,
            real: (who.uid, who.gid),
            effective: (who.euid, who.egid),
        }
    }

    fn file_size_limit(&self) -> u64 {
        process::current().limits().lock().0[process::resource::FSIZE].soft
    }

    fn file_too_large(&self) {
        let process = process::current();
        let who = u64::from(process.pid.cast_unsigned());
        let _ = process::send_to_thread(&process, Information::new(SIGXFSZ, process::SI_USER, who));
    }

    fn process(&self, pid: u32) -> Option<Arc<dyn ProcessFacts>> {
        let pid = match pid {
            0 => process::current().pid,
            pid => i32::try_from(pid).ok()?,
        };
        match process::find(pid) {
            Some(process) => Some(process),
            None => Some(Arc::new(process::ThreadFacts(process::find_thread(pid)?))),
        }
    }

    fn thread_id(&self) -> u32 {
        u32::try_from(process::current().tid()).unwrap_or(0)
    }

    fn next_process(&self, pid: u32) -> Option<u32> {
        let pids = process::all().into_iter().filter_map(|pid| u32::try_from(pid).ok());
        pids.into_iter().find(|&known| known >= pid)
    }

    fn machine(&self) -> MachineFacts {
        machine::facts()
    }
}

const _: fn(&'static dyn Services) = services::install;
