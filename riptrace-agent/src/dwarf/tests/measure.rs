//! Times on a large program, when one is named: `RIPTRACE_MEASURE=FILE cargo test … measure -- --nocapture`.

use std::time::Instant;

use super::fixture::sections_of;
use crate::dwarf::{DebugInfo, Sections};

#[test]
fn times_on_a_large_program() {
    let Some(path) = std::env::var_os("RIPTRACE_MEASURE") else { return };
    let (sections, _) = sections_of(std::path::Path::new(&path));
    let time = |what: &str, started: Instant| {
        eprintln!("{what:40} {:>9.3} ms", started.elapsed().as_secs_f64() * 1e3);
    };
    eprintln!(
        ".debug_info {} MB, .debug_line {} MB",
        sections.debug_info.len() >> 20,
        sections.debug_line.len() >> 20
    );
    let started = Instant::now();
    let debug = DebugInfo::load(sections.clone()).unwrap();
    time("load, cold", started);
    let kept = debug.index_bytes();
    eprintln!("index {} bytes", kept.len());
    let started = Instant::now();
    let debug = DebugInfo::load(Sections { cached_index: Some(kept), ..sections }).unwrap();
    time("load, warm", started);
    let name = std::env::var("RIPTRACE_MEASURE_FUNCTION")
        .unwrap_or_else(|_| "net/http.(*Transport).roundTrip".to_owned());
    let started = Instant::now();
    let found = debug.functions_matching(&name).unwrap();
    time("functions_matching", started);
    let Some(function) = found.first().and_then(|found| found.functions.first()) else { return };
    let file = function.decl_file.clone().unwrap();
    let started = Instant::now();
    let rows = debug.line_rows(&file).unwrap();
    time("line_rows", started);
    let started = Instant::now();
    let matching = debug.files_matching("transport.go").len();
    time("files_matching", started);
    let started = Instant::now();
    let mut variables = 0;
    let own = debug.rows_of(function).unwrap();
    for row in &own {
        variables += debug.variables_at(function, row.address).unwrap().len();
    }
    time("variables_at, every row", started);
    eprintln!(
        "{} rows in file, {} in function, {variables} variables, {matching} files",
        rows.len(),
        own.len()
    );
    let started = Instant::now();
    let _ = debug.globals("net/http");
    time("globals", started);
    let started = Instant::now();
    let _ = debug.type_named("runtime.g");
    time("type_named", started);
    let started = Instant::now();
    let _ = debug.cfa_from_sp(function.entry);
    time("cfa_from_sp", started);
}
