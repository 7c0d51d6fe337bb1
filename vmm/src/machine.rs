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

use airlock_abi::boot::StartedConsole;
use airlock_abi::console::{PORT_STDERR, PORT_STDOUT, ring, transmit_queue};
use airlock_abi::layout::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_IRQ_BASE};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::boot::BootBlock;
use crate::bus::{Bus, Registers};
use crate::config::{Config, KernelImage, Outcome};
use crate::devices::serial::SerialPort;
use crate::devices::virtio::Notify;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::console::{Console, Files};
use crate::devices::virtio::memory::DeviceMemory;
use crate::devices::virtio::mmio::Transport;
use crate::devices::virtio::ninep::NineP;
use crate::devices::virtio::queue::QueueRegisters;
use crate::devices::virtio::rng::Rng;
use crate::entropy;
use crate::error::Error;
use crate::event_loop::{EventLoop, Shared, SignalFile, window_size};
use crate::interrupts;
use crate::loader::Kernel;
use crate::memory::{GuestMemory, KernelBytes};
use crate::seccomp::{self, Thread};
use crate::statistics::Statistics;
use crate::strace;
use crate::vcpu::{Boot, Vcpus};
use crate::vm;
use crate::volume::{self, Connection};

/// Console, random numbers and balloon; volumes come behind them.
const DEVICES: usize = 3;
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
    // They fork, so there must be no other thread yet.
    let volumes: Vec<Connection> =
        config.volumes.iter().map(volume::start).collect::<Result<_, _>>()?;
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
    let ranges = |read_only| -> Vec<_> {
        let slots = memory.slots.iter().filter(|slot| slot.read_only == read_only);
        slots.map(|slot| (slot.host, slot.host + slot.size)).collect()
    };
    let (guest, in_place) = (ranges(false), ranges(true));
    if vcpus.statistics.is_some() {
        Statistics::set_apart(&in_place).map_err(host("prepare the statistics of the run"))?;
    }
    log::debug!("{:?}: memory mapped", begin.elapsed());

    let rings = BootBlock::rings_after(kernel.end());
    let (bus, mut events, console) =
        devices(&config, volumes, &vm, &memory, rings, &vcpus, signals)?;
    log::debug!("{:?}: devices made", begin.elapsed());
    threads.spawn_secondaries(&vm, config.cpus)?;

    let block = BootBlock::new(&config, &memory, boot_info, bus.windows.len(), console, seed()?);
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
        statistics.write(&guest, &in_place).map_err(host("write the statistics of the run"))?;
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
    Ok(seed)
}

fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("create an eventfd"))
}

/// Makes the devices, and the loop that attends to them.
fn devices(
    config: &Config,
    volumes: Vec<Connection>,
    vm: &VmFd,
    memory: &GuestMemory,
    rings: [u64; 2],
    vcpus: &Arc<Vcpus>,
    signals: SignalFile,
) -> Result<(Bus, EventLoop, StartedConsole), Error> {
    let mut interrupts = interrupts::connect(vm, DEVICES + volumes.len())
        .map_err(|error| Error::Kvm { doing: "connect device interrupts", source: error.into() })?
        .into_iter();
    let mut interrupt = || {
        let missing = || host("connect device interrupts")(io::Error::other("count"));
        interrupts.next().ok_or_else(missing)
    };
    let (console_irq, rng_irq, balloon_irq) = (interrupt()?, interrupt()?, interrupt()?);
    let reach =
        DeviceMemory { ram: Arc::clone(&memory.ram), readable: Arc::clone(&memory.readable) };
    let duplicate = |event: &EventFd| event.try_clone().map_err(host("duplicate an eventfd"));

    let mut device = Console::new(Files {
        standard: [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO],
        terminal: config.terminal,
        trace: config
            .strace
            .as_ref()
            .map(strace::sink)
            .transpose()
            .map_err(host("duplicate the file of the trace"))?,
    });
    if let Some((columns, rows)) = config.terminal.then(window_size).flatten() {
        device.resize(columns, rows);
    }
    let console_wake = event()?;
    let mut console = Transport::new(device, reach.clone(), console_irq, duplicate(&console_wake)?);
    // Each access to a register is an exit, and costs host B as much as a thousand instructions.
    let started =
        if config.terminal { StartedConsole::default() } else { start(&mut console, rings) };
    let console: Shared<Console> = Arc::new(Mutex::new(console));
    let rng_wake = event()?;
    let rng: Shared<Rng> =
        Arc::new(Mutex::new(Transport::new(Rng, reach.clone(), rng_irq, duplicate(&rng_wake)?)));
    let balloon_wake = event()?;
    let balloon: Shared<Balloon> = Arc::new(Mutex::new(Transport::new(
        Balloon,
        reach.clone(),
        balloon_irq,
        duplicate(&balloon_wake)?,
    )));

    let mut events = EventLoop::new(Arc::clone(vcpus), Arc::clone(&console), signals)?;
    events.attend(Arc::clone(&console), console_wake);
    events.attend(Arc::clone(&rng), rng_wake);
    events.attend(Arc::clone(&balloon), balloon_wake);
    let mut windows: Vec<Arc<Mutex<dyn Registers>>> = vec![console, rng, balloon];
    for (volume, connection) in config.volumes.iter().zip(volumes) {
        let device = NineP::new(connection.into_socket(), volume.guest.clone());
        let wake = event()?;
        let device: Shared<NineP> = Arc::new(Mutex::new(Transport::new(
            device,
            reach.clone(),
            interrupt()?,
            duplicate(&wake)?,
        )));
        events.attend(Arc::clone(&device), wake);
        windows.push(device);
    }
    let bus = Bus::new(SerialPort::new(config.verbose), windows);
    Ok((bus, events, started))
}

/// Starts the console for the guest, with queues for standard output and error in these pages.
fn start<I: Notify, W: Notify>(
    console: &mut Transport<Console, I, W>,
    [output, errors]: [u64; 2],
) -> StartedConsole {
    let queue = |port, page| {
        let registers = QueueRegisters {
            size: ring::SIZE.into(),
            descriptors: page,
            available: page + ring::AVAILABLE,
            used: page + ring::USED,
        };
        (transmit_queue(port), registers)
    };
    console.start([queue(PORT_STDOUT, output), queue(PORT_STDERR, errors)]);
    StartedConsole {
        registers: VIRTIO_MMIO_BASE,
        interrupt: VIRTIO_MMIO_IRQ_BASE.into(),
        output,
        errors,
    }
}

/// The vCPU threads; dropping this ends them.
///
/// It shares what they share, so that none of them is the last to drop, and so to close, any of it.
struct Threads {
    vcpus: Arc<Vcpus>,
    kvm: Arc<Kvm>,
    vm: Option<Arc<VmFd>>,
    handles: Vec<JoinHandle<Option<VcpuFd>>>,
}

impl Threads {
    const fn new(vcpus: Arc<Vcpus>, kvm: Arc<Kvm>) -> Self {
        Self { vcpus, kvm, vm: None, handles: Vec::new() }
    }

    fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce(&Vcpus) -> Option<VcpuFd> + Send + 'static,
    ) -> Result<(), Error> {
        let vcpus = Arc::clone(&self.vcpus);
        let builder = thread::Builder::new().name(name).stack_size(VCPU_STACK);
        self.handles
            .push(builder.spawn(move || body(&vcpus)).map_err(host("create a vCPU thread"))?);
        Ok(())
    }

    /// The thread of the first vCPU, which waits for the machine.
    fn spawn_first(&mut self) -> Result<SyncSender<Arc<VmFd>>, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let kvm = Arc::clone(&self.kvm);
        self.spawn("vcpu0".to_owned(), move |vcpus| vcpus.run_first(&kvm, &receiver))?;
        Ok(sender)
    }

    /// The threads of the other vCPUs; returns when all of them are confined.
    fn spawn_secondaries(&mut self, vm: &Arc<VmFd>, cpus: u8) -> Result<(), Error> {
        let (ready, readiness) = mpsc::sync_channel(usize::from(cpus));
        for index in 1..cpus {
            let (kvm, vm, ready) = (Arc::clone(&self.kvm), Arc::clone(vm), ready.clone());
            self.spawn(format!("vcpu{index}"), move |vcpus| {
                vcpus.run_secondary(&kvm, &vm, index, &ready)
            })?;
        }
        drop(ready);
        for _ in 1..cpus {
            // One that failed hangs up, and has said why to the event loop.
            let _ = readiness.recv();
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.vcpus.stop();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}
