//! What a run counted that ended without a word: its note, and the counters that it left in the kernel. Pure.

use std::collections::BTreeMap;

use riptrace_common::{
    abi::program::Counters,
    id::TracepointId,
    wire::{
        batch::{PreviousRun, PreviousTracepoint},
        event::Stats,
    },
};

use super::Note;

/// The account; `None`: there is nothing to tell. `counters`: of each place by its name, unless they can't be read.
pub(super) fn account(note: &Note, counters: Option<&[(String, Counters)]>) -> Option<PreviousRun> {
    if note.ended || note.tracepoints.is_empty() {
        return None;
    }
    let mut live: BTreeMap<&TracepointId, Stats> = BTreeMap::new();
    for (name, counters) in counters.unwrap_or_default() {
        // A place that is not noted was disarmed, and is among what is past; or it is one of a built-in tracepoint.
        let Some(id) = name.parse().ok().and_then(|place| note.places.get(&place)) else { continue };
        live.entry(id).or_default().add(&stats(counters));
    }
    // Where nothing was armed, nothing can have been counted since the note was written.
    let exact = counters.is_some() || note.places.is_empty();
    let mut sum = Stats::default();
    let mut tracepoints = Vec::new();
    for (id, noted) in &note.tracepoints {
        let mut stats = if exact { noted.past.clone() } else { noted.last.clone() };
        if let Some(live) = live.get(id).filter(|_| exact) {
            stats.add(live);
        }
        stats.tracepoint = std::sync::Arc::clone(&id.0);
        sum.add(&stats);
        tracepoints.push(PreviousTracepoint { session: noted.session.clone(), stats });
    }
    Some(PreviousRun { agent: note.agent.clone(), hits: sum.hits, emitted: sum.emitted, exact, tracepoints })
}

fn stats(counters: &Counters) -> Stats {
    let Counters { hits, emitted, filtered, throttled, dropped, failed, run_ns, would_capture, passed } =
        *counters;
    Stats {
        hits,
        emitted,
        filtered,
        throttled,
        dropped,
        failed,
        passed,
        mean_run_ns: run_ns.checked_div(hits).unwrap_or(0),
        would_capture: (would_capture > 0).then_some(would_capture),
        ..Stats::default()
    }
}

#[cfg(test)]
mod tests {
    use riptrace_common::id::AgentId;

    use super::{super::Noted, *};

    fn counters(hits: u64, dropped: u64) -> Counters {
        Counters { hits, emitted: hits - dropped, dropped, ..Counters::default() }
    }

    fn note() -> Note {
        let counted = |hits| Stats { hits, emitted: hits, ..Stats::default() };
        let noted = |past, last| Noted { past: counted(past), last: counted(last), ..Noted::default() };
        Note {
            agent: AgentId::from("a_1"),
            ended: false,
            tracepoints: [("t_1", noted(5, 20)), ("t_2", noted(7, 7))]
                .map(|(id, noted)| (TracepointId::from(id), noted))
                .into(),
            places: [(1, "t_1"), (2, "t_1"), (3, "t_2")].map(|(place, id)| (place, id.into())).into(),
            previous: Vec::new(),
        }
    }

    #[test]
    fn what_is_pinned_is_added_to_what_is_past() {
        let pinned = [("1", 10, 0), ("2", 20, 4), ("3", 0, 0), ("9", 100, 0), ("odd", 100, 0)]
            .map(|(name, hits, dropped)| (name.to_owned(), counters(hits, dropped)));
        let told = account(&note(), Some(&pinned)).unwrap();
        assert_eq!((told.exact, told.hits, told.emitted), (true, 42, 38));
        let of: Vec<_> =
            told.tracepoints.iter().map(|one| (&*one.stats.tracepoint, one.stats.hits)).collect();
        assert_eq!(of, [("t_1", 35), ("t_2", 7)]);
        assert_eq!(told.tracepoints[0].stats.dropped, 4);
    }

    #[test]
    fn without_pins_the_last_note_holds_and_is_not_exact() {
        let told = account(&note(), None).unwrap();
        assert_eq!((told.exact, told.hits, told.tracepoints[0].stats.hits), (false, 27, 20));
    }

    #[test]
    fn who_ended_in_good_order_or_held_nothing_has_nothing_to_tell() {
        assert_eq!(account(&Note { ended: true, ..note() }, None), None);
        assert_eq!(account(&Note { tracepoints: BTreeMap::new(), ..note() }, None), None);
    }
}
