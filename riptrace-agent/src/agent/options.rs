//! What a request for a tracepoint asks for, checked: bounds first, then the languages of locations, expressions and
//! templates. Pure.

use std::time::Duration;

use riptrace_common::{
    abi::limits,
    wire::{
        control::{TraceOptions, TracepointSpec},
        message::{Error, ErrorCode},
    },
};

use crate::{
    expr::parse_template,
    plan::{CaptureLimits, sites::LocationRequest},
    trace::{Expressions, ParsedExpr, SiteChoice, Wanted, parse_captures},
};

/// How long a tracepoint is held unless its request says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest time to live.
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Expressions of one tracepoint.
const MAX_CAPTURES: usize = 64;

/// How long a tracepoint is held.
#[must_use]
pub fn time_to_live(spec: &TracepointSpec) -> Duration {
    match spec.ttl_seconds {
        0 => DEFAULT_TTL,
        seconds => Duration::from_secs(seconds).min(MAX_TTL),
    }
}

/// Checks a request's names.
///
/// # Errors
///
/// One of them is none.
pub fn check_names(spec: &TracepointSpec) -> Result<(), Error> {
    let bad = |what: &str, text: &str| {
        let shown: String = text.chars().take(200).collect();
        let rule = "1 to 128 letters, digits, '_', '-', '.', ':'";
        Err(Error::new(ErrorCode::BadRequest, format!("{shown:?} can't be a {what}: give {rule}")))
    };
    if !spec.id.is_valid() {
        return bad("tracepoint's id", spec.id.as_str());
    }
    if !spec.owner.is_valid() {
        return bad("tracepoint's owner", spec.owner.as_str());
    }
    match &spec.session {
        Some(session) if !session.is_valid() => bad("session's id", session.as_str()),
        _ => Ok(()),
    }
}

/// What is wanted at a location, as the planner takes it.
///
/// # Errors
///
/// A bound is passed, or a text can't be read.
pub fn wanted(location: &str, options: &TraceOptions) -> Result<Wanted, Error> {
    let TraceOptions {
        when,
        capture,
        message,
        returns,
        stack,
        depth,
        max_string,
        max_items,
        max_bytes,
        rate: _,
        sample,
        limit: _,
        dry_run: _,
        globals,
        at_line_start,
    } = options;
    let bad = |text: String| Error::new(ErrorCode::BadRequest, text);
    for (name, value, least, most) in [
        ("stack", *stack, 0, limits::MAX_STACK_FRAMES),
        ("depth", *depth, 0, CaptureLimits::MAX_DEPTH),
        ("max_string", *max_string, 0, limits::MAX_CHUNK_BYTES),
        ("max_items", *max_items, 0, CaptureLimits::MAX_ITEMS),
        ("max_bytes", *max_bytes, CaptureLimits::MIN_BYTES, limits::MAX_RECORD_BYTES),
    ] {
        if !(least..=most).contains(&value) {
            return Err(bad(format!("{name} is {value}; it can be from {least} to {most}")));
        }
    }
    if !(*sample > 0.0 && *sample <= 1.0) {
        return Err(bad(format!(
            "sample is {sample}; it is a share above 0 and at most 1 (dry_run counts and captures nothing)"
        )));
    }
    if capture.len() > MAX_CAPTURES {
        return Err(bad(format!("{} expressions; at most {MAX_CAPTURES} can be captured", capture.len())));
    }
    let location: LocationRequest = location.parse().map_err(|error| bad(format!("{error}")))?;
    if *returns && !matches!(location, LocationRequest::Function { .. }) {
        return Err(bad(format!(
            "returns need a function, and {location} is none; name the function (pkg.Func, pkg.(*T).Method), or \
             trace the line without returns"
        )));
    }
    let (captures, computed) = parse_captures(capture).map_err(|error| bad(format!("capture: {error}")))?;
    let message = message.as_deref().map(parse_template).transpose();
    let message = message.map_err(|error| bad(format!("message: {error}")))?;
    Ok(Wanted {
        captures,
        when: when.as_deref().map(condition).transpose()?,
        expressions: Expressions { computed, message },
        globals: *globals,
        returns: *returns,
        limits: CaptureLimits {
            max_depth: *depth,
            max_string: *max_string,
            max_items: *max_items,
            max_bytes: *max_bytes,
        },
        sites: SiteChoice::of_flag(*at_line_start),
        ..Wanted::at(location)
    })
}

fn condition(text: &str) -> Result<ParsedExpr, Error> {
    ParsedExpr::parse(text.trim())
        .map_err(|error| Error::new(ErrorCode::BadRequest, format!("when: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let refused = |location: &str, change: fn(&mut TraceOptions)| {
            let mut options = TraceOptions::default();
            change(&mut options);
            let error = wanted(location, &options).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest);
            error.text
        };
        for (text, said) in [
            (refused("main.go", |_| {}), "the line is missing"),
            (refused("main.go:7", |options| options.depth = 65), "depth is 65; it can be from 0 to 64"),
            (refused("main.go:7", |options| options.sample = 0.0), "dry_run counts"),
            (refused("main.go:7", |options| options.sample = f64::NAN), "sample is NaN"),
            (refused("main.go:7", |options| options.returns = true), "returns need a function"),
            (refused("main.go:7", |options| options.when = Some("a >".to_owned())), "when: "),
            (refused("main.go:7", |options| options.capture = vec!["len(".to_owned()]), "capture: "),
            (refused("main.go:7", |options| options.message = Some("{".to_owned())), "message: "),
            (refused("main.go:7", |options| options.max_bytes = 10), "max_bytes is 10"),
        ] {
            assert!(text.contains(said), "{text}");
        }
        assert!(wanted("main.go:7", &TraceOptions::default()).is_ok());
    }
}
