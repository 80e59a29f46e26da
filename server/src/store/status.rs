//! What is stored of sessions and agents, in numbers.

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::api::StoredHit,
};

use super::{AgentCounts, Counts, Store, StoreError, TracepointCounts, segment::Entry};

/// The number of a tracepoint's first hit.
const FIRST_HIT: u64 = 0;
/// The number of an agent's first batch.
const FIRST_BATCH: u64 = 1;

impl Store {
    /// What is stored of a session.
    #[must_use]
    pub fn counts(&self, session: &SessionId) -> Counts {
        let writer = self.writer();
        let Some(number) = writer.names.find(session.as_str()) else { return Counts::default() };
        let row = writer.sessions.get(&number).map(|session| session.row).unwrap_or_default();
        let mut tracepoints: Vec<TracepointCounts> = writer
            .runs
            .iter()
            .filter(|(_, run)| run.session == Some(number))
            .map(|((agent, tracepoint), run)| TracepointCounts {
                host: writer.names.text(run.host),
                agent: AgentId(writer.names.text(*agent)),
                tracepoint: TracepointId(writer.names.text(*tracepoint)),
                stored: run.seen.count(),
                missing: run.seen.missing_from(FIRST_HIT),
                duplicates: run.duplicates,
                stats: run.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()),
                is_closed: run.closed > run.opened,
            })
            .collect();
        tracepoints
            .sort_by(|a, b| (&a.host, &a.agent, &a.tracepoint).cmp(&(&b.host, &b.agent, &b.tracepoint)));
        Counts { stored: row.stored, expired: row.expired, placed: row.placed, late: row.late, tracepoints }
    }

    /// What is known of each agent's run.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentCounts> {
        let writer = self.writer();
        let mut agents: Vec<AgentCounts> = writer
            .agents
            .iter()
            .map(|(number, agent)| AgentCounts {
                agent: AgentId(writer.names.text(*number)),
                host: writer.names.text(agent.host),
                batches: agent.batches.count(),
                batches_missing: agent.batches.missing_from(FIRST_BATCH),
                heartbeat: agent.heartbeat.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            })
            .collect();
        agents.sort_by(|a, b| (&a.host, &a.agent).cmp(&(&b.host, &b.agent)));
        agents
    }

    /// Hits of a session whose place is not final.
    #[must_use]
    pub fn provisional_count(&self, session: &SessionId) -> usize {
        let shared = self.shared();
        let number = shared.names.find(session.as_str());
        number.and_then(|number| shared.provisional.get(&number)).map_or(0, |hits| hits.len())
    }

    /// Hits of a session by their arrivals, as they came: without place and certificate. Those that are not there any more
    /// are left out.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn load(&self, session: &SessionId, arrivals: &[u64]) -> Result<Vec<StoredHit>, StoreError> {
        self.read(
            session,
            |_| Vec::new(),
            |view| {
                let mut hits = Vec::with_capacity(arrivals.len());
                for arrival in arrivals {
                    let Some((service, hit)) = view.hit(*arrival)? else { continue };
                    let entry = Entry { service, arrival: *arrival, ..Entry::default() };
                    hits.push(view.stored(&entry, hit, riptrace_common::wire::api::Finality::Provisional));
                }
                Ok(hits)
            },
        )
    }
}
