//! Runs the whole-system tests: `system-tests [OPTIONS] [FILTER]...`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, process, thread};

use system_tests::harness::{Context, Tests, processes_of};
use system_tests::suite;

const USAGE: &str = "\
Usage: system-tests [OPTIONS] [FILTER]...

Runs the tests whose names contain a FILTER, or all of them.

  --airlock PATH    the executable under test (default: airlock beside this one)
  --fixtures PATH   the programs that the tests run (default: target/fixtures)
  --jobs N          tests at the same time (default: the number of CPUs)
  --patience N      multiply every time limit by N (for emulated machines)
  --quiet           say nothing about tests that pass
  --list            only print the names";

struct Options {
    context: Context,
    jobs: usize,
    quiet: bool,
    list: bool,
    filters: Vec<String>,
}

fn parse() -> Result<Options, String> {
    let mut airlock = env::current_exe().unwrap_or_default().with_file_name("airlock");
    let mut fixtures = PathBuf::from("target/fixtures");
    let (mut patience, mut quiet, mut list) = (1, false, false);
    let mut jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut filters = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number =
            |text: String| text.parse::<u32>().map_err(|_| format!("'{text}' is not a number"));
        match argument.as_str() {
            "--airlock" => airlock = value()?.into(),
            "--fixtures" => fixtures = value()?.into(),
            "--jobs" => jobs = usize::try_from(number(value()?)?).unwrap_or(1).max(1),
            "--patience" => patience = number(value()?)?.max(1),
            "--quiet" => quiet = true,
            "--list" => list = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                process::exit(0);
            }
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}\n{USAGE}"));
            }
            filter => filters.push(filter.to_owned()),
        }
    }
    let absolute = |path: PathBuf| {
        fs::canonicalize(&path)
            .map_err(|error| format!("cannot find '{}': {error}", path.display()))
    };
    let directory = env::temp_dir().join(format!("system-tests-{}", process::id()));
    let context =
        Context { airlock: absolute(airlock)?, fixtures: absolute(fixtures)?, directory, patience };
    Ok(Options { context, jobs, quiet, list, filters })
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("system-tests: {message}");
            return ExitCode::from(2);
        }
    };
    let mut tests = Tests::default();
    if let Err(message) = suite::add_all(&mut tests, &options.context) {
        eprintln!("system-tests: {message}");
        return ExitCode::from(2);
    }
    tests.filter(&options.filters);
    if options.list {
        tests.names().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let (passed, mut failed) = tests.run(&options.context, options.jobs, options.quiet);
    drop(fs::remove_dir_all(&options.context.directory));
    let left = processes_of(&options.context.airlock);
    if !left.is_empty() {
        println!("FAILED  processes of {} are left: {left:?}", options.context.airlock.display());
        failed += 1;
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
