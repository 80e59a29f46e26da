//! What an agent tells of programs, and what its own policy keeps from everyone.

use riptrace_common::wire::control::{
    AttachReply, AttachRequest, ExplainReply, ExplainRequest, FunctionsReply, FunctionsRequest, LinesReply,
    LinesRequest, Origin, SourceReply, SourceRequest,
};

use super::*;

fn target(fixture: &Fixture) -> Target {
    Target { pid: Some(fixture.pid()), ..Target::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_told_of_in_pages_where_they_are_long() {
    if !requirements::bpf("agent, programs") || !nats::is_there("agent, programs") {
        return;
    }
    let server = NatsServer::start_with("max_payload: 32768").unwrap();
    let setting = Setting::with(server, &["--serve-sources"]).await;
    let fixture = counts_fixture();
    let line = probed_line(&Version::local().unwrap(), "counts.Endless").unwrap();

    let attached: AttachReply =
        setting.ask(Endpoint::Attach, &AttachRequest { target: target(&fixture) }).await.unwrap();
    let build = &attached.builds[0];
    assert!(build.ready && build.functions > 1000, "{:?}", build.problem);
    assert!(build.files.iter().any(|file| file.ends_with(&line.file)));

    let range = Some([line.line - 3, line.line + 3]);
    let request = LinesRequest { target: target(&fixture), file: line.file.clone(), range };
    let lines: LinesReply = setting.ask(Endpoint::Lines, &request).await.unwrap();
    let found = lines.lines.iter().find(|found| found.line == line.line).unwrap();
    assert_eq!(found.functions, ["fixtures/counts.loops"]);
    assert!(
        found.sites > 0 && found.variables.iter().any(|variable| &*variable.name == "round"),
        "{found:?}"
    );
    let request = LinesRequest { range: None, ..request };
    let all: LinesReply = setting.ask(Endpoint::Lines, &request).await.unwrap();
    assert!(all.lines.len() > lines.lines.len());

    let request = FunctionsRequest { target: target(&fixture), ..FunctionsRequest::default() };
    let functions: FunctionsReply = setting.ask(Endpoint::Functions, &request).await.unwrap();
    assert!(functions.functions.len() > 1000, "all of them, in pages");
    let request = FunctionsRequest { package: Some("fixtures/counts".to_owned()), ..request };
    let functions: FunctionsReply = setting.ask(Endpoint::Functions, &request).await.unwrap();
    let plain = functions.functions.iter().find(|function| function.name == "fixtures/counts.loops").unwrap();
    assert!(plain.line > 0 && plain.line < line.line && plain.file.ends_with(&line.file));

    let request = ExplainRequest {
        target: target(&fixture),
        location: line.location(),
        options: TraceOptions::default(),
    };
    let explained: ExplainReply = setting.ask(Endpoint::Explain, &request).await.unwrap();
    assert_eq!((explained.bindings.len(), explained.failures.len()), (1, 0));
    assert!(explained.estimated_cost_ns > 0);
    let request = ExplainRequest { location: "nowhere.go:7".to_owned(), ..request };
    let explained: ExplainReply = setting.ask(Endpoint::Explain, &request).await.unwrap();
    assert!(explained.failures[0].reason.contains("nowhere.go"), "{explained:?}");

    let request = SourceRequest { target: target(&fixture), file: line.file.clone() };
    let source: SourceReply = setting.ask(Endpoint::Source, &request).await.unwrap();
    assert!(source.text.lines().nth(line.line as usize - 1).unwrap().contains("//probe:counts.Endless"));

    for (target, code) in [
        (Target { pid: Some(1), ..Target::default() }, ErrorCode::NotFound),
        (target(&fixture), ErrorCode::NotFound),
    ] {
        let request = SourceRequest { target, file: "nowhere.go".to_owned() };
        let refused: Result<SourceReply, _> = setting.ask(Endpoint::Source, &request).await;
        assert_eq!(refused.unwrap_err().code, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_s_own_policy_can_t_be_overridden() {
    if !requirements::bpf("agent, policy") || !nats::is_there("agent, policy") {
        return;
    }
    let folder = Folder::new().unwrap();
    let file = folder.path().join("agent.toml");
    let policy = "[policy]\ndeny_functions = [\"fixtures/counts.pl*\"]\ndeny_variables = [\"j\"]\n";
    std::fs::write(&file, policy).unwrap();
    let server = NatsServer::start().unwrap();
    let setting = Setting::with(server, &["--config", &file.display().to_string()]).await;
    let fixture = counts_fixture();
    let location = |name: &str| probed_line(&Version::local().unwrap(), name).unwrap().location();
    let request = CreateTracepoint { spec: spec("t", fixture.pid(), location("counts.Plain")) };
    let refused: Result<TracepointState, _> = setting.ask(Endpoint::CreateTracepoint, &request).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forbidden);
    assert!(error.text.contains("the agent's own policy"), "{}", error.text);
    assert!(setting.list().await.is_empty());
    let request = SourceRequest { target: target(&fixture), file: "lines.go".to_owned() };
    let refused: Result<SourceReply, _> = setting.ask(Endpoint::Source, &request).await;
    assert_eq!(
        refused.unwrap_err().code,
        ErrorCode::Forbidden,
        "sources are served only where that is wanted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_follows_its_statement_or_is_stale() {
    let Some(setting) = Setting::start("agent, other builds", &[]).await else { return };
    let fixture = counts_fixture();
    let line = probed_line(&Version::local().unwrap(), "counts.Endless").unwrap();
    let text = std::fs::read_to_string(go::sources().join("counts/lines.go")).unwrap();
    let statement = text.lines().nth(line.line as usize - 1).unwrap().trim().to_owned();
    let request = FunctionsRequest {
        target: target(&fixture),
        package: Some("fixtures/counts".to_owned()),
        file: None,
    };
    let functions: FunctionsReply = setting.ask(Endpoint::Functions, &request).await.unwrap();
    let first =
        functions.functions.iter().find(|function| function.name == "fixtures/counts.loops").unwrap().line;
    let origin = |statement: &str| Origin {
        build_id: "another build".to_owned(),
        revision: None,
        function: "fixtures/counts.loops".to_owned(),
        line_offset: line.line - first,
        statement: Some(statement.to_owned()),
    };
    // On the other build the statement was two lines further down.
    let elsewhere = format!("{}:{}", line.file, line.line + 2);
    let spec = |id, statement| TracepointSpec {
        origin: Some(origin(statement)),
        ..spec(id, fixture.pid(), elsewhere.clone())
    };
    let moved = setting.create(spec("t_moved", &statement)).await;
    assert_eq!(moved.status, TracepointStatus::Armed, "{moved:?}");
    let binding = &moved.bindings[0];
    assert!(binding.moved_to.as_ref().unwrap().ends_with(&line.location()), "{binding:?}");
    assert_eq!(binding.sites[0].location.line, line.line);
    let stale = setting.create(spec("t_stale", "n.Endless += 2")).await;
    assert_eq!(stale.status, TracepointStatus::Stale, "{stale:?}");
    assert!(stale.failures[0].reason.contains("no statement `n.Endless += 2` any more"));
}

/// A tracepoint at a branch that mostly goes elsewhere moves, and is listed where it is then.
#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_that_moved_is_listed_where_it_is() {
    let Some(setting) = Setting::start("agent, moving", &[]).await else { return };
    let mut fixture = fixture("passages");
    let location = probed_line(&Version::local().unwrap(), "passages.Seldom").unwrap().location();
    let armed = setting.create(spec("t", fixture.pid(), location)).await;
    let first = &armed.bindings[0].sites[0];
    assert!(first.fast, "{first:?}");
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let listed = setting.list().await;
    let now = &listed[0].bindings[0].sites[0];
    assert!(!now.fast && now.location.pc != first.location.pc, "{now:?}");
    assert!(listed[0].stats.passed > 0, "{:?}", listed[0].stats);
    let truth = fixture.end().unwrap().counts["passages.Seldom"];
    assert_eq!(listed[0].stats.hits, truth, "{:?}", listed[0].stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_on_one_machine_take_some_services_each() {
    let Some(setting) = Setting::start("agent, two", &["--only-service", "nobody's"]).await else { return };
    let folder = Folder::new().unwrap();
    let other = agent(&folder, &setting.server.url(), "b", &["fixtures"], &["--label", "zone=a"]).unwrap();
    setting.peer.wait_for_agent("b").await.unwrap();
    let fixture = counts_fixture();
    let profile: Profile = setting.ask(Endpoint::ProfileGet, &ProfileRequest {}).await.unwrap();
    assert!(profile.processes.is_empty(), "{:?}", profile.processes);
    let profile: Profile =
        setting.peer.ask("b", Endpoint::ProfileGet, &ProfileRequest {}).await.unwrap().unwrap();
    assert!(profile.processes.iter().any(|process| process.pid == fixture.pid()));
    assert!(profile.processes.iter().all(|process| process.service == "fixtures"));
    assert_eq!(profile.host.labels[0].value, "a");

    // Both are found as services, each with subjects of its own.
    let inbox = setting.peer.client.new_inbox();
    let mut found = setting.peer.client.subscribe(inbox.clone()).await.unwrap();
    setting.peer.client.publish_with_reply("$SRV.INFO.riptrace-agent", inbox, "".into()).await.unwrap();
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let info =
            tokio::time::timeout(TIMEOUT, futures::StreamExt::next(&mut found)).await.unwrap().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
        hosts.push(info["metadata"]["host"].as_str().unwrap().to_owned());
        assert_eq!(info["endpoints"].as_array().unwrap().len(), Endpoint::REQUESTS.len() - 1);
    }
    hosts.sort();
    assert_eq!(hosts, ["b", HOST]);
    other.end().unwrap();
}
