//! Which values are never copied out of a process: rules by the names of variables, fields and types.
//!
//! [`Rules`] decides by names alone. [`RedactedTypes`] shows a binary's types through the rules: what they forbid is of
//! [`Shape::Redacted`](crate::golang::types::Shape::Redacted), which plans leave out, so that the kernel side never reads
//! it, and which decoding labels. What is done is described in `docs/redaction.md`.

mod defaults;
mod pattern;
mod types;

use std::{collections::BTreeSet, sync::Arc};

use self::pattern::Pattern;
pub use self::types::RedactedTypes;

/// What a policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Patterns of names whose values are not copied.
    #[serde(default)]
    pub redact: Vec<String>,
    /// Patterns of names whose values are copied all the same.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Keys of headers, forms and query values whose values are copied.
    #[serde(default)]
    pub map_keys_allow: Vec<String>,
}

/// Why rules can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A pattern is not one.
    #[error(
        "the pattern {pattern:?} {problem}; write the name of a variable, a field or a type, like password, *token, \
         auth.Credentials or http.Cookie.Value, with * for any characters and ? for one"
    )]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The policy file is not TOML of the right form.
    #[error("{0}; a policy has redact = [..], allow = [..] and map_keys_allow = [..], each a list of texts")]
    Policy(String),
    /// There are too many.
    #[error("{count} patterns or keys are more than {limit}, the most that are looked at")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Patterns, and keys, of one command.
const MAX_PATTERNS: usize = 2048;

impl Policy {
    /// Reads a policy file's text.
    ///
    /// # Errors
    ///
    /// Says what is not understood.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        toml::from_str(text).map_err(|error| RuleError::Policy(error.to_string().trim_end().to_owned()))
    }
}

/// What kind of value has a name: by a name like `token` alone, only what could be one is taken for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Text: strings, byte slices and arrays, and what holds or points at those.
    Text,
    /// Truth values and code, whose names say what they are about and which hold nothing of it.
    Harmless,
    /// Anything else.
    Other,
}

/// What happens to a value of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is copied as it is.
    Copied,
    /// It is not copied.
    Redacted,
    /// A map with strings as keys is followed only where its key is allowed. Anything else is copied as it is.
    Guarded,
}

/// Patterns, compiled.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    redact: Vec<Pattern>,
    allow: Vec<Pattern>,
    allowed_keys: BTreeSet<String>,
    has_defaults: bool,
    guards_maps: bool,
    description: Arc<str>,
}

impl Rules {
    /// Compiles rules: the defaults, unless they are not wanted, the patterns of the command line, and a policy.
    ///
    /// # Errors
    ///
    /// A pattern is not one, or there are too many.
    pub fn new(has_defaults: bool, patterns: &[String], policy: Option<&Policy>) -> Result<Self, RuleError> {
        let nothing = Policy::default();
        let policy = policy.unwrap_or(&nothing);
        let count = patterns.len() + policy.redact.len() + policy.allow.len() + policy.map_keys_allow.len();
        if count > MAX_PATTERNS {
            return Err(RuleError::TooMany { count, limit: MAX_PATTERNS });
        }
        let compile = |patterns: &mut dyn Iterator<Item = &String>| {
            patterns.map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>, _>>()
        };
        let guards_maps = has_defaults || !policy.map_keys_allow.is_empty();
        let default_keys = if guards_maps { defaults::ALLOWED_KEYS } else { &[] };
        let own = policy.map_keys_allow.iter().map(|key| key.to_ascii_lowercase());
        let mut parts = Vec::new();
        for (given, name) in
            [(has_defaults, "defaults"), (!patterns.is_empty(), "options"), (*policy != nothing, "file")]
        {
            if given {
                parts.push(name);
            }
        }
        Ok(Self {
            redact: compile(&mut patterns.iter().chain(&policy.redact))?,
            allow: compile(&mut policy.allow.iter())?,
            allowed_keys: default_keys.iter().map(|&key| key.to_owned()).chain(own).collect(),
            has_defaults,
            guards_maps,
            description: if parts.is_empty() { "off".into() } else { parts.join("+").into() },
        })
    }

    /// Nothing is ever redacted.
    #[must_use]
    pub fn are_off(&self) -> bool {
        !self.has_defaults && !self.guards_maps && self.redact.is_empty()
    }

    /// Which rules there are: `defaults`, `options` and `file`, joined by `+`; `off`.
    #[must_use]
    pub fn description(&self) -> &Arc<str> {
        &self.description
    }

    /// Keys (in lower case) of guarded maps whose values are copied.
    pub fn allowed_keys(&self) -> impl Iterator<Item = &str> {
        self.allowed_keys.iter().map(String::as_str)
    }

    /// The value of a guarded map at this key may be copied.
    #[must_use]
    pub fn allows_key(&self, key: &str) -> bool {
        self.allowed_keys.contains(&key.to_ascii_lowercase())
    }

    /// The value of an ordinary map at this key is not shown.
    #[must_use]
    pub fn forbids_key(&self, key: &str) -> bool {
        let names = Names::plain(key);
        !self.is_allowed(&names)
            && (names.matches(&self.redact)
                || self.has_defaults && defaults::is_secret(&names, || Sort::Text))
    }

    /// What happens to a variable of this name (a package's: with the package).
    pub fn treat_variable(&self, name: &str, sort: impl Fn() -> Sort) -> Treatment {
        self.treat(&Names::qualified(name), sort)
    }

    /// What happens to a field of this name of this struct type.
    pub fn treat_field(&self, holder: &TypeName, name: &str, sort: impl Fn() -> Sort) -> Treatment {
        self.treat(&Names::field(holder, name), sort)
    }

    fn treat(&self, names: &Names, sort: impl Fn() -> Sort) -> Treatment {
        if self.is_allowed(names) {
            Treatment::Copied
        } else if names.matches(&self.redact) || self.has_defaults && defaults::is_secret(names, sort) {
            Treatment::Redacted
        } else if self.guards_maps && defaults::is_guarded_holder(names) {
            Treatment::Guarded
        } else {
            Treatment::Copied
        }
    }

    /// Values of the type of this name are not copied.
    pub fn forbids_type(&self, name: &TypeName, sort: impl Fn() -> Sort) -> bool {
        let Some(names) = &name.0 else { return false };
        !self.is_allowed(names)
            && (names.matches(&self.redact) || self.has_defaults && defaults::is_secret_type(names, sort))
    }

    /// Values of a map with string keys are followed only where its key is allowed: by its type's name.
    #[must_use]
    pub fn guards_type(&self, name: &TypeName) -> bool {
        let Some(names) = &name.0 else { return false };
        self.guards_maps && !self.is_allowed(names) && defaults::is_guarded_type(names)
    }

    fn is_allowed(&self, names: &Names) -> bool {
        names.matches(&self.allow)
    }
}

/// The name of a type, read once for whatever is asked of it and its fields.
pub struct TypeName(Option<Names>);

impl TypeName {
    /// One that no programmer gave (`[]int`, `struct {…}`) says nothing.
    #[must_use]
    pub fn new(name: &str) -> Self {
        // Type arguments are types of their own.
        let name = name.split('[').next().unwrap_or_default();
        let is_given = !name.is_empty() && !name.contains(['*', ' ', '(', '{', '<']);
        Self(is_given.then(|| Names::qualified(name)))
    }
}

/// What something can be called in a pattern, in lower case: `value`, `cookie.value`, `http.cookie.value`,
/// `net/http.cookie.value`. The shortest comes first.
struct Names {
    all: Vec<String>,
    /// The shortest without underscores and hyphens: `apikey` for `api_key`.
    joined: String,
}

impl Names {
    fn plain(name: &str) -> Self {
        Self::from(vec![name.to_lowercase()])
    }

    /// `net/http.DefaultClient`, or a name without a package.
    fn qualified(name: &str) -> Self {
        let full = name.to_lowercase();
        let short = full.rsplit('/').next().unwrap_or_default().to_owned();
        let base = short.rsplit('.').next().unwrap_or_default().to_owned();
        Self::from(vec![base, short, full])
    }

    fn field(holder: &TypeName, name: &str) -> Self {
        let name = name.to_lowercase();
        let qualified =
            holder.0.iter().flat_map(|holder| &holder.all).map(|holder| format!("{holder}.{name}"));
        Self::from(std::iter::once(name.clone()).chain(qualified).collect())
    }

    fn from(mut all: Vec<String>) -> Self {
        let joined = all.first().map(|name| name.replace(['_', '-'], "")).unwrap_or_default();
        all.dedup();
        Self { all, joined }
    }

    fn matches(&self, patterns: &[Pattern]) -> bool {
        patterns.iter().any(|pattern| self.all.iter().any(|name| pattern.matches(name)))
    }
}

#[cfg(test)]
mod tests;
