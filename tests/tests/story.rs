//! A request's story across services and hosts, against the services' own account of what followed what.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, ensure};
use riptrace_common::wire::event::Certificate;
use riptrace_tests::{
    chain::{self, Chain},
    fleet::{Folder, Server},
    requirements,
};

/// Requests that are made.
const REQUESTS: usize = 50;

#[test]
fn the_story_of_three_services_on_two_hosts_is_the_one_that_they_tell_themselves() -> Result<()> {
    if !requirements::bpf("story") {
        return Ok(());
    }
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let one = server.agent(&folder, "one", &["front", "back"])?;
    let two = server.agent(&folder, "host two.*", &["middle"])?;
    let mut chain = Chain::start(REQUESTS)?;
    server.wait_for_services(&[("front", 1), ("middle", 1), ("back", 1)])?;
    let location = chain::location()?;
    let tracepoints = ["front", "middle", "back"].map(|service| (service, location.as_str()));
    let session = server.session(&tracepoints, &["--rate", "0"], 3)?;

    chain.front.make_requests()?;
    let traces = REQUESTS;
    let steps = chain.end()?;
    let story = server.story(&session, steps.len())?;
    chain::check_order(&steps, &chain::step_names(&story)?)?;

    // Nothing was lost, and it says so.
    let status = server.status(&session)?;
    ensure!(status.stored == steps.len() as u64, "{} of {} are stored", status.stored, steps.len());
    ensure!(status.contradictions.is_empty(), "{:?}", status.contradictions);
    // Every hit knows its request.
    let by_name: HashMap<&str, &str> =
        steps.iter().map(|step| (step.name.as_str(), step.trace.as_str())).collect();
    for stored in &story {
        let name = chain::step_name(&stored.hit)?;
        if stored.service != "front" {
            let trace = stored.hit.trace_id.as_deref();
            // From the first request on: messages are seen before the tracepoint counts as armed.
            ensure!(trace == by_name.get(name.as_str()).copied(), "{name} is of {trace:?}");
        }
    }
    let distinct: HashSet<_> = story.iter().filter_map(|stored| stored.hit.trace_id.as_deref()).collect();
    ensure!(distinct.len() == traces, "{} traces", distinct.len());
    // One kernel's clock orders all of it here, so everything is proven.
    let orders: Vec<u64> = story.iter().filter_map(|stored| stored.hit.order).collect();
    ensure!(
        orders.windows(2).all(|pair| pair[0] < pair[1]) && orders.len() == story.len(),
        "orders: {orders:?}"
    );
    for pair in story.windows(2) {
        let certificate = pair[1].hit.certificate;
        let proven = !matches!(certificate, None | Some(Certificate::Ambiguous | Certificate::Clock));
        // What was late, because an agent got no processor for seconds, was ordered without its neighbours.
        let is_late = pair.iter().any(|stored| stored.hit.late);
        ensure!(proven || is_late, "{certificate:?} between {:#?} and {:#?}", pair[0], pair[1]);
    }
    one.end()?;
    two.end()?;
    Ok(())
}
