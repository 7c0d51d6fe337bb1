//! Shared directories: the same script on the host's directory and on a volume, and what must not be.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{ensure, noise};
use crate::command::{Input, Running, Spec};
use crate::harness::{Context, Tests};

/// What a shell does with files; prints nothing that depends on where or when.
const WORK: &str = r#"
cd "$1" || exit 9
mkdir -p a/b && echo one > a/b/one && echo two >> a/b/one && cat a/b/one
mv a/b/one a/two && cat a/two && ls a a/b && ln a/two a/three && ln -s two a/link && readlink a/link
cat a/link && stat -c '%h %s %a %F' a/two a/link a
chmod 640 a/two && stat -c %a a/three && touch -d '2020-02-02 02:02:02' a/two && stat -c %Y a/two
rm a/three && stat -c %h a/two && rmdir a && echo wrong
truncate -s 100000 a/big && wc -c < a/big && truncate -s 3 a/two && cat a/two; echo
dd if=data of=copy bs=100000 2>/dev/null && cmp data copy && md5sum < copy
i=0; while [ $i -lt 200 ]; do echo $i > a/b/$i; i=$((i+1)); done; ls a/b | wc -l; cat a/b/* | md5sum
tar cf all.tar a copy && mkdir x && tar xf all.tar -C x && cat x/a/b/* x/copy | md5sum
find . -type f | sort | md5sum; rm -r x a/b all.tar; ls -R
cat nothing; mkdir a; rmdir nothing; ln -s x link; cat outside; echo > outside; mkfifo p; ls -F p; rm p
"#;

/// Tries to get out. `secret` is beside the shared directory, and `pipe` is a FIFO of the host's.
const ESCAPES: &str = r#"
cd "$1"
for path in ../secret relative absolute ../../../secret ./../secret; do cat $path && echo "$path is there"; done
ln relative hard && cat hard; ln -s ../secret soft && cat soft; echo here > soft; readlink soft; cat /secret
mknod null c 1 3; mknod disk b 8 0; chmod 4755 data; chmod 2755 data; stat -c %a data
exec 3< data; cmp /proc/self/fd/3 data && readlink /proc/self/fd/3; cat /proc/self/fd/3/../../secret
mkdir /elsewhere; ln data /elsewhere/data; cat pipe; echo x > pipe; ls -d ..; pwd
mkdir d; cd d; mv ../d ../e; pwd -P; cat ../../secret; rmdir ../e; ls
"#;
const ESCAPED: &[u8] = b"../secret\nhere\n755\n/data/data\nhere\n..\n/data\n/data/e\nhere\n";

/// Makes a path that is longer than a kernel's stack is deep.
const DEEP: &str = "cd /data; i=0; while [ $i -lt 150 ]; do mkdir d; cd d; i=$((i+1)); done; \
                    pwd -P | wc -c; cd /; ls /data";

const MAPPINGS: &[u8] = b"\
shared, to be written: EINVAL
shared, to be read: mapped
private: mapped
abc 0
mprotect: -1 EACCES
za a
bb
read-only: mapped
0
read-only, to be written: EACCES
";

/// A directory that goes with the test: `shared`, with some files, and what is not.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("airlock-{name}-{}-{number}", std::process::id()));
        let make = || {
            fs::create_dir_all(path.join("shared"))?;
            fs::write(path.join("secret"), "secret")?;
            fs::write(path.join("shared/data"), noise(700_001))?;
            symlink("/does/not/exist/x", path.join("shared/outside"))?;
            symlink(path.join("secret"), path.join("shared/absolute"))?;
            symlink("../secret", path.join("shared/relative"))
        };
        make().map_err(|error| error.to_string())?;
        Ok(Self(path))
    }

    fn shared(&self) -> PathBuf {
        self.0.join("shared")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exchanges two files, again and again, until it is told to stop.
fn exchange(a: &Path, b: &Path, stop: &AtomicBool) -> Result<u32, String> {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string());
    let (a, b) = (name(a)?, name(b)?);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: both strings end with NUL.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                libc::AT_FDCWD,
                a.as_ptr(),
                libc::AT_FDCWD,
                b.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        count += 1;
    }
    Ok(count)
}

/// State and parent of a process.
fn process(id: &str) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The server of the only volume of a machine, when the program has made the file `started` there.
fn server(run: &Running, shared: &Path) -> Result<i32, String> {
    let began = Instant::now();
    while !shared.join("started").exists() {
        if began.elapsed() > Duration::from_secs(60) {
            return Err("the program has not started".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let all = fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let mut ids = all.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    ids.find(|id| process(id).is_some_and(|(_, parent)| parent == run.number()))
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| "there is no server".to_owned())
}

fn kill(process: i32) {
    // SAFETY: a child of a child that has not been waited for.
    unsafe { libc::kill(process, libc::SIGKILL) };
}

fn guest(context: &Context, directory: &Path, access: &str, script: &str) -> Spec {
    let mut volume: OsString = directory.into();
    volume.push(":/data");
    volume.push(access);
    let before: [OsString; 5] =
        ["run".into(), "--volume".into(), volume, "/bin/busybox".into(), "sh".into()];
    context.airlock().args(before).args(["-c", script, "sh", "/data"])
}

/// The host's dynamically linked programs, with their libraries, from volumes.
fn programs_of_the_host(context: &Context) -> Result<(), String> {
    let shared = ["/usr", "/lib", "/lib64"].into_iter().filter(|name| Path::new(name).exists());
    let volumes = shared.flat_map(|name| ["--volume".to_owned(), format!("{name}:{name}:ro")]);
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(volumes);
    let script = "/usr/bin/sort -r | /usr/bin/md5sum; /usr/bin/od -c /usr/bin/od > od && echo $?";
    let run = |spec: Spec| spec.args(["-c", script]).input(Input::Pipe(noise(100_000))).run();
    let run = run(context.airlock().args(arguments).args(["/bin/busybox", "sh"]))?;
    let host = "/usr/bin/sort -r | /usr/bin/md5sum; echo 0";
    let expected = Spec::new("/bin/sh")
        .args(["-c", host])
        .input(Input::Pipe(noise(100_000)))
        .envs([("LC_ALL".into(), "C".into())])
        .run()?;
    ensure(run.status == 0 && run.stdout == expected.stdout, || format!("{run:?} {expected:?}"))
}

pub(super) fn add(tests: &mut Tests) {
    for cpus in ["1", "2"] {
        tests.add(format!("volumes/files on {cpus} CPUs"), move |context| {
            let (there, here) = (Place::new("volume")?, Place::new("volume")?);
            let shared = here.shared();
            let expected =
                Spec::new("/bin/busybox").args(["sh", "-c", WORK, "sh"]).args([&shared]).run()?;
            let mut volume: OsString = there.shared().into();
            volume.push(":/data");
            let run = context
                .airlock()
                .args([
                    OsString::from("run"),
                    "--cpus".into(),
                    cpus.into(),
                    "--volume".into(),
                    volume,
                ])
                .args(["/bin/busybox", "sh", "-c", WORK, "sh", "/data"])
                .run()?;
            ensure(
                (run.status, &run.stdout, &run.stderr)
                    == (expected.status, &expected.stdout, &expected.stderr),
                || format!("on the host {expected:?}\non a volume {run:?}"),
            )
        });
    }
    tests.add("volumes/links lead nowhere outside", |context| {
        let place = Place::new("volume")?;
        let script = "cat /data/absolute /data/relative /data/../secret; echo x > /data/relative";
        let run = guest(context, &place.shared(), "", script).run()?;
        let kept = fs::read(place.0.join("secret")).map_err(|error| error.to_string())?;
        ensure(kept == b"secret" && !run.stdout.windows(7).any(|part| part == b"secret\n"), || {
            format!("{run:?}")
        })
    });
    tests.add("volumes/read-only", |context| {
        let place = Place::new("volume")?;
        let script = "cd /data; cmp data data; echo x > new; echo x > data; rm data; mkdir d; chmod 1 data; \
                      mv data d; ln data e; ls";
        let run = guest(context, &place.shared(), ":ro", script).run()?;
        let complaint = String::from_utf8_lossy(&run.stderr).into_owned();
        let refusals = complaint.matches("Read-only file system").count();
        ensure(run.stdout == b"absolute\ndata\noutside\nrelative\n" && refusals == 7, || {
            format!("{refusals}: {run:?}")
        })
    });
    tests.add("volumes/ways out", |context| {
        let place = Place::new("volume")?;
        let (shared, failed) = (place.shared(), |error: std::io::Error| error.to_string());
        let pipe = CString::new(shared.join("pipe").as_os_str().as_bytes())
            .map_err(|error| error.to_string())?;
        // SAFETY: the string ends with NUL.
        if unsafe { libc::mkfifo(pipe.as_ptr(), 0o666) } != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        fs::set_permissions(shared.join("data"), fs::Permissions::from_mode(0o755))
            .map_err(failed)?;
        let run = guest(context, &shared, "", ESCAPES).run()?;
        let mut left: Vec<_> = fs::read_dir(&shared)
            .map_err(failed)?
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap_or_default())
            .collect();
        left.sort();
        let kept = fs::read(place.0.join("secret")).map_err(failed)?;
        let beside = fs::read_dir(&place.0).map_err(failed)?.count();
        let mode = fs::metadata(shared.join("data")).map_err(failed)?.permissions().mode();
        let expected =
            "absolute data hard outside pipe relative soft".split(' ').collect::<Vec<_>>();
        ensure(
            run.stdout == ESCAPED
                && kept == b"secret"
                && beside == 2
                && left == expected
                && mode & 0o7777 == 0o755
                && run.complaint().matches("Operation not permitted").count() >= 4,
            || format!("{left:?} {mode:o} {kept:?}\n{run:?}"),
        )
    });
    tests.add("volumes/a directory that becomes a link", |context| {
        let place = Place::new("volume")?;
        let (shared, failed) = (place.shared(), |error: std::io::Error| error.to_string());
        fs::create_dir(shared.join("d")).map_err(failed)?;
        fs::write(shared.join("d/secret"), "inside\n").map_err(failed)?;
        symlink("..", shared.join("l")).map_err(failed)?;
        let script = "cd /data; i=0; while [ $i -lt 80 ]; do cat d/secret l/secret; ls d l; \
                      echo inside > d/secret; : > l/new; rm l/new; i=$((i+1)); done 2> /dev/null | sort -u";
        let stop = AtomicBool::new(false);
        let (count, run) = thread::scope(|scope| {
            let swapping = scope.spawn(|| exchange(&shared.join("d"), &shared.join("l"), &stop));
            let run = guest(context, &shared, "", script).run();
            stop.store(true, Ordering::Relaxed);
            (swapping.join(), run)
        });
        let count = count.map_err(|_| "the other thread panicked".to_owned())??;
        let run = run?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let kept = fs::read(place.0.join("secret")).map_err(failed)?;
        let beside = fs::read_dir(&place.0).map_err(failed)?.count();
        // `shared` is listed beside the secret on the host, and nowhere in the guest.
        ensure(
            count > 20
                && kept == b"secret"
                && beside == 2
                && text.lines().any(|line| line == "inside")
                && !text.lines().any(|line| line == "shared" || line.ends_with("secretinside")),
            || format!("{count} {kept:?} {run:?}"),
        )
    });
    tests.add("volumes/a deep directory", |context| {
        let place = Place::new("volume")?;
        let run = guest(context, &place.shared(), "", DEEP).run()?;
        ensure(
            run.status == 0 && run.stdout == b"306\nabsolute\nd\ndata\noutside\nrelative\n",
            || format!("{run:?}"),
        )
    });
    tests.add("volumes/a server that is killed", |context| {
        let place = Place::new("volume")?;
        let script = "cd /data; : > started; while cat data > /dev/null; do :; done; ls; echo x > new; \
                      cd /; ls -d data/data; echo still here > /file; cat /file";
        let run = guest(context, &place.shared(), "", script).start()?;
        let server = server(&run, &place.shared())?;
        kill(server);
        let run = run.finish()?;
        let errors = run.complaint().matches("Input/output error").count();
        ensure(run.status == 0 && run.stdout == b"still here\n" && errors == 4, || {
            format!("{errors}: {run:?}")
        })
    });
    tests.add("volumes/a server ends with its machine", |context| {
        let place = Place::new("volume")?;
        let script = ": > /data/started; while cat /data/data > /dev/null; do :; done";
        let run = guest(context, &place.shared(), "", script).start()?;
        let server = server(&run, &place.shared())?;
        kill(run.number());
        run.finish()?;
        let began = Instant::now();
        // Whoever adopted it may leave it a zombie.
        while process(&server.to_string()).is_some_and(|(state, _)| state != 'Z') {
            if began.elapsed() > Duration::from_secs(20) {
                kill(server);
                return Err("it is still there".to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    tests.add("volumes/mounted by a program", |context| {
        let place = Place::new("volume")?;
        let script = "grep -c ' /data 9p rw,relatime,access=client,trans=virtio 0 0' /proc/mounts; \
                      mkdir /other; m='mount -t 9p -o trans=virtio'; $m /data /other; \
                      cd /data; umount /data; cd /; umount /data; ls /data; $m nothing /other; \
                      mount -t 9p /data /other; $m /data /other; echo new > /other/new; \
                      mount -o remount,ro /other; echo x > /other/x; umount /other; ls /other; \
                      $m,ro /data /data; cat /data/new; echo x > /data/x; \
                      mkdir -p /bound; mount -o bind /data /bound; cat /bound/new; pwd -P; cd /bound; pwd -P";
        let run = guest(context, &place.shared(), "", script).run()?;
        let complaint = run.complaint();
        let count = |text: &str| complaint.matches(text).count();
        let errors = [
            count("resource busy"),
            count("No such file"),
            count("Invalid argument"),
            count("Read-only"),
        ];
        ensure(run.stdout == b"1\nnew\nnew\n/\n/bound\n" && errors == [2, 1, 1, 2], || {
            format!("{errors:?} {run:?}")
        })
    });
    tests.add("volumes/mappings", |context| {
        let place = Place::new("volume")?;
        let mut volume: OsString = place.shared().into();
        volume.push(":/data");
        let run = context
            .airlock()
            .args(["run".into(), "--volume".into(), volume])
            .args([context.fixture("mappings").into_os_string(), "/data".into()])
            .run()?;
        ensure(run.stdout == MAPPINGS, || format!("{run:?}"))
    });
    tests.add("volumes/programs", |context| {
        let place = Place::new("volume")?;
        fs::copy("/bin/busybox", place.shared().join("busybox"))
            .map_err(|error| error.to_string())?;
        let script = "cd /data; ./busybox echo one; mkdir bin; cp busybox bin/; bin/busybox echo two; \
                      ./busybox sh -c 'echo x > busybox'; echo '#!/data/bin/busybox sh' > script; \
                      echo 'echo three $0' >> script; chmod 755 script; ./script; PATH=/data script; \
                      chmod 644 bin/busybox; bin/busybox echo four";
        let run = guest(context, &place.shared(), "", script).run()?;
        let complaint = run.complaint();
        ensure(
            run.stdout == b"one\ntwo\nthree ./script\nthree /data/script\n"
                && complaint.matches("Text file busy").count() == 1
                && complaint.matches("Permission denied").count() == 1,
            || format!("{run:?}"),
        )
    });
    // The emulated machine has busybox and nothing else.
    if Path::new("/usr/bin/sort").exists() {
        tests.add("volumes/programs of the host", programs_of_the_host);
    }
    tests.add("volumes/below another", |context| {
        let (outer, inner) = (Place::new("volume")?, Place::new("volume")?);
        let volume = |place: &Place, guest: &str| {
            let mut volume: OsString = place.shared().into();
            volume.push(guest);
            volume
        };
        fs::write(inner.shared().join("inner"), "inner\n").map_err(|error| error.to_string())?;
        let run = |access: &str| {
            context
                .airlock()
                .args(["run".into(), "--volume".into(), volume(&outer, access)])
                .args(["--volume".into(), volume(&inner, ":/a/b/c/d")])
                .args(["/bin/busybox", "cat", "/a/b/c/d/inner", "/a/b/c/../data"])
                .run()
        };
        let refused = run(":/a/b:ro")?;
        let expected = "cannot mount a volume at '/a/b/c/d' in the guest: Read-only file system";
        ensure(refused.status == 125 && refused.complaint().contains(expected), || {
            format!("{refused:?}")
        })?;
        let both = run(":/a/b")?;
        let length = 6 + 700_001;
        ensure(both.stdout.starts_with(b"inner\n") && both.stdout.len() == length, || {
            format!("{both:?}")
        })?;
        ensure(outer.shared().join("c/d").is_dir(), || "its place is not there".to_owned())
    });
    tests.add("volumes/in a root file system", |context| {
        let place = Place::new("volume")?;
        let root = place.0.join("root");
        let failed = |error: std::io::Error| error.to_string();
        fs::create_dir_all(root.join("bin")).map_err(failed)?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(failed)?;
        let mut volume: OsString = place.shared().into();
        volume.push(":/some/where");
        let run = context
            .airlock()
            .args(["run".into(), "--volume".into(), volume, "--rootfs".into(), root.into()])
            .args(["/bin/busybox", "wc", "-c", "/some/where/data"])
            .envs([("XDG_CACHE_HOME".into(), place.0.join("cache").into())])
            .run()?;
        ensure(run.stdout == b"700001 /some/where/data\n", || format!("{run:?}"))
    });
    for (name, volume, expected) in [
        ("nothing there", "/does/not/exist:/x", "cannot share '/does/not/exist'"),
        ("a file", "/bin/busybox:/x", "Not a directory"),
        ("no place", "/tmp", "is not HOST:GUEST"),
        ("a relative place", "/tmp:x", "is relative"),
    ] {
        tests.add(format!("volumes/{name}"), move |context| {
            let run = context.airlock().args(["run", "--volume", volume, "/bin/busybox"]).run()?;
            let complaint = run.complaint();
            ensure(run.status == 125 && complaint.contains(expected), || format!("{run:?}"))
        });
    }
}
