# The vDSO: a shared object of one page, laid out by hand, that the kernel maps into every process
# behind the page of `vvar.rs`. `vdso.rs` fills in the names in braces.
#
# No function touches the stack, so that one unwind entry describes all of them, and none calls
# another. What they do not know they ask the kernel, by the system call of the same name.

    .pushsection .rodata.airlock_vdso, "a", @progbits
    .balign 4096
    .globl airlock_vdso_image
    .hidden airlock_vdso_image
airlock_vdso_image:
.Lvdso_image:

# ELF header, System V ABI: ET_DYN for EM_X86_64.
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0
    .quad 0
    .short 3, 62
    .long 1
    .quad 0, .Lvdso_segments - airlock_vdso_image, .Lvdso_sections - airlock_vdso_image
    .long 0
    .short 64, 56, 3, 64, (.Lvdso_sections_end - .Lvdso_sections) / 64, {SECTION_NAMES}

# Program headers.
    .macro vdso_segment type, flags, start, end, alignment
    .long \type, \flags
    .quad \start - airlock_vdso_image, \start - airlock_vdso_image, \start - airlock_vdso_image
    .quad \end - \start, \end - \start, \alignment
    .endm
.Lvdso_segments:
    vdso_segment 1, 5, airlock_vdso_image, .Lvdso_loaded_end, 4096       # PT_LOAD, R-X
    vdso_segment 2, 4, .Lvdso_dynamic, .Lvdso_dynamic_end, 8             # PT_DYNAMIC
    vdso_segment 0x6474e550, 4, .Lvdso_eh_header, .Lvdso_eh_header_end, 4 # PT_GNU_EH_FRAME

# DT_HASH: one bucket, every symbol in its chain.
    .balign 8
.Lvdso_hash:
    .long 1, 11
    .long 1
    .long 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0
.Lvdso_hash_end:

# DT_GNU_HASH: one bucket, a Bloom filter that lets everything pass, the hashes in the order of the
# symbols; bit 0 of a hash marks the end of the chain.
    .balign 8
.Lvdso_gnu_hash:
    .long 1, 1, 1, 0
    .quad -1
    .long 1
    .long {H_VDSO_CLOCK_GETTIME}, {H_CLOCK_GETTIME}, {H_VDSO_CLOCK_GETRES}, {H_CLOCK_GETRES}
    .long {H_VDSO_GETTIMEOFDAY}, {H_GETTIMEOFDAY}, {H_VDSO_TIME}, {H_TIME}
    .long {H_VDSO_GETCPU}, {H_GETCPU} + 1
.Lvdso_gnu_hash_end:

# DT_SYMTAB: `__vdso_NAME`, global, and NAME, weak, for each function; the names share their ending.
    .macro vdso_symbols name
    .long .Lvdso_name_\name - .Lvdso_strings
    .byte 0x12, 0
    .short {SECTION_TEXT}
    .quad .Lvdso_\name - airlock_vdso_image, .Lvdso_\name\()_end - .Lvdso_\name
    .long .Lvdso_name_\name + 7 - .Lvdso_strings
    .byte 0x22, 0
    .short {SECTION_TEXT}
    .quad .Lvdso_\name - airlock_vdso_image, .Lvdso_\name\()_end - .Lvdso_\name
    .endm
    .balign 8
.Lvdso_symbols:
    .quad 0, 0, 0
    vdso_symbols clock_gettime
    vdso_symbols clock_getres
    vdso_symbols gettimeofday
    vdso_symbols time
    vdso_symbols getcpu
.Lvdso_symbols_end:

# DT_VERSYM: every symbol has version 2.
.Lvdso_versions:
    .short 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2
.Lvdso_versions_end:

# DT_VERDEF: version 1 is the object itself (VER_FLG_BASE), version 2 is LINUX_2.6.
    .balign 8
.Lvdso_definitions:
    .short 1, 1, 1, 1
    .long {ELF_HASH_SONAME}, 20, 28
    .long .Lvdso_soname - .Lvdso_strings, 0
    .short 1, 0, 2, 1
    .long {ELF_HASH_VERSION}, 20, 0
    .long .Lvdso_version - .Lvdso_strings, 0
.Lvdso_definitions_end:

    .balign 8
.Lvdso_dynamic:
    .quad 14, .Lvdso_soname - .Lvdso_strings                             # DT_SONAME
    .quad 4, .Lvdso_hash - airlock_vdso_image                            # DT_HASH
    .quad 0x6ffffef5, .Lvdso_gnu_hash - airlock_vdso_image               # DT_GNU_HASH
    .quad 5, .Lvdso_strings - airlock_vdso_image                         # DT_STRTAB
    .quad 10, .Lvdso_strings_end - .Lvdso_strings                        # DT_STRSZ
    .quad 6, .Lvdso_symbols - airlock_vdso_image                         # DT_SYMTAB
    .quad 11, 24                                                         # DT_SYMENT
    .quad 0x6ffffff0, .Lvdso_versions - airlock_vdso_image               # DT_VERSYM
    .quad 0x6ffffffc, .Lvdso_definitions - airlock_vdso_image            # DT_VERDEF
    .quad 0x6ffffffd, 2                                                  # DT_VERDEFNUM
    .quad 0, 0
.Lvdso_dynamic_end:

# Unwind information (LSB 10.6): anywhere in the code, the caller's stack pointer is RSP + 8 and the
# return address lies at RSP.
    .balign 4
.Lvdso_eh_header:
    .byte 1, 0x1b, 0x03, 0x3b
    .long .Lvdso_eh_frame - .
    .long 1
    .long .Lvdso_text - .Lvdso_eh_header, .Lvdso_eh_entry - .Lvdso_eh_header
.Lvdso_eh_header_end:
    .balign 8
.Lvdso_eh_frame:
    .long .Lvdso_eh_common_end - .Lvdso_eh_common
.Lvdso_eh_common:
    .long 0
    .byte 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1b
    .byte 0x0c, 7, 8                                                     # DW_CFA_def_cfa rsp, 8
    .byte 0x90, 1                                                        # DW_CFA_offset rip, -8
    .balign 8
.Lvdso_eh_common_end:
.Lvdso_eh_entry:
    .long .Lvdso_eh_entry_end - .Lvdso_eh_entry - 4
    .long . - .Lvdso_eh_frame
    .long .Lvdso_text - .
    .long .Lvdso_text_end - .Lvdso_text
    .byte 0
    .balign 4, 0
.Lvdso_eh_entry_end:
    .long 0
.Lvdso_eh_frame_end:

# DT_STRTAB.
.Lvdso_strings:
    .byte 0
.Lvdso_name_clock_gettime:
    .asciz "__vdso_clock_gettime"
.Lvdso_name_clock_getres:
    .asciz "__vdso_clock_getres"
.Lvdso_name_gettimeofday:
    .asciz "__vdso_gettimeofday"
.Lvdso_name_time:
    .asciz "__vdso_time"
.Lvdso_name_getcpu:
    .asciz "__vdso_getcpu"
.Lvdso_soname:
    .asciz "linux-vdso.so.1"
.Lvdso_version:
    .asciz "LINUX_2.6"
.Lvdso_strings_end:

# R8 := the page of `Vvar`, which lies before this one; jumps to \otherwise if it has no clock.
    .macro vdso_find_clock otherwise
    lea r8, [rip + .Lvdso_image - 4096]
    test dword ptr [r8 + {FLAGS}], {FLAG_TSC}
    jz \otherwise
    .endm

# RAX := nanoseconds since boot. Changes RCX and RDX. LFENCE keeps the reading of the TSC behind
# whatever the program did before (SDM volume 2, RDTSC). A TSC that lags behind that of the vCPU
# which set the base is taken for the base.
    .macro vdso_monotonic
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    xor ecx, ecx
    sub rax, [r8 + {TSC_BASE}]
    cmovb rax, rcx
    mul qword ptr [r8 + {MULTIPLIER}]
    shrd rax, rdx, 32
    .endm

# RDX := RAX / 1,000,000,000 = (RAX / 2^9) / 1,953,125, by multiplication with the reciprocal times
# 2^75, exact for every 64-bit value. Changes RAX and RCX.
    .macro vdso_seconds
    shr rax, 9
    movabs rcx, {RECIPROCAL}
    mul rcx
    shr rdx, 11
    .endm

    .balign 16, 0xcc
.Lvdso_text:

# int clock_gettime(clockid_t EDI, struct timespec *RSI)
.Lvdso_clock_gettime:
    cmp edi, 31
    ja 9f
    mov eax, {CLOCKS}
    bt eax, edi
    jnc 9f
    vdso_find_clock 9f
    xor r9d, r9d
    mov eax, {REALTIME_CLOCKS}
    bt eax, edi
    cmovc r9, [r8 + {REALTIME_OFFSET}]
    vdso_monotonic
    add r9, rax
    mov rax, r9
    vdso_seconds
    mov [rsi], rdx
    imul rdx, rdx, 1000000000
    sub r9, rdx
    mov [rsi + 8], r9
    xor eax, eax
    ret
9:  mov eax, {NR_CLOCK_GETTIME}
    syscall
    ret
.Lvdso_clock_gettime_end:

# int clock_getres(clockid_t EDI, struct timespec *RSI): a nanosecond, as with Linux's high-resolution
# timers. RSI may be null.
    .balign 16, 0xcc
.Lvdso_clock_getres:
    cmp edi, 31
    ja 9f
    mov eax, {CLOCKS}
    bt eax, edi
    jnc 9f
    vdso_find_clock 9f
    xor eax, eax
    test rsi, rsi
    jz 1f
    mov [rsi], rax
    mov qword ptr [rsi + 8], 1
1:  ret
9:  mov eax, {NR_CLOCK_GETRES}
    syscall
    ret
.Lvdso_clock_getres_end:

# int gettimeofday(struct timeval *RDI, struct timezone *RSI): both may be null.
    .balign 16, 0xcc
.Lvdso_gettimeofday:
    vdso_find_clock 9f
    test rdi, rdi
    jz 1f
    vdso_monotonic
    add rax, [r8 + {REALTIME_OFFSET}]
    mov r9, rax
    vdso_seconds
    mov [rdi], rdx
    imul rdx, rdx, 1000000000
    sub r9, rdx
    imul rax, r9, 274877907                 # microseconds: / 1000, exact below 2^30
    shr rax, 38
    mov [rdi + 8], rax
1:  test rsi, rsi
    jz 2f
    mov rax, [r8 + {ZONE}]
    mov [rsi], rax
2:  xor eax, eax
    ret
9:  mov eax, {NR_GETTIMEOFDAY}
    syscall
    ret
.Lvdso_gettimeofday_end:

# time_t time(time_t *RDI): RDI may be null.
    .balign 16, 0xcc
.Lvdso_time:
    vdso_find_clock 9f
    vdso_monotonic
    add rax, [r8 + {REALTIME_OFFSET}]
    vdso_seconds
    mov rax, rdx
    test rdi, rdi
    jz 1f
    mov [rdi], rax
1:  ret
9:  mov eax, {NR_TIME}
    syscall
    ret
.Lvdso_time_end:

# int getcpu(unsigned *RDI, unsigned *RSI, void *unused): either may be null. The limit of a segment
# that each vCPU has in its own GDT is the number of the vCPU in bits 11:0, its node above.
    .balign 16, 0xcc
.Lvdso_getcpu:
    lea r8, [rip + .Lvdso_image - 4096]
    mov ecx, [r8 + {CPU_SELECTOR}]
    test ecx, ecx
    jz 9f
    lsl ecx, ecx
    jnz 9f
    test rdi, rdi
    jz 1f
    mov eax, ecx
    and eax, 0xfff
    mov [rdi], eax
1:  test rsi, rsi
    jz 2f
    shr ecx, 12
    mov [rsi], ecx
2:  xor eax, eax
    ret
9:  mov eax, {NR_GETCPU}
    syscall
    ret
.Lvdso_getcpu_end:
.Lvdso_text_end:

# Sections, for debuggers.
.Lvdso_section_names:
    .byte 0
.Lvdso_label_hash:
    .asciz ".hash"
.Lvdso_label_gnu_hash:
    .asciz ".gnu.hash"
.Lvdso_label_symbols:
    .asciz ".dynsym"
.Lvdso_label_strings:
    .asciz ".dynstr"
.Lvdso_label_versions:
    .asciz ".gnu.version"
.Lvdso_label_definitions:
    .asciz ".gnu.version_d"
.Lvdso_label_dynamic:
    .asciz ".dynamic"
.Lvdso_label_eh_header:
    .asciz ".eh_frame_hdr"
.Lvdso_label_eh_frame:
    .asciz ".eh_frame"
.Lvdso_label_text:
    .asciz ".text"
.Lvdso_label_section_names:
    .asciz ".shstrtab"
.Lvdso_section_names_end:

    .macro vdso_section name, type, flags, link, info, alignment, size
    .long .Lvdso_label_\name - .Lvdso_section_names, \type
    .quad \flags, .Lvdso_\name - airlock_vdso_image, .Lvdso_\name - airlock_vdso_image
    .quad .Lvdso_\name\()_end - .Lvdso_\name
    .long \link, \info
    .quad \alignment, \size
    .endm
    .balign 8
.Lvdso_sections:
    .quad 0, 0, 0, 0, 0, 0, 0, 0
    vdso_section hash, 5, 2, 3, 0, 8, 4
    vdso_section gnu_hash, 0x6ffffff6, 2, 3, 0, 8, 0
    vdso_section symbols, 11, 2, 4, 1, 8, 24
    vdso_section strings, 3, 2, 0, 0, 1, 0
    vdso_section versions, 0x6fffffff, 2, 3, 0, 2, 2
    vdso_section definitions, 0x6ffffffd, 2, 4, 2, 8, 0
    vdso_section dynamic, 6, 2, 4, 0, 8, 16
    vdso_section eh_header, 1, 2, 0, 0, 4, 0
    vdso_section eh_frame, 1, 2, 0, 0, 8, 0
    vdso_section text, 1, 6, 0, 0, 16, 0
    vdso_section section_names, 3, 0, 0, 0, 1, 0
.Lvdso_sections_end:
.Lvdso_loaded_end:

# The rest of the page is empty; the assembler refuses an image that is longer.
    .org airlock_vdso_image + 4096
    .popsection
