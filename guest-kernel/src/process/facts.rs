//! What /proc shows of a process.

use super::Process;
use crate::errno::{Errno, Result};
use crate::fs::facts::{Area, ProcessFacts, ProcessStatus};
use crate::fs::{Context, FileTable};
use crate::memory::areas::{Label, Protection};
use crate::memory::{PAGE, usize_from};
use crate::signal::{action, number};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A clock tick is a hundredth of a second.
const TICK_NS: u64 = 10_000_000;
/// No more of the arguments or the environment is shown.
const MAX_STRINGS: u64 = 128 << 10;

/// Bytes of a process's memory.
fn read(process: &Process, start: u64, end: u64) -> Result<Vec<u8>> {
    let Some(memory) = process.shared_memory() else { return Ok(Vec::new()) };
    let len = usize_from(end.saturating_sub(start).min(MAX_STRINGS));
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let count = memory.read(start, &mut bytes);
    bytes.truncate(count);
    Ok(bytes)
}

impl Process {
    fn state(&self) -> u8 {
        if self.is_zombie() {
            b'Z'
        } else if self.stopped().is_some() {
            b'T'
        } else if self.threads().iter().all(|thread| thread.task.is_sleeping()) {
            b'S'
        } else {
            b'R'
        }
    }
}

impl ProcessFacts for Process {
    fn status(&self) -> ProcessStatus {
        let id = |pid: super::Pid| u32::try_from(pid).unwrap_or(0);
        let main = self.main_thread();
        let main = main.as_ref();
        let credentials = main.map(|thread| thread.credentials()).unwrap_or_default();
        let memory = self.shared_memory();
        let layout = memory.as_ref().map(|memory| memory.layout()).unwrap_or_default();
        let (mut ignored, mut caught) = (0, 0);
        if let Some(actions) = self.shared_actions() {
            let actions = actions.lock();
            for signal in 1..=number::LAST {
                match actions.action(signal).handler {
                    action::DEFAULT => {}
                    action::IGNORE => ignored |= crate::signal::bit(signal),
                    _ => caught |= crate::signal::bit(signal),
                }
            }
        }
        let pending = main.map_or(0, |thread| super::pending(thread));
        let mask = main.map_or(0, |thread| thread.signals.lock().mask);
        let c = &credentials;
        let usage = self.ended().map_or_else(|| self.usage(), |(_, usage)| usage);
        ProcessStatus {
            name: main.map_or_else(Default::default, |thread| *thread.name.lock()),
            state: self.state(),
            pid: id(self.pid),
            parent: id(self.parent()),
            group: id(self.group()),
            session: id(self.session()),
            threads: u32::try_from(self.threads().len()).unwrap_or(u32::MAX),
            users: [c.uid, c.euid, c.suid, c.fsuid],
            groups: [c.gid, c.egid, c.sgid, c.fsgid],
            supplementary: Vec::from(c.groups()),
            virtual_size: memory.as_ref().map_or(0, |memory| memory.total()),
            resident: memory.as_ref().map_or(0, |memory| memory.resident().0),
            resident_files: 0,
            text_size: layout.code.1.saturating_sub(layout.code.0),
            data_size: layout.data.1.saturating_sub(layout.data.0)
                + layout.break_end.saturating_sub(layout.break_start),
            code: layout.code,
            stack: layout.stack_start,
            faults: usage.minor_faults,
            times: (crate::time::tsc_ns(usage.ticks) / TICK_NS, 0),
            start: self.start_ns / TICK_NS,
            nice: main.map_or(0, |thread| thread.task.nice()),
            cpu: main.map_or(0, |thread| thread.task.cpu()),
            signals: [pending, mask, ignored, caught],
            switches: (usage.switches[0], usage.switches[1]),
        }
    }

    fn executable(&self) -> Vec<u8> {
        self.program.lock().path.clone()
    }

    fn files(&self) -> Arc<SpinLock<FileTable>> {
        self.main_thread()
            .and_then(|thread| thread.shared_files())
            .unwrap_or_else(|| Arc::new(SpinLock::new(FileTable::new())))
    }

    fn context(&self) -> Result<Context> {
        let thread = self.main_thread().ok_or(Errno::ENOENT)?;
        let fs = thread.shared_fs().ok_or(Errno::ENOENT)?;
        let context = fs.lock().clone();
        Ok(context)
    }

    fn arguments(&self) -> Result<Vec<u8>> {
        let layout = self.shared_memory().map(|memory| memory.layout()).unwrap_or_default();
        read(self, layout.arguments.0, layout.arguments.1)
    }

    fn environment(&self) -> Result<Vec<u8>> {
        let layout = self.shared_memory().map(|memory| memory.layout()).unwrap_or_default();
        read(self, layout.environment.0, layout.environment.1)
    }

    fn auxiliary_vector(&self) -> Result<Vec<u8>> {
        let (start, len) = self.program.lock().auxiliary;
        read(self, start, start.saturating_add(len))
    }

    fn areas(&self) -> Result<Vec<Area>> {
        let mut areas = Vec::new();
        let Some(memory) = self.shared_memory() else { return Ok(areas) };
        for area in memory.areas()? {
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
