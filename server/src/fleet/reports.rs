//! What hosts say that they hold.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use riptrace_common::{
    id::{AgentId, TracepointId},
    wire::{
        api::{HostTracepoint, Live, Session},
        control::{ListTracepoints, TracepointList, TracepointState},
        message::Error,
        subject::Endpoint,
    },
};

use super::{Fleet, State};
use crate::reconcile;

/// A report that is older than this is asked for anew before it is shown.
const FRESH_NS: u64 = 2_000_000_000;

/// So long who wants to see a session is kept waiting for hosts.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hosts that are asked at once.
const AT_ONCE: usize = 32;

/// What a host said.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The run that said it.
    pub(super) agent: Option<AgentId>,
    /// When, on the server's monotonic clock.
    pub(super) at_ns: u64,
    /// Something changed there since.
    pub(super) is_stale: bool,
    /// The servers' tracepoints.
    pub(super) states: BTreeMap<TracepointId, TracepointState>,
    /// Those that it did not take.
    pub(super) refused: BTreeMap<TracepointId, Refusal>,
    /// Why it could not be asked.
    pub(super) unreachable: Option<String>,
}

/// A tracepoint that a host did not take.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) revision: u64,
    pub(super) error: Error,
    /// When, on the server's monotonic clock.
    pub(super) at_ns: u64,
}

impl Report {
    pub(super) fn error_of(&self, id: &TracepointId) -> Option<String> {
        let refused = self.refused.get(id).map(|refusal| refusal.error.text.clone());
        refused.or_else(|| self.unreachable.clone())
    }
}

impl State {
    pub(super) fn stale(&mut self, host: &str) {
        if let Some(report) = self.reports.get_mut(host) {
            report.is_stale = true;
        }
    }
}

impl Fleet {
    /// Asks a host what it holds of the servers' tracepoints, and keeps it.
    pub(super) async fn ask_report(&self, host: &str) -> Result<Vec<TracepointState>, Error> {
        let question = ListTracepoints { owner: Some(reconcile::owner()) };
        let answer = self.request(host, Endpoint::ListTracepoints, &question).await;
        match answer {
            Ok(TracepointList { tracepoints }) => {
                self.keep_report(host, &tracepoints);
                Ok(tracepoints)
            }
            Err(error) => {
                let mut state = self.state();
                let report = state.reports.entry(host.to_owned()).or_default();
                report.unreachable = Some(error.text.clone());
                report.at_ns = self.now().mono_ns;
                Err(error)
            }
        }
    }

    fn keep_report(&self, host: &str, tracepoints: &[TracepointState]) {
        let now_ns = self.now().mono_ns;
        let mut news = Vec::new();
        {
            let mut state = self.state();
            let agent =
                state.hosts.get(host).and_then(|entry| entry.run()).map(|run| run.heartbeat.agent.clone());
            let report = state.reports.entry(host.to_owned()).or_default();
            if report.agent != agent {
                report.refused.clear();
            }
            report.agent.clone_from(&agent);
            report.at_ns = now_ns;
            report.is_stale = false;
            report.unreachable = None;
            let before = std::mem::take(&mut report.states);
            for told in tracepoints {
                if before.get(&told.id).is_none_or(|before| differs(before, told)) {
                    news.push(told.clone());
                }
                report.refused.remove(&told.id);
                report.states.insert(told.id.clone(), told.clone());
            }
        }
        for told in news {
            self.tell_state(host, told);
        }
    }

    /// Keeps what a host answered about one tracepoint.
    pub(super) fn keep_state(&self, host: &str, told: TracepointState) {
        {
            let mut state = self.state();
            let report = state.reports.entry(host.to_owned()).or_default();
            report.refused.remove(&told.id);
            report.states.insert(told.id.clone(), told.clone());
        }
        self.tell_state(host, told);
    }

    /// Keeps that a host did not take a tracepoint.
    pub(super) fn keep_refusal(&self, host: &str, id: &TracepointId, revision: u64, error: Error) {
        let at_ns = self.now().mono_ns;
        let mut state = self.state();
        let report = state.reports.entry(host.to_owned()).or_default();
        report.states.remove(id);
        report.refused.insert(id.clone(), Refusal { revision, error, at_ns });
    }

    /// Notes that what became of a host's tracepoints changed.
    pub fn report_is_stale(&self, host: &str) {
        self.state().stale(host);
        self.wake.notify_one();
    }

    fn tell_state(&self, host: &str, told: TracepointState) {
        let Some(session) = told.session.clone() else { return };
        let agent = {
            let state = self.state();
            let run = state.hosts.get(host).and_then(|entry| entry.run());
            run.map(|run| run.heartbeat.agent.clone())
        };
        let Some(agent) = agent else { return };
        let told = HostTracepoint {
            host: host.to_owned(),
            agent,
            tracepoint: Some(told.id.clone()),
            state: Some(told),
            error: None,
        };
        self.tell(&session, Live::State(Box::new(told)));
    }

    /// Asks those hosts anew that should hold tracepoints of the session, as far as they answer in time.
    pub(super) async fn refresh_reports(&self, session: &Session) {
        let hosts: Vec<String> = {
            let state = self.state();
            let now = self.now();
            let is_due = |name: &str| {
                let report = state.reports.get(name);
                report.is_none_or(|report| {
                    report.is_stale || now.mono_ns.saturating_sub(report.at_ns) > FRESH_NS
                })
            };
            let holds = |name: &str| {
                let report = state.reports.get(name);
                let ids = || session.tracepoints.iter().map(|tracepoint| &tracepoint.id);
                report.is_some_and(|report| ids().any(|id| report.states.contains_key(id)))
            };
            let alive = state.hosts.iter().filter(|(_, entry)| entry.is_alive(now));
            let wanted = alive.filter(|(name, entry)| {
                let labels = entry.profile().map_or(&[][..], |profile| &profile.host.labels);
                is_due(name)
                    && (holds(name)
                        || !reconcile::desired([session], name, labels, &[], now.wall_ns, |_| false)
                            .is_empty())
            });
            wanted.map(|(name, _)| name.clone()).collect()
        };
        let asking = futures::stream::iter(hosts).for_each_concurrent(AT_ONCE, |host| async move {
            if let Err(error) = self.ask_report(&host).await {
                tracing::debug!(host, %error, "the host's tracepoints are not known");
            }
        });
        // Who has not answered by then is shown as it was known.
        drop(tokio::time::timeout(PATIENCE, asking).await);
    }
}

/// Whether something else is to be shown. Counters change all the time and are not meant.
fn differs(before: &TracepointState, now: &TracepointState) -> bool {
    before.status != now.status
        || before.revision != now.revision
        || before.failures != now.failures
        || before.bindings != now.bindings
}
