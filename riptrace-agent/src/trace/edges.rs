//! Built-in tracepoints where messages leave and enter a process: what orders the hits of several hosts.
//!
//! A table of functions of `net/http` and of OpenTelemetry's propagator. The trace context that a message carries (its
//! `traceparent`) names it on both sides. A hit of such a tracepoint has [`Hit::edge`] and no variables.
//!
//! An edge claims that one side's past comes before the other side's future, so a place is fit for it only if the message
//! has certainly not left yet (a send), or has certainly arrived (a receive). A server's answer leaves when its header is
//! written, which may be long before its handler returns; a client has an answer only if the call returned no error.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use riptrace_common::wire::{
    event::{Direction, Edge, Hit, Role, Trigger},
    value::Value,
};

use super::{Image, ParsedExpr, Wanted};
use crate::{
    decode::trace_context::{self, SpanContext},
    plan::{
        CaptureLimits,
        path::{PathExpression, PathStep},
        sites::LocationRequest,
    },
};

/// The header of HTTP that carries a trace context, as `net/http` spells keys.
const TRACEPARENT: &str = "Traceparent";
/// What is captured of a header: its keys and values are short, and few.
const LIMITS: CaptureLimits =
    CaptureLimits { max_depth: 4, max_string: 128, max_items: 64, max_bytes: 16 * 1024 };
/// The error of `roundTrip`, which has no name in some versions of Go.
const SECOND_RESULT: &str = "~r1";
/// Calls whose return is waited for, of all tracepoints; the oldest are forgotten.
const MAX_OPEN: usize = 64 * 1024;

/// A place where messages leave or enter.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// The tracepoint's id.
    pub id: &'static str,
    /// The function, by each name that it has had.
    functions: &'static [&'static str],
    /// What carries the trace context.
    carrier: Carrier,
    /// Which of its calls, beside that they carry one.
    only_if: Option<&'static str>,
    /// What its entry means, and its return.
    entry: Option<Direction>,
    end: Option<Direction>,
    protocol: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// The `http.Header` with this path, and the calls whose second result says whether they failed.
    Header(&'static str),
    /// The context that is an argument.
    Context,
    /// The context that is returned, if what it carries came from another process.
    ReturnedContext,
}

/// All of them.
pub static BUILT_INS: [BuiltIn; 6] = [
    BuiltIn {
        // What `RoundTrip` consists of: that may be inlined, and then nothing tells where it returns.
        id: "builtin.http.client",
        functions: &["net/http.(*Transport).roundTrip"],
        carrier: Carrier::Header("req.Header"),
        only_if: None,
        entry: Some(Direction::Send),
        end: Some(Direction::ReplyReceive),
        protocol: "http",
    },
    BuiltIn {
        id: "builtin.http.server",
        functions: &["net/http.serverHandler.ServeHTTP"],
        carrier: Carrier::Header("req.Header"),
        only_if: None,
        entry: Some(Direction::Receive),
        end: None,
        protocol: "http",
    },
    BuiltIn {
        // It puts the answer's header in front of the first byte; once for each answer of HTTP/1.
        id: "builtin.http.server.reply",
        functions: &["net/http.(*chunkWriter).writeHeader"],
        carrier: Carrier::Header("cw.res.req.Header"),
        only_if: None,
        entry: Some(Direction::ReplySend),
        end: None,
        protocol: "http",
    },
    BuiltIn {
        // Writes a piece of an answer of HTTP/2, the header before the first one.
        id: "builtin.http2.server.reply",
        functions: &[
            "net/http/internal/http2.(*responseWriterState).writeChunk",
            "net/http.(*http2responseWriterState).writeChunk",
        ],
        carrier: Carrier::Header("rws.req.Header"),
        only_if: Some("!rws.sentHeader"),
        entry: Some(Direction::ReplySend),
        end: None,
        protocol: "http",
    },
    BuiltIn {
        id: "builtin.otel.inject",
        functions: &["go.opentelemetry.io/otel/propagation.TraceContext.Inject"],
        carrier: Carrier::Context,
        only_if: None,
        entry: Some(Direction::Send),
        end: None,
        protocol: "otel",
    },
    BuiltIn {
        id: "builtin.otel.extract",
        functions: &["go.opentelemetry.io/otel/propagation.TraceContext.Extract"],
        carrier: Carrier::ReturnedContext,
        only_if: None,
        entry: None,
        end: Some(Direction::Receive),
        protocol: "otel",
    },
];

/// What is to be planned for a binary: those whose function it has. It needs debug data for each.
#[must_use]
pub fn requests(image: &Image) -> Vec<(&'static BuiltIn, Wanted)> {
    let (Some(_), Ok(table)) = (&image.debug, image.executable.pclntab()) else { return Vec::new() };
    let known: HashSet<&str> = BUILT_INS.iter().flat_map(|built_in| built_in.functions).copied().collect();
    let there: HashSet<&str> =
        table.functions().map(|function| function.name()).filter(|name| known.contains(name)).collect();
    BUILT_INS
        .iter()
        .filter_map(|built_in| {
            let function = built_in.functions.iter().find(|function| there.contains(*function))?;
            Some((built_in, built_in.wanted(function)))
        })
        .collect()
}

impl BuiltIn {
    fn wanted(&'static self, function: &str) -> Wanted {
        let path = |variable: &str, steps: Vec<PathStep>| PathExpression {
            text: variable.into(),
            variable: variable.into(),
            steps,
        };
        let (captures, when) = match self.carrier {
            Carrier::Header(header) => {
                let mut names = header.split('.');
                let variable = names.next().unwrap_or_default();
                let steps = names.map(|name| PathStep::Field(name.into())).collect();
                let mut captures = vec![path(variable, steps)];
                if self.end.is_some() {
                    captures.push(path(SECOND_RESULT, Vec::new()));
                }
                // Decided in the kernel: a request without one costs no more than the trap.
                let mut when = format!("len({header}[\"{TRACEPARENT}\"]) > 0");
                if let Some(only_if) = self.only_if {
                    when = format!("{only_if} && {when}");
                }
                (captures, ParsedExpr::parse(&when).ok())
            }
            // The span is looked for in any case.
            Carrier::Context => (vec![path("ctx", Vec::new())], None),
            Carrier::ReturnedContext => (Vec::new(), None),
        };
        let limits = match self.carrier {
            Carrier::Header(_) => LIMITS,
            Carrier::Context | Carrier::ReturnedContext => CaptureLimits { max_depth: 0, ..LIMITS },
        };
        Wanted {
            captures,
            when,
            returns: self.end.is_some(),
            limits,
            edge: Some(self),
            ..Wanted::at(LocationRequest::Function { name: function.to_owned() })
        }
    }
}

/// Makes edges of hits. Remembers what the calls carry that have not returned yet.
#[derive(Debug, Default)]
pub(super) struct Edges {
    open: HashMap<(u32, u64), Arc<str>>,
    /// The keys of `open`, oldest first; some are gone already.
    order: VecDeque<(u32, u64)>,
    /// Edges of each tracepoint.
    seqs: HashMap<u32, u64>,
}

impl Edges {
    /// Makes the hit of a built-in tracepoint (its index among the kernel side's) an edge. False: it is none.
    pub(super) fn apply(
        &mut self,
        built_in: &BuiltIn,
        tracepoint: u32,
        hit: &mut Hit,
        span: Option<SpanContext>,
    ) -> bool {
        let Some((direction, traceparent)) = self.message(built_in, tracepoint, hit, span) else {
            return false;
        };
        if let Some(span) = SpanContext::parse(&traceparent) {
            (hit.trace_id, hit.span_id) = (Some(span.trace_id()), Some(span.span_id()));
        }
        hit.edge = Some(Edge { direction, traceparent, protocol: built_in.protocol.into() });
        hit.variables = Vec::new();
        // Dense among edges, so that a hit that was none is not taken for a lost one.
        let seq = self.seqs.entry(tracepoint).or_default();
        hit.seq = *seq;
        *seq += 1;
        hit.entry_seq = None;
        true
    }

    /// Forgets a tracepoint.
    pub(super) fn forget(&mut self, tracepoint: u32) {
        self.seqs.remove(&tracepoint);
        self.open.retain(|(of, _), _| *of != tracepoint);
        self.order.retain(|(of, _)| *of != tracepoint);
    }

    fn message(
        &mut self,
        built_in: &BuiltIn,
        tracepoint: u32,
        hit: &Hit,
        span: Option<SpanContext>,
    ) -> Option<(Direction, Arc<str>)> {
        let at_entry = match hit.event {
            Trigger::Entry => true,
            Trigger::Return => false,
            Trigger::Line | Trigger::Panic | Trigger::Goexit => return None,
        };
        match (built_in.carrier, at_entry) {
            (Carrier::Header(_), true) => {
                let header = &hit.variables.first()?.value;
                let traceparent: Arc<str> = trace_context::header(header, TRACEPARENT)?.into();
                SpanContext::parse(&traceparent)?;
                if built_in.end.is_some() {
                    self.opened((tracepoint, hit.seq), Arc::clone(&traceparent));
                }
                Some((built_in.entry?, traceparent))
            }
            (Carrier::Header(_), false) => {
                let traceparent = self.open.remove(&(tracepoint, hit.entry_seq?))?;
                let error = hit.variables.iter().find(|variable| variable.role == Role::Return)?;
                is_nil(&error.value).then_some((built_in.end?, traceparent))
            }
            (Carrier::Context, true) => Some((built_in.entry?, span?.traceparent().into())),
            (Carrier::ReturnedContext, false) => {
                let span = span.filter(SpanContext::is_remote)?;
                Some((built_in.end?, span.traceparent().into()))
            }
            (Carrier::Context, false) | (Carrier::ReturnedContext, true) => None,
        }
    }

    fn opened(&mut self, call: (u32, u64), traceparent: Arc<str>) {
        if self.order.len() >= MAX_OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.order.push_back(call);
        self.open.insert(call, traceparent);
    }
}

fn is_nil(value: &Value) -> bool {
    value.nil && value.unavailable.is_none()
}

#[cfg(test)]
mod tests;
