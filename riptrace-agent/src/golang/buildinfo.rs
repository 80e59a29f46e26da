//! What the Go linker writes into a program about its build: the section `.go.buildinfo`. Pure.
//!
//! The format is the one of Go 1.18 and newer (strings inline); debug/buildinfo/buildinfo.go and
//! runtime/debug/mod.go, `ParseBuildInfo`, are its description.

use crate::golang::version::GoVersion;

/// The first bytes of the blob, which is aligned to 16.
pub const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// Alignment of the blob.
pub const ALIGNMENT: usize = 16;

const HEADER_BYTES: usize = 32;
const FLAGS_OFFSET: usize = 15;
/// Flag: the strings follow the header (Go ≥ 1.18), instead of pointers at them.
const FLAG_INLINE: u8 = 2;
/// The module text is framed by a sentinel of this many bytes on either side (cmd/go/internal/modload, `infoStart`).
const SENTINEL_BYTES: usize = 16;

/// How a program was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildInfo {
    /// `go1.26.8`.
    pub go_version: String,
    /// Import path of the main package; empty when it was built without modules.
    pub path: String,
    /// The main module.
    pub main: Option<Module>,
    /// The modules it was linked with, replacements applied in [`Module::replaced_by`].
    pub dependencies: Vec<Module>,
    /// Build settings in the order in which `go version -m` prints them: `-ldflags`, `CGO_ENABLED`, `vcs.revision`, …
    pub settings: Vec<(String, String)>,
}

/// A module of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Module path.
    pub path: String,
    /// `v1.2.3`, `(devel)`, or empty.
    pub version: String,
    /// `h1:…`, or empty.
    pub sum: String,
    /// The module that a `replace` directive put in its place.
    pub replaced_by: Option<Box<Module>>,
}

impl BuildInfo {
    /// Reads the blob; `bytes` begins with [`MAGIC`] and may be longer than the blob.
    ///
    /// `None`: it is not one, is cut short, or was written by Go before 1.18.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(MAGIC) || bytes.get(FLAGS_OFFSET)? & FLAG_INLINE == 0 {
            return None;
        }
        let (version, rest) = inline_string(bytes.get(HEADER_BYTES..)?)?;
        let go_version = std::str::from_utf8(version).ok()?;
        if go_version.is_empty() {
            return None;
        }
        let mut info = Self { go_version: go_version.to_owned(), ..Self::default() };
        if let Some((framed, _)) = inline_string(rest)
            && let Some(text) = unframe(framed)
        {
            info.read_modules(&String::from_utf8_lossy(text));
        }
        Some(info)
    }

    /// The release of Go, if the version string names one.
    pub fn version(&self) -> Option<GoVersion> {
        GoVersion::parse(&self.go_version)
    }

    /// A build setting's value, `None` when the build did not record it.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The commit that was built.
    pub fn vcs_revision(&self) -> Option<&str> {
        self.setting("vcs.revision")
    }

    /// Whether the work tree had changes that the commit does not have.
    pub fn vcs_modified(&self) -> Option<bool> {
        self.setting("vcs.modified").map(|value| value == "true")
    }

    fn read_modules(&mut self, text: &str) {
        // Which module a following `=>` line replaces.
        enum Last {
            None,
            Main,
            Dependency,
        }
        let mut last = Last::None;
        for line in text.lines() {
            let (tag, rest) = line.split_once('\t').unwrap_or((line, ""));
            match tag {
                "path" => rest.clone_into(&mut self.path),
                "mod" => {
                    self.main = Some(Module::from_columns(rest));
                    last = Last::Main;
                }
                "dep" => {
                    self.dependencies.push(Module::from_columns(rest));
                    last = Last::Dependency;
                }
                "=>" => {
                    let replaced = match last {
                        Last::None => None,
                        Last::Main => self.main.as_mut(),
                        Last::Dependency => self.dependencies.last_mut(),
                    };
                    if let Some(module) = replaced {
                        module.replaced_by = Some(Box::new(Module::from_columns(rest)));
                    }
                    last = Last::None;
                }
                "build" => self.settings.extend(setting(rest)),
                _ => {}
            }
        }
    }
}

impl Module {
    fn from_columns(columns: &str) -> Self {
        let mut columns = columns.split('\t').map(str::to_owned);
        Self {
            path: columns.next().unwrap_or_default(),
            version: columns.next().unwrap_or_default(),
            sum: columns.next().unwrap_or_default(),
            replaced_by: None,
        }
    }
}

/// A string with its length as a varint before it.
fn inline_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes.get(index + 1..)?.split_at_checked(length);
        }
    }
    None
}

fn unframe(framed: &[u8]) -> Option<&[u8]> {
    let end = framed.len().checked_sub(SENTINEL_BYTES)?;
    let text = framed.get(SENTINEL_BYTES..end)?;
    text.ends_with(b"\n").then_some(text)
}

fn setting(text: &str) -> Option<(String, String)> {
    let (key, rest) = match text.chars().next()? {
        '"' | '`' => {
            let (key, rest) = unquote(text)?;
            (key, rest.strip_prefix('=')?)
        }
        _ => {
            let (key, rest) = text.split_once('=')?;
            (key.to_owned(), rest)
        }
    };
    let value = match rest.chars().next() {
        Some('"' | '`') => unquote(rest)?.0,
        _ => rest.to_owned(),
    };
    Some((key, value))
}

/// Undoes Go's `strconv.Quote` for the escapes that occur in flags; gives the text and what follows the closing quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (content, rest) = raw.split_once('`')?;
        return Some((content.to_owned(), rest));
    }
    let body = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, body.get(at + 1..)?)),
            '\\' => out.push(escaped(&mut chars)?),
            c => out.push(c),
        }
    }
    None
}

fn escaped(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    let digits = match chars.next()?.1 {
        'n' => return Some('\n'),
        't' => return Some('\t'),
        'r' => return Some('\r'),
        'a' => return Some('\x07'),
        'b' => return Some('\x08'),
        'f' => return Some('\x0c'),
        'v' => return Some('\x0b'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        c => return Some(c),
    };
    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
    char::from_u32(u32::from_str_radix(&hex, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A blob as the linker writes it.
    fn blob(version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, FLAG_INLINE]);
        bytes.resize(HEADER_BYTES, 0);
        let framed = format!("0123456789abcdef{modules}fedcba9876543210");
        for text in [version, if modules.is_empty() { "" } else { &framed }] {
            let mut length = text.len();
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    const MODULES: &str = "path\tshop/orders\nmod\tshop\tv1.4.0\th1:abc=\ndep\texample.com/old\tv1.0.0\t\n\
        =>\texample.com/new\tv1.1.0\th1:def=\ndep\texample.com/other\tv0.1.0\th1:ghi=\n\
        build\t-ldflags=\"-s -w -X \\\"main.v=1 2\\\"\"\nbuild\tCGO_ENABLED=0\nbuild\t\"odd key\"=`raw value`\n\
        build\tvcs.revision=4b8d5f2\nbuild\tvcs.modified=true\n";

    #[test]
    fn modules_replacements_and_settings_are_read() {
        let info = BuildInfo::parse(&blob("go1.26.8", MODULES)).unwrap();
        assert_eq!(info.go_version, "go1.26.8");
        assert_eq!(info.version(), Some(GoVersion::go1(26)));
        assert_eq!(info.path, "shop/orders");
        let main = info.main.as_ref().unwrap();
        assert_eq!(
            (main.path.as_str(), main.version.as_str(), main.sum.as_str()),
            ("shop", "v1.4.0", "h1:abc=")
        );
        assert_eq!(info.dependencies.len(), 2);
        assert_eq!(info.dependencies[0].replaced_by.as_ref().unwrap().path, "example.com/new");
        assert_eq!(info.dependencies[1].replaced_by, None);
        assert_eq!(info.setting("-ldflags"), Some("-s -w -X \"main.v=1 2\""));
        assert_eq!(info.setting("odd key"), Some("raw value"));
        assert_eq!(info.vcs_revision(), Some("4b8d5f2"));
        assert_eq!(info.vcs_modified(), Some(true));
        assert_eq!(info.setting("absent"), None);
    }

    #[test]
    fn a_program_without_modules_has_a_version_only() {
        let info = BuildInfo::parse(&blob("go1.21.13", "")).unwrap();
        assert_eq!((info.go_version.as_str(), info.main, info.settings.len()), ("go1.21.13", None, 0));
    }

    #[test]
    fn the_format_before_go_1_18_is_not_taken_for_this_one() {
        let mut bytes = blob("go1.26.8", MODULES);
        bytes[FLAGS_OFFSET] = 0;
        assert_eq!(BuildInfo::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn damaged_blobs_never_panic(at in 0_usize..600, value: u8, cut in 0_usize..700) {
            let mut bytes = blob("go1.26.8", MODULES);
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut);
            let _ = BuildInfo::parse(&bytes);
        }
    }
}
