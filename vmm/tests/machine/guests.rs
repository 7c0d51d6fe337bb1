//! Guests: each a few instructions that run as the kernel, in 64-bit mode, at the address
//! `KERNEL_BASE`. RDI points to the boot information, RSI is the index of the vCPU.

use std::arch::global_asm;

/// Declares a guest: a name, and the assembly between two labels.
macro_rules! guest {
    ($name:ident, $($line:literal),+ $(,)?) => {
        global_asm!(
            ".pushsection .rodata.guests, \"a\"",
            concat!(stringify!($name), "_begin:"),
            $($line,)+
            concat!(stringify!($name), "_end:"),
            ".popsection",
            options(raw, att_syntax),
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
    starts_cpus,
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
    // Start the next, if there is one: BootInfo::cpus is at 24.
    "2: mov 24(%rdi), %rcx",
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
    reads_boot_information,
    "mov $1, %ebx",
    "movabs $0x4b434f4c524941, %rax",
    "cmp %rax, (%rdi)",
    "jne 9f",
    "mov $2, %ebx",
    "cmpq $1, 8(%rdi)",
    "jne 9f",
    // free[0] ends where RAM does, and is zero at its start and end.
    "mov $3, %ebx",
    "mov 32(%rdi), %rax",
    "cmpq $0, (%rax)",
    "jne 9f",
    "add 40(%rdi), %rax",
    "cmpq $0, -8(%rax)",
    "jne 9f",
    // tsc: our own is later, by less than a second at 4 GHz
    "mov $4, %ebx",
    "rdtsc",
    "shl $32, %rdx",
    "or %rdx, %rax",
    "sub 168(%rdi), %rax",
    "js 9f",
    "shr $32, %rax",
    "jnz 9f",
    // seed
    "mov $5, %ebx",
    "mov 184(%rdi), %rax",
    "or 192(%rdi), %rax",
    "jz 9f",
    // the first four bytes of the command line
    "mov $6, %ebx",
    "mov 80(%rdi), %rax",
    "cmpl $0x74726976, (%rax)",
    "jne 9f",
    // the program's path begins with a slash
    "mov $8, %ebx",
    "mov 96(%rdi), %rax",
    "cmpb $'/', (%rax)",
    "jne 9f",
    // root image: map its address at 256 GiB (PML4 entry 0, PDPT entry 256) with a new directory
    "mov $10, %ebx",
    "mov 64(%rdi), %rax",
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
