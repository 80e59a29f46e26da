//! Names with `*` and `?`.

use super::RuleError;

/// Longest pattern.
const MAX_BYTES: usize = 256;

/// A name in lower case in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    characters: Vec<char>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, RuleError> {
        let fail =
            |problem| Err(RuleError::Pattern { pattern: text.chars().take(MAX_BYTES).collect(), problem });
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return fail("is empty");
        }
        if trimmed.len() > MAX_BYTES {
            return fail("is too long");
        }
        if trimmed.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return fail("contains a space, which no name does");
        }
        Ok(Self { characters: trimmed.to_lowercase().chars().collect() })
    }

    /// Whether it stands for the whole name, which is in lower case.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut read) = (0, 0);
        // Where the last `*` stands, and how much of the name it takes so far: the only choice that is ever taken back.
        let mut star: Option<(usize, usize)> = None;
        while read < name.len() {
            match self.characters.get(at) {
                Some('*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(c) if *c == '?' || name.get(read) == Some(c) => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    let Some((place, taken)) = star else { return false };
                    star = Some((place, taken + 1));
                    at = place + 1;
                    read = taken + 1;
                }
            }
        }
        self.characters.iter().skip(at).all(|c| *c == '*')
    }
}
