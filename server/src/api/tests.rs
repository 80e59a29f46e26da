//! The API by requests, without a listener.

use std::{path::Path, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Finality, HitPage, Live, Session, SessionState, SessionStatus},
        event::Certificate,
        evidence::Evidence,
    },
};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::{Api, openapi, router, routes};
use crate::{
    fleet::Fleet,
    store::{Incoming, Options, Placement, Store, Taken, testing::hit},
};

struct Fixture {
    _folder: TempDir,
    fleet: Arc<Fleet>,
    store: Store,
    router: Router,
}

fn fixture(token: Option<&str>) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("hits.db"), Options::default()).unwrap();
    let fleet = Arc::new(Fleet::default());
    let api = Api::new(Arc::clone(&fleet), store.clone(), token.map(str::to_owned)).unwrap();
    Fixture { _folder: folder, fleet, store, router: router(api) }
}

impl Fixture {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:7440");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 10_000_000).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, &[], "").await
    }
}

/// Makes a session without a broker.
fn session(state: SessionState) -> Session {
    Session {
        id: SessionId::from("s"),
        name: "slow orders".to_owned(),
        state,
        created_ns: 1,
        expires_ns: 2,
        created_by: "local".to_owned(),
        tracepoints: Vec::new(),
    }
}

/// Stores hits of the session; the first `placed` of them have their place.
fn fill(store: &Store, stream_seq: u64, seqs: std::ops::Range<u64>, placed: usize) {
    let of = |(index, seq)| Incoming { stream_seq, index, service: Arc::from("orders"), hit: hit("t", seq) };
    let first = seqs.start;
    let taken = store.ingest(&seqs.enumerate().map(of).collect::<Vec<_>>());
    let placements = (first..).zip(taken).take(placed).map(|(seq, taken)| {
        let Taken::New(arrival) = taken else { panic!("{taken:?}") };
        Placement {
            arrival,
            order: seq + 1,
            place: (1000 + seq, 0, seq),
            late: false,
            evidence: serde_json::from_value(serde_json::json!({ "d": 1, "k": [seq, 0, 0], "p": 1 }))
                .unwrap(),
        }
    });
    store.place(&placements.collect::<Vec<_>>());
    store.commit(stream_seq, None).unwrap();
}

#[tokio::test]
async fn hits_are_paged_by_every_name_of_their_session() {
    let fixture = fixture(None);
    fixture.fleet.take_session(session(SessionState::Running));
    fill(&fixture.store, 1, 0..10, 7);
    for name in ["s", "slow%20orders"] {
        let (status, text) = fixture.get(&format!("/api/v1/sessions/{name}/hits?limit=6")).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let page: HitPage = serde_json::from_str(&text).unwrap();
        assert_eq!(page.hits.len(), 6);
        assert_eq!(page.hits[1].hit.certificate, Some(Certificate::SameGoroutine));
        let path = format!("/api/v1/sessions/{name}/hits?limit=6&after={}", page.next.unwrap());
        let rest: HitPage = serde_json::from_str(&fixture.get(&path).await.1).unwrap();
        let rest: Vec<_> = rest.hits.iter().map(|stored| (stored.hit.seq, stored.finality)).collect();
        let provisional = Finality::Provisional;
        assert_eq!(rest, [(6, Finality::Final), (7, provisional), (8, provisional), (9, provisional)]);
    }
    let (status, text) = fixture.get("/api/v1/sessions/s/hits?after=x").await;
    assert_eq!((status.as_u16(), code(&text).as_str()), (400, "bad_request"));
    let (_, text) = fixture.get("/api/v1/sessions/s").await;
    let status: SessionStatus = serde_json::from_str(&text).unwrap();
    assert_eq!(status.stored, 10);
}

/// A commit waits for the disk for seconds where that is busy.
#[test]
fn while_a_commit_waits_for_the_disk_nothing_else_stands_still() {
    let fixture = fixture(None);
    fixture.fleet.take_session(session(SessionState::Running));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (commit, committed) = std::sync::mpsc::channel();
    let (asked, may_commit) = std::sync::mpsc::channel::<()>();
    let store = fixture.store.clone();
    let writer = std::thread::spawn(move || {
        let committing = store.committing();
        commit.send(()).unwrap();
        // Never, if who asks for the state holds up the one thread that there is.
        may_commit.recv().unwrap();
        drop(committing);
    });
    committed.recv().unwrap();
    runtime.block_on(async {
        let everything_else = async {
            // Behind the first steps of the requests.
            tokio::task::yield_now().await;
            asked.send(()).unwrap();
        };
        let (status, metrics, ()) =
            tokio::join!(fixture.get("/api/v1/sessions/s"), fixture.get("/metrics"), everything_else);
        assert_eq!((status.0, metrics.0), (StatusCode::OK, StatusCode::OK));
    });
    writer.join().unwrap();
}

#[tokio::test]
async fn an_export_is_read_back() {
    let fixture = fixture(None);
    fixture.fleet.take_session(session(SessionState::Running));
    fill(&fixture.store, 1, 0..700, 650);
    let (status, text) = fixture.get("/api/v1/sessions/s/export").await;
    assert_eq!(status, StatusCode::OK);
    let evidence = Evidence::open(text.as_bytes()).unwrap();
    assert_eq!(evidence.header().hits, 700);
    let seqs: Vec<_> = evidence.map(|stored| stored.unwrap().hit.seq).collect();
    assert_eq!(seqs, (0..700).collect::<Vec<_>>());
}

/// The ids and events of a body of server-sent events.
fn events(text: &str) -> Vec<(Option<String>, Live)> {
    text.split("\n\n")
        .filter_map(|event| {
            let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
            let live = serde_json::from_str(field("data: ")?).unwrap();
            Some((field("id: ").map(str::to_owned), live))
        })
        .collect()
}

fn seqs_of(events: &[(Option<String>, Live)]) -> (Vec<u64>, Vec<u64>) {
    let (mut came, mut became_final) = (Vec::new(), Vec::new());
    for (_, event) in events {
        match event {
            Live::Hit(stored) => came.push(stored.hit.seq),
            Live::Final(stored) => became_final.push(stored.hit.seq),
            _ => {}
        }
    }
    (came, became_final)
}

#[tokio::test]
async fn who_follows_gets_hits_places_and_the_end_and_goes_on_behind_an_event() {
    let fixture = fixture(None);
    fixture.fleet.take_session(session(SessionState::Stopped));
    fill(&fixture.store, 1, 0..700, 700);
    let (status, text) = fixture.get("/api/v1/sessions/s/live?cursor=0").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let all = events(&text);
    let expect: Vec<u64> = (0..700).collect();
    assert_eq!(seqs_of(&all), (expect.clone(), expect.clone()));
    assert_eq!(all.last().unwrap().1, Live::Stopped);
    // From any event on, by the header that browsers send.
    let at = all
        .iter()
        .position(|(_, event)| matches!(event, Live::Final(stored) if stored.hit.seq == 400))
        .unwrap();
    let id = all[at].0.clone().unwrap();
    let headers = [("last-event-id", id.as_str())];
    let (_, text) = fixture.ask(Method::GET, "/api/v1/sessions/s/live?cursor=0", &headers, "").await;
    assert_eq!(seqs_of(&events(&text)), seqs_of(&all[at + 1..]));
    // From now on, there is nothing but the end.
    let (_, text) = fixture.get("/api/v1/sessions/s/live").await;
    assert_eq!(seqs_of(&events(&text)), (vec![], vec![]));
    let (status, text) = fixture.get("/api/v1/sessions/s/live?cursor=1.x").await;
    assert_eq!((status.as_u16(), code(&text).as_str()), (400, "bad_request"));
}

#[tokio::test]
async fn hits_that_come_while_somebody_follows_are_told() {
    let fixture = fixture(None);
    fixture.fleet.take_session(session(SessionState::Running));
    let reader = fixture.get("/api/v1/sessions/s/live?cursor=0");
    let writer = async {
        for part in 0..5 {
            tokio::task::yield_now().await;
            fill(&fixture.store, part + 1, part * 100..(part + 1) * 100, 100);
        }
        tokio::task::yield_now().await;
        fixture.fleet.forget_session(&SessionId::from("s"));
    };
    let ((_, text), ()) = tokio::join!(reader, writer);
    let expect: Vec<u64> = (0..500).collect();
    assert_eq!(seqs_of(&events(&text)), (expect.clone(), expect));
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn code(text: &str) -> String {
    let error: Value = serde_json::from_str(text).unwrap();
    assert!(error["text"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    error["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_empty_fleet_has_empty_answers() {
    let fixture = fixture(None);
    for path in ["/api/v1/hosts", "/api/v1/services", "/api/v1/sessions", "/api/v1/audit"] {
        assert_eq!(fixture.get(path).await, (StatusCode::OK, "[]".to_owned()), "{path}");
    }
    assert_eq!(fixture.get("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, text) = fixture.get("/readyz").await;
    assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "there is no broker yet\n"));
    let (status, text) = fixture.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("\nriptrace_store_hits_total 0\n"), "{text}");
    assert!(text.contains("riptrace_hosts{status=\"alive\"} 0\n"), "{text}");
    // As Prometheus reads it: each line a comment or a name with a value.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn errors_are_told_with_a_code_and_a_text() {
    let fixture = fixture(None);
    for (method, path, body, status, expect) in [
        (Method::GET, "/nowhere", "", 404, "not_found"),
        (Method::GET, "/api/v1/sessions/x", "", 404, "not_found"),
        (Method::GET, "/api/v1/sessions/x/hits", "", 404, "not_found"),
        (Method::GET, "/api/v1/sessions/x/hits?line=abc", "", 400, "bad_request"),
        (Method::GET, "/api/v1/sessions/x/live", "", 404, "not_found"),
        (Method::GET, "/api/v1/sessions/x/export", "", 404, "not_found"),
        (Method::GET, "/api/v1/hosts/x/processes", "", 404, "not_found"),
        (Method::PUT, "/api/v1/sessions", "", 405, "bad_request"),
        (Method::POST, "/api/v1/sessions", "{", 400, "bad_request"),
        (Method::POST, "/api/v1/sessions", "{\"tracepoints\":7}", 422, "bad_request"),
        (Method::POST, "/api/v1/sessions", "{}", 503, "unreachable"),
        (Method::POST, "/api/v1/lines", "{\"file\":\"a.go\"}", 404, "not_found"),
        (Method::POST, "/api/v1/kill", "{\"session\":\"s_1\"}", 404, "not_found"),
        (Method::POST, "/api/v1/kill", "\"everything\"", 422, "bad_request"),
    ] {
        let (found, text) = fixture.ask(method.clone(), path, &[JSON], body).await;
        assert_eq!(found.as_u16(), status, "{method} {path} {text}");
        assert_eq!(code(&text), expect, "{method} {path} {text}");
    }
    let (status, text) = fixture.ask(Method::POST, "/api/v1/sessions", &[], "{}").await;
    assert_eq!((status.as_u16(), code(&text).as_str()), (415, "bad_request"));
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(300_000));
    let (status, text) = fixture.ask(Method::POST, "/api/v1/sessions", &[JSON], &long).await;
    assert_eq!((status.as_u16(), code(&text).as_str()), (413, "bad_request"));
}

#[tokio::test]
async fn what_was_tried_is_in_the_audit_log() {
    let fixture = fixture(None);
    fixture.ask(Method::POST, "/api/v1/kill", &[JSON], "{\"host\":\"node-a\"}").await;
    let (_, text) = fixture.get("/api/v1/audit").await;
    let entries: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entries[0]["action"], "kill");
    assert_eq!(entries[0]["subject"], "host node-a");
    assert_eq!(entries[0]["who"], "local");
    assert_eq!(entries[0]["detail"], serde_json::json!({ "host": "node-a" }));
    assert!(entries[0]["error"].is_string());
    assert_eq!(fixture.get("/api/v1/audit?after=1").await.1, "[]");
}

#[tokio::test]
async fn without_a_token_only_this_machine_is_answered() {
    let fixture = fixture(None);
    for (headers, status) in [
        (vec![("host", "localhost:7440")], 200),
        (vec![("host", "[::1]:7440")], 200),
        (vec![("host", "evil.example")], 421),
        (vec![("host", "evil.example:7440"), ("origin", "http://evil.example:7440")], 421),
        (vec![("host", "127.0.0.1:7440"), ("origin", "http://127.0.0.1:7440")], 200),
        (vec![("host", "127.0.0.1:7440"), ("origin", "http://evil.example")], 403),
        (vec![("host", "127.0.0.1:7440"), ("origin", "null")], 403),
    ] {
        let (found, text) = fixture.ask(Method::GET, "/api/v1/hosts", &headers, "").await;
        assert_eq!(found.as_u16(), status, "{headers:?} {text}");
    }
}

#[tokio::test]
async fn with_a_token_only_its_bearer_is_answered() {
    let fixture = fixture(Some("secret"));
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer wrong")], 401),
        (vec![("authorization", "secret")], 401),
        (vec![("authorization", "Bearer secret")], 200),
        (vec![("host", "riptrace.example"), ("authorization", "bearer secret")], 200),
    ] {
        for path in ["/api/v1/hosts", "/metrics"] {
            let (found, text) = fixture.ask(Method::GET, path, &headers, "").await;
            assert_eq!(found.as_u16(), status, "{headers:?} {text}");
        }
    }
    assert_eq!(fixture.get("/healthz").await.0, StatusCode::OK);
    assert_eq!(fixture.get("/api/v1/nowhere").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_published_document_is_what_the_routes_say() {
    let document = openapi::document();
    for route in routes::table() {
        assert!(
            openapi::has(&document, &route.method, &route.full_path()),
            "{} {}",
            route.method,
            route.path
        );
    }
    let names: Vec<_> = routes::table().iter().map(|route| route.name).collect();
    let unique: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "each operation has a name of its own");
    check_references(&document, &document);
    let expect = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/openapi.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &expect).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == expect,
        "docs/schema/openapi.json is not what the routes say; run UPDATE_SCHEMA=1 cargo test -p riptrace-server openapi api::"
    );
    let (_, served) = fixture(None).get("/api/v1/openapi.json").await;
    assert_eq!(serde_json::from_str::<Value>(&served).unwrap(), document);
}

/// Whatever is referred to is there.
fn check_references(value: &Value, document: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            object.values().for_each(|value| check_references(value, document));
        }
        Value::Array(values) => values.iter().for_each(|value| check_references(value, document)),
        _ => {}
    }
}
