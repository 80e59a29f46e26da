//! The server's figures in the text format of Prometheus.

use std::fmt::{Display, Write as _};

use riptrace_common::wire::api::{HostStatus, SessionState};

use crate::{fleet::Fleet, store::Store};

/// The figures as they are now. `following` readers follow sessions.
#[must_use]
pub fn text(fleet: &Fleet, store: &Store, following: usize) -> String {
    let mut page = Page(String::new());
    let hosts = fleet.hosts();
    let alive = hosts.iter().filter(|host| host.status == HostStatus::Alive).count();
    page.figure("riptrace_hosts", "gauge", "Hosts that were heard of, by whether they are heard of lately");
    page.value("riptrace_hosts", &[("status", "alive")], alive);
    page.value("riptrace_hosts", &[("status", "silent")], hosts.len() - alive);
    let sessions = fleet.sessions();
    let running = sessions.iter().filter(|session| session.state == SessionState::Running).count();
    page.figure("riptrace_sessions", "gauge", "Sessions, by whether their tracepoints are to be armed");
    page.value("riptrace_sessions", &[("state", "running")], running);
    page.value("riptrace_sessions", &[("state", "stopped")], sessions.len() - running);
    page.figure(
        "riptrace_host_hits_total",
        "counter",
        "Hits that the kernel of a host counted in this run of its agent",
    );
    for host in &hosts {
        page.value("riptrace_host_hits_total", &[("host", &host.facts.host)], host.hits);
    }
    page.figure(
        "riptrace_host_lost_total",
        "counter",
        "Hits that did not get into the stream, by where they were lost",
    );
    for host in &hosts {
        let losses = &host.losses;
        for (place, count) in [
            ("ring_full", losses.ring_full),
            ("queue_full", losses.queue_full),
            ("refused", losses.refused),
            ("undecodable", losses.undecodable),
            ("unknown", losses.unknown),
        ] {
            page.value("riptrace_host_lost_total", &[("host", &host.facts.host), ("where", place)], count);
        }
    }
    page.figure(
        "riptrace_messages_malformed_total",
        "counter",
        "Messages of agents and servers that could not be used, since this server's start",
    );
    page.value("riptrace_messages_malformed_total", &[], fleet.malformed_count());
    page.figure("riptrace_host_tracepoints", "gauge", "Tracepoints that a host holds");
    for host in &hosts {
        page.value("riptrace_host_tracepoints", &[("host", &host.facts.host)], host.tracepoints);
    }
    page.figure(
        "riptrace_host_agent_share_of_core",
        "gauge",
        "Share of one core that a host's agent took lately",
    );
    for host in &hosts {
        let labels = [("host", host.facts.host.as_str())];
        page.value("riptrace_host_agent_share_of_core", &labels, host.agent_share_of_core);
    }
    page.figure(
        "riptrace_host_clock_uncertainty_seconds",
        "gauge",
        "How far a host's coordinated time may be off",
    );
    for host in &hosts {
        if let Some(clock) = &host.clock {
            let seconds = clock.uncertainty_ns as f64 / 1e9;
            page.value("riptrace_host_clock_uncertainty_seconds", &[("host", &host.facts.host)], seconds);
        }
    }
    let totals = store.totals();
    for (name, kind, help, value) in [
        ("riptrace_store_hits_total", "counter", "Hits that were stored", totals.stored),
        (
            "riptrace_store_duplicates_total",
            "counter",
            "Hits that came once more and were not stored",
            totals.duplicates,
        ),
        (
            "riptrace_store_foreign_hits_total",
            "counter",
            "Hits of other clients' tracepoints, not stored",
            totals.foreign,
        ),
        (
            "riptrace_store_out_of_sequence_hits_total",
            "counter",
            "Hits of messages that were older than what is stored, not stored",
            totals.out_of_sequence,
        ),
        ("riptrace_store_expired_hits_total", "counter", "Hits that retention removed", totals.expired),
        (
            "riptrace_store_provisional_hits",
            "gauge",
            "Hits whose place in the order is not final",
            totals.provisional,
        ),
        ("riptrace_store_commits_total", "counter", "Transactions since the start", totals.commits),
        ("riptrace_store_bytes", "gauge", "Bytes of the store's file that are in use", totals.bytes),
        (
            "riptrace_store_stream_sequence",
            "gauge",
            "Stream sequence up to which everything is stored",
            totals.position,
        ),
        (
            "riptrace_store_failing",
            "gauge",
            "1 while the store can't be written",
            u64::from(totals.problem.is_some()),
        ),
        ("riptrace_followers", "gauge", "Readers that follow sessions", following as u64),
    ] {
        page.figure(name, kind, help);
        page.value(name, &[], value);
    }
    page.figure(
        "riptrace_store_agent_batches_missing_total",
        "counter",
        "Batches of an agent's run that did not come",
    );
    for agent in store.agents() {
        let labels = [("host", &*agent.host), ("agent", agent.agent.as_str())];
        page.value("riptrace_store_agent_batches_missing_total", &labels, agent.batches_missing);
    }
    page.0
}

struct Page(String);

impl Page {
    fn figure(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}
