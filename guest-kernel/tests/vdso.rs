//! The vDSO as a C library sees it: found by name and version in the mapped image, and called.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use guest_kernel::time::tsc::Scale;
use guest_kernel::time::vdso;
use guest_kernel::time::vvar::Vvar;

/// A `Vvar` page with the image behind it, mapped as in a process and never unmapped.
struct Mapped {
    vvar: &'static Vvar,
    image: *const u8,
}

impl Mapped {
    fn new() -> Self {
        // SAFETY: a new mapping of three pages, wherever there is room; checked below.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * vdso::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(pages, libc::MAP_FAILED);
        let vvar = pages.cast::<Vvar>();
        let image = pages.cast::<u8>().wrapping_add(vdso::SIZE);
        // SAFETY: both pages are writable and ours alone. A page of zeroes is a valid `Vvar`. The
        // second page is made executable once it is written.
        unsafe {
            image.copy_from_nonoverlapping(vdso::image().as_ptr(), vdso::SIZE);
            let code = libc::PROT_READ | libc::PROT_EXEC;
            assert_eq!(libc::mprotect(image.cast(), vdso::SIZE, code), 0);
            Self { vvar: &*vvar, image }
        }
    }

    fn bytes(&self) -> &'static [u8] {
        // SAFETY: the page of the image, which stays mapped and unwritten.
        unsafe { std::slice::from_raw_parts(self.image, vdso::SIZE) }
    }

    /// The address of a function, looked up as musl does: through the program headers and the
    /// dynamic section, by name and version.
    fn function(&self, name: &str) -> *const u8 {
        let object = Object::parse(self.bytes());
        let symbol = object.find(name, "LINUX_2.6").unwrap_or_else(|| panic!("no {name}"));
        assert!(symbol.value + symbol.size <= vdso::SIZE);
        self.image.wrapping_add(symbol.value)
    }

    fn clock_gettime(&self) -> extern "C" fn(i32, *mut libc::timespec) -> i32 {
        // SAFETY: the function at this symbol has this signature (vdso(7)).
        unsafe { std::mem::transmute(self.function("__vdso_clock_gettime")) }
    }

    fn clock_getres(&self) -> extern "C" fn(i32, *mut libc::timespec) -> i32 {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.function("__vdso_clock_getres")) }
    }

    fn gettimeofday(&self) -> extern "C" fn(*mut libc::timeval, *mut [i32; 2]) -> i32 {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.function("__vdso_gettimeofday")) }
    }

    fn time(&self) -> extern "C" fn(*mut i64) -> i64 {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.function("__vdso_time")) }
    }

    fn getcpu(&self) -> extern "C" fn(*mut u32, *mut u32, usize) -> i32 {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.function("__vdso_getcpu")) }
    }
}

fn word<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().unwrap()
}

fn u16_at(bytes: &[u8], offset: usize) -> usize {
    u16::from_le_bytes(word(bytes, offset)).into()
}

fn u32_at(bytes: &[u8], offset: usize) -> usize {
    u32::from_le_bytes(word(bytes, offset)).try_into().unwrap()
}

fn u64_at(bytes: &[u8], offset: usize) -> usize {
    u64::from_le_bytes(word(bytes, offset)).try_into().unwrap()
}

fn text_at(bytes: &[u8], offset: usize) -> &str {
    CStr::from_bytes_until_nul(&bytes[offset..]).unwrap().to_str().unwrap()
}

struct Symbol {
    value: usize,
    size: usize,
}

/// What a dynamic linker takes from the dynamic section.
struct Object<'a> {
    bytes: &'a [u8],
    strings: usize,
    symbols: usize,
    hash: usize,
    gnu_hash: usize,
    versions: usize,
    definitions: usize,
    soname: usize,
}

impl<'a> Object<'a> {
    fn parse(bytes: &'a [u8]) -> Self {
        assert_eq!(&bytes[..7], b"\x7fELF\x02\x01\x01");
        assert_eq!((u16_at(bytes, 16), u16_at(bytes, 18)), (3, 62), "ET_DYN, EM_X86_64");
        let mut dynamic = None;
        let mut loads = 0;
        for index in 0..u16_at(bytes, 56) {
            let header = u64_at(bytes, 32) + index * u16_at(bytes, 54);
            match u32_at(bytes, header) {
                1 => {
                    loads += 1;
                    assert_eq!(u32_at(bytes, header + 4), 5, "PT_LOAD is R-X");
                    assert_eq!((u64_at(bytes, header + 8), u64_at(bytes, header + 16)), (0, 0));
                    assert!(u64_at(bytes, header + 32) <= vdso::SIZE);
                    assert_eq!(u64_at(bytes, header + 32), u64_at(bytes, header + 40));
                }
                2 => dynamic = Some(u64_at(bytes, header + 16)),
                _ => {}
            }
        }
        assert_eq!(loads, 1);
        let dynamic = dynamic.expect("PT_DYNAMIC");
        let tag = |tag| {
            (0..)
                .map(|index| dynamic + 16 * index)
                .take_while(|&entry| u64_at(bytes, entry) != 0)
                .find(|&entry| u64_at(bytes, entry) == tag)
                .map(|entry| u64_at(bytes, entry + 8))
                .unwrap_or_else(|| panic!("no dynamic tag {tag:#x}"))
        };
        assert_eq!(tag(11), 24, "DT_SYMENT");
        assert_eq!(tag(0x6fff_fffd), 2, "DT_VERDEFNUM");
        Self {
            bytes,
            strings: tag(5),
            symbols: tag(6),
            hash: tag(4),
            gnu_hash: tag(0x6fff_fef5),
            versions: tag(0x6fff_fff0),
            definitions: tag(0x6fff_fffc),
            soname: tag(14),
        }
    }

    fn symbol(&self, index: usize, name: &str, version: &str) -> Option<Symbol> {
        let entry = self.symbols + 24 * index;
        if text_at(self.bytes, self.strings + u32_at(self.bytes, entry)) != name {
            return None;
        }
        assert_eq!(self.bytes[entry + 4] & 0xf, 2, "STT_FUNC");
        assert_ne!(u16_at(self.bytes, entry + 6), 0, "not SHN_UNDEF");
        let defined = self.version(u16_at(self.bytes, self.versions + 2 * index))?;
        (defined == version).then(|| Symbol {
            value: u64_at(self.bytes, entry + 8),
            size: u64_at(self.bytes, entry + 16),
        })
    }

    /// The name of the version with an index, and its hash checked.
    fn version(&self, index: usize) -> Option<&'a str> {
        let mut definition = self.definitions;
        loop {
            assert_eq!(u16_at(self.bytes, definition), 1, "VER_DEF_CURRENT");
            if u16_at(self.bytes, definition + 4) == index {
                let names = definition + u32_at(self.bytes, definition + 12);
                let name = text_at(self.bytes, self.strings + u32_at(self.bytes, names));
                assert_eq!(u32_at(self.bytes, definition + 8), elf_hash(name));
                return Some(name);
            }
            match u32_at(self.bytes, definition + 16) {
                0 => return None,
                next => definition += next,
            }
        }
    }

    /// Looks a symbol up through `DT_HASH` and through `DT_GNU_HASH`, which must agree.
    fn find(&self, name: &str, version: &str) -> Option<Symbol> {
        let bytes = self.bytes;
        let buckets = u32_at(bytes, self.hash);
        let chains = self.hash + 8 + 4 * buckets;
        let mut index = u32_at(bytes, self.hash + 8 + 4 * (elf_hash(name) % buckets));
        while index != 0 && self.symbol(index, name, version).is_none() {
            assert!(index < u32_at(bytes, self.hash + 4));
            index = u32_at(bytes, chains + 4 * index);
        }
        assert_eq!(self.find_gnu(name, version), index);
        self.symbol(index, name, version)
    }

    fn find_gnu(&self, name: &str, version: &str) -> usize {
        let bytes = self.bytes;
        let table = self.gnu_hash;
        let hash =
            name.bytes().fold(5381_u32, |hash, b| hash.wrapping_mul(33).wrapping_add(b.into()));
        let buckets = u32_at(bytes, table);
        let first = u32_at(bytes, table + 4);
        let blooms = u32_at(bytes, table + 8);
        let bloom = u64_at(bytes, table + 16 + 8 * (usize::try_from(hash / 64).unwrap() % blooms));
        if bloom >> (hash % 64) & 1 == 0 {
            return 0;
        }
        let buckets_at = table + 16 + 8 * blooms;
        let mut index = u32_at(bytes, buckets_at + 4 * (usize::try_from(hash).unwrap() % buckets));
        while index != 0 {
            let entry = u32_at(bytes, buckets_at + 4 * (buckets + index - first));
            let same = entry | 1 == usize::try_from(hash | 1).unwrap();
            if same && self.symbol(index, name, version).is_some() {
                return index;
            }
            index = if entry & 1 == 1 { 0 } else { index + 1 };
        }
        0
    }
}

fn elf_hash(name: &str) -> usize {
    name.bytes().fold(0, |hash, byte| {
        let hash = (hash << 4) + usize::from(byte);
        (hash ^ (hash >> 24 & 0xf0)) & 0x0fff_ffff
    })
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and Linux leaves RDTSC to programs.
    unsafe {
        _mm_lfence();
        let reading = _rdtsc();
        _mm_lfence();
        reading
    }
}

fn host_ns(clock: i32) -> u64 {
    let mut time = NOT_A_TIME;
    // SAFETY: a valid pointer.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    assert!((0..1_000_000_000).contains(&time.tv_nsec), "{}", time.tv_nsec);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

const NOT_A_TIME: libc::timespec = libc::timespec { tv_sec: -7, tv_nsec: -7 };

/// The rate of this machine's TSC, measured once.
fn host_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (start, start_tsc) = (Instant::now(), tsc());
        std::thread::sleep(Duration::from_millis(200));
        let (end_tsc, elapsed) = (tsc(), start.elapsed());
        let ticks = u128::from(end_tsc - start_tsc);
        u64::try_from(ticks * 1_000_000 / elapsed.as_nanos()).unwrap()
    })
}

const REALTIME: u64 = 1_790_000_000_123_456_789;

const NAMES: [&str; 5] = ["clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu"];

#[test]
fn every_function_has_two_names_and_the_version() {
    let object = Object::parse(vdso::image());
    for name in NAMES {
        let global = object.find(&format!("__vdso_{name}"), "LINUX_2.6").unwrap();
        let weak = object.find(name, "LINUX_2.6").unwrap();
        assert_eq!((global.value, global.size), (weak.value, weak.size));
        assert!(global.size > 0);
        assert!(object.find(name, "LINUX_2.5").is_none());
    }
    assert!(object.find("clock_settime", "LINUX_2.6").is_none());
    assert_eq!(text_at(object.bytes, object.strings + object.soname), "linux-vdso.so.1");
}

#[test]
fn the_unwind_table_covers_every_function() {
    let bytes = vdso::image();
    let header = (0..u16_at(bytes, 56))
        .map(|index| u64_at(bytes, 32) + index * u16_at(bytes, 54))
        .find(|&header| u32_at(bytes, header) == 0x6474_e550)
        .map(|header| u64_at(bytes, header + 16))
        .unwrap();
    assert_eq!(u32_at(bytes, header + 8), 1);
    let entry = header + u32_at(bytes, header + 16);
    let start = entry + 8 + i32_at(bytes, entry + 8);
    assert_eq!(start, header + i32_at(bytes, header + 12));
    let end = start + u32_at(bytes, entry + 12);
    let common = entry + 4 - u32_at(bytes, entry + 4);
    assert_eq!(common, header + 4 + u32_at(bytes, header + 4));
    assert_eq!(&bytes[common + 8..common + 12], b"\x01zR\0");
    let object = Object::parse(bytes);
    for name in NAMES {
        let symbol = object.find(name, "LINUX_2.6").unwrap();
        assert!(start <= symbol.value && symbol.value + symbol.size <= end, "{name}");
    }
}

fn i32_at(bytes: &[u8], offset: usize) -> usize {
    usize::try_from(i32::from_le_bytes(word(bytes, offset))).unwrap()
}

#[test]
fn clocks_are_exactly_what_the_tsc_says() {
    let mapped = Mapped::new();
    let scale = Scale::from_khz(2_599_998).unwrap();
    let base = tsc();
    mapped.vvar.start(scale, base, REALTIME, true);
    let clock_gettime = mapped.clock_gettime();
    for round in 0..2_000 {
        for (clock, offset) in [
            (libc::CLOCK_REALTIME, REALTIME),
            (libc::CLOCK_MONOTONIC, 0),
            (libc::CLOCK_MONOTONIC_RAW, 0),
            (libc::CLOCK_REALTIME_COARSE, REALTIME),
            (libc::CLOCK_MONOTONIC_COARSE, 0),
            (libc::CLOCK_BOOTTIME, 0),
            (libc::CLOCK_TAI, REALTIME),
        ] {
            let mut time = NOT_A_TIME;
            let before = tsc();
            assert_eq!(clock_gettime(clock, &raw mut time), 0);
            let after = tsc();
            let now = nanoseconds(time) - offset;
            assert!(mapped.vvar.monotonic(before) <= now, "clock {clock}, round {round}");
            assert!(now <= mapped.vvar.monotonic(after), "clock {clock}, round {round}");
        }
    }
}

#[test]
fn every_nanosecond_is_split_into_seconds_exactly() {
    let mapped = Mapped::new();
    let clock_gettime = mapped.clock_gettime();
    let gettimeofday = mapped.gettimeofday();
    // A TSC that lags behind its base is taken for the base, so the time is the offset alone.
    let mut offsets = vec![0, 1, 999_999_999, 1_000_000_000, u64::MAX, u64::MAX >> 1];
    let mut random: u64 = 1;
    for _ in 0..200_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        offsets.push(random >> (random >> 58));
        offsets.push((random >> 36) * 1_000_000_000);
        offsets.push((random >> 36) * 1_000_000_000 + 999_999_999);
    }
    for offset in offsets {
        mapped.vvar.start(Scale::from_khz(1_000_000).unwrap(), u64::MAX, offset, true);
        let mut time = NOT_A_TIME;
        assert_eq!(clock_gettime(libc::CLOCK_REALTIME, &raw mut time), 0);
        assert_eq!(u64::try_from(time.tv_sec).unwrap(), offset / 1_000_000_000);
        assert_eq!(u64::try_from(time.tv_nsec).unwrap(), offset % 1_000_000_000);
        let mut time = libc::timeval { tv_sec: -1, tv_usec: -1 };
        assert_eq!(gettimeofday(&raw mut time, std::ptr::null_mut()), 0);
        assert_eq!(u64::try_from(time.tv_sec).unwrap(), offset / 1_000_000_000);
        assert_eq!(u64::try_from(time.tv_usec).unwrap(), offset % 1_000_000_000 / 1000);
    }
}

#[test]
fn clocks_run_like_those_of_the_host() {
    let mapped = Mapped::new();
    let khz = host_khz();
    let start = host_ns(libc::CLOCK_MONOTONIC);
    let realtime = host_ns(libc::CLOCK_REALTIME);
    mapped.vvar.start(Scale::from_khz(khz).unwrap(), tsc(), realtime, true);
    std::thread::sleep(Duration::from_millis(100));
    for (clock, zero) in [(libc::CLOCK_MONOTONIC, start), (libc::CLOCK_REALTIME, 0)] {
        let mut time = NOT_A_TIME;
        let before = host_ns(clock) - zero;
        assert_eq!(mapped.clock_gettime()(clock, &raw mut time), 0);
        let after = host_ns(clock) - zero;
        let now = nanoseconds(time);
        let tolerance = 2_000_000;
        assert!(before <= now + tolerance && now <= after + tolerance, "{before} {now} {after}");
    }
    let time = mapped.time()(std::ptr::null_mut());
    let host = i64::try_from(host_ns(libc::CLOCK_REALTIME) / 1_000_000_000).unwrap();
    assert!((time - host).abs() <= 1, "{time} {host}");
}

#[test]
fn without_a_clock_the_system_calls_answer() {
    // A fresh page of zeroes: the TSC may not be used.
    let mapped = Mapped::new();
    let mut time = NOT_A_TIME;
    let before = host_ns(libc::CLOCK_BOOTTIME);
    assert_eq!(mapped.clock_gettime()(libc::CLOCK_BOOTTIME, &raw mut time), 0);
    assert!(before <= nanoseconds(time) && nanoseconds(time) <= host_ns(libc::CLOCK_BOOTTIME));
    let mut day = libc::timeval { tv_sec: 0, tv_usec: 0 };
    assert_eq!(mapped.gettimeofday()(&raw mut day, std::ptr::null_mut()), 0);
    let mut seconds = 0;
    assert_eq!(mapped.time()(&raw mut seconds), seconds);
    // Linux's time() is that of the last tick, which may have been in the last second.
    assert!((seconds - day.tv_sec).abs() <= 1);
    assert_eq!(mapped.clock_getres()(libc::CLOCK_MONOTONIC, &raw mut time), 0);
    assert_eq!(time.tv_sec, 0);
}

#[test]
fn clocks_that_it_does_not_know_are_the_kernels() {
    let mapped = Mapped::new();
    mapped.vvar.start(Scale::from_khz(1_000_000).unwrap(), 0, REALTIME, true);
    let mut time = NOT_A_TIME;
    let before = host_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
    assert_eq!(mapped.clock_gettime()(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time), 0);
    assert!(before <= nanoseconds(time));
    assert!(nanoseconds(time) <= host_ns(libc::CLOCK_PROCESS_CPUTIME_ID));
    for clock in [10, 12, 31, 32, 33, 64, i32::MAX, i32::MIN, -1] {
        assert_eq!(mapped.clock_gettime()(clock, &raw mut time), -libc::EINVAL, "{clock}");
        assert_eq!(mapped.clock_getres()(clock, &raw mut time), -libc::EINVAL, "{clock}");
    }
}

#[test]
fn null_pointers_are_left_alone() {
    let mapped = Mapped::new();
    for invariant in [false, true] {
        mapped.vvar.start(Scale::from_khz(host_khz()).unwrap(), tsc(), REALTIME, invariant);
        let null = std::ptr::null_mut();
        assert_eq!(mapped.clock_getres()(libc::CLOCK_REALTIME, null), 0);
        assert_eq!(mapped.gettimeofday()(std::ptr::null_mut(), std::ptr::null_mut()), 0);
        assert!(mapped.time()(std::ptr::null_mut()) > 1_700_000_000);
        assert_eq!(mapped.getcpu()(std::ptr::null_mut(), std::ptr::null_mut(), 0), 0);
    }
}

#[test]
fn the_rest_of_the_page_is_answered_too() {
    let mapped = Mapped::new();
    mapped.vvar.start(Scale::from_khz(host_khz()).unwrap(), tsc(), REALTIME, true);
    mapped.vvar.set_zone(0xffff_ffff_0000_003c);
    let mut zone = [7, 7];
    assert_eq!(mapped.gettimeofday()(std::ptr::null_mut(), &raw mut zone), 0);
    assert_eq!(zone, [60, -1]);
    let mut seconds = 0;
    assert_eq!(mapped.time()(&raw mut seconds), 1_790_000_000);
    assert_eq!(seconds, 1_790_000_000);
    let mut resolution = NOT_A_TIME;
    assert_eq!(mapped.clock_getres()(libc::CLOCK_REALTIME_COARSE, &raw mut resolution), 0);
    assert_eq!((resolution.tv_sec, resolution.tv_nsec), (0, 1));
}

#[test]
fn the_number_of_the_cpu_comes_from_linux_s_own_segment() {
    let mapped = Mapped::new();
    // SAFETY: a set of plain bits.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid pointers to the set; CPU_SETSIZE bounds the numbers.
    let last = unsafe {
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
        (0..1024).rev().find(|&cpu| libc::CPU_ISSET(cpu, &set)).unwrap()
    };
    // SAFETY: as above.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(last, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
    // 0: by system call. 0x7b: __CPUNODE_SEG, encoded as the vDSO expects it. 0x3: no segment.
    for selector in [0, 0x7b, 0x3] {
        mapped.vvar.set_cpu_selector(selector);
        let (mut cpu, mut node) = (77, 77);
        assert_eq!(mapped.getcpu()(&raw mut cpu, &raw mut node, 0), 0);
        assert_eq!(usize::try_from(cpu).unwrap(), last);
        assert!(node < 16);
    }
}
