//! The JSON Schema of the wire types under `docs/schema` is what the types say.
//!
//! `UPDATE_SCHEMA=1 cargo test -p riptrace-common --features user` writes it anew.

use std::{fs, path::Path};

use riptrace_common::wire::{event::Event, value::Value};
use schemars::{Schema, schema_for};

#[test]
fn the_published_schema_is_what_the_types_say() {
    for (name, title, schema) in [
        ("event.json", "One line of `riptrace probe --json`", schema_for!(Event)),
        ("value.json", "A Go value", schema_for!(Value)),
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
