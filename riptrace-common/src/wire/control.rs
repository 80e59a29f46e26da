//! What a server (or another client) asks of an agent, and what it answers.

use std::hash::{Hash, Hasher};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    event::{SiteInfo, Stats, VariableInfo},
    profile::{GoProcess, ServiceRule},
};
use crate::id::{Owner, SessionId, TracepointId};

/// Which processes are meant. What is given must hold, all of it; with nothing given, every Go process is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// A process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// A service, by [`super::profile::GoProcess::service`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A process's name, as `riptrace ps` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The executable's path in the process's own view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// A build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The main module's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The main module's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// A container, by its id or the beginning of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// A pod, by its unique id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl Target {
    /// Whether a process is meant.
    #[must_use]
    pub fn matches(&self, process: &GoProcess) -> bool {
        self.matches_as(process, &process.service)
    }

    /// The same, where something else than the process says which service it is of.
    #[must_use]
    pub fn matches_as(&self, process: &GoProcess, its_service: &str) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        let has = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || (wanted == has);
        let Self { pid, service, name, exe, build_id, module, module_version, container, pod } = self;
        pid.is_none_or(|pid| pid == process.pid)
            && is(service, its_service)
            && is(name, &process.name)
            && is(exe, &process.exe)
            && has(build_id, &process.build_id)
            && has(module, &process.module)
            && has(module_version, &process.module_version)
            && has(pod, &process.pod)
            && container.as_ref().is_none_or(|wanted| {
                !wanted.is_empty()
                    && process.container.as_ref().is_some_and(|id| id.starts_with(wanted.as_str()))
            })
    }
}

/// What is captured of a hit, and of how many: the options of `riptrace probe`. Of a condition, an expression or a
/// template the text is sent; the agent's side is the one that knows the types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TraceOptions {
    /// Only hits for which this holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Only these expressions; none: every variable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<String>,
    /// A line of text for each hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The function's returns too.
    #[serde(rename = "return")]
    pub returns: bool,
    /// Frames of the call stack; 0: none.
    pub stack: u32,
    /// Levels of pointers that are followed.
    pub depth: u32,
    /// Bytes of a string.
    pub max_string: u32,
    /// Elements of an array, slice, map or channel.
    pub max_items: u32,
    /// Bytes of a hit.
    pub max_bytes: u32,
    /// Hits of each second on each host at the most; 0: no limit.
    pub rate: u32,
    /// The share of the hits that is captured, 0 to 1.
    pub sample: f64,
    /// Hits on each host at the most; 0: no limit.
    pub limit: u64,
    /// Hits are counted and priced, nothing is captured.
    pub dry_run: bool,
    /// The package variables of the location's package too.
    pub globals: bool,
    /// The line's first instruction is armed, not the cheapest one that shows the same.
    pub at_line_start: bool,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            when: None,
            capture: Vec::new(),
            message: None,
            returns: false,
            stack: 0,
            depth: 4,
            max_string: 256,
            max_items: 64,
            max_bytes: 65_536,
            rate: 1000,
            sample: 1.0,
            limit: 0,
            dry_run: false,
            globals: false,
            at_line_start: false,
        }
    }
}

/// A tracepoint, as an agent is asked to hold it. Asking for it again is no error; asking for another one with the same
/// id replaces it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TracepointSpec {
    /// Its name; the same on every host.
    pub id: TracepointId,
    /// Counts changes of it.
    #[serde(default)]
    pub revision: u64,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Whose it is.
    #[serde(default = "client")]
    pub owner: Owner,
    /// Which processes.
    #[serde(default)]
    pub target: Target,
    /// Rules by which `target.service` is decided before what a process says of itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_rules: Vec<ServiceRule>,
    /// Where: `file.go:LINE`, a function, a method, `*ADDRESS`.
    pub location: String,
    /// Where it was on the build for which it was made, so that it can follow an unchanged statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What is captured.
    #[serde(default)]
    pub options: TraceOptions,
    /// Seconds until it is removed by the agent itself; 0: an hour.
    #[serde(default)]
    pub ttl_seconds: u64,
}

impl TracepointSpec {
    /// Whether a process is meant.
    #[must_use]
    pub fn matches(&self, process: &GoProcess) -> bool {
        self.target.matches_as(process, ServiceRule::service_of(&self.service_rules, process))
    }
}

fn client() -> Owner {
    Owner::from("client")
}

/// A tracepoint's place on the build for which it was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The build.
    pub build_id: String,
    /// Its `vcs.revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The function that the line is in.
    pub function: String,
    /// Lines from the function's first line to the statement.
    pub line_offset: u32,
    /// The statement's text, without white space at its ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

/// What a set of tracepoints is, in one number: the same for the same ids and revisions in whatever order. A server
/// compares the number in a heartbeat with that of what should be there. It has 53 bits, so that every JSON reader gets it
/// exactly: the sum of one hash for each pair ([`Fnv`] over the id, a zero byte, and the revision as 8 little-endian
/// bytes), modulo 2⁵³.
#[must_use]
pub fn generation<'a>(held: impl IntoIterator<Item = (&'a TracepointId, u64)>) -> u64 {
    let sum = held.into_iter().fold(0_u64, |sum, (id, revision)| {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        hasher.write(id.as_str().as_bytes());
        hasher.write(&[0]);
        hasher.write(&revision.to_le_bytes());
        sum.wrapping_add(hasher.finish())
    });
    sum & ((1 << 53) - 1)
}

/// FNV-1a with 64 bits, followed by a mixing step (`splitmix64`): the same number on every machine and version, which
/// the standard library's hashers do not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Asks for a tracepoint ([`super::subject::Endpoint::CreateTracepoint`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateTracepoint {
    /// Which.
    #[serde(flatten)]
    pub spec: TracepointSpec,
}

/// What became of a tracepoint on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TracepointStatus {
    /// Hits are recorded on every process that matches.
    Armed,
    /// On some, and not on others.
    Partial,
    /// No process matches yet; one that starts later will be traced.
    Waiting,
    /// A binary is being indexed.
    Indexing,
    /// The build that runs does not have the statement: nothing is armed.
    Stale,
    /// Nowhere, and it says why.
    Failed,
    /// It ended: its limit, its time to live, its budget.
    Ended,
}

/// A tracepoint on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TracepointState {
    /// Which.
    pub id: TracepointId,
    /// Which change of it.
    #[serde(default)]
    pub revision: u64,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Whose it is.
    pub owner: Owner,
    /// What became of it.
    pub status: TracepointStatus,
    /// One entry for each build on which it is armed.
    #[serde(default)]
    pub bindings: Vec<Binding>,
    /// Where it could not be armed.
    #[serde(default)]
    pub failures: Vec<BindFailure>,
    /// Its counters, all bindings together.
    #[serde(default)]
    pub stats: Stats,
    /// Seconds until the agent removes it.
    #[serde(default)]
    pub expires_in_seconds: u64,
    /// What it is on the build for which it was made: what it follows to other builds. Where nobody said it, that is the
    /// first build on which it was armed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A tracepoint on one build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// The executable.
    pub executable: String,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The processes.
    pub pids: Vec<u32>,
    /// The location on this build, where it is not the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
    /// Every armed address, with the variables that are readable there and why others are not.
    pub sites: Vec<SiteInfo>,
    /// What the user should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A process, or a build, on which a tracepoint could not be armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindFailure {
    /// The executable.
    pub executable: String,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The processes.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// It is not a failure of the location: the build does not have the statement any more.
    #[serde(default)]
    pub stale: bool,
    /// Why, and what to do.
    pub reason: String,
}

/// Which tracepoints are to be removed: those for which all that is given holds. Nothing given: all of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoveTracepoints {
    /// One.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TracepointId>,
    /// All of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// All of an owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// Their last states, with their final counters.
    pub tracepoints: Vec<TracepointState>,
}

/// Asks what a host holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListTracepoints {
    /// Only those of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// What a host holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TracepointList {
    /// Each tracepoint.
    pub tracepoints: Vec<TracepointState>,
}

/// Asks to make processes ready, or to forget them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachRequest {
    /// Which.
    #[serde(default)]
    pub target: Target,
}

/// Processes that are ready, each build once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachReply {
    /// The builds.
    pub builds: Vec<BuildState>,
}

/// A build on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildState {
    /// The executable.
    pub executable: String,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The processes that run it.
    pub pids: Vec<u32>,
    /// Its debug data is indexed.
    pub ready: bool,
    /// Packages with functions; source files with lines.
    #[serde(default)]
    pub functions: u64,
    /// Source files.
    #[serde(default)]
    pub files: Vec<String>,
    /// Why it is not ready, or what it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Asks which lines of a file can carry a tracepoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinesRequest {
    /// Of which program: the first build that matches and has the file.
    #[serde(default)]
    pub target: Target,
    /// The file, or the end of its path.
    pub file: String,
    /// Only these lines, the last one included; the variables are told only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[u32; 2]>,
}

/// Lines of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinesReply {
    /// The file, as the binary names it.
    pub file: String,
    /// The executable.
    pub executable: String,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The lines with code.
    pub lines: Vec<Line>,
}

/// A line that can carry a tracepoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// The line.
    pub line: u32,
    /// The functions whose source it is in.
    #[serde(default)]
    pub functions: Vec<String>,
    /// Addresses that would be armed.
    #[serde(default)]
    pub sites: u32,
    /// All of them cost one trap, not two.
    #[serde(default)]
    pub fast: bool,
    /// The variables, and why some can't be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<VariableInfo>,
    /// Why nothing can be armed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Line {
    /// A line of which nothing else is told.
    #[must_use]
    pub fn at(line: u32) -> Self {
        Self { line, functions: Vec::new(), sites: 0, fast: false, variables: Vec::new(), problem: None }
    }
}

/// Asks for functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionsRequest {
    /// Of which program.
    #[serde(default)]
    pub target: Target,
    /// Of a file (or the end of its path).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Of a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

/// Functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionsReply {
    /// The executable.
    pub executable: String,
    /// Each, by file and line.
    pub functions: Vec<FunctionInfo>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionInfo {
    /// Its full name.
    pub name: String,
    /// Where it is declared.
    pub file: String,
    /// The line of its `func`.
    pub line: u32,
}

/// Asks what is known of a location before anything is armed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainRequest {
    /// Of which programs.
    #[serde(default)]
    pub target: Target,
    /// Where.
    pub location: String,
    /// What would be captured.
    #[serde(default)]
    pub options: TraceOptions,
}

/// What is known of a location.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainReply {
    /// One entry for each build that has it.
    pub bindings: Vec<Binding>,
    /// Builds that do not.
    #[serde(default)]
    pub failures: Vec<BindFailure>,
    /// What a captured hit is estimated to cost, the trap included, in nanoseconds.
    #[serde(default)]
    pub estimated_cost_ns: u64,
}

/// Asks for a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceRequest {
    /// Of which program.
    #[serde(default)]
    pub target: Target,
    /// The file, as the binary names it.
    pub file: String,
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceReply {
    /// The file.
    pub file: String,
    /// Its text.
    pub text: String,
    /// It is younger than the binary: it may be another text than the one that was built.
    #[serde(default)]
    pub modified: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_of_the_set_and_not_of_its_order() {
        let (a, b) = (TracepointId::from("t_a"), TracepointId::from("t_b"));
        let of = |held: &[(&TracepointId, u64)]| generation(held.iter().copied());
        assert_eq!(of(&[(&a, 1), (&b, 2)]), of(&[(&b, 2), (&a, 1)]));
        let distinct = [
            of(&[]),
            of(&[(&a, 1)]),
            of(&[(&a, 2)]),
            of(&[(&b, 1)]),
            of(&[(&a, 1), (&b, 1)]),
            of(&[(&a, 1), (&b, 2)]),
        ];
        assert_eq!(distinct.iter().collect::<std::collections::BTreeSet<_>>().len(), distinct.len());
        assert_eq!(of(&[(&a, 1)]), 6_723_436_731_532_181, "the same on every machine and version");
    }

    #[test]
    fn a_target_means_what_fits_all_of_it() {
        let process = GoProcess {
            pid: 7,
            service: "orders".to_owned(),
            container: Some("0123456789ab".to_owned()),
            ..GoProcess::default()
        };
        let target = |change: fn(&mut Target)| {
            let mut target = Target::default();
            change(&mut target);
            target.matches(&process)
        };
        assert!(target(|_| {}));
        assert!(target(|target| target.pid = Some(7)));
        assert!(!target(|target| target.pid = Some(8)));
        assert!(target(|target| target.service = Some("orders".to_owned())));
        assert!(!target(|target| target.service = Some("order".to_owned())));
        assert!(target(|target| target.container = Some("0123".to_owned())));
        assert!(!target(|target| target.container = Some(String::new())));
        assert!(!target(|target| target.build_id = Some("x".to_owned())));
        assert!(!target(|target| {
            target.pid = Some(7);
            target.service = Some("payments".to_owned());
        }));
    }

    #[test]
    fn the_shortest_request_for_a_tracepoint_is_one() {
        let spec: CreateTracepoint = serde_json::from_str(r#"{"id":"t","location":"main.go:7"}"#).unwrap();
        assert_eq!(spec.spec.options, TraceOptions::default());
        assert_eq!(spec.spec.owner.as_str(), "client");
    }
}
