//! The outer form of requests and replies: a version, errors that say what to do, pages.
//!
//! A request is an object with its version and its own fields: `{"v":1,"location":"main.go:7",…}`. A reply has, beside
//! its version, one of `ok`, `error` and `page`. A reply that is longer than the broker takes is cut into pages: `page`
//! names it, and carries a piece of the text of what `ok` would have been. Who wants the next piece sends
//! `{"v":1,"page":{"id":…,"index":1}}` to the same subject.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of every message.
pub const VERSION: u32 = 1;

/// Bytes of a request at the most.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, or fields that are missing or wrong.
    BadRequest,
    /// A version that this side does not speak.
    UnsupportedVersion,
    /// No such host, process, session, tracepoint, page.
    NotFound,
    /// The location or an expression can't be bound.
    Unbound,
    /// The binary is being indexed; ask again.
    NotReady,
    /// The agent's own policy or the server's access rules forbid it.
    Forbidden,
    /// A bound was reached: tracepoints, sites, size.
    Limit,
    /// It is there already, and is another one.
    Conflict,
    /// Nobody answered in time.
    Unreachable,
    /// Anything else.
    Failed,
}

/// Why a request was refused: what was asked, why it failed, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Error {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub text: String,
}

impl Error {
    /// An error.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reply<T> {
    /// [`VERSION`].
    pub v: u32,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<T>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// A piece of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Page>,
}

impl<T> From<Result<T, Error>> for Reply<T> {
    fn from(result: Result<T, Error>) -> Self {
        let (ok, error) = match result {
            Ok(ok) => (Some(ok), None),
            Err(error) => (None, Some(error)),
        };
        Self { v: VERSION, ok, error, page: None }
    }
}

/// A piece of a long reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page {
    /// Names the reply; good for half a minute.
    pub id: String,
    /// Which piece this is, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// The piece; all of them, put together, are the text of `ok`.
    pub text: String,
}

/// Asks for a piece of a long reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageRequest {
    /// `Page::id`.
    pub id: String,
    /// Which piece.
    pub index: u32,
}

/// A request, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming<T> {
    /// A new one.
    Body(T),
    /// More of an earlier reply.
    Page(PageRequest),
}

/// The text of a request or publication.
///
/// # Errors
///
/// The body has no JSON form (a map with keys that are no strings).
pub fn write<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        v: u32,
        #[serde(flatten)]
        body: &'a T,
    }
    serde_json::to_vec(&Versioned { v: VERSION, body })
}

/// Reads a request. An empty one is one without fields: `nats req SUBJECT ''` works.
///
/// # Errors
///
/// It is too long, no JSON object, of another version, or its fields are wrong.
pub fn read_request<T: DeserializeOwned>(bytes: &[u8]) -> Result<Incoming<T>, Error> {
    let refuse = |text: String| Error::new(ErrorCode::BadRequest, text);
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(refuse(format!(
            "the request has {} bytes; at most {MAX_REQUEST_BYTES} are taken",
            bytes.len()
        )));
    }
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { b"{\"v\":1}" } else { bytes };
    let mut value = read_object(bytes)?;
    if let Some(page) = value.remove("page").filter(|page| !page.is_null()) {
        let page = serde_json::from_value(page);
        return page.map(Incoming::Page).map_err(|error| refuse(format!("the request's page: {error}")));
    }
    let body = serde_json::from_value(serde_json::Value::Object(value));
    body.map(Incoming::Body).map_err(|error| refuse(format!("the request's fields: {error}")))
}

/// Reads a publication: a batch, a heartbeat.
///
/// # Errors
///
/// It is no JSON object, of another version, or its fields are wrong.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Version {
        v: Option<u32>,
    }
    // Twice over the text costs less than once with `flatten`, which keeps all fields until it knows whose they are.
    match serde_json::from_slice::<Version>(bytes) {
        // Of another version the fields may be others: the version is the reason to give then.
        Ok(Version { v }) => check_version(v.map(u64::from))?,
        Err(_) => drop(read_object(bytes)?),
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorCode::BadRequest, format!("the message's fields: {error}")))
}

fn read_object(bytes: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let value = serde_json::from_slice(bytes);
    let value: serde_json::Map<_, _> = value.map_err(|error| {
        Error::new(ErrorCode::BadRequest, format!("the message is no JSON object: {error}"))
    })?;
    check_version(value.get("v").and_then(serde_json::Value::as_u64))?;
    Ok(value)
}

fn check_version(version: Option<u64>) -> Result<(), Error> {
    let text = match version {
        Some(version) if version == u64::from(VERSION) => return Ok(()),
        Some(other) => format!("the message has version {other}; this side speaks {VERSION}"),
        None => format!("the message has no version; give \"v\":{VERSION}"),
    };
    Err(Error::new(ErrorCode::UnsupportedVersion, text))
}

/// The text of a result as pages, each small enough to be sent. The cuts are between characters.
#[must_use]
pub fn pages(id: &str, text: &str, max_bytes: usize) -> Vec<Page> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A character is at most four bytes, so a cut is found unless the bound is silly.
        let at = rest.floor_char_boundary(max_bytes.max(4));
        let (piece, behind) = rest.split_at(at);
        pieces.push(piece);
        rest = behind;
    }
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    let page = |(index, piece): (u32, &str)| Page { id: id.to_owned(), index, count, text: piece.to_owned() };
    (0..).zip(pieces).map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Ask {
        location: String,
        #[serde(default)]
        count: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing {}

    fn refused(text: &str) -> (ErrorCode, String) {
        let error = read_request::<Ask>(text.as_bytes()).unwrap_err();
        (error.code, error.text)
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let ask = Ask { location: "main.go:7".to_owned(), count: 3 };
        let text = write(&ask).unwrap();
        assert_eq!(std::str::from_utf8(&text).unwrap(), r#"{"v":1,"location":"main.go:7","count":3}"#);
        assert_eq!(read_request::<Ask>(&text).unwrap(), Incoming::Body(ask));
        let more = br#"{"v":1,"location":"a","later":{}}"#;
        assert!(matches!(read_request::<Ask>(more), Ok(Incoming::Body(_))), "unknown fields are ignored");
        assert_eq!(read_request::<Nothing>(b" \n").unwrap(), Incoming::Body(Nothing {}));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (code, text) = refused("hello");
        assert_eq!(code, ErrorCode::BadRequest);
        assert!(text.contains("no JSON object"), "{text}");
        assert_eq!(refused("[1]").0, ErrorCode::BadRequest);
        assert_eq!(refused(r#"{"v":2,"what":1}"#).0, ErrorCode::UnsupportedVersion);
        assert_eq!(refused(r#"{"location":"a"}"#).0, ErrorCode::UnsupportedVersion);
        let (code, text) = refused(r#"{"v":1}"#);
        assert_eq!(code, ErrorCode::BadRequest);
        assert!(text.contains("location"), "{text}");
        let long = format!(r#"{{"v":1,"location":"{}"}}"#, "a".repeat(MAX_REQUEST_BYTES));
        assert_eq!(refused(&long).0, ErrorCode::BadRequest);
        assert_eq!(read::<Ask>(br#"{"v":9}"#).unwrap_err().code, ErrorCode::UnsupportedVersion);
        assert_eq!(read::<Ask>(br#"{"v":1}"#).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn pages_put_together_are_the_whole() {
        let text = "größer €uro 𝄞 and more ".repeat(20);
        for max_bytes in [0, 4, 7, 100, 10_000] {
            let pages = pages("p", &text, max_bytes);
            let whole: String = pages.iter().map(|page| page.text.as_str()).collect();
            assert_eq!(whole, text);
            assert!(pages.iter().all(|page| page.text.len() <= max_bytes.max(4)));
            assert!(pages.iter().zip(0..).all(|(page, index)| page.index == index));
            assert!(pages.iter().all(|page| page.count as usize == pages.len()));
        }
        let request = br#"{"v":1,"page":{"id":"p","index":2}}"#;
        let page = PageRequest { id: "p".to_owned(), index: 2 };
        assert_eq!(read_request::<Ask>(request).unwrap(), Incoming::Page(page));
    }
}
