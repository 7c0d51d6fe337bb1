//! Scripts: files whose first line names the program that runs them (execve(2), "Interpreter
//! scripts").

use super::strings::StringList;
use crate::errno::{Errno, Result};
use crate::fs::FileRef;
use crate::fs::path::PATH_MAX;
use alloc::vec::Vec;

/// Linux's `BINPRM_BUF_SIZE`: of the first line of a script, no more counts.
const FIRST_LINE: usize = 256;
/// A script's interpreter may be a script, and so on, this often.
const MAX_SCRIPTS: usize = 5;

/// Whether a file begins as a script does.
///
/// # Errors
/// Those of reading it.
pub fn is_script(file: &FileRef) -> Result<bool> {
    let mut magic = [0; 2];
    Ok(file.read_bytes(0, &mut magic)? == 2 && magic == *b"#!")
}

/// Follows the first lines of scripts to a program that is none; each puts its interpreter, that one's
/// argument and the script's path in the place of the first argument. `open` finds interpreters.
///
/// # Errors
/// ENOEXEC if a first line names nothing, ELOOP if there are too many, those of `open`, ENOMEM.
pub fn follow(
    mut file: FileRef,
    shown: &[u8],
    mut arguments: StringList,
    open: &mut dyn FnMut(&[u8]) -> Result<FileRef>,
) -> Result<(FileRef, StringList)> {
    let mut script = Vec::from(shown);
    for _ in 0..MAX_SCRIPTS {
        let mut line = [0; FIRST_LINE];
        let len = file.read_bytes(0, &mut line)?;
        if line[..len].first_chunk() != Some(b"#!") {
            return Ok((file, arguments));
        }
        let (interpreter, argument) = parse_first_line(&line[2..len])?;
        let mut new: Vec<&[u8]> = Vec::new();
        new.try_reserve_exact(3).map_err(|_| Errno::ENOMEM)?;
        new.push(interpreter);
        new.extend(argument);
        new.push(&script);
        arguments.replace_first(&new)?;
        file = open(interpreter)?;
        script = Vec::from(interpreter);
    }
    Err(Errno::ELOOP)
}

/// The interpreter and what follows it, as one argument, of what comes after `#!`.
fn parse_first_line(text: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let end = text.iter().position(|&byte| byte == b'\n' || byte == 0);
    let line = &text[..end.unwrap_or(text.len())];
    let line = line.trim_ascii_start();
    let cut = line.iter().position(is_blank);
    // Without an end of the line, a path could have been cut short.
    if line.is_empty() || (end.is_none() && cut.is_none()) || line.len() > PATH_MAX {
        return Err(Errno::ENOEXEC);
    }
    let Some(cut) = cut else { return Ok((line, None)) };
    let (interpreter, rest) = line.split_at(cut);
    let rest = rest.trim_ascii();
    Ok((interpreter, (!rest.is_empty()).then_some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_name_an_interpreter_and_one_argument() {
        let parse = |text: &'static str| parse_first_line(text.as_bytes());
        assert_eq!(parse("/bin/sh\nrest"), Ok((b"/bin/sh".as_slice(), None)));
        assert_eq!(parse("  /bin/sh \t\n"), Ok((b"/bin/sh".as_slice(), None)));
        let with_argument = (b"/usr/bin/env".as_slice(), Some(b"-S a  b".as_slice()));
        assert_eq!(parse(" /usr/bin/env \t -S a  b \n"), Ok(with_argument));
        assert_eq!(parse("/bin/sh -e"), Ok((b"/bin/sh".as_slice(), Some(b"-e".as_slice()))));
        for nothing in ["", "\n", "  \n", "/bin/cut-short"] {
            assert_eq!(parse(nothing), Err(Errno::ENOEXEC), "{nothing:?}");
        }
    }
}
