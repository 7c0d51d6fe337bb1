//! What cannot be done: one clear line, the right status, nothing left behind.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::ensure;
use crate::command::Run;
use crate::harness::{Context, Tests};

/// Runs `airlock run ...` and expects it to be refused in one line that contains all of `words`.
fn refused(
    context: &Context,
    arguments: &[&str],
    status: u8,
    words: &[&str],
) -> Result<(), String> {
    let hello = context.fixture("hello-musl");
    let hello = hello.to_string_lossy();
    let arguments =
        arguments.iter().map(|&argument| if argument == "HELLO" { &*hello } else { argument });
    let run =
        context.airlock().args(["run"]).args(arguments).directory(&context.directory).run()?;
    check(&run, status, words)?;
    ensure(!run.leftovers, || "processes were left behind".to_owned())?;
    context.check_nothing_left()
}

fn check(run: &Run, status: u8, words: &[&str]) -> Result<(), String> {
    let complaint = run.complaint();
    let clear = complaint.lines().count() == 1 && words.iter().all(|word| complaint.contains(word));
    ensure(run.status == status && run.stdout.is_empty() && clear, || {
        format!("expected status {status} and one line with {words:?}: {run:?}\n{complaint}")
    })
}

pub(super) fn add(tests: &mut Tests) {
    let cases: [(&str, &[&str], u8, &[&str]); 21] = [
        ("a missing program", &["./absent"], 127, &["./absent"]),
        (
            "a missing program in PATH",
            &["no-such-program-anywhere"],
            127,
            &["no-such-program-anywhere"],
        ),
        ("a missing directory", &["/no/such/place"], 127, &["/no/such/place"]),
        ("below a file", &["/dev/null/x"], 127, &["/dev/null/x"]),
        ("a directory", &["/tmp"], 126, &["/tmp"]),
        ("a device", &["/dev/null"], 126, &["/dev/null"]),
        ("little memory", &["--mem", "1M", "HELLO"], 125, &["1M"]),
        ("too much memory", &["--mem", "1T", "HELLO"], 125, &["1T"]),
        ("no memory", &["--mem", "0", "HELLO"], 125, &["--mem"]),
        ("memory that is no number", &["--mem", "lots", "HELLO"], 125, &["lots"]),
        ("no CPU", &["--cpus", "0", "HELLO"], 125, &["0"]),
        ("1000 CPUs", &["--cpus", "1000", "HELLO"], 125, &["1000"]),
        ("negative CPUs", &["--cpus=-1", "HELLO"], 125, &["-1"]),
        ("an unknown option", &["--frobnicate", "HELLO"], 125, &["--frobnicate"]),
        ("a time that is none", &["--timeout", "soon", "HELLO"], 125, &["soon"]),
        ("no time", &["--timeout", "0", "HELLO"], 125, &["0"]),
        ("a missing file", &["--file", "./absent", "HELLO"], 125, &["absent"]),
        ("a missing kernel", &["--kernel", "./absent", "HELLO"], 125, &["absent"]),
        ("a kernel that is none", &["--kernel", "/dev/null", "HELLO"], 125, &["/dev/null"]),
        ("a program as the kernel", &["--kernel", "HELLO", "HELLO"], 125, &["hello-musl"]),
        (
            "a relative place in the guest",
            &["--file", "/dev/null:relative", "HELLO"],
            125,
            &["relative"],
        ),
    ];
    for (name, arguments, status, words) in cases {
        tests.add(format!("refusals/{name}"), move |context| {
            refused(context, arguments, status, words)
        });
    }
    tests.add("refusals/a program without permission", |context| {
        let path = context.directory.join("program");
        fs::copy(context.fixture("hello-musl"), &path).map_err(|error| error.to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(|error| error.to_string())?;
        refused(context, &[&path.to_string_lossy()], 126, &["program"])
    });
    tests.add("refusals/a dynamic program without its interpreter", |context| {
        let path = context.fixture("dynamic-no-interpreter");
        let words = ["dynamic-no-interpreter", "/no/such/ld.so", "does not exist"];
        refused(context, &[&path.to_string_lossy()], 127, &words)
    });
    for (name, first_line, status, words) in [
        ("without an interpreter", "#!\n", 126, &["script", "names no interpreter"][..]),
        ("of no interpreter", "#!/no/such/sh\n", 127, &["/no/such/sh", "does not exist"]),
        ("of a directory", "#!/tmp x\n", 126, &["/tmp", "a directory"]),
    ] {
        tests.add(format!("refusals/a script {name}"), move |context| {
            let path = context.directory.join("script");
            fs::write(&path, first_line)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
                .map_err(|error| error.to_string())?;
            refused(context, &[&path.to_string_lossy()], status, words)
        });
    }
    tests.add("refusals/a script that is its own interpreter", |context| {
        let path = context.directory.join("script");
        fs::write(&path, format!("#!{}\n", path.display()))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(|error| error.to_string())?;
        refused(context, &[&path.to_string_lossy()], 126, &["script"])
    });
    tests.add("refusals/a strace file that cannot be written", |context| {
        refused(
            context,
            &["--strace=/no/such/directory/file", "HELLO"],
            125,
            &["/no/such/directory/file"],
        )
    });
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        tests.add("refusals/no /dev/kvm", |context| {
            // In a mount namespace of its own, /dev is an empty directory.
            without_kvm(context, 125, &["/dev/kvm"], || {
                // SAFETY: the pointers are to static strings; a new process is alone in its address space.
                let result = unsafe {
                    libc::unshare(libc::CLONE_NEWNS)
                        | libc::mount(
                            std::ptr::null(),
                            c"/".as_ptr(),
                            std::ptr::null(),
                            libc::MS_REC | libc::MS_PRIVATE,
                            std::ptr::null(),
                        )
                        | libc::mount(
                            c"none".as_ptr(),
                            c"/dev".as_ptr(),
                            c"tmpfs".as_ptr(),
                            0,
                            std::ptr::null(),
                        )
                };
                if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
        });
        tests.add("refusals/no permission for /dev/kvm", |context| {
            without_kvm(context, 125, &["/dev/kvm", "ermission"], || {
                const NOBODY: u32 = 65534;
                // SAFETY: these take numbers, and no groups at all.
                let result = unsafe {
                    libc::setgroups(0, std::ptr::null())
                        | libc::setgid(NOBODY)
                        | libc::setuid(NOBODY)
                };
                if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
        });
        tests.add("refusals/a /dev/kvm that is none", |context| {
            without_kvm(context, 125, &["/dev/kvm"], || {
                // SAFETY: as above.
                let result = unsafe {
                    libc::unshare(libc::CLONE_NEWNS)
                        | libc::mount(
                            std::ptr::null(),
                            c"/".as_ptr(),
                            std::ptr::null(),
                            libc::MS_REC | libc::MS_PRIVATE,
                            std::ptr::null(),
                        )
                        | libc::mount(
                            c"/dev/null".as_ptr(),
                            c"/dev/kvm".as_ptr(),
                            std::ptr::null(),
                            libc::MS_BIND,
                            std::ptr::null(),
                        )
                };
                if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
        });
    }
}

/// Runs hello where `prepare` has taken KVM away.
fn without_kvm(
    context: &Context,
    status: u8,
    words: &[&str],
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> Result<(), String> {
    // Copies that anyone may execute, in a directory that anyone may enter.
    let failed = |error: io::Error| error.to_string();
    let public = context.directory.join("public");
    fs::create_dir_all(&public).map_err(failed)?;
    let airlock = public.join("airlock");
    let hello = public.join("hello");
    fs::copy(&context.airlock, &airlock).map_err(failed)?;
    fs::copy(context.fixture("hello-musl"), &hello).map_err(failed)?;
    let spec = crate::command::Spec::new(&airlock)
        .args(["run".as_ref(), hello.as_os_str()])
        .directory(&public);
    // SAFETY: the closures above make system calls and nothing else.
    let run = unsafe { spec.before(prepare) }.run()?;
    check(&run, status, words)
}
