//! Guests: each a few instructions that run as the kernel, in 64-bit mode, at the address
//! `KERNEL_BASE`. RDI points to the boot information, RSI is the index of the vCPU.

use std::arch::global_asm;

use airlock_abi::boot::BootInfo;

/// Declares a guest: a name, fields of the boot information whose offsets it uses, and the assembly between
/// two labels.
macro_rules! guest {
    ($name:ident $([$($field:ident),+])?, $($line:literal),+ $(,)?) => {
        global_asm!(
            ".pushsection .rodata.guests, \"a\"",
            concat!(stringify!($name), "_begin:"),
            $($line,)+
            concat!(stringify!($name), "_end:"),
            ".popsection",
            $($($field = const std::mem::offset_of!(BootInfo, $field),)+)?
            options(att_syntax),
        );

        #[doc = concat!("The code of `", stringify!($name), "`.")]
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!(stringify!($name), "_begin")]
                static BEGIN: u8;
                #[link_name = concat!(stringify!($name), "_end")]
                static END: u8;
            }
            let (begin, end) = (&raw const BEGIN, &raw const END);
            // SAFETY: the assembly above places both labels in one read-only section, in this order.
            unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
        }
    };
}

// The console's registers: virtio 1.2, table 4.1. `queue` programs one of four descriptors whose table,
// available ring and used ring follow each other at 256-byte steps.
global_asm!(
    ".macro device address, features",
    "movl $\\address, %ebx",
    "movl $0, 0x70(%rbx)",
    "movl $1, 0x70(%rbx)",
    "movl $3, 0x70(%rbx)",
    "movl $0, 0x24(%rbx)",
    "movl $\\features, 0x20(%rbx)",
    "movl $1, 0x24(%rbx)",
    "movl $1, 0x20(%rbx)",
    "movl $0xb, 0x70(%rbx)",
    ".endm",
    ".macro queue index, table",
    "movl $\\index, 0x30(%rbx)",
    "movl $4, 0x38(%rbx)",
    "movl $\\table, 0x80(%rbx)",
    "movl $0, 0x84(%rbx)",
    "movl $\\table + 0x100, 0x90(%rbx)",
    "movl $0, 0x94(%rbx)",
    "movl $\\table + 0x200, 0xa0(%rbx)",
    "movl $0, 0xa4(%rbx)",
    "movl $1, 0x44(%rbx)",
    ".endm",
    ".macro descriptor at, address, length, flags, next",
    "movq $\\address, \\at",
    "movl $\\length, \\at + 8",
    "movw $\\flags, \\at + 12",
    "movw $\\next, \\at + 14",
    ".endm",
    // Makes chain 0 available, notifies, and waits until it was used.
    ".macro transfer index, table",
    "incw \\table + 0x102",
    "movl $\\index, 0x50(%rbx)",
    "77: movzwl \\table + 0x202, %ecx",
    "pause",
    "cmpw \\table + 0x102, %cx",
    "jne 77b",
    ".endm",
    options(raw, att_syntax),
);

// Copies standard input to standard output, a page at a time, and exits with 0 at the end or with the
// error number.
guest!(
    echoes,
    "device 0xd0000000, 0x10000",
    "queue 4, 0x112000",
    "queue 7, 0x113000",
    "movl $0xf, 0x70(%rbx)",
    "descriptor 0x112000, 0x114000, 4096, 3, 1",
    "descriptor 0x112010, 0x112300, 8, 2, 0",
    "descriptor 0x113000, 0x114000, 0, 1, 1",
    "descriptor 0x113010, 0x113300, 8, 2, 0",
    "1: transfer 4, 0x112000",
    "mov 0x112300, %rax",
    "test %rax, %rax",
    "jle 9f",
    "movl %eax, 0x113008",
    "transfer 7, 0x113000",
    "mov 0x113300, %rcx",
    "cmp %rax, %rcx",
    "je 1b",
    "mov %rcx, %rax",
    "9: neg %eax",
    "mov $0xf4, %edx",
    "out %eax, %dx",
    "3: hlt",
    "jmp 3b",
);

// Writes its boot information, 64 KiB of zeroes and the start of the root image to standard output in
// one buffer, which the result counts.
guest!(
    writes_in_pieces,
    "device 0xd0000000, 0x10000",
    "queue 7, 0x113000",
    "movl $0xf, 0x70(%rbx)",
    "descriptor 0x113000, 0, 216, 1, 1",
    "mov %rdi, 0x113000",
    "descriptor 0x113010, 0x200000, 0x10000, 1, 2",
    "descriptor 0x113020, 0, 100, 1, 3",
    "movl $0x40, 0x113024",
    "descriptor 0x113030, 0x113300, 8, 2, 0",
    "transfer 7, 0x113000",
    "xor %eax, %eax",
    "cmpq $216 + 0x10000 + 100, 0x113300",
    "je 9f",
    "mov 0x113300, %eax",
    "neg %eax",
    "9: mov $0xf4, %edx",
    "out %eax, %dx",
    "3: hlt",
    "jmp 3b",
);

// Asks the random number device for 16 bytes, sleeps until its interrupt comes, and exits with 0 if it
// came once and the bytes are not all zero.
guest!(
    waits_for_an_interrupt,
    // GDT with a code segment at 8 and a data segment at 16, IDT with a gate for vector 0x36; both at the start of scratch memory.
    "movabs $0x00209a0000000000, %rax",
    "mov %rax, 0x111008",
    "movabs $0x0000920000000000, %rax",
    "mov %rax, 0x111010",
    "lea 8f(%rip), %rax",
    "movw %ax, 0x111000 + 0x360",
    "movw $8, 0x111000 + 0x362",
    "movw $0x8e00, 0x111000 + 0x364",
    "shr $16, %rax",
    "movw %ax, 0x111000 + 0x366",
    "movw $23, 0x110ff0",
    "movq $0x111000, 0x110ff2",
    "lgdt 0x110ff0",
    "movw $0x36f, 0x110ff0",
    "lidt 0x110ff0",
    "mov $0x118000, %esp",
    // APIC: spurious vector register, enabled.
    "mov $0x80f, %ecx",
    "mov $0x1ff, %eax",
    "xor %edx, %edx",
    "wrmsr",
    "device 0xd0001000, 0",
    "queue 0, 0x112000",
    "movl $0xf, 0x70(%rbx)",
    "descriptor 0x112000, 0x112300, 16, 2, 0",
    "incw 0x112102",
    "movl $0, 0x50(%rbx)",
    "1: sti",
    "hlt",
    "cli",
    "cmpl $0, 0x112400",
    "je 1b",
    "mov $1, %eax",
    "cmpl $1, 0x112400",
    "jne 9f",
    "mov $2, %eax",
    "cmpl $1, 0x60(%rbx)",
    "jne 9f",
    "movl $1, 0x64(%rbx)",
    "mov $3, %eax",
    "cmpl $0, 0x60(%rbx)",
    "jne 9f",
    "mov $4, %eax",
    "cmpw $1, 0x112202",
    "jne 9f",
    "cmpl $16, 0x112208",
    "jne 9f",
    "mov $5, %eax",
    "mov 0x112300, %rcx",
    "or 0x112308, %rcx",
    "jz 9f",
    "xor %eax, %eax",
    "9: mov $0xf4, %edx",
    "out %eax, %dx",
    "3: hlt",
    "jmp 3b",
    "8: incl 0x112400",
    "push %rax",
    "push %rcx",
    "push %rdx",
    "mov $0x80b, %ecx",
    "xor %eax, %eax",
    "xor %edx, %edx",
    "wrmsr",
    "pop %rdx",
    "pop %rcx",
    "pop %rax",
    "iretq",
);

// Status 42.
guest!(exits, "mov $42, %eax", "mov $0xf4, %edx", "out %eax, %dx", "1: hlt", "jmp 1b");

// Killed by SIGSEGV.
guest!(is_killed, "mov $0x10b, %eax", "mov $0xf4, %edx", "out %eax, %dx", "1: hlt", "jmp 1b");

// Says why on the serial port, then panics.
guest!(
    panics,
    "lea 2f(%rip), %rsi",
    "mov $4f - 2f, %ecx",
    "mov $0x3f8, %edx",
    "1: lodsb",
    "out %al, %dx",
    "dec %ecx",
    "jnz 1b",
    "mov $0x200, %eax",
    "mov $0xf4, %edx",
    "out %eax, %dx",
    "3: hlt",
    "jmp 3b",
    "2: .ascii \"nothing works\\nany more\\n\"",
    "4:",
);

// Writes a word without meaning to the exit device.
guest!(
    exits_badly,
    "mov $0xdead0000, %eax",
    "mov $0xf4, %edx",
    "out %eax, %dx",
    "1: hlt",
    "jmp 1b"
);

// Takes an exception without an IDT.
guest!(triple_faults, "ud2");

// Reads and writes where there is nothing; exits with 7 if all reads were ones.
guest!(
    gropes,
    "mov $0xe0000000, %ebx",
    "mov (%rbx), %rax",
    "cmp $-1, %rax",
    "jne 1f",
    "movq %rax, (%rbx)",
    "mov $0x60, %edx",
    "in %dx, %al",
    "cmp $0xff, %al",
    "jne 1f",
    "out %al, %dx",
    "mov $7, %eax",
    "jmp 2f",
    "1: mov $1, %eax",
    "2: mov $0xf4, %edx",
    "out %eax, %dx",
    "3: hlt",
    "jmp 3b",
);

// Sleeps with interrupts off.
guest!(sleeps, "cli", "1: hlt", "jmp 1b");

// Spins.
guest!(spins, "1: jmp 1b");

// The first vCPU starts the others, the last one of which exits with its index. Starting a vCPU that
// runs or does not exist does nothing.
guest!(
    starts_cpus[cpus],
    "mov $0xf8, %edx",
    "test %rsi, %rsi",
    "jnz 2f",
    "mov $0, %eax",
    "out %eax, %dx",
    "mov $200, %eax",
    "out %eax, %dx",
    "mov $1, %eax",
    "out %eax, %dx",
    "out %eax, %dx",
    "1: hlt",
    "jmp 1b",
    // Start the next, if there is one: the boot information says how many there are.
    "2: mov {cpus}(%rdi), %rcx",
    "lea 1(%rsi), %rax",
    "cmp %rcx, %rax",
    "jae 3f",
    "out %eax, %dx",
    "jmp 1b",
    // The last: its x2APIC id (MSR 0x802) is its index.
    "3: mov $0x802, %ecx",
    "rdmsr",
    "mov $0xf4, %edx",
    "out %eax, %dx",
    "jmp 1b",
);

// Checks what it can of the boot information, and exits with the number of the first check that
// fails, or with the first byte of the root image.
guest!(
    reads_boot_information [version, free, tsc, seed, command_line, program, root_image],
    "mov $1, %ebx",
    "movabs $0x4b434f4c524941, %rax",
    "cmp %rax, (%rdi)",
    "jne 9f",
    "mov $2, %ebx",
    "cmpq $0, {version}(%rdi)",
    "je 9f",
    // free[0] ends where RAM does, and is zero at its start and end.
    "mov $3, %ebx",
    "mov {free}(%rdi), %rax",
    "cmpq $0, (%rax)",
    "jne 9f",
    "add {free} + 8(%rdi), %rax",
    "cmpq $0, -8(%rax)",
    "jne 9f",
    // tsc: our own is later, by less than a second at 4 GHz
    "mov $4, %ebx",
    "rdtsc",
    "shl $32, %rdx",
    "or %rdx, %rax",
    "sub {tsc}(%rdi), %rax",
    "js 9f",
    "shr $32, %rax",
    "jnz 9f",
    // seed
    "mov $5, %ebx",
    "mov {seed}(%rdi), %rax",
    "or {seed} + 8(%rdi), %rax",
    "jz 9f",
    // the first four bytes of the command line
    "mov $6, %ebx",
    "mov {command_line}(%rdi), %rax",
    "cmpl $0x74726976, (%rax)",
    "jne 9f",
    // the program's path begins with a slash
    "mov $8, %ebx",
    "mov {program}(%rdi), %rax",
    "cmpb $'/', (%rax)",
    "jne 9f",
    // root image: map its address at 256 GiB (PML4 entry 0, PDPT entry 256) with a new directory
    "mov $10, %ebx",
    "mov {root_image}(%rdi), %rax",
    "movabs $0x4000000000, %rcx",
    "cmp %rcx, %rax",
    "jne 9f",
    "movl $0x110000 + 3, 0x102000 + 8 * 256",
    "lea 0x81(%rcx), %rdx",
    "mov %rdx, 0x110000",
    "movzbl (%rcx), %ebx",
    "9: mov %ebx, %eax",
    "mov $0xf4, %edx",
    "out %eax, %dx",
    "1: hlt",
    "jmp 1b",
);
