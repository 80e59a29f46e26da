//! Go's symbol names: packages, receivers, type arguments, and how a name that a user types matches them.

use std::borrow::Cow;

/// The name with `%2e` and the like decoded: the linker escapes dots in the last element of an import path
/// (cmd/internal/objabi/path.go, `PathToPrefix`).
pub(crate) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The name without what stands in brackets: `main.(*S[go.shape.int]).Push` → `main.(*S).Push`.
pub(crate) fn without_type_arguments(name: &str) -> Cow<'_, str> {
    if !name.contains('[') {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len());
    let mut depth = 0_usize;
    for character in name.chars() {
        match character {
            '[' => depth += 1,
            ']' if depth > 0 => depth -= 1,
            _ if depth == 0 => out.push(character),
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// The name by which a user knows a function: decoded, without type arguments.
pub(crate) fn base(name: &str) -> Cow<'_, str> {
    match unescape(name) {
        Cow::Borrowed(name) => without_type_arguments(name),
        Cow::Owned(name) => Cow::Owned(without_type_arguments(&name).into_owned()),
    }
}

/// What stands behind the last `/` of a base name: `net/http.(*Server).Serve` → `http.(*Server).Serve`.
pub(crate) fn last_segment(base: &str) -> &str {
    base.rsplit_once('/').map_or(base, |(_, last)| last)
}

/// The import path in front of a symbol's name, decoded: `gopkg.in/yaml%2ev3.Node` → `gopkg.in/yaml.v3`.
pub(crate) fn package(name: &str) -> Cow<'_, str> {
    // A path never holds a bracket, and what stands in brackets may hold slashes.
    let plain = name.split('[').next().unwrap_or(name);
    let last = plain.rfind('/').map_or(0, |slash| slash + 1);
    let end = plain[last..].find('.').map_or(plain.len(), |dot| last + dot);
    unescape(&name[..end])
}

/// Whether `query` is `name` or what stands behind one of its `/`.
pub(crate) fn is_path_suffix(name: &str, query: &str) -> bool {
    name == query || name.strip_suffix(query).is_some_and(|front| front.ends_with('/') && !query.is_empty())
}

/// Whether a function called `name` is meant by `query`. A query with brackets means one instantiation.
pub(crate) fn matches(name: &str, query: &str) -> bool {
    if query.contains('[') {
        let name = unescape(name);
        let (front, back) = name.split_once('[').unwrap_or((&name, ""));
        let (query_front, query_back) = query.split_once('[').unwrap_or((query, ""));
        back == query_back && is_path_suffix(front, query_front)
    } else {
        is_path_suffix(&base(name), query)
    }
}

/// The receiver's type in a method's name, with its package and type arguments: `a/b.(*T[X]).M` → `a/b.T[X]`. A
/// closure's name looks alike (`main.F.func1` → `main.F`), so the first parameter's type has to agree.
pub(crate) fn receiver_type(name: &str) -> Option<String> {
    let plain_end = name.find('[').unwrap_or(name.len());
    let last = name[..plain_end].rfind('/').map_or(0, |slash| slash + 1);
    let dot = last + name[last..].find('.')?;
    let (package, rest) = (&name[..dot], &name[dot + 1..]);
    let receiver = if let Some(pointer) = rest.strip_prefix("(*") {
        let end = pointer.rfind(").")?;
        &pointer[..end]
    } else {
        let mut depth = 0_usize;
        let end = rest.char_indices().find_map(|(at, character)| {
            match character {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                '.' if depth == 0 => return Some(at),
                _ => {}
            }
            None
        })?;
        &rest[..end]
    };
    (!receiver.is_empty()).then(|| format!("{package}.{receiver}"))
}

/// Whether the compiler or linker made the function only to run another one.
pub(crate) fn is_wrapper(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let numbered = |prefix: &str| {
        last.strip_prefix(prefix)
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    name.contains("·dwrap·")
        || name.ends_with("-fm")
        || name.starts_with("type:.")
        || name.starts_with("type..")
        || name.starts_with("go:")
        || numbered("gowrap")
        || numbered("deferwrap")
}

/// FNV-1a, 32 bits: short names, and collisions only cost a comparison.
pub(crate) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_by_path_suffix_and_without_type_arguments() {
        for (name, query, expected) in [
            ("main.F", "main.F", true),
            ("main.F", "F", false),
            ("net/http.(*Server).Serve", "http.(*Server).Serve", true),
            ("net/http.(*Server).Serve", "net/http.(*Server).Serve", true),
            ("net/http.(*Server).Serve", "p.(*Server).Serve", false),
            ("main.F[go.shape.int]", "main.F", true),
            ("main.F[go.shape.int]", "main.F[go.shape.int]", true),
            ("main.F[go.shape.int]", "main.F[go.shape.string]", false),
            ("main.(*S[go.shape.struct { a/b.T }]).Push", "main.(*S).Push", true),
            ("main.F.func1", "main.F", false),
            ("gopkg.in/yaml%2ev3.Unmarshal", "yaml.v3.Unmarshal", true),
            ("main.F", "", false),
        ] {
            assert_eq!(matches(name, query), expected, "{name} ~ {query}");
        }
    }

    #[test]
    fn packages_and_receivers_are_found_in_names() {
        for (name, expected_package, receiver) in [
            ("main.F", "main", None),
            ("net/http.(*Server).Serve", "net/http", Some("net/http.Server")),
            ("gopkg.in/yaml%2ev3.Node.Kind", "gopkg.in/yaml.v3", Some("gopkg.in/yaml%2ev3.Node")),
            ("main.(*S[a/b.T]).Push", "main", Some("main.S[a/b.T]")),
            ("main.S[a/b.T].Push", "main", Some("main.S[a/b.T]")),
        ] {
            assert_eq!(package(name), expected_package, "{name}");
            assert_eq!(receiver_type(name).as_deref(), receiver, "{name}");
        }
    }
}
