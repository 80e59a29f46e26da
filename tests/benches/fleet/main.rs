//! What the fleet costs, with the real programs: hits through an agent to a subscriber, hits to a reader of the server's
//! API, many agents' heartbeats and exchanges of timestamps, an agent that has nothing to do.
//!
//! `cargo xtask bench fleet` builds everything in release mode and runs it; by hand:
//! `RIPTRACE_BIN=… RIPTRACE_SERVER_BIN=… cargo bench -p riptrace-tests --bench fleet [-- agent|live|crowd|idle …]`.
//!
//! Standard output has a line of JSON for each row: `{"what", "unit", "samples", "goal"}`.

mod agent;
mod crowd;
mod idle;
mod live;
mod usage;

use anyhow::{Result, bail, ensure};
use serde::Serialize;

/// What a row has to reach.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// Writes a row.
fn row(what: &str, unit: &str, samples: &[f64], goal: Option<Goal>) {
    println!("{}", serde_json::json!({"what": what, "unit": unit, "samples": samples, "goal": goal}));
}

fn main() -> Result<()> {
    ensure!(
        std::env::var_os("RIPTRACE_BIN").is_some() && std::env::var_os("RIPTRACE_SERVER_BIN").is_some(),
        "RIPTRACE_BIN and RIPTRACE_SERVER_BIN must name release builds; `cargo xtask bench fleet` sees to that"
    );
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with("--")).collect();
    for name in &wanted {
        if !["agent", "live", "crowd", "idle"].contains(&name.as_str()) {
            bail!("there is no part {name:?}; the parts are agent, live, crowd, idle");
        }
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if is_wanted("agent") {
        runtime.block_on(agent::measure())?;
    }
    if is_wanted("live") {
        live::measure()?;
    }
    if is_wanted("idle") {
        idle::measure()?;
    }
    if is_wanted("crowd") {
        runtime.block_on(crowd::measure())?;
    }
    Ok(())
}
