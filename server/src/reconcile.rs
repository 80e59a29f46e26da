//! From what is wanted to what each host should hold, and from there to what has to be done. Pure.

use std::collections::BTreeMap;

use riptrace_common::{
    id::{Owner, SessionId, TracepointId},
    wire::{
        api::{Selector, Session, SessionTracepoint},
        control::{TracepointSpec, TracepointState, generation},
        profile::{Label, ServiceRule},
    },
};

use crate::session;

/// Whose the servers' tracepoints are.
#[must_use]
pub fn owner() -> Owner {
    Owner::from("server")
}

/// Seconds after which an agent that hears of no server removes a tracepoint.
pub const TTL_SECONDS: u64 = 600;

/// Seconds that must be left; with fewer a tracepoint is renewed.
const RENEW_BELOW_SECONDS: u64 = TTL_SECONDS / 2;

/// Whether a host is meant, whatever runs there.
#[must_use]
pub fn selects(select: &Selector, host: &str, labels: &[Label]) -> bool {
    let is_host = select.host.as_ref().is_none_or(|wanted| wanted == host);
    let has_label = |wanted: &String| {
        labels.iter().any(|label| wanted.split_once('=') == Some((&label.name, &label.value)))
    };
    is_host && select.label.as_ref().is_none_or(has_label)
}

/// What a host should hold of the servers' tracepoints, by id. `is_barred`: the host was cleared of a session.
#[must_use]
pub fn desired<'a>(
    sessions: impl IntoIterator<Item = &'a Session>,
    host: &str,
    labels: &[Label],
    rules: &[ServiceRule],
    now_ns: u64,
    is_barred: impl Fn(&Session) -> bool,
) -> BTreeMap<TracepointId, TracepointSpec> {
    let running = sessions.into_iter().filter(|one| session::is_running(one, now_ns) && !is_barred(one));
    running
        .flat_map(|one| one.tracepoints.iter().map(move |tracepoint| (one, tracepoint)))
        .filter(|(_, tracepoint)| tracepoint.enabled && selects(&tracepoint.select, host, labels))
        .map(|(one, tracepoint)| (tracepoint.id.clone(), spec(one, tracepoint, rules, now_ns)))
        .collect()
}

fn spec(one: &Session, tracepoint: &SessionTracepoint, rules: &[ServiceRule], now_ns: u64) -> TracepointSpec {
    // Rounded up: 0 would mean the agent's usual.
    let left_seconds = one.expires_ns.saturating_sub(now_ns).div_ceil(1_000_000_000);
    let target = tracepoint.select.target.clone();
    TracepointSpec {
        id: tracepoint.id.clone(),
        revision: tracepoint.revision,
        session: Some(one.id.clone()),
        owner: owner(),
        service_rules: if target.service.is_some() { rules.to_vec() } else { Vec::new() },
        target,
        location: tracepoint.location.clone(),
        origin: tracepoint.origin.clone(),
        options: tracepoint.options.clone(),
        ttl_seconds: left_seconds.clamp(1, TTL_SECONDS),
    }
}

/// What a heartbeat says when the host holds just these.
#[must_use]
pub fn generation_of<'a>(specs: impl IntoIterator<Item = &'a TracepointSpec>) -> u64 {
    generation(specs.into_iter().map(|spec| (&spec.id, spec.revision)))
}

/// What has to be done on a host.
#[derive(Debug, Default, PartialEq)]
pub struct Actions {
    /// To be removed.
    pub remove: Vec<TracepointId>,
    /// To be set; or to be set again, so that they live longer.
    pub create: Vec<TracepointSpec>,
}

/// Compares what a host should hold with what it holds. Tracepoints of other owners are left alone.
#[must_use]
pub fn compare(desired: &BTreeMap<TracepointId, TracepointSpec>, held: &[TracepointState]) -> Actions {
    let owner = owner();
    let held: BTreeMap<&TracepointId, &TracepointState> =
        held.iter().filter(|state| state.owner == owner).map(|state| (&state.id, state)).collect();
    let remove = held.keys().filter(|id| !desired.contains_key(**id)).map(|id| (*id).clone()).collect();
    let is_due = |spec: &&TracepointSpec| match held.get(&spec.id) {
        None => true,
        Some(state) => {
            state.revision != spec.revision
                || (state.expires_in_seconds < RENEW_BELOW_SECONDS
                    && state.expires_in_seconds.saturating_add(1) < spec.ttl_seconds)
        }
    };
    Actions { remove, create: desired.values().filter(is_due).cloned().collect() }
}

/// A host that was cleared by the kill switch. What was there before stays away until it is started again.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cleared {
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// The host has removed its tracepoints, whoever set them.
    pub confirmed: bool,
    /// Sessions that were started again since.
    #[serde(default)]
    pub released: Vec<SessionId>,
}

impl Cleared {
    /// Whether the tracepoints of a session stay away from the host.
    #[must_use]
    pub fn bars(&self, one: &Session) -> bool {
        one.created_ns <= self.at_ns && !self.released.contains(&one.id)
    }
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::{
        api::{NewSession, NewTracepoint},
        control::{Target, TracepointStatus},
        event::Stats,
    };

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn a_session(selects: &[Selector]) -> Session {
        let tracepoint = |select: &Selector| NewTracepoint {
            select: select.clone(),
            location: "main.go:7".to_owned(),
            ..NewTracepoint::default()
        };
        let tracepoints = selects.iter().map(tracepoint).collect();
        let mut count = 0;
        session::make(NewSession { tracepoints, ..NewSession::default() }, "me", 0, |prefix| {
            count += 1;
            Ok(format!("{prefix}{count}"))
        })
        .unwrap()
    }

    fn state(spec: &TracepointSpec, expires_in_seconds: u64) -> TracepointState {
        TracepointState {
            id: spec.id.clone(),
            revision: spec.revision,
            session: spec.session.clone(),
            owner: spec.owner.clone(),
            status: TracepointStatus::Armed,
            bindings: Vec::new(),
            failures: Vec::new(),
            stats: Stats::default(),
            expires_in_seconds,
            origin: None,
        }
    }

    fn select(host: Option<&str>, label: Option<&str>) -> Selector {
        Selector { host: host.map(str::to_owned), label: label.map(str::to_owned), target: Target::default() }
    }

    fn ids(session: &Session, host: &str, labels: &[Label]) -> Vec<String> {
        let desired = desired([session], host, labels, &[], 0, |_| false);
        desired.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors_say_which_hosts() {
        let label = Label { name: "zone".to_owned(), value: "a".to_owned() };
        let session = a_session(&[
            select(None, None),
            select(Some("one"), None),
            select(None, Some("zone=a")),
            select(Some("one"), Some("zone=b")),
        ]);
        assert_eq!(ids(&session, "one", &[]), ["t2", "t3"]);
        assert_eq!(ids(&session, "two", std::slice::from_ref(&label)), ["t2", "t4"]);
        assert_eq!(ids(&session, "one", &[label]), ["t2", "t3", "t4"]);
    }

    #[test]
    fn nothing_is_wanted_of_what_is_stopped_over_disabled_or_barred() {
        let mut session = a_session(&[select(None, None)]);
        let wanted = |session: &Session, now_ns: u64, barred: bool| {
            desired([session], "h", &[], &[], now_ns, |_| barred).len()
        };
        assert_eq!(wanted(&session, 0, false), 1);
        assert_eq!(wanted(&session, 0, true), 0);
        assert_eq!(wanted(&session, session.expires_ns, false), 0);
        session.tracepoints[0].enabled = false;
        assert_eq!(wanted(&session, 0, false), 0);
        session.tracepoints[0].enabled = true;
        session.state = riptrace_common::wire::api::SessionState::Stopped;
        assert_eq!(wanted(&session, 0, false), 0);
    }

    #[test]
    fn a_tracepoint_does_not_outlive_its_session_or_a_lost_server() {
        let session = a_session(&[select(None, None)]);
        let ttl = |now_ns: u64| {
            let desired = desired([&session], "h", &[], &[], now_ns, |_| false);
            desired.values().next().unwrap().ttl_seconds
        };
        assert_eq!(ttl(0), TTL_SECONDS);
        assert_eq!(ttl(session.expires_ns - 20 * SECOND), 20);
        assert_eq!(ttl(session.expires_ns - 1), 1);
    }

    #[test]
    fn what_differs_is_set_removed_or_renewed() {
        let session = a_session(&[select(None, None), select(None, None), select(None, None)]);
        let mut desired = desired([&session], "h", &[], &[], 0, |_| false);
        let all: Vec<TracepointSpec> = desired.values().cloned().collect();
        let held: Vec<TracepointState> = all.iter().map(|spec| state(spec, TTL_SECONDS)).collect();
        assert_eq!(compare(&desired, &held), Actions::default());
        assert_eq!(
            generation_of(desired.values()),
            generation(held.iter().map(|held| (&held.id, held.revision)))
        );

        assert_eq!(compare(&desired, &held[1..]).create, all[..1]);
        let gone = desired.remove(&all[1].id).unwrap();
        assert_eq!(compare(&desired, &held), Actions { remove: vec![gone.id], create: Vec::new() });
        assert_ne!(generation_of(desired.values()), generation_of(&all));

        let mut changed = held.clone();
        changed[0].revision = 0;
        changed[2].expires_in_seconds = RENEW_BELOW_SECONDS - 1;
        assert_eq!(compare(&desired, &changed).create, [all[0].clone(), all[2].clone()]);

        let mut foreign = held[1].clone();
        foreign.owner = Owner::from("client");
        assert_eq!(compare(&desired, &[held[0].clone(), foreign, held[2].clone()]), Actions::default());
    }

    #[test]
    fn near_its_end_nothing_is_renewed_in_vain() {
        let session = a_session(&[select(None, None)]);
        let desired = desired([&session], "h", &[], &[], session.expires_ns - 20 * SECOND, |_| false);
        let held = |seconds| [state(desired.values().next().unwrap(), seconds)];
        assert_eq!(compare(&desired, &held(19)), Actions::default());
        assert_eq!(compare(&desired, &held(5)).create.len(), 1);
    }

    #[test]
    fn a_cleared_host_takes_what_is_new_or_started_again() {
        let session = a_session(&[select(None, None)]);
        let mut cleared = Cleared { at_ns: 5, confirmed: true, released: Vec::new() };
        assert!(cleared.bars(&session));
        assert!(!cleared.bars(&Session { created_ns: 6, ..session.clone() }));
        cleared.released.push(session.id.clone());
        assert!(!cleared.bars(&session));
    }
}
