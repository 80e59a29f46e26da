//! The rules that hold unless they are turned off. Chosen so that a name that matches almost always names a secret, and so
//! that what is on the wire (headers, cookies, query strings) does not come out by a side door.

use super::{Names, Sort};

/// Parts of names of secrets, whatever their type: nobody calls anything else so.
const SECRET_PARTS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "authorization",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "masterkey",
];
/// Ends of names of texts that are secrets. `token` of a parser is a number or a struct.
const SECRET_ENDS: [&str; 6] = ["token", "tokens", "cookie", "cookies", "sessionid", "pwd"];
/// Whole names of texts that are secrets.
const SECRET_TEXTS: [&str; 10] =
    ["pass", "jwt", "bearer", "otp", "pin", "cvv", "cvc", "ssn", "setcookie", "rawquery"];
/// Types, and fields of types, of which each value is one, or holds some among other things: keys; what was read from a
/// connection and is to be written to one; the parts of a request's line.
const SECRET_NAMES: [&str; 14] = [
    "rsa.privatekey",
    "ecdsa.privatekey",
    "ed25519.privatekey",
    "ecdh.privatekey",
    "dsa.privatekey",
    "http.cookie.value",
    "http.cookie.raw",
    "http.request.requesturi",
    "url.url.rawquery",
    "bufio.reader.buf",
    "bufio.writer.buf",
    "v1.secret.data",
    "v1.secret.stringdata",
    "url.userinfo.password",
];
/// Map types whose keys say whether a value is a secret.
const GUARDED_TYPES: [&str; 4] = ["http.header", "textproto.mimeheader", "url.values", "metadata.md"];
/// Ends of the names of maps of the same kind that have no type of their own.
const GUARDED_ENDS: [&str; 3] = ["header", "headers", "trailer"];
/// Whole names of such maps.
const GUARDED_HOLDERS: [&str; 8] =
    ["form", "postform", "query", "queryparams", "form.value", "multipart.form.value", "cookies", "environ"];

/// Headers that hold no secrets, and that a person who debugs a service looks for.
pub(super) const ALLOWED_KEYS: &[&str] = &[
    ":authority",
    ":method",
    ":scheme",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-allow-origin",
    "age",
    "allow",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-status",
    "grpc-timeout",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "last-modified",
    "origin",
    "pragma",
    "range",
    "retry-after",
    "server",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-content-type-options",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// A variable, a field or a key of this name holds a secret. Finding out what sort it is takes longer than its name, which
/// is asked first.
pub(super) fn is_secret(names: &Names, sort: impl Fn() -> Sort) -> bool {
    let name = names.joined.as_str();
    let whatever_it_is =
        SECRET_PARTS.iter().any(|part| name.contains(part)) || is_named(names, &SECRET_NAMES);
    let as_text = || SECRET_ENDS.iter().any(|end| name.ends_with(end)) || SECRET_TEXTS.contains(&name);
    (whatever_it_is || as_text())
        && match sort() {
            Sort::Text => true,
            // `errInvalidPassword`, `ErrNoToken`: an error about one.
            Sort::Other => whatever_it_is && !name.starts_with("err"),
            Sort::Harmless => false,
        }
}

/// Every value of the type of this name is a secret. A struct type's fields have names of their own.
pub(super) fn is_secret_type(names: &Names, sort: impl Fn() -> Sort) -> bool {
    let only_text = || if sort() == Sort::Text { Sort::Text } else { Sort::Harmless };
    is_named(names, &SECRET_NAMES) || is_secret(names, only_text)
}

pub(super) fn is_guarded_type(names: &Names) -> bool {
    is_named(names, &GUARDED_TYPES)
}

pub(super) fn is_guarded_holder(names: &Names) -> bool {
    GUARDED_ENDS.iter().any(|end| names.joined.ends_with(end)) || is_named(names, &GUARDED_HOLDERS)
}

fn is_named(names: &Names, wanted: &[&str]) -> bool {
    names.all.iter().any(|name| wanted.contains(&name.as_str()))
}
