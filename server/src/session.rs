//! Sessions: what people want traced. Pure: ids and times come from the caller.

use riptrace_common::{
    id::{SessionId, TracepointId},
    wire::{
        api::{ChangeTracepoint, NewSession, NewTracepoint, Session, SessionState, SessionTracepoint},
        message::{Error, ErrorCode},
    },
};

/// Seconds of a session that says nothing else.
pub const DEFAULT_TTL_SECONDS: u64 = 3600;

/// Seconds of a session at the most: a year.
pub const MAX_TTL_SECONDS: u64 = 366 * 24 * 3600;

/// Tracepoints of a session at the most.
pub const MAX_TRACEPOINTS: usize = 256;

/// Bytes of a location or an expression at the most.
const MAX_TEXT_BYTES: usize = 4096;

/// Expressions of a tracepoint at the most.
const MAX_EXPRESSIONS: usize = 64;

/// Characters of a session's name at the most.
const MAX_NAME_CHARS: usize = 200;

fn bad(text: impl Into<String>) -> Error {
    Error::new(ErrorCode::BadRequest, text)
}

/// Makes a session. `ids` gives a new id for a prefix.
///
/// # Errors
///
/// A location is not one, there are too many, an id can't be made.
pub fn make(
    new: NewSession,
    who: &str,
    now_ns: u64,
    mut ids: impl FnMut(&str) -> Result<String, Error>,
) -> Result<Session, Error> {
    let id = SessionId::from(ids("s")?);
    let name = match new.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) if name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) => {
            return Err(bad(format!(
                "a session's name has at most {MAX_NAME_CHARS} characters and no control ones"
            )));
        }
        Some(name) => name.to_owned(),
        None => match new.tracepoints.first() {
            Some(first) => first.location.chars().take(MAX_NAME_CHARS).collect(),
            None => id.as_str().to_owned(),
        },
    };
    let mut session = Session {
        id,
        name,
        state: SessionState::Running,
        created_ns: now_ns,
        expires_ns: expiry(now_ns, new.ttl_seconds),
        created_by: who.to_owned(),
        tracepoints: Vec::new(),
    };
    for tracepoint in new.tracepoints {
        add(&mut session, tracepoint, ids("t")?)?;
    }
    Ok(session)
}

/// When a session that begins now, ends; 0 seconds: the usual.
#[must_use]
pub fn expiry(now_ns: u64, ttl_seconds: u64) -> u64 {
    let seconds = if ttl_seconds == 0 { DEFAULT_TTL_SECONDS } else { ttl_seconds.min(MAX_TTL_SECONDS) };
    now_ns.saturating_add(seconds.saturating_mul(1_000_000_000))
}

/// Adds a tracepoint.
///
/// # Errors
///
/// The location is none, there are too many.
pub fn add(session: &mut Session, new: NewTracepoint, id: String) -> Result<SessionTracepoint, Error> {
    if session.tracepoints.len() >= MAX_TRACEPOINTS {
        let text = format!("session {} has {MAX_TRACEPOINTS} tracepoints; make another session", session.id);
        return Err(Error::new(ErrorCode::Limit, text));
    }
    let tracepoint = SessionTracepoint {
        id: TracepointId::from(id),
        revision: 1,
        enabled: true,
        select: new.select,
        location: new.location.trim().to_owned(),
        options: new.options,
        origin: None,
    };
    check(&tracepoint)?;
    session.tracepoints.push(tracepoint.clone());
    Ok(tracepoint)
}

/// Changes a tracepoint.
///
/// # Errors
///
/// There is none, the location is none.
pub fn change(
    session: &mut Session,
    id: &TracepointId,
    change: ChangeTracepoint,
) -> Result<SessionTracepoint, Error> {
    let index = index(session, id)?;
    let mut changed = session.tracepoints[index].clone();
    let ChangeTracepoint { enabled, select, location, options } = change;
    if let Some(enabled) = enabled {
        changed.enabled = enabled;
    }
    if let Some(select) = select {
        // Another program's line is another statement.
        changed.origin = changed.origin.filter(|_| select == changed.select);
        changed.select = select;
    }
    if let Some(location) = location {
        changed.location = location.trim().to_owned();
        changed.origin = None;
    }
    if let Some(options) = options {
        changed.options = options;
    }
    check(&changed)?;
    if changed != session.tracepoints[index] {
        changed.revision += 1;
    }
    session.tracepoints[index] = changed.clone();
    Ok(changed)
}

/// Removes a tracepoint.
///
/// # Errors
///
/// There is none.
pub fn remove(session: &mut Session, id: &TracepointId) -> Result<(), Error> {
    let index = index(session, id)?;
    session.tracepoints.remove(index);
    Ok(())
}

/// Whether a session's tracepoints are to be armed now.
#[must_use]
pub fn is_running(session: &Session, now_ns: u64) -> bool {
    session.state == SessionState::Running && now_ns < session.expires_ns
}

fn index(session: &Session, id: &TracepointId) -> Result<usize, Error> {
    let found = session.tracepoints.iter().position(|tracepoint| tracepoint.id == *id);
    found.ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("session {} has no tracepoint {id}", session.id))
    })
}

/// What can be said of a tracepoint without a binary.
fn check(tracepoint: &SessionTracepoint) -> Result<(), Error> {
    let location = tracepoint.location.as_str();
    let refuse = |why: &str| {
        Err(bad(format!(
            "{location:?} is no location: {why}; give file.go:LINE, pkg.Func, pkg.(*T).Method or *0xADDRESS"
        )))
    };
    if location.is_empty() {
        return refuse("it is empty");
    }
    if location.len() > MAX_TEXT_BYTES || location.chars().any(char::is_control) {
        return Err(bad(format!("a location has at most {MAX_TEXT_BYTES} bytes and no control characters")));
    }
    if let Some(address) = location.strip_prefix('*') {
        let digits = address.strip_prefix("0x").or(address.strip_prefix("0X"));
        let number =
            digits.map_or_else(|| address.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok());
        if number.is_none() {
            return refuse("what follows the star is no address");
        }
    } else if let Some((file, line)) = location.rsplit_once(".go:") {
        if file.is_empty() || !line.parse::<u32>().is_ok_and(|line| line > 0) {
            return refuse("no line number follows the file");
        }
    } else if location.ends_with(".go") {
        return refuse("the line is missing");
    }
    let options = &tracepoint.options;
    let texts = options.when.iter().chain(&options.capture).chain(&options.message);
    if options.capture.len() > MAX_EXPRESSIONS || texts.into_iter().any(|text| text.len() > MAX_TEXT_BYTES) {
        return Err(bad(format!(
            "a tracepoint has at most {MAX_EXPRESSIONS} expressions, each of at most {MAX_TEXT_BYTES} bytes"
        )));
    }
    if !(0.0..=1.0).contains(&options.sample) {
        return Err(bad(format!("sample is a share from 0 to 1, not {}", options.sample)));
    }
    if let Some(label) = &tracepoint.select.label
        && !label.contains('=')
    {
        return Err(bad(format!("{label:?} is no label: give name=value")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::{api::Selector, control::TraceOptions};

    use super::*;

    fn new(location: &str) -> NewTracepoint {
        NewTracepoint { location: location.to_owned(), ..NewTracepoint::default() }
    }

    fn session(locations: &[&str]) -> Result<Session, Error> {
        let tracepoints = locations.iter().map(|location| new(location)).collect();
        let mut count = 0;
        make(NewSession { tracepoints, ..NewSession::default() }, "me", 5_000_000_000, |prefix| {
            count += 1;
            Ok(format!("{prefix}_{count}"))
        })
    }

    #[test]
    fn a_session_is_named_and_ends() {
        let made = session(&["main.go:7", "pkg.(*T).F"]).unwrap();
        assert_eq!(made.name, "main.go:7");
        assert_eq!(made.expires_ns, 3_605_000_000_000);
        assert!(is_running(&made, 3_604_999_999_999) && !is_running(&made, 3_605_000_000_000));
        assert_eq!(session(&[]).unwrap().name, "s_1");
        assert_eq!(made.tracepoints[1].id.as_str(), "t_3");
    }

    #[test]
    fn what_can_be_no_location_is_refused() {
        for location in ["main.go:42", "a/b.go:1", "main.F", "*0x4a1b2c", "*77", "main.(*T).F", " main.F "] {
            assert!(session(&[location]).is_ok(), "{location}");
        }
        for location in
            ["", " ", "main.go", "main.go:", "main.go:0", "main.go:x", "main.go:-1", "*", "*main", "a\nb"]
        {
            let error = session(&[location]).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{location}");
        }
        let sample = TraceOptions { sample: f64::NAN, ..TraceOptions::default() };
        let mut made = session(&[]).unwrap();
        assert!(add(&mut made, NewTracepoint { options: sample, ..new("main.F") }, "t".to_owned()).is_err());
        let select = Selector { label: Some("zone".to_owned()), ..Selector::default() };
        assert!(add(&mut made, NewTracepoint { select, ..new("main.F") }, "t".to_owned()).is_err());
    }

    #[test]
    fn a_change_counts_once_and_only_if_it_is_one() {
        let mut made = session(&["main.go:7"]).unwrap();
        let id = made.tracepoints[0].id.clone();
        let off = ChangeTracepoint { enabled: Some(false), ..ChangeTracepoint::default() };
        assert_eq!(change(&mut made, &id, off.clone()).unwrap().revision, 2);
        assert_eq!(change(&mut made, &id, off).unwrap().revision, 2);
        let wrong = ChangeTracepoint { location: Some("main.go".to_owned()), ..ChangeTracepoint::default() };
        assert!(change(&mut made, &id, wrong).is_err());
        assert_eq!(made.tracepoints[0].location, "main.go:7");
        remove(&mut made, &id).unwrap();
        assert_eq!(remove(&mut made, &id).unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn there_is_a_bound() {
        let mut made = session(&[]).unwrap();
        for number in 0..MAX_TRACEPOINTS {
            add(&mut made, new("main.F"), number.to_string()).unwrap();
        }
        assert_eq!(add(&mut made, new("main.F"), "t".to_owned()).unwrap_err().code, ErrorCode::Limit);
    }
}
