//! What /proc shows of a process.

use super::{Pid, Process, Thread, Usage};
use crate::capability::CapabilitySet;
use crate::errno::{Errno, Result};
use crate::fs::facts::{Area, ProcessFacts, ProcessStatus};
use crate::fs::{Context, FileTable};
use crate::memory::areas::{Label, Protection};
use crate::memory::{PAGE, usize_from};
use crate::signal::{action, number};
use crate::sync::SpinLock;
use crate::time::clock::CpuTime;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

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

/// `R`, `S`, `T` or `Z`.
fn state(process: &Process, thread: Option<&Thread>) -> u8 {
    match thread {
        None => b'Z',
        Some(_) if process.stopped().is_some() => b'T',
        Some(thread) if thread.task.is_sleeping() => b'S',
        Some(_) => b'R',
    }
}

/// A process, by its oldest thread or as one of its threads.
fn status(process: &Process, thread: Option<&Thread>, usage: &Usage, tid: Pid) -> ProcessStatus {
    let ticks = |ticks: u64| crate::time::tsc_ns(ticks) / TICK_NS;
    let id = |pid: Pid| u32::try_from(pid).unwrap_or(0);
    let credentials = process.last_credentials(thread);
    let memory = process.shared_memory();
    let layout = memory.as_ref().map(|memory| memory.layout()).unwrap_or_default();
    let (mut ignored, mut caught) = (0, 0);
    if let Some(actions) = process.shared_actions() {
        let actions = actions.lock();
        for signal in 1..=number::LAST {
            match actions.action(signal).handler {
                action::DEFAULT => {}
                action::IGNORE => ignored |= crate::signal::bit(signal),
                _ => caught |= crate::signal::bit(signal),
            }
        }
    }
    let (own_pending, mask) = thread.map_or((0, 0), |thread| {
        let signals = thread.signals.lock();
        (signals.pending.set(), signals.mask)
    });
    let pending = process.pending.lock().set();
    let c = &credentials;
    ProcessStatus {
        name: process.last_name(thread),
        state: state(process, thread),
        pid: id(tid),
        thread_group: id(process.pid),
        parent: id(process.parent()),
        group: id(process.group()),
        session: id(process.session()),
        terminal: process.terminal().map_or((0, -1), |tty| (tty.device(), tty.foreground())),
        threads: u32::try_from(process.threads().len()).unwrap_or(u32::MAX),
        users: [c.uid, c.euid, c.suid, c.fsuid],
        groups: [c.gid, c.egid, c.sgid, c.fsgid],
        supplementary: Vec::from(c.groups()),
        virtual_size: memory.as_ref().map_or(0, |memory| memory.total()),
        locked: memory.as_ref().map_or(0, |memory| memory.locked()),
        resident: memory.as_ref().map_or(0, |memory| memory.resident().0),
        resident_files: 0,
        text_size: layout.code.1.saturating_sub(layout.code.0),
        data_size: layout.data.1.saturating_sub(layout.data.0)
            + layout.break_end.saturating_sub(layout.break_start),
        code: layout.code,
        stack: layout.stack_start,
        faults: usage.minor_faults,
        times: (ticks(usage.ticks_of(CpuTime::User)), ticks(usage.system)),
        start: process.start_ns / TICK_NS,
        nice: thread.map_or(0, |thread| thread.task.nice()),
        policy: thread.map_or((0, 0), |thread| thread.task.policy().numbers()),
        cpu: thread.map_or(0, |thread| thread.task.cpu()),
        capabilities: [c.inheritable, c.permitted, c.effective, c.bounding, c.ambient]
            .map(CapabilitySet::bits),
        no_new_privileges: thread
            .is_some_and(|thread| thread.no_new_privileges.load(Ordering::Relaxed)),
        signals: [pending, mask, ignored, caught],
        own_pending,
        switches: (usage.switches[0], usage.switches[1]),
    }
}

/// One thread, as /proc/PID/task/TID shows it: most is its process's.
pub struct ThreadFacts(pub Arc<Thread>);

impl ProcessFacts for ThreadFacts {
    fn status(&self) -> ProcessStatus {
        let thread = &self.0;
        let usage = thread.usage();
        status(&thread.process, Some(thread), &usage, thread.tid())
    }

    fn executable(&self) -> Vec<u8> {
        self.0.process.executable()
    }

    fn files(&self) -> Arc<SpinLock<FileTable>> {
        self.0.shared_files().unwrap_or_else(|| Arc::new(SpinLock::new(FileTable::new())))
    }

    fn context(&self) -> Result<Context> {
        let fs = self.0.shared_fs().ok_or(Errno::ENOENT)?;
        let context = fs.lock().clone();
        Ok(context)
    }

    fn arguments(&self) -> Result<Vec<u8>> {
        self.0.process.arguments()
    }

    fn environment(&self) -> Result<Vec<u8>> {
        self.0.process.environment()
    }

    fn auxiliary_vector(&self) -> Result<Vec<u8>> {
        self.0.process.auxiliary_vector()
    }

    fn areas(&self) -> Result<Vec<Area>> {
        ProcessFacts::areas(&*self.0.process)
    }

    fn limits(&self) -> [(u64, u64); 16] {
        ProcessFacts::limits(&*self.0.process)
    }

    fn thread_ids(&self) -> Vec<u32> {
        self.0.process.thread_ids()
    }
}

impl ProcessFacts for Process {
    fn status(&self) -> ProcessStatus {
        let usage = self.ended().map_or_else(|| self.usage(), |(_, usage)| usage);
        status(self, self.main_thread().as_deref(), &usage, self.pid)
    }

    fn thread_ids(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        for thread in self.threads() {
            ids.extend(u32::try_from(thread.tid()));
        }
        ids.sort_unstable();
        ids
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
        let layout = self.shared_memory().map(|memory| memory.layout()).unwrap_or_default();
        read(self, layout.auxiliary.0, layout.auxiliary.1)
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
