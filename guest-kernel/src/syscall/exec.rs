//! A new program in the place of the old one: execve(2), execveat(2).

use super::caller::{Caller, any_file, check_flags, read_path};
use super::{AT_FDCWD, Fd};
use crate::arch::cpu::Cpu;
use crate::arch::fpu;
use crate::arch::instruction::{msr, write_msr};
use crate::arch::selectors::Selectors;
use crate::errno::{Errno, Result};
use crate::exec::{Entropy, Executable, StringList, elf, script, stack};
use crate::fs::metadata::{S_IFLNK, S_IFMT, S_IFREG};
use crate::fs::mount::{Mount, NO_EXECUTE};
use crate::fs::path::{Found, Last, walk};
use crate::fs::permission::EXECUTE;
use crate::fs::{Executing, FileRef, Inode, OpenFile};
use crate::memory::space::AddressSpace;
use crate::memory::{PAGE_SIZE, UserPtr, usize_from};
use crate::process::timers::SI_TIMER;
use crate::process::{self, Credentials, NewRegisters, Program, current, resource, table};
use crate::signal::{AlternateStack, number};
use crate::{boot, random};
use airlock_abi::exit::Exit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_RDONLY};

/// `MAX_ARG_STRLEN`: no single string is longer, with its NUL.
const MAX_STRING: usize = 32 * PAGE_SIZE;
/// Copies in an array of pointers to strings that ends with NULL; NULL itself is an empty array.
fn read_strings(array: UserPtr<u64>, room: &mut usize) -> Result<StringList> {
    let mut strings = StringList::default();
    if array.is_null() {
        return Ok(strings);
    }
    loop {
        let address = array.element(strings.len()).read()?;
        if address == 0 {
            return Ok(strings);
        }
        let string = UserPtr::<u8>::new(address).read_string(MAX_STRING, Errno::E2BIG)?;
        // Its pointer takes room on the stack, too.
        *room = room.checked_sub(string.len() + 1 + 8).ok_or(Errno::E2BIG)?;
        strings.push(&string)?;
    }
}

/// `execve(2)`.
///
/// # Errors
/// As the man page says.
pub fn execve(path: UserPtr<u8>, arguments: UserPtr<u64>, environment: UserPtr<u64>) -> Result<()> {
    execveat(AT_FDCWD, path, arguments, environment, 0)
}

/// `execveat(2)`.
///
/// # Errors
/// As the man page says.
pub fn execveat(
    directory: Fd,
    path: UserPtr<u8>,
    arguments: UserPtr<u64>,
    environment: UserPtr<u64>,
    flags: u32,
) -> Result<()> {
    check_flags(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let caller = Caller::get();
    let name = read_path(path)?;
    let file = if name.is_empty() && flags & AT_EMPTY_PATH != 0 {
        let file = any_file(directory)?;
        check(&caller, file.inode(), file.mount())?;
        file
    } else {
        let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        open_program(&caller, caller.walk(directory, path, last)?)?
    };
    let stack_limit = current().limits().lock().0[resource::STACK].soft;
    // A quarter of the stack, but at least what old programs could always use (execve(2)).
    let mut room = usize_from(stack_limit / 4).clamp(32 * PAGE_SIZE, 6 << 20);
    let environment = read_strings(environment, &mut room)?;
    let mut arguments = read_strings(arguments, &mut room)?;
    if arguments.is_empty() {
        // As Linux since 5.18: a program can rely on argv[0].
        arguments.push(b"")?;
    }
    let shown = if directory == AT_FDCWD || name.first() == Some(&b'/') {
        name
    } else if name.is_empty() {
        alloc::format!("/dev/fd/{}", directory.0).into_bytes()
    } else {
        let mut shown = alloc::format!("/dev/fd/{}/", directory.0).into_bytes();
        shown.extend_from_slice(&name);
        shown
    };
    let (file, arguments) =
        script::follow(file, &shown, arguments, &mut |path| open_path(&caller, path))?;
    let start = load(&caller, &file, &shown, &arguments, &environment)?;
    replace(&caller, &file, start, &shown)
}

/// Whether the caller may execute the file.
fn check(caller: &Caller, inode: &Inode, mount: Option<&Arc<Mount>>) -> Result<()> {
    if mount.is_some_and(|mount| mount.has(NO_EXECUTE)) && inode.mode()? & S_IFMT == S_IFREG {
        return Err(Errno::EACCES);
    }
    match inode.mode()? & S_IFMT {
        S_IFREG => caller.subject().check(inode, EXECUTE),
        S_IFLNK => Err(Errno::ELOOP),
        _ => Err(Errno::EACCES),
    }
}

/// An executable file, open whether or not the caller may read it.
fn open_program(caller: &Caller, found: Found) -> Result<FileRef> {
    let inode = found.inode.clone().ok_or(Errno::ENOENT)?;
    if found.slash {
        return Err(Errno::ENOTDIR);
    }
    check(caller, &inode, found.mount.as_ref())?;
    Ok(Arc::new(OpenFile::new(inode, found, None, O_RDONLY)))
}

/// The executable file that the caller would find at a path of the kernel's.
fn open_path(caller: &Caller, path: &[u8]) -> Result<FileRef> {
    let start = caller.start(AT_FDCWD, path)?;
    let mut owned = Vec::new();
    owned.try_reserve_exact(path.len()).map_err(|_| Errno::ENOMEM)?;
    owned.extend_from_slice(path);
    let found = walk(&caller.context.root, &start, owned, Last::Follow, &caller.subject())?;
    open_program(caller, found)
}

/// A program that is ready to start.
struct Prepared {
    space: AddressSpace,
    credentials: Credentials,
    secure: bool,
    rip: u64,
    rsp: u64,
}

/// Who the program is: set-user-ID and set-group-ID bits count unless privileges may not grow.
fn new_credentials(file: &FileRef) -> Result<(Credentials, bool)> {
    let me = current();
    let before = me.credentials();
    let no_new_privileges = me.no_new_privileges.load(Ordering::Relaxed);
    Ok(before.clone().of_program(&before, &file.program_metadata()?, no_new_privileges))
}

/// Builds the new address space; nothing of the old program has changed if that fails.
fn load(
    caller: &Caller,
    file: &FileRef,
    shown: &[u8],
    arguments: &StringList,
    environment: &StringList,
) -> Result<Prepared> {
    let executable = Executable::new(file.clone(), file.path(&caller.context.root)?)?;
    let mut open = |path: &[u8]| {
        let file = open_path(caller, path)?;
        let path = file.path(&caller.context.root)?;
        Executable::new(file, path)
    };
    let mut next = random::next_u64;
    let mut entropy = Entropy(&mut next);
    let mut random_bytes = [0; 16];
    random::fill(&mut random_bytes);
    let (credentials, secure) = new_credentials(file)?;
    let space = AddressSpace::new(boot::kernel_root(), &boot::KERNEL_SLOTS)?;
    let mut layout = stack::place(&space, &mut entropy)?;
    let vdso = boot::map_vdso(&space, layout.stack_start, &mut entropy)?;
    let loaded = elf::load(&space, &executable, &mut open, &mut entropy)?;
    elf::finish_layout(&mut layout, &loaded, &mut entropy);
    let (hwcap, hwcap2) = boot::hardware_capabilities();
    let start = stack::Start {
        arguments: stack::Strings(arguments.bytes()),
        environment: stack::Strings(environment.bytes()),
        path: shown,
        hwcap,
        hwcap2,
        minimum_signal_stack: crate::signal::MINIMUM_STACK,
        ids: [credentials.uid, credentials.euid, credentials.gid, credentials.egid],
        secure,
        random: random_bytes,
        vdso,
    };
    let rsp = stack::fill(&space, &mut layout, &start, &loaded, &mut entropy)?;
    Ok(Prepared { space, credentials, secure, rip: loaded.start, rsp })
}

/// The point of no return: from here on there is no old program to go back to.
fn replace(caller: &Caller, file: &FileRef, new: Prepared, shown: &[u8]) -> Result<()> {
    let path = file.path(&caller.context.root)?;
    let executing = Executing::new(file.inode())?;
    process::become_only_thread()?;
    let me = current();
    super::leave_memory(false);
    let space = Arc::new(new.space);
    let old = me.replace_memory(space);
    process::end_loan();
    drop(old);
    me.unshare_actions(|actions| actions.reset_handlers());
    let unshared = me.unshare_files();
    if unshared.is_err() {
        // There is nothing to go back to.
        process::exit_group(Exit::Signaled(number::SIGKILL));
    }
    loop {
        let Some(closed) = me.files().lock().take_close_on_exec() else { break };
        closed.closed_by(me.pid);
    }
    let timers = me.timers.lock().remove_created();
    drop(timers);
    me.process.pending.lock().discard_code(SI_TIMER);
    let mut signals = me.signals.lock();
    signals.pending.discard_code(SI_TIMER);
    signals.stack = AlternateStack::NONE;
    drop(signals);
    let before = me.credentials();
    // Linux's begin_new_exec and commit_creds.
    let now = &new.credentials;
    let hidden = (now.euid, now.egid) != (now.uid, now.gid) || now.hides_from(&before);
    me.dumpable.store(!hidden, Ordering::Relaxed);
    if new.secure || now.hides_from(&before) {
        me.parent_death_signal.store(0, Ordering::Relaxed);
    }
    me.set_credentials(new.credentials);
    me.has_executed.store(true, Ordering::Relaxed);
    me.set_exit_signal(number::SIGCHLD);
    // A program that a descriptor stands for is named after its file.
    let named = if shown.starts_with(b"/dev/fd/") { &path } else { shown };
    let name = named.rsplit(|&byte| byte == b'/').next().unwrap_or(named);
    *me.name.lock() = process::short_name(name);
    *me.program.lock() = Program { path, executing: Some(executing) };
    if me.tid() != me.pid {
        // The program goes on under the id of the process, whoever called.
        let old = me.tid();
        me.take_process_id();
        let before = table::lock().rename_thread(old, &me.to_arc());
        drop(before);
    }
    fpu::reset();
    // SAFETY: null selectors; both registers exist; the program starts without thread-local storage.
    unsafe {
        Selectors::NULL.load();
        write_msr(msr::FS_BASE, 0);
        write_msr(msr::KERNEL_GS_BASE, 0);
    }
    *me.new_registers.lock() = Some(NewRegisters::OfProgram { rip: new.rip, rsp: new.rsp });
    Cpu::current().request_work();
    Ok(())
}
