//! What a program on a terminal sees of keys, modes and the window: the same on the host and in a microVM.

use std::thread;
use std::time::Duration;

use super::ensure;
use super::terminal::Session;
use crate::harness::{Context, Tests};

/// What a user does, and what the screen has to show.
enum Step {
    /// The screen shows this.
    Expect(&'static str),
    /// The screen does not show this yet.
    Hidden(&'static str),
    /// The last thing on the screen is a shell's prompt.
    Prompt,
    /// The program gets to where it waits.
    Pause,
    /// The user types this.
    Type(&'static [u8]),
    /// The window gets so many rows and columns.
    Resize(u16, u16),
    /// Someone sends the command a signal.
    Signal(i32),
}
use Step::{Expect, Hidden, Pause, Prompt, Resize, Signal, Type};

struct Scene {
    name: &'static str,
    program: &'static [&'static str],
    steps: &'static [Step],
    status: i32,
}

const SCENES: &[Scene] = &[
    Scene {
        name: "Ctrl-C reaches the handler of a program that computes",
        program: &["signals", "handle", "spin"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x03"),
            Expect("^Csignal 2, result 0, errno 0, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "Ctrl-\\ reaches the handler of a program that makes calls",
        program: &["signals", "handle", "calls"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x1c"),
            Expect("^\\signal 3, result 0, errno 0, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "Ctrl-C interrupts a read",
        program: &["signals", "handle", "read"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x03"),
            Expect("^Csignal 2, result -1, errno 4, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "Ctrl-C interrupts a poll",
        program: &["signals", "handle", "poll"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x03"),
            Expect("^Csignal 2, result -1, errno 4, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "Ctrl-C interrupts a sleep",
        program: &["signals", "handle", "sleep"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x03"),
            Expect("^Csignal 2, result -1, errno 4, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "a signal from outside reaches the handler",
        program: &["signals", "handle", "sleep"],
        steps: &[
            Expect("ready"),
            Pause,
            Signal(libc::SIGTERM),
            Expect("signal 15, result -1, errno 4, number 1.5\r\n"),
        ],
        status: 40,
    },
    Scene {
        name: "a read begins again after Ctrl-C",
        program: &["signals", "restart"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"\x03"),
            Expect("^C"),
            Type(b"line\r"),
            Expect("line\r\nrestarted\r\n"),
        ],
        status: 41,
    },
    Scene {
        name: "Ctrl-C is ignored by who ignores it",
        program: &["signals", "ignore"],
        steps: &[Expect("ready"), Pause, Type(b"\x03\x1c"), Expect("nothing\r\n")],
        status: 42,
    },
    Scene {
        name: "raw mode passes every byte and shows none",
        program: &["signals", "raw"],
        steps: &[
            Expect("ready"),
            Type(b"a\r\n\x03\x04\x1a\x13\x7f"),
            Expect("ready\r\n<97><13><10><3><4><26><19><127>"),
            Type(b"q"),
        ],
        status: 44,
    },
    Scene {
        name: "raw reads follow VMIN and VTIME",
        program: &["signals", "limits"],
        steps: &[
            Expect("ready"),
            Pause,
            Type(b"abc"),
            Expect("go on"),
            Pause,
            Type(b"ab"),
            Pause,
            Type(b"cd"),
            Expect("none 0 waited 1 some 3 all 1\r\n"),
        ],
        status: 45,
    },
    Scene {
        name: "the window's new size arrives, and SIGWINCH",
        program: &["signals", "window"],
        steps: &[
            Expect("ready"),
            Pause,
            Resize(50, 132),
            Expect("signal 28 rows 50 columns 132\r\n"),
        ],
        status: 46,
    },
    Scene {
        name: "a new size does not disturb who does not ask",
        program: &["busybox", "cat"],
        steps: &[
            Type(b"one\r"),
            Expect("one\r\none\r\n"),
            Resize(50, 132),
            Pause,
            Type(b"two\r"),
            Expect("two\r\ntwo\r\n"),
            Type(b"\x04"),
        ],
        status: 0,
    },
    Scene {
        name: "Ctrl-D ends the input, but first hands over what was typed",
        program: &["busybox", "cat"],
        steps: &[
            Type(b"first\r"),
            Expect("first\r\nfirst\r\n"),
            Type(b"half"),
            Expect("half"),
            Type(b"\x04"),
            Expect("halfhalf"),
            Type(b"\x04"),
        ],
        status: 0,
    },
    Scene {
        name: "Ctrl-S holds output back, Ctrl-Q lets it go",
        program: &["busybox", "cat"],
        steps: &[
            Type(b"one\r"),
            Expect("one\r\none\r\n"),
            Type(b"\x13two\r"),
            Pause,
            Hidden("two"),
            Type(b"\x11"),
            Expect("two\r\n"),
            Pause,
            Type(b"three\r"),
            Expect("three\r\nthree\r\n"),
            Type(b"\x04"),
        ],
        status: 0,
    },
    Scene {
        name: "a shell prompts, runs, reads and goes on after Ctrl-C",
        program: &["busybox", "sh"],
        steps: &[
            Expect(" # "),
            Type(b"echo $((6*7)); read x; echo got $x\r"),
            Expect("42\r\n"),
            Type(b"words\r"),
            Expect("got words\r\n"),
            Pause,
            Type(b"unfinished"),
            Expect("unfinished"),
            Type(b"\x03"),
            Expect("^C\r\n"),
            Pause,
            Type(b"echo status $?\r"),
            Expect("status 130\r\n"),
            Type(b"exit 9\r"),
        ],
        status: 9,
    },
    Scene {
        name: "Ctrl-Z does nothing to a program that nobody could continue",
        program: &["busybox", "cat"],
        steps: &[
            Type(b"one\r"),
            Expect("one\r\none\r\n"),
            Type(b"\x1a"),
            Expect("^Z"),
            Type(b"two\r"),
            Expect("two\r\ntwo\r\n"),
            Type(b"\x04"),
        ],
        status: 0,
    },
    Scene {
        name: "a shell's job is stopped, listed, and brought back",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"cat; echo status $?\r"),
            Pause,
            Type(b"one\r"),
            Expect("\none\r\none\r\n"),
            Type(b"\x1a"),
            Expect("[1]+  Stopped"),
            Expect("status 148\r\n"),
            Prompt,
            Type(b"fg\r"),
            Pause,
            Type(b"two\r"),
            Expect("\ntwo\r\ntwo\r\n"),
            Type(b"\x1a"),
            Pause,
            // In the background it must not read.
            Prompt,
            Type(b"bg\r"),
            Pause,
            Prompt,
            Type(b"jobs\r"),
            Expect("Stopped (tty input)"),
            Prompt,
            Type(b"kill -9 %1; wait; echo killed\r"),
            Expect("\nkilled\r\n"),
            Prompt,
            Type(b"jobs; echo no more jobs\r"),
            Expect("\nno more jobs\r\n"),
            Prompt,
            Type(b"exit 4\r"),
        ],
        status: 4,
    },
    Scene {
        name: "a shell's job goes on in the background, and comes to the foreground",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"sh -c 'echo go; echo on; exec sleep 1000'\r"),
            Expect("\ngo\r\non\r\n"),
            Pause,
            Type(b"\x1a"),
            Expect("Stopped"),
            Prompt,
            Type(b"bg; jobs; echo listed\r"),
            Expect("Running"),
            Expect("\nlisted\r\n"),
            // Keys are for the shell now.
            Pause,
            Prompt,
            Type(b"echo here"),
            Expect("echo here"),
            Type(b"\x03"),
            Pause,
            Prompt,
            Type(b"jobs; echo still there\r"),
            Expect("\nstill there\r\n"),
            Prompt,
            Type(b"fg\r"),
            Pause,
            Type(b"\x03"),
            Pause,
            Prompt,
            Type(b"echo status $?\r"),
            Expect("\nstatus 130\r\n"),
            Prompt,
            Type(b"sleep 1000 & sleep 2000 &\r"),
            Pause,
            Prompt,
            Type(b"jobs; echo two\r"),
            Expect("\ntwo\r\n"),
            Prompt,
            Type(b"kill %1 %2; wait; echo gone\r"),
            Expect("\ngone\r\n"),
            Prompt,
            Type(b"exit 5\r"),
        ],
        status: 5,
    },
    Scene {
        name: "Ctrl-C ends all of a pipeline and not the shell",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"sh -c 'echo go >&2; cat' | cat\r"),
            Expect("\ngo\r\n"),
            Pause,
            Type(b"\x03"),
            Pause,
            Prompt,
            Type(b"echo status $?\r"),
            Expect("\nstatus 130\r\n"),
            Prompt,
            Type(b"sleep 1000 | cat\r"),
            Pause,
            Type(b"\x1c"),
            Pause,
            Prompt,
            Type(b"echo status $?\r"),
            Expect("\nstatus 131\r\n"),
            Prompt,
            Type(b"trap 'echo trapped' INT; echo set\r"),
            Expect("\nset\r\n"),
            Prompt,
            Type(b"exit 6\r"),
        ],
        status: 6,
    },
    Scene {
        name: "a shell has a history, and edits lines",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"n=$((n+1)); echo count $n\r"),
            Expect("\ncount 1\r\n"),
            Pause,
            Prompt,
            Type(b"\x1b[A"),
            Pause,
            Type(b"\r"),
            Expect("\ncount 2\r\n"),
            Pause,
            Prompt,
            Type(b"echo other\r"),
            Expect("\nother\r\n"),
            Pause,
            Prompt,
            Type(b"\x1b[A\x1b[A\r"),
            Expect("\ncount 3\r\n"),
            Pause,
            Prompt,
            Type(b"echo wrogn\x7f\x7fng way\x01\x1b[C\x1b[C\x05!\r"),
            Expect("\nwrong way!\r\n"),
            Pause,
            Prompt,
            Type(b"echo gone\x15echo kept\r"),
            Expect("\nkept\r\n"),
            Pause,
            Type(b"\x04"),
        ],
        status: 0,
    },
    Scene {
        name: "stty shows and changes the terminal",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"stty -a | head -n 1; tty | cut -c 1-9\r"),
            Expect("speed 38400 baud; rows 33; columns 101;"),
            Expect("\n/dev/pts/\r\n"),
            Resize(40, 90),
            Pause,
            Prompt,
            Type(b"stty size\r"),
            Expect("\n40 90\r\n"),
            Prompt,
            Type(b"stty rows 7 columns 70; stty size\r"),
            Expect("\n7 70\r\n"),
            Prompt,
            Type(b"stty intr ^G; stty -a | grep -o 'intr = ^G'\r"),
            Expect("\nintr = ^G\r\n"),
            Prompt,
            Type(b"stty -echo; echo now; cat; stty echo\r"),
            Expect("\nnow\r\n"),
            Pause,
            Type(b"secret\r"),
            Expect("\nnow\r\nsecret\r\n"),
            Type(b"\x07"),
            Pause,
            Prompt,
            Type(b"stty sane; echo sane\r"),
            Expect(" # sane\r\n"),
            Pause,
            Prompt,
            Type(b"stty -icanon min 3; head -c 3; stty sane\r"),
            Pause,
            Type(b"xyz"),
            Expect("xyzxyz"),
            Prompt,
            Type(b"exit 7\r"),
        ],
        status: 7,
    },
    Scene {
        name: "a shell with stopped jobs asks before it ends",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"cat\r"),
            Pause,
            Type(b"one\r"),
            Expect("\none\r\none\r\n"),
            Type(b"\x1a"),
            Expect("Stopped"),
            Prompt,
            Type(b"exit 8\r"),
            Expect("You have stopped jobs"),
            Prompt,
            Type(b"exit 8\r"),
        ],
        status: 8,
    },
    Scene {
        name: "vi edits a file, and less shows pages",
        program: &["busybox", "sh"],
        steps: &[
            Prompt,
            Type(b"d=$(mktemp -d); cd $d; echo ready $?\r"),
            Expect("\nready 0\r\n"),
            Prompt,
            Type(b"vi note\r"),
            Expect("- note "),
            Pause,
            Type(b"ifirst line\rsecond"),
            Expect("second"),
            Type(b"\x1b"),
            Pause,
            Type(b"kdwi1st \x1b"),
            Pause,
            Type(b":wq\r"),
            Expect("note"),
            Pause,
            Prompt,
            Type(b"md5sum note | cut -c 1-8; tail -n 1 note; echo\r"),
            Expect("\nsecond\r\n"),
            Prompt,
            Type(b"seq 1 100 | less\r"),
            Expect("31\r\n"),
            Pause,
            Type(b" "),
            Expect("60\r\n"),
            Type(b"q"),
            Pause,
            Prompt,
            Type(b"stty -a | grep -o ' icanon.*echo '; cd /; rm -r $d; echo removed $?\r"),
            Expect("\nremoved 0\r\n"),
            Prompt,
            Type(b"exit 9\r"),
        ],
        status: 9,
    },
];

fn play(context: &Context, session: &mut Session, scene: &Scene) -> Result<(), String> {
    for step in scene.steps {
        match step {
            Expect(words) => session.expect(words)?,
            Prompt => session.expect_last(&[" # ", " # \x1b[6n"])?,
            Hidden(words) => session.expect_hidden(words)?,
            // Less than a second, which is what the program that survives signals takes.
            Pause => thread::sleep(Duration::from_millis(200) * context.patience.min(3)),
            Type(keys) => session.send(keys)?,
            Resize(rows, columns) => session.resize(*rows, *columns),
            Signal(signal) => session.signal(*signal),
        }
    }
    let status = session.finish()?;
    ensure(status == scene.status, || format!("status {status} instead of {}", scene.status))
}

pub(super) fn add(tests: &mut Tests) {
    for scene in SCENES {
        tests.add(format!("interactive/{}", scene.name), move |context| {
            let mut session = Session::start_on_host(context, scene.program)?;
            play(context, &mut session, scene).map_err(|error| format!("on the host: {error}"))?;
            let mut session = Session::start(context, scene.program)?;
            session.wait_until_raw()?;
            play(context, &mut session, scene).map_err(|error| format!("in a microVM: {error}"))?;
            let after = session.modes();
            ensure(after == session.before, || {
                format!("the host's terminal had modes {:#x} and has {after:#x}", session.before)
            })?;
            context.check_nothing_left()
        });
    }
    tests.add("interactive/what is pasted arrives whole, however slow the program", |context| {
        let mut session = Session::start(context, &["signals", "absorb"])?;
        session.expect("ready")?;
        for _ in 0..400 {
            session.send(b"A line of a text that somebody pastes in one go.\r")?;
        }
        session.send(b"\x04")?;
        session.expect("400 lines, 19600 bytes")?;
        let status = session.finish()?;
        ensure(status == 47, || format!("status {status}"))
    });
}
