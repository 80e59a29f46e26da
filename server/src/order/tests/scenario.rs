//! Small stories, told hit by hit.

use std::sync::Arc;

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{
        clock::{Assigned, DomainClock, OrderMark},
        event::{Certificate, Direction, Edge},
    },
};

use crate::order::{
    Checkpoint, DomainId, Finalized, HitKey, HitMeta, Limits, Placed, Process, Sequencer, certify,
};

/// Hosts' clocks are right, give or take this, unless a test says otherwise.
const UNCERTAINTY_NS: u64 = 1_000;

pub(super) fn hit(host: &str, ktime_ns: u64, goroutine: u64) -> HitMeta {
    HitMeta {
        key: HitKey {
            agent: AgentId::from(format!("a_{host}")),
            tracepoint: TracepointId::from("t"),
            seq: ktime_ns,
        },
        boot_id: Arc::from(host),
        ktime_ns,
        cpu: 0,
        cpu_seq: ktime_ns,
        process: Process { pid: 1, start_ns: None },
        goroutine: Some(goroutine),
        parent_goroutine: None,
        starts_goroutine: None,
        edge: None,
        session: Some(SessionId::from("s")),
        arrival: ktime_ns,
    }
}

pub(super) fn edge(meta: HitMeta, direction: Direction, name: &str) -> HitMeta {
    let edge = Edge { direction, traceparent: Arc::from(name), protocol: Arc::from("http") };
    HitMeta { edge: Some(edge), ..meta }
}

fn send(host: &str, ktime_ns: u64, name: &str) -> HitMeta {
    edge(hit(host, ktime_ns, 1), Direction::Send, name)
}

fn receive(host: &str, ktime_ns: u64, name: &str) -> HitMeta {
    edge(hit(host, ktime_ns, 1), Direction::Receive, name)
}

pub(super) fn clock(
    host: &str,
    offset_ns: i64,
    uncertainty_ns: u64,
    epoch: u64,
    at_ktime_ns: u64,
) -> DomainClock {
    DomainClock {
        host: host.to_owned(),
        boot_id: host.to_owned(),
        agent: AgentId::from("a"),
        assigned: Assigned { offset_ns, slope_ppb: 0, at_ktime_ns, uncertainty_ns, growth_ppb: 0, epoch },
    }
}

pub(super) fn mark(seq: u64, watermark_ns: u64, hosts: &[&str]) -> OrderMark {
    OrderMark {
        server: "server".to_owned(),
        seq,
        clocks: hosts.iter().map(|host| clock(host, 0, UNCERTAINTY_NS, 1, 0)).collect(),
        watermark_ns,
        silent: Vec::new(),
    }
}

struct Story {
    sequencer: Sequencer,
    placed: Vec<Placed>,
    contradictions: Vec<String>,
    marks: u64,
}

impl Story {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { sequencer: Sequencer::new(limits), placed: Vec::new(), contradictions: Vec::new(), marks: 0 }
    }

    fn take(&mut self, finalized: Finalized) {
        self.placed.extend(finalized.placed);
        self.contradictions.extend(finalized.contradictions);
    }

    fn hits(&mut self, hits: impl IntoIterator<Item = HitMeta>) -> &mut Self {
        for meta in hits {
            if let Some(finalized) = self.sequencer.hit(meta) {
                self.take(finalized);
            }
        }
        self
    }

    fn mark(&mut self, watermark_ns: u64) -> &mut Self {
        self.marks += 1;
        let mark = mark(self.marks, watermark_ns, &["a", "b", "c"]);
        self.marked(&mark)
    }

    fn marked(&mut self, mark: &OrderMark) -> &mut Self {
        let finalized = self.sequencer.mark(mark, 1_000_000 + self.marks);
        self.take(finalized);
        self
    }

    /// `host@time` in the order of the sort keys.
    fn told(&self) -> String {
        let mut hits: Vec<&Placed> = self.placed.iter().collect();
        hits.sort_by_key(|hit| hit.sort_key);
        let name = |hit: &&Placed| format!("{}@{}", &hit.key.agent.as_str()[2..], hit.key.seq);
        hits.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn certificates(&self) -> Vec<Option<Certificate>> {
        self.placed.iter().map(|hit| hit.certificate).collect()
    }
}

#[test]
fn hits_are_placed_by_their_times_when_the_watermark_has_passed_them() {
    let mut story = Story::new();
    story.hits([hit("b", 20_000, 1), hit("a", 10_000, 1), hit("a", 30_000, 2), hit("a", 80_000, 2)]);
    story.mark(40_000);
    assert_eq!(story.told(), "a@10000 b@20000 a@30000");
    assert_eq!(story.sequencer.pending(), 1);
    assert_eq!(story.placed.iter().map(|hit| hit.order).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert_eq!(story.certificates(), [None, Some(Certificate::Clock), Some(Certificate::Clock)]);
    story.mark(100_000);
    assert_eq!(story.certificates()[3], Some(Certificate::SameGoroutine));
    assert_eq!(story.told(), "a@10000 b@20000 a@30000 a@80000");
}

#[test]
fn what_may_still_be_after_the_watermark_waits() {
    let mut story = Story::new();
    story.hits([hit("a", 10_000, 1)]).mark(10_500);
    assert_eq!(story.told(), "");
    story.mark(11_001);
    assert_eq!(story.told(), "a@10000");
}

#[test]
fn a_message_turns_round_what_the_clocks_say_and_the_answer_too() {
    let mut story = Story::new();
    let reply_send = edge(hit("b", 9_600, 1), Direction::ReplySend, "m");
    let reply_receive = edge(hit("a", 10_500, 1), Direction::ReplyReceive, "m");
    story.hits([
        hit("a", 9_900, 1),
        send("a", 10_000, "m"),
        receive("b", 9_500, "m"),
        hit("b", 9_550, 7),
        reply_send,
        reply_receive,
        hit("c", 10_100, 1),
    ]);
    story.mark(20_000);
    assert_eq!(story.told(), "a@9900 a@10000 b@9500 b@9550 b@9600 c@10100 a@10500");
    let expected = {
        use Certificate::{Ambiguous, Message, SameGoroutine, SameHost};
        [SameGoroutine, Message, SameHost, SameHost, Ambiguous, Ambiguous]
    };
    assert_eq!(story.certificates()[1..], expected.map(Some));
    let evidence = |index: usize| &story.placed[index].evidence;
    assert_eq!(certify(evidence(4), evidence(6)), Certificate::Reply);
    assert_eq!(certify(evidence(0), evidence(4)), Certificate::Message);
    assert_eq!(certify(evidence(4), evidence(0)), Certificate::Ambiguous);
    assert!(story.contradictions.is_empty());
}

#[test]
fn a_send_that_is_not_final_by_its_clock_is_with_its_receive() {
    let mut story = Story::new();
    story.hits([send("a", 11_900, "m"), hit("a", 11_950, 1), receive("b", 10_100, "m")]);
    story.mark(11_200);
    // The receive is before 11,200 for sure, so the send was as well; what is behind the send may not have been.
    assert_eq!(story.told(), "a@11900 b@10100");
    story.mark(13_000);
    assert_eq!(story.told(), "a@11900 b@10100 a@11950");
}

#[test]
fn messages_that_contradict_each_other_are_reported_and_the_least_likely_is_ignored() {
    let mut story = Story::new();
    story.hits([
        receive("a", 10_000, "n"),
        send("a", 10_100, "m"),
        receive("b", 10_050, "m"),
        send("b", 10_900, "n"),
        hit("c", 10_200, 1),
    ]);
    story.mark(20_000);
    assert_eq!(story.told(), "a@10000 a@10100 b@10050 c@10200 b@10900");
    assert_eq!(story.contradictions.len(), 1, "{:?}", story.contradictions);
    assert!(story.contradictions[0].contains("message n") && story.contradictions[0].contains("ignored"));
}

#[test]
fn a_message_that_the_clocks_rule_out_is_reported_and_counts() {
    let mut story = Story::new();
    story.hits([send("a", 19_000, "m"), receive("b", 10_000, "m")]).mark(30_000);
    assert_eq!(story.told(), "a@19000 b@10000");
    assert_eq!(story.contradictions.len(), 1);
    assert!(story.contradictions[0].contains("the message counts"), "{:?}", story.contradictions);
}

#[test]
fn an_answer_that_the_clocks_rule_out_had_begun_to_leave_before() {
    let reply = |host, ktime_ns, direction| edge(hit(host, ktime_ns, 1), direction, "m");
    let mut story = Story::new();
    story.hits([reply("a", 20_000, Direction::ReplyReceive), reply("b", 90_000, Direction::ReplySend)]);
    story.mark(200_000);
    assert_eq!(story.told(), "a@20000 b@90000");
    assert!(story.contradictions[0].ends_with("it is ignored"), "{:?}", story.contradictions);
    assert_eq!(story.certificates()[1], Some(Certificate::Clock));
    // The same when the answer's end comes after its receive is final: it is not late.
    let mut story = Story::new();
    story.hits([reply("a", 20_000, Direction::ReplyReceive)]).mark(50_000);
    story.hits([hit("b", 60_000, 2), reply("b", 90_000, Direction::ReplySend)]).mark(200_000);
    assert_eq!(story.told(), "a@20000 b@60000 b@90000");
    assert!(story.placed.iter().all(|hit| !hit.late));
}

#[test]
fn a_service_that_passes_the_trace_context_on_unchanged_is_a_chain() {
    let mut story = Story::new();
    // a sends to b, which sends on to c, all with the same text; c's clock is early, b's is late.
    story.hits([
        receive("c", 9_500, "m"),
        send("b", 10_950, "m"),
        send("a", 10_000, "m"),
        receive("b", 10_900, "m"),
    ]);
    story.mark(20_000);
    assert_eq!(story.told(), "a@10000 b@10900 b@10950 c@9500");
    assert_eq!(
        story.certificates()[1..],
        [Some(Certificate::Message), Some(Certificate::SameGoroutine), Some(Certificate::Message)]
    );
    assert!(story.contradictions.is_empty());
}

#[test]
fn of_several_sends_with_one_name_a_receive_is_behind_the_first() {
    let mut story = Story::new();
    story.hits([
        send("a", 10_000, "m"),
        send("a", 10_500, "m"),
        receive("b", 9_900, "m"),
        receive("b", 10_600, "m"),
    ]);
    story.mark(20_000);
    assert_eq!(story.told(), "a@10000 b@9900 a@10500 b@10600");
    let evidence = |index: usize| &story.placed[index].evidence;
    assert_eq!(certify(evidence(0), evidence(1)), Certificate::Message);
    // Which of the two it was is not known.
    assert_eq!(certify(evidence(2), evidence(3)), Certificate::Ambiguous);
}

#[test]
fn a_message_with_many_receivers_has_one_sender() {
    let mut story = Story::new();
    let publish = |meta: HitMeta| {
        let edge = meta.edge.map(|edge| Edge { protocol: Arc::from("nats"), ..edge });
        HitMeta { edge, ..meta }
    };
    story.hits([receive("b", 9_500, "m"), receive("c", 9_600, "m"), send("a", 10_000, "m")].map(publish));
    story.mark(20_000);
    assert_eq!(story.told(), "a@10000 b@9500 c@9600");
}

#[test]
fn a_name_that_everybody_uses_all_the_time_orders_by_the_first_of_each_host() {
    let mut story = Story::new();
    story.hits((0..1_000).map(|index| send("a", 10_000 + index, "m")));
    story.hits((0..1_000).map(|index| receive("b", 9_500 + index, "m")));
    story.mark(20_000);
    assert!(story.told().starts_with("a@10000 b@9500 "), "{}", &story.told()[..80]);
    assert_eq!(story.placed.len(), 2_000);
    assert!(story.contradictions.is_empty());
}

#[test]
fn a_late_hit_gets_the_next_number_and_a_place_where_it_belongs() {
    let mut story = Story::new();
    story.hits([hit("a", 10_000, 1), hit("a", 30_000, 1)]).mark(50_000);
    story.hits([hit("b", 20_000, 1), hit("a", 25_000, 1), hit("a", 60_000, 1)]).mark(70_000);
    assert_eq!(story.told(), "a@10000 b@20000 a@25000 a@30000 a@60000");
    let late: Vec<(u64, u64, bool)> =
        story.placed.iter().map(|hit| (hit.key.seq, hit.order.unwrap_or(0), hit.late)).collect();
    assert_eq!(
        late,
        [(10_000, 1, false), (30_000, 2, false), (20_000, 3, true), (25_000, 4, true), (60_000, 5, false)]
    );
    // The number before a@60000 is a late hit's; what it stands behind is a@30000.
    assert_eq!(story.certificates()[4], Some(Certificate::SameGoroutine));
    assert_eq!(story.certificates()[2..4], [None, None]);
}

#[test]
fn a_late_send_stands_before_its_receive_and_a_late_receive_behind_its_send() {
    let mut story = Story::new();
    story.hits([receive("b", 10_000, "m"), send("b", 11_000, "n"), hit("b", 40_000, 1)]).mark(50_000);
    story.hits([send("a", 10_700, "m"), receive("c", 10_300, "n")]).mark(60_000);
    assert_eq!(story.told(), "a@10700 b@10000 b@11000 c@10300 b@40000");
    assert!(story.placed[3].late && story.placed[4].late);
    assert!(story.contradictions.is_empty());
    let evidence = |index: usize| &story.placed[index].evidence;
    assert_eq!(certify(evidence(1), evidence(3)), Certificate::Message);
}

#[test]
fn a_receive_that_is_not_late_stands_behind_a_send_that_is() {
    let mut story = Story::new();
    story.hits([receive("b", 10_000, "m")]).mark(11_000);
    story.hits([hit("a", 9_000, 1), send("a", 10_500, "m")]);
    let mut clocks = mark(2, 90_000, &["a", "b"]);
    clocks.clocks[0].assigned.uncertainty_ns = 100;
    story.marked(&clocks);
    assert_eq!(story.told(), "a@9000 a@10500 b@10000");
}

#[test]
fn a_late_hit_that_belongs_between_hits_in_the_other_order_is_reported() {
    let mut story = Story::new();
    // b's part of the chain c, b, a comes late: without it a's receive was placed before c's send.
    story.hits([receive("a", 10_000, "n"), send("c", 11_500, "m")]).mark(50_000);
    story.hits([receive("b", 10_700, "m"), send("b", 10_800, "n")]).mark(60_000);
    assert_eq!(story.told(), "a@10000 c@11500 b@10700 b@10800");
    assert_eq!(story.contradictions.len(), 2, "{:?}", story.contradictions);
}

#[test]
fn a_late_hit_knows_only_what_was_known_then() {
    let mut story = Story::new();
    story.hits([send("a", 20_000, "m"), receive("b", 20_100, "m")]).mark(50_000);
    story.hits([hit("b", 10_000, 1)]).mark(60_000);
    let [sent, received, late] = [0, 1, 2].map(|index| &story.placed[index].evidence);
    assert_eq!(certify(sent, received), Certificate::Message);
    assert_eq!(certify(sent, late), Certificate::Ambiguous);
    assert_eq!(certify(late, received), Certificate::SameGoroutine);
}

#[test]
fn hits_that_come_twice_are_placed_once() {
    let mut story = Story::new();
    story.hits([hit("a", 10_000, 1), hit("a", 10_000, 1), hit("a", 12_000, 1)]).mark(50_000);
    story.hits([hit("a", 10_000, 1), hit("a", 12_000, 1)]).mark(60_000);
    assert_eq!(story.told(), "a@10000 a@12000");
    assert_eq!(story.sequencer.pending(), 0);
}

#[test]
fn on_one_host_goroutines_and_messages_give_the_reason() {
    let mut story = Story::new();
    let other = |meta: HitMeta| HitMeta { process: Process { pid: 2, start_ns: None }, ..meta };
    story.hits([
        hit("a", 1_000, 1),
        HitMeta { starts_goroutine: Some(9), session: None, ..hit("a", 2_000, 1) },
        hit("a", 3_000, 9),
        hit("a", 4_000, 1),
        HitMeta { session: None, ..send("a", 5_000, "m") },
        HitMeta { session: None, ..other(receive("a", 6_000, "m")) },
        other(hit("a", 7_000, 1)),
        other(hit("a", 8_000, 5)),
    ]);
    story.mark(50_000);
    let certificates: Vec<Certificate> = story.certificates().into_iter().flatten().collect();
    let expected = {
        use Certificate::{GoroutineStart, Message, SameHost};
        [GoroutineStart, SameHost, Message, SameHost]
    };
    assert_eq!(certificates, expected);
    let evidence = |index: usize| &story.placed[index].evidence;
    assert_eq!(certify(evidence(0), evidence(3)), Certificate::SameGoroutine);
    assert_eq!(certify(evidence(3), evidence(2)), Certificate::Ambiguous);
}

#[test]
fn the_same_nanosecond_on_two_processors_proves_nothing() {
    let mut story = Story::new();
    story.hits([
        hit("a", 1_000, 1),
        HitMeta { cpu: 1, key: HitKey { seq: 7, ..hit("a", 1_000, 1).key }, ..hit("a", 1_000, 2) },
    ]);
    story.mark(50_000);
    assert_eq!(story.certificates(), [None, Some(Certificate::Ambiguous)]);
}

#[test]
fn a_step_of_the_clock_is_two_epochs_and_what_is_between_is_uncertain() {
    let mut story = Story::new();
    story.hits([hit("a", 1_000, 1), hit("a", 4_000, 1), hit("a", 9_000, 1)]);
    let epoch = |seq: u64, epoch: u64, offset_ns: i64, at_ktime_ns: u64, watermark_ns: u64| OrderMark {
        clocks: vec![clock("a", offset_ns, 10, epoch, at_ktime_ns)],
        ..mark(seq, watermark_ns, &[])
    };
    story.marked(&epoch(1, 1, 0, 2_000, 500));
    story.marked(&epoch(2, 2, 1_000_000, 8_000, 2_000_000));
    let intervals: Vec<_> = story.placed.iter().filter_map(|hit| hit.evidence.interval).collect();
    let shown: Vec<(u64, u64)> = intervals.iter().map(|i| (i.earliest_ns(), i.latest_ns())).collect();
    assert_eq!(shown, [(990, 1_010), (3_990, 1_004_010), (1_008_990, 1_009_010)]);
}

#[test]
fn a_hit_whose_time_is_very_uncertain_is_final_with_what_is_behind_it_on_its_host() {
    let mut story = Story::new();
    story.hits([hit("a", 1_000, 1), hit("a", 4_000, 1), hit("a", 9_000, 1)]);
    let epoch = |seq: u64, epoch: u64, offset_ns: i64, at_ktime_ns: u64, watermark_ns: u64| OrderMark {
        clocks: vec![clock("a", offset_ns, 10, epoch, at_ktime_ns)],
        ..mark(seq, watermark_ns, &[])
    };
    story.marked(&epoch(1, 2, 3_600_000_000_000, 2_000, 500));
    // The server stood still for an hour, and has started to count epochs anew.
    story.marked(&epoch(2, 1, 0, 8_000, 20_000));
    assert_eq!(story.told(), "a@1000 a@4000 a@9000");
}

#[test]
fn another_server_has_another_clock_and_an_old_mark_of_the_first_is_not_taken() {
    let mut story = Story::new();
    story.hits([hit("a", 10_000, 1)]).mark(20_000);
    story.hits([hit("b", 30_000, 1), hit("a", 40_000, 1)]);
    let other = |seq, watermark_ns| OrderMark {
        server: "other".to_owned(),
        clocks: ["a", "b"].iter().map(|host| clock(host, -9_000, 10, 2, 0)).collect(),
        ..mark(seq, watermark_ns, &[])
    };
    story.marked(&other(1, 25_000));
    assert_eq!(story.told(), "a@10000 b@30000");
    // By the new clock b@30000 was at 21,000; that does not compare with the old one's 10,000.
    assert_eq!(story.certificates()[1], Some(Certificate::Ambiguous));
    story.mark(99_000);
    assert_eq!(story.placed.len(), 2);
    story.marked(&other(2, 99_000));
    assert_eq!(story.placed.len(), 3);
}

/// A mark of a server that took over, by whose clock everything is a millisecond later.
fn taken_over(server: &str, seq: u64, watermark_ns: u64, hosts: &[&str]) -> OrderMark {
    OrderMark {
        server: server.to_owned(),
        clocks: hosts.iter().map(|host| clock(host, 1_000_000, 10, 2, 60_000)).collect(),
        ..mark(seq, watermark_ns, &[])
    }
}

#[test]
fn hosts_that_died_before_another_server_took_over_are_ordered_by_the_clocks_of_before() {
    let hits = || {
        [
            hit("b", 10_000, 1),
            hit("a", 20_000, 1),
            hit("c", 30_000, 1),
            hit("a", 40_000, 1),
            hit("b", 50_000, 1),
        ]
    };
    let told = "b@10000 a@20000 c@30000 a@40000 b@50000";
    let mut story = Story::new();
    story.mark(5_000).hits(hits());
    assert_eq!(story.placed.len(), 0);
    // Only a is alive: it says how the servers' clocks differ.
    story.marked(&taken_over("other", 1, 1_030_000, &["a"]));
    assert_eq!(story.told(), "b@10000 a@20000");
    story.marked(&taken_over("other", 2, 1_100_000, &["a"]));
    assert_eq!(story.told(), told);
    assert!(story.certificates().iter().all(|why| why.is_none_or(|why| why != Certificate::Clock)));
    let times: Vec<u64> = story
        .placed
        .iter()
        .filter_map(|hit| hit.evidence.interval)
        .map(|interval| interval.time_ns)
        .collect();
    assert_eq!(times, [1_010_000, 1_020_000, 1_030_000, 1_040_000, 1_050_000]);

    // Two servers end, one after the other.
    let mut story = Story::new();
    story.mark(5_000).hits(hits());
    story.marked(&taken_over("second", 1, 1_001_000, &["a"]));
    story.marked(&taken_over("third", 1, 1_100_000, &["a"]));
    assert_eq!(story.told(), told);

    // It is a part of what a server keeps.
    let mut story = Story::new();
    story.mark(5_000).hits(hits());
    story.marked(&taken_over("other", 1, 1_001_000, &["a"]));
    let checkpoint = serde_json::to_string(&story.sequencer.checkpoint()).unwrap();
    let mut resumed = Story::new();
    resumed.sequencer = Sequencer::resume(serde_json::from_str(&checkpoint).unwrap(), Limits::default());
    resumed.marks = 2;
    resumed.hits(hits()).marked(&taken_over("other", 2, 1_100_000, &["a"]));
    assert_eq!(resumed.told(), told);
}

#[test]
fn where_every_host_died_they_are_ordered_among_each_other_after_some_marks() {
    let mut story = Story::new();
    story.mark(5_000).hits([
        hit("b", 10_000, 1),
        hit("c", 30_000, 1),
        hit("b", 50_000, 1),
        hit("c", 60_000, 1),
    ]);
    for seq in 1..=u64::from(Limits::default().marks_without_clock) {
        story.marked(&taken_over("other", seq, 2_000_000 + seq, &[]));
    }
    assert_eq!(story.placed.len(), 0, "a host by which the clocks could be compared may still be met");
    story.marked(&taken_over("other", 99, 3_000_000, &[]));
    assert_eq!(story.told(), "b@10000 c@30000 b@50000 c@60000");
    assert!(story.placed.iter().all(|hit| hit.evidence.interval.is_none()), "nothing is proven by it");
}

#[test]
fn a_host_whose_clock_nobody_knows_waits_for_some_marks_only() {
    let mut story = Story::new();
    story.hits([hit("x", 5, 1), hit("a", 10_000, 1)]);
    for _ in 0..Limits::default().marks_without_clock {
        story.mark(20_000);
    }
    assert_eq!(story.told(), "a@10000");
    story.mark(20_000);
    assert_eq!(story.told(), "a@10000 x@5");
    assert_eq!(story.certificates()[1], Some(Certificate::Ambiguous));
}

#[test]
fn too_many_pending_hits_are_final_early_which_is_reported() {
    let mut story = Story::with(Limits { pending: 10, ..Limits::default() });
    story.mark(1);
    story.hits((0..11).map(|index| hit("a", 10_000 + index * 10, 1)));
    assert_eq!(story.placed.len(), 6);
    assert_eq!(story.contradictions.len(), 1);
    assert_eq!(story.sequencer.pending(), 5);
    // Nothing has a clock: the bound holds all the same.
    let mut story = Story::with(Limits { pending: 10, ..Limits::default() });
    story.hits((0..100).map(|index| hit(["a", "b"][index % 2], 10_000 + index as u64 * 10, 1)));
    assert!(story.sequencer.pending() <= 10 && story.placed.len() >= 90);
}

#[test]
fn everything_that_is_kept_is_bounded() {
    let limits = Limits {
        pending: 100,
        domains: 20,
        messages: 50,
        goroutines: 30,
        sessions: 5,
        remembered: 4,
        ..Limits::default()
    };
    let mut story = Story::with(limits);
    for round in 0..2_000_u64 {
        let host = format!("host-{}", round % 500);
        let meta = HitMeta {
            session: Some(SessionId::from(format!("s_{round}"))),
            starts_goroutine: Some(round),
            ..send(&host, 10_000 + round, &format!("m-{round}"))
        };
        story.hits([meta]);
        if round % 50 == 0 {
            story.mark(10_000 + round);
        }
    }
    let sequencer = &story.sequencer;
    assert!(sequencer.pending() <= 100);
    assert!(sequencer.domains.len() <= 20 + 100);
    assert!(sequencer.messages.len() <= 50 + 100);
    assert!(sequencer.goroutines.len() <= 30);
    assert_eq!(sequencer.sessions.len(), 5);
    assert!(story.placed.iter().any(|hit| hit.order.is_none()));
}

#[test]
fn pending_hits_have_a_provisional_order() {
    let mut story = Story::new();
    story.mark(5_000);
    story.hits([receive("b", 9_500, "m"), send("a", 10_000, "m"), hit("c", 9_000, 1), hit("c", 100, 1)]);
    let provisional = story.sequencer.provisional();
    let told: Vec<String> = provisional
        .iter()
        .map(|hit| format!("{}{}", hit.key.seq, if hit.late { " late" } else { "" }))
        .collect();
    assert_eq!(told, ["100 late", "9000", "10000", "9500"]);
    assert_eq!(story.sequencer.pending(), 4);
}

#[test]
fn evidence_is_small_and_survives_being_written_down() {
    let mut story = Story::new();
    story.hits([send("a", 10_000, "m"), receive("b", 10_100, "m")]).mark(50_000);
    let evidence = &story.placed[1].evidence;
    let text = serde_json::to_string(evidence).expect("it serialises");
    assert!(text.len() < 200, "{text}");
    assert_eq!(*evidence, serde_json::from_str(&text).expect("it reads"));
    assert_eq!(evidence.domain, DomainId::of("b"));
}

#[test]
fn a_server_goes_on_where_another_one_stopped() {
    let mut story = Story::new();
    story.hits([hit("a", 10_000, 1), send("a", 60_000, "m"), receive("b", 20_000, "n")]).mark(50_000);
    assert_eq!(story.sequencer.resume_floor(), 60_000);
    let checkpoint = serde_json::to_string(&story.sequencer.checkpoint()).expect("it serialises");
    let checkpoint: Checkpoint = serde_json::from_str(&checkpoint).expect("it reads");
    assert_eq!(checkpoint.floor, 60_000);
    let mut other = Sequencer::resume(checkpoint, Limits::default());
    // Everything again, the first mark too; then what is new.
    for meta in [hit("a", 10_000, 1), send("a", 60_000, "m"), receive("b", 20_000, "n")] {
        assert_eq!(other.hit(meta), None);
    }
    assert_eq!(other.mark(&mark(1, 50_000, &["a", "b", "c"]), 1_000_001).placed, []);
    let new = receive("b", 61_000, "m");
    story.hits([new.clone()]);
    assert_eq!(other.hit(new), None);
    let next = mark(2, 90_000, &["a", "b", "c"]);
    let (one, two) = (story.sequencer.mark(&next, 1_000_002), other.mark(&next, 1_000_002));
    assert_eq!(one.placed.len(), 2);
    assert_eq!(one, two);
}
