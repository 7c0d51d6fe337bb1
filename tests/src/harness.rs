//! Names, filters, parallel runs, the report.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crate::command::Spec;

/// What a test finds: the things under test, and a directory of its own.
#[derive(Clone, Debug)]
pub struct Context {
    /// The `airlock` executable.
    pub airlock: PathBuf,
    /// The directory of the programs that the tests run.
    pub fixtures: PathBuf,
    /// A directory for this test alone, removed after it.
    pub directory: PathBuf,
    /// By how much everything may be slower than on real hardware.
    pub patience: u32,
}

impl Context {
    /// The path of a test program.
    pub fn fixture(&self, name: &str) -> PathBuf {
        self.fixtures.join(name)
    }

    /// The `airlock` command, which finds an empty directory for its temporary files.
    pub fn airlock(&self) -> Spec {
        let temporary = self.temporary();
        // If this fails, so does what uses it.
        drop(fs::create_dir_all(&temporary));
        Spec::new(&self.airlock).envs([
            (OsString::from("TMPDIR"), temporary.into_os_string()),
            ("PATH".into(), "/usr/bin:/bin".into()),
        ])
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// Fails if `airlock` left a temporary file.
    pub fn check_nothing_left(&self) -> Result<(), String> {
        let Ok(entries) = fs::read_dir(self.temporary()) else { return Ok(()) };
        let left: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("files were left behind: {left:?}")) }
    }
}

type Body = Box<dyn Fn(&Context) -> Result<(), String> + Send + Sync>;

/// A test.
pub struct Test {
    name: String,
    body: Body,
}

/// The tests of a run, in the order in which they are listed.
#[derive(Default)]
pub struct Tests {
    list: Vec<Test>,
}

impl Tests {
    /// Adds a test. Its name is `SUBJECT/WHAT`.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        body: impl Fn(&Context) -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.list.push(Test { name: name.into(), body: Box::new(body) });
    }

    /// Keeps those whose name contains one of the filters; all without any filter.
    pub fn filter(&mut self, filters: &[String]) {
        self.list.retain(|test| {
            filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter.as_str()))
        });
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|test| test.name.as_str())
    }

    /// Runs them on several threads, reports, and returns how many passed and failed.
    pub fn run(self, context: &Context, jobs: usize, quiet: bool) -> (usize, usize) {
        let queue = Mutex::new(self.list.into_iter().collect::<VecDeque<_>>());
        let totals = Mutex::new((0, 0));
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(test) = queue.lock().ok().and_then(|mut queue| queue.pop_front())
                    {
                        let started = Instant::now();
                        let result = run_one(&test, context);
                        let milliseconds = started.elapsed().as_millis();
                        let Ok(mut totals) = totals.lock() else { return };
                        match result {
                            Ok(()) => {
                                totals.0 += 1;
                                if !quiet {
                                    println!("ok      {} ({milliseconds} ms)", test.name);
                                }
                            }
                            Err(why) => {
                                totals.1 += 1;
                                println!("FAILED  {} ({milliseconds} ms)", test.name);
                                for line in why.lines() {
                                    println!("        {line}");
                                }
                            }
                        }
                    }
                });
            }
        });
        totals.into_inner().unwrap_or((0, 1))
    }
}

fn run_one(test: &Test, context: &Context) -> Result<(), String> {
    let directory = context.directory.join(test.name.replace(['/', ' '], "-"));
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot make '{}': {error}", directory.display()))?;
    let context = Context { directory: directory.clone(), ..context.clone() };
    let result = panic::catch_unwind(AssertUnwindSafe(|| (test.body)(&context)))
        .unwrap_or_else(|_| Err("the test itself panicked".to_owned()));
    // What a failed test leaves is in the way of no other.
    drop(fs::remove_dir_all(&directory));
    result
}

/// Processes that still run an executable.
pub fn processes_of(executable: &Path) -> Vec<i32> {
    let Ok(executable) = fs::canonicalize(executable) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == executable))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
