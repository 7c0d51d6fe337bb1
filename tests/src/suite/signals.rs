//! Signals to the command reach the program that wants to hear of them, and only end one that does not.

use std::thread;
use std::time::Duration;

use super::ensure;
use crate::command::{Input, Run, Spec};
use crate::comparison::Program;
use crate::harness::{Context, Tests};

/// A command is sent these, once it runs and has had time to get to where it waits.
fn signalled(context: &Context, spec: Spec, signals: &[i32]) -> Result<Run, String> {
    let limit = Duration::from_secs(15) * context.patience;
    let running = spec.directory(&context.directory).input(Input::Silence).limit(limit).start()?;
    thread::sleep(Duration::from_millis(400) * context.patience);
    for &signal in signals {
        running.signal(signal);
    }
    running.finish()
}

fn add_one(
    tests: &mut Tests,
    name: String,
    arguments: Vec<&'static str>,
    signals: Vec<i32>,
    status: u8,
) {
    tests.add(format!("signals/{name}"), move |context| {
        let path = context.fixture("signals");
        let host = Spec::new(&path).args(&arguments);
        let host = signalled(context, host, &signals)?;
        ensure(host.status == status, || format!("on the host: {host:?}"))?;
        let guest = Program::new(path).args(arguments.clone()).guest_spec(context);
        let guest = signalled(context, guest, &signals)?;
        ensure(
            (guest.status, &guest.stdout, &guest.stderr)
                == (host.status, &host.stdout, &host.stderr),
            || format!("on the host: {host:?}\nin a microVM: {guest:?}"),
        )?;
        ensure(!guest.leftovers, || "processes were left behind".to_owned())?;
        context.check_nothing_left()
    });
}

pub(super) fn add(tests: &mut Tests) {
    let signals = [
        ("SIGINT", libc::SIGINT),
        ("SIGTERM", libc::SIGTERM),
        ("SIGHUP", libc::SIGHUP),
        ("SIGQUIT", libc::SIGQUIT),
    ];
    for (name, signal) in signals {
        for way in ["spin", "calls", "read", "poll", "sleep"] {
            let title = format!("{name} reaches the handler of a program that does '{way}'");
            add_one(tests, title, vec!["handle", way], vec![signal], 40);
        }
        add_one(tests, format!("{name} that is ignored"), vec!["ignore"], vec![signal], 42);
    }
    let all = || signals.map(|(_, signal)| signal).to_vec();
    add_one(tests, "all of them are blocked".to_owned(), vec!["block"], all(), 42);
    add_one(
        tests,
        "some right after each other".to_owned(),
        vec!["burst"],
        all()[..3].to_vec(),
        43,
    );
    // Its handler is for others.
    add_one(tests, "one without a handler".to_owned(), vec!["restart"], vec![libc::SIGHUP], 129);
}
