//! Go's version strings, as build info and `DW_AT_producer` spell them.

use std::fmt;

/// A release of Go, as far as layouts depend on it: major and minor (`go1.26.8` is 1.26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoVersion {
    /// 1, so far.
    pub major: u16,
    /// 21 of `go1.21.13`.
    pub minor: u16,
}

impl GoVersion {
    /// Shorthand for `go1.MINOR`.
    pub const fn go1(minor: u16) -> Self {
        Self { major: 1, minor }
    }

    /// Finds the release in a version string: `go1.26.8`, `go1.27rc1`, `go1.25.3 X:nodwarf5`, `go1.24.1-vendor`,
    /// `devel go1.28-4b8d5f2 …`. `None` where it names none (`devel +4b8d5f2`).
    pub fn parse(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let (major, rest) = leading_number(word.strip_prefix("go")?)?;
            let (minor, _) = leading_number(rest.strip_prefix('.')?)?;
            Some(Self { major, minor })
        })
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "go{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text.get(..end)?.parse().ok()?;
    Some((number, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_found_in_every_spelling() {
        for (text, expected) in [
            ("go1.26.8", Some(26)),
            ("go1.21", Some(21)),
            ("go1.27rc1", Some(27)),
            ("go1.25.3 X:nodwarf5", Some(25)),
            ("go1.24.1-vendor", Some(24)),
            ("devel go1.28-4b8d5f2 Mon Jun 1 10:00:00 2026 +0000", Some(28)),
            ("devel +4b8d5f2", None),
            ("go", None),
            ("go1", None),
            ("go1.", None),
            ("go1.99999999999", None),
            ("", None),
        ] {
            assert_eq!(GoVersion::parse(text), expected.map(GoVersion::go1), "{text}");
        }
    }
}
