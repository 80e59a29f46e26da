//! Agents, broker and server at work: `tests/benches/fleet` and `server/benches/store`, which may depend on the project's
//! crates; this one only runs them.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    Bench, Report,
    table::{Goal, Samples},
};
use crate::{build, sh};

pub(super) const SAYS: &str = "hits through an agent to a subscriber, into the server's index, to a reader of its API; many agents; an idle one";

/// Hits that the index takes in one round.
const STORED_HITS: &str = "200000";

/// A line of what the benchmarks print.
#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    samples: Samples,
    goal: Option<Goal>,
}

pub(super) fn measure(bench: &Bench) -> Result<Report> {
    let (riptrace, server) = (bench.riptrace()?, build::release_server()?);
    let mut report = Report::default();
    // The programs are release builds; what only starts and watches them is the tests' build, which is there already.
    let mut fleet = sh::command("cargo");
    fleet.args(["bench", "--quiet", "--profile", "dev"]).args(build::WORKSPACE).args(["--bench", "fleet"]);
    fleet.env("RIPTRACE_BIN", &riptrace).env("RIPTRACE_SERVER_BIN", &server);
    let mut store = sh::command("cargo");
    store.args(["bench", "--quiet", "--package", "riptrace-server", "--bench", "store", "--"]);
    store.args(["--json", STORED_HITS]);
    let text = sh::output(&mut fleet)? + "\n" + &sh::output(&mut store)?;
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let Line { samples, goal } =
            serde_json::from_str(line).with_context(|| format!("a benchmark printed {line}"))?;
        report.goals.extend(goal.map(|goal| (samples.what.clone(), goal)));
        report.samples.push(samples);
    }
    Ok(report)
}
