//! Who may ask: the bearer of the token; without a token, programs on this machine, but no page of another site that a
//! browser on this machine shows.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use riptrace_common::wire::message::ErrorCode;

use super::{Api, error::Refused};

/// What may be asked without a token: whether the server is there.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Lets a request through, or answers why not.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let result = match &api.token {
        _ if OPEN_PATHS.contains(&request.uri().path()) => Ok(()),
        Some(token) => bearer(headers, token),
        None => same_machine(headers, request.uri()),
    };
    match result.and_then(|()| same_origin(headers, request.uri())) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn bearer(headers: &HeaderMap, token: &str) -> Result<(), Refused> {
    let refuse = |text: &str| Err(Refused::with_status(StatusCode::UNAUTHORIZED, ErrorCode::Forbidden, text));
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return refuse(
            "this server wants a token: give --token or RIPTRACE_TOKEN, or the header `Authorization: Bearer TOKEN`",
        );
    };
    let given = given.to_str().ok().and_then(|text| text.split_once(' '));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && is_equal(given.trim(), token) => {
            Ok(())
        }
        _ => refuse("the token is not this server's"),
    }
}

/// In a time that does not tell how much of it is right.
fn is_equal(given: &str, token: &str) -> bool {
    let (given, token) = (given.as_bytes(), token.as_bytes());
    let differences = token.iter().enumerate().fold(given.len() ^ token.len(), |differences, (at, byte)| {
        differences | usize::from(byte ^ given.get(at).copied().unwrap_or_default())
    });
    std::hint::black_box(differences) == 0
}

/// The name under which the server was asked must be this machine's: a foreign name that resolves to this machine is how a
/// page of another site gets around the browser's rules (DNS rebinding).
fn same_machine(headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
    match authority(headers, uri) {
        Some(authority) if is_loopback(authority.host()) => Ok(()),
        Some(authority) => Err(Refused::with_status(
            StatusCode::MISDIRECTED_REQUEST,
            ErrorCode::Forbidden,
            format!(
                "without a token this server answers only as localhost, not as {}; start it with --token",
                authority.host()
            ),
        )),
        None => Err(Refused::new(ErrorCode::BadRequest, "the request has no Host header")),
    }
}

/// A browser says from which site a request comes; another one's must not change anything.
fn same_origin(headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let is_same = match (origin.as_ref().and_then(Uri::authority), authority(headers, uri)) {
        (Some(origin), Some(own)) => *origin == own,
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    Err(Refused::new(ErrorCode::Forbidden, "the request comes from a page of another site"))
}

fn authority(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.and_then(|host| host.parse().ok()).or_else(|| uri.authority().cloned())
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_whole_token() {
        assert!(is_equal("secret", "secret"));
        for wrong in ["", "secre", "secret1", "Secret", "secret\0"] {
            assert!(!is_equal(wrong, "secret"), "{wrong:?}");
        }
    }

    #[test]
    fn only_this_machine_s_own_names_are_taken() {
        for own in ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["localhost.evil.example", "10.0.0.1", "evil.example", "", "0.0.0.0"] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
