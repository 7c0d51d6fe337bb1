//! Puts a machine together and runs it.
//!
//! Start-up is the product, so the two slow things happen side by side: the first vCPU's thread
//! asks KVM for the CPUID leaves while this one creates the machine, then makes the vCPU while
//! this one makes memory and devices. The guest enters when both are done and confined.

use std::fs;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::boot::BootBlock;
use crate::bus::Bus;
use crate::config::{Config, KernelImage, Outcome};
use crate::devices::serial::SerialPort;
use crate::devices::virtio::console::{Console, Files};
use crate::devices::virtio::memory::DeviceMemory;
use crate::devices::virtio::mmio::Transport;
use crate::devices::virtio::rng::Rng;
use crate::entropy;
use crate::error::Error;
use crate::event_loop::{EventLoop, Shared, SignalFile, window_size};
use crate::interrupts;
use crate::loader::Kernel;
use crate::memory::{GuestMemory, KernelBytes};
use crate::seccomp::{self, Thread};
use crate::vcpu::{Boot, Vcpus};
use crate::vm;

/// Console and random numbers.
const DEVICES: u32 = 2;
/// What a vCPU's thread needs is far below this.
const VCPU_STACK: usize = 256 << 10;

fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { doing, source }
}

/// Runs a program in a microVM until it, the user or a limit ends the machine.
///
/// Everything that the guest was told is written has been written when this returns. The calling
/// thread is confined by then (`seccomp/vmm.json`): little more is left to it than to end the process.
///
/// # Errors
///
/// Whenever the fault is Airlock's, the host's or the guest kernel's, not the program's.
pub fn run(config: Config) -> Result<Outcome, Error> {
    let begin = Instant::now();
    let file;
    let (image, path) = match &config.kernel {
        KernelImage::Embedded(bytes) => (KernelBytes::Constant(bytes), None),
        KernelImage::File(path) => {
            file = fs::read(path)
                .map_err(|source| Error::KernelFile { path: path.clone(), source })?;
            (KernelBytes::Loaded(&file), Some(path.clone()))
        }
    };
    let kernel =
        Kernel::parse(image.bytes()).map_err(|source| Error::KernelImage { path, source })?;
    let kvm = Arc::new(vm::open_kvm()?);
    check_cpus(&kvm, config.cpus)?;

    // From here on the signals that end the machine are this function's to handle, in every thread.
    let signals = SignalFile::new(config.terminal).map_err(host("watch for signals"))?;
    let boot_info = BootBlock::address_after(kernel.end());
    let vcpus = Vcpus::new(config.cpus, kernel.entry, boot_info, || confine(Thread::Vcpu));
    let vcpus = Arc::new(vcpus.map_err(host("prepare vCPU threads"))?);
    let mut threads = Threads::new(Arc::clone(&vcpus), Arc::clone(&kvm));
    let to_first = threads.spawn_first()?;
    log::debug!("{:?}: first thread started", begin.elapsed());

    let vm = Arc::new(vm::create(&kvm)?);
    threads.vm = Some(Arc::clone(&vm));
    // The thread listens until it has heard.
    let _ = to_first.send(Arc::clone(&vm));
    log::debug!("{:?}: machine created", begin.elapsed());

    let memory = Arc::new(GuestMemory::new(config.memory, &kernel, image, &config.root)?);
    // SAFETY: `memory` outlives the vCPUs: their threads have ended when it is dropped, and without
    // them nothing reads or writes through the slots. RAM is only accessed as volatile.
    unsafe { vm::add_slots(&kvm, &vm, &memory.slots)? };
    let guest: Vec<_> = memory
        .slots
        .iter()
        .filter(|slot| !slot.read_only)
        .map(|slot| (slot.host, slot.host + slot.size))
        .collect();
    log::debug!("{:?}: memory mapped", begin.elapsed());

    let (bus, mut events) = devices(&config, &vm, &memory, &vcpus, signals)?;
    log::debug!("{:?}: devices made", begin.elapsed());
    threads.spawn_secondaries(&vm, config.cpus)?;

    let block = BootBlock::new(&config, &memory, boot_info, bus.windows.len(), seed()?);
    if let Some(needed) =
        block.end().checked_sub(memory.ram_base()).filter(|needed| *needed > config.memory)
    {
        return Err(crate::memory::MemoryError::TooSmall { size: config.memory, needed }.into());
    }
    confine(Thread::Vmm)?;
    vcpus.start(Boot { block, memory, bus });
    log::debug!("{:?}: first vCPU may enter", begin.elapsed());
    events.run(&vcpus.ending, config.timeout);
    log::debug!("{:?}: machine ended", begin.elapsed());
    if let Some(statistics) = &vcpus.statistics {
        statistics.write(&guest).map_err(host("write the statistics of the run"))?;
    }
    drop(threads);
    let unknown = vcpus.unknown_accesses();
    if unknown > 0 {
        log::debug!("the guest accessed {unknown} times what does not exist");
    }
    log::debug!("{:?}: vCPUs stopped", begin.elapsed());
    vcpus.ending.take().unwrap_or(Ok(Outcome::TimedOut))
}

fn check_cpus(kvm: &Kvm, wanted: u8) -> Result<(), Error> {
    if wanted > 1 {
        let limit = kvm.get_max_vcpus();
        if usize::from(wanted) > limit {
            return Err(Error::TooManyCpus { wanted, limit });
        }
    }
    Ok(())
}

/// Takes from the calling thread, for good, every system call that its kind does not need.
fn confine(thread: Thread) -> Result<(), Error> {
    seccomp::restrict(thread)
        .map_err(|error| Error::Seccomp { thread: thread.name(), reason: error.to_string() })
}

/// Entropy for the guest.
fn seed() -> Result<[u8; 96], Error> {
    let mut seed = [0; 96];
    // Requests of up to 256 bytes are never cut short (getrandom(2)).
    entropy::fill(&mut seed).map_err(host("get random bytes"))?;
