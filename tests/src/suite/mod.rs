//! The tests, by subject.

mod applets;
mod commands;
mod containers;
mod dynamic;
mod endings;
mod executables;
mod faults;
mod hostile;
mod interactive;
mod memory_pressure;
mod options;
mod probes;
mod programs;
mod refusals;
mod rootfs;
mod signals;
mod streams;
mod terminal;
mod threads;
mod volumes;
mod waiting;

use crate::harness::{Context, Tests};

/// Adds every test.
pub fn add_all(tests: &mut Tests, context: &Context) -> Result<(), String> {
    programs::add(tests);
    probes::add(tests);
    faults::add(tests, context)?;
    streams::add(tests);
    applets::add(tests);
    options::add(tests);
    commands::add(tests);
    dynamic::add(tests);
    executables::add(tests);
    refusals::add(tests);
    rootfs::add(tests);
    containers::add(tests);
    endings::add(tests);
    terminal::add(tests);
    interactive::add(tests);
    signals::add(tests);
    memory_pressure::add(tests);
    hostile::add(tests);
    threads::add(tests);
    volumes::add(tests);
    waiting::add(tests);
    Ok(())
}

/// Fails with these words unless the condition holds.
fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// Bytes that can be computed, and that do not compress or repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Lines of words and numbers, with repetitions.
fn prose(length: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "airlock",
        "door",
        "guest",
        "host",
        "page",
        "fault",
        "entry",
        "exit",
        "Ring",
        "queue",
        "timer",
        "a",
        "of",
        "the",
        "interrupt",
        "zero",
    ];
    let mut text = Vec::with_capacity(length + 100);
    for (number, chunk) in noise(length).chunks(8).enumerate() {
        if text.len() >= length {
            break;
        }
        let words: Vec<_> = chunk.iter().map(|byte| WORDS[usize::from(byte % 16)]).collect();
        let count = usize::from(chunk[0] % 8) + 1;
        text.extend(
            format!(
                "{} {}\t{}\n",
                u32::from(chunk[0]) * 37 % 101,
                words[..count].join(" "),
                number % 997
            )
            .bytes(),
        );
    }
    text
}
