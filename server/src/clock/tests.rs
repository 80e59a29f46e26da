use proptest::prelude::*;
use riptrace_common::wire::clock::Assigned;

use super::*;

/// A host's clock in the simulation, whose truth is known: server time of a kernel time.
#[derive(Clone, Copy)]
struct Truth {
    offset_ns: i64,
    drift_ppb: i64,
}

impl Truth {
    fn server_ns(self, ktime_ns: u64) -> i128 {
        let ktime = i128::from(ktime_ns);
        ktime + i128::from(self.offset_ns) + ktime * i128::from(self.drift_ppb) / 1_000_000_000
    }

    fn exchange(self, ktime_ns: u64, there_ns: u64, held_ns: u64, back_ns: u64) -> Exchange {
        let at = |time: i128| u64::try_from(time).expect("after 1970");
        Exchange {
            server_send_ns: at(self.server_ns(ktime_ns)) - there_ns,
            receive_ktime_ns: ktime_ns,
            send_ktime_ns: ktime_ns + held_ns,
            server_receive_ns: at(self.server_ns(ktime_ns + held_ns)) + back_ns,
            realtime_minus_ktime_ns: 1_700_000_000_000_000_000,
            boottime_minus_ktime_ns: 5,
        }
    }

    fn is_within(self, clock: &Assigned, ktime_ns: u64) -> bool {
        let (time_ns, uncertainty_ns) = clock.time_of(ktime_ns);
        (i128::from(time_ns) - self.server_ns(ktime_ns)).unsigned_abs() <= u128::from(uncertainty_ns)
    }
}

const TRUTH: Truth = Truth { offset_ns: 1_700_000_000_000_000_000, drift_ppb: 30_000 };
const SECOND: u64 = 1_000_000_000;

fn settled() -> Estimator {
    let mut estimator = Estimator::new(7);
    for second in 1..40_u64 {
        let delay = 50_000 + second * 7_919 % 30_000;
        let exchange = TRUTH.exchange(second * SECOND, delay, 20_000, 60_000 + delay % 777);
        estimator.exchange(&exchange).expect("an honest exchange");
    }
    estimator
}

#[test]
fn the_interval_is_as_wide_as_the_shortest_round_trips_and_grows_with_the_drift() {
    let estimator = settled();
    let clock = estimator.assigned().expect("exchanges were taken");
    assert_eq!(clock.epoch, 7);
    assert!(clock.uncertainty_ns < 100_000, "{clock:?}");
    assert!((clock.slope_ppb - 30_000).abs() < 3_000, "{clock:?}");
    assert_eq!(clock.growth_ppb, MAX_DRIFT_PPB + clock.slope_ppb.unsigned_abs());
    for ktime_ns in [30 * SECOND, 39 * SECOND, 45 * SECOND, 4_000 * SECOND] {
        assert!(TRUTH.is_within(&clock, ktime_ns), "{ktime_ns}");
    }
}

#[test]
fn one_short_delay_bounds_the_offset_among_long_ones() {
    let mut estimator = Estimator::new(1);
    for millis in 0..8 {
        let delay = if millis == 3 { 10_000 } else { 20_000_000 };
        let ktime_ns = SECOND + millis * 50_000_000;
        estimator.exchange(&TRUTH.exchange(ktime_ns, delay, 0, delay)).expect("honest");
    }
    let clock = estimator.assigned().expect("exchanges");
    // The short one's half, and what 200 ms of drift add.
    assert!(clock.uncertainty_ns <= 10_000 + 40_000 + 2 * GROWTH_SLACK_NS, "{clock:?}");
    assert!(TRUTH.is_within(&clock, SECOND));
}

#[test]
fn messages_on_their_way_to_the_server_tighten_the_interval() {
    let mut estimator = Estimator::new(1);
    let slow = TRUTH.exchange(SECOND, 1_000, 0, 900_000);
    estimator.exchange(&slow).expect("honest");
    let wide = estimator.assigned().expect("one").uncertainty_ns;
    let sent = SECOND + 1_000_000;
    let arrived = u64::try_from(TRUTH.server_ns(sent)).expect("positive") + 2_000;
    assert!(estimator.arrived(sent, arrived));
    let clock = estimator.assigned().expect("one");
    assert!(clock.uncertainty_ns < wide / 50, "{clock:?} {wide}");
    assert!(TRUTH.is_within(&clock, sent));
    // What would exclude what is known already, and what is no time, changes nothing.
    assert!(!estimator.arrived(sent, arrived - 50_000_000));
    assert!(!estimator.arrived(u64::MAX, 0) && !estimator.arrived(0, u64::MAX));
    assert_eq!(estimator.assigned(), Some(clock));
}

#[test]
fn steps_suspends_and_jumps_begin_an_epoch() {
    let next = |change: fn(&mut Exchange)| {
        let mut estimator = settled();
        let mut exchange = TRUTH.exchange(40 * SECOND, 50_000, 0, 50_000);
        change(&mut exchange);
        let outcome = estimator.exchange(&exchange).expect("taken");
        (outcome.new_epoch, estimator.epoch())
    };
    assert_eq!(next(|_| ()), (None, 7));
    assert_eq!(next(|exchange| exchange.realtime_minus_ktime_ns += 900_000), (None, 7));
    let hour = 3_600_000_000_000_i64;
    assert_eq!(
        next(|exchange| exchange.realtime_minus_ktime_ns += 3_600_000_000_000),
        (Some(EpochReason::WallStep { by_ns: hour }), 8)
    );
    assert_eq!(
        next(|exchange| {
            exchange.boottime_minus_ktime_ns += 60_000_000_000;
            exchange.realtime_minus_ktime_ns += 60_000_000_000;
        }),
        (Some(EpochReason::Suspend { for_ns: 60_000_000_000 }), 8)
    );
    let jump = next(|exchange| {
        exchange.server_send_ns += 60_000_000_000;
        exchange.server_receive_ns += 60_000_000_000;
    });
    assert_eq!(jump, (Some(EpochReason::Jump), 8));
}

#[test]
fn exchanges_that_cannot_be_are_refused_and_change_nothing() {
    let honest = TRUTH.exchange(40 * SECOND, 50_000, 20_000, 50_000);
    let refused = |change: fn(&mut Exchange)| {
        let mut estimator = settled();
        let before = estimator.assigned();
        let mut exchange = honest;
        change(&mut exchange);
        let refused = estimator.exchange(&exchange).expect_err("it can't be");
        assert_eq!(estimator.assigned(), before);
        refused
    };
    assert!(matches!(
        refused(|e| e.server_receive_ns = e.server_send_ns - 5),
        Refused::ServerBackwards { by_ns: 5 }
    ));
    assert!(matches!(
        refused(|e| e.send_ktime_ns = e.receive_ktime_ns - 5),
        Refused::AgentBackwards { by_ns: 5 }
    ));
    assert!(matches!(refused(|e| e.server_receive_ns += 6 * SECOND), Refused::TooLong { .. }));
    assert!(matches!(refused(|e| e.send_ktime_ns += SECOND), Refused::Impossible { .. }));
    assert!(matches!(refused(|e| e.receive_ktime_ns = u64::MAX), Refused::OutOfRange { .. }));
    assert!(matches!(refused(|e| e.server_send_ns = 1), Refused::TooLong { .. }));
    assert!(matches!(
        refused(|e| {
            e.server_send_ns -= 30 * SECOND;
            e.server_receive_ns -= 30 * SECOND;
        }),
        Refused::Stale
    ));
    assert!(matches!(
        refused(|e| {
            e.receive_ktime_ns -= 20 * SECOND;
            e.send_ktime_ns -= 20 * SECOND;
        }),
        Refused::KernelBackwards { .. }
    ));
}

#[test]
fn a_lie_about_the_future_does_not_lock_the_truth_out() {
    let mut estimator = settled();
    let mut lie = TRUTH.exchange(40 * SECOND, 50_000, 0, 50_000);
    lie.receive_ktime_ns = MAX_TIME_NS;
    lie.send_ktime_ns = MAX_TIME_NS;
    assert_eq!(
        estimator.exchange(&lie).expect("nothing says it can't be").new_epoch,
        Some(EpochReason::Jump)
    );
    let taken: Vec<bool> = (41..45)
        .map(|second| estimator.exchange(&TRUTH.exchange(second * SECOND, 50_000, 0, 50_000)).is_ok())
        .collect();
    assert_eq!(taken, [false, false, true, true]);
    assert!(TRUTH.is_within(&estimator.assigned().expect("some"), 44 * SECOND));
    assert_eq!(estimator.epoch(), 9);
}

#[test]
fn a_reply_to_another_request_is_no_exchange() {
    use riptrace_common::wire::clock::{SyncReply, SyncRequest};
    let request = SyncRequest { server_send_ns: 5, assigned: None };
    let reply = SyncReply {
        agent: "a".into(),
        boot_id: "b".to_owned(),
        server_send_ns: 6,
        receive_ktime_ns: 1,
        send_ktime_ns: 2,
        realtime_minus_ktime_ns: 0,
        boottime_minus_ktime_ns: 0,
    };
    assert_eq!(Exchange::of(&request, &reply, 9), Err(Refused::AnotherRequest));
    let reply = SyncReply { server_send_ns: 5, ..reply };
    assert!(Exchange::of(&request, &reply, 9).is_ok());
}

#[test]
fn the_watermark_is_the_least_of_the_earliest_times() {
    let clock = Assigned {
        offset_ns: 1_000,
        slope_ppb: 0,
        at_ktime_ns: 0,
        uncertainty_ns: 10,
        growth_ppb: 0,
        epoch: 1,
    };
    let other = Assigned { offset_ns: 0, uncertainty_ns: 500, ..clock };
    assert_eq!(watermark([(&clock, 100), (&other, 1_500)]), Some(1_000));
    assert_eq!(watermark([]), None);
}

proptest! {
    /// Delays of any asymmetry, and a drift that changes with every exchange, within the bound.
    #[test]
    fn the_interval_holds_the_truth(
        offset_ns in 0..1_800_000_000_000_000_000_i64,
        steps in prop::collection::vec(
            (1_000_000..3_000_000_000_u64, 0..2_000_000_u64, 0..100_000_u64, 0..2_000_000_u64, -200_000..=200_000_i64),
            1..90,
        ),
        one_way in any::<bool>(),
        age_ns in 0..20_000_000_000_u64,
        last_drift_ppb in -200_000..=200_000_i64,
    ) {
        let mut estimator = Estimator::new(1);
        let mut ktime_ns = 10 * SECOND;
        let mut server_ns = i128::from(offset_ns) + 20 * i128::from(SECOND);
        let pass = |ktime_ns: &mut u64, server_ns: &mut i128, time_ns: u64, drift_ppb: i64| {
            *ktime_ns += time_ns;
            *server_ns += i128::from(time_ns) + i128::from(time_ns) * i128::from(drift_ppb) / 1_000_000_000;
        };
        let server = |time: i128| u64::try_from(time).expect("positive");
        for (pause_ns, there_ns, held_ns, back_ns, drift_ppb) in steps {
            pass(&mut ktime_ns, &mut server_ns, pause_ns.max(there_ns + back_ns), drift_ppb);
            let (receive_ktime_ns, received) = (ktime_ns, server_ns);
            pass(&mut ktime_ns, &mut server_ns, held_ns, drift_ppb);
            let exchange = Exchange {
                server_send_ns: server(received) - there_ns,
                receive_ktime_ns,
                send_ktime_ns: ktime_ns,
                server_receive_ns: server(server_ns) + back_ns,
                realtime_minus_ktime_ns: 0,
                boottime_minus_ktime_ns: 0,
            };
            prop_assert_eq!(estimator.exchange(&exchange).expect("honest").new_epoch.is_some(), estimator.window_len() == 1);
            if one_way {
                estimator.arrived(ktime_ns + 5, server(server_ns) + 5 + back_ns / 2 + 1);
            }
            let clock = estimator.assigned().expect("taken");
            let (time_ns, uncertainty_ns) = clock.time_of(receive_ktime_ns);
            prop_assert!((i128::from(time_ns) - received).unsigned_abs() <= u128::from(uncertainty_ns));
        }
        pass(&mut ktime_ns, &mut server_ns, age_ns, last_drift_ppb);
        let (time_ns, uncertainty_ns) = estimator.assigned().expect("taken").time_of(ktime_ns);
        prop_assert!((i128::from(time_ns) - server_ns).unsigned_abs() <= u128::from(uncertainty_ns));
    }

    #[test]
    fn no_exchange_panics(exchanges in prop::collection::vec(any::<(u64, u64, u64, u64, i64, i64)>(), 0..50), near in any::<bool>()) {
        let mut estimator = Estimator::new(u64::MAX);
        for (a, b, c, d, real, boot) in exchanges {
            let (a, b, c, d) = if near { (a % 9, b % 9, c % 9, d % 9) } else { (a, b, c, d) };
            let exchange = Exchange {
                server_send_ns: a,
                receive_ktime_ns: b,
                send_ktime_ns: c,
                server_receive_ns: d,
                realtime_minus_ktime_ns: real,
                boottime_minus_ktime_ns: boot,
            };
            let _ = estimator.exchange(&exchange);
            estimator.arrived(b, d);
            if let Some(clock) = estimator.assigned() {
                let _ = clock.time_of(c);
            }
        }
    }
}
