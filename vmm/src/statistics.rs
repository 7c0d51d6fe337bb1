//! What a run cost, for benchmarks: with `AIRLOCK_STATS=FILE` in the environment, one line of JSON is
//! written to FILE when the machine has ended.
//!
//! KVM's own counters are read as its API documentation says (KVM_GET_STATS_FD); `insn_emulation`
//! counts ring 0 instructions on a host that interprets them. Memory is what the kernel says in
//! `/proc/self/smaps`. Everything is opened before threads are confined, so that it takes no
//! more than `read(2)` and `write(2)` in the end.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::VcpuFd;

/// `KVM_GET_STATS_FD`: `_IO(0xae, 0xce)`.
const KVM_GET_STATS_FD: libc::Ioctl = 0xaece;
/// `struct kvm_stats_header`.
const HEADER_SIZE: usize = 24;
/// `struct kvm_stats_desc` without the name.
const DESCRIPTOR_SIZE: usize = 16;
/// No statistics file is longer.
const MAX_FILE: u64 = 1 << 20;

/// Host addresses of memory that belongs to the guest: start and end.
pub type HostRange = (u64, u64);

/// Files that are open for the statistics.
pub struct Statistics {
    output: File,
    maps: File,
    counters: Mutex<Vec<File>>,
}

impl Statistics {
    /// Opens what is needed, if the environment asks for statistics.
    ///
    /// # Errors
    ///
    /// When a file cannot be opened.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(path) = env::var_os("AIRLOCK_STATS") else { return Ok(None) };
        Ok(Some(Self {
            output: File::create(path)?,
            maps: File::open("/proc/self/smaps")?,
            counters: Mutex::new(Vec::new()),
        }))
    }

    /// Adds a vCPU's counters; a KVM without them is no error.
    pub fn add(&self, vcpu: &VcpuFd) {
        // SAFETY: the file is a vCPU; the request has no argument and returns a descriptor.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and nobody else's.
            let file = unsafe { File::from_raw_fd(fd) };
            self.counters.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        }
    }

    /// Makes mappings of their own of parts of the executable that are guest memory, so that `smaps` tells
    /// them from what is ours. It only changes what a core dump would have.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub fn set_apart(ranges: &[HostRange]) -> io::Result<()> {
        for &(start, end) in ranges {
            let length = usize::try_from(end - start).map_err(io::Error::other)?;
            let start =
                ptr::with_exposed_provenance_mut(usize::try_from(start).map_err(io::Error::other)?);
            // SAFETY: the advice does not change what is mapped, or may be done with it.
            if unsafe { libc::madvise(start, length, libc::MADV_DONTDUMP) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Writes the line. Memory is the guest's RAM, or the guest's `in_place`: pages of the guest kernel and of
    /// files that it uses as the host's page cache has them; or ours.
    ///
    /// # Errors
    ///
    /// When the file does not take it.
    pub fn write(&self, guest: &[HostRange], in_place: &[HostRange]) -> io::Result<()> {
        let files = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let contents: Vec<_> = files.iter().map(whole).collect::<io::Result<_>>()?;
        let sum = |name: &str| {
            let values: Option<Vec<u64>> =
                contents.iter().map(|bytes| counter(bytes, name)).collect();
            match values {
                Some(values) if !values.is_empty() => values.iter().sum::<u64>().to_string(),
                _ => "null".to_owned(),
            }
        };
        let maps = whole(&self.maps)?;
        let [guest_kib, in_place_kib, own_kib] =
            resident(&String::from_utf8_lossy(&maps), [guest, in_place]);
        writeln!(
            &self.output,
            "{{\"insn_emulation\": {}, \"exits\": {}, \"guest_pages\": {}, \"vmm_resident_kib\": {own_kib}, \
             \"guest_memory_kib\": {guest_kib}, \"in_place_kib\": {in_place_kib}}}",
            sum("insn_emulation"),
            sum("exits"),
            guest_kib / 4,
        )
    }
}

fn whole(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(word)).ok()
}

/// A counter in the contents of a statistics file.
fn counter(bytes: &[u8], name: &str) -> Option<u64> {
    let name_size = number(bytes, 4)?;
    let count = number(bytes, 8)?;
    let descriptors = number(bytes, 16)?;
    let data = number(bytes, 20)?;
    if bytes.len() < HEADER_SIZE {
        return None;
    }
    for index in 0..count {
        let at = descriptors + index * (DESCRIPTOR_SIZE + name_size);
        let text = bytes.get(at + DESCRIPTOR_SIZE..at + DESCRIPTOR_SIZE + name_size)?;
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        if &text[..end] == name.as_bytes() {
            let value = data + number(bytes, at + 8)?;
            return Some(u64::from_le_bytes(bytes.get(value..value + 8)?.try_into().ok()?));
        }
    }
    None
}

/// Resident KiB of two kinds of ranges, and of everything else, from the text of smaps.
fn resident(maps: &str, kinds: [&[HostRange]; 2]) -> [u64; 3] {
    let mut sums = [0; 3];
    let mut kind = kinds.len();
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kib = rest.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0);
            sums[kind] += kib;
        } else if let Some((range, _)) = line.split_once(' ')
            && let Some((start, _)) = range.split_once('-')
            && let Ok(start) = u64::from_str_radix(start, 16)
        {
            let holds = |ranges: &&[HostRange]| {
                ranges.iter().any(|&(from, to)| start >= from && start < to)
            };
            kind = kinds.iter().position(holds).unwrap_or(kinds.len());
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_name() {
        let mut file = vec![0; HEADER_SIZE];
        for (at, value) in [(4, 8u32), (8, 2), (16, 24), (20, 72)] {
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (name, offset) in [("exits", 0u32), ("other", 8)] {
            let mut descriptor = [0; DESCRIPTOR_SIZE + 8];
            descriptor[8..12].copy_from_slice(&offset.to_le_bytes());
            descriptor[DESCRIPTOR_SIZE..DESCRIPTOR_SIZE + 5].copy_from_slice(name.as_bytes());
            file.extend_from_slice(&descriptor);
        }
        file.extend_from_slice(&7u64.to_le_bytes());
        file.extend_from_slice(&9u64.to_le_bytes());
        assert_eq!(counter(&file, "exits"), Some(7));
        assert_eq!(counter(&file, "other"), Some(9));
        assert_eq!(counter(&file, "none"), None);
        assert_eq!(counter(&file[..30], "exits"), None);
    }

    #[test]
    fn memory_is_the_guests_or_ours() {
        let maps = "1000-2000 rw-p 0 00:00 0\nSize: 4 kB\nRss:    4 kB\n3000-9000 r--p 0 00:00 0 /x\nRss: 12 kB\n\
                    9000-a000 r--p 0 00:00 0 /x\nRss: 8 kB\n";
        assert_eq!(resident(maps, [&[(0x1000, 0x2000)], &[]]), [4, 0, 20]);
        assert_eq!(resident(maps, [&[(0x1000, 0x2000)], &[(0x9000, 0xa000)]]), [4, 8, 12]);
    }
}
