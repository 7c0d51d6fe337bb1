//! Memory: mmap(2) and its kin.

use super::Fd;
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::fs::mount::NO_EXECUTE;
use crate::memory::areas::{AreaFlags, Backing, FileLabel, Label, Protection};
use crate::memory::space::{Access, Mapping, Placement, Remapping};
use crate::memory::{Content, Frame, PAGE, Page, PageSource, UserPtr, page_ceil, usize_from};
use crate::process::{bounds, current};
use crate::signal::{Fault, number};
use crate::sync::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED, MADV_FREE,
    MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT, MADV_POPULATE_READ,
    MADV_POPULATE_WRITE, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_WIPEONFORK, MAP_32BIT,
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED,
    MAP_NONBLOCK, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MREMAP_DONTUNMAP,
    MREMAP_FIXED, MREMAP_MAYMOVE, MS_ASYNC, MS_INVALIDATE, MS_SYNC, O_ACCMODE, O_RDONLY, O_WRONLY,
    PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP, PROT_READ, PROT_SEM, PROT_WRITE,
};

/// The bits of `PROT_*` that mean rights.
fn rights(bits: u64) -> Protection {
    Protection(bits.to_le_bytes()[0] & Protection::ALL.0)
}

/// Anonymous memory that is shared: pages appear as they are touched.
struct SharedMemory(SpinLock<BTreeMap<u64, Frame>>);

impl PageSource for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Page> {
        let mut pages = self.0.lock();
        if let Some(frame) = pages.get(&index) {
            return Ok(Page::Frame(frame.clone()));
        }
        let frame = Frame::allocate(Content::Zeroes)?;
        pages.insert(index, frame.clone());
        Ok(Page::Frame(frame))
    }

    fn is_resident(&self, index: u64) -> bool {
        self.0.lock().contains_key(&index)
    }
}

/// A shared mapping of a file that could be sealed, and may be written to: as long as it is there, in
/// whatever process, the file cannot be sealed against writes.
struct WritableMapping(FileRef);

impl PageSource for WritableMapping {
    fn page(&self, index: u64, write: bool) -> Result<Page> {
        self.0.page(index, write)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.0.is_resident(index)
    }
}

impl Drop for WritableMapping {
    fn drop(&mut self) {
        self.0.inode().unmap_writable();
    }
}

/// Whether the file is /dev/zero: mapping it is another way to ask for anonymous memory (zero(4)).
fn maps_as_anonymous(fd: Fd) -> Result<bool> {
    /// `makedev(1, 5)`.
    const ZERO: u64 = 1 << 8 | 5;
    let process = current();
    let file = process.files().lock().get(fd.0)?;
    Ok(file.as_stream().is_some() && file.metadata()?.special == ZERO)
}

/// `mmap(2)`.
///
/// # Errors
/// As the man page says.
pub fn mmap(address: u64, len: u64, bits: u64, flags: u64, fd: Fd, offset: u64) -> Result<u64> {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // As on Linux, unknown protection bits do not matter here.
    let rights = rights(bits);
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let kind = flags & 0xf;
    let shared = match kind {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    if flags & MAP_HUGETLB != 0 {
        // There is no pool of huge pages, as on a Linux where nobody has made one.
        return Err(Errno::ENOMEM);
    }
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace(address)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else if flags & MAP_32BIT != 0 && address == 0 {
        Placement::Low
    } else {
        Placement::Hint(address)
    };
    let process = current();
    let zeroes = flags & MAP_ANONYMOUS == 0 && maps_as_anonymous(fd)?;
    let (backing, label, allowed) = if flags & MAP_ANONYMOUS != 0 || zeroes {
        let backing = if shared {
            let memory = SharedMemory(SpinLock::new(BTreeMap::new()));
            Backing::Object { source: Arc::new(memory), first_page: 0 }
        } else {
            Backing::Anonymous
        };
        (backing, Label::None, Protection::ALL)
    } else {
        let file = process.files().lock().get(fd.0)?;
        let mode = file.flags() & O_ACCMODE;
        if mode == O_WRONLY || file.is_path_only() {
            return Err(if file.is_path_only() { Errno::EBADF } else { Errno::EACCES });
        }
        let mut allowed = Protection::ALL;
        let no_execute = file.mount().is_some_and(|mount| mount.has(NO_EXECUTE));
        if no_execute && rights.contains(Protection::EXECUTE) {
            return Err(Errno::EPERM);
        }
        if shared && mode == O_RDONLY {
            if rights.contains(Protection::WRITE) {
                return Err(Errno::EACCES);
            }
            allowed = Protection::READ.with(Protection::EXECUTE);
        }
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        if offset.checked_add(len).and_then(page_ceil).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        if !file.is_regular()? {
            return Err(Errno::ENODEV);
        }
        let metadata = file.metadata()?;
        let root = process.fs().lock().root.clone();
        let path = file.path(&root).unwrap_or_default();
        let label = FileLabel { device: metadata.device, inode: metadata.number, path };
        let mut source: Arc<dyn PageSource> = file.clone();
        if shared && allowed.contains(Protection::WRITE) {
            match file.inode().map_writable() {
                Ok(false) => {}
                Ok(true) => source = Arc::new(WritableMapping(file)),
                Err(error) if rights.contains(Protection::WRITE) => return Err(error),
                // It can be mapped, but never be written to.
                Err(_) => allowed = Protection::READ.with(Protection::EXECUTE),
            }
        }
        let backing = Backing::Object { source, first_page: offset / PAGE };
        (backing, Label::File(Arc::new(label)), allowed)
    };
    let space = process.memory();
    let mut kept = AreaFlags::NONE;
    if flags & MAP_LOCKED != 0 {
        if !super::memory_lock::may_lock() {
            return Err(Errno::EPERM);
        }
        kept = kept.with(AreaFlags::LOCKED);
    }
    if flags & MAP_GROWSDOWN != 0 {
        kept = kept.with(AreaFlags::GROWS_DOWN);
    }
    let mapping = Mapping {
        placement,
        len,
        protection: rights,
        allowed,
        shared,
        backing,
        label,
        flags: kept,
    };
    let start = space.map(mapping, &bounds())?;
    let end = start + page_ceil(len).unwrap_or(0);
    let touches = flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE;
    if touches || space.is_locked_in(start, end) {
        // A failure shows when the program touches them itself.
        let _ = populate(start, end);
    }
    Ok(start)
}

/// Touches all pages of a range as the program could: by writing to those that are its own.
///
/// # Errors
/// The first fault.
pub(super) fn populate(start: u64, end: u64) -> core::result::Result<(), Fault> {
    let me = current();
    let space = me.memory();
    let mut at = start;
    while at < end {
        let (rights, shared, area_end) = space.protection_at(at).ok_or(Fault::UNMAPPED)?;
        let write = rights.contains(Protection::WRITE) && !shared;
        let access = if write { Access::Write } else { Access::Read };
        while at < area_end.min(end) {
            if crate::process::signal_is_pending() {
                return Ok(());
            }
            space.fault(at, access, bounds)?;
            at += PAGE;
        }
    }
    Ok(())
}

/// `munmap(2)`.
///
/// # Errors
/// As the man page says.
pub fn munmap(address: u64, len: u64) -> Result<()> {
    current().memory().unmap(address, len)
}

/// `mprotect(2)`.
///
/// # Errors
/// As the man page says.
pub fn mprotect(address: u64, len: u64, bits: u64) -> Result<()> {
    let growing = bits & u64::from(PROT_GROWSDOWN | PROT_GROWSUP);
    let known = u64::from(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM);
    if bits & !growing & !known != 0 || growing == u64::from(PROT_GROWSDOWN | PROT_GROWSUP) {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let space = me.memory();
    let mut start = address;
    if growing != 0 && address.is_multiple_of(PAGE) && len != 0 {
        let area = space.area_above(address).ok_or(Errno::ENOMEM)?;
        if area.start >= address.saturating_add(len) {
            return Err(Errno::ENOMEM);
        }
        // Nothing grows upwards here.
        if growing != u64::from(PROT_GROWSDOWN) || !area.grows() {
            return Err(Errno::EINVAL);
        }
        start = area.start;
    }
    let len = address.checked_add(len).map_or(len, |end| end - start);
    space.protect(start, len, rights(bits), &bounds())
}

/// `brk(2)`, the system call: it returns the break, whether it changed or not.
pub fn brk(address: u64) -> u64 {
    current().memory().set_break(address, &bounds())
}

/// `mremap(2)`.
///
/// # Errors
/// As the man page says.
pub fn mremap(old: u64, old_len: u64, new_len: u64, flags: u64, target: u64) -> Result<u64> {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let may_move = flags & MREMAP_MAYMOVE != 0;
    let fixed = flags & MREMAP_FIXED != 0;
    let keep = flags & MREMAP_DONTUNMAP != 0;
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0
        || ((fixed || keep) && !may_move)
        || (keep && !target.is_multiple_of(PAGE))
    {
        return Err(Errno::EINVAL);
    }
    let hint = if keep { target } else { 0 };
    let target = fixed.then_some(target);
    let request = Remapping { old, old_len, new_len, target, hint, may_move, keep };
    let me = current();
    let start = me.memory().remap(&request, &bounds())?;
    let end = start.saturating_add(page_ceil(new_len).unwrap_or(0));
    if new_len > old_len && me.memory().is_locked_in(start, end) {
        let _ = populate(start, end);
    }
    Ok(start)
}

/// `madvise(2)`.
///
/// # Errors
/// As the man page says.
pub fn madvise(address: u64, len: u64, advice: i32) -> Result<()> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = page_ceil(len).and_then(|len| address.checked_add(len)).ok_or(Errno::EINVAL)?;
    let process = current();
    let space = process.memory();
    let (set, clear) = match u32::try_from(advice).map_err(|_| Errno::EINVAL)? {
        MADV_DONTNEED => return space.discard(address, len, false),
        MADV_FREE => return space.discard(address, len, true),
        // Advice changes nothing but speed, which is ours to choose.
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_COLD | MADV_PAGEOUT
        | MADV_HUGEPAGE | MADV_NOHUGEPAGE | MADV_DONTDUMP | MADV_DODUMP => {
            return if space.covers(address, end) { Ok(()) } else { Err(Errno::ENOMEM) };
        }
        MADV_POPULATE_READ => return touch(address, end, Access::Read),
        MADV_POPULATE_WRITE => return touch(address, end, Access::Write),
        MADV_DONTFORK => (AreaFlags::DONT_FORK, AreaFlags::NONE),
        MADV_DOFORK => (AreaFlags::NONE, AreaFlags::DONT_FORK),
        MADV_WIPEONFORK => (AreaFlags::WIPE_ON_FORK, AreaFlags::NONE),
        MADV_KEEPONFORK => (AreaFlags::NONE, AreaFlags::WIPE_ON_FORK),
        _ => return Err(Errno::EINVAL),
    };
    if address == end { Ok(()) } else { space.advise(address, len, set, clear) }
}

/// `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`.
fn touch(start: u64, end: u64, access: Access) -> Result<()> {
    let me = current();
    for page in (start..end).step_by(usize_from(PAGE)) {
        if crate::process::signal_is_pending() {
            return Err(Errno::EINTR);
        }
        me.memory().fault(page, access, bounds).map_err(|fault| match fault {
            Fault::UNMAPPED | Fault::OUT_OF_MEMORY => Errno::ENOMEM,
            Fault { signal: number::SIGBUS, .. } => Errno::EFAULT,
            _ => Errno::EINVAL,
        })?;
    }
    Ok(())
}

/// `msync(2)`: shared mappings are the file's own pages, so there is nothing to write back.
///
/// # Errors
/// As the man page says.
pub fn msync(address: u64, len: u64, flags: u64) -> Result<()> {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let both = MS_ASYNC | MS_SYNC;
    if !address.is_multiple_of(PAGE) || flags & !(both | MS_INVALIDATE) != 0 || flags & both == both
    {
        return Err(Errno::EINVAL);
    }
    let end = page_ceil(len).and_then(|len| address.checked_add(len)).ok_or(Errno::ENOMEM)?;
    let me = current();
    if flags & MS_INVALIDATE != 0 && me.memory().is_locked_in(address, end) {
        return Err(Errno::EBUSY);
    }
    if me.memory().covers(address, end) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// `mincore(2)`.
///
/// # Errors
/// As the man page says.
pub fn mincore(address: u64, len: u64, vector: UserPtr<u8>) -> Result<()> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = page_ceil(len).and_then(|len| address.checked_add(len)).ok_or(Errno::ENOMEM)?;
    for (index, page) in (address..end).step_by(usize_from(PAGE)).enumerate() {
        let resident = current().memory().is_resident(page).ok_or(Errno::ENOMEM)?;
        vector.element(index).write(u8::from(resident))?;
    }
    Ok(())
}
