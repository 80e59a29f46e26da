//! What a comparison ends at: numbers, texts, names.

use serde_json::Value;

use super::Findings;

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn same_number(path: &str, what: &str, want: &Value, have: &Value, findings: &mut Findings) {
    if want.as_u64() != have.as_u64() {
        findings.wrong(path, what, have, want);
    }
}

pub(super) fn scalar(kind: &str, want: &Value, have: &Value, path: &str, findings: &mut Findings) {
    let same = match kind {
        "float32" => same_float(want, have, true),
        "float64" => same_float(want, have, false),
        "complex64" | "complex128" => match (want.as_array(), have.as_array()) {
            (Some(want), Some(have)) if want.len() == 2 && have.len() == 2 => {
                want.iter().zip(have).all(|(want, have)| same_float(want, have, kind == "complex64"))
            }
            _ => false,
        },
        _ => want == have,
    };
    if !same {
        findings.wrong(path, "value", have, want);
    }
}

pub(super) fn same_float(want: &Value, have: &Value, narrow: bool) -> bool {
    match (want.as_f64(), have.as_f64()) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the shortest text of a float32 is read back as one"
        )]
        (Some(want), Some(have)) if narrow => (want as f32).to_bits() == (have as f32).to_bits(),
        (Some(want), Some(have)) => want.to_bits() == have.to_bits(),
        _ => want == have,
    }
}

pub(super) fn strings(truth: &Value, got: &Value, path: &str, cut: bool, findings: &mut Findings) {
    same_number(path, "len", &truth["len"], &got["len"], findings);
    let (want, have) = (string_bytes(truth), string_bytes(got));
    // A string may be cut inside a rune; a reader may then leave out the piece of it.
    let same = if cut {
        let captured = got.pointer("/truncated/captured").and_then(Value::as_u64).unwrap_or(0);
        want.starts_with(&have) && (have.len() as u64) <= captured && have.len() as u64 + 3 >= captured
    } else {
        want == have
    };
    if !same {
        findings.wrong(path, "text", &String::from_utf8_lossy(&have), &String::from_utf8_lossy(&want));
    }
}

pub(super) fn string_bytes(value: &Value) -> Vec<u8> {
    match value.get("base64").and_then(Value::as_str) {
        Some(encoded) => decode_base64(encoded),
        None => text(value, "value").as_bytes().to_vec(),
    }
}

pub(super) enum Element<'a> {
    Byte(u8),
    Value(&'a Value),
}

pub(super) fn bytes_or_elements(value: &Value) -> Vec<Element<'_>> {
    if let Some(encoded) = value.get("base64").and_then(Value::as_str) {
        return decode_base64(encoded).into_iter().map(Element::Byte).collect();
    }
    value["elems"].as_array().into_iter().flatten().map(Element::Value).collect()
}

pub(super) fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

/// A text that equal keys share. It may be the same for different keys, which are then compared one by one.
pub(super) fn key_text(key: &Value) -> String {
    match text(key, "kind") {
        "struct" | "array" | "ptr" | "interface" | "float32" | "float64" | "complex64" | "complex128" => {
            String::new()
        }
        _ => key.get("value").or_else(|| key.get("base64")).map(ToString::to_string).unwrap_or_default(),
    }
}

pub(super) fn short_key(key: &Value) -> String {
    key.get("value").map_or_else(|| "…".to_owned(), |value| format!("{value:.40}"))
}

/// A function's name without what names leave open: type arguments, the suffix of a bound method's wrapper.
#[must_use]
pub fn plain_function(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut depth = 0;
    for c in name.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain.strip_suffix("-fm").map(str::to_owned).unwrap_or(plain)
}

/// Spelling of types: linkers of different versions put spaces and package paths of fields differently.
pub(super) fn same_type(a: &str, b: &str) -> bool {
    a == b || canonical_type(a) == canonical_type(b)
}

/// The name without spaces around type arguments and, inside an unnamed struct or interface, without the import path
/// before the names of fields and methods.
pub(super) fn canonical_type(name: &str) -> String {
    let mut canonical = String::with_capacity(name.len());
    let mut braces = 0;
    let mut name_begins = None;
    for c in name.chars() {
        match c {
            '{' => {
                braces += 1;
                canonical.push(c);
                name_begins = Some(canonical.len());
            }
            '}' => {
                braces -= 1;
                canonical.push(c);
                name_begins = None;
            }
            ';' => {
                canonical.push(c);
                name_begins = (braces > 0).then_some(canonical.len());
            }
            ' ' => {
                // The end of a field's name: what is before its last dot is an import path.
                if let Some(begin) = name_begins.filter(|begin| *begin < canonical.len()) {
                    let field = canonical[begin..].rsplit('.').next().unwrap_or_default().to_owned();
                    canonical.truncate(begin);
                    canonical.push_str(&field);
                    canonical.push(':');
                    name_begins = None;
                }
            }
            _ => canonical.push(c),
        }
    }
    canonical
}
