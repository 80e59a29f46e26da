//! Another client than ours: a Python script, written from docs/protocol.md alone.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use riptrace_tests::{
    chain::{self, Chain},
    fleet::{Folder, Server},
    requirements,
};
use serde_json::Value;

/// Hits that the script waits for.
const HITS: usize = 20;

#[test]
fn a_client_in_another_language_sets_a_tracepoint_and_reads_its_hits() -> Result<()> {
    if !requirements::bpf("a_client_in_another_language") {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join("target/tools/nats-py/bin/python");
    if !python.is_file() {
        requirements::leave_out(
            "a_client_in_another_language",
            "target/tools has no nats-py; make test installs it",
        );
        return Ok(());
    }
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let _one = server.agent(&folder, "one", &["front"])?;
    let _two = server.agent(&folder, "host two.*", &["middle", "back"])?;
    let mut chain = Chain::start(2 * HITS)?;
    server.wait_for_services(&[("front", 1), ("middle", 1), ("back", 1)])?;
    let script = Command::new(python)
        .arg(root.join("tests/protocol/client.py"))
        .args([&server.nats, "middle", &chain::location()?, &HITS.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    // Requests come and come: whenever the script has armed its tracepoint, there are some.
    let requests = std::thread::spawn(move || {
        for _ in 0..30 {
            chain.front.make_requests()?;
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        chain.end()
    });
    let output = script.wait_with_output()?;
    ensure!(output.status.success(), "the script ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    ensure!(of("agents")[0]["hosts"] == serde_json::json!(["host two.*", "one"]), "{text}");
    ensure!(of("tracepoint").len() == 1 && of("tracepoint")[0]["status"] == "armed", "{text}");
    let hits = of("hit");
    ensure!(hits.len() == HITS);
    let steps = requests.join().ok().context("the requests' thread panicked")??;
    for (seq, hit) in hits.iter().enumerate() {
        ensure!(hit["seq"] == seq && hit["host"] == "host two.*", "hit {seq}: {hit}");
        let step = &hit["variables"].as_array().context("variables")?.iter().find(|it| it["name"] == "step");
        let fields = step.context("step")?["value"]["elem"]["fields"].as_array().context("fields")?;
        let field =
            |name: &str| fields.iter().find(|it| it["name"] == name).map(|it| it["value"]["value"].clone());
        let truth = steps.iter().find(|step| Some(Value::from(step.name.clone())) == field("Name"));
        let truth = truth.with_context(|| format!("no service made the step of {hit}"))?;
        ensure!(
            field("Trace") == Some(truth.trace.clone().into()) && field("Work") == Some(truth.work.into())
        );
    }
    Ok(())
}
