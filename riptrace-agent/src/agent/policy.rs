//! What may never be traced here, whoever asks: the host's own rules, which no server overrides. Pure.

use riptrace_common::{pattern, wire::event::Location};

/// Patterns of what is denied. `*` stands for any characters, also none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Executables: the whole path, or the base name where the pattern has no `/`.
    pub deny_executables: Vec<String>,
    /// Functions, with their full import path.
    pub deny_functions: Vec<String>,
}

impl Policy {
    /// The pattern that denies an executable.
    #[must_use]
    pub fn denies_executable(&self, path: &str) -> Option<&str> {
        let base = path.rsplit('/').next().unwrap_or(path);
        find(&self.deny_executables, |pattern| {
            pattern::matches(pattern, if pattern.contains('/') { path } else { base })
        })
    }

    /// Why a place may not be traced: the function whose source it is, or the one whose code holds it, is denied.
    #[must_use]
    pub fn denies_location(&self, location: &Location) -> Option<String> {
        let names = std::iter::once(&location.function).chain(&location.inlined_into);
        names.into_iter().find_map(|name| {
            let pattern = self.denies_function(name)?;
            Some(format!(
                "{name} may not be traced on this host: the agent's own policy denies functions {pattern:?}"
            ))
        })
    }

    /// The pattern that denies a function.
    #[must_use]
    pub fn denies_function(&self, name: &str) -> Option<&str> {
        find(&self.deny_functions, |pattern| pattern::matches(pattern, name))
    }
}

fn find(patterns: &[String], fits: impl Fn(&str) -> bool) -> Option<&str> {
    patterns.iter().map(String::as_str).find(|pattern| fits(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_denied_by_path_or_by_name() {
        let policy =
            Policy { deny_executables: vec!["/usr/*".to_owned(), "vault".to_owned()], ..Policy::default() };
        assert_eq!(policy.denies_executable("/usr/bin/dockerd"), Some("/usr/*"));
        assert_eq!(policy.denies_executable("/srv/bin/vault"), Some("vault"));
        assert_eq!(policy.denies_executable("/srv/vault/orders"), None);
    }
}
