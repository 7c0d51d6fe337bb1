//! Busybox applets on files of several megabytes, compared byte for byte with the same applet on the host.

use super::{ensure, noise, prose};
use crate::command::Input;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

const MEGABYTE: usize = 1 << 20;

fn busybox(context: &Context, line: &[&str]) -> Program {
    Program::new(context.fixture("busybox")).args(line.iter().copied())
}

/// Applets that read files in their directory.
const READERS: [&[&str]; 32] = [
    &["cat", "noise", "prose"],
    &["cat", "prose", "absent", "noise"],
    &["ls", "-ln", "noise", "prose", "run.sh", "numbers"],
    &["ls", "-1a", "."],
    &["sha256sum", "noise", "prose"],
    &["md5sum", "noise"],
    &["sort", "prose"],
    &["sort", "-n", "-k1,1", "-k2", "-u", "prose"],
    &[
        "awk",
        "{ sum[$2] += $1; words += NF } END { for (w in sum) total += sum[w]; print NR, words, total }",
        "prose",
    ],
    &[
        "awk",
        "-F\t",
        "NR % 100 == 0 { printf \"%5d|%s|%.3f\\n\", NR, toupper($1), sqrt($2) }",
        "prose",
    ],
    &["wc", "prose", "noise", "numbers"],
    &["head", "-n", "1000", "prose"],
    &["head", "-c", "70000", "noise"],
    &["tail", "-n", "1000", "prose"],
    &["tail", "-c", "12345", "noise"],
    &["grep", "-n", "Ring.*exit$", "prose"],
    &["grep", "-c", "zero", "prose"],
    &["grep", "-q", "absent-word", "prose"],
    &["sed", "-n", "s/\\(airlock\\) \\([a-z]*\\)/<\\2 \\1>/gp", "prose"],
    &["od", "-A", "x", "-t", "x1z", "-N", "100000", "noise"],
    &["hexdump", "-C", "-n", "50000", "noise"],
    &["cut", "-d", " ", "-f", "2-3", "prose"],
    &["uniq", "-c", "numbers"],
    &["gzip", "-c", "prose"],
    &["stat", "-c", "%n %s %a %F %h", "noise", "run.sh", "numbers"],
    &["cmp", "prose", "noise"],
    &["diff", "numbers", "other-numbers"],
    &["tac", "numbers"],
    &["base64", "noise"],
    // One result each: a directory has no order.
    &["find", ".", "-name", "n*e"],
    &["find", ".", "-name", "n*s"],
    &["du", "-a", "absent"],
];

/// Applets that read standard input.
const FILTERS: [&[&str]; 12] = [
    &["cat"],
    &["sha256sum"],
    &["sort", "-r"],
    &["tr", "a-z", "A-Z"],
    &["tr", "-d", "\\n"],
    &["wc"],
    &["tail", "-n", "5"],
    &["head", "-n", "5"],
    &["sed", "10q"],
    &["rev"],
    &["gzip", "-c"],
    &["xxd", "-p"],
];

/// Applets that need no file.
const OTHERS: [&[&str]; 23] = [
    &["date", "-u", "-d", "@1234567890"],
    &["printf", "%s %d %x %5.2f\\n", "text", "42", "255", "3.14159"],
    &["echo", "-e", "a\\tb\\0101"],
    &["expr", "6", "*", "7"],
    &["expr", "length", "airlock"],
    &["sh", "-c", "echo $HOME $PATH; export"],
    &["pwd"],
    &["true"],
    &["false"],
    &["seq", "1", "20000"],
    &["factor", "18446744073709551557", "1234567890"],
    &["basename", "/a/b.c", ".c"],
    &["dirname", "/a/b.c"],
    &["test", "-d", "/proc"],
    &["test", "-e", "/absent"],
    &["sleep", "0.05"],
    &["id", "-u"],
    &["cal", "9", "1752"],
    &["usleep", "1000"],
    &["readlink", "/proc/self/cwd"],
    &[
        "sh",
        "-c",
        "x=0; while [ $x -lt 1000 ]; do x=$((x+1)); done; echo $x > f; read y < f; echo $y ${#y}; exit 7",
    ],
    &["sh", "-c", "find /proc/self/task -name comm | sed 's/[0-9][0-9]*/N/g'"],
    &["sh", "-c", "cd /tmp && umask 077 && : > new && [ -f new ] && echo made; kill -TERM $$"],
];

/// Applets that change files. The change is gone with the guest; what they print and return is compared.
const WRITERS: [&[&str]; 16] = [
    &["mkdir", "-p", "a/b/c"],
    &["mkdir", "numbers"],
    &["rm", "-v", "numbers"],
    &["rm", "absent"],
    &["rm", "-f", "absent"],
    &["rmdir", "absent"],
    &["mv", "-v", "numbers", "renamed"],
    &["cp", "-v", "prose", "copy"],
    &["cp", "absent", "copy"],
    &["ln", "-s", "numbers", "link"],
    &["ln", "numbers", "prose"],
    &["chmod", "-v", "600", "numbers"],
    &["touch", "new"],
    &["truncate", "-s", "10", "numbers"],
    &["dd", "if=noise", "of=copy", "bs=4096", "count=100", "status=none"],
    &["tee", "copy"],
];

fn with_files(program: Program) -> Program {
    let numbers: String = (0..5000).map(|number| format!("{}\n", number / 3)).collect();
    let others: String =
        (0..5000).map(|number| format!("{}\n", number / 3 + number / 1777)).collect();
    program
        .file("noise", noise(4 * MEGABYTE))
        .file("prose", prose(3 * MEGABYTE))
        .file("numbers", numbers)
        .file("other-numbers", others)
        .file_with_mode("run.sh", "#!/bin/sh\n", 0o750)
}

pub(super) fn add(tests: &mut Tests) {
    for line in READERS {
        tests.add(format!("applets/{}", line.join(" ")), move |context| {
            with_files(busybox(context, line)).compare(context).map(drop)
        });
    }
    for line in FILTERS {
        tests.add(format!("applets/{} < prose", line.join(" ")), move |context| {
            busybox(context, line)
                .input(Input::Pipe(prose(2 * MEGABYTE)))
                .compare(context)
                .map(drop)
        });
    }
    for line in OTHERS {
        tests.add(format!("applets/{}", line.join(" ")), move |context| {
            busybox(context, line).compare(context).map(drop)
        });
    }
    for line in WRITERS {
        tests.add(format!("applets/{}", line.join(" ")), move |context| {
            with_files(busybox(context, line))
                .input(Input::Pipe(b"some input\n".to_vec()))
                .compare(context)
                .map(drop)
        });
    }
    tests.add("applets/ls -R /proc", |context| {
        let run = busybox(context, &["ls", "-R", "/proc"]).run_in_guest(context)?;
        let text = String::from_utf8_lossy(&run.stdout);
        let threads = text.lines().filter(|line| line.ends_with("/task:")).count();
        ensure(threads == 1, || format!("{threads} lists of threads, of one process:\n{text}"))
    });
    tests.add("applets/gzip -dc", |context| {
        let packed = busybox(context, &["gzip", "-c", "prose"])
            .file("prose", prose(MEGABYTE))
            .run_on_host(context)?
            .stdout;
        let run = busybox(context, &["gzip", "-dc", "prose.gz"])
            .file("prose.gz", packed)
            .compare(context)?;
        ensure(run.stdout == prose(MEGABYTE), || "not what was packed".to_owned())
    });
}
