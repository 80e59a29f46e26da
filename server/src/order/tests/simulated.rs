//! Whole fleets with clocks that are wrong, against their truth.

use riptrace_common::wire::event::Certificate;

use crate::order::simulator::{Network, Setup, simulate};

/// All seeds where it is fast; without optimisation fewer and smaller.
const SEEDS: u64 = if cfg!(debug_assertions) { 2 } else { 10 };
const EDGES: usize = if cfg!(debug_assertions) { 4_000 } else { 20_000 };

#[test]
fn fifty_hosts_with_wrong_clocks_are_ordered_without_an_inversion() {
    for network in [Network::Lan, Network::Zones] {
        for seed in 1..=SEEDS {
            let simulation = simulate(&Setup { seed, edges: EDGES, network, ..Setup::default() });
            let (placed, contradictions) = simulation.order();
            let report = simulation.report(&placed);
            println!("{network:?} {seed}: {report:?}");
            assert_eq!(contradictions, Vec::<String>::new());
            assert_eq!(report.hits, simulation.times.len());
            assert_eq!(report.edges, simulation.edges.len());
            assert_eq!((report.inversions, report.host_inversions, report.late), (0, 0, 0));
            assert_eq!(report.false_certificates, 0);
            // What there is to see: wall clocks turn about half of the messages round.
            assert!(report.raw_inversions > report.edges * 4 / 10);
            if network == Network::Zones {
                assert!(report.clock_inversions > 0);
            }
            assert!(report.per_mille(Certificate::Message) > 0 && report.per_mille(Certificate::Reply) > 0);
        }
    }
}

#[test]
fn the_order_is_the_same_whatever_came_first_between_two_marks() {
    for seed in 1..=SEEDS {
        let setup = Setup { seed, edges: EDGES / 4, network: Network::Zones, ..Setup::default() };
        let simulation = simulate(&setup);
        let (placed, _) = simulation.order();
        for shuffle in 1..=3 {
            let (again, _) = simulation.shuffled(shuffle).order();
            assert_eq!(again.len(), placed.len());
            for (one, other) in placed.iter().zip(&again) {
                let mut other = other.clone();
                other.arrival = one.arrival;
                assert_eq!(*one, other);
            }
        }
    }
}
