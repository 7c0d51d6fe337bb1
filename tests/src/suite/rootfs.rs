//! `--rootfs` and `pack`: one busybox root in every format that they take, and what they refuse.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ensure;
use crate::command::{Run, Spec};
use crate::harness::{Context, Tests};

/// What is run in each of them: names, attributes, contents, a script, and writing.
const SCRIPT: &str = "stat -c '%n %s %a %u %g %h %F' /bin /bin/busybox /bin/sh /etc/motd /etc/link /etc/again /many/file-199; \
    cat /etc/motd /etc/link; ls /many | wc -l; greet a b; echo changed > /etc/motd; cat /etc/again; \
    sha256sum /bin/busybox";

/// An error as the test's.
pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Makes the root in the test's directory, and returns where.
pub(super) fn root(context: &Context) -> Result<PathBuf, String> {
    let root = context.directory.join("root");
    for directory in ["bin", "etc", "many", "tmp"] {
        fs::create_dir_all(root.join(directory)).map_err(text)?;
    }
    fs::copy(context.fixture("busybox"), root.join("bin/busybox")).map_err(text)?;
    for applet in ["cat", "grep", "ls", "sh", "sha256sum", "stat", "wc"] {
        symlink("busybox", root.join("bin").join(applet)).map_err(text)?;
    }
    for (name, content, mode) in [
        ("bin/greet", "#!/bin/sh\necho greetings, \"$@\"\n", 0o755),
        ("bin/orphan", "#!/no/such/interpreter\n", 0o755),
        ("bin/data", "no program\n", 0o755),
        ("etc/motd", "welcome\n", 0o640),
    ] {
        fs::write(root.join(name), content).map_err(text)?;
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).map_err(text)?;
    }
    symlink("../etc/motd", root.join("etc/link")).map_err(text)?;
    fs::hard_link(root.join("etc/motd"), root.join("etc/again")).map_err(text)?;
    for number in 0..200 {
        fs::write(root.join(format!("many/file-{number}")), "x").map_err(text)?;
    }
    Ok(root)
}

/// The command, with a cache of its own.
pub(super) fn airlock(context: &Context) -> Spec {
    let cache = context.directory.join("cache");
    context
        .airlock()
        .envs([("XDG_CACHE_HOME".into(), cache.into_os_string())])
        .directory(&context.directory)
}

fn run(context: &Context, source: &Path, command: &[&str]) -> Result<Run, String> {
    airlock(context)
        .args(["run".as_ref(), "--rootfs".as_ref(), source.as_os_str()])
        .args(command)
        .run()
}

/// Runs a tool of the host in the test's directory.
fn tool(context: &Context, line: &[&str]) -> Result<(), String> {
    let output = Command::new(line[0])
        .args(&line[1..])
        .current_dir(&context.directory)
        .output()
        .map_err(text)?;
    ensure(output.status.success(), || format!("{line:?}: {output:?}"))
}

/// Whether the host has a tool.
fn has(tool: &str) -> bool {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|path| Path::new(path).join(tool).exists())
}

/// Runs the script in the directory and in what `make` made of it: the same comes out.
fn same(context: &Context, make: &[&[&str]], name: &str) -> Result<(), String> {
    let root = root(context)?;
    let expected = run(context, &root, &["sh", "-c", SCRIPT])?;
    let output = String::from_utf8_lossy(&expected.stdout).into_owned();
    ensure(
        expected.status == 0
            && output.contains("greetings, a b\nchanged\n")
            && output.contains("/etc/again 8 640 0 0 2 regular file")
            && output.contains("welcome\nwelcome\n200\n"),
        || format!("the directory: {expected:?}"),
    )?;
    for line in make {
        tool(context, line)?;
    }
    for _ in 0..2 {
        let found = run(context, &context.directory.join(name), &["sh", "-c", SCRIPT])?;
        ensure(found.stdout == expected.stdout && found.status == 0, || {
            format!("expected {expected:?}\nfound {found:?}")
        })?;
    }
    context.check_nothing_left()
}

fn refused(
    context: &Context,
    source: &Path,
    command: &[&str],
    status: u8,
    words: &[&str],
) -> Result<(), String> {
    let run = run(context, source, command)?;
    let complaint = run.complaint();
    ensure(
        run.status == status
            && run.stdout.is_empty()
            && complaint.lines().count() == 1
            && words.iter().all(|word| complaint.contains(word)),
        || format!("expected status {status} and one line with {words:?}: {run:?}"),
    )
}

pub(super) fn add(tests: &mut Tests) {
    const TAR: &[&str] = &["tar", "-cf", "root.tar", "-C", "root", "."];
    let formats: [(&str, &[&[&str]], &str); 6] = [
        ("tar", &[TAR], "root.tar"),
        ("gzip", &[TAR, &["gzip", "root.tar"]], "root.tar.gz"),
        ("zstd", &[TAR, &["zstd", "-q", "root.tar"]], "root.tar.zst"),
        ("mkfs.erofs", &[&["mkfs.erofs", "--quiet", "root.erofs", "root"]], "root.erofs"),
        (
            "mkfs.erofs",
            &[&["mkfs.erofs", "--quiet", "--chunksize=4096", "root.erofs", "root"]],
            "root.erofs",
        ),
        (
            "mkfs.erofs",
            &[&[
                "mkfs.erofs",
                "--quiet",
                "-Eforce-inode-extended,noinline_data",
                "root.erofs",
                "root",
            ]],
            "root.erofs",
        ),
    ];
    for (number, (format, make, name)) in formats.into_iter().enumerate() {
        if make.iter().all(|line| has(line[0])) {
            tests
                .add(format!("rootfs/{format} {number}"), move |context| same(context, make, name));
        }
    }
    tests.add("rootfs/a packed image is the same each time", |context| {
        let root = root(context)?;
        let mut images = Vec::new();
        for name in ["one.erofs", "two.erofs"] {
            let pack = airlock(context).args(["pack", "root", "-o", name]).run()?;
            ensure(pack.status == 0 && pack.stderr.is_empty(), || format!("{pack:?}"))?;
            images.push(fs::read(context.directory.join(name)).map_err(text)?);
        }
        ensure(images[0] == images[1], || "two images are different".to_owned())?;
        let expected = run(context, &root, &["sh", "-c", SCRIPT])?;
        let found = run(context, &context.directory.join("one.erofs"), &["sh", "-c", SCRIPT])?;
        ensure(found.stdout == expected.stdout && found.status == 0, || format!("{found:?}"))
    });
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let knows_erofs =
        fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("erofs"));
    if is_root && knows_erofs && has("losetup") {
        tests.add("rootfs/Linux mounts a packed image", |context| {
            root(context)?;
            let pack = airlock(context).args(["pack", "root", "-o", "packed.erofs"]).run()?;
            ensure(pack.status == 0, || format!("{pack:?}"))?;
            fs::create_dir_all(context.directory.join("mounted")).map_err(text)?;
            tool(context, &["mount", "-t", "erofs", "-o", "loop,ro", "packed.erofs", "mounted"])?;
            let same = tool(context, &["diff", "-r", "root/etc", "mounted/etc"])
                .and_then(|()| tool(context, &["cmp", "root/bin/busybox", "mounted/bin/busybox"]))
                .and_then(|()| tool(context, &["diff", "-r", "root/many", "mounted/many"]));
            tool(context, &["umount", "mounted"])?;
            same
        });
    }
    let programs: [(&str, u8, &[&str]); 7] = [
        ("no-such-program", 127, &["no-such-program"]),
        ("/no/such/program", 127, &["/no/such/program"]),
        ("/etc/motd", 126, &["/etc/motd", "not executable"]),
        ("/etc", 126, &["/etc", "directory"]),
        ("data", 126, &["data", "damaged"]),
        ("orphan", 127, &["orphan", "interpreter"]),
        ("/etc/motd/x", 127, &["/etc/motd/x"]),
    ];
    tests.add("rootfs/programs that cannot run", move |context| {
        let root = root(context)?;
        for (program, status, words) in programs {
            refused(context, &root, &[program], status, words)?;
        }
        refused(context, &root, &["--workdir", "/none", "ls"], 125, &["/none"])?;
        refused(context, &root, &["--file", "root", "ls"], 125, &["--file"])?;
        refused(context, &root, &[], 125, &["no program"])
    });
    tests.add("rootfs/sources that are none", |context| {
        refused(context, &context.directory.join("absent"), &["ls"], 125, &["absent"])?;
        refused(context, Path::new("/"), &["ls"], 125, &["/"])?;
        refused(context, &context.fixture("hello-musl"), &["ls"], 125, &["hello-musl"])?;
        refused(context, Path::new("/dev/null"), &["ls"], 125, &["/dev/null"])?;
        // Its superblock is good, and nothing else.
        root(context)?;
        let pack = airlock(context).args(["pack", "root", "-o", "image.erofs"]).run()?;
        ensure(pack.status == 0, || format!("{pack:?}"))?;
        let path = context.directory.join("image.erofs");
        let mut bytes = fs::read(&path).map_err(text)?;
        bytes[1152..8192].fill(0xff);
        fs::write(&path, bytes).map_err(text)?;
        refused(context, &path, &["ls"], 125, &["root image", "damaged"])
    });
}
