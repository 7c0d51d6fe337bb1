//! One vCPU: the block that GS points to, its segments and tables, and how it waits.

use super::frame::{TrapFrame, selector};
use super::instruction::{msr, write_cr3, write_msr};
use super::native::{self, Native};
use super::tlb::reload_root;
use crate::memory::PhysAddr;
use crate::process::Thread;
use airlock_abi::boot::flags;
use airlock_abi::layout;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// As many vCPUs as the kernel supports; x2APIC ids up to 254 are addressable by MSI.
pub const MAX_CPUS: u32 = 254;

/// Task state segment of 64-bit mode (SDM volume 3, figure 8-11).
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    /// Stack for entry from ring 3.
    rsp: [u64; 3],
    reserved2: u64,
    /// Stacks that interrupt gates name by number, from 1.
    ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    io_map_base: u16,
}

/// How many interrupt stacks the gates use.
pub const INTERRUPT_STACKS: usize = 4;
const INTERRUPT_STACK_SIZE: usize = 4096;

/// Stack of a vector that may strike anywhere. The word above its top is the address of the vCPU's
/// block, since GS cannot be trusted then.
#[repr(C, align(16))]
struct InterruptStack {
    bytes: [u8; INTERRUPT_STACK_SIZE - 16],
    cpu: u64,
    padding: u64,
}

/// What GS points to in the kernel. `repr(C)`: entry code uses the offsets.
#[repr(C, align(64))]
pub struct Cpu {
    /// Its own address, for `gs:[0]`.
    this: AtomicPtr<Cpu>,
    /// The program's RSP between SYSCALL and the switch of stacks.
    pub(super) user_rsp: AtomicU64,
    /// Top of the current thread's kernel stack.
    pub(super) stack_top: AtomicU64,
    /// Whether the way back to the program must go through the slow path.
    pub(super) work: AtomicBool,
    /// Number of this vCPU, also its APIC id.
    index: AtomicU32,
    /// The thread that runs; the vCPU holds a reference to it.
    pub thread: AtomicPtr<Thread>,
    /// Whether another thread shall have its turn.
    switch: AtomicBool,
    /// Whether the callee-saved registers of the program are in its frame already; see `entry`.
    pub(super) complete: AtomicBool,
    /// What CR3 holds.
    root: AtomicU64,
    /// What CR3 will hold in a moment; 0 otherwise.
    next_root: AtomicU64,
    /// How often others asked this vCPU to forget translations, and how much of that it has done.
    asked: AtomicU64,
    forgotten: AtomicU64,
    /// A wake-up is on its way: another one need not be sent.
    called: AtomicBool,
    /// It waits for an interrupt, or handles one that it waited for: it touches no program's memory.
    halted: AtomicBool,
    /// RIP of the last page fault of a program; 0 once it was asked for.
    fault_rip: AtomicU64,
    /// Top of the stack on which it waits when it has no thread at all (guest-virtual).
    pub idle_stack: AtomicU64,
    /// The locks that it holds.
    #[cfg(debug_assertions)]
    held: crate::sync::order::Held,
    /// What host B needs.
    pub(super) native: Native,
    gdt: [u64; 10],
    tss: TaskState,
    stacks: [InterruptStack; INTERRUPT_STACKS],
}

const GDT: [u64; 10] = [
    0,
    0,
    0x00af_9b00_0000_ffff, // kernel code, 64-bit
    0x00cf_9300_0000_ffff, // kernel data
    0x00cf_fb00_0000_ffff, // user code, 32-bit
    0x00cf_f300_0000_ffff, // user data
    0x00af_fb00_0000_ffff, // user code, 64-bit
    0,
    0, // TSS, two entries
    0,
];

/// Beyond the limit of the task state segment: no port is open to programs.
const NO_IO_MAP: u16 = 104;

impl Cpu {
    const fn new() -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            user_rsp: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            work: AtomicBool::new(false),
            index: AtomicU32::new(0),
            thread: AtomicPtr::new(core::ptr::null_mut()),
            switch: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            root: AtomicU64::new(0),
            next_root: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            called: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            fault_rip: AtomicU64::new(0),
            idle_stack: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            held: crate::sync::order::Held::new(),
            native: Native::new(),
            gdt: GDT,
            tss: TaskState {
                reserved: 0,
                rsp: [0; 3],
                reserved2: 0,
                ist: [0; 7],
                reserved3: 0,
                reserved4: 0,
                io_map_base: NO_IO_MAP,
            },
            stacks: [const {
                InterruptStack { bytes: [0; INTERRUPT_STACK_SIZE - 16], cpu: 0, padding: 0 }
            }; INTERRUPT_STACKS],
        }
    }

    /// The vCPU that runs this code.
    #[inline]
    pub fn current() -> &'static Self {
        let cpu: *const Self;
        // SAFETY: in the kernel GS points to the vCPU's block, whose first word is its own address.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly, pure));
            &*cpu
        }
    }

    /// Its number, from 0.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// Top of the current thread's kernel stack.
    pub fn kernel_stack(&self) -> u64 {
        self.stack_top.load(Ordering::Relaxed)
    }

    /// Makes the next entries from ring 3 use the stack that ends at `top`.
    pub fn set_kernel_stack(&self, top: u64) {
        self.stack_top.store(top, Ordering::Relaxed);
        if super::probe::syscall_faults() {
            self.native.set_kernel_stack(top);
            return;
        }
        // SAFETY: only this vCPU writes its TSS, and the processor reads it when it changes rings.
        unsafe { (&raw const self.tss.rsp).cast_mut().cast::<u64>().write_unaligned(top) };
    }

    /// Whether work was asked for.
    pub fn has_work(&self) -> bool {
        self.work.load(Ordering::Relaxed)
    }

    /// Begins the work that was asked for; more may be asked for meanwhile, also by other vCPUs: what is
    /// looked at afterwards is no older than the flag.
    pub fn take_work(&self) {
        self.work.swap(false, Ordering::SeqCst);
    }

    /// Asks for a turn of another thread, on the way back to ring 3.
    pub fn request_switch(&self) {
        self.switch.store(true, Ordering::Release);
        self.request_work();
    }

    /// Whether that was asked for.
    pub fn take_switch(&self) -> bool {
        self.switch.load(Ordering::Acquire) && self.switch.swap(false, Ordering::Acquire)
    }

    /// Whether translations of the address space with this root may be remembered here.
    pub fn uses(&self, root: PhysAddr) -> bool {
        // In this order: a root moves from the second to the first.
        self.next_root.load(Ordering::SeqCst) == root.0
            || self.root.load(Ordering::SeqCst) == root.0
    }

    /// Asks the vCPU, from another, to forget what it remembers of programs' pages; says whether that has to be
    /// waited for. If not, it does so when it is no longer halted.
    pub fn ask_to_forget(&self, even_halted: bool) -> bool {
        // In this order, and the other way round on the vCPU's way out of its halt: one sees the other.
        self.asked.fetch_add(1, Ordering::SeqCst);
        if !even_halted && self.halted.load(Ordering::SeqCst) {
            return false;
        }
        self.call();
        true
    }

    /// How often that was asked.
    pub fn asked_so_far(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Whether the vCPU has done it so often.
    pub fn has_forgotten(&self, number: u64) -> bool {
        self.forgotten.load(Ordering::Acquire) >= number
    }

    /// Forgets translations if another vCPU asked for it. Called on this vCPU by whoever waits with
    /// interrupts off, and by the wake-up's handler.
    pub fn forget_if_asked(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        if asked != self.forgotten.load(Ordering::Relaxed) {
            if native::is_here() {
                self.native.note_stale_elsewhere();
            } else {
                reload_root();
            }
            self.forgotten.store(asked, Ordering::Release);
        }
    }

    /// Interrupts the vCPU, from another.
    pub fn call(&self) {
        if self.called.swap(true, Ordering::SeqCst) {
            return;
        }
        let was_native = native::is_here();
        super::apic::send_wake(self.index());
        if was_native {
            native::resume();
        }
    }

    /// The interrupt of [`Self::call`] has arrived.
    pub fn answer(&self) {
        self.called.swap(false, Ordering::SeqCst);
        self.forget_if_asked();
    }

    /// A page fault of a program is handled.
    pub fn note_fault_rip(&self, rip: u64) {
        self.fault_rip.store(rip, Ordering::Relaxed);
    }

    /// Where the last one was, if nobody has asked since.
    pub fn take_fault_rip(&self) -> u64 {
        let rip = self.fault_rip.load(Ordering::Relaxed);
        self.fault_rip.store(0, Ordering::Relaxed);
        rip
    }

    /// What CR3 holds (guest-physical).
    pub fn root(&self) -> PhysAddr {
        PhysAddr(self.root.load(Ordering::Relaxed))
    }

    /// Switches to another address space.
    ///
    /// # Safety
    /// As for [`switch_space`].
    pub unsafe fn set_root(&self, root: PhysAddr) {
        // Whoever changes the tables finds the root here before the processor uses them, and until it
        // does no longer; loading CR3 waits for the store.
        self.next_root.store(root.0, Ordering::Relaxed);
        // SAFETY: by the contract.
        unsafe { switch_space(root.0) };
        self.root.store(root.0, Ordering::Release);
        self.next_root.store(0, Ordering::Release);
    }

    /// The next system call is handled by a function that was called from Rust: the program's frame is
    /// complete.
    pub fn set_frame_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Sends the way back to the program through the slow path, once.
    pub fn request_work(&self) {
        self.work.store(true, Ordering::Release);
    }
}

/// Lets a moment pass for whoever waits for another vCPU with interrupts off: what that one may wait for
/// in turn is done.
pub fn relax() {
    Cpu::current().forget_if_asked();
    core::hint::spin_loop();
}

/// Lets the host run another vCPU instead of this one, if it knows how: they may have fewer processors than they are.
/// This is a memory access, which ring 3 may have on host B, and around 50 us there.
pub fn yield_to_host() {
    if crate::boot::has_flag(flags::YIELD) {
        // SAFETY: the VMM says that the register is there, and it changes no memory.
        unsafe { PhysAddr(layout::YIELD_ADDRESS).to_pointer().cast::<u32>().write_volatile(0) };
    }
}

static mut BOOT_CPU: Cpu = Cpu::new();
/// Blocks of all vCPUs by number; null until they start.
static CPUS: [AtomicPtr<Cpu>; MAX_CPUS as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS as usize];

/// Prepares the block of a vCPU that is not the first.
#[inline(never)]
pub fn prepare_secondary(index: u32) -> Option<()> {
    let slot = CPUS.get(index as usize)?;
    // SAFETY: the layout has a size. A block is larger than a kernel stack: it must not be made there.
    let cpu = unsafe { alloc::alloc::alloc_zeroed(core::alloc::Layout::new::<Cpu>()) };
    let cpu = cpu.cast::<Cpu>();
    if cpu.is_null() {
        return None;
    }
    // SAFETY: just allocated; zeroes are what `Cpu::new` says of everything else.
    unsafe {
        (*cpu).gdt = GDT;
        (*cpu).tss.io_map_base = NO_IO_MAP;
    }
    slot.store(cpu, Ordering::Release);
    Some(())
}

/// Loads segments, tables and the MSRs of SYSCALL on the vCPU that runs this.
///
/// # Safety
/// Called once on each vCPU, first of all, with interrupts off; `index` is below [`MAX_CPUS`].
pub unsafe fn init(index: u32, stack_top: u64, syscall_target: u64) {
    unsafe extern "C" {
        static idt: u8;
    }
    let cpu = if index == 0 {
        let cpu = &raw mut BOOT_CPU;
        CPUS[0].store(cpu, Ordering::Relaxed);
        cpu
    } else {
        CPUS[index as usize].load(Ordering::Acquire)
    };
    // SAFETY: the block belongs to this vCPU, which is only now starting to use it.
    let block = unsafe { &mut *cpu };
    let address = cpu.expose_provenance() as u64;
    block.this.store(cpu, Ordering::Relaxed);
    block.index.store(index, Ordering::Relaxed);
    block.stack_top.store(stack_top, Ordering::Relaxed);
    // In case this is host B, the monitor's stack, until the probe knows better.
    block.tss.rsp = [block.native.prepare(), 0, 0];
    block.native.set_kernel_stack(stack_top);
    if index != 0 {
        block.set_kernel_stack(stack_top);
    }
    let mut ist = [0; 7];
    for (slot, stack) in ist.iter_mut().zip(&mut block.stacks) {
        stack.cpu = address;
        *slot = (&raw const stack.cpu).expose_provenance() as u64;
    }
    block.tss.ist = ist;
    let tss = (&raw const block.tss).expose_provenance() as u64;
    // Available 64-bit TSS, limit 103 (SDM volume 3, figure 8-4).
    block.gdt[8] = 103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    block.gdt[9] = tss >> 32;
    let gdt =
        TablePointer { limit: 10 * 8 - 1, base: (&raw const block.gdt).expose_provenance() as u64 };
    let interrupts =
        TablePointer { limit: 256 * 16 - 1, base: (&raw const idt).expose_provenance() as u64 };
    // SAFETY: both tables live as long as the kernel and describe flat segments and our handlers; the
    // new selectors mean the same as those that the vCPU started with.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{interrupts}]",
            "mov ss, {data:e}",
            "xor {scratch:e}, {scratch:e}",
            "mov ds, {scratch:e}",
            "mov es, {scratch:e}",
            "mov fs, {scratch:e}",
            "mov gs, {scratch:e}",
            "ltr {tss:x}",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            gdt = in(reg) &raw const gdt,
            interrupts = in(reg) &raw const interrupts,
            data = in(reg) u32::from(selector::KERNEL_DATA),
            code = in(reg) u64::from(selector::KERNEL_CODE),
            tss = in(reg) selector::TSS,
            scratch = out(reg) _,
        );
        write_msr(msr::GS_BASE, address);
        write_msr(msr::KERNEL_GS_BASE, 0);
        write_msr(
            msr::STAR,
            u64::from(selector::USER_CODE_32) << 48 | u64::from(selector::KERNEL_CODE) << 32,
        );
        write_msr(msr::LSTAR, syscall_target);
        write_msr(msr::SFMASK, SYSCALL_MASK);
    }
    #[cfg(debug_assertions)]
    STARTED.store(true, Ordering::Relaxed);
}

/// The locks that the vCPU which runs this holds; `None` before it knows which it is.
#[cfg(debug_assertions)]
pub fn held_locks() -> Option<&'static crate::sync::order::Held> {
    STARTED.load(Ordering::Relaxed).then(|| &Cpu::current().held)
}

/// Whether the first vCPU has its block.
#[cfg(debug_assertions)]
static STARTED: AtomicBool = AtomicBool::new(false);

/// Loads another interrupt descriptor table of 256 gates.
///
/// # Safety
/// It lives as long as the kernel and its gates lead to handlers.
pub unsafe fn load_interrupt_table(base: u64) {
    let pointer = TablePointer { limit: 256 * 16 - 1, base };
    // SAFETY: by the contract.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags))
    };
}

/// Loads the table of [`super::entry`].
pub fn load_ordinary_table() {
    unsafe extern "C" {
        static idt: u8;
    }
    // SAFETY: the linker script's table, whose gates lead to the stubs there.
    unsafe { load_interrupt_table((&raw const idt).expose_provenance() as u64) };
}

/// Operand of LGDT and LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// What Linux clears: the kernel starts with interrupts, traps, direction and AC off.
const SYSCALL_MASK: u64 = {
    use super::frame::rflags::{ALIGNMENT, DIRECTION, INTERRUPTS, IOPL, NESTED, RESUME, TRAP};
    // CF, PF, AF, ZF, SF; OF; ID.
    TRAP | INTERRUPTS | DIRECTION | IOPL | NESTED | RESUME | ALIGNMENT | 0xd5 | 1 << 11 | 1 << 21
};

/// Sets where SYSCALL goes.
///
/// # Safety
/// The address is one of the entries in [`super::entry`].
pub unsafe fn set_syscall_target(address: u64) {
    // SAFETY: by the contract.
    unsafe { write_msr(msr::LSTAR, address) };
}

/// Switches to the address space at `root` (guest-physical): what programs use, and on host B the
/// kernel's own.
///
/// # Safety
/// The tables are those of a [`crate::memory::page_table::PageTable`], which stays.
pub unsafe fn switch_space(root: u64) {
    if super::probe::syscall_faults() {
        let kernel = crate::memory::page_table::kernel_root(root);
        Cpu::current().native.set_roots(root, kernel);
    }
    // SAFETY: by the contract. In ring 3 this goes on in ring 0, which either root is good for.
    unsafe { write_cr3(root) };
}

/// The block of a vCPU that has started.
pub fn by_index(index: u32) -> &'static Cpu {
    let cpu = CPUS[index as usize].load(Ordering::Acquire);
    // SAFETY: blocks are never freed, and whoever knows the index knows that the vCPU has started.
    unsafe { &*cpu }
}

/// The program's registers when it entered the kernel, at the top of the running thread's stack.
pub fn program_frame() -> *mut TrapFrame {
    let top = Cpu::current().stack_top.load(Ordering::Relaxed);
    core::ptr::with_exposed_provenance_mut::<TrapFrame>(crate::memory::usize_from(top))
        .wrapping_sub(1)
}

/// The program's RSP when it entered the kernel with a system call, an exception or an interrupt.
pub fn program_rsp() -> u64 {
    // SAFETY: the program's registers lie at the top of the stack while it is in the kernel.
    unsafe { (*program_frame()).rsp }
}

/// Address of the page fault that is being handled.
pub fn fault_address() -> u64 {
    if super::probe::syscall_faults() {
        return Cpu::current().native.fault_address();
    }
    let value;
    // SAFETY: reading has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

global_asm!(
    ".pushsection .text.idle, \"ax\", @progbits",
    ".global idle",
    "idle: sti",
    ".global idle_halt",
    "idle_halt: hlt",
    ".global idle_end",
    "idle_end: cli",
    "    ret",
    ".popsection",
);

/// Waits for an interrupt, which is handled before this returns; interrupts are off again then.
pub fn wait_for_interrupt() {
    unsafe extern "C" {
        /// STI takes effect after HLT begins, so that no interrupt slips in between.
        fn idle();
    }
    let was_native = native::is_here();
    let cpu = Cpu::current();
    cpu.halted.store(true, Ordering::SeqCst);
    // SAFETY: interrupt entry preserves registers, and handlers do not touch what the caller may have
    // borrowed.
    unsafe { idle() };
    if was_native {
        native::resume();
    }
    cpu.halted.store(false, Ordering::SeqCst);
    cpu.forget_if_asked();
}

/// Where an interrupt that arrived at `rip` in the kernel returns to: behind the HLT of
/// [`wait_for_interrupt`], if it came before it.
///
/// On a processor it cannot. But who emulates one may lose the shadow of STI: QEMU's TCG does when
/// a VM exit falls between STI and HLT, since its VMRUN does not load the shadow from the VMCB, as AMD64
/// APM volume 2, section 15.21.5 asks. The HLT would then wait for an event that has been.
pub fn behind_halt(rip: u64) -> u64 {
    unsafe extern "C" {
        static idle_halt: u8;
        static idle_end: u8;
    }
    if rip == (&raw const idle_halt).expose_provenance() as u64 {
        (&raw const idle_end).expose_provenance() as u64
    } else {
        rip
    }
}
