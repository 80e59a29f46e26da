//! From a hit to a reader of the API's live events, on one machine: both clocks are the kernel's monotonic one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use riptrace_agent::{client::Client, trace::host::monotonic_ns};
use riptrace_common::wire::api::Live;
use riptrace_tests::fleet::{Folder, PATIENCE, Server};

use super::{Goal, row, usage::Caller};

/// Rates, hits a second, and milliseconds.
const PACES: [(u64, u64); 2] = [(100, 10_000), (1_000, 8_000)];

pub(crate) fn measure() -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let _agent = server.agent(&folder, "bench", &["calls"])?;
    let mut caller = Caller::start()?;
    server.wait_for_services(&[("calls", 1)])?;
    for (rate, milliseconds) in PACES {
        let session = server.session(&[("calls", "main.Five")], &["--rate", "0"], 1)?;
        let client = Client::new(&server.url, None);
        let live = client.live(&session, "0")?;
        let finals = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&finals);
        let reader = std::thread::spawn(move || {
            let (mut seen, mut placed) = (HashMap::new(), HashMap::new());
            for event in live {
                match event {
                    Ok(Live::Hit(hit)) => {
                        let took = monotonic_ns().saturating_sub(hit.hit.ktime_ns);
                        seen.entry(hit.arrival).or_insert(took);
                    }
                    Ok(Live::Final(hit)) => {
                        let took = monotonic_ns().saturating_sub(hit.hit.ktime_ns);
                        placed.entry(hit.arrival).or_insert(took);
                        count.store(placed.len() as u64, Ordering::Relaxed);
                    }
                    Ok(Live::Stopped) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            (seen, placed)
        });
        let (calls, _) = caller.order(&format!("pace Five {rate} {milliseconds}"))?;
        let begin = Instant::now();
        loop {
            let status = server.status(&session)?;
            if status.stored + status.losses.total() >= calls
                && finals.load(Ordering::Relaxed) >= status.stored
            {
                break;
            }
            ensure!(begin.elapsed() < PATIENCE, "{calls} calls, {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        server.run(&["session", "stop", &session])?;
        let (seen, placed) = reader.join().ok().context("the reader failed")?;
        for (kind, times, goals) in [("shown", seen, Some((100.0, 250.0))), ("its place final", placed, None)]
        {
            let mut times: Vec<u64> = times.into_values().collect();
            times.sort_unstable();
            ensure!(!times.is_empty(), "no hit was read");
            for (name, share) in [("median", 0.5), ("p99", 0.99)] {
                let index = ((times.len() - 1) as f64 * share) as usize;
                let goal = goals.map(|(median, p99)| Goal::AtMost(if share < 0.9 { median } else { p99 }));
                let what = format!("{rate} hits/s: from a hit until {kind}, {name}");
                row(&what, "ms", &[times[index] as f64 / 1e6], goal);
            }
        }
        server.run(&["session", "delete", &session])?;
    }
    Ok(())
}
