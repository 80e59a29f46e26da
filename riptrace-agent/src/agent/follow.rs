//! A tracepoint on another build than the one that it was made for: it follows the unchanged statement to its new line, or
//! is stale. What it was there is told by [`Origin`]: function, lines from its `func`, the statement's text.

use std::fs;

use riptrace_common::wire::{control::Origin, event::Location};

use crate::{binary::FileIdentity, dwarf::DebugInfo, plan::sites::LocationRequest, trace::Image};

/// Bytes of a source file that are looked at.
const MAX_SOURCE_BYTES: u64 = 8 * 1024 * 1024;

/// Where a tracepoint belongs on a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Where it was asked for.
    Same,
    /// Somewhere else.
    Moved(LocationRequest),
    /// Nowhere, and why.
    Stale(String),
}

/// A function on a build: its file, and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extent {
    file: String,
    first: u32,
    last: u32,
}

/// What a line is on a build, so that it is found on others. `None`: its function is not known.
#[must_use]
pub fn origin(
    image: &Image,
    build_id: Option<&str>,
    revision: Option<&str>,
    at: &Location,
) -> Option<Origin> {
    let extent = extent(image, &at.function)?;
    let source = source_of(image, &extent.file);
    let statement = source.as_deref().and_then(|source| source.lines().nth(at.line.checked_sub(1)? as usize));
    Some(Origin {
        build_id: build_id?.to_owned(),
        revision: revision.map(str::to_owned),
        function: at.function.to_string(),
        line_offset: at.line.checked_sub(extent.first)?,
        statement: statement.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
    })
}

/// Looks for a tracepoint's place on a build.
#[must_use]
pub fn follow(
    image: &Image,
    build_id: Option<&str>,
    location: &LocationRequest,
    origin: Option<&Origin>,
) -> Followed {
    let Some(origin) = origin.filter(|origin| build_id != Some(origin.build_id.as_str())) else {
        return Followed::Same;
    };
    match location {
        // A function is found by its name on every build.
        LocationRequest::Function { .. } => Followed::Same,
        LocationRequest::Address { link_address } => Followed::Stale(format!(
            "the address {link_address:#x} was of build {}; name a line or a function to trace this one",
            origin.build_id
        )),
        LocationRequest::Line { line, .. } => {
            let Some(extent) = extent(image, &origin.function) else {
                return Followed::Stale(format!("this build has no function {} any more", origin.function));
            };
            let source = source_of(image, &extent.file);
            let has_code =
                |line: u32| image.lines_with_code(&extent.file).is_ok_and(|lines| lines.contains(&line));
            match place(&extent, origin, source.as_deref(), &has_code) {
                Ok(found) if found == *line => Followed::Same,
                Ok(found) => Followed::Moved(LocationRequest::Line { file: extent.file, line: found }),
                Err(reason) => Followed::Stale(reason),
            }
        }
    }
}

/// The line of the statement: where the source is there, the line with the same text that is closest to where it was in
/// the function; else the line at the same distance from the function's first. Pure.
fn place(
    extent: &Extent,
    origin: &Origin,
    source: Option<&str>,
    has_code: &dyn Fn(u32) -> bool,
) -> Result<u32, String> {
    let Extent { file, first, last } = extent;
    let expected = first.saturating_add(origin.line_offset);
    if let (Some(source), Some(statement)) = (source, &origin.statement) {
        let same = (1_u32..).zip(source.lines()).filter(|(line, text)| {
            (*first..=*last).contains(line) && text.trim() == statement.trim() && has_code(*line)
        });
        return same
            .map(|(line, _)| line)
            .min_by_key(|line| line.abs_diff(expected))
            .ok_or_else(|| format!("{} has no statement `{statement}` any more ({file})", origin.function));
    }
    if (*first..=*last).contains(&expected) && has_code(expected) {
        Ok(expected)
    } else {
        Err(format!(
            "{} has no code {} lines behind its first any more ({file}:{expected})",
            origin.function, origin.line_offset
        ))
    }
}

fn extent(image: &Image, function: &str) -> Option<Extent> {
    image
        .debug
        .as_deref()
        .and_then(|debug| extent_by_debug_data(debug, function))
        .or_else(|| extent_by_table(image, function))
}

fn extent_by_debug_data(debug: &DebugInfo, name: &str) -> Option<Extent> {
    let found = debug.functions_matching(name).ok()?.into_iter().find(|found| *found.name == *name)?;
    let own = found.functions.first()?;
    let file = own.decl_file.as_ref()?.to_string();
    let first = own.decl_line?;
    let rows = debug.rows_of(own).ok()?;
    let last = rows.iter().filter(|row| *row.file == *file).map(|row| row.line).max()?;
    Some(Extent { file, first, last: last.max(first) })
}

fn extent_by_table(image: &Image, name: &str) -> Option<Extent> {
    let function = image.executable.pclntab().ok()?.function_named(name)?;
    let file = function.file()?.to_owned();
    let first = Some(function.start_line()).filter(|line| *line > 0)?;
    let last = function.lines().iter().filter(|range| range.file == file).map(|range| range.line).max()?;
    Some(Extent { file, first, last: last.max(first) })
}

/// The source that the binary was built from, as far as can be told: a file of that path, not younger than the binary.
fn source_of(image: &Image, file: &str) -> Option<String> {
    let metadata = fs::metadata(file).ok().filter(|metadata| metadata.is_file())?;
    let is_older = FileIdentity::of(&metadata).modified_ns <= image.executable.identity().modified_ns;
    (is_older && metadata.len() <= MAX_SOURCE_BYTES).then(|| fs::read_to_string(file).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "package main\n\nfunc f(x int) {\n\tx++\n\tg(x)\n\tg(x)\n}\n\nfunc h() {\n\tg(x)\n}\n";

    fn origin(line_offset: u32, statement: Option<&str>) -> Origin {
        Origin {
            build_id: "old".to_owned(),
            revision: None,
            function: "main.f".to_owned(),
            line_offset,
            statement: statement.map(str::to_owned),
        }
    }

    #[test]
    fn a_statement_is_followed_within_its_function() {
        let extent = Extent { file: "main.go".to_owned(), first: 3, last: 7 };
        let placed = |origin: &Origin, source| place(&extent, origin, source, &|line| line != 6);
        assert_eq!(placed(&origin(2, None), None), Ok(5));
        assert_eq!(placed(&origin(7, Some("g(x)")), Some(SOURCE)), Ok(5), "not line 6, which has no code");
        assert_eq!(placed(&origin(1, Some("  x++ ")), Some(SOURCE)), Ok(4));
        let gone = placed(&origin(2, Some("k(x)")), Some(SOURCE)).unwrap_err();
        assert!(gone.contains("no statement `k(x)` any more"), "{gone}");
        let gone = placed(&origin(3, None), None).unwrap_err();
        assert!(gone.contains("no code 3 lines behind"), "{gone}");
        assert!(placed(&origin(6, None), None).is_err(), "that is in another function");
        assert!(placed(&origin(u32::MAX, None), None).is_err());
    }
}
