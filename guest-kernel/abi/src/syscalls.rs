//! **The** list of system calls: what the dispatcher, `--strace`, seccomp profiles and
//! `docs/syscalls.md` are made from.
//!
//! A row is `(number, number32, name, state, (argument: Kind, ...))`:
//!
//! * `number` is the x86-64 number; `number32` that of `int 0x80` (the i386 table), or `_` where the
//!   call does not exist there or its structures are laid out differently for 32-bit callers;
//! * `state` is `done` (the kernel has a handler of this name) or `none` (it answers ENOSYS);
//! * a [`Kind`] says how to read an argument register, and so what a trace shows. Numbers that Linux
//!   reserves for calls it never had (`tuxcall`), or that take none a program could give (`uprobe`),
//!   have no arguments.
//!
//! Arguments are named so that the dispatcher can use the names as variables (no `type`).
//!
//! To add a call, change its state and write `guest-kernel`'s handler: the rest follows.

/// What an argument register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file descriptor.
    Fd,
    /// A file descriptor of a directory, or `AT_FDCWD`.
    DirectoryFd,
    /// Pointer to a path name that the call reads.
    Path,
    /// Pointer to another NUL-terminated string that the call reads.
    Text,
    /// Pointer to bytes that the call reads; the next argument is their number.
    In,
    /// Pointer to bytes that the call writes; the next argument is the space, the result their number.
    Out,
    /// Any other pointer.
    Pointer,
    /// A signed 32-bit number.
    Signed,
    /// An unsigned 32-bit number.
    Unsigned,
    /// A signed 64-bit number.
    Long,
    /// A size in bytes.
    Size,
    /// Flags or another value that reads best in hexadecimal.
    Hex,
    /// Flags of `open(2)`.
    OpenFlags,
    /// Permission bits, in octal.
    Octal,
    /// A signal number.
    Signal,
    /// A process or thread id.
    Pid,
}

/// One row of the list.
#[derive(Clone, Copy, Debug)]
pub struct SystemCall {
    /// Number in RAX for the SYSCALL instruction.
    pub number: u32,
    /// Number in EAX for `int 0x80`, where the call means the same there.
    pub number32: Option<u32>,
    /// Name as in the man pages.
    pub name: &'static str,
    /// Whether the kernel has a handler; it answers ENOSYS to the others.
    pub implemented: bool,
    /// Names and kinds of the arguments.
    pub arguments: &'static [(&'static str, Kind)],
}

/// One more than the highest number in the list.
pub const LIMIT: usize = 512;

/// Calls the macro that it is given with the whole list, as the module describes it.
#[macro_export]
macro_rules! for_each_system_call {
    ($callback:ident) => {
        $callback! {
            (0, 3, read, done, (fd: Fd, buffer: Out, count: Size))
            (1, 4, write, done, (fd: Fd, buffer: In, count: Size))
            (2, 5, open, done, (path: Path, flags: OpenFlags, mode: Octal))
            (3, 6, close, done, (fd: Fd))
            (4, _, stat, done, (path: Path, status: Pointer))
            (5, _, fstat, done, (fd: Fd, status: Pointer))
            (6, _, lstat, done, (path: Path, status: Pointer))
            (7, 168, poll, done, (fds: Pointer, count: Unsigned, timeout: Signed))
            (8, 19, lseek, done, (fd: Fd, offset: Long, whence: Signed))
            (9, _, mmap, done, (address: Pointer, length: Size, protection: Hex, flags: Hex, fd: Fd, offset: Hex))
            (10, 125, mprotect, done, (address: Pointer, length: Size, protection: Hex))
            (11, 91, munmap, done, (address: Pointer, length: Size))
            (12, 45, brk, done, (address: Pointer))
            (13, _, rt_sigaction, done, (signal: Signal, action: Pointer, old_action: Pointer, set_size: Size))
            (14, _, rt_sigprocmask, done, (how: Signed, set: Pointer, old_set: Pointer, set_size: Size))
            (15, _, rt_sigreturn, done, ())
            (16, _, ioctl, done, (fd: Fd, request: Hex, argument: Pointer))
            (17, _, pread64, done, (fd: Fd, buffer: Out, count: Size, offset: Long))
            (18, _, pwrite64, done, (fd: Fd, buffer: In, count: Size, offset: Long))
            (19, _, readv, done, (fd: Fd, vectors: Pointer, count: Signed))
            (20, _, writev, done, (fd: Fd, vectors: Pointer, count: Signed))
            (21, 33, access, done, (path: Path, mode: Hex))
            (22, 42, pipe, done, (fds: Pointer))
            (23, _, select, done, (count: Signed, read: Pointer, write: Pointer, except: Pointer, timeout: Pointer))
            (24, 158, sched_yield, done, ())
            (25, 163, mremap, done, (old_address: Pointer, old_length: Size, new_length: Size, flags: Hex, new_address: Pointer))
            (26, 144, msync, done, (address: Pointer, length: Size, flags: Hex))
            (27, 218, mincore, done, (address: Pointer, length: Size, vector: Pointer))
            (28, 219, madvise, done, (address: Pointer, length: Size, advice: Signed))
            (29, _, shmget, done, (key: Hex, size: Size, flags: Hex))
            (30, _, shmat, done, (id: Signed, address: Pointer, flags: Hex))
            (31, _, shmctl, done, (id: Signed, command: Signed, buffer: Pointer))
            (32, 41, dup, done, (fd: Fd))
            (33, 63, dup2, done, (old_fd: Fd, new_fd: Fd))
            (34, 29, pause, done, ())
            (35, _, nanosleep, done, (requested: Pointer, remaining: Pointer))
            (36, _, getitimer, done, (which: Signed, value: Pointer))
            (37, 27, alarm, done, (seconds: Unsigned))
            (38, _, setitimer, done, (which: Signed, value: Pointer, old_value: Pointer))
            (39, 20, getpid, done, ())
            (40, _, sendfile, done, (out_fd: Fd, in_fd: Fd, offset: Pointer, count: Size))
            (41, _, socket, done, (domain: Signed, kind: Hex, protocol: Signed))
            (42, _, connect, done, (fd: Fd, address: Pointer, length: Unsigned))
            (43, _, accept, done, (fd: Fd, address: Pointer, length: Pointer))
            (44, _, sendto, done, (fd: Fd, buffer: In, length: Size, flags: Hex, address: Pointer, address_length: Unsigned))
            (45, _, recvfrom, done, (fd: Fd, buffer: Out, length: Size, flags: Hex, address: Pointer, address_length: Pointer))
            (46, _, sendmsg, done, (fd: Fd, message: Pointer, flags: Hex))
            (47, _, recvmsg, done, (fd: Fd, message: Pointer, flags: Hex))
            (48, _, shutdown, done, (fd: Fd, how: Signed))
            (49, _, bind, done, (fd: Fd, address: Pointer, length: Unsigned))
            (50, _, listen, done, (fd: Fd, backlog: Signed))
            (51, _, getsockname, done, (fd: Fd, address: Pointer, length: Pointer))
            (52, _, getpeername, done, (fd: Fd, address: Pointer, length: Pointer))
            (53, _, socketpair, done, (domain: Signed, kind: Hex, protocol: Signed, fds: Pointer))
            (54, _, setsockopt, done, (fd: Fd, level: Signed, name: Signed, value: Pointer, length: Unsigned))
            (55, _, getsockopt, done, (fd: Fd, level: Signed, name: Signed, value: Pointer, length: Pointer))
            (56, _, clone, done, (flags: Hex, stack: Pointer, parent_tid: Pointer, child_tid: Pointer, tls: Pointer))
            (57, _, fork, done, ())
            (58, _, vfork, done, ())
            (59, _, execve, done, (path: Path, arguments: Pointer, environment: Pointer))
            (60, 1, exit, done, (status: Signed))
            (61, _, wait4, done, (pid: Pid, status: Pointer, options: Hex, usage: Pointer))
            (62, 37, kill, done, (pid: Pid, signal: Signal))
            (63, 122, uname, done, (name: Pointer))
            (64, _, semget, done, (key: Hex, count: Signed, flags: Hex))
            (65, _, semop, done, (id: Signed, operations: Pointer, count: Size))
            (66, _, semctl, done, (id: Signed, index: Signed, command: Signed, argument: Hex))
            (67, _, shmdt, done, (address: Pointer))
            (68, _, msgget, done, (key: Hex, flags: Hex))
            (69, _, msgsnd, done, (id: Signed, message: Pointer, size: Size, flags: Hex))
            (70, _, msgrcv, done, (id: Signed, message: Pointer, size: Size, kind: Long, flags: Hex))
            (71, _, msgctl, done, (id: Signed, command: Signed, buffer: Pointer))
            (72, _, fcntl, done, (fd: Fd, command: Signed, argument: Hex))
            (73, 143, flock, done, (fd: Fd, operation: Signed))
            (74, 118, fsync, done, (fd: Fd))
            (75, 148, fdatasync, done, (fd: Fd))
            (76, _, truncate, done, (path: Path, length: Long))
            (77, _, ftruncate, done, (fd: Fd, length: Long))
            (78, _, getdents, done, (fd: Fd, entries: Pointer, count: Size))
            (79, 183, getcwd, done, (buffer: Out, size: Size))
            (80, 12, chdir, done, (path: Path))
            (81, 133, fchdir, done, (fd: Fd))
            (82, 38, rename, done, (old_path: Path, new_path: Path))
            (83, 39, mkdir, done, (path: Path, mode: Octal))
            (84, 40, rmdir, done, (path: Path))
            (85, 8, creat, done, (path: Path, mode: Octal))
            (86, 9, link, done, (old_path: Path, new_path: Path))
            (87, 10, unlink, done, (path: Path))
            (88, 83, symlink, done, (target: Path, path: Path))
            (89, 85, readlink, done, (path: Path, buffer: Out, size: Size))
            (90, 15, chmod, done, (path: Path, mode: Octal))
            (91, 94, fchmod, done, (fd: Fd, mode: Octal))
            (92, 212, chown, done, (path: Path, owner: Signed, group: Signed))
            (93, 207, fchown, done, (fd: Fd, owner: Signed, group: Signed))
            (94, 198, lchown, done, (path: Path, owner: Signed, group: Signed))
            (95, 60, umask, done, (mask: Octal))
            (96, _, gettimeofday, done, (time: Pointer, zone: Pointer))
            (97, _, getrlimit, done, (resource: Signed, limit: Pointer))
            (98, _, getrusage, done, (who: Signed, usage: Pointer))
            (99, _, sysinfo, done, (information: Pointer))
            (100, _, times, done, (buffer: Pointer))
            (101, _, ptrace, none, (request: Signed, pid: Pid, address: Pointer, data: Pointer))
            (102, 199, getuid, done, ())
            (103, _, syslog, none, (kind: Signed, buffer: Out, length: Size))
            (104, 200, getgid, done, ())
            (105, 213, setuid, done, (user: Signed))
            (106, 214, setgid, done, (group: Signed))
            (107, 201, geteuid, done, ())
            (108, 202, getegid, done, ())
            (109, 57, setpgid, done, (pid: Pid, group: Pid))
            (110, 64, getppid, done, ())
            (111, 65, getpgrp, done, ())
            (112, 66, setsid, done, ())
            (113, _, setreuid, done, (real: Signed, effective: Signed))
            (114, _, setregid, done, (real: Signed, effective: Signed))
            (115, 205, getgroups, done, (count: Signed, list: Pointer))
            (116, _, setgroups, done, (count: Signed, list: Pointer))
            (117, _, setresuid, done, (real: Signed, effective: Signed, saved: Signed))
            (118, 209, getresuid, done, (real: Pointer, effective: Pointer, saved: Pointer))
            (119, _, setresgid, done, (real: Signed, effective: Signed, saved: Signed))
            (120, 211, getresgid, done, (real: Pointer, effective: Pointer, saved: Pointer))
            (121, 132, getpgid, done, (pid: Pid))
            (122, _, setfsuid, done, (user: Signed))
            (123, _, setfsgid, done, (group: Signed))
            (124, 147, getsid, done, (pid: Pid))
            (125, _, capget, done, (header: Pointer, data: Pointer))
            (126, _, capset, done, (header: Pointer, data: Pointer))
            (127, _, rt_sigpending, done, (set: Pointer, set_size: Size))
            (128, _, rt_sigtimedwait, done, (set: Pointer, information: Pointer, timeout: Pointer, set_size: Size))
            (129, _, rt_sigqueueinfo, done, (pid: Pid, signal: Signal, information: Pointer))
            (130, _, rt_sigsuspend, done, (set: Pointer, set_size: Size))
            (131, _, sigaltstack, done, (stack: Pointer, old_stack: Pointer))
            (132, _, utime, done, (path: Path, times: Pointer))
            (133, _, mknod, done, (path: Path, mode: Octal, device: Hex))
            (134, _, uselib, none, (path: Path))
            (135, 136, personality, none, (persona: Hex))
            (136, _, ustat, none, (device: Hex, buffer: Pointer))
            (137, _, statfs, done, (path: Path, buffer: Pointer))
            (138, _, fstatfs, done, (fd: Fd, buffer: Pointer))
            (139, _, sysfs, none, (option: Signed, argument1: Hex, argument2: Hex))
            (140, 96, getpriority, done, (which: Signed, who: Signed))
            (141, 97, setpriority, done, (which: Signed, who: Signed, priority: Signed))
            (142, _, sched_setparam, done, (pid: Pid, parameter: Pointer))
            (143, _, sched_getparam, done, (pid: Pid, parameter: Pointer))
            (144, _, sched_setscheduler, done, (pid: Pid, policy: Signed, parameter: Pointer))
            (145, _, sched_getscheduler, done, (pid: Pid))
            (146, _, sched_get_priority_max, done, (policy: Signed))
            (147, _, sched_get_priority_min, done, (policy: Signed))
            (148, _, sched_rr_get_interval, done, (pid: Pid, interval: Pointer))
            (149, 150, mlock, done, (address: Pointer, length: Size))
            (150, 151, munlock, done, (address: Pointer, length: Size))
            (151, 152, mlockall, done, (flags: Hex))
            (152, 153, munlockall, done, ())
            (153, _, vhangup, done, ())
            (154, _, modify_ldt, none, (function: Signed, buffer: Pointer, size: Size))
            (155, _, pivot_root, done, (new_root: Path, put_old: Path))
            (156, _, _sysctl, none, (arguments: Pointer))
            (157, 172, prctl, done, (option: Signed, argument2: Hex, argument3: Hex, argument4: Hex, argument5: Hex))
            (158, _, arch_prctl, done, (option: Hex, address: Pointer))
            (159, _, adjtimex, none, (state: Pointer))
            (160, _, setrlimit, done, (resource: Signed, limit: Pointer))
            (161, _, chroot, done, (path: Path))
            (162, 36, sync, done, ())
            (163, _, acct, none, (path: Path))
            (164, _, settimeofday, done, (time: Pointer, zone: Pointer))
            (165, _, mount, done, (source: Path, target: Path, kind: Text, flags: Hex, data: Pointer))
            (166, 52, umount2, done, (target: Path, flags: Hex))
            (167, _, swapon, none, (path: Path, flags: Hex))
            (168, _, swapoff, none, (path: Path))
            (169, _, reboot, none, (magic: Hex, magic2: Hex, command: Hex, argument: Pointer))
            (170, _, sethostname, none, (name: In, length: Size))
            (171, _, setdomainname, none, (name: In, length: Size))
            (172, _, iopl, none, (level: Unsigned))
            (173, _, ioperm, none, (first: Hex, count: Size, enable: Signed))
            (174, _, create_module, none, (name: Text, size: Size))
            (175, _, init_module, none, (image: Pointer, length: Size, parameters: Text))
            (176, _, delete_module, none, (name: Text, flags: Hex))
            (177, _, get_kernel_syms, none, (table: Pointer))
            (178, _, query_module, none, (name: Text, which: Signed, buffer: Pointer, size: Size, result: Pointer))
            (179, _, quotactl, none, (command: Hex, special: Path, id: Signed, address: Pointer))
            (180, _, nfsservctl, none, (command: Signed, argument: Pointer, result: Pointer))
            (181, _, getpmsg, none, (fd: Fd, control: Pointer, data: Pointer, band: Pointer, flags: Pointer))
            (182, _, putpmsg, none, (fd: Fd, control: Pointer, data: Pointer, band: Signed, flags: Hex))
            (183, _, afs_syscall, none, ())
            (184, _, tuxcall, none, ())
            (185, _, security, none, ())
            (186, 224, gettid, done, ())
            (187, _, readahead, done, (fd: Fd, offset: Long, count: Size))
            (188, _, setxattr, done, (path: Path, name: Text, value: In, size: Size, flags: Hex))
            (189, _, lsetxattr, none, (path: Path, name: Text, value: In, size: Size, flags: Hex))
            (190, _, fsetxattr, none, (fd: Fd, name: Text, value: In, size: Size, flags: Hex))
            (191, _, getxattr, done, (path: Path, name: Text, value: Out, size: Size))
            (192, _, lgetxattr, done, (path: Path, name: Text, value: Out, size: Size))
            (193, _, fgetxattr, done, (fd: Fd, name: Text, value: Out, size: Size))
            (194, _, listxattr, done, (path: Path, list: Out, size: Size))
            (195, _, llistxattr, done, (path: Path, list: Out, size: Size))
            (196, _, flistxattr, done, (fd: Fd, list: Out, size: Size))
            (197, _, removexattr, none, (path: Path, name: Text))
            (198, _, lremovexattr, none, (path: Path, name: Text))
            (199, _, fremovexattr, none, (fd: Fd, name: Text))
            (200, 238, tkill, done, (tid: Pid, signal: Signal))
            (201, _, time, done, (result: Pointer))
            (202, _, futex, done, (address: Pointer, operation: Hex, value: Unsigned, timeout: Pointer, address2: Pointer, value3: Unsigned))
            (203, _, sched_setaffinity, done, (pid: Pid, size: Size, mask: Pointer))
            (204, 242, sched_getaffinity, done, (pid: Pid, size: Size, mask: Pointer))
            (205, _, set_thread_area, none, (descriptor: Pointer))
            (206, _, io_setup, none, (events: Unsigned, context: Pointer))
            (207, _, io_destroy, none, (context: Hex))
            (208, _, io_getevents, none, (context: Hex, minimum: Long, maximum: Long, events: Pointer, timeout: Pointer))
            (209, _, io_submit, none, (context: Hex, count: Long, blocks: Pointer))
            (210, _, io_cancel, none, (context: Hex, block: Pointer, result: Pointer))
            (211, _, get_thread_area, none, (descriptor: Pointer))
            (212, _, lookup_dcookie, none, (cookie: Hex, buffer: Out, length: Size))
            (213, 254, epoll_create, done, (size: Signed))
            (214, _, epoll_ctl_old, none, (fd: Fd, operation: Signed, target: Fd, event: Pointer))
            (215, _, epoll_wait_old, none, (fd: Fd, events: Pointer, count: Signed, timeout: Signed))
            (216, _, remap_file_pages, none, (address: Pointer, size: Size, protection: Hex, offset: Size, flags: Hex))
            (217, _, getdents64, done, (fd: Fd, entries: Pointer, count: Size))
            (218, 258, set_tid_address, done, (address: Pointer))
            (219, _, restart_syscall, none, ())
            (220, _, semtimedop, done, (id: Signed, operations: Pointer, count: Size, timeout: Pointer))
            (221, _, fadvise64, done, (fd: Fd, offset: Long, length: Long, advice: Signed))
            (222, _, timer_create, done, (clock: Signed, event: Pointer, timer: Pointer))
            (223, _, timer_settime, done, (timer: Signed, flags: Hex, value: Pointer, old_value: Pointer))
            (224, _, timer_gettime, done, (timer: Signed, value: Pointer))
            (225, _, timer_getoverrun, done, (timer: Signed))
            (226, _, timer_delete, done, (timer: Signed))
            (227, _, clock_settime, done, (clock: Signed, time: Pointer))
            (228, _, clock_gettime, done, (clock: Signed, time: Pointer))
            (229, _, clock_getres, done, (clock: Signed, resolution: Pointer))
            (230, _, clock_nanosleep, done, (clock: Signed, flags: Hex, requested: Pointer, remaining: Pointer))
            (231, 252, exit_group, done, (status: Signed))
            (232, 256, epoll_wait, done, (fd: Fd, events: Pointer, count: Signed, timeout: Signed))
            (233, 255, epoll_ctl, done, (fd: Fd, operation: Signed, target: Fd, event: Pointer))
            (234, 270, tgkill, done, (group: Pid, tid: Pid, signal: Signal))
            (235, _, utimes, done, (path: Path, times: Pointer))
            (236, _, vserver, none, ())
            (237, _, mbind, none, (address: Pointer, length: Size, mode: Hex, nodes: Pointer, maximum: Size, flags: Hex))
            (238, _, set_mempolicy, none, (mode: Hex, nodes: Pointer, maximum: Size))
            (239, _, get_mempolicy, none, (mode: Pointer, nodes: Pointer, maximum: Size, address: Pointer, flags: Hex))
            (240, _, mq_open, done, (name: Text, flags: OpenFlags, mode: Octal, attributes: Pointer))
            (241, _, mq_unlink, done, (name: Text))
            (242, _, mq_timedsend, done, (queue: Fd, message: In, length: Size, priority: Unsigned, timeout: Pointer))
            (243, _, mq_timedreceive, done, (queue: Fd, message: Out, length: Size, priority: Pointer, timeout: Pointer))
            (244, _, mq_notify, done, (queue: Fd, event: Pointer))
            (245, _, mq_getsetattr, done, (queue: Fd, new_attributes: Pointer, old_attributes: Pointer))
            (246, _, kexec_load, none, (entry: Pointer, count: Size, segments: Pointer, flags: Hex))
            (247, _, waitid, done, (which: Signed, id: Pid, information: Pointer, options: Hex, usage: Pointer))
            (248, _, add_key, none, (kind: Text, description: Text, payload: In, length: Size, keyring: Signed))
            (249, _, request_key, none, (kind: Text, description: Text, callout: Text, keyring: Signed))
            (250, _, keyctl, none, (operation: Signed, argument2: Hex, argument3: Hex, argument4: Hex, argument5: Hex))
            (251, _, ioprio_set, done, (which: Signed, who: Signed, priority: Hex))
            (252, _, ioprio_get, done, (which: Signed, who: Signed))
            (253, _, inotify_init, done, ())
            (254, _, inotify_add_watch, done, (fd: Fd, path: Path, mask: Hex))
            (255, _, inotify_rm_watch, done, (fd: Fd, watch: Signed))
            (256, _, migrate_pages, none, (pid: Pid, maximum: Size, old_nodes: Pointer, new_nodes: Pointer))
            (257, 295, openat, done, (directory: DirectoryFd, path: Path, flags: OpenFlags, mode: Octal))
            (258, 296, mkdirat, done, (directory: DirectoryFd, path: Path, mode: Octal))
            (259, _, mknodat, done, (directory: DirectoryFd, path: Path, mode: Octal, device: Hex))
            (260, _, fchownat, done, (directory: DirectoryFd, path: Path, owner: Signed, group: Signed, flags: Hex))
            (261, _, futimesat, done, (directory: DirectoryFd, path: Path, times: Pointer))
            (262, _, newfstatat, done, (directory: DirectoryFd, path: Path, status: Pointer, flags: Hex))
            (263, 301, unlinkat, done, (directory: DirectoryFd, path: Path, flags: Hex))
            (264, 302, renameat, done, (old_directory: DirectoryFd, old_path: Path, new_directory: DirectoryFd, new_path: Path))
            (265, 303, linkat, done, (old_directory: DirectoryFd, old_path: Path, new_directory: DirectoryFd, new_path: Path, flags: Hex))
            (266, 304, symlinkat, done, (target: Path, directory: DirectoryFd, path: Path))
            (267, 305, readlinkat, done, (directory: DirectoryFd, path: Path, buffer: Out, size: Size))
            (268, 306, fchmodat, done, (directory: DirectoryFd, path: Path, mode: Octal))
            (269, 307, faccessat, done, (directory: DirectoryFd, path: Path, mode: Hex))
            (270, _, pselect6, done, (count: Signed, read: Pointer, write: Pointer, except: Pointer, timeout: Pointer, mask: Pointer))
            (271, _, ppoll, done, (fds: Pointer, count: Unsigned, timeout: Pointer, mask: Pointer, mask_size: Size))
            (272, _, unshare, done, (flags: Hex))
            (273, _, set_robust_list, done, (head: Pointer, length: Size))
            (274, _, get_robust_list, done, (pid: Pid, head: Pointer, length: Pointer))
            (275, _, splice, done, (in_fd: Fd, in_offset: Pointer, out_fd: Fd, out_offset: Pointer, length: Size, flags: Hex))
            (276, _, tee, done, (in_fd: Fd, out_fd: Fd, length: Size, flags: Hex))
            (277, _, sync_file_range, none, (fd: Fd, offset: Long, length: Long, flags: Hex))
            (278, _, vmsplice, done, (fd: Fd, vectors: Pointer, count: Size, flags: Hex))
            (279, _, move_pages, none, (pid: Pid, count: Size, pages: Pointer, nodes: Pointer, status: Pointer, flags: Hex))
            (280, _, utimensat, done, (directory: DirectoryFd, path: Path, times: Pointer, flags: Hex))
            (281, _, epoll_pwait, done, (fd: Fd, events: Pointer, count: Signed, timeout: Signed, mask: Pointer, mask_size: Size))
            (282, _, signalfd, done, (fd: Fd, mask: Pointer, mask_size: Size))
            (283, _, timerfd_create, done, (clock: Signed, flags: OpenFlags))
            (284, 323, eventfd, done, (value: Unsigned))
            (285, _, fallocate, done, (fd: Fd, mode: Hex, offset: Long, length: Long))
            (286, _, timerfd_settime, done, (fd: Fd, flags: Hex, value: Pointer, old_value: Pointer))
            (287, _, timerfd_gettime, done, (fd: Fd, value: Pointer))
            (288, _, accept4, done, (fd: Fd, address: Pointer, length: Pointer, flags: Hex))
            (289, _, signalfd4, done, (fd: Fd, mask: Pointer, mask_size: Size, flags: OpenFlags))
            (290, 328, eventfd2, done, (value: Unsigned, flags: Hex))
            (291, 329, epoll_create1, done, (flags: Hex))
            (292, 330, dup3, done, (old_fd: Fd, new_fd: Fd, flags: OpenFlags))
            (293, 331, pipe2, done, (fds: Pointer, flags: OpenFlags))
            (294, _, inotify_init1, done, (flags: OpenFlags))
            (295, _, preadv, done, (fd: Fd, vectors: Pointer, count: Signed, offset: Long, high: Long))
            (296, _, pwritev, done, (fd: Fd, vectors: Pointer, count: Signed, offset: Long, high: Long))
            (297, _, rt_tgsigqueueinfo, done, (group: Pid, tid: Pid, signal: Signal, information: Pointer))
            (298, _, perf_event_open, none, (attributes: Pointer, pid: Pid, cpu: Signed, group: Fd, flags: Hex))
            (299, _, recvmmsg, done, (fd: Fd, messages: Pointer, count: Unsigned, flags: Hex, timeout: Pointer))
            (300, _, fanotify_init, none, (flags: Hex, event_flags: OpenFlags))
            (301, _, fanotify_mark, none, (fd: Fd, flags: Hex, mask: Hex, directory: DirectoryFd, path: Path))
            (302, _, prlimit64, done, (pid: Pid, resource: Signed, new_limit: Pointer, old_limit: Pointer))
            (303, _, name_to_handle_at, none, (directory: DirectoryFd, path: Path, handle: Pointer, mount: Pointer, flags: Hex))
            (304, _, open_by_handle_at, none, (mount: DirectoryFd, handle: Pointer, flags: OpenFlags))
            (305, _, clock_adjtime, none, (clock: Signed, state: Pointer))
            (306, 344, syncfs, done, (fd: Fd))
            (307, _, sendmmsg, done, (fd: Fd, messages: Pointer, count: Unsigned, flags: Hex))
            (308, _, setns, none, (fd: Fd, kind: Hex))
            (309, 318, getcpu, done, (cpu: Pointer, node: Pointer, cache: Pointer))
            (310, _, process_vm_readv, done, (pid: Pid, local: Pointer, local_count: Size, remote: Pointer, remote_count: Size, flags: Hex))
            (311, _, process_vm_writev, done, (pid: Pid, local: Pointer, local_count: Size, remote: Pointer, remote_count: Size, flags: Hex))
            (312, _, kcmp, none, (pid1: Pid, pid2: Pid, kind: Signed, index1: Hex, index2: Hex))
            (313, _, finit_module, none, (fd: Fd, parameters: Text, flags: Hex))
            (314, _, sched_setattr, done, (pid: Pid, attributes: Pointer, flags: Hex))
            (315, _, sched_getattr, done, (pid: Pid, attributes: Pointer, size: Unsigned, flags: Hex))
            (316, 353, renameat2, done, (old_directory: DirectoryFd, old_path: Path, new_directory: DirectoryFd, new_path: Path, flags: Hex))
            (317, _, seccomp, none, (operation: Unsigned, flags: Hex, argument: Pointer))
            (318, 355, getrandom, done, (buffer: Out, count: Size, flags: Hex))
            (319, 356, memfd_create, done, (name: Text, flags: Hex))
            (320, _, kexec_file_load, none, (kernel_fd: Fd, initrd_fd: Fd, length: Size, command_line: Text, flags: Hex))
            (321, _, bpf, none, (command: Signed, attributes: Pointer, size: Unsigned))
            (322, _, execveat, done, (directory: DirectoryFd, path: Path, arguments: Pointer, environment: Pointer, flags: Hex))
            (323, _, userfaultfd, none, (flags: Hex))
            (324, 375, membarrier, done, (command: Signed, flags: Hex, cpu: Signed))
            (325, _, mlock2, done, (address: Pointer, length: Size, flags: Hex))
            (326, _, copy_file_range, done, (in_fd: Fd, in_offset: Pointer, out_fd: Fd, out_offset: Pointer, length: Size, flags: Hex))
            (327, _, preadv2, done, (fd: Fd, vectors: Pointer, count: Signed, offset: Long, high: Long, flags: Hex))
            (328, _, pwritev2, done, (fd: Fd, vectors: Pointer, count: Signed, offset: Long, high: Long, flags: Hex))
            (329, _, pkey_mprotect, none, (address: Pointer, length: Size, protection: Hex, key: Signed))
            (330, _, pkey_alloc, none, (flags: Hex, rights: Hex))
            (331, _, pkey_free, none, (key: Signed))
            (332, 383, statx, done, (directory: DirectoryFd, path: Path, flags: Hex, mask: Hex, status: Pointer))
            (333, _, io_pgetevents, none, (context: Hex, minimum: Long, maximum: Long, events: Pointer, timeout: Pointer, mask: Pointer))
            (334, _, rseq, done, (area: Pointer, length: Unsigned, flags: Hex, signature: Hex))
            (335, _, uretprobe, none, ())
            (336, _, uprobe, none, ())
            (424, _, pidfd_send_signal, done, (fd: Fd, signal: Signal, information: Pointer, flags: Hex))
            (425, _, io_uring_setup, none, (entries: Unsigned, parameters: Pointer))
            (426, _, io_uring_enter, none, (fd: Fd, submit: Unsigned, complete: Unsigned, flags: Hex, argument: Pointer, size: Size))
            (427, _, io_uring_register, none, (fd: Fd, operation: Unsigned, argument: Pointer, count: Unsigned))
            (428, _, open_tree, none, (directory: DirectoryFd, path: Path, flags: Hex))
            (429, _, move_mount, none, (from_directory: DirectoryFd, from_path: Path, to_directory: DirectoryFd, to_path: Path, flags: Hex))
            (430, _, fsopen, none, (kind: Text, flags: Hex))
            (431, _, fsconfig, none, (fd: Fd, command: Unsigned, key: Text, value: Pointer, auxiliary: Signed))
            (432, _, fsmount, none, (fd: Fd, flags: Hex, attributes: Hex))
            (433, _, fspick, none, (directory: DirectoryFd, path: Path, flags: Hex))
            (434, _, pidfd_open, done, (pid: Pid, flags: OpenFlags))
            (435, _, clone3, done, (arguments: Pointer, size: Size))
            (436, 436, close_range, done, (first: Unsigned, last: Unsigned, flags: Hex))
            (437, _, openat2, done, (directory: DirectoryFd, path: Path, how: Pointer, size: Size))
            (438, _, pidfd_getfd, done, (fd: Fd, target: Signed, flags: Hex))
            (439, 439, faccessat2, done, (directory: DirectoryFd, path: Path, mode: Hex, flags: Hex))
            (440, _, process_madvise, none, (fd: Fd, vectors: Pointer, count: Size, advice: Signed, flags: Hex))
            (441, _, epoll_pwait2, done, (fd: Fd, events: Pointer, count: Signed, timeout: Pointer, mask: Pointer, mask_size: Size))
            (442, _, mount_setattr, none, (directory: DirectoryFd, path: Path, flags: Hex, attributes: Pointer, size: Size))
            (443, _, quotactl_fd, none, (fd: Fd, command: Hex, id: Signed, address: Pointer))
            (444, _, landlock_create_ruleset, none, (attributes: Pointer, size: Size, flags: Hex))
            (445, _, landlock_add_rule, none, (fd: Fd, kind: Signed, attributes: Pointer, flags: Hex))
            (446, _, landlock_restrict_self, none, (fd: Fd, flags: Hex))
            (447, _, memfd_secret, none, (flags: Hex))
            (448, _, process_mrelease, none, (fd: Fd, flags: Hex))
            (449, _, futex_waitv, done, (waiters: Pointer, count: Unsigned, flags: Hex, timeout: Pointer, clock: Signed))
            (450, _, set_mempolicy_home_node, none, (address: Pointer, length: Size, home: Size, flags: Hex))
            (451, _, cachestat, none, (fd: Fd, range: Pointer, status: Pointer, flags: Hex))
            (452, 452, fchmodat2, done, (directory: DirectoryFd, path: Path, mode: Octal, flags: Hex))
            (453, _, map_shadow_stack, none, (address: Pointer, size: Size, flags: Hex))
            (454, _, futex_wake, none, (address: Pointer, mask: Hex, count: Signed, flags: Hex))
            (455, _, futex_wait, none, (address: Pointer, value: Hex, mask: Hex, flags: Hex, timeout: Pointer, clock: Signed))
            (456, _, futex_requeue, none, (waiters: Pointer, flags: Hex, wake: Signed, requeue: Signed))
            (457, _, statmount, none, (request: Pointer, buffer: Pointer, size: Size, flags: Hex))
            (458, _, listmount, none, (request: Pointer, ids: Pointer, count: Size, flags: Hex))
            (459, _, lsm_get_self_attr, none, (attribute: Unsigned, context: Pointer, size: Pointer, flags: Hex))
            (460, _, lsm_set_self_attr, none, (attribute: Unsigned, context: Pointer, size: Unsigned, flags: Hex))
            (461, _, lsm_list_modules, none, (ids: Pointer, size: Pointer, flags: Hex))
            (462, _, mseal, none, (address: Pointer, length: Size, flags: Hex))
            (463, _, setxattrat, none, (directory: DirectoryFd, path: Path, flags: Hex, name: Text, arguments: Pointer, size: Size))
            (464, _, getxattrat, none, (directory: DirectoryFd, path: Path, flags: Hex, name: Text, arguments: Pointer, size: Size))
            (465, _, listxattrat, none, (directory: DirectoryFd, path: Path, flags: Hex, list: Out, size: Size))
            (466, _, removexattrat, none, (directory: DirectoryFd, path: Path, flags: Hex, name: Text))
            (467, _, open_tree_attr, none, (directory: DirectoryFd, path: Path, flags: Hex, attributes: Pointer, size: Size))
            (468, _, file_getattr, none, (directory: DirectoryFd, path: Path, attributes: Pointer, size: Size, flags: Hex))
            (469, _, file_setattr, none, (directory: DirectoryFd, path: Path, attributes: Pointer, size: Size, flags: Hex))
        }
    };
}

macro_rules! make_list {
    (@number32 _) => { None };
    (@number32 $number:literal) => { Some($number) };
    (@implemented done) => { true };
    (@implemented none) => { false };
    ($(($number:literal, $number32:tt, $name:ident, $state:ident, ($($argument:ident: $kind:ident),*)))*) => {
        /// All system calls that Linux has on x86-64, by ascending number.
        pub const LIST: &[SystemCall] = &[
            $(SystemCall {
                number: $number,
                number32: make_list!(@number32 $number32),
                name: stringify!($name),
                implemented: make_list!(@implemented $state),
                arguments: &[$((stringify!($argument), Kind::$kind)),*],
            },)*
        ];
    };
}

for_each_system_call!(make_list);

/// The call with this SYSCALL number.
pub fn by_number(number: u32) -> Option<&'static SystemCall> {
    let index = LIST.binary_search_by_key(&number, |call| call.number).ok()?;
    LIST.get(index)
}

/// The call with this `int 0x80` number, among those that exist there.
pub fn by_number32(number: u32) -> Option<&'static SystemCall> {
    LIST.iter().find(|call| call.number32 == Some(number))
}

/// The SYSCALL number of the call with this name, for constants.
///
/// # Panics
/// If there is none, which the compiler then says.
pub const fn number(name: &str) -> u32 {
    let mut index = 0;
    while index < LIST.len() {
        if equal(LIST[index].name.as_bytes(), name.as_bytes()) {
            return LIST[index].number;
        }
        index += 1;
    }
    panic!("no such system call");
}

const fn equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// The call with this name.
pub fn by_name(name: &str) -> Option<&'static SystemCall> {
    LIST.iter().find(|call| call.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_stay_below_the_limit() {
        assert!(LIST.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(LIST.iter().all(|call| (call.number as usize) < LIMIT));
    }

    #[test]
    fn names_and_32_bit_numbers_are_unique() {
        for (index, call) in LIST.iter().enumerate() {
            for other in &LIST[index + 1..] {
                assert_ne!(call.name, other.name);
                assert!(
                    call.number32.is_none() || call.number32 != other.number32,
                    "{}",
                    call.name
                );
            }
        }
    }

    #[test]
    fn every_call_has_its_arguments() {
        for call in LIST {
            assert!(call.arguments.len() <= 6, "{}", call.name);
            for (index, (name, _)) in call.arguments.iter().enumerate() {
                assert_ne!(*name, "unlisted", "{}", call.name);
                assert!(
                    call.arguments[..index].iter().all(|(other, _)| other != name),
                    "{}",
                    call.name
                );
            }
        }
    }

    #[test]
    fn the_list_is_complete_up_to_linux_6_18() {
        let numbers = LIST.iter().map(|call| call.number);
        assert!(numbers.eq((0..=336).chain(424..=469)));
    }

    #[test]
    fn a_buffer_is_followed_by_its_size() {
        for call in LIST {
            for (index, (_, kind)) in call.arguments.iter().enumerate() {
                if matches!(kind, Kind::In | Kind::Out) {
                    let next = call.arguments.get(index + 1).map(|(_, kind)| *kind);
                    assert_eq!(next, Some(Kind::Size), "{}", call.name);
                }
            }
        }
    }
}
