//! Strings of the traced program, made safe to print.

use std::fmt::Write as _;

/// As Go's `strconv.Quote`: what can't be printed is escaped.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            _ => push(&mut quoted, character),
        }
    }
    quoted.push('"');
    quoted
}

/// As [`quote`], for bytes that are no text.
pub(super) fn quote_bytes(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        let inner = quote(chunk.valid());
        quoted.push_str(inner.get(1..inner.len() - 1).unwrap_or_default());
        for byte in chunk.invalid() {
            // Writing to a string can't fail.
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

/// A name or message: as it is, but for what can't be printed.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        push(&mut plain, character);
    }
    plain
}

fn push(out: &mut String, character: char) {
    match character {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '"' | '\'' | '\\' => out.push(character),
        // `escape_debug` knows what is printable: it leaves that as it is.
        _ if character.escape_debug().len() == 1 => out.push(character),
        _ => {
            let code = u32::from(character);
            // Writing to a string can't fail.
            let _ = match code {
                0..0x80 => write!(out, "\\x{code:02x}"),
                0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for (text, expect) in [
            ("widget", r#""widget""#),
            ("a\"b\\c'd", r#""a\"b\\c'd""#),
            ("\u{1b}[2J\u{7}\0", r#""\x1b[2J\x07\x00""#),
            ("\u{9b}31m", r#""\u009b31m""#),
            ("a\u{202e}b\u{2066}", r#""a\u202eb\u2066""#),
            ("línea\n\tπ🙂", r#""línea\n\tπ🙂""#),
            ("\u{e0001}", r#""\U000e0001""#),
        ] {
            assert_eq!(quote(text), expect);
        }
        assert_eq!(quote_bytes(b"a\xff\x1b\xc3(\n"), r#""a\xff\x1b\xc3(\n""#);
        assert_eq!(plain("main.\u{1b}f\n"), r"main.\x1bf\n");
    }
}
