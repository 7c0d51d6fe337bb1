//! From the VMM's hand-over to the first program.

pub mod pvh;

use crate::arch::cpuid;
use crate::arch::frame::{rflags, selector};
use crate::arch::instruction;
use crate::arch::instruction::cr4;
use crate::arch::{TrapFrame, fpu, image_address, native, probe};
use crate::errno::{Errno, Result};
use crate::exec::{Entropy, Executable, StringList, elf, script, stack};
use crate::fs::metadata::{S_IFDIR, S_IFMT, S_IFREG};
use crate::fs::path::{Found, Last, walk};
use crate::fs::tmpfs::New;
use crate::memory::areas::{Area, AreaFlags, Backing, Label, Protection};
use crate::memory::space::AddressSpace;
use crate::memory::{PAGE, Page, PageSource, PhysAddr, SharedBytes, frame, usize_from};
use crate::process::{self, Credentials, Program};
use crate::{drivers, fs, log, random, time};
use airlock_abi::boot::{BootInfo, CpuidLeaf, Range, flags};
use airlock_abi::exit::Exit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_raw_sys::general::O_RDONLY;

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
        unsafe { instruction::set_cr4(self.cr4) };
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
    let [_, _, leaf1_ecx, leaf1_edx] = cpuid::cpuid(1, 0);
    let [_, leaf7_ebx, leaf7_ecx, _] = cpuid::cpuid(7, 0);
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
        let [low, _, _, high] = cpuid::cpuid(0xd, 0);
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
    cpuid::set_cpuid(unsafe {
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
        let [low, size, _, high] = cpuid::cpuid(0xd, 0);
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
            log!("cannot start the program: {error:?}");
            process::exit_machine(error)
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

/// An error number as an [`Exit`] has it: all that occur fit.
fn number(error: Errno) -> u8 {
    u8::try_from(error.number()).unwrap_or(u8::MAX)
}

fn not_executable(error: Errno) -> Exit {
    Exit::NotExecutable(number(error))
}

/// Mounts the root image, finds the program in it, and starts it.
fn start_program(
    info: &'static BootInfo,
    features: &Features,
) -> core::result::Result<(TrapFrame, PhysAddr), Exit> {
    let image = PhysAddr(info.root_image.start);
    // SAFETY: the root image stays mapped, read-only, as long as the machine runs.
    let image_bytes =
        unsafe { SharedBytes::new(image.to_pointer(), usize_from(info.root_image.len)) };
    let root =
        fs::FileSystem::mount(image_bytes, image).map_err(|error| Exit::NoRoot(number(error)))?;
    let mut context = fs::Context::new(root);
    let credentials = credentials(info).map_err(not_executable)?;
    mount_volumes(&context)?;
    let directory = bytes(info.directory);
    if !directory.is_empty() && directory != b"/" {
        context.directory = working_directory(&context, &credentials, directory)
            .map_err(|error| Exit::NoDirectory(number(error)))?;
    }
    let environment = bytes(info.environment);
    let (file, path) = find(&context, &credentials, bytes(info.program), environment).map_err(
        |error| match error {
            Errno::ENOENT | Errno::ENOTDIR => Exit::NotFound,
            other => not_executable(other),
        },
    )?;
    load_program(info, features, context, credentials, file, &path).map_err(|error| match error {
        Errno::ENOENT | Errno::ENOTDIR => Exit::NoInterpreter,
        other => not_executable(other),
    })
}

/// Who the first program is.
fn credentials(info: &BootInfo) -> Result<Credentials> {
    let mut credentials = Credentials::root();
    let list = bytes(info.groups);
    if !list.is_empty() {
        let mut groups = Vec::new();
        groups.try_reserve_exact(list.len() / 4).map_err(|_| Errno::ENOMEM)?;
        groups.extend(list.as_chunks().0.iter().map(|&group| u32::from_le_bytes(group)));
        credentials.groups = Some(Arc::new(groups));
    }
    if (info.user, info.group) != (0, 0) {
        let before = credentials.clone();
        let Credentials { uid, euid, suid, fsuid, gid, egid, sgid, fsgid, .. } = &mut credentials;
        (*uid, *euid, *suid, *fsuid) = (info.user, info.user, info.user, info.user);
        (*gid, *egid, *sgid, *fsgid) = (info.group, info.group, info.group, info.group);
        credentials.follow_users(&before);
    }
    Ok(credentials)
}

fn subject(credentials: &Credentials) -> fs::permission::Subject<'_> {
    fs::permission::Subject {
        user: credentials.fsuid,
        group: credentials.fsgid,
        groups: credentials.groups(),
        capabilities: credentials.effective,
    }
}

/// Opens the directory in which the program starts.
fn working_directory(
    context: &fs::Context,
    credentials: &Credentials,
    path: &[u8],
) -> Result<fs::mount::Location> {
    let found =
        walk(&context.root, &context.root, copy_of(path)?, Last::Follow, &subject(credentials))?;
    let location = found.location()?;
    if location.inode.mode()? & S_IFMT != S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    subject(credentials).check(&location.inode, fs::permission::EXECUTE)?;
    Ok(location)
}

/// Finds the program and the path it is known by: a name without a slash is looked for in the directories
/// of `PATH`, as execvp(3) does.
fn find(
    context: &fs::Context,
    credentials: &Credentials,
    name: &[u8],
    environment: &[u8],
) -> Result<(fs::FileRef, Vec<u8>)> {
    /// Without a `PATH`, as the C libraries have it.
    const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
    if name.contains(&b'/') || name.is_empty() {
        return Ok((open(context, credentials, name)?, copy_of(name)?));
    }
    let search_path = environment
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut failure = Errno::ENOENT;
    for directory in search_path.split(|&byte| byte == b':') {
        let mut path = Vec::new();
        path.try_reserve_exact(directory.len() + 1 + name.len()).map_err(|_| Errno::ENOMEM)?;
        if !directory.is_empty() {
            path.extend_from_slice(directory);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        match open(context, credentials, &path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => failure = Errno::EACCES,
            found => return Ok((found?, path)),
        }
    }
    Err(failure)
}

/// Makes the first process of a program that was found.
fn load_program(
    info: &'static BootInfo,
    features: &Features,
    context: fs::Context,
    before: Credentials,
    mut file: fs::FileRef,
    path: &[u8],
) -> Result<(TrapFrame, PhysAddr)> {
    let mut drawn = info.first_random.chunks_exact(8).skip(2).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mut next = || drawn.next().unwrap_or_else(random::next_u64);
    let mut entropy = Entropy(&mut next);
    let mut random = [0; 16];
    random.copy_from_slice(&info.first_random[..16]);

    let mut open_program = |path: &[u8]| open(&context, &before, path);
    let mut arguments = bytes(info.arguments);
    let script_arguments;
    if script::is_script(&file)? {
        let list = StringList::copy_of(arguments)?;
        (file, script_arguments) = script::follow(file, path, list, &mut open_program)?;
        arguments = script_arguments.bytes();
    }
    let (credentials, secure) =
        before.clone().of_program(&before, &file.program_metadata()?, false);
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
        ids: [credentials.uid, credentials.euid, credentials.gid, credentials.egid],
        secure,
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
        credentials,
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

/// Mounts the volumes that the command line announces, each at the path that is its device's tag.
fn mount_volumes(context: &fs::Context) -> core::result::Result<(), Exit> {
    for (index, (device, read_only)) in (0..).zip(drivers::volumes()) {
        mount_volume(context, &device, read_only)
            .map_err(|error| Exit::NoVolume { index, error: number(error) })?;
    }
    Ok(())
}

fn mount_volume(context: &fs::Context, device: &drivers::Announced, read_only: bool) -> Result<()> {
    let (channel, path) = drivers::ninep::Channel::start(device.base, device.line)?;
    fs::mount::add_volume(channel, &path, read_only)?;
    let point = directory_for_mount(context, &path)?;
    let flags = if read_only { fs::mount::READ_ONLY } else { 0 };
    let new = fs::mount::New {
        kind: b"9p",
        source: path,
        flags,
        options: b"trans=virtio",
        owner: (0, 0),
    };
    fs::mount::new(&context.mounts, point, new)
}

/// Finds a directory, and makes what is missing of its path.
fn directory_for_mount(context: &fs::Context, path: &[u8]) -> Result<Found> {
    let subject = fs::permission::Subject::ROOT;
    let find =
        |path: &[u8]| walk(&context.root, &context.root, copy_of(path)?, Last::Follow, &subject);
    let ends = (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]);
    for end in ends {
        let found = find(&path[..end])?;
        if found.inode.is_none() {
            let new = New { mode: S_IFDIR | 0o755, user: 0, group: 0, special: 0, target: &[] };
            fs::namespace::create(&found, new, &subject)?;
        }
    }
    find(path)
}

/// Opens a file that is to be executed, whether or not it may be read.
fn open(context: &fs::Context, credentials: &Credentials, path: &[u8]) -> Result<fs::FileRef> {
    let start = if path.first() == Some(&b'/') { &context.root } else { &context.directory };
    let subject = subject(credentials);
    let found = walk(&context.root, start, copy_of(path)?, Last::Follow, &subject)?;
    let inode = found.inode.clone().ok_or(Errno::ENOENT)?;
    if found.slash {
        return Err(Errno::ENOTDIR);
    }
    match inode.mode()? & S_IFMT {
        S_IFREG if found.mount.as_ref().is_some_and(|mount| mount.has(fs::mount::NO_EXECUTE)) => {
            return Err(Errno::EACCES);
        }
        S_IFREG => subject.check(&inode, fs::permission::EXECUTE)?,
        S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::EACCES),
    }
    Ok(Arc::new(fs::OpenFile::new(inode, found, None, O_RDONLY)))
}

fn copy_of(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut owned = Vec::new();
    owned.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    owned.extend_from_slice(bytes);
    Ok(owned)
}
