//! An agent that holds no tracepoint: what wakes it, and what it keeps.

use std::time::Duration;

use anyhow::Result;
use riptrace_tests::fleet::{Folder, Server};

use super::{
    Goal, row,
    usage::{Caller, processor_time, resident_bytes, wake_ups},
};

/// Until everything that a start brings is over.
const SETTLE: Duration = Duration::from_secs(10);
const MEASURE: Duration = Duration::from_secs(20);

pub(crate) fn measure() -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let agent = server.agent(&folder, "bench", &[])?;
    let _caller = Caller::start()?;
    server.wait_for_services(&[("calls", 1)])?;
    std::thread::sleep(SETTLE);
    let (wakes, time) = (wake_ups(agent.pid())?, processor_time(agent.pid())?);
    std::thread::sleep(MEASURE);
    let seconds = MEASURE.as_secs_f64();
    let woken = (wake_ups(agent.pid())? - wakes) as f64 / seconds;
    let share = 100.0 * (processor_time(agent.pid())? - time).as_secs_f64() / seconds;
    row("an idle agent: times that a thread of it was woken", "a second", &[woken], None);
    row("an idle agent: processor time", "% of a core", &[share], None);
    let mebibytes = resident_bytes(agent.pid())? as f64 / f64::from(1 << 20);
    row("an idle agent: resident memory", "MiB", &[mebibytes], Some(Goal::AtMost(40.0)));
    Ok(())
}
