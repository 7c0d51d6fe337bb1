//! From the VMM's hand-over to the first program.

pub mod pvh;

use crate::arch::cpu::{self, cr4};
use crate::arch::frame::{rflags, selector};
use crate::arch::{TrapFrame, fpu, image_address, native, probe};
use crate::errno::{Errno, Result};
use crate::exec::{Entropy, Executable, StringList, elf, script, stack};
use crate::memory::areas::{Area, AreaFlags, Backing, Label, Protection};
use crate::memory::space::AddressSpace;
use crate::memory::{PAGE, Page, PageSource, PhysAddr, SharedBytes, frame, usize_from};
use crate::process::{self, Program};
use crate::{drivers, fs, log, random, time};
use airlock_abi::boot::{BootInfo, CpuidLeaf, Range, flags};
use airlock_abi::exit::Exit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Slots of the page table root that the kernel occupies; see the linker script.
pub const KERNEL_SLOTS: [usize; 3] = [273, 510, 511];

static CPUS: AtomicU64 = AtomicU64::new(1);
/// Bits of [`flags`] that the VMM set.
static FLAGS: AtomicU64 = AtomicU64::new(0);

/// Whether the VMM set one of [`flags`].
pub fn has_flag(flag: u64) -> bool {
    FLAGS.load(Ordering::Relaxed) & flag != 0
}

/// vCPUs that the machine has.
pub fn cpus() -> u64 {
    CPUS.load(Ordering::Relaxed)
}

/// AT_HWCAP and AT_HWCAP2 for programs.
static HWCAP: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// AT_HWCAP and AT_HWCAP2 for programs.
pub fn hardware_capabilities() -> (u64, u64) {
    (HWCAP[0].load(Ordering::Relaxed), HWCAP[1].load(Ordering::Relaxed))
}

/// Components of XSAVE that programs may use: x87, SSE, AVX, and the three of AVX-512.
const USER_COMPONENTS: u64 = 0b1110_0111;

/// What CPUID has and the kernel uses: bits of CR4, components of XSAVE, and what programs are told.
struct Features {
    cr4: u64,
    components: u64,
    hwcap: u64,
    hwcap2: u64,
}

impl Features {
    /// Turns them on, on the vCPU that runs this.
    fn enable(&self) {
        // SAFETY: CPUID has each of them.
        unsafe { cpu::set_cr4(self.cr4) };
        if self.cr4 & cr4::OSXSAVE != 0 {
            // SAFETY: CR4.OSXSAVE is set, and leaf 0xd has these components.
            unsafe { crate::arch::fpu::enable_xsave(self.components) };
        }
    }
}

fn features() -> Features {
    const LEAF7_EBX_FSGSBASE: u32 = 1;
    const LEAF7_EBX_SMEP: u32 = 1 << 7;
    const LEAF7_ECX_UMIP: u32 = 1 << 2;
    const LEAF1_ECX_XSAVE: u32 = 1 << 26;
    /// `HWCAP2_FSGSBASE`.
    const HWCAP2_FSGSBASE: u64 = 2;
    let [_, _, leaf1_ecx, leaf1_edx] = cpu::cpuid(1, 0);
    let [_, leaf7_ebx, leaf7_ecx, _] = cpu::cpuid(7, 0);
    let mut bits = 0;
    for (have, bit) in [
        (leaf7_ebx & LEAF7_EBX_FSGSBASE, cr4::FSGSBASE),
        (leaf7_ebx & LEAF7_EBX_SMEP, cr4::SMEP),
        (leaf7_ecx & LEAF7_ECX_UMIP, cr4::UMIP),
        (leaf1_ecx & LEAF1_ECX_XSAVE, cr4::OSXSAVE),
    ] {
        if have != 0 {
            bits |= bit;
        }
    }
    let mut components = 0;
    if bits & cr4::OSXSAVE != 0 {
        let [low, _, _, high] = cpu::cpuid(0xd, 0);
        components = (u64::from(high) << 32 | u64::from(low)) & USER_COMPONENTS;
    }
    let hwcap2 = if bits & cr4::FSGSBASE != 0 { HWCAP2_FSGSBASE } else { 0 };
    Features { cr4: bits, components, hwcap: leaf1_edx.into(), hwcap2 }
}

/// The same on the other vCPUs.
pub fn enable_features_on_secondary() {
    features().enable();
}

/// Bytes that the VMM put into memory.
fn bytes(range: Range) -> &'static [u8] {
    // SAFETY: the boot block and what it refers to stay as they are, outside of free RAM.
    unsafe {
        core::slice::from_raw_parts(PhysAddr(range.start).to_pointer(), usize_from(range.len))
    }
}

/// The kernel command line.
static COMMAND_LINE: crate::sync::SpinLock<&'static [u8]> = crate::sync::SpinLock::new(&[]);

/// The kernel command line.
pub fn command_line() -> &'static [u8] {
    *COMMAND_LINE.lock()
}

/// Brings the machine up and starts its program.
pub fn start(info: &'static BootInfo) -> ! {
    FLAGS.store(info.flags, Ordering::Relaxed);
    CPUS.store(info.cpus, Ordering::Relaxed);
    *COMMAND_LINE.lock() = bytes(info.command_line);
    let leaves = info.cpuid.len / size_of::<CpuidLeaf>() as u64;
    // SAFETY: the VMM put the list there, aligned, outside of free RAM; it consists of integers.
    cpu::set_cpuid(unsafe {
        core::slice::from_raw_parts(
            PhysAddr(info.cpuid.start).to_pointer().cast::<CpuidLeaf>(),
            usize_from(leaves),
        )
    });
    let mut ranges = info.free.map(|range| (range.start, range.start + range.len));
    let image = (info.root_image.start, info.root_image.start + info.root_image.len);
    let needed = [ranges[0], ranges[1], image];
    // SAFETY: the tables for what is not mapped yet come out of the first range, below 1 GiB.
    unsafe { crate::arch::paging::extend_direct_map(needed, &mut ranges[0].0) };
    // SAFETY: the VMM says that this RAM is unused and zero, and this is the first use of frames.
    unsafe { frame::init(ranges) };
    time::start(info.tsc_khz, info.tsc, info.realtime_ns);
    random::seed(info.seed);
    if has_flag(flags::STRACE) {
        probe::set_traced();
    }
    let features = features();
    if probe::syscall_faults() && has_flag(flags::PROCESSOR_STATE) {
        let [low, size, _, high] = cpu::cpuid(0xd, 0);
        let components = (u64::from(high) << 32 | u64::from(low)) & USER_COMPONENTS;
        fpu::use_vmm(components, usize_from(size.into()));
    }
    HWCAP[0].store(features.hwcap, Ordering::Relaxed);
    HWCAP[1].store(features.hwcap2, Ordering::Relaxed);
    drivers::console::take_over(&info.console);
    fs::services::install(&drivers::FILE_SERVICES);
    let started = start_program(info, &features);
    // What needs ring 0 comes last: on host B, all before is executed in ring 3.
    native::end();
    log!("airlock kernel: {} MiB of RAM", (frame::total() * PAGE) >> 20);
    match started {
        Ok((frame, root)) => {
            features.enable();
            // SAFETY: the process keeps its address space, whose root maps the kernel.
            unsafe { probe::enter_user(&frame, root) }
        }
        Err(error) => {
            log!("cannot start the program: {error}");
            process::exit_machine(match error {
                Errno::ENOENT | Errno::ENOTDIR => Exit::NotFound,
                _ => Exit::NotExecutable,
            })
        }
    }
}

/// Pages that exist once and are mapped into every program: the vDSO and its data.
struct FixedPages(PhysAddr);

impl PageSource for FixedPages {
    fn page(&self, index: u64, _write: bool) -> Result<Page> {
        if index == 0 { Ok(Page::Image(self.0)) } else { Err(Errno::EFAULT) }
    }

    fn image_run(&self, index: u64) -> Option<(PhysAddr, u64)> {
        (index == 0).then_some((self.0, 1))
    }
}

/// Guest-physical address of the page table root that is linked in.
pub fn kernel_root() -> PhysAddr {
    unsafe extern "C" {
        static kernel_pml4: u8;
    }
    image_address(&raw const kernel_pml4)
}

/// Maps the vDSO and its data above the stack, if there is room; returns the address of its header.
///
/// # Errors
/// ENOMEM.
pub fn map_vdso(space: &AddressSpace, stack_top: u64, entropy: &mut Entropy<'_>) -> Result<u64> {
    // Above the stack if there is room in the same page table, as on Linux; it saves a frame, too.
    const SPAN: u64 = 512 * PAGE;
    let room = (stack_top | (SPAN - 1)).saturating_sub(stack_top + 3 * PAGE) / PAGE;
    let start = stack_top + PAGE + if room == 0 { 0 } else { entropy.bits(9) % room * PAGE };
    let page = |address: u64, pointer: PhysAddr, protection, label| {
        let backing = Backing::Object { source: Arc::new(FixedPages(pointer)), first_page: 0 };
        let (start, end) = (address, address + PAGE);
        let area = Area {
            start,
            end,
            protection,
            allowed: protection,
            shared: false,
            backing,
            label,
            flags: AreaFlags::NONE,
        };
        space.add(area, 1)
    };
    let code = Protection::READ.with(Protection::EXECUTE);
    page(start, image_address(&raw const time::VVAR), Protection::READ, Label::Vvar)?;
    page(start + PAGE, image_address(time::vdso::image().as_ptr()), code, Label::Vdso)?;
    Ok(start + PAGE)
}

fn start_program(info: &'static BootInfo, features: &Features) -> Result<(TrapFrame, PhysAddr)> {
    let image = PhysAddr(info.root_image.start);
    // SAFETY: the root image stays mapped, read-only, as long as the machine runs.
    let image_bytes =
        unsafe { SharedBytes::new(image.to_pointer(), usize_from(info.root_image.len)) };
    let root = fs::FileSystem::mount(image_bytes, image)?;
    let mut context = fs::Context::new(root);
    let subject = fs::permission::Subject::ROOT;
    let directory = bytes(info.directory);
    if !directory.is_empty() && directory != b"/" {
        let found = fs::open(
            &context,
            &context.root,
            directory.to_vec(),
            linux_raw_sys::general::O_DIRECTORY,
            0,
            &subject,
        )?;
        context.directory = found.inode().clone();
    }
    let path = bytes(info.program);
    let mut file = open(&context, path)?;
    subject.check(file.inode(), fs::permission::EXECUTE)?;
    let mut drawn = info.first_random.chunks_exact(8).skip(2).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mut next = || drawn.next().unwrap_or_else(random::next_u64);
    let mut entropy = Entropy(&mut next);
    let mut random = [0; 16];
    random.copy_from_slice(&info.first_random[..16]);

    let mut open_program = |path: &[u8]| {
        let file = open(&context, path)?;
        subject.check(file.inode(), fs::permission::EXECUTE)?;
        Ok(file)
    };
    let mut arguments = bytes(info.arguments);
    let script_arguments;
    if script::is_script(&file)? {
        let list = StringList::copy_of(arguments)?;
        (file, script_arguments) = script::follow(file, path, list, &mut open_program)?;
        arguments = script_arguments.bytes();
    }
    let executing = fs::Executing::new(file.inode())?;
    let program_path = file.path(&context.root)?;
    let executable = Executable::new(file, program_path.clone())?;
    let mut open_interpreter = |path: &[u8]| Executable::new(open_program(path)?, path.to_vec());
    let space = AddressSpace::new(kernel_root(), &KERNEL_SLOTS)?;
    let mut layout = stack::place(&space, &mut entropy)?;
    let vdso = map_vdso(&space, layout.stack_start, &mut entropy)?;
    let loaded = elf::load(&space, &executable, &mut open_interpreter, &mut entropy)?;
    elf::finish_layout(&mut layout, &loaded, &mut entropy);
    let start = stack::Start {
        arguments: stack::Strings(arguments),
        environment: stack::Strings(bytes(info.environment)),
        path,
        hwcap: features.hwcap,
        hwcap2: features.hwcap2,
        minimum_signal_stack: crate::signal::MINIMUM_STACK,
        ids: [0; 4],
        secure: false,
        random,
        vdso,
    };
    let rsp = stack::fill(&space, &mut layout, &start, &loaded, &mut entropy)?;

    let mut files = fs::FileTable::new();
    let mut terminal = None;
    let standard = if has_flag(flags::TERMINAL) {
        terminal = Some(drivers::terminal::start()?);
        fs::terminal_files(&context)?
    } else {
        fs::standard_files()
    };
    for file in standard {
        files.add(file, false)?;
    }
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let space = Arc::new(space);
    let space_root = space.root();
    process::start_first(process::First {
        memory: space,
        files,
        fs: context,
        terminal,
        program: Program { path: program_path, executing: Some(executing) },
        name: name.to_vec(),
        start_ns: time::monotonic_ns(),
    });
    let frame = TrapFrame {
        rip: loaded.start,
        cs: selector::USER_CODE.into(),
        rflags: rflags::FIXED | rflags::INTERRUPTS,
        rsp,
        ss: selector::USER_DATA.into(),
        ..TrapFrame::ZERO
    };
    Ok((frame, space_root))
}

fn open(context: &fs::Context, path: &[u8]) -> Result<fs::FileRef> {
    let mut owned = Vec::new();
    owned.try_reserve_exact(path.len()).map_err(|_| Errno::ENOMEM)?;
    owned.extend_from_slice(path);
    fs::open(context, &context.directory, owned, 0, 0, &fs::permission::Subject::ROOT)
}
