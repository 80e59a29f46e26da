//! The span that a hit belongs to (W3C Trace Context): what the kernel side found in the program's contexts, else what an
//! HTTP request among the variables says of itself.

use std::{fmt::Write as _, mem::offset_of, sync::Arc};

use riptrace_common::{
    abi::{context::Span, program::TYPE_SPAN},
    wire::{
        event::Variable,
        number::Scalar,
        value::{Kind, Value},
    },
};

use super::record::Record;

/// Names a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
    /// It is one of another process: a message brought it here.
    is_remote: bool,
}

impl SpanContext {
    /// `None` for ids that the specification calls invalid: only zeros.
    fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            flags,
            is_remote: false,
        })
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Arc<str> {
        hexadecimal(&self.trace_id).into()
    }

    /// 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> Arc<str> {
        hexadecimal(&self.span_id).into()
    }

    /// It is one of another process: a message brought it here.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// The header, as OpenTelemetry's propagator writes it: version 0, and of the flags only "sampled".
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", hexadecimal(&self.trace_id), hexadecimal(&self.span_id), self.flags & 1)
    }

    /// Reads a header `traceparent` (W3C Trace Context, "traceparent Header Field Values"): any version but ff, whose
    /// first four fields are those of version 0.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let [version] = bytes(fields.next()?)?;
        let (trace_id, span_id) = (bytes(fields.next()?)?, bytes(fields.next()?)?);
        let [flags] = bytes(fields.next()?)?;
        if version == 0xff || (version == 0 && fields.next().is_some()) {
            return None;
        }
        Self::new(trace_id, span_id, flags)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Two lower-case hexadecimal digits a byte.
fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

/// What the kernel side found.
pub(super) fn of_record(record: &Record<'_>) -> Option<SpanContext> {
    let chunk = record.chunks.last().filter(|chunk| chunk.header.type_index == TYPE_SPAN)?;
    let (trace_id, rest) = chunk.data.split_first_chunk()?;
    let (span_id, rest) = rest.split_first_chunk()?;
    let is_remote = *rest.get(offset_of!(Span, remote) - offset_of!(Span, flags))? != 0;
    Some(SpanContext { is_remote, ..SpanContext::new(*trace_id, *span_id, *rest.first()?)? })
}

/// What the first request says whose header was captured.
pub(super) fn of_requests(variables: &[Variable]) -> Option<SpanContext> {
    let requests =
        variables.iter().filter(|variable| variable.value.type_name.as_deref() == Some("*net/http.Request"));
    requests.into_iter().find_map(|variable| {
        let request = variable.value.elem.as_deref()?;
        SpanContext::parse(header(field(request, "Header")?, "Traceparent")?)
    })
}

/// The first value of a key of an `http.Header` (`map[string][]string`), where it was captured whole.
#[must_use]
pub fn header<'v>(header: &'v Value, key: &str) -> Option<&'v str> {
    let entries = header.entries.as_ref().filter(|_| header.kind == Some(Kind::Map))?;
    let (_, values) = entries.iter().find(|(name, _)| text(name) == Some(key))?;
    text(values.elems.as_ref()?.first()?)
}

fn text(value: &Value) -> Option<&str> {
    match &value.value {
        Some(Scalar::Text(text)) if value.truncated.is_none() => Some(text),
        _ => None,
    }
}

fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.fields.as_ref()?.iter().find(|field| &*field.name == name).map(|field| &field.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_are_read_as_the_specification_says() {
        let span = SpanContext::parse(HEADER).unwrap();
        assert_eq!(&*span.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(&*span.span_id(), "00f067aa0ba902b7");
        assert_eq!(span.traceparent(), HEADER);
        let later = HEADER.replacen("00", "cc", 1) + "-what-the-future-brings";
        assert_eq!(SpanContext::parse(&later), Some(span));
    }

    #[test]
    fn what_is_no_header_names_no_span() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(text), None, "{text}");
        }
    }
}
