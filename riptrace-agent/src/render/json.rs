//! Events as JSON, one object a line. Safe on a terminal: what a terminal could take for a command is escaped.

use std::io;

use riptrace_common::wire::event::{Event, Hit};
use serde::Serialize;

/// One event as one line, with its newline.
#[must_use]
pub fn line(event: &Event) -> String {
    to_line(event)
}

/// A hit as one line, with its newline; the same as its event, without taking it apart.
#[must_use]
pub fn hit_line(hit: &Hit) -> String {
    #[derive(Serialize)]
    struct Tagged<'a> {
        kind: &'static str,
        #[serde(flatten)]
        hit: &'a Hit,
    }
    to_line(&Tagged { kind: "hit", hit })
}

fn to_line(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, TerminalSafe);
    // The wire types have string keys and no maps of other kinds, so writing to memory can't fail.
    if value.serialize(&mut serializer).is_err() {
        bytes.clear();
    }
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_default()
}

/// Escapes beyond what JSON asks for: DEL, the C1 controls (U+009B starts a terminal command as ESC [ does), line
/// separators, and characters that turn the direction of text.
struct TerminalSafe;

impl serde_json::ser::Formatter for TerminalSafe {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (index, character) in fragment.char_indices() {
            if !is_command(character) {
                continue;
            }
            writer.write_all(fragment.get(plain..index).unwrap_or_default().as_bytes())?;
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = index + character.len_utf8();
        }
        writer.write_all(fragment.get(plain..).unwrap_or_default().as_bytes())
    }
}

fn is_command(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}
