//! What keys do.

use super::*;
use linux_raw_sys::general::{VMIN, VTIME};
use std::format;
use std::string::String;

fn new() -> Discipline {
    Discipline::new(Termios::CONSOLE).expect("memory")
}

fn type_keys(tty: &mut Discipline, keys: &[u8]) -> (String, Outcome) {
    let mut outcome = Outcome::default();
    tty.receive(keys, &mut outcome);
    let mut echo = Vec::new();
    tty.show_echoes(&mut echo, usize::MAX);
    (String::from_utf8(echo).expect("text"), outcome)
}

fn set(tty: &mut Discipline, termios: Termios) {
    tty.set_termios(termios, &mut Outcome::default());
}

fn read(tty: &mut Discipline, len: usize) -> Option<String> {
    let mut buffer = std::vec![0; len];
    if tty.demand(len) != Demand::Ready {
        return None;
    }
    let count = tty.take(&mut buffer);
    buffer.truncate(count);
    Some(String::from_utf8(buffer).expect("text"))
}

#[test]
fn a_line_is_read_when_it_is_complete() {
    let mut tty = new();
    assert_eq!(type_keys(&mut tty, b"ab").0, "ab");
    assert_eq!(read(&mut tty, 10), None);
    assert_eq!(type_keys(&mut tty, b"\rcd\r").0, "\r\ncd\r\n");
    assert_eq!(read(&mut tty, 2).as_deref(), Some("ab"));
    assert_eq!(read(&mut tty, 10).as_deref(), Some("\n"));
    assert_eq!(read(&mut tty, 10).as_deref(), Some("cd\n"));
    assert_eq!(read(&mut tty, 10), None);
}

#[test]
fn keys_edit_the_line() {
    let mut tty = new();
    let (echo, _) = type_keys(&mut tty, b"one two\x17x\x7fy\x01\x7f\n");
    assert_eq!(read(&mut tty, 99).as_deref(), Some("one y\n"));
    assert!(echo.ends_with("^A\x08 \x08\x08 \x08\r\n"), "{echo:?}");
    type_keys(&mut tty, b"gone\x15kept\n");
    assert_eq!(read(&mut tty, 99).as_deref(), Some("kept\n"));
    type_keys(&mut tty, "aä\x7fb\x16\x7f\n".as_bytes());
    assert_eq!(read(&mut tty, 99).as_deref(), Some("ab\x7f\n"));
}

#[test]
fn a_tab_is_erased_by_its_width() {
    let mut tty = new();
    assert_eq!(type_keys(&mut tty, b"ab\t\x7f").0, format!("ab\t{}", "\x08".repeat(6)));
    assert_eq!(type_keys(&mut tty, b"\t\tx\x7f\x7f").0, {
        format!("\t\tx\x08 \x08{}", "\x08".repeat(8))
    });
}

#[test]
fn control_d_ends_the_file_or_hands_over_a_part_of_a_line() {
    let mut tty = new();
    type_keys(&mut tty, b"part\x04\x04");
    assert_eq!(tty.readable_bytes(), 4);
    assert_eq!(read(&mut tty, 99).as_deref(), Some("part"));
    assert_eq!(read(&mut tty, 99).as_deref(), Some(""));
    assert_eq!(read(&mut tty, 99), None);
    // A read that just fits takes the end of the line with it.
    type_keys(&mut tty, b"part\x04");
    assert_eq!(read(&mut tty, 4).as_deref(), Some("part"));
    assert_eq!(read(&mut tty, 99), None);
}

#[test]
fn keys_are_signals_and_drop_what_was_typed() {
    let mut tty = new();
    let (echo, outcome) = type_keys(&mut tty, b"abc\x03\x1c\x03\x1a\n");
    assert_eq!(outcome.signals, [SIGINT, SIGQUIT, SIGTSTP]);
    assert!(outcome.flushed);
    assert_eq!(echo, "^Z\r\n");
    assert_eq!(read(&mut tty, 99).as_deref(), Some("\n"));
    set(&mut tty, Termios { local: Termios::CONSOLE.local | NOFLSH, ..Termios::CONSOLE });
    let (echo, outcome) = type_keys(&mut tty, b"abc\x03\n");
    assert_eq!((echo.as_str(), outcome.flushed), ("abc^C\r\n", false));
    assert_eq!(read(&mut tty, 99).as_deref(), Some("abc\n"));
}

#[test]
fn raw_mode_hands_over_every_byte_and_changes_none() {
    let mut tty = new();
    type_keys(&mut tty, b"typed");
    let mut raw = Termios { input: 0, output: 0, local: 0, ..*tty.termios() };
    set(&mut tty, raw);
    assert_eq!(read(&mut tty, 99).as_deref(), Some("typed"));
    assert_eq!(type_keys(&mut tty, b"\r\x03\x04\x7f").0, "");
    assert_eq!(read(&mut tty, 99).as_deref(), Some("\r\x03\x04\x7f"));
    assert_eq!(read(&mut tty, 99), None);
    raw.characters[VMIN as usize] = 3;
    set(&mut tty, raw);
    type_keys(&mut tty, b"12");
    assert_eq!(read(&mut tty, 99), None);
    type_keys(&mut tty, b"3");
    assert_eq!(read(&mut tty, 99).as_deref(), Some("123"));
    raw.characters[VMIN as usize] = 0;
    raw.characters[VTIME as usize] = 5;
    set(&mut tty, raw);
    assert_eq!((tty.demand(9), tty.is_readable()), (Demand::InputWithin(5), false));
    raw.characters[VTIME as usize] = 0;
    set(&mut tty, raw);
    assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Ready, false));
    let mut screen = Vec::new();
    assert_eq!(tty.show(b"a\nb", &mut screen, 99), Ok(3));
    assert_eq!(screen, b"a\nb");
}

#[test]
fn what_was_typed_in_raw_mode_is_a_line_in_canonical_mode() {
    let mut tty = new();
    set(&mut tty, Termios { input: 0, local: 0, ..Termios::CONSOLE });
    type_keys(&mut tty, b"typed");
    set(&mut tty, Termios::CONSOLE);
    assert_eq!(read(&mut tty, 99).as_deref(), Some("typed"));
    assert_eq!(read(&mut tty, 99), None);
}

#[test]
fn a_raw_read_waits_for_its_minimum_or_from_byte_to_byte() {
    let mut tty = new();
    let mut raw = Termios { input: 0, local: 0, ..*tty.termios() };
    raw.characters[VMIN as usize] = 3;
    raw.characters[VTIME as usize] = 2;
    set(&mut tty, raw);
    assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Input, false));
    type_keys(&mut tty, b"1");
    assert_eq!((tty.demand(9), tty.is_readable()), (Demand::InputWithin(2), true));
    // A read of one byte has all that it can take.
    assert_eq!(tty.demand(1), Demand::Ready);
    type_keys(&mut tty, b"23");
    assert_eq!(tty.demand(9), Demand::Ready);
    raw.characters[VTIME as usize] = 0;
    raw.characters[VMIN as usize] = 4;
    set(&mut tty, raw);
    assert_eq!((tty.demand(9), tty.is_readable()), (Demand::Input, false));
}

#[test]
fn control_s_holds_output_back_until_control_q_or_a_signal() {
    let mut tty = new();
    assert_eq!(type_keys(&mut tty, b"a\x13b").0, "");
    assert!(tty.is_stopped());
    let (echo, outcome) = type_keys(&mut tty, b"\x11");
    assert_eq!((echo.as_str(), outcome.stopped), ("ab", Some(false)));
    type_keys(&mut tty, b"\x13\x03");
    assert!(!tty.is_stopped());
    type_keys(&mut tty, b"\x13");
    set(&mut tty, Termios { input: 0, ..Termios::CONSOLE });
    assert!(!tty.is_stopped());
    let mut outcome = Outcome::default();
    tty.hold(true, &mut outcome);
    set(&mut tty, Termios::CONSOLE);
    type_keys(&mut tty, b"\x11");
    assert!(tty.is_stopped());
    tty.hold(false, &mut outcome);
    assert!(!tty.is_stopped());
}

#[test]
fn the_host_keeps_what_there_is_no_room_for() {
    let mut tty = new();
    type_keys(&mut tty, b"line\n");
    type_keys(&mut tty, &[b'x'; CAPACITY]);
    assert_eq!(tty.room(), 0);
    assert_eq!(read(&mut tty, 99).as_deref(), Some("line\n"));
    // Now only the end of the long line can make something readable.
    assert!(tty.room() > 0);
}

#[test]
fn a_user_who_types_without_end_does_not_fill_memory() {
    let mut tty = new();
    type_keys(&mut tty, &[b'x'; 10_000]);
    assert!(tty.len() <= CAPACITY);
    type_keys(&mut tty, b"\n");
    let line = read(&mut tty, 10_000).expect("a line");
    assert!(line.ends_with("x\n") && line.len() == CAPACITY);
    let mut outcome = Outcome::default();
    assert_eq!(tty.receive(&[4; 10_000], &mut outcome), CAPACITY - 1);
}
