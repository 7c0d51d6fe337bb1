//! Instructions of a kernel's basic operations: our kernel's and Debian's Linux's, of the same program on the
//! same machine.

use super::{Failure, Paths};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

/// What each line of the program is called, and how much of Linux's count it may take.
const ROWS: [(&str, f64); 18] = [
    ("getpid", 0.6),
    ("read 1 byte of /dev/zero", 0.6),
    ("read 1 byte of a file", 0.6),
    ("write 1 byte to /dev/null", 0.6),
    ("write 1 byte to a file", 0.6),
    ("open+close", 1.0),
    ("stat", 1.0),
    ("write+read of a pipe", 0.6),
    ("pipe round trip", 0.6),
    ("pipe round trip of threads", 0.6),
    ("context switch of processes", 1.0),
    ("context switch of threads", 1.0),
    ("fork+exit+wait", 0.6),
    ("fork+exec+wait", 1.0),
    ("mmap+touch+munmap", 1.0),
    ("page fault", 0.6),
    ("signal delivery", 1.0),
    ("futex handover", 1.0),
];

/// An operation's instructions.
pub struct Row {
    name: &'static str,
    ours: f64,
    linux: f64,
    bound: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours / self.linux
    }
}

/// Runs the program on both kernels.
pub fn measure(paths: &Paths) -> Result<Vec<Row>, Failure> {
    let program = paths.fixture("kernel-bench");
    let mut ours = Command::new(paths.script("microvm"));
    let ours = counts(ours.args(["--icount", "--timeout", "300"]).arg(&program))?;
    let linux = counts(Command::new(paths.script("microvm-linux")).arg(&program))?;
    ROWS.iter()
        .map(|&(name, bound)| {
            let of = |counts: &BTreeMap<String, f64>, kernel| {
                counts.get(name).copied().ok_or_else(|| format!("no figure of {kernel} for {name}"))
            };
            Ok(Row { name, ours: of(&ours, "ours")?, linux: of(&linux, "Linux")?, bound })
        })
        .collect()
}

fn counts(command: &mut Command) -> Result<BTreeMap<String, f64>, Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{:?}: {}: {text}", command.get_program(), output.status).into());
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines of a name, a colon and numbers, of which the first is the median; Linux's messages are between them.
fn parse(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(": ")?;
            let median = numbers.split(' ').next()?.parse().ok()?;
            Some((name.to_owned(), median))
        })
        .collect()
}

/// For people.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:28}  {:>10}  {:>10}  {:>6}  {:>7}\n",
        "instructions", "Airlock", "Linux", "ratio", "at most"
    );
    for row in rows {
        let verdict = if row.ratio() > row.bound { "  OVER" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:28}  {:>10.1}  {:>10.1}  {:>6.2}  {:>7.2}{verdict}",
            row.name,
            row.ours,
            row.linux,
            row.ratio(),
            row.bound
        );
    }
    text
}

/// For programs.
pub fn to_json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        format!(
            "  {{\"name\": \"{}\", \"airlock\": {}, \"linux\": {}, \"ratio\": {:.4}, \"at_most\": {}}}",
            row.name,
            row.ours,
            row.linux,
            row.ratio(),
            row.bound
        )
    });
    format!("[\n{}\n]\n", rows.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_kernel_are_no_figures() {
        let counts = parse("[    0.08] PCI: Fatal: no\ngetpid: 92.5 92.0 93.0\n");
        assert_eq!(counts, BTreeMap::from([("getpid".to_owned(), 92.5)]));
    }

    #[test]
    fn what_is_over_its_bound_is_marked() {
        let row = |ours| Row { name: "x", ours, linux: 100.0, bound: 0.6 };
        assert!(table(&[row(61.0)]).contains("OVER"));
        assert!(!table(&[row(60.0)]).contains("OVER"));
    }
}
