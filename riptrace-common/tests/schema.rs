//! The JSON Schema of the wire types under `docs/schema` is what the types say.
//!
//! `UPDATE_SCHEMA=1 cargo test -p riptrace-common --features user` writes it anew.

use std::{fs, path::Path};

use riptrace_common::wire::{
    api, batch, clock, control,
    event::Event,
    message::{PageRequest, Reply},
    profile,
    value::Value,
};
use schemars::{Schema, schema_for};

#[test]
fn the_published_schema_is_what_the_types_say() {
    for (name, title, schema) in [
        ("event.json", "One line of `riptrace probe --json`", schema_for!(Event)),
        ("value.json", "A Go value", schema_for!(Value)),
        ("reply.json", "A reply; `ok` is of the type of the request", schema_for!(Reply<serde_json::Value>)),
        ("page.json", "Asks for a piece of a long reply", schema_for!(PageRequest)),
        ("profile.get.request.json", "HOST.profile.get: request", schema_for!(profile::ProfileRequest)),
        ("profile.get.reply.json", "HOST.profile.get: reply", schema_for!(profile::Profile)),
        (
            "debugger.attach.request.json",
            "HOST.debugger.attach, .detach: request",
            schema_for!(control::AttachRequest),
        ),
        (
            "debugger.attach.reply.json",
            "HOST.debugger.attach, .detach: reply",
            schema_for!(control::AttachReply),
        ),
        (
            "debugger.createTracepoint.request.json",
            "HOST.debugger.createTracepoint: request",
            schema_for!(control::CreateTracepoint),
        ),
        (
            "debugger.createTracepoint.reply.json",
            "HOST.debugger.createTracepoint: reply",
            schema_for!(control::TracepointState),
        ),
        (
            "debugger.removeTracepoint.request.json",
            "HOST.debugger.removeTracepoint: request",
            schema_for!(control::RemoveTracepoints),
        ),
        (
            "debugger.removeTracepoint.reply.json",
            "HOST.debugger.removeTracepoint: reply",
            schema_for!(control::Removed),
        ),
        (
            "debugger.listTracepoints.request.json",
            "HOST.debugger.listTracepoints: request",
            schema_for!(control::ListTracepoints),
        ),
        (
            "debugger.listTracepoints.reply.json",
            "HOST.debugger.listTracepoints: reply",
            schema_for!(control::TracepointList),
        ),
        ("debugger.lines.request.json", "HOST.debugger.lines: request", schema_for!(control::LinesRequest)),
        ("debugger.lines.reply.json", "HOST.debugger.lines: reply", schema_for!(control::LinesReply)),
        (
            "debugger.functions.request.json",
            "HOST.debugger.functions: request",
            schema_for!(control::FunctionsRequest),
        ),
        (
            "debugger.functions.reply.json",
            "HOST.debugger.functions: reply",
            schema_for!(control::FunctionsReply),
        ),
        (
            "debugger.explain.request.json",
            "HOST.debugger.explain: request",
            schema_for!(control::ExplainRequest),
        ),
        ("debugger.explain.reply.json", "HOST.debugger.explain: reply", schema_for!(control::ExplainReply)),
        (
            "debugger.source.request.json",
            "HOST.debugger.source: request",
            schema_for!(control::SourceRequest),
        ),
        ("debugger.source.reply.json", "HOST.debugger.source: reply", schema_for!(control::SourceReply)),
        ("clock.sync.request.json", "HOST.clock.sync: request", schema_for!(clock::SyncRequest)),
        ("clock.sync.reply.json", "HOST.clock.sync: reply", schema_for!(clock::SyncReply)),
        ("debugger.trace.json", "HOST.debugger.trace: a batch", schema_for!(batch::Batch)),
        ("heartbeat.json", "HOST.heartbeat", schema_for!(batch::Heartbeat)),
        ("server.order.json", "_server.order", schema_for!(clock::OrderMark)),
        ("evidence.header.json", "The first line of an exported session", schema_for!(api::EvidenceHeader)),
        ("evidence.hit.json", "Each further line of an exported session", schema_for!(api::StoredHit)),
    ] {
        check(name, title, schema);
    }
}

fn check(name: &str, title: &str, mut schema: Schema) {
    schema.insert("title".to_owned(), title.into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(name);
    let expect = format!("{}\n", serde_json::to_string_pretty(&schema).expect("a schema is JSON"));
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::create_dir_all(path.parent().expect("the file lies in a folder"))
            .expect("docs/schema can be made");
        fs::write(&path, &expect).expect("the schema can be written");
        return;
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == expect,
        "docs/schema/{name} is not what the types say; run UPDATE_SCHEMA=1 cargo test -p riptrace-common --features user"
    );
}
