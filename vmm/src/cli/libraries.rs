//! Finds the shared libraries that a program names, as its dynamic linker will look for them
//! (ld.so(8); System V gABI, "Dynamic Linking"; musl's documentation of its dynamic linker).
//!
//! What is found here is put at the same paths of the guest, where the dynamic linker looks once more.
//! What is not found is left to it: its message says what is missing. Nothing of the program is
//! executed on the host.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRTAB, EM_X86_64, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};
use vmm::image;

use super::ld_cache::Cache;

/// Directories that glibc's dynamic linker searches when all else fails; Debian's come first in its
/// build of it, and elsewhere they do not exist.
const GLIBC_DIRECTORIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// Variants of a library for newer processors are in these directories beside it. Which of them glibc
/// takes, the guest's CPUID decides.
const GLIBC_HARDWARE: [&str; 4] =
    ["glibc-hwcaps/x86-64-v4", "glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v2", ""];
/// What `$LIB` stands for: Debian's, then everybody else's.
const GLIBC_LIB: [&str; 2] = ["lib/x86_64-linux-gnu", "lib64"];
/// Where glibc's dynamic linker keeps what it knows of libraries.
const GLIBC_CACHE: &str = "/etc/ld.so.cache";
/// glibc loads this one by itself when a thread is cancelled.
const GLIBC_UNWINDER: &[u8] = b"libgcc_s.so.1";
const GLIBC: &[u8] = b"libc.so.6";

/// Where musl's dynamic linker is told to search, and where it does if it is not.
const MUSL_PATH: &str = "/etc/ld-musl-x86_64.path";
const MUSL_DIRECTORIES: &str = "/lib:/usr/local/lib:/usr/lib";
/// Libraries that are part of musl's dynamic linker: `libc.so` and so on.
const MUSL_OWN: [&[u8]; 7] = [b"c", b"pthread", b"rt", b"m", b"dl", b"util", b"xnet"];

/// Longest name or list of directories that is read.
const MAX_NAME: u64 = 64 << 10;

/// The variables of the program that its dynamic linker heeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Variables<'a> {
    /// `LD_LIBRARY_PATH`.
    pub path: Option<&'a OsStr>,
    /// `LD_PRELOAD`.
    pub preload: Option<&'a OsStr>,
}

/// What an ELF file says of its needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dynamic {
    needed: Vec<Vec<u8>>,
    /// `DT_RPATH`, unless there is the other.
    rpath: Option<Vec<u8>>,
    runpath: Option<Vec<u8>>,
}

/// An object that is loaded, whose needs are to be found.
struct Object {
    dynamic: Dynamic,
    /// Directory of the file, for `$ORIGIN`.
    origin: PathBuf,
    /// Where this object's needs are looked for on behalf of those that need it.
    inherited: Vec<PathBuf>,
}

/// Files that a dynamically linked program needs, with its interpreter: paths of the host, absolute,
/// each once.
pub fn find(
    program: &Path,
    file: &File,
    interpreter: &Path,
    variables: Variables<'_>,
) -> Vec<PathBuf> {
    let is_musl =
        interpreter.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-musl"));
    let mut search = Search {
        is_musl,
        variables,
        system: system_directories(is_musl),
        cache: if is_musl { None } else { Cache::read(Path::new(GLIBC_CACHE)) },
        used_cache: false,
        names: HashSet::new(),
        found: vec![interpreter.to_owned()],
        pending: Vec::new(),
    };
    search.run(program, file);
    if search.used_cache {
        search.found.push(GLIBC_CACHE.into());
    }
    search.found
}

struct Search<'a> {
    is_musl: bool,
    variables: Variables<'a>,
    system: Vec<PathBuf>,
    cache: Option<Cache>,
    used_cache: bool,
    /// Names that have been looked for: a dynamic linker loads a name once.
    names: HashSet<Vec<u8>>,
    found: Vec<PathBuf>,
    pending: Vec<Object>,
}

impl Search<'_> {
    fn run(&mut self, program: &Path, file: &File) {
        let Some(mut dynamic) = read_dynamic(file) else { return };
        if let Some(preload) = self.variables.preload {
            let separators = |byte: &u8| *byte == b' ' || *byte == b':';
            let names = preload.as_bytes().split(separators).filter(|name| !name.is_empty());
            dynamic.needed.extend(names.map(<[u8]>::to_vec));
        }
        // The file itself, wherever links led to it.
        let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        self.pending.push(Object { dynamic, origin: directory(&real), inherited: Vec::new() });
        while let Some(object) = self.pending.pop() {
            self.follow(&object);
        }
    }

    fn follow(&mut self, object: &Object) {
        let own = |list: &Option<Vec<u8>>| match list {
            Some(list) => expand(list, &object.origin),
            None => Vec::new(),
        };
        let (rpath, runpath) = (own(&object.dynamic.rpath), own(&object.dynamic.runpath));
        let environment = match self.variables.path {
            // glibc separates by semicolons, too.
            Some(path) => expand(path.as_bytes(), &object.origin),
            None => Vec::new(),
        };
        let asked: Vec<PathBuf> = if self.is_musl {
            [&environment[..], &rpath, &runpath, &object.inherited].concat()
        } else if object.dynamic.runpath.is_some() {
            [&environment[..], &runpath].concat()
        } else {
            [&rpath[..], &object.inherited, &environment].concat()
        };
        let inherited =
            [&rpath[..], if self.is_musl { &runpath } else { &[] }, &object.inherited].concat();
        for name in &object.dynamic.needed {
            if !self.names.insert(name.clone()) || (self.is_musl && is_musls_own(name)) {
                continue;
            }
            let found = self.find(name, &asked, &object.origin);
            if found.is_empty() {
                log::warn!("no library {} for the program", name.escape_ascii());
            }
            for (path, file) in found {
                let mut dynamic = read_dynamic(&file).unwrap_or_default();
                if !self.is_musl && name == GLIBC {
                    dynamic.needed.push(GLIBC_UNWINDER.to_vec());
                }
                let origin = directory(&path);
                self.found.push(path);
                self.pending.push(Object { dynamic, origin, inherited: inherited.clone() });
            }
        }
    }

    /// All files that the dynamic linker could take for a name, depending on the processor.
    fn find(&mut self, name: &[u8], asked: &[PathBuf], origin: &Path) -> Vec<(PathBuf, File)> {
        let open = |path: PathBuf| library(&path).map(|file| (path, file));
        if name.contains(&b'/') {
            let path = expand(name, origin).into_iter().map(|path| absolute(&path));
            return path.filter_map(open).take(1).collect();
        }
        let variants: &[&str] = if self.is_musl { &[""] } else { &GLIBC_HARDWARE };
        let look = |directories: &[PathBuf]| {
            directories
                .iter()
                .map(|directory| {
                    let paths = variants.iter().map(|variant| {
                        absolute(&directory.join(variant).join(OsStr::from_bytes(name)))
                    });
                    paths.filter_map(open).collect::<Vec<_>>()
                })
                .find(|found| !found.is_empty())
        };
        if let Some(found) = look(asked) {
            return found;
        }
        if let Some(cache) = &self.cache {
            let known = cache.paths(name).map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let known: Vec<_> = known.filter_map(open).collect();
            if !known.is_empty() {
                self.used_cache = true;
                return known;
            }
        }
        look(&self.system).unwrap_or_default()
    }
}

fn system_directories(is_musl: bool) -> Vec<PathBuf> {
    if !is_musl {
        return GLIBC_DIRECTORIES.map(PathBuf::from).to_vec();
    }
    let list = fs::read_to_string(MUSL_PATH).unwrap_or_else(|_| MUSL_DIRECTORIES.to_owned());
    list.split([':', '\n']).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// Whether musl's dynamic linker has this library in itself: `libm.so`, `libpthread.so.0`.
fn is_musls_own(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"lib") else { return false };
    let stem = rest.split(|&byte| byte == b'.').next().unwrap_or_default();
    stem.len() < rest.len() && MUSL_OWN.contains(&stem)
}

fn directory(path: &Path) -> PathBuf {
    absolute(path).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The path from the root, without `.` and `..`.
fn absolute(path: &Path) -> PathBuf {
    super::program::absolute(path)
}

/// The directories of a list with its `$ORIGIN` and `$LIB` replaced.
fn expand(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    let entries = list.split(|&byte| byte == b':' || byte == b';');
    let mut directories = Vec::new();
    for entry in entries {
        // An empty entry is the current directory.
        let entry = if entry.is_empty() { b"." } else { entry };
        let entry = replace(entry, b"ORIGIN", origin.as_os_str().as_bytes());
        let entry = replace(&entry, b"PLATFORM", b"x86_64");
        let mut of_lib: Vec<Vec<u8>> =
            GLIBC_LIB.iter().map(|lib| replace(&entry, b"LIB", lib.as_bytes())).collect();
        of_lib.dedup();
        directories
            .extend(of_lib.into_iter().map(|entry| PathBuf::from(OsString::from_vec(entry))));
    }
    directories
}

/// Replaces `$NAME` and `${NAME}`.
fn replace(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let braced = after.strip_prefix(b"{").and_then(|text| text.strip_prefix(name));
        let tail = match braced.and_then(|text| text.strip_prefix(b"}")) {
            Some(tail) => Some(tail),
            None => after.strip_prefix(name),
        };
        match tail {
            Some(tail) if first == b'$' => {
                result.extend_from_slice(value);
                rest = tail;
            }
            _ => {
                result.push(first);
                rest = after;
            }
        }
    }
    result
}

/// Opens a file that the dynamic linker would take for a library.
fn library(path: &Path) -> Option<File> {
    let file = image::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let cache = ReadCache::new(&file);
    header(&cache).is_some().then_some(())?;
    Some(file)
}

fn header<'data, R: ReadRef<'data>>(data: R) -> Option<&'data FileHeader64<LittleEndian>> {
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    (header.e_machine(endian) == EM_X86_64).then_some(header)
}

/// The dynamic section of an ELF file, if it has one that makes sense.
fn read_dynamic(file: &File) -> Option<Dynamic> {
    let cache = ReadCache::new(file);
    let data = &cache;
    let header = header(data)?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let entries =
        segments.iter().find_map(|segment| segment.dynamic(endian, data).ok().flatten())?;
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| (entry.tag(endian), entry.val(endian)))
        .take_while(|&(tag, _)| tag != DT_NULL)
        .collect();
    let &(_, strings) = entries.iter().find(|&&(tag, _)| tag == DT_STRTAB)?;
    // The string table has an address; its bytes are where the file has those of that address.
    let string = |offset: u64| {
        let address = strings.checked_add(offset)?;
        let segment = segments.iter().find(|segment| {
            let start = segment.p_vaddr(endian);
            segment.p_type(endian) == object::elf::PT_LOAD
                && (start..start.saturating_add(segment.p_filesz(endian))).contains(&address)
        })?;
        let (offset, size) = segment.file_range(endian);
        let start = offset.checked_add(address - segment.p_vaddr(endian))?;
        let end = offset.checked_add(size)?.min(start.saturating_add(MAX_NAME));
        data.read_bytes_at_until(start..end, 0).ok().map(<[u8]>::to_vec)
    };
    let all = |wanted| {
        let of_tag = entries.iter().filter(move |&&(tag, _)| tag == wanted);
        of_tag.filter_map(|&(_, offset)| string(offset)).collect::<Vec<_>>()
    };
    let runpath = all(DT_RUNPATH).pop();
    let rpath = if runpath.is_some() { None } else { all(DT_RPATH).pop() };
    Some(Dynamic { needed: all(DT_NEEDED), rpath, runpath })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_paths_are_replaced() {
        let origin = Path::new("/opt/x/bin");
        let expanded = |list: &str| expand(list.as_bytes(), origin);
        assert_eq!(expanded("$ORIGIN/../lib"), [Path::new("/opt/x/bin/../lib")]);
        assert_eq!(
            expanded("/a:${ORIGIN}:$ORIGINAL"),
            ["/a", "/opt/x/bin", "/opt/x/binAL"].map(Path::new)
        );
        assert_eq!(
            expanded("/usr/$LIB"),
            ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"].map(Path::new)
        );
        assert_eq!(expanded("$"), [Path::new("$")]);
        assert_eq!(expanded("${ORIGIN"), [Path::new("${ORIGIN")]);
        assert_eq!(expanded(":"), [Path::new("."), Path::new(".")]);
    }

    #[test]
    fn musl_has_some_libraries_in_itself() {
        for own in ["libc.so", "libpthread.so.0", "libm.so.6"] {
            assert!(is_musls_own(own.as_bytes()), "{own}");
        }
        for other in ["libc", "libz.so", "libcrypt.so", "c.so", "libmagic.so.1"] {
            assert!(!is_musls_own(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_program_of_the_host_finds_its_libraries() {
        // Whatever this machine's shell is linked with, its dynamic linker finds it by the same rules.
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let file = File::open(&shell).unwrap();
        let Some(dynamic) = read_dynamic(&file) else { return };
        let found =
            find(&shell, &file, Path::new("/lib64/ld-linux-x86-64.so.2"), Variables::default());
        for name in dynamic.needed {
            let name = OsStr::from_bytes(&name);
            assert!(found.iter().any(|path| path.file_name() == Some(name)), "{name:?} {found:?}");
        }
    }
}
