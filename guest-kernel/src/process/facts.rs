//! What /proc shows of a process.

use super::Process;
use crate::errno::{Errno, Result};
use crate::fs::facts::{Area, ProcessFacts, ProcessStatus};
use crate::fs::{Context, FileTable};
use crate::memory::areas::{Label, Protection};
use crate::memory::{PAGE, UserReader, usize_from};
use crate::signal::{action, number};
use crate::sync::SpinLock;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// A clock tick is a hundredth of a second.
const TICK_NS: u64 = 10_000_000;
/// No more of the arguments or the environment is shown.
const MAX_STRINGS: u64 = 128 << 10;

/// Bytes of the running process's memory.
fn read(start: u64, end: u64) -> Result<Vec<u8>> {
    let len = usize_from(end.saturating_sub(start).min(MAX_STRINGS));
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let count = UserReader::new(start, len).read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

impl ProcessFacts for Process {
    fn status(&self) -> ProcessStatus {
        let mut name = [0; 16];
        for (target, byte) in name[..15].iter_mut().zip(&self.program.lock().name) {
            *target = *byte;
        }
        let id = |pid: super::Pid| u32::try_from(pid).unwrap_or(0);
        let credentials = self.credentials();
        let layout = self.memory().layout();
        let (mut ignored, mut caught) = (0, 0);
        let signals = self.signals.lock();
        for signal in 1..=number::LAST {
            match signals.action(signal).handler {
                action::DEFAULT => {}
                action::IGNORE => ignored |= crate::signal::bit(signal),
                _ => caught |= crate::signal::bit(signal),
            }
        }
        let signals = [signals.pending(), signals.mask, ignored, caught];
        let c = &credentials;
        ProcessStatus {
            name,
            // Whoever asks is running.
            state: b'R',
            pid: id(self.pid),
            parent: id(self.parent),
            group: id(self.group),
            session: id(self.group),
            threads: 1,
            users: [c.uid, c.euid, c.suid, c.fsuid],
            groups: [c.gid, c.egid, c.sgid, c.fsgid],
            supplementary: Vec::from(c.groups()),
            virtual_size: self.memory().total(),
            resident: self.memory().resident().0,
            resident_files: 0,
            text_size: layout.code.1.saturating_sub(layout.code.0),
            data_size: layout.data.1.saturating_sub(layout.data.0)
                + layout.break_end.saturating_sub(layout.break_start),
            code: layout.code,
            stack: layout.stack_start,
            faults: self.minor_faults.load(Ordering::Relaxed),
            times: (0, 0),
            start: self.start_ns / TICK_NS,
            nice: 0,
            cpu: 0,
            signals,
            switches: (0, 0),
        }
    }

    fn executable(&self) -> Vec<u8> {
        self.program.lock().path.clone()
    }

    fn files(&self) -> &SpinLock<FileTable> {
        self.files()
    }

    fn context(&self) -> Context {
        self.fs().lock().clone()
    }

    fn arguments(&self) -> Result<Vec<u8>> {
        let (start, end) = self.memory().layout().arguments;
        read(start, end)
    }

    fn environment(&self) -> Result<Vec<u8>> {
        let (start, end) = self.memory().layout().environment;
        read(start, end)
    }

    fn auxiliary_vector(&self) -> Result<Vec<u8>> {
        let (start, len) = self.program.lock().auxiliary;
        read(start, start.saturating_add(len))
    }

    fn areas(&self) -> Result<Vec<Area>> {
        let mut areas = Vec::new();
        for area in self.memory().areas()? {
            let (file, name) = match &area.label {
                Label::None => ((0, 0), Vec::new()),
                Label::Heap => ((0, 0), Vec::from(b"[heap]")),
                Label::Stack => ((0, 0), Vec::from(b"[stack]")),
                Label::Vdso => ((0, 0), Vec::from(b"[vdso]")),
                Label::Vvar => ((0, 0), Vec::from(b"[vvar]")),
                Label::File(file) => ((file.device, file.inode), file.path.clone()),
            };
            let offset = if file == (0, 0) { 0 } else { area.page_index(area.start) * PAGE };
            areas.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            areas.push(Area {
                start: area.start,
                end: area.end,
                read: area.protection.contains(Protection::READ),
                write: area.protection.contains(Protection::WRITE),
                execute: area.protection.contains(Protection::EXECUTE),
                shared: area.shared,
                offset,
                file,
                name,
            });
        }
        Ok(areas)
    }

    fn limits(&self) -> [(u64, u64); 16] {
        self.limits().lock().0.map(|limit| (limit.soft, limit.hard))
    }
}
