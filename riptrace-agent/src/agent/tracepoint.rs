//! A tracepoint as the agent holds it: what was asked for, on which builds it is armed, where it could not be, and what
//! follows from that. Pure.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use riptrace_common::{
    id::TracepointId,
    wire::{
        control::{BindFailure, Binding, Origin, TracepointSpec, TracepointState, TracepointStatus},
        event::{Attached, DetachReason, Stats},
    },
};

use super::numbering::{Numbering, Place};
use crate::{binary::FileIdentity, trace};

/// A tracepoint.
#[derive(Debug)]
pub(super) struct Held {
    /// What was asked for.
    pub spec: TracepointSpec,
    /// The same as the planner takes it.
    pub wanted: trace::Wanted,
    /// Its name, and its session's, as hits carry them.
    pub name: Arc<str>,
    pub session: Option<Arc<str>>,
    /// When it was asked for, by the kernel's clock.
    pub since_ns: u64,
    /// When it is removed.
    pub expires: Instant,
    pub numbering: Numbering,
    /// Hits that were handed over.
    pub captured: u64,
    /// What it is on the first build on which it was armed, if nobody said what it is.
    pub learned: Option<Origin>,
    /// Builds on which it is armed, those included that are being disarmed.
    pub places: BTreeSet<Place>,
    /// Counters of the same tracepoint before it was removed and asked for again.
    pub earlier: Stats,
    /// Counters of builds on which it is not armed any more.
    pub past: Stats,
    /// The hits of the last published counters.
    pub reported_hits: u64,
    /// Where it could not be armed.
    pub failures: Vec<Failed>,
    /// Builds that are being read.
    pub indexing: BTreeSet<u64>,
    /// It is disarmed for good, and why.
    pub ended: Option<DetachReason>,
    /// That was said.
    pub end_reported: bool,
    /// The batch in which that was said.
    pub final_batch: Option<u64>,
    /// It is to be forgotten once it is disarmed.
    pub removing: bool,
}

/// A build on which a tracepoint could not be armed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub file: FileIdentity,
    pub failure: BindFailure,
    /// The host's own rules are the reason.
    pub forbidden: bool,
    /// It may work the next time: the kernel refused, not the build.
    pub again: bool,
}

/// A tracepoint on one build.
#[derive(Debug)]
pub(super) struct Placed {
    pub tracepoint: TracepointId,
    pub armed: trace::TracepointId,
    pub file: FileIdentity,
    pub build_id: Option<String>,
    pub pids: Vec<u32>,
    /// What was told when it was armed.
    pub attached: Attached,
    pub moved_to: Option<String>,
    /// When the last of its processes ended.
    pub empty_since: Option<Instant>,
    /// When it was stopped, by the kernel's clock: what is recorded before is still to come.
    pub stopped_ns: Option<u64>,
}

impl Placed {
    /// It gives hits.
    pub fn is_live(&self) -> bool {
        self.stopped_ns.is_none() && !self.pids.is_empty()
    }
}

impl Held {
    /// A tracepoint that is armed nowhere yet.
    pub fn new(
        spec: TracepointSpec,
        wanted: trace::Wanted,
        since_ns: u64,
        expires: Instant,
        (numbering, earlier): (Numbering, Stats),
    ) -> Self {
        Self {
            name: Arc::clone(&spec.id.0),
            session: spec.session.as_ref().map(|session| Arc::clone(&session.0)),
            spec,
            wanted,
            since_ns,
            expires,
            numbering,
            captured: 0,
            learned: None,
            places: BTreeSet::new(),
            earlier,
            past: Stats::default(),
            reported_hits: 0,
            failures: Vec::new(),
            indexing: BTreeSet::new(),
            ended: None,
            end_reported: false,
            final_batch: None,
            removing: false,
        }
    }

    /// Whether it is still to be armed wherever it fits.
    pub fn is_wanted(&self) -> bool {
        self.ended.is_none() && !self.removing
    }

    /// Asks for the same: only how long it lives may be another, and whether it is said what it is.
    pub fn is_same(&self, spec: &TracepointSpec) -> bool {
        let origin = spec.origin.clone().or_else(|| self.spec.origin.clone());
        let bare = |spec: &TracepointSpec| TracepointSpec { ttl_seconds: 0, origin: None, ..spec.clone() };
        bare(&self.spec) == bare(spec) && (self.spec.origin.is_none() || self.spec.origin == origin)
    }

    /// What it follows to other builds.
    pub fn origin(&self) -> Option<&Origin> {
        self.spec.origin.as_ref().or(self.learned.as_ref())
    }

    /// What became of it.
    pub fn status(&self, is_armed: bool) -> TracepointStatus {
        let all_stale = self.failures.iter().all(|failed| failed.failure.stale);
        match (self.is_wanted(), is_armed, self.failures.is_empty(), self.indexing.is_empty()) {
            (false, ..) => TracepointStatus::Ended,
            (true, true, true, true) => TracepointStatus::Armed,
            (true, true, ..) => TracepointStatus::Partial,
            (true, false, _, false) => TracepointStatus::Indexing,
            (true, false, true, true) => TracepointStatus::Waiting,
            (true, false, false, true) if all_stale => TracepointStatus::Stale,
            (true, false, false, true) => TracepointStatus::Failed,
        }
    }

    /// What others are told of it.
    pub fn state<'a>(
        &self,
        places: impl Iterator<Item = &'a Placed>,
        stats: Stats,
        now: Instant,
    ) -> TracepointState {
        let places: Vec<&Placed> = places.filter(|placed| placed.stopped_ns.is_none()).collect();
        TracepointState {
            id: self.spec.id.clone(),
            revision: self.spec.revision,
            session: self.spec.session.clone(),
            owner: self.spec.owner.clone(),
            status: self.status(places.iter().any(|placed| placed.is_live())),
            bindings: places.into_iter().map(binding).collect(),
            failures: self.failures.iter().map(|failed| failed.failure.clone()).collect(),
            stats,
            expires_in_seconds: self.expires.saturating_duration_since(now).as_secs(),
            origin: self.origin().cloned(),
        }
    }
}

fn binding(placed: &Placed) -> Binding {
    Binding {
        executable: placed.attached.executable.clone(),
        build_id: placed.build_id.clone(),
        pids: placed.pids.clone(),
        moved_to: placed.moved_to.clone(),
        sites: placed.attached.sites.clone(),
        warnings: placed.attached.warnings.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::options;

    fn held() -> Held {
        let spec: TracepointSpec = serde_json::from_str(r#"{"id":"t","location":"main.go:7"}"#).unwrap();
        let wanted = options::wanted(&spec.location, &spec.options).unwrap();
        Held::new(spec, wanted, 0, Instant::now(), Default::default())
    }

    fn failed(stale: bool) -> Failed {
        let file = FileIdentity { device: 1, inode: 1, bytes: 1, modified_ns: 1 };
        let failure = BindFailure {
            executable: String::new(),
            build_id: None,
            pids: Vec::new(),
            stale,
            reason: String::new(),
        };
        Failed { file, failure, forbidden: false, again: false }
    }

    #[test]
    fn a_status_follows_from_where_it_is_armed() {
        let mut held = held();
        assert_eq!(held.status(false), TracepointStatus::Waiting);
        assert_eq!(held.status(true), TracepointStatus::Armed);
        held.failures.push(failed(true));
        assert_eq!(held.status(false), TracepointStatus::Stale);
        assert_eq!(held.status(true), TracepointStatus::Partial);
        held.failures.push(failed(false));
        assert_eq!(held.status(false), TracepointStatus::Failed);
        held.indexing.insert(1);
        assert_eq!(held.status(false), TracepointStatus::Indexing);
        held.ended = Some(DetachReason::Limit);
        assert_eq!(held.status(true), TracepointStatus::Ended);
    }

    #[test]
    fn only_the_time_to_live_may_differ() {
        let held = held();
        assert!(held.is_same(&TracepointSpec { ttl_seconds: 7, ..held.spec.clone() }));
        assert!(!held.is_same(&TracepointSpec { revision: 1, ..held.spec.clone() }));
        let origin = |function: &str| {
            let text = format!(r#"{{"build_id":"b","function":"{function}","line_offset":1}}"#);
            serde_json::from_str::<Origin>(&text).unwrap()
        };
        let told = TracepointSpec { origin: Some(origin("f")), ..held.spec.clone() };
        assert!(held.is_same(&told), "it is said now what it is");
        let held = Held { spec: told, ..held };
        assert!(held.is_same(&TracepointSpec { origin: None, ..held.spec.clone() }));
        assert!(!held.is_same(&TracepointSpec { origin: Some(origin("g")), ..held.spec.clone() }));
        assert!(!held.is_same(&TracepointSpec { location: "main.go:8".to_owned(), ..held.spec.clone() }));
    }
}
