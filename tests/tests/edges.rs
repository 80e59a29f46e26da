//! Built-in tracepoints of message edges, against what a client and a server say that they sent and received.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::BTreeMap, net::TcpListener, ops::ControlFlow, path::Path, time::Duration};

use riptrace_agent::{
    binary::{debug::DebugOptions, executable::Executable},
    probe::{Kernel, KernelOptions},
    trace::{
        Image, ImageId, PlannedLocation, Planner, ProcessScope, Request, Tracer, Wanted,
        edges::{self, BuiltIn},
    },
};
use riptrace_common::wire::event::{Direction, Event, Hit};
use riptrace_tests::{
    fixture::Fixture,
    go::{self, Mode, Version},
    requirements,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Plans every built-in tracepoint that the program has a function for.
fn planned(
    executable: &Path,
    planner: &mut Planner,
) -> (ImageId, Vec<(&'static BuiltIn, Wanted, PlannedLocation)>) {
    let options = DebugOptions::from_environment(None);
    let image = Image::load(Executable::open(executable).unwrap(), &options, &|_| {});
    let requests = edges::requests(&image);
    let image = planner.add_image(image);
    let plan = |(built_in, wanted): (&'static BuiltIn, Wanted)| {
        let planned = planner.plan(image, &wanted).unwrap_or_else(|error| panic!("{}: {error}", built_in.id));
        (built_in, wanted, planned)
    };
    (image, requests.into_iter().map(plan).collect())
}

/// Arms every built-in tracepoint for the processes.
fn armed(executable: &Path, pids: &[u32]) -> Tracer {
    let mut planner = Planner::default();
    let (image, planned) = planned(executable, &mut planner);
    let ids: Vec<&str> = planned.iter().map(|(built_in, ..)| built_in.id).collect();
    assert_eq!(ids.len(), edges::BUILT_INS.len(), "{ids:?}");
    let options = KernelOptions { max_tracepoints: 64, open_calls: 1024, ..KernelOptions::default() };
    let mut tracer = Tracer::start(Kernel::load(&options).unwrap(), planner).unwrap();
    for (built_in, wanted, PlannedLocation { plans, .. }) in planned {
        let scope = ProcessScope::Only(pids.to_vec());
        let request = Request::of(built_in.id, image, executable.to_owned(), plans, scope, wanted);
        tracer.arm(request).unwrap();
    }
    tracer
}

/// The traceparents that one side says it saw, sorted.
fn said(messages: &Value, which: impl Fn(&Value) -> bool) -> Vec<String> {
    let mut all: Vec<String> = messages
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["traceparent"] != "" && which(message))
        .map(|message| message["traceparent"].as_str().unwrap().to_owned())
        .collect();
    all.sort();
    all
}

/// Versions in which a function or a result that is named has another name than in the one before.
const RENAMED: [&str; 3] = ["1.21.13", "1.23.12", "1.27.0"];

#[test]
fn the_places_are_found_in_every_version() {
    for version in RENAMED.map(|version| Version(version.to_owned())) {
        if !requirements::go("places of messages", &version) {
            continue;
        }
        let service = go::sources().join("../services/chain");
        let executable = go::build_in(&service, &version, Mode::Optimised).unwrap();
        let (_, planned) = planned(&executable, &mut Planner::default());
        let ids: Vec<&str> = planned.iter().map(|(built_in, ..)| built_in.id).collect();
        let http = edges::BUILT_INS.iter().map(|built_in| built_in.id).filter(|id| id.contains(".http"));
        assert_eq!(ids, http.collect::<Vec<_>>(), "{}", version.0);
    }
}

#[test]
fn messages_are_seen_where_they_leave_and_where_they_enter() {
    if !requirements::bpf("message edges") {
        return;
    }
    let directory = go::sources().join("otel");
    let executable = match go::build_in(&directory, &Version::local().unwrap(), Mode::Optimised) {
        Ok(executable) => executable,
        Err(error) if format!("{error:#}").contains("dial tcp") => {
            return requirements::leave_out("message edges", "OpenTelemetry's modules can't be fetched here");
        }
        Err(error) => panic!("{error:#}"),
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut server = Fixture::start(&executable, &["server", &port]).unwrap();
    let mut client = Fixture::start(&executable, &["client", &port]).unwrap();
    let (server_pid, client_pid) = (server.pid(), client.pid());
    let mut tracer = armed(&executable, &[server_pid, client_pid]);
    server.release().unwrap();
    // The client tries again until it listens.
    client.release().unwrap();
    client.wait_done(TIMEOUT).unwrap();
    server.wait_done(TIMEOUT).unwrap();
    let mut hits: Vec<Hit> = Vec::new();
    let _ = tracer.poll_all(&mut |event| {
        match event {
            Event::Hit(hit) => hits.push(*hit),
            Event::Error(error) => panic!("{}", error.message),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    drop(tracer);
    let sent = client.end().unwrap().results["client"].clone();
    let received = server.end().unwrap().results["server"].clone();

    let mut seen: BTreeMap<(u32, &str, Direction), Vec<String>> = BTreeMap::new();
    let mut seqs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for hit in &hits {
        let edge = hit.edge.as_ref().unwrap();
        assert!(hit.variables.is_empty());
        assert_eq!(&edge.traceparent[3..35], &**hit.trace_id.as_ref().unwrap());
        seen.entry((hit.pid, &hit.tracepoint, edge.direction))
            .or_default()
            .push(edge.traceparent.to_string());
        seqs.entry(&hit.tracepoint).or_default().push(hit.seq);
    }
    for all in seen.values_mut() {
        all.sort();
    }
    for (tracepoint, mut seqs) in seqs {
        seqs.sort_unstable();
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "{tracepoint}");
    }
    let replied = |message: &Value| message["replied"] == true;
    let expected = BTreeMap::from([
        ((client_pid, "builtin.http.client", Direction::Send), said(&sent, |_| true)),
        ((client_pid, "builtin.http.client", Direction::ReplyReceive), said(&sent, replied)),
        (
            (client_pid, "builtin.otel.inject", Direction::Send),
            said(&sent, |message| message["propagated"] == true),
        ),
        ((server_pid, "builtin.http.server", Direction::Receive), said(&received, |_| true)),
        (
            (server_pid, "builtin.http.server.reply", Direction::ReplySend),
            said(&received, |message| replied(message) && message["http2"] == false),
        ),
        (
            (server_pid, "builtin.http2.server.reply", Direction::ReplySend),
            said(&received, |message| replied(message) && message["http2"] == true),
        ),
        ((server_pid, "builtin.otel.extract", Direction::Receive), said(&received, |_| true)),
    ]);
    assert!(expected.values().all(|all| all.len() > 10));
    for (of, expected) in &expected {
        assert_eq!(seen.get(of), Some(expected), "{of:?}");
    }
    assert_eq!(seen.len(), expected.len(), "{:?}", seen.keys());
}
