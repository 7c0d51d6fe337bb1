//! vCPU threads: each makes its vCPU, waits to be started, and runs it until the machine ends.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use airlock_abi::boot::EntryNote;
use airlock_abi::exit::Exit;
use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_MP_STATE_RUNNABLE, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_cpuid_entry2,
    kvm_device_attr, kvm_mp_state, kvm_msr_entry, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use crate::boot::{self, BootBlock, Clock};
use crate::bus::Bus;
use crate::config::Outcome;
use crate::cpuid;
use crate::ending::Ending;
use crate::error::Error;
use crate::exits::{Action, Crash, handle};
use crate::memory::GuestMemory;
use crate::statistics::Statistics;
use crate::vm;

// kvm-ioctls has this for Arm's vCPUs only.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
// kvm-ioctls has these for a structure of its caller's; here they work on guest memory.
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);

/// More leaves than any processor has; KVM says E2BIG if it is too few.
const MAX_CPUID_LEAVES: usize = 256;
const MSR_TSC: u32 = 0x10;
/// Where a vCPU is after a reset (SDM volume 3, section 11.1.4), which is what KVM makes of a triple
/// fault on AMD's processors.
const RESET_RIP: u64 = 0xfff0;
/// How many bytes of an instruction are shown.
const SHOWN_BYTES: usize = 15;

/// What the first vCPU needs to know that the main thread finds out.
pub struct Boot {
    /// Boot information, but for the clock.
    pub block: BootBlock,
    /// Where it goes.
    pub memory: Arc<GuestMemory>,
    /// Devices.
    pub bus: Bus,
}

/// What a vCPU that has not been started waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateState {
    Closed,
    Open,
    /// The machine ended before the vCPU was started.
    Abandoned,
}

/// Holds a vCPU back until it is started.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, state: GateState) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == GateState::Closed {
            *current = state;
            self.changed.notify_one();
        }
    }

    /// Waits to be started; says whether that happened.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = |state: &mut GateState| *state == GateState::Closed;
        *self.changed.wait_while(state, closed).unwrap_or_else(PoisonError::into_inner)
            == GateState::Open
    }
}

/// How to make a running vCPU leave the guest: KVM looks at the flag on entry, the signal ends
/// a KVM_RUN that has passed that point (KVM API documentation, "immediate_exit").
struct Kick {
    thread: libc::pthread_t,
    immediate_exit: *mut u8,
}

// SAFETY: the flag is a byte of memory that KVM shares with the process; `Vcpus::stop` alone
// writes it, under the lock that the owner of the mapping takes before it unmaps.
unsafe impl Send for Kick {}

/// What one vCPU shares with the other threads.
struct Slot {
    gate: Gate,
    kick: Mutex<Option<Kick>>,
}

/// All vCPUs of a machine.
pub struct Vcpus {
    slots: Vec<Slot>,
    /// How the machine ended.
    pub ending: Ending,
    boot: OnceLock<Boot>,
    entry: EntryNote,
    boot_info: u64,
    leaves: OnceLock<(Vec<kvm_cpuid_entry2>, bool)>,
    confine: fn() -> Result<(), Error>,
    stopping: AtomicBool,
    /// Counters for benchmarks, if they were asked for.
    pub statistics: Option<Statistics>,
}

/// The signal that makes KVM_RUN return.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn ignore_kick(_signal: libc::c_int) {}

/// Installs a handler that does nothing, so that the kick interrupts and does not kill.
fn install_kick_handler() -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction: no flags (so no restart of system calls), empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore_kick as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, which is async-signal-safe.
    if unsafe { libc::sigaction(kick_signal(), &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Vcpus {
    /// `count` vCPUs that will enter the kernel as `entry` says, each thread confined by `confine`
    /// before it waits to be started.
    ///
    /// # Errors
    ///
    /// When the host has no more file descriptors.
    pub fn new(
        count: u8,
        entry: EntryNote,
        boot_info: u64,
        confine: fn() -> Result<(), Error>,
    ) -> io::Result<Self> {
        let statistics = Statistics::from_environment()?;
        install_kick_handler()?;
        let slot = |_| Slot {
            gate: Gate { state: Mutex::new(GateState::Closed), changed: Condvar::new() },
            kick: Mutex::new(None),
        };
        Ok(Self {
            slots: (0..count).map(slot).collect(),
            ending: Ending::new()?,
            boot: OnceLock::new(),
            entry,
            boot_info,
            leaves: OnceLock::new(),
            confine,
            stopping: AtomicBool::new(false),
            statistics,
        })
    }

    /// Starts the first vCPU.
    pub fn start(&self, boot: Boot) {
        if self.boot.set(boot).is_ok() {
            self.slots[0].gate.set(GateState::Open);
        }
    }

    /// Starts a vCPU, at the guest's request; one that runs or does not exist is left alone.
    fn start_secondary(&self, index: u32) {
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.slots.get(index)) {
            slot.gate.set(GateState::Open);
        }
    }

    /// How many accesses of the guest no device answered.
    pub fn unknown_accesses(&self) -> u64 {
        self.boot.get().map_or(0, |boot| boot.bus.unknown_accesses())
    }

    /// Makes every vCPU thread return.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for slot in &self.slots {
            slot.gate.set(GateState::Abandoned);
            if let Some(kick) = &*slot.kick.lock().unwrap_or_else(PoisonError::into_inner) {
                // SAFETY: the mapping exists while the lock is held; KVM reads the byte at any time.
                unsafe { kick.immediate_exit.write_volatile(1) };
                // SAFETY: the thread exists: it takes the lock and removes itself before it ends.
                unsafe { libc::pthread_kill(kick.thread, kick_signal()) };
            }
        }
    }

    /// Body of the first vCPU's thread. The machine comes through `vm` once it exists.
    ///
    /// The vCPU is returned, so that the threads of vCPUs need not be allowed to close it.
    pub fn run_first(&self, kvm: &Kvm, vm: &Receiver<Arc<VmFd>>) -> Option<VcpuFd> {
        let result = supported_leaves(kvm).and_then(|leaves| {
            let _ = self.leaves.set(leaves);
            // The main thread drops the sender only if the machine could not be made.
            match vm.recv() {
                Ok(vm) => self.run(kvm, &vm, 0, || {}).map(Some),
                Err(_) => Ok(None),
            }
        });
        self.check(result)
    }

    fn check(&self, result: Result<Option<VcpuFd>, Error>) -> Option<VcpuFd> {
        result.unwrap_or_else(|error| {
            self.ending.end(Err(error));
            None
        })
    }

    /// Body of another vCPU's thread; `ready` hears when it is confined.
    pub fn run_secondary(
        &self,
        kvm: &Kvm,
        vm: &VmFd,
        index: u8,
        ready: &SyncSender<()>,
    ) -> Option<VcpuFd> {
        let result = self.run(kvm, vm, index, || {
            // The main thread waits for this, so the channel has room and someone to listen.
            let _ = ready.send(());
        });
        self.check(result.map(Some))
    }

    fn run(&self, kvm: &Kvm, vm: &VmFd, index: u8, ready: impl FnOnce()) -> Result<VcpuFd, Error> {
        let slot = &self.slots[usize::from(index)];
        let failed = |doing| move |error: kvm_ioctls::Error| vm::explain(kvm, doing, error.into());
        let mut vcpu = vm.create_vcpu(u64::from(index)).map_err(failed("create a vCPU"))?;
        if let Some(statistics) = &self.statistics {
            statistics.add(&vcpu);
        }
        let first = index == 0;
        let mut clock = None;
        if first {
            self.set_registers(&vcpu, index).map_err(failed("set the registers of a vCPU"))?;
            // Before the thread is confined: without a usable TSC on the host, to tell the time is a system call.
            clock = Some(set_clock(&vcpu).map_err(failed("set the clock of a vCPU"))?);
        } else {
            // Where KVM does not let us, it makes the TSCs of vCPUs that are made together alike by itself.
            clear_tsc_offset(&vcpu);
        }
        *slot.kick.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kick {
            // SAFETY: always succeeds.
            thread: unsafe { libc::pthread_self() },
            immediate_exit: &raw mut vcpu.get_kvm_run().immediate_exit,
        });
        let result = (self.confine)().and_then(|()| {
            ready();
            if !slot.gate.pass() {
                return Ok(());
            }
            let Some(boot) = self.boot.get() else { return Ok(()) };
            match clock {
                Some(clock) => boot
                    .block
                    .write(&boot.memory, clock, &self.leaves(index))
                    .map_err(|error| Error::Memory(error.into()))?,
                None => self
                    .set_registers(&vcpu, index)
                    .map_err(failed("set the registers of a vCPU"))?,
            }
            self.enter(&mut vcpu, index, boot);
            Ok(())
        });
        *slot.kick.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Err(error) = result {
            self.ending.end(Err(error));
        }
        // Dropped here, it would be closed, which the thread may not do any more.
        Ok(vcpu)
    }

    /// What CPUID says on a vCPU.
    fn leaves(&self, index: u8) -> Vec<kvm_cpuid_entry2> {
        let cpus = u8::try_from(self.slots.len()).unwrap_or(u8::MAX);
        self.leaves.get().map_or_else(Vec::new, |(leaves, tsc_deadline)| {
            cpuid::for_vcpu(leaves, index, cpus, *tsc_deadline)
        })
    }

    fn set_registers(&self, vcpu: &VcpuFd, index: u8) -> Result<(), kvm_ioctls::Error> {
        let leaves = CpuId::from_entries(&self.leaves(index))
            .map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
        // Before the system registers: KVM checks them against the features.
        vcpu.set_cpuid2(&leaves)?;
        vcpu.set_sregs(&boot::system_registers(&self.entry, index))?;
        vcpu.set_regs(&boot::general_registers(&self.entry, self.boot_info, index))?;
        if index != 0 {
            // KVM lets all but the first wait for INIT and SIPI.
            vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })?;
        }
        Ok(())
    }

    /// Runs the guest until the machine ends.
    fn enter(&self, vcpu: &mut VcpuFd, index: u8, boot: &Boot) {
        while !self.ending.has_ended() && !self.stopping.load(Ordering::Acquire) {
            let action = match vcpu.run() {
                Ok(exit) => handle(exit, &boot.bus),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Action::Resume,
                Err(error) => {
                    let source = error.into();
                    self.ending.end(Err(Error::Kvm {
                        doing: "run the guest (is its memory still there?)",
                        source,
                    }));
                    return;
                }
            };
            match action {
                Action::Resume => {}
                Action::StartCpu(index) => self.start_secondary(index),
                Action::ProcessorState { address, load } => {
                    if let Err(error) = processor_state(vcpu, &boot.memory, address, load) {
                        self.ending.end(Err(error));
                    }
                }
                Action::End(exit) => self.ending.end(outcome(exit, &boot.bus)),
                Action::BadExit(word) => self.ending.end(Err(Error::BadExit { word })),
                Action::Crash(crash) => {
                    self.ending.end(Err(crashed(vcpu, index, crash, &boot.memory)))
                }
            }
        }
    }
}

/// Saves a vCPU's extended state to a page of RAM, or loads it from there.
fn processor_state(
    vcpu: &VcpuFd,
    memory: &GuestMemory,
    address: u64,
    load: bool,
) -> Result<(), Error> {
    let page = memory.page(address, load).ok_or(Error::BadStatePage { address })?;
    let guard = page.ptr_guard_mut();
    let pointer = guard.as_ptr().cast::<kvm_xsave>();
    // KVM copies the page itself, as it copies any memory of a process that others may be writing to.
    let result = if load {
        // SAFETY: the pointer is to a page of the guest's, which is mapped as long as the guard exists.
        unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), pointer.cast_const()) }
    } else {
        // SAFETY: as above; no reference to guest RAM exists that this could contradict.
        unsafe { ioctl_with_mut_ptr(vcpu, KVM_GET_XSAVE(), pointer) }
    };
    if result == 0 { Ok(()) } else { Err(Error::BadStatePage { address }) }
}

fn outcome(exit: Exit, bus: &Bus) -> Result<Outcome, Error> {
    match exit {
        Exit::Exited(status) => Ok(Outcome::Exited(status)),
        Exit::Signaled(signal) => Ok(Outcome::Signaled(signal)),
        Exit::NotExecutable(error) => Ok(Outcome::NotExecutable(error)),
        Exit::NotFound => Ok(Outcome::NotFound),
        Exit::NoInterpreter => Ok(Outcome::NoInterpreter),
        Exit::NoRoot(error) => Ok(Outcome::NoRoot(error)),
        Exit::NoDirectory(error) => Ok(Outcome::NoDirectory(error)),
        Exit::NoVolume { index, error } => Ok(Outcome::NoVolume { index, error }),
        Exit::Panicked => Err(Error::KernelPanic { text: bus.serial.text() }),
    }
}

/// The CPUID leaves that KVM supports, and whether its local APICs have the TSC-deadline timer.
fn supported_leaves(kvm: &Kvm) -> Result<(Vec<kvm_cpuid_entry2>, bool), Error> {
    let leaves = kvm.get_supported_cpuid(MAX_CPUID_LEAVES).map_err(|error| {
        vm::explain(kvm, "ask KVM which processor features it supports", error.into())
    })?;
    Ok((leaves.as_slice().to_vec(), kvm.check_extension(Cap::TscDeadlineTimer)))
}

/// Makes a vCPU's TSC equal to the host's, if KVM lets us.
fn clear_tsc_offset(vcpu: &VcpuFd) -> bool {
    let zero: u64 = 0;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: ptr::from_ref(&zero).addr().try_into().unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the file is a vCPU, and the attribute points to the 64-bit value that KVM reads.
    unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) == 0 }
}

/// Makes the guest's TSC equal to the host's, where KVM lets us, and tells the time by it.
fn set_clock(vcpu: &VcpuFd) -> Result<Clock, kvm_ioctls::Error> {
    let offset = if clear_tsc_offset(vcpu) {
        0
    } else {
        // Before Linux 5.16: find out what the offset is.
        let mut msrs =
            Msrs::from_entries(&[kvm_msr_entry { index: MSR_TSC, ..Default::default() }])
                .map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))?;
        // SAFETY: RDTSC is available to user mode unless the process asked otherwise.
        let host = unsafe { core::arch::x86_64::_rdtsc() };
        vcpu.get_msrs(&mut msrs)?;
        msrs.as_slice().first().map_or(0, |msr| msr.data.wrapping_sub(host))
    };
    Ok(Clock::now(u64::from(vcpu.get_tsc_khz()?), offset))
}

/// Describes a guest that cannot go on.
fn crashed(vcpu: &mut VcpuFd, cpu: u8, crash: Crash, memory: &GuestMemory) -> Error {
    let mut bytes = Vec::new();
    let rip = vcpu.get_regs().map_or(0, |registers| registers.rip);
    let reason = match crash {
        Crash::TripleFault if rip == RESET_RIP => {
            "triple fault (the processor does not tell where)".to_owned()
        }
        Crash::TripleFault => "triple fault".to_owned(),
        Crash::EntryFailed(reason) => {
            format!("the processor refused to enter it (reason {reason:#x})")
        }
        Crash::Unexpected(exit) => format!("KVM stopped with {exit}, which nothing asked for"),
        Crash::Internal => {
            // SAFETY: KVM stopped with KVM_EXIT_INTERNAL_ERROR, whose details these are; every bit pattern
            // is valid for them.
            let failure = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.emulation_failure };
            if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
                format!("KVM gave up (internal error {})", failure.suberror)
            } else {
                let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
                // SAFETY: as above.
                let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
                if failure.ndata >= 3 && failure.flags & flag != 0 {
                    let size = usize::from(instruction.insn_size).min(SHOWN_BYTES);
                    bytes = instruction.insn_bytes[..size].to_vec();
                }
                "KVM cannot emulate its instruction".to_owned()
            }
        }
    };
    if bytes.is_empty()
        && let Ok(translation) = vcpu.translate_gva(rip)
        && translation.valid != 0
    {
        bytes = memory.code(translation.physical_address, SHOWN_BYTES);
    }
    Error::GuestCrash { cpu, reason, rip, bytes }
}
