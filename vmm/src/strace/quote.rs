//! Bytes as a C string literal, the way strace prints them.

/// Appends `bytes` in double quotes; what is not printable ASCII becomes an escape sequence, so the
/// line stays one line and cannot speak to a terminal.
pub fn quote(line: &mut Vec<u8>, bytes: &[u8]) {
    line.push(b'"');
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            0x0b => line.extend_from_slice(b"\\v"),
            0x0c => line.extend_from_slice(b"\\f"),
            b' '..=b'~' => line.push(byte),
            _ => {
                // The shortest octal form that the next character does not run into.
                let digit_follows = bytes.get(index + 1).is_some_and(u8::is_ascii_digit);
                let text =
                    if digit_follows { format!("\\{byte:03o}") } else { format!("\\{byte:o}") };
                line.extend_from_slice(text.as_bytes());
            }
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::quote;

    fn quoted(bytes: &[u8]) -> String {
        let mut line = Vec::new();
        quote(&mut line, bytes);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn printable_text_stays_as_it_is() {
        assert_eq!(quoted(b"Hello, world ~!"), r#""Hello, world ~!""#);
        assert_eq!(quoted(b""), r#""""#);
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(quoted(b"a\"b\\c\td\ne\rf\x0b\x0c"), r#""a\"b\\c\td\ne\rf\v\f""#);
    }

    #[test]
    fn an_octal_escape_is_short_unless_a_digit_follows() {
        assert_eq!(quoted(b"\x1b[0m\x007\x00x\xff9\xff"), r#""\33[0m\0007\0x\3779\377""#);
    }
}
