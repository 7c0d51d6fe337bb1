//! The switch from one thread to another: what the processor holds of each.

use super::cpus;
use super::run::{Queue, admit, queue_of};
use super::stack::KernelStack;
use super::task::DEAD;
use crate::arch::cpu::Cpu;
use crate::arch::instruction::{msr, read_msr, write_msr};
use crate::arch::selectors::Selectors;
use crate::arch::{entry, fpu, native};
use crate::errno::Result;
use crate::memory::PhysAddr;
use crate::process::{self, Thread};
use crate::sync::SpinLockGuard;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

/// What the processor holds of a thread while it runs.
pub struct Saved(UnsafeCell<Registers>);

struct Registers {
    rsp: u64,
    fs_base: u64,
    gs_base: u64,
    selectors: Selectors,
    stack: Option<KernelStack>,
    fpu: Option<fpu::State>,
}

// SAFETY: only touched by the vCPU that runs the thread, or with the lock of its queue held.
unsafe impl Sync for Saved {}
// SAFETY: plain data.
unsafe impl Send for Saved {}

impl Saved {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        let registers = Registers {
            rsp: 0,
            fs_base: 0,
            gs_base: 0,
            selectors: Selectors::NULL,
            stack: None,
            fpu: None,
        };
        Self(UnsafeCell::new(registers))
    }
}

/// Gives a new thread a stack on which it enters ring 3 with the registers of `frame`, and a copy
/// of what the running thread's processor state is.
///
/// # Errors
/// ENOMEM.
pub fn prepare(thread: &Thread, frame: &crate::arch::TrapFrame) -> Result<()> {
    let stack = KernelStack::new()?;
    let rsp = stack.place(frame);
    // SAFETY: the thread is in no queue yet. Both registers exist on every x86-64 processor.
    unsafe {
        let registers = &mut *thread.task.machine.0.get();
        registers.rsp = rsp;
        registers.stack = Some(stack);
        registers.fpu = Some(fpu::State::save()?);
        registers.selectors = Selectors::current();
        (registers.fs_base, registers.gs_base) =
            native::briefly(|| (read_msr(msr::FS_BASE), read_msr(msr::KERNEL_GS_BASE)));
    }
    Ok(())
}

/// Sets the base of FS of a thread that has not run (`CLONE_SETTLS`).
pub fn set_thread_pointer(thread: &Thread, base: u64) {
    // SAFETY: the thread is in no queue yet.
    unsafe { (*thread.task.machine.0.get()).fs_base = base };
}

/// Makes the boot stack that of the first thread, which runs already.
pub fn adopt_first(thread: &Thread) {
    thread.task.begin_turn();
}

/// Leaves the running thread, if there is one, for another, or for the stack without one. Returns when
/// it runs again.
pub(super) fn switch(mut queue: SpinLockGuard<'static, Queue>, next: Option<Arc<Thread>>) {
    let cpu = Cpu::current();
    let me = cpu.thread.load(Ordering::Relaxed).cast_const();
    queue.switches += 1;
    queue.set_idle(next.is_none(), cpu.index());
    // Where ring 0 is interpreted, all that needs no privilege comes first.
    if !me.is_null() {
        // SAFETY: the vCPU's reference keeps it alive.
        let me = unsafe { &*me };
        me.task.end_turn();
        me.release_concurrency_id();
    }
    if let Some(next) = &next {
        next.task.begin_turn();
        queue.begin_slice();
    }
    let next = match next {
        Some(next) => take_over(cpu, next),
        None => {
            cpu.thread.store(core::ptr::null_mut(), Ordering::SeqCst);
            core::ptr::null()
        }
    };
    core::mem::forget(queue);
    switch_unprivileged(me, next);
    let mut unused = 0;
    let save = if me.is_null() { &raw mut unused } else { save_running(me) };
    let load = if next.is_null() {
        // The thread that leaves may free its address space as soon as it runs elsewhere.
        // SAFETY: the linked tables map the kernel like every other root.
        unsafe { cpu.set_root(crate::boot::kernel_root()) };
        cpus::stack_without_thread(cpu)
    } else {
        load_next(cpu, next)
    };
    if !me.is_null() {
        // SAFETY: the reference that the vCPU held; the process table, the queue, or the list of a
        // dead thread holds another.
        drop(unsafe { Arc::from_raw(me) });
    }
    // SAFETY: the other stack was left by this function, or prepared by `prepare`.
    unsafe { entry::switch_stacks(save, load) };
    // The switch was interpreted; what follows need not be.
    native::resume_if_used();
    finish_switch();
}

/// Makes a thread the one that runs here; returns where it is, as the vCPU has its reference now.
fn take_over(cpu: &Cpu, next: Arc<Thread>) -> *const Thread {
    let pointer = Arc::into_raw(next).cast_mut();
    // SAFETY: the vCPU's reference keeps it alive.
    let next = unsafe { &*pointer };
    // SAFETY: the registers are not in use, since the thread came out of the queue that we hold the
    // lock of.
    let stack = unsafe { &(*next.task.machine.0.get()).stack };
    let top = stack.as_ref().map_or_else(process::first_stack_top, KernelStack::top);
    cpu.set_kernel_stack(top);
    cpu.thread.store(pointer, Ordering::SeqCst);
    cpu.take_work();
    // Whoever has work for it notes that, and then looks where it runs.
    let was_elsewhere = next.rseq.note_switch();
    if next.has_work() || was_elsewhere {
        cpu.request_work();
    }
    if cpus::count() > 1 && !next.task.allows(cpu.index()) {
        cpu.request_switch();
    }
    pointer
}

/// Saves the FPU's state and the selectors of the running thread, and loads the next one's. Ring 3 can do that, where
/// the kernel runs there, so it comes before what only ring 0 can.
fn switch_unprivileged(me: *const Thread, next: *const Thread) {
    // Interpreted, ring 0 has neither the FPU's state nor the selectors that ring 3 goes on with.
    native::resume_if_used();
    if !me.is_null() {
        // SAFETY: the vCPU's reference keeps it alive.
        let task = unsafe { &(*me).task };
        if task.state.load(Ordering::Relaxed) != DEAD {
            // SAFETY: the running thread's registers are this vCPU's alone.
            let mine = unsafe { &mut *task.machine.0.get() };
            match &mine.fpu {
                Some(state) => state.save_again(),
                // Allocated when a second thread was made; the first thread's is, too.
                None => mine.fpu = fpu::State::save().ok(),
            }
            mine.selectors = Selectors::current();
        }
    }
    if !next.is_null() {
        // SAFETY: the vCPU's reference keeps it alive, and its registers are not in use, since it came out of the
        // queue whose lock is held.
        let theirs = unsafe { &*(*next).task.machine.0.get() };
        if let Some(state) = &theirs.fpu {
            state.restore_saved();
        }
        // SAFETY: they were this thread's or its parent's before. The base of FS is loaded later.
        unsafe { theirs.selectors.load() };
    }
}

/// Saves the bases that the processor holds of the running thread; returns where its RSP goes.
fn save_running(me: *const Thread) -> *mut u64 {
    // SAFETY: the vCPU's reference keeps it alive.
    let task = unsafe { &(*me).task };
    // SAFETY: the running thread's registers are this vCPU's alone.
    let mine = unsafe { &mut *task.machine.0.get() };
    if task.state.load(Ordering::Relaxed) != DEAD {
        // SAFETY: both registers exist on every x86-64 processor.
        unsafe {
            mine.fs_base = read_msr(msr::FS_BASE);
            mine.gs_base = read_msr(msr::KERNEL_GS_BASE);
        }
    }
    &raw mut mine.rsp
}

/// Gives the processor to a thread, up to its stack; returns its RSP.
fn load_next(cpu: &Cpu, next: *const Thread) -> u64 {
    // SAFETY: the vCPU's reference keeps it alive.
    let next = unsafe { &*next };
    // SAFETY: the registers are not in use, since the thread came out of the queue whose lock is held.
    let theirs = unsafe { &*next.task.machine.0.get() };
    // Never the root of someone who does not run here: it may be freed as soon as nobody runs with it.
    let root = match next.process.root() {
        PhysAddr(0) => crate::boot::kernel_root(),
        root => root,
    };
    if root != cpu.root() {
        // SAFETY: the root maps the kernel; the next thread's process keeps it while it runs.
        unsafe { cpu.set_root(root) };
    }
    // SAFETY: both registers exist; the addresses were this thread's before.
    unsafe {
        write_msr(msr::FS_BASE, theirs.fs_base);
        write_msr(msr::KERNEL_GS_BASE, theirs.gs_base);
    }
    theirs.rsp
}

/// First thing on the new stack: others may use the queue again.
pub fn finish_switch() {
    let lock = queue_of(Cpu::current().index());
    // SAFETY: whoever switched here forgot the guard, and we are its heir.
    let mut queue = unsafe { lock.inherit() };
    let dead = queue.dead.take();
    let leaving = queue.leaving.take();
    if let Some(thread) = &leaving {
        queue.leave(&thread.task, cpus::choose(&thread.task));
    }
    drop(queue);
    drop(dead);
    if let Some(thread) = leaving {
        admit(thread);
    }
}
