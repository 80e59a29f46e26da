//! Exchanges timestamps with every host, tells agents what to stamp their hits with, and writes marks of order into the
//! stream. Only the holder of the lease does this; what an exchange means, [`crate::clock`] knows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Client, Message};
use futures::StreamExt;
use riptrace_common::wire::{
    clock::{Assigned, DomainClock, OrderMark, SyncReply, SyncRequest},
    message,
    subject::Endpoint,
};

use crate::{
    clock::{Estimator, Exchange},
    fleet::{
        Fleet,
        hosts::{Moment, SILENCE_NS},
    },
    ident,
    lease::Lease,
    nats::Nats,
    watermark::{self, Progress},
};

/// Exchanges with a new host that follow each other quickly.
const BURST: u32 = 8;

/// Between these.
const BURST_PERIOD_NS: u64 = 50_000_000;

/// Between all later ones, while something is traced there.
const PERIOD_NS: u64 = 1_000_000_000;

/// And while nothing is: often enough that the estimate stays, so that the first hits have good times already.
const IDLE_PERIOD_NS: u64 = 5_000_000_000;

/// How often it is looked which exchanges are due.
const TICK: Duration = Duration::from_millis(25);

/// How often the list of hosts is brought up to date, since some went silent. New ones are seen at once.
const HOSTS_PERIOD: Duration = Duration::from_secs(2);

/// An answer that did not come within this is not waited for.
const LOST_NS: u64 = 5_000_000_000;

/// Between two marks at least.
const MARK_PERIOD: Duration = Duration::from_millis(200);

/// Between two marks at most, while something is traced.
const IDLE_MARK_PERIOD_NS: u64 = 1_000_000_000;

/// A mark tells all clocks so often, not only those that changed: who reads the stream from here on knows them soon.
const ALL_CLOCKS_PERIOD_NS: u64 = 10_000_000_000;

/// Marks are written for so long after the last agent held a tracepoint, so that the last hits become final.
const AFTERWARDS_NS: u64 = 15_000_000_000;

/// So long after a term began it is known who traces. Where nobody does, marks are written for what hosts that are gone left in
/// the stream.
const HEARD_NS: u64 = SILENCE_NS;

/// So long the broker may take to confirm a mark.
const MARK_PATIENCE: Duration = Duration::from_secs(5);

/// What is known in one term of this server's lease. Another term has another clock.
struct Term {
    number: u64,
    /// Names the term in marks.
    server: String,
    began: Instant,
    /// Nanoseconds since 1970 when it began: the wall clock is read once.
    base_ns: u64,
    /// By boot id.
    domains: HashMap<String, Domain>,
    /// By host.
    plans: HashMap<String, Plan>,
    /// Boot ids of the hosts on which something is traced.
    tracing: HashSet<String>,
    /// Requests that are not answered, by the number in their reply's subject.
    asked: BTreeMap<u64, (String, SyncRequest)>,
    next_number: u64,
    marks: u64,
    watermark_ns: u64,
    last_mark_ns: u64,
    all_clocks_ns: u64,
    /// 0: it was not known yet whether anybody traces.
    active_until_ns: u64,
}

struct Domain {
    estimator: Estimator,
    clock: Option<DomainClock>,
    /// It was not told in a mark since it changed.
    changed: bool,
}

struct Plan {
    boot_id: String,
    next_ns: u64,
    sent: u32,
}

impl Term {
    fn new(number: u64) -> Self {
        let server = ident::fresh("server").unwrap_or_else(|_| format!("server_{}", ident::now_ns()));
        Self {
            number,
            server,
            began: Instant::now(),
            base_ns: ident::now_ns(),
            domains: HashMap::new(),
            plans: HashMap::new(),
            tracing: HashSet::new(),
            asked: BTreeMap::new(),
            next_number: 0,
            marks: 0,
            watermark_ns: 0,
            last_mark_ns: 0,
            all_clocks_ns: 0,
            active_until_ns: 0,
        }
    }

    /// Coordinated time: the server's monotonic clock from a base that is not changed any more.
    fn now_ns(&self) -> u64 {
        self.base_ns.saturating_add(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Brings the list of hosts up to date. `first_epoch` is for clocks that were not met in this term.
    fn take_hosts(&mut self, hosts: Vec<(String, String)>, first_epoch: impl Fn(&str) -> u64) {
        let now_ns = self.now_ns();
        let mut plans = HashMap::with_capacity(hosts.len());
        for (host, boot_id) in hosts {
            self.domains.entry(boot_id.clone()).or_insert_with_key(|boot_id| Domain {
                estimator: Estimator::new(first_epoch(boot_id)),
                clock: None,
                changed: false,
            });
            let known = self.plans.remove(&host).filter(|plan| plan.boot_id == boot_id);
            plans.insert(host, known.unwrap_or(Plan { boot_id, next_ns: now_ns, sent: 0 }));
        }
        self.plans = plans;
    }

    /// Which hosts are to be asked now, and with what.
    fn due(&mut self) -> Vec<(String, u64, SyncRequest)> {
        let now_ns = self.now_ns();
        self.asked.retain(|_, (_, request)| now_ns.saturating_sub(request.server_send_ns) < LOST_NS);
        let mut due = Vec::new();
        for (host, plan) in self.plans.iter_mut().filter(|(_, plan)| plan.next_ns <= now_ns) {
            plan.sent = plan.sent.saturating_add(1);
            let period_ns = match plan.sent {
                ..BURST => BURST_PERIOD_NS,
                _ if self.tracing.contains(&plan.boot_id) => PERIOD_NS,
                _ => IDLE_PERIOD_NS,
            };
            plan.next_ns = now_ns + period_ns;
            let domain = self.domains.get(&plan.boot_id);
            let assigned = domain.and_then(|domain| domain.estimator.assigned());
            self.next_number += 1;
            due.push((host.clone(), self.next_number, SyncRequest { server_send_ns: now_ns, assigned }));
        }
        due
    }

    /// Hosts on which something is traced from now on are asked at once.
    fn take_tracing(&mut self, progress: &[Progress]) {
        let now_ns = self.now_ns();
        let tracing = progress.iter().filter(|one| one.is_tracing).map(|one| one.boot_id.clone()).collect();
        let before = std::mem::replace(&mut self.tracing, tracing);
        for plan in self.plans.values_mut() {
            if self.tracing.contains(&plan.boot_id) && !before.contains(&plan.boot_id) {
                plan.next_ns = plan.next_ns.min(now_ns);
            }
        }
    }

    fn answered(&mut self, number: u64, reply: SyncReply, received_ns: u64) {
        let Some((host, request)) = self.asked.remove(&number) else { return };
        let domain = self.domains.entry(reply.boot_id.clone()).or_insert_with(|| Domain {
            estimator: Estimator::new(1),
            clock: None,
            changed: false,
        });
        let outcome = Exchange::of(&request, &reply, received_ns)
            .and_then(|exchange| domain.estimator.exchange(&exchange));
        match outcome {
            Ok(outcome) => {
                if let Some(reason) = outcome.new_epoch {
                    tracing::info!(host, boot_id = reply.boot_id, %reason, "an epoch of the host's clock begins");
                }
            }
            Err(refused) => tracing::debug!(host, %refused, "an exchange of timestamps is not used"),
        }
        if let Some(assigned) = domain.estimator.assigned() {
            domain.changed = true;
            domain.clock = Some(DomainClock { host, boot_id: reply.boot_id, agent: reply.agent, assigned });
        }
    }

    fn assigned(&self, boot_id: &str) -> Option<Assigned> {
        self.domains.get(boot_id).and_then(|domain| domain.estimator.assigned())
    }

    fn clocks(&self) -> Vec<DomainClock> {
        let mut clocks: Vec<DomainClock> =
            self.domains.values().filter_map(|domain| domain.clock.clone()).collect();
        clocks.sort_by(|one, other| one.host.cmp(&other.host));
        clocks
    }

    /// The mark that is to be written now, if one is.
    fn mark(&mut self, progress: &[Progress], now: Moment) -> Option<OrderMark> {
        self.take_tracing(progress);
        let now_ns = self.now_ns();
        let is_first = self.active_until_ns == 0 && now_ns >= self.base_ns.saturating_add(HEARD_NS);
        if !self.tracing.is_empty() || is_first {
            self.active_until_ns = now_ns + AFTERWARDS_NS;
        }
        if now_ns >= self.active_until_ns {
            return None;
        }
        let found = watermark::of(progress, now, now_ns, |boot_id| self.assigned(boot_id));
        let advanced = found.watermark_ns.is_some_and(|watermark_ns| watermark_ns > self.watermark_ns);
        if !advanced && now_ns.saturating_sub(self.last_mark_ns) < IDLE_MARK_PERIOD_NS {
            return None;
        }
        let all = now_ns.saturating_sub(self.all_clocks_ns) >= ALL_CLOCKS_PERIOD_NS;
        if all {
            self.all_clocks_ns = now_ns;
        }
        let told = self.domains.values_mut().filter(|domain| all || domain.changed);
        let clocks = told.filter_map(|domain| {
            domain.changed = false;
            domain.clock.clone()
        });
        let mut clocks: Vec<DomainClock> = clocks.collect();
        clocks.sort_by(|one, other| one.boot_id.cmp(&other.boot_id));
        self.watermark_ns = self.watermark_ns.max(found.watermark_ns.unwrap_or(0));
        self.last_mark_ns = now_ns;
        self.marks += 1;
        Some(OrderMark {
            server: self.server.clone(),
            seq: self.marks,
            clocks,
            watermark_ns: self.watermark_ns,
            silent: found.silent,
        })
    }

    /// A mark did not get into the stream: the next one tells everything.
    fn mark_failed(&mut self) {
        self.all_clocks_ns = 0;
    }
}

/// The current term, if there is one.
type Shared = Arc<Mutex<Option<Term>>>;

fn lock(term: &Shared) -> MutexGuard<'_, Option<Term>> {
    term.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Exchanges timestamps and writes marks, for ever, while the lease is held. The connection is the exchanges' own: they must
/// not wait behind long messages.
pub async fn run(fleet: Arc<Fleet>, lease: Lease, nats: Nats, connection: Client) {
    let term = Shared::default();
    tokio::join!(exchange(&fleet, &lease, &nats, &connection, &term), mark(&fleet, &lease, &nats, &term));
}

async fn exchange(fleet: &Fleet, lease: &Lease, nats: &Nats, connection: &Client, term: &Shared) {
    loop {
        if let Err(error) = exchange_once(fleet, lease, nats, connection, term).await {
            tracing::warn!(%error, "timestamps can't be exchanged; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn exchange_once(
    fleet: &Fleet,
    lease: &Lease,
    nats: &Nats,
    connection: &Client,
    term: &Shared,
) -> anyhow::Result<()> {
    let inbox = connection.new_inbox();
    let mut replies = connection.subscribe(format!("{inbox}.*")).await?;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // When the list was made, and how many agents' runs there were.
    let mut hosts_at: Option<(Instant, u64)> = None;
    loop {
        tokio::select! {
            // An answer that waits would look like one that was long on its way.
            biased;
            reply = replies.next() => {
                let Some(reply) = reply else { anyhow::bail!("the subscription to replies ended") };
                take_reply(term, &inbox, &reply);
            }
            _ = ticks.tick() => {
                let Some(number) = lease.term() else {
                    *lock(term) = None;
                    continue;
                };
                if lock(term).as_ref().is_none_or(|term| term.number != number) {
                    *lock(term) = Some(Term::new(number));
                    hosts_at = None;
                }
                let runs = fleet.runs_heard_of();
                if hosts_at.is_none_or(|(at, of)| of != runs || at.elapsed() >= HOSTS_PERIOD) {
                    hosts_at = Some((Instant::now(), runs));
                    let (hosts, epochs) = (fleet.clock_hosts(), fleet.clock_epochs());
                    let first_epoch = |boot_id: &str| epochs.get(boot_id).map_or(1, |epoch| epoch + 1);
                    if let Some(term) = lock(term).as_mut() {
                        term.take_hosts(hosts, first_epoch);
                    }
                }
                ask(nats, connection, term, &inbox).await?;
            }
        }
    }
}

async fn ask(nats: &Nats, connection: &Client, term: &Shared, inbox: &str) -> anyhow::Result<()> {
    let due = lock(term).as_mut().map(Term::due).unwrap_or_default();
    for (host, number, mut request) in due {
        let subject = nats.subjects.of(&host, Endpoint::ClockSync)?;
        let body = {
            let mut term = lock(term);
            let Some(term) = term.as_mut() else { return Ok(()) };
            // As late as possible: what comes now would count as time on the way.
            request.server_send_ns = term.now_ns();
            let body = message::write(&request)?;
            term.asked.insert(number, (host, request));
            body
        };
        connection.publish_with_reply(subject, format!("{inbox}.{number}"), body.into()).await?;
    }
    Ok(())
}

fn take_reply(term: &Shared, inbox: &str, reply: &Message) {
    let mut term = lock(term);
    let Some(term) = term.as_mut() else { return };
    let received_ns = term.now_ns();
    let number = reply.subject.strip_prefix(inbox).and_then(|rest| rest.strip_prefix('.')?.parse().ok());
    let Some(number) = number else { return };
    // Nobody there: the broker says so with an empty message.
    if reply.status.is_some() && reply.payload.is_empty() {
        term.asked.remove(&number);
        return;
    }
    match serde_json::from_slice::<message::Reply<SyncReply>>(&reply.payload) {
        Ok(message::Reply { ok: Some(answer), .. }) => term.answered(number, answer, received_ns),
        Ok(message::Reply { error, .. }) => {
            tracing::debug!(?error, "an agent refused an exchange of timestamps");
        }
        Err(error) => tracing::debug!(%error, "an answer to an exchange of timestamps can't be read"),
    }
}

async fn mark(fleet: &Fleet, lease: &Lease, nats: &Nats, term: &Shared) {
    let mut ticks = tokio::time::interval(MARK_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown_at = Instant::now();
    loop {
        ticks.tick().await;
        let progress = fleet.progress();
        let now = fleet.now();
        let (mark, clocks) = {
            let mut term = lock(term);
            let Some(term) = term.as_mut().filter(|term| lease.term() == Some(term.number)) else { continue };
            let is_shown = shown_at.elapsed() < Duration::from_secs(1);
            (term.mark(&progress, now), (!is_shown).then(|| term.clocks()))
        };
        if let Some(clocks) = clocks {
            shown_at = Instant::now();
            fleet.set_clocks(|state| state.hosts = clocks);
        }
        let Some(mark) = mark else { continue };
        if let Err(error) = write(nats, &mark).await {
            tracing::warn!(%error, "a mark of order could not be written");
            if let Some(term) = lock(term).as_mut() {
                term.mark_failed();
            }
        }
    }
}

async fn write(nats: &Nats, mark: &OrderMark) -> anyhow::Result<()> {
    let body = message::write(mark)?;
    let publishing = async {
        let confirmed = nats.jetstream.publish(nats.subjects.server_order(), body.into()).await?;
        confirmed.await?;
        Ok(())
    };
    tokio::time::timeout(MARK_PATIENCE, publishing).await?
}
