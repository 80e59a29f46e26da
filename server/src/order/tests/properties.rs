//! What holds of every fleet: small random histories whose truth is known, and streams that make no sense at all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use proptest::prelude::*;
use riptrace_common::wire::{
    clock::OrderMark,
    event::{Certificate, Direction, Edge},
};

use super::scenario::{clock, hit, mark};
use crate::order::{
    Finalized, HitKey, HitMeta, Limits, Placed, Sequencer, certify,
    simulator::{Item, Random},
};

const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A line on a host, in a goroutine.
    Line(usize, u64),
    /// A message between hosts that takes so long; its name is one of a few when names are shared. With more receivers it is
    /// published.
    Message { from: usize, to: Vec<usize>, takes_ns: u64, name: usize },
    /// A mark.
    Mark,
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS.len();
    prop_oneof![
        3 => (host(), 0..3_u64).prop_map(|(host, goroutine)| Step::Line(host, goroutine)),
        3 => (host(), prop::collection::vec(host(), 1..3), 1..3_000_u64, 0..3_usize)
            .prop_map(|(from, to, takes_ns, name)| Step::Message { from, to, takes_ns, name }),
        1 => Just(Step::Mark),
    ]
}

/// A history with its truth.
#[derive(Debug)]
struct History {
    stream: Vec<Item>,
    /// When each hit was.
    times: HashMap<HitKey, u64>,
    /// Sends and receives.
    messages: Vec<(HitKey, HitKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Names {
    /// Every message has its own.
    Own,
    /// Several have the same.
    Shared,
}

/// A step is a microsecond. Host `d`, when it is silent, brings everything with the last mark, and nobody waits.
fn history(steps: &[Step], errors: &[(i64, u64)], names: Names, silent: bool, shuffle: u64) -> History {
    let mut random = Random(shuffle);
    // What happened so far and isn't in the stream: hits of the future too (a message is under way).
    let mut happened: Vec<(u64, usize, HitMeta)> = Vec::new();
    let (mut times, mut messages) = (HashMap::new(), Vec::new());
    let mut numbers = [0_u64; HOSTS.len()];
    let mut hit_at = |time_ns: u64, host: usize, goroutine: u64, edge: Option<Edge>| {
        numbers[host] += 1;
        let mut meta = hit(HOSTS[host], kernel_ns(host, time_ns), goroutine);
        meta.key.seq = numbers[host];
        meta.cpu_seq = numbers[host];
        meta.edge = edge;
        times.insert(meta.key.clone(), time_ns);
        happened.push((time_ns, host, meta.clone()));
        meta.key
    };
    let mut marks = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let now_ns = 1_000_000 + index as u64 * 1_000;
        match step {
            Step::Line(host, goroutine) => {
                hit_at(now_ns, *host, *goroutine, None);
            }
            Step::Message { from, to, takes_ns, name } => {
                let name = if names == Names::Own { format!("m{index}") } else { format!("m{name}") };
                // One name is published always, or never.
                let publish = name.ends_with('1');
                let receivers = if publish { to.as_slice() } else { &to[..1] };
                let edge = |direction| Edge {
                    direction,
                    traceparent: Arc::from(name.as_str()),
                    protocol: Arc::from(if publish { "nats" } else { "http" }),
                };
                let sent = hit_at(now_ns, *from, 1, Some(edge(Direction::Send)));
                for (number, to) in receivers.iter().enumerate() {
                    let at_ns = now_ns + takes_ns * (number as u64 + 1) + 1 + number as u64;
                    let received = hit_at(at_ns, *to, 2, Some(edge(Direction::Receive)));
                    messages.push((sent.clone(), received));
                }
            }
            Step::Mark => marks.push(now_ns),
        }
    }
    marks.push(90_000_000);
    marks.push(99_000_000);
    let mut stream = Vec::new();
    for (seq, now_ns) in (1_u64..).zip(marks) {
        let last = now_ns >= 90_000_000;
        let (mut due, rest): (Vec<_>, Vec<_>) = happened
            .into_iter()
            .partition(|(time_ns, host, _)| *time_ns < now_ns && (last || !silent || *host != 3));
        happened = rest;
        random.shuffle(&mut due);
        for (_, _, mut meta) in due {
            meta.arrival = stream.len() as u64 + 1;
            stream.push(Item::Hit(Box::new(meta)));
        }
        let clocks = HOSTS.iter().zip(errors).enumerate().map(|(host, (name, (error_ns, slack_ns)))| {
            clock(name, -offset_ns(host) + error_ns, error_ns.unsigned_abs() + slack_ns, 1, 0)
        });
        let clocks = clocks.collect();
        stream.push(Item::Mark(OrderMark { clocks, ..mark(seq, now_ns, &[]) }));
    }
    History { stream, times, messages }
}

fn offset_ns(host: usize) -> i64 {
    [0, 7_000_000, -400_000, 60_000_000_000][host]
}

fn kernel_ns(host: usize, time_ns: u64) -> u64 {
    time_ns.saturating_add_signed(offset_ns(host))
}

fn errors() -> impl Strategy<Value = Vec<(i64, u64)>> {
    prop::collection::vec((-4_000..4_000_i64, 0..2_000_u64), HOSTS.len())
}

fn feed(sequencer: &mut Sequencer, stream: &[Item], first: usize) -> (Vec<Placed>, Vec<String>) {
    let (mut placed, mut contradictions) = (Vec::new(), Vec::new());
    let mut take = |finalized: Finalized| {
        placed.extend(finalized.placed);
        contradictions.extend(finalized.contradictions);
    };
    for (index, item) in stream.iter().enumerate().skip(first) {
        match item {
            Item::Hit(meta) => sequencer.hit(HitMeta::clone(meta)).into_iter().for_each(&mut take),
            Item::Mark(mark) => take(sequencer.mark(mark, index as u64 + 1)),
        }
    }
    (placed, contradictions)
}

fn order(stream: &[Item]) -> (Vec<Placed>, Vec<String>) {
    feed(&mut Sequencer::default(), stream, 0)
}

/// Without what only says when it came.
fn without_arrivals(placed: Vec<Placed>) -> Vec<Placed> {
    placed.into_iter().map(|hit| Placed { arrival: 0, ..hit }).collect()
}

/// Every hit once; sort keys that differ, in the order of placing for what is not late; numbers without a gap.
fn is_strict(placed: &[Placed], hits: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(placed.iter().map(|hit| &hit.key).collect::<HashSet<_>>().len(), hits);
    prop_assert_eq!(placed.len(), hits);
    prop_assert_eq!(placed.iter().map(|hit| hit.sort_key).collect::<HashSet<_>>().len(), hits);
    let numbers: Vec<Option<u64>> = placed.iter().map(|hit| hit.order).collect();
    prop_assert_eq!(numbers, (1..=hits as u64).map(Some).collect::<Vec<_>>());
    prop_assert!(placed.iter().filter(|hit| !hit.late).is_sorted_by_key(|hit| hit.sort_key));
    Ok(())
}

fn respects_hosts(placed: &[Placed]) -> Result<(), TestCaseError> {
    for host in HOSTS {
        let agent = format!("a_{host}");
        let mut hits: Vec<&Placed> = placed.iter().filter(|hit| hit.key.agent.as_str() == agent).collect();
        hits.sort_by_key(|hit| hit.sort_key);
        prop_assert!(hits.is_sorted_by_key(|hit| hit.evidence.moment), "{host}: {hits:?}");
    }
    Ok(())
}

fn turned_round<'a>(history: &'a History, placed: &[Placed]) -> Vec<&'a (HitKey, HitKey)> {
    let keys: HashMap<&HitKey, _> = placed.iter().map(|hit| (&hit.key, hit.sort_key)).collect();
    history.messages.iter().filter(|(sent, received)| keys[sent] > keys[received]).collect()
}

/// For any two hits, not only neighbours.
fn certificates_are_true(history: &History, placed: &[Placed]) -> Result<(), TestCaseError> {
    for a in placed {
        for b in placed {
            let certificate = certify(&a.evidence, &b.evidence);
            if certificate != Certificate::Ambiguous {
                let (before, after) = (history.times[&a.key], history.times[&b.key]);
                // Hits of one nanosecond on one processor are told apart by their numbers.
                let is_true = before < after || (before == after && a.evidence.domain == b.evidence.domain);
                prop_assert!(is_true, "{:?} {} {}: {} {}", certificate, a.key, b.key, before, after);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 200 } else { 5_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_order_is_strict_and_extends_all_that_is_known(
        steps in prop::collection::vec(step(), 1..60), errors in errors(), shuffle in any::<u64>(),
    ) {
        let history = history(&steps, &errors, Names::Own, false, shuffle);
        let (placed, contradictions) = order(&history.stream);
        is_strict(&placed, history.times.len())?;
        respects_hosts(&placed)?;
        prop_assert_eq!(turned_round(&history, &placed), Vec::<&(HitKey, HitKey)>::new());
        prop_assert_eq!(contradictions, Vec::<String>::new());
        prop_assert!(placed.iter().all(|hit| !hit.late));
        certificates_are_true(&history, &placed)?;
        for (before, hit) in placed.iter().zip(placed.iter().skip(1)) {
            prop_assert_eq!(hit.certificate, Some(certify(&before.evidence, &hit.evidence)));
        }
    }

    #[test]
    fn names_that_several_messages_share_prove_nothing_false(
        steps in prop::collection::vec(step(), 1..60), errors in errors(), shuffle in any::<u64>(),
    ) {
        let history = history(&steps, &errors, Names::Shared, false, shuffle);
        let (placed, _) = order(&history.stream);
        is_strict(&placed, history.times.len())?;
        respects_hosts(&placed)?;
        certificates_are_true(&history, &placed)?;
    }

    #[test]
    fn the_order_depends_on_what_came_before_each_mark_only(
        steps in prop::collection::vec(step(), 1..60), errors in errors(), one in any::<u64>(), two in any::<u64>(),
        shared in any::<bool>(), silent in any::<bool>(),
    ) {
        let names = if shared { Names::Shared } else { Names::Own };
        let [(one, said), (two, also_said)] =
            [one, two].map(|shuffle| order(&history(&steps, &errors, names, silent, shuffle).stream));
        prop_assert_eq!(without_arrivals(one), without_arrivals(two));
        prop_assert_eq!(said, also_said);
    }

    #[test]
    fn late_hits_find_their_place(
        steps in prop::collection::vec(step(), 1..60), errors in errors(), shuffle in any::<u64>(),
    ) {
        let history = history(&steps, &errors, Names::Own, true, shuffle);
        let (placed, contradictions) = order(&history.stream);
        is_strict(&placed, history.times.len())?;
        respects_hosts(&placed)?;
        prop_assert!(placed.iter().all(|hit| !hit.late || hit.key.agent.as_str() == "a_d"));
        for (sent, received) in turned_round(&history, &placed) {
            let told = |key: &HitKey| contradictions.iter().any(|told| told.starts_with(&format!("{key} ")));
            prop_assert!(told(sent) || told(received), "{sent} {received} {contradictions:?}");
        }
        certificates_are_true(&history, &placed)?;
    }

    #[test]
    fn who_resumes_computes_the_same(
        steps in prop::collection::vec(step(), 1..60), errors in errors(), shuffle in any::<u64>(),
        stop in any::<prop::sample::Index>(), silent in any::<bool>(), shared in any::<bool>(),
    ) {
        let names = if shared { Names::Shared } else { Names::Own };
        let History { stream, .. } = history(&steps, &errors, names, silent, shuffle);
        let (all, _) = order(&stream);
        let stop = stop.index(stream.len());
        let mut first = Sequencer::default();
        let (mut placed, _) = feed(&mut first, &stream[..stop], 0);
        let checkpoint = serde_json::to_string(&first.checkpoint()).expect("it serialises");
        let checkpoint: crate::order::Checkpoint = serde_json::from_str(&checkpoint).expect("it reads");
        let floor = usize::try_from(checkpoint.floor).expect("small").saturating_sub(1);
        let mut second = Sequencer::resume(checkpoint, Limits::default());
        placed.extend(feed(&mut second, &stream, floor).0);
        prop_assert_eq!(placed, all);
    }

    #[test]
    fn what_makes_no_sense_is_ordered_too(
        hits in prop::collection::vec(
            (0..4_usize, 0..3_u32, any::<u64>(), 0..9_u64, 0..4_usize, 0..5_usize, any::<bool>()), 0..80),
        marks in prop::collection::vec((0..3_usize, 0..9_u64, any::<(i64, i64, u64, u64, u64)>(), any::<u64>()), 0..9),
        pending in 1..60_usize,
        shuffle in any::<u64>(),
    ) {
        let mut stream: Vec<Item> = hits
            .iter()
            .enumerate()
            .map(|(index, (host, cpu, ktime_ns, goroutine, direction, name, near))| {
                let mut meta = hit(HOSTS[*host], if *near { ktime_ns % 9 } else { *ktime_ns }, *goroutine);
                meta.key.seq = index as u64;
                meta.arrival = 0;
                (meta.cpu, meta.cpu_seq) = (*cpu, *goroutine);
                let direction =
                    [Direction::Send, Direction::Receive, Direction::ReplySend, Direction::ReplyReceive][*direction];
                meta.edge = (*name < 4).then(|| Edge {
                    direction,
                    traceparent: Arc::from(format!("m{name}")),
                    protocol: Arc::from(if *name == 0 { "nats" } else { "grpc" }),
                });
                Item::Hit(Box::new(meta))
            })
            .collect();
        for (server, seq, (offset_ns, slope, at, uncertainty, epoch), watermark_ns) in marks {
            let mut one = clock("b", offset_ns, uncertainty, epoch % 4, at);
            one.assigned.slope_ppb = slope;
            one.assigned.growth_ppb = uncertainty;
            let clocks = vec![one, clock("a", 0, 5, 1, 0), clock("a", 9, 5, epoch, at)];
            stream.push(Item::Mark(OrderMark { server: HOSTS[server].to_owned(), clocks, ..mark(seq, watermark_ns, &[]) }));
        }
        Random(shuffle).shuffle(&mut stream);
        for seq in 0..60 {
            // Until hits of clocks that nobody knows are given up on.
            stream.push(Item::Mark(mark(1_000 + seq, u64::MAX, &["a", "b"])));
        }
        let limits = Limits { pending, messages: 10, remembered: 3, goroutines: 3, ..Limits::default() };
        let mut sequencer = Sequencer::new(limits);
        let (placed, _) = feed(&mut sequencer, &stream, 0);
        prop_assert!(sequencer.pending() == 0 || sequencer.provisional().len() == sequencer.pending());
        prop_assert_eq!(placed.len() + sequencer.pending(), hits.len());
        prop_assert_eq!(placed.iter().map(|hit| hit.sort_key).collect::<HashSet<_>>().len(), placed.len());
        prop_assert!(placed.iter().filter(|hit| !hit.late).is_sorted_by_key(|hit| hit.sort_key));
        prop_assert_eq!(feed(&mut Sequencer::new(limits), &stream, 0).0, placed);
    }
}
