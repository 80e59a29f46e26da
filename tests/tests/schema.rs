//! Every line that `riptrace probe --json` prints about the fixtures fits the published schema.

use std::{fs, path::Path, time::Duration};

use riptrace_tests::{
    fixture::{Fixture, ProbedLine, probed_lines},
    go::{self, Mode, Version},
    requirements,
    riptrace::Running,
    truth,
};

const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn the_lines_of_a_probe_fit_the_schema() {
    if !requirements::bpf("schema") {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/event.json");
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(!validator.is_valid(&serde_json::json!({"kind": "hit"})), "the schema accepts anything");

    let version = Version::local().unwrap();
    let executable = go::build(&version, Mode::Debug).unwrap();
    let fixtures = ["scalars", "composites", "maps", "interfaces", "chans", "funcs", "pointers", "wellknown"];
    let mut fixture = Fixture::start(&executable, &fixtures).unwrap();
    let locations: Vec<String> = probed_lines(&version)
        .unwrap()
        .iter()
        .filter(|line| fixtures.contains(&line.fixture()))
        .map(ProbedLine::location)
        .collect();
    let mut probe = Running::probe(fixture.pid(), &locations, &truth::options("0")).unwrap();
    probe.wait_attached(locations.len(), TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    for kind in ["attached", "hit", "stats", "detached"] {
        assert!(finished.of_kind(kind).count() >= locations.len(), "too few lines of kind {kind}");
        for event in finished.of_kind(kind) {
            let errors: Vec<String> = validator
                .iter_errors(event)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{}\n{event}", errors.join("\n"));
        }
    }
}
