//! How fast the order is made: `cargo bench -p riptrace-server --features simulator --bench order`. Prints a table; the
//! figures are of one core.

use std::time::Instant;

use riptrace_common::wire::event::Certificate;
use riptrace_server::order::{
    Limits, Sequencer, certify,
    simulator::{Network, Report, Setup, Simulation, simulate},
};

const ROUNDS: usize = 5;
const SEEDS: u64 = 10;

fn main() {
    println!(
        "{:34} {:>9} {:>12} {:>10} {:>12} {:>10}",
        "stream", "hits", "hits/s", "ns a hit", "checkpoint", "packed"
    );
    for (name, hosts, requests_per_second) in [
        ("50 hosts, two of three hits edges", 50, 10_000),
        ("1,000 hosts", 1_000, 10_000),
        ("2 hosts", 2, 10_000),
    ] {
        let setup = Setup { hosts, edges: 100_000, requests_per_second, ..Setup::default() };
        speed(name, &simulate(&setup));
        let zones = simulate(&Setup { network: Network::Zones, ..setup });
        speed(&format!("{name}, across zones"), &zones);
    }
    neighbours();
    quality();
}

/// The best of some rounds: what disturbs a measurement makes it slower.
fn speed(name: &str, simulation: &Simulation) {
    let mut best_ns = u128::MAX;
    let mut hits = 0;
    let mut checkpoint = Vec::new();
    for round in 0..ROUNDS {
        let mut sequencer = Sequencer::new(Limits::default());
        let begin = Instant::now();
        let mut placed = 0;
        simulation.feed(&mut sequencer, |finalized| placed += finalized.placed.len());
        best_ns = best_ns.min(begin.elapsed().as_nanos());
        hits = placed;
        if round == 0 {
            checkpoint = serde_json::to_vec(&sequencer.checkpoint()).unwrap_or_default();
        }
    }
    let packed = zstd::bulk::compress(&checkpoint, 1).map_or(0, |packed| packed.len());
    let each_ns = best_ns / hits.max(1) as u128;
    println!(
        "{name:34} {hits:>9} {:>12} {each_ns:>10} {:>12} {packed:>10}",
        1_000_000_000 / each_ns.max(1),
        checkpoint.len()
    );
}

fn neighbours() {
    let simulation = simulate(&Setup { edges: 100_000, requests_per_second: 10_000, ..Setup::default() });
    let (placed, _) = simulation.order();
    let begin = Instant::now();
    let proven = placed
        .iter()
        .zip(placed.iter().skip(1))
        .filter(|(a, b)| certify(&a.evidence, &b.evidence) != Certificate::Ambiguous);
    let proven = proven.count();
    let each_ns = begin.elapsed().as_nanos() / placed.len().max(1) as u128;
    let bytes: usize =
        placed.iter().filter_map(|hit| serde_json::to_vec(&hit.evidence).ok()).map(|text| text.len()).sum();
    println!("certify: {each_ns} ns a pair ({proven} of {} proven)", placed.len());
    println!("evidence as JSON: {} bytes a hit", bytes / placed.len().max(1));
    let mut sequencer = Sequencer::new(Limits::default());
    simulation.feed(&mut sequencer, |_| ());
    let begin = Instant::now();
    let checkpoint = serde_json::to_vec(&sequencer.checkpoint()).map_or(0, |text| text.len());
    println!("checkpoint as JSON: {checkpoint} bytes in {} ms", begin.elapsed().as_millis());
}

/// What the tests assert, in numbers.
fn quality() {
    println!("\n20,000 messages of 60 to 140 µs, 50 hosts, wall clocks ±60 s, drift ±80 ppm, {SEEDS} seeds");
    println!(
        "inversions: by wall clocks / by corrected clocks alone / in the order; neighbours of a session by certificate"
    );
    for network in [Network::Lan, Network::Zones] {
        let reports: Vec<Report> = (1..=SEEDS)
            .map(|seed| {
                let simulation = simulate(&Setup { seed, network, ..Setup::default() });
                simulation.report(&simulation.order().0)
            })
            .collect();
        let mean = |value: fn(&Report) -> usize| reports.iter().map(value).sum::<usize>() / reports.len();
        println!(
            "{network:?}: {} / {} / {} of {}; false certificates {}",
            mean(|report| report.raw_inversions),
            mean(|report| report.clock_inversions),
            mean(|report| report.inversions),
            mean(|report| report.edges),
            mean(|report| report.false_certificates),
        );
        for certificate in [
            Certificate::SameGoroutine,
            Certificate::SameHost,
            Certificate::Message,
            Certificate::Reply,
            Certificate::Clock,
            Certificate::Ambiguous,
        ] {
            let sum: usize = reports.iter().map(|report| report.per_mille(certificate)).sum();
            println!("  {certificate:?}: {:.1} %", sum as f64 / reports.len() as f64 / 10.0);
        }
    }
}
