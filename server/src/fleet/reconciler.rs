//! Has hosts hold what they should: compares generations, corrects by lists and requests. Only the holder of the lease
//! does this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use riptrace_common::{
    id::TracepointId,
    wire::{
        api::{Live, Session, SessionState, SessionTracepoint},
        control::{
            CreateTracepoint, RemoveTracepoints, Removed, TracepointSpec, TracepointState, TracepointStatus,
        },
        message::ErrorCode,
        subject::Endpoint,
    },
};
use tokio::sync::Semaphore;

use super::{Fleet, hosts::Moment};
use crate::{ident, lease::Lease, reconcile, session};

/// How often everything is looked at, if nothing changes.
const PERIOD: Duration = Duration::from_millis(500);

/// Hosts that are corrected at once.
const AT_ONCE: usize = 64;

/// A host whose tracepoints are all settled is asked again after so long: time to live, counters.
const SETTLED_NS: u64 = 10_000_000_000;

/// One with tracepoints that wait for something, after so long.
const UNSETTLED_NS: u64 = 1_000_000_000;

/// A tracepoint that a host refused is offered to it again after so long.
const REFUSED_NS: u64 = 30_000_000_000;

/// A host that could not be asked is asked again after so long.
const RETRY_NS: u64 = 1_000_000_000;

/// What was last done about a host.
#[derive(Clone, Copy, Debug)]
struct Corrected {
    /// What it should hold.
    generation: u64,
    /// When that ended, on the server's monotonic clock.
    at_ns: u64,
    /// How it went.
    worked: bool,
}

/// Corrects hosts, for ever, while the lease is held.
pub async fn run(fleet: Arc<Fleet>, lease: Lease) {
    let busy: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let done: Arc<Mutex<BTreeMap<String, Corrected>>> = Arc::default();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        // Either is only a reason to look.
        drop(tokio::time::timeout(PERIOD, fleet.wake.notified()).await);
        if !lease.is_held() {
            lock(&done).clear();
            continue;
        }
        fleet.stop_expired().await;
        fleet.learn_origins().await;
        let (last, at_work) = (lock(&done).clone(), lock(&busy).clone());
        for (host, desired) in fleet.to_correct(&last, &at_work) {
            lock(&busy).insert(host.clone());
            let (fleet, busy, done, room) =
                (Arc::clone(&fleet), Arc::clone(&busy), Arc::clone(&done), Arc::clone(&room));
            tokio::spawn(async move {
                if let Ok(_permit) = room.acquire().await {
                    let generation = reconcile::generation_of(desired.values());
                    let worked = fleet.correct(&host, &desired).await;
                    let at_ns = fleet.now().mono_ns;
                    lock(&done).insert(host.clone(), Corrected { generation, at_ns, worked });
                }
                lock(&busy).remove(&host);
                fleet.wake.notify_one();
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Desired = BTreeMap<TracepointId, TracepointSpec>;

impl Fleet {
    /// Sessions whose time is over are stopped.
    async fn stop_expired(&self) {
        let now_ns = ident::now_ns();
        let is_over = |one: &&Session| one.state == SessionState::Running && one.expires_ns <= now_ns;
        let over: Vec<_> = self.state().sessions.values().filter(is_over).map(|one| one.id.clone()).collect();
        for id in over {
            let stop = |one: &mut Session| {
                // Somebody may have let it go on meanwhile.
                if !session::is_running(one, now_ns) {
                    one.state = SessionState::Stopped;
                }
                Ok(one.state)
            };
            match self.edit_session(&id, stop).await {
                Ok((_, SessionState::Stopped)) => self.tell(&id, Live::Stopped),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(session = %id, %error, "a session that is over could not be stopped");
                }
            }
        }
    }

    /// What the first host that armed a tracepoint says of its statement is kept with the session, so that every host follows it
    /// to other builds.
    async fn learn_origins(&self) {
        let mut news = Vec::new();
        {
            let state = self.state();
            let told = |tracepoint: &SessionTracepoint| {
                let states = state.reports.values().filter_map(|report| report.states.get(&tracepoint.id));
                let mut same = states.filter(|told| told.revision == tracepoint.revision);
                same.find_map(|told| told.origin.clone())
            };
            for session in state.sessions.values().filter(|one| one.state == SessionState::Running) {
                for tracepoint in session.tracepoints.iter().filter(|one| one.origin.is_none()) {
                    let known = told(tracepoint).map(|origin| {
                        (session.id.clone(), tracepoint.id.clone(), tracepoint.revision, origin)
                    });
                    news.extend(known);
                }
            }
        }
        for (session, id, revision, origin) in news {
            let learn = |session: &mut Session| {
                let known = session.tracepoints.iter_mut().find(|one| one.id == id);
                if let Some(one) = known.filter(|one| one.revision == revision) {
                    one.origin.get_or_insert_with(|| origin.clone());
                }
                Ok(())
            };
            if let Err(error) = self.edit_session(&session, learn).await {
                tracing::debug!(%session, tracepoint = %id, %error, "what the statement is could not be kept");
            }
        }
    }

    /// Which hosts have to be looked at, and what each should hold.
    fn to_correct(
        &self,
        done: &BTreeMap<String, Corrected>,
        busy: &BTreeSet<String>,
    ) -> Vec<(String, Desired)> {
        let now = self.now();
        let state = self.state();
        let mut hosts = Vec::new();
        for (host, entry) in state.hosts.iter().filter(|(host, _)| !busy.contains(*host)) {
            let Some(run) = entry.run().filter(|run| run.is_alive(now)) else { continue };
            let cleared = state.cleared.get(host);
            let labels = entry.profile().map_or(&[][..], |profile| &profile.host.labels);
            let mut desired = reconcile::desired(
                state.sessions.values(),
                host,
                labels,
                &self.rules,
                now.wall_ns,
                |session| cleared.is_some_and(|cleared| cleared.bars(session)),
            );
            let report = state.reports.get(host);
            // What it refused is not asked of it again at once.
            for (id, refusal) in report.iter().flat_map(|report| &report.refused) {
                let is_same = desired.get(id).is_some_and(|spec| spec.revision == refusal.revision);
                let is_recent = now.mono_ns.saturating_sub(refusal.at_ns) < REFUSED_NS;
                let is_same_run =
                    report.is_some_and(|report| report.agent.as_ref() == Some(&run.heartbeat.agent));
                if is_same && is_recent && is_same_run {
                    desired.remove(id);
                }
            }
            let held = run.generation(&reconcile::owner());
            let wanted = reconcile::generation_of(desired.values());
            let must_clear = cleared.is_some_and(|cleared| !cleared.confirmed);
            let is_due = match done.get(host) {
                None => held != wanted || wanted != 0,
                Some(last) if !last.worked => since(now, last.at_ns) > RETRY_NS,
                Some(last) if last.generation != wanted => true,
                // Only what it said after the last correction counts.
                Some(last) if run.last.mono_ns > last.at_ns && held != wanted => true,
                Some(_) if wanted != 0 && report.is_some_and(|report| report.is_stale) => true,
                Some(last) => {
                    let unsettled = report.is_some_and(|report| report.states.values().any(is_unsettled));
                    let period = if unsettled { UNSETTLED_NS } else { SETTLED_NS };
                    wanted != 0 && since(now, last.at_ns) > period
                }
            };
            if is_due || must_clear {
                hosts.push((host.clone(), desired));
            }
        }
        hosts
    }

    /// Has a host hold just this. Whether that worked.
    async fn correct(&self, host: &str, desired: &Desired) -> bool {
        self.clear_late(host).await;
        let held = match self.ask_report(host).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(host, %error, "the host can't be corrected");
                return false;
            }
        };
        let actions = reconcile::compare(desired, &held);
        let mut worked = true;
        for id in actions.remove {
            let removal = RemoveTracepoints {
                id: Some(id.clone()),
                owner: Some(reconcile::owner()),
                ..RemoveTracepoints::default()
            };
            match self.request::<_, Removed>(host, Endpoint::RemoveTracepoint, &removal).await {
                Ok(_) => self.forget_state(host, &id),
                Err(error) if error.code == ErrorCode::NotFound => self.forget_state(host, &id),
                Err(error) => {
                    tracing::warn!(host, tracepoint = %id, %error, "a tracepoint could not be removed");
                    worked = false;
                }
            }
        }
        for spec in actions.create {
            let (id, revision) = (spec.id.clone(), spec.revision);
            let create = CreateTracepoint { spec };
            match self.request::<_, TracepointState>(host, Endpoint::CreateTracepoint, &create).await {
                Ok(told) => self.keep_state(host, told),
                Err(error) if matches!(error.code, ErrorCode::Unreachable | ErrorCode::NotReady) => {
                    tracing::warn!(host, tracepoint = %id, %error, "a tracepoint could not be set; trying again");
                    worked = false;
                }
                Err(error) => {
                    tracing::warn!(host, tracepoint = %id, %error, "the host refused a tracepoint");
                    self.keep_refusal(host, &id, revision, error);
                }
            }
        }
        worked
    }

    fn forget_state(&self, host: &str, id: &TracepointId) {
        if let Some(report) = self.state().reports.get_mut(host) {
            report.states.remove(id);
        }
    }
}

fn since(now: Moment, at_ns: u64) -> u64 {
    now.mono_ns.saturating_sub(at_ns)
}

fn is_unsettled(state: &TracepointState) -> bool {
    matches!(state.status, TracepointStatus::Indexing)
}
