//! Signals on the way back to ring 3: frames on the program's stack, and the way back from handlers.
//!
//! The frame is Linux's `struct rt_sigframe`, which debuggers and unwinders know. What comes back
//! in it is the program's word: segment selectors and the privileged bits of RFLAGS are not taken
//! from it, and an instruction pointer that IRET would fault on is a SIGSEGV.

use crate::arch::frame::{rflags, selector};
use crate::arch::{Cpu, TrapFrame, fpu};
use crate::errno::{Errno, Result};
use crate::memory::{SharedBytes, UserPtr, UserReader, UserWriter};
use crate::process::{self, NewRegisters, current, must_end};
use crate::sched::run;
use crate::signal::{Action, AlternateStack, Fault, Information, STACK_DISABLED, action, bit};
use crate::signal::{DefaultAction, default_action, number};
use airlock_abi::exit::Exit;
use airlock_abi::syscalls::by_number;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE_FLAG, FUTEX_WAIT_REQUEUE_PI,
};

/// Bytes below RSP that a function may use without moving it (System V ABI, AMD64).
const RED_ZONE: u64 = 128;
/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 2 | 4;
const UC_FP_XSTATE: u64 = 1;
/// `FP_XSTATE_MAGIC1`, `FP_XSTATE_MAGIC2`.
const XSTATE_MAGIC: [u32; 2] = [0x4650_5853, 0x4650_5845];
/// `struct sigcontext`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Context {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    /// CS, GS, FS, SS.
    selectors: [u16; 4],
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    fpu: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`: return address, `ucontext_t`, `siginfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SignalFrame {
    restorer: u64,
    flags: u64,
    link: u64,
    stack: AlternateStack,
    context: Context,
    mask: u64,
    /// `si_signo`, `si_errno`, `si_code`, padding; then what the code says.
    information: [i32; 4],
    detail: [u64; 14],
}

// SAFETY: integers without padding: every field is aligned where the previous ends.
unsafe impl crate::memory::user::Plain for SignalFrame {}
// SAFETY: likewise.
unsafe impl crate::memory::user::Plain for AlternateStack {}
// SAFETY: likewise.
unsafe impl crate::memory::user::Plain for Action {}

const _: () = assert!(size_of::<SignalFrame>() == 440);

/// `rt_sigreturn(2)`: nothing of what the call returns is kept.
pub fn rt_sigreturn() -> u64 {
    *current().new_registers.lock() = Some(NewRegisters::OfSignalFrame);
    Cpu::current().request_work();
    0
}

/// What is to be done before a program goes on: the registers of a handler's caller or of a new
/// program, the end or a stop of its process, then signals.
pub fn on_the_way_out(frame: &mut TrapFrame, mut from_call: bool) {
    let me = current();
    me.take_work();
    let new_registers = me.new_registers.lock().take();
    match new_registers {
        Some(NewRegisters::OfSignalFrame) => {
            from_call = false;
            if restore(frame).is_err() {
                force(Fault::GENERAL);
            }
        }
        Some(NewRegisters::OfProgram { rip, rsp }) => {
            from_call = false;
            *frame = TrapFrame {
                rip,
                cs: selector::USER_CODE.into(),
                rflags: rflags::FIXED | rflags::INTERRUPTS,
                rsp,
                ss: selector::USER_DATA.into(),
                ..TrapFrame::ZERO
            };
        }
        None => {}
    }
    let interrupted = from_call && frame.rax.cast_signed() == Errno::EINTR.to_register();
    let resume = me.resume_deadline.swap(0, Ordering::Relaxed);
    loop {
        if let Some(exit) = must_end() {
            process::exit_thread(exit);
        }
        if me.has_attention() && me.stopped().is_some() {
            park();
            continue;
        }
        let Some(information) = process::take(&me) else { break };
        deliver(frame, information, &mut from_call, resume);
    }
    if interrupted && from_call {
        // No handler ran: what can begin again does, for the time that was left.
        restart_without_handler(frame, resume);
    }
    if me.rseq.take_switch() {
        super::rseq::resume_or_fault(frame);
    }
    let mut signals = me.signals.lock();
    if let Some(mask) = signals.saved_mask.take() {
        let before = core::mem::replace(&mut signals.mask, mask);
        drop(signals);
        if process::deliverable(&me) {
            me.notify();
        }
        process::mask_changed(before);
    }
}

/// The process is stopped: waits until it is continued or ends.
fn park() {
    let me = current();
    loop {
        run::prepare_to_sleep();
        if me.stopped().is_none() || must_end().is_some() {
            break;
        }
        run::block();
    }
    run::stay_awake();
}

/// Does what a signal is to do. If it calls a handler, the call that it interrupted is settled.
fn deliver(frame: &mut TrapFrame, information: Information, from_call: &mut bool, deadline: u64) {
    let me = current();
    let signal = information.signal;
    let taken = {
        let mut actions = me.actions().lock();
        let taken = actions.action(signal);
        if taken.flags & action::RESETHAND != 0 && taken.handler > action::IGNORE {
            // SA_RESETHAND resets the handler alone.
            actions.set_action(signal, Action { handler: action::DEFAULT, ..taken });
        }
        taken
    };
    super::trace::signal(&information);
    match taken.handler {
        action::IGNORE => {}
        action::DEFAULT => match default_action(signal) {
            DefaultAction::Terminate => process::exit_group(Exit::Signaled(signal)),
            // Nobody could continue a process whose group is orphaned: SIGSTOP alone stops it.
            DefaultAction::Stop
                if signal == number::SIGSTOP
                    || !process::table::lock().is_orphaned(me.group(), None) =>
            {
                me.stop(signal);
            }
            DefaultAction::Stop | DefaultAction::Ignore | DefaultAction::Continue => {}
        },
        _ => {
            if core::mem::take(from_call) {
                restart_call(frame, taken, deadline);
            }
            // The handler runs outside of the critical section that it interrupts.
            if super::rseq::resume(frame).is_err() {
                force_after(signal);
            }
            if push(frame, information, taken).is_err() {
                // There is no room for the frame.
                force_after(signal);
            }
        }
    }
}

/// A signal cannot be delivered: Linux's `force_sigsegv`.
fn force_after(signal: u8) {
    if signal == number::SIGSEGV {
        current().actions().lock().set_action(signal, Action::default());
    }
    force(Fault::GENERAL);
}

fn force(fault: Fault) {
    process::force(Information::new(fault.signal, fault.code, fault.address));
}

/// How a call that a signal interrupted goes on (signal(7), "Interruption of system calls and library
/// functions by signal handlers").
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// Begins again whatever the handler's flags are.
    RestartsAnyway,
    /// Begins again if the handler has SA_RESTART, or if there was none.
    Restarts,
    /// Begins again only if there was no handler.
    EndsByHandler,
    /// Ends with EINTR in any case.
    Ends,
}

/// What becomes of the interrupted call, which would have slept until this deadline (0: without end).
fn interruption(frame: &TrapFrame, deadline: u64) -> Interruption {
    const ENDS: [&str; 7] = [
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "rt_sigtimedwait",
        "semop",
        "semtimedop",
        "io_getevents",
    ];
    const ENDS_BY_HANDLER: [&str; 10] = [
        "poll",
        "ppoll",
        "select",
        "pselect6",
        "nanosleep",
        "clock_nanosleep",
        "pause",
        "rt_sigsuspend",
        "msgrcv",
        "msgsnd",
    ];
    // Those that have a deadline from SO_RCVTIMEO or SO_SNDTIMEO.
    const ENDS_WITH_DEADLINE: [&str; 13] = [
        "read", "readv", "write", "writev", "accept", "accept4", "connect", "recvfrom", "recvmsg",
        "recvmmsg", "sendto", "sendmsg", "sendmmsg",
    ];
    let name = u32::try_from(frame.code).ok().and_then(by_number).map_or("", |call| call.name);
    if name == "futex" {
        let [operation, ..] = frame.rsi.to_le_bytes();
        return match u32::from(operation) & !FUTEX_PRIVATE_FLAG {
            FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI => Interruption::RestartsAnyway,
            // ERESTART_RESTARTBLOCK on Linux; one without a timeout is ERESTARTSYS.
            _ if deadline != 0 => Interruption::EndsByHandler,
            _ => Interruption::Restarts,
        };
    }
    if ENDS.contains(&name) || (deadline != 0 && ENDS_WITH_DEADLINE.contains(&name)) {
        Interruption::Ends
    } else if ENDS_BY_HANDLER.contains(&name) {
        Interruption::EndsByHandler
    } else {
        Interruption::Restarts
    }
}

fn begin_again(frame: &mut TrapFrame) {
    frame.rax = frame.code;
    // `syscall` and `int 0x80` both take two bytes.
    frame.rip -= 2;
}

fn restart_without_handler(frame: &mut TrapFrame, deadline: u64) {
    if interruption(frame, deadline) != Interruption::Ends {
        begin_again(frame);
        current().resume_deadline.store(deadline, Ordering::Relaxed);
    }
}

/// Lets an interrupted call begin again after a handler that asks for that.
fn restart_call(frame: &mut TrapFrame, taken: Action, deadline: u64) {
    if frame.rax.cast_signed() != Errno::EINTR.to_register() {
        return;
    }
    let restarts = match interruption(frame, deadline) {
        Interruption::RestartsAnyway => true,
        Interruption::Restarts => taken.flags & action::RESTART != 0,
        Interruption::EndsByHandler | Interruption::Ends => false,
    };
    if restarts {
        begin_again(frame);
    }
}

/// Calls a handler.
fn push(frame: &mut TrapFrame, information: Information, taken: Action) -> Result<()> {
    let process = current();
    let (stack, mask, before) = {
        let mut signals = process.signals.lock();
        let before = signals.mask;
        let mask = signals.saved_mask.take().unwrap_or(before);
        let own = if taken.flags & action::NODEFER != 0 { 0 } else { bit(information.signal) };
        signals.mask |= taken.mask | own;
        (signals.stack, mask, before)
    };
    process::mask_changed(before);
    let mut top = frame.rsp.wrapping_sub(RED_ZONE);
    if taken.flags & action::ONSTACK != 0
        && stack.flags & STACK_DISABLED == 0
        && !stack.contains(frame.rsp)
    {
        top = stack.start.wrapping_add(stack.size);
    }
    let xsave = fpu::components() != 0;
    let fpu_size = fpu::size() as u64 + if xsave { 4 } else { 0 };
    let fpu_at = top.wrapping_sub(fpu_size) & !63;
    save_fpu(fpu_at)?;
    let at = (fpu_at.wrapping_sub(size_of::<SignalFrame>() as u64) & !15).wrapping_sub(8);
    let mut detail = [0; 14];
    detail[..4].copy_from_slice(&information.detail);
    let content = SignalFrame {
        restorer: taken.restorer,
        flags: UC_FLAGS | if xsave { UC_FP_XSTATE } else { 0 },
        link: 0,
        stack,
        context: Context {
            r8: frame.r8,
            r9: frame.r9,
            r10: frame.r10,
            r11: frame.r11,
            r12: frame.r12,
            r13: frame.r13,
            r14: frame.r14,
            r15: frame.r15,
            rdi: frame.rdi,
            rsi: frame.rsi,
            rbp: frame.rbp,
            rbx: frame.rbx,
            rdx: frame.rdx,
            rax: frame.rax,
            rcx: frame.rcx,
            rsp: frame.rsp,
            rip: frame.rip,
            rflags: frame.rflags,
            selectors: [selector::USER_CODE, 0, 0, selector::USER_DATA],
            error: 0,
            trap: 0,
            old_mask: mask,
            cr2: if information.signal == number::SIGSEGV { information.detail[0] } else { 0 },
            fpu: fpu_at,
            reserved: [0; 8],
        },
        mask,
        information: [information.signal.into(), 0, information.code, 0],
        detail,
    };
    UserPtr::new(at).write(content)?;
    // A handler starts with the state that a program starts with.
    fpu::reset();
    const INFORMATION: u64 = core::mem::offset_of!(SignalFrame, information) as u64;
    const UCONTEXT: u64 = core::mem::offset_of!(SignalFrame, flags) as u64;
    frame.rdi = information.signal.into();
    frame.rsi = at + INFORMATION;
    frame.rdx = at + UCONTEXT;
    frame.rax = 0;
    frame.rsp = at;
    frame.rip = taken.handler;
    frame.rflags &= !(rflags::DIRECTION | rflags::RESUME | rflags::TRAP);
    if !is_canonical(frame.rip) {
        frame.rip = 0;
    }
    Ok(())
}

fn is_canonical(address: u64) -> bool {
    (address.cast_signed() << 16 >> 16).cast_unsigned() == address
}

fn save_fpu(at: u64) -> Result<()> {
    let state = fpu::State::save()?;
    let xsave = fpu::components() != 0;
    if xsave {
        // struct _fpx_sw_bytes: magic, extended size, components, state size.
        let size = u32::try_from(fpu::size()).unwrap_or(0);
        let software = state.frame();
        software.write(fpu::SOFTWARE, &XSTATE_MAGIC[0].to_le_bytes());
        software.write(fpu::SOFTWARE + 4, &(size + 4).to_le_bytes());
        software.write(fpu::SOFTWARE + 8, &fpu::components().to_le_bytes());
        software.write(fpu::SOFTWARE + 16, &size.to_le_bytes());
    }
    let mut writer = UserWriter::new(at, fpu::size() + 4);
    let whole = writer.write(state.bytes())? == fpu::size();
    let marked =
        !xsave || writer.write(SharedBytes::from_slice(&XSTATE_MAGIC[1].to_le_bytes()))? == 4;
    if whole && marked { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Goes back to what a handler interrupted.
fn restore(frame: &mut TrapFrame) -> Result<()> {
    // The handler's `ret` has taken the return address off the stack.
    let at = frame.rsp.wrapping_sub(8);
    let content: SignalFrame = UserPtr::new(at).read()?;
    let context = content.context;
    if !is_canonical(context.rip) {
        return Err(Errno::EFAULT);
    }
    restore_fpu(context.fpu)?;
    let before = {
        let process = current();
        let mut signals = process.signals.lock();
        let mask = content.mask & !crate::signal::UNBLOCKABLE;
        if !signals.stack.contains(context.rsp) {
            signals.stack = AlternateStack { padding: 0, ..content.stack };
        }
        core::mem::replace(&mut signals.mask, mask)
    };
    process::mask_changed(before);
    *frame = TrapFrame {
        r15: context.r15,
        r14: context.r14,
        r13: context.r13,
        r12: context.r12,
        rbp: context.rbp,
        rbx: context.rbx,
        r11: context.r11,
        r10: context.r10,
        r9: context.r9,
        r8: context.r8,
        rax: context.rax,
        rcx: context.rcx,
        rdx: context.rdx,
        rsi: context.rsi,
        rdi: context.rdi,
        code: frame.code,
        rip: context.rip,
        cs: selector::USER_CODE.into(),
        rflags: rflags::of_signal_frame(context.rflags, frame.rflags),
        rsp: context.rsp,
        ss: selector::USER_DATA.into(),
    };
    Ok(())
}

fn restore_fpu(at: u64) -> Result<()> {
    let state = fpu::State::new()?;
    if at == 0 {
        // Linux: the state that a program starts with.
        state.frame().write(0, &fpu::INITIAL_CONTROL);
        state.frame().write(24, &fpu::INITIAL_MXCSR);
        state.legacy_only();
        state.restore();
        return Ok(());
    }
    let magic = UserPtr::<u32>::new(at.wrapping_add(fpu::SOFTWARE as u64)).read()?;
    let extended = fpu::components() != 0 && magic == XSTATE_MAGIC[0];
    let size = if extended { fpu::size() } else { fpu::LEGACY };
    if UserReader::new(at, size).read_to_frame(state.frame(), 0, size)? < size {
        return Err(Errno::EFAULT);
    }
    if !extended {
        state.legacy_only();
    }
    state.restore();
    Ok(())
}
