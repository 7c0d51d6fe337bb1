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
    /// The program gets to where it waits.
    Pause,
    /// The user types this.
    Type(&'static [u8]),
    /// The window gets so many rows and columns.
    Resize(u16, u16),
    /// Someone sends the command a signal.
    Signal(i32),
}
use Step::{Expect, Pause, Resize, Signal, Type};

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
            Type(b"\x11"),
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
            Type(b"unfinished\x03"),
            Expect("unfinished^C\r\n"),
            Type(b"echo status $?\r"),
            Expect("status 130\r\n"),
            Type(b"exit 9\r"),
        ],
        status: 9,
    },
];

fn play(context: &Context, session: &mut Session, scene: &Scene) -> Result<(), String> {
    for step in scene.steps {
        match step {
            Expect(words) => session.expect(words)?,
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
            let before = session.modes();
            play(context, &mut session, scene).map_err(|error| format!("in a microVM: {error}"))?;
            ensure(session.modes() == before, || {
                "the host's terminal is not as it was".to_owned()
            })?;
            context.check_nothing_left()
        });
    }
    tests.add("interactive/what is pasted arrives whole, however slow the program", |context| {
        let mut session = Session::start(context, &["signals", "absorb"])?;
        session.expect("ready")?;
        for _ in 0..1000 {
            session.send(b"A line of a text that somebody pastes in one go.\r")?;
        }
        session.send(b"\x04")?;
        session.expect("1000 lines, 49000 bytes")?;
        let status = session.finish()?;
        ensure(status == 47, || format!("status {status}"))
    });
}
