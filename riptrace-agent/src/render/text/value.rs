//! A value as Delve prints it: `*main.Order {ID: 7, Name: "widget", Items: []string len: 3, cap: 3, ["a","bb","ccc"]}`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use riptrace_common::wire::{
    number::{Float, Scalar},
    value::{Field, Kind, Limit, Truncated, Unavailable, Value},
};

use super::escape::{plain, quote, quote_bytes};

/// A value with its type, on one line.
#[must_use]
pub fn value(value: &Value) -> String {
    let mut printer = Printer { out: String::with_capacity(128) };
    printer.value(value, Types::Shown);
    printer.out
}

/// Whether a value's type is written: elements of a container leave it to the container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    Shown,
    Implied,
}

struct Printer {
    out: String,
}

/// What stands for a value, or the part of one, that is not there.
pub fn reason(reason: Unavailable) -> &'static str {
    match reason {
        Unavailable::OptimizedOut => "optimized out",
        Unavailable::Fault => "unreadable memory",
        Unavailable::RegisterFloat => "in a floating-point register",
        Unavailable::NotInitialized => "not initialized",
        Unavailable::Budget => "past the capture's budget",
        Unavailable::Redacted => "redacted",
        Unavailable::BadDebugInfo => "bad debug info",
        Unavailable::UnknownType => "unknown type",
        Unavailable::EntryNotSeen => "the call's entry was not seen",
    }
}

fn limit(by: Limit) -> &'static str {
    match by {
        Limit::MaxString => "max string",
        Limit::MaxItems => "max items",
        Limit::MaxDepth => "max depth",
        Limit::MaxBytes => "max bytes",
    }
}

impl Printer {
    // Writing to a string can't fail, so the results of `write!` carry nothing.

    fn value(&mut self, value: &Value, types: Types) {
        self.content(value, types);
        if value.torn {
            self.out.push_str(" (torn)");
        }
    }

    fn content(&mut self, value: &Value, types: Types) {
        if !has_content(value) {
            self.without_content(value, types);
            return;
        }
        let kind = value.kind.unwrap_or(Kind::Invalid);
        if let Some(display) = &value.display
            && kind != Kind::Chan
        {
            self.display(value, display, types);
            return;
        }
        match kind {
            Kind::String => self.string(value),
            Kind::Slice => {
                if types == Types::Shown {
                    let _ = write!(
                        self.out,
                        "{} len: {}, cap: {}, ",
                        name(value),
                        number(value.len),
                        number(value.cap)
                    );
                }
                self.elements(value);
            }
            Kind::Array => {
                self.type_name(value, types);
                self.elements(value);
            }
            Kind::Struct => {
                self.type_name(value, types);
                self.fields(value.fields.as_deref().unwrap_or_default(), value.truncated);
            }
            Kind::Map => {
                self.type_name(value, types);
                self.entries(value);
            }
            Kind::Pointer => self.pointer(value, types),
            Kind::Interface => self.interface(value),
            Kind::Chan => {
                let _ = write!(self.out, "{} {}/{}", name(value), number(value.len), number(value.cap));
                if value.elems.as_ref().is_some_and(|elems| !elems.is_empty()) || value.truncated.is_some() {
                    self.out.push(' ');
                    self.elements(value);
                }
                if let Some(state) = &value.display {
                    let _ = write!(self.out, " ({})", plain(state));
                }
            }
            Kind::Func => self.func(value),
            Kind::UnsafePointer => {
                let _ = write!(self.out, "{}({})", name(value), value.addr.unwrap_or_default());
            }
            _ => match &value.value {
                Some(scalar) => self.scalar(scalar),
                None => self.out.push('?'),
            },
        }
        if let Some(unavailable) = value.unavailable {
            let _ = write!(self.out, " ({})", reason(unavailable));
        }
    }

    /// A nil, or a value of which nothing was captured.
    fn without_content(&mut self, value: &Value, types: Types) {
        if let Some(unavailable) = value.unavailable {
            match value.addr {
                Some(address) => {
                    let _ = write!(self.out, "({})({address}) ({})", name(value), reason(unavailable));
                }
                None => {
                    let _ = write!(self.out, "({})", reason(unavailable));
                }
            }
            return;
        }
        if value.nil {
            if types == Types::Shown {
                match value.kind {
                    Some(Kind::Slice) => {
                        let _ = write!(self.out, "{} len: 0, cap: 0, ", name(value));
                    }
                    _ => self.type_name(value, types),
                }
            }
            self.out.push_str("nil");
            return;
        }
        match (value.addr, value.len) {
            (Some(address), _) => {
                let _ = write!(self.out, "({})({address})", name(value));
            }
            (None, Some(len)) => {
                let _ = write!(self.out, "{} len: {len}", name(value));
            }
            (None, None) => self.out.push_str(&name(value)),
        }
        if value.cycle {
            self.out.push_str(" (shown before)");
        } else if let Some(truncated) = value.truncated {
            let _ = write!(self.out, " … ({})", limit(truncated.by));
        }
    }

    fn type_name(&mut self, value: &Value, types: Types) {
        if types == Types::Shown {
            let _ = write!(self.out, "{} ", name(value));
        }
    }

    fn display(&mut self, value: &Value, display: &str, types: Types) {
        let text = plain(display);
        match value.kind {
            Some(Kind::Interface) => {
                let held = value.elem.as_deref().map(name).unwrap_or_default();
                let _ = write!(self.out, "{}({held}) {text}", name(value));
            }
            Some(
                Kind::Int
                | Kind::Int8
                | Kind::Int16
                | Kind::Int32
                | Kind::Int64
                | Kind::Uint
                | Kind::Uint8
                | Kind::Uint16
                | Kind::Uint32
                | Kind::Uint64
                | Kind::Uintptr
                | Kind::String
                | Kind::Bool,
            ) => self.out.push_str(&text),
            _ if types == Types::Implied => self.out.push_str(&text),
            _ => {
                let _ = write!(self.out, "{}({text})", name(value));
            }
        }
    }

    fn string(&mut self, value: &Value) {
        match (&value.value, &value.base64) {
            (Some(Scalar::Text(text)), _) => self.out.push_str(&quote(text)),
            (_, Some(base64)) => self.bytes(base64),
            _ => self.out.push_str("\"\""),
        }
        self.more(value);
    }

    fn bytes(&mut self, base64: &str) {
        match BASE64.decode(base64) {
            Ok(bytes) => self.out.push_str(&quote_bytes(&bytes)),
            Err(_) => self.out.push_str(&quote(base64)),
        }
    }

    /// `…+12 more` behind what a limit cut.
    fn more(&mut self, value: &Value) {
        if let Some(truncated) = value.truncated {
            let more = value.len.unwrap_or(0).saturating_sub(truncated.captured);
            let _ = write!(self.out, "…+{more} more");
        }
    }

    fn elements(&mut self, value: &Value) {
        if let Some(base64) = &value.base64 {
            self.bytes(base64);
            self.more(value);
            return;
        }
        self.out.push('[');
        let mut separator = "";
        for element in value.elems.iter().flatten() {
            self.out.push_str(separator);
            self.value(element, Types::Implied);
            separator = ",";
        }
        if value.truncated.is_some() {
            self.out.push_str(separator);
            self.more(value);
        }
        self.out.push(']');
    }

    fn entries(&mut self, value: &Value) {
        self.out.push('[');
        let mut separator = "";
        for (key, element) in value.entries.iter().flatten() {
            self.out.push_str(separator);
            self.value(key, Types::Implied);
            self.out.push_str(": ");
            self.value(element, Types::Implied);
            separator = ", ";
        }
        if value.truncated.is_some() {
            self.out.push_str(separator);
            self.more(value);
        }
        self.out.push(']');
    }

    fn fields(&mut self, fields: &[Field], truncated: Option<Truncated>) {
        self.out.push('{');
        let mut separator = "";
        for field in fields {
            let _ = write!(self.out, "{separator}{}: ", plain(&field.name));
            self.value(&field.value, Types::Shown);
            separator = ", ";
        }
        if truncated.is_some() {
            let _ = write!(self.out, "{separator}…");
        }
        self.out.push('}');
    }

    fn pointer(&mut self, value: &Value, types: Types) {
        match &value.elem {
            Some(elem) => {
                self.out.push('*');
                self.value(elem, types);
            }
            None => {
                let _ = write!(self.out, "({})({})", name(value), value.addr.unwrap_or_default());
            }
        }
    }

    fn interface(&mut self, value: &Value) {
        match &value.elem {
            Some(elem) => {
                let _ = write!(self.out, "{}({}) ", name(value), name(elem));
                self.value(elem, Types::Implied);
            }
            None => self.out.push_str(&name(value)),
        }
    }

    fn func(&mut self, value: &Value) {
        match (&value.function, value.addr) {
            (Some(function), _) => self.out.push_str(&plain(function)),
            (None, Some(address)) => {
                let _ = write!(self.out, "({})({address})", name(value));
            }
            (None, None) => self.out.push_str(&name(value)),
        }
        if let Some(captures) = &value.captures {
            self.out.push(' ');
            self.fields(captures, None);
        }
    }

    fn scalar(&mut self, scalar: &Scalar) {
        let _ = match scalar {
            Scalar::Bool(v) => write!(self.out, "{v}"),
            Scalar::Int(v) => write!(self.out, "{v}"),
            Scalar::Uint(v) => write!(self.out, "{v}"),
            Scalar::Float(v) => write!(self.out, "{}", float(*v)),
            Scalar::Complex(re, im) => write!(self.out, "({} + {}i)", float(*re), float(*im)),
            // A number that JSON carries as a string, read back.
            Scalar::Text(v) => write!(self.out, "{}", plain(v)),
        };
    }
}

fn has_content(value: &Value) -> bool {
    value.value.is_some()
        || value.base64.is_some()
        || value.elems.is_some()
        || value.fields.is_some()
        || value.entries.is_some()
        || value.elem.is_some()
        || value.function.is_some()
        || value.captures.is_some()
        || value.display.is_some()
        || (value.kind == Some(Kind::Chan) && value.len.is_some())
        || (value.kind == Some(Kind::UnsafePointer) && value.addr.is_some())
}

fn name(value: &Value) -> String {
    value.type_name.as_deref().map(plain).unwrap_or_default()
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// As Go prints it with `%v`: the shortest form, with an exponent from 1e21 on and below 1e-4.
fn float(number: Float) -> String {
    let wide = number.as_f64();
    if wide.is_nan() {
        return "NaN".to_owned();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = wide.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = match number {
            Float::F32(v) => format!("{v:e}"),
            Float::F64(v) => format!("{v:e}"),
        };
        let Some((digits, exponent)) = text.split_once('e') else { return text };
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    match number {
        Float::F32(v) => v.to_string(),
        Float::F64(v) => v.to_string(),
    }
}
