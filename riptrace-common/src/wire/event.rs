//! The lines of a stream of hits: what `riptrace probe --json` prints, one object a line.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    batch::PreviousRun,
    number::Address,
    value::{Unavailable, Value},
};

/// One line of the stream. It is read fastest when its `kind` stands first, as [`Serialize`] writes it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A tracepoint was armed.
    Attached(Attached),
    /// A line was executed.
    Hit(Box<Hit>),
    /// The counters of a tracepoint.
    Stats(Stats),
    /// A tracepoint was disarmed.
    Detached(Detached),
    /// A tracepoint costs more than the budget allows, and captures less from now on.
    Budget(BudgetStep),
    /// A tracepoint's sites are others from now on.
    Moved(Moved),
    /// Something failed; the stream goes on unless it says otherwise.
    Error(ErrorEvent),
    /// What an earlier run of the agent counted, which ended without a word.
    PreviousRun(PreviousRun),
    /// One of a kind that this program does not know: of a newer one. It is read, and never written.
    #[serde(skip)]
    Unknown,
}

/// The derived form would keep all fields of each event in a tree of its own before it looks at them: three times the work
/// of reading a hit.
impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventKind {
    Attached,
    Hit,
    Stats,
    Detached,
    Budget,
    Moved,
    Error,
    PreviousRun,
    #[serde(other)]
    Unknown,
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event, an object with a `kind`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Event, A::Error> {
        let mut before = serde_json::Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key != "kind" {
                before.insert(key, fields.next_value()?);
                continue;
            }
            let kind = fields.next_value()?;
            if before.is_empty() {
                return of_kind(kind, MapAccessDeserializer::new(fields));
            }
            while let Some((key, value)) = fields.next_entry()? {
                before.insert(key, value);
            }
            return of_kind(kind, serde_json::Value::Object(before)).map_err(de::Error::custom);
        }
        Err(de::Error::missing_field("kind"))
    }
}

fn of_kind<'de, D: Deserializer<'de>>(kind: EventKind, fields: D) -> Result<Event, D::Error> {
    Ok(match kind {
        EventKind::Attached => Event::Attached(Deserialize::deserialize(fields)?),
        EventKind::Hit => Event::Hit(Deserialize::deserialize(fields)?),
        EventKind::Stats => Event::Stats(Deserialize::deserialize(fields)?),
        EventKind::Detached => Event::Detached(Deserialize::deserialize(fields)?),
        EventKind::Budget => Event::Budget(Deserialize::deserialize(fields)?),
        EventKind::Moved => Event::Moved(Deserialize::deserialize(fields)?),
        EventKind::Error => Event::Error(Deserialize::deserialize(fields)?),
        EventKind::PreviousRun => Event::PreviousRun(Deserialize::deserialize(fields)?),
        EventKind::Unknown => {
            de::IgnoredAny::deserialize(fields)?;
            Event::Unknown
        }
    })
}

/// What made a hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A line was reached.
    #[default]
    Line,
    /// A function was entered.
    Entry,
    /// A function returned.
    Return,
    /// A function was left by a panic.
    Panic,
    /// A function was left because its goroutine ended by `runtime.Goexit`.
    Goexit,
}

impl Trigger {
    fn is_line(&self) -> bool {
        *self == Self::Line
    }
}

/// What a variable is in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A parameter.
    Argument,
    /// The method's receiver.
    Receiver,
    /// A local variable.
    Local,
    /// A variable of the enclosing function that a closure captured.
    Captured,
    /// A result.
    Return,
    /// A package variable.
    Global,
    /// The value of an expression that was asked for.
    Expression,
    /// A raw argument register of a function without debug data.
    Register,
}

/// One execution of a traced line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// The session; absent outside a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<str>>,
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// Place among this tracepoint's hits: dense, a gap is a loss.
    pub seq: u64,
    /// Host name.
    pub host: Arc<str>,
    /// `/proc/sys/kernel/random/boot_id`: names the kernel's monotonic clock.
    pub boot_id: Arc<str>,
    /// One run of an agent or of `riptrace probe`.
    pub agent: Arc<str>,
    /// Process id.
    pub pid: u32,
    /// Start of the process on the kernel's boot clock, in nanoseconds; tells processes with the same pid apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_start_ns: Option<u64>,
    /// Thread id.
    pub tid: u32,
    /// Process name, as `riptrace ps` prints it.
    pub process: Arc<str>,
    /// Build id of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<Arc<str>>,
    /// Container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<str>>,
    /// Goroutine id; null where there is none or it could not be told.
    pub goroutine: Option<u64>,
    /// Goroutine that created it, where Go keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_goroutine: Option<u64>,
    /// The hit was on the thread's system stack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system_stack: bool,
    /// The `go` statement that started it, where Go keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Frame>,
    /// RFC 3339 in UTC with nanoseconds: the coordinated time; outside a fleet the host's own clock.
    pub time: String,
    /// The same as nanoseconds since 1970.
    pub time_ns: u64,
    /// How far the coordinated time may be off, either way; absent outside a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_ns: Option<u64>,
    /// Counts steps and restarts of clocks: coordinated times of one host's different epochs can't be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_epoch: Option<u64>,
    /// The kernel's monotonic clock in nanoseconds.
    pub ktime_ns: u64,
    /// CPU.
    pub cpu: u32,
    /// Records of this CPU before this one.
    pub cpu_seq: u64,
    /// Where.
    pub location: Location,
    /// Why.
    pub event: Trigger,
    /// How long the call took that ends here, if its entry was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<u64>,
    /// `seq` of the call's entry, if it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_seq: Option<u64>,
    /// What the line saw.
    pub variables: Vec<Variable>,
    /// The trace (W3C Trace Context, 32 hexadecimal digits) that the hit is part of, as far as its variables, or a message
    /// that its goroutine is handling, say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Arc<str>>,
    /// The span (16 hexadecimal digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<Arc<str>>,
    /// The hit is one of a built-in tracepoint: a message leaves or enters the process here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<Edge>,
    /// The text of `--message`, with the values of this hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The call stack, the hit's own frame first; absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Vec<Frame>>,
    /// The stack goes on behind its last frame here: a limit was reached, or C called Go there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stack_truncated: bool,
    /// The stack is missing: its frames were sent with an earlier hit and are not kept any more. The next hit with the same
    /// stack has it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stack_unavailable: bool,
    /// Place in the session's order; the server adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// Why the hit stands behind the one before it in the order; the server adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// It came when the order around it was final already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// A message that leaves or enters a process, named by its trace context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Edge {
    /// Which way.
    pub direction: Direction,
    /// The `traceparent` that it carries: the same text on both sides.
    pub traceparent: Arc<str>,
    /// How it is carried: `http`, `grpc`, `nats`.
    pub protocol: Arc<str>,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It leaves.
    Send,
    /// It enters.
    Receive,
    /// Its answer leaves.
    ReplySend,
    /// Its answer enters.
    ReplyReceive,
}

/// Why one hit stands before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// The same goroutine reached them in this order.
    SameGoroutine,
    /// The first one's goroutine started the second one's after it.
    GoroutineStart,
    /// The clock of their host's kernel says so.
    SameHost,
    /// A message was sent after the first and received before the second.
    Message,
    /// The answer to a message was.
    Reply,
    /// Their times differ by more than both clocks' uncertainty.
    Clock,
    /// Nothing proves it; times that can't be told apart are in this order.
    Ambiguous,
}

/// A place in the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    /// Source file, as the binary names it.
    pub file: Arc<str>,
    /// Line.
    pub line: u32,
    /// Function whose source the line is in.
    pub function: Arc<str>,
    /// Link-time address of the armed instruction.
    pub pc: Address,
    /// The function whose code holds it, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inlined_into: Option<Arc<str>>,
}

/// A variable with what was read of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Name, or the text of the expression.
    pub name: Arc<str>,
    /// What it is.
    pub role: Role,
    /// Its value.
    pub value: Value,
}

/// One frame of a call stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Function.
    pub function: Arc<str>,
    /// Source file.
    pub file: Arc<str>,
    /// Line.
    pub line: u32,
    /// Link-time program counter.
    pub pc: Address,
    /// The frame has no code of its own: it was inlined into the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

/// A tracepoint is armed: where, and what can be read there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attached {
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// The location as it was asked for.
    pub requested: String,
    /// The executable.
    pub executable: String,
    /// Which rules say what is not copied: `defaults`, `options` and `file`, joined by `+`; `off`.
    pub redaction: Arc<str>,
    /// Every armed address.
    pub sites: Vec<SiteInfo>,
    /// What the user should know (missing debug data, lines that moved).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One armed address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SiteInfo {
    /// Where.
    pub location: Location,
    /// What a hit there means; absent: a line.
    #[serde(default, skip_serializing_if = "Trigger::is_line")]
    pub event: Trigger,
    /// The instruction there.
    pub instruction: String,
    /// The kernel emulates the instruction: a hit costs one trap, not two.
    pub fast: bool,
    /// Link-time address of the line's own first instruction, where another one is armed: it runs exactly when that one
    /// runs, and shows the values that the variables have there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Address>,
    /// Why this instruction, in words.
    #[serde(default = "no_text", skip_serializing_if = "str::is_empty")]
    pub choice: Arc<str>,
    /// The variables, and why some can't be read.
    pub variables: Vec<VariableInfo>,
}

fn no_text() -> Arc<str> {
    Arc::from("")
}

/// A variable at a site, before any hit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariableInfo {
    /// Name.
    pub name: Arc<str>,
    /// What it is.
    pub role: Role,
    /// Type.
    #[serde(rename = "type")]
    pub type_name: Arc<str>,
    /// Where it is (`rax`, `sp+40`, `heap through sp+16`, pieces).
    pub place: String,
    /// Why it can't be read, or not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
}

/// The counters of a tracepoint: `hits = emitted + filtered + throttled + dropped + failed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// Times that the line was reached while armed.
    pub hits: u64,
    /// Records handed over.
    pub emitted: u64,
    /// Another process, or a condition that did not hold.
    pub filtered: u64,
    /// Past the rate or the limit.
    pub throttled: u64,
    /// No room for the record.
    pub dropped: u64,
    /// The capture could not be made.
    pub failed: u64,
    /// Traps that were no hits: the branch that leads to the line was armed, and went its other way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passed: u64,
    /// Emitted records that could not be decoded (each also gave an `error` line).
    pub undecodable: u64,
    /// Hits with `stack_unavailable`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stacks_unavailable: u64,
    /// Of the calls whose entry was emitted, those whose end was not seen (yet). Absent unless returns are traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_calls: Option<u64>,
    /// Of the calls whose entry was emitted, those that were forgotten because too many were open; their ends are
    /// `filtered`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_given_up: Option<u64>,
    /// Mean time that the kernel side ran for a hit, the trap itself not included, in nanoseconds.
    pub mean_run_ns: u64,
    /// What a trap costs at the tracepoint's sites, measured on this machine when it was armed (where sites differ, the
    /// dearest); 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trap_ns: u64,
    /// The cost of a captured hit, trap included, that 99 of 100 stay below; 0: none was captured.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub p99_cost_ns: u64,
    /// What all hits cost, traps included, as a share of one core over the tracepoint's time.
    #[serde(default)]
    pub share_of_core: f64,
    /// In a dry run: throttled hits that would have been captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_capture: Option<u64>,
    /// In a dry run: what a captured hit is estimated to cost, trap included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_cost_ns: Option<u64>,
    /// Seconds from armed to disarmed.
    pub seconds: f64,
}

impl Stats {
    /// Adds the counters of another tracepoint that was armed at the same time: those of both as if they were one.
    pub fn add(&mut self, other: &Self) {
        let run_ns = self
            .mean_run_ns
            .saturating_mul(self.hits)
            .saturating_add(other.mean_run_ns.saturating_mul(other.hits));
        self.hits += other.hits;
        self.emitted += other.emitted;
        self.filtered += other.filtered;
        self.throttled += other.throttled;
        self.dropped += other.dropped;
        self.failed += other.failed;
        self.passed += other.passed;
        self.undecodable += other.undecodable;
        self.stacks_unavailable += other.stacks_unavailable;
        self.open_calls = sum(self.open_calls, other.open_calls);
        self.calls_given_up = sum(self.calls_given_up, other.calls_given_up);
        self.mean_run_ns = run_ns.checked_div(self.hits).unwrap_or(0);
        self.trap_ns = self.trap_ns.max(other.trap_ns);
        self.p99_cost_ns = self.p99_cost_ns.max(other.p99_cost_ns);
        self.share_of_core += other.share_of_core;
        self.would_capture = sum(self.would_capture, other.would_capture);
        self.estimated_cost_ns = self.estimated_cost_ns.max(other.estimated_cost_ns);
        self.seconds = self.seconds.max(other.seconds);
    }
}

fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.or(other).map(|_| one.unwrap_or_default() + other.unwrap_or_default())
}

/// Why a tracepoint was disarmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DetachReason {
    /// `--limit` was reached.
    Limit,
    /// `--timeout` or the time to live ended.
    Ttl,
    /// It cost more than it may.
    Budget,
    /// Every process ended.
    ProcessExited,
    /// The user ended it.
    Removed,
    /// Something failed.
    Error,
}

/// A tracepoint costs more than the budget allows, and captures less from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetStep {
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// What it does from now on.
    pub step: BudgetAction,
    /// Its hits a second when this was decided.
    pub hits_per_second: f64,
    /// Mean cost of one of them, trap included, in nanoseconds.
    pub mean_cost_ns: u64,
    /// What all tracepoints together took of one core at that rate.
    pub share_of_core: f64,
    /// What they may take.
    pub budget: f64,
}

/// A step of the ladder on which cost goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetAction {
    /// Arguments and receiver only, no stack.
    ArgumentsOnly,
    /// Hits are counted, nothing is captured.
    CountOnly,
    /// Disarmed.
    Detach,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A tracepoint was armed at the branch that leads to its line, and the branch mostly went its other way. From now on the
/// line's own instruction is armed. Of an execution that was between the two at that moment, both gave a hit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// How often a second the branch went its other way, lately.
    pub passed_per_second: f64,
    /// How often a second it led to the line.
    pub hits_per_second: f64,
    /// What is armed now.
    pub sites: Vec<SiteInfo>,
}

/// A tracepoint is disarmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Detached {
    /// The tracepoint.
    pub tracepoint: Arc<str>,
    /// Why.
    pub reason: DetachReason,
}

/// Something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorEvent {
    /// The tracepoint, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracepoint: Option<Arc<str>>,
    /// What was asked, why it failed, what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_wherever_its_kind_stands() {
        let expect = Event::Detached(Detached { tracepoint: Arc::from("t"), reason: DetachReason::Limit });
        for text in [
            r#"{"kind":"detached","tracepoint":"t","reason":"limit"}"#,
            r#"{"tracepoint":"t","later":[1],"kind":"detached","reason":"limit"}"#,
            r#"{"later":{"kind":"x"},"reason":"limit","tracepoint":"t","kind":"detached"}"#,
        ] {
            assert_eq!(serde_json::from_str::<Event>(text).unwrap(), expect, "{text}");
        }
        for text in [r#"{"kind":"unheard","x":[{}]}"#, r#"{"x":{"y":1},"kind":"unheard"}"#] {
            assert_eq!(serde_json::from_str::<Event>(text).unwrap(), Event::Unknown, "{text}");
        }
        for (text, expect) in [
            (r#"{"tracepoint":"t","reason":"limit"}"#, "missing field `kind`"),
            (r#"{"kind":"detached","tracepoint":"t"}"#, "missing field `reason`"),
            (r#"{"tracepoint":"t","kind":"detached"}"#, "missing field `reason`"),
            (r#"[]"#, "expected an event"),
        ] {
            let error = serde_json::from_str::<Event>(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
