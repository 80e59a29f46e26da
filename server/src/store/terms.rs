//! What can be searched of a hit: the paths of its variables with their values, and the words among names and values.
//!
//! A path is written as in Go, pointers and interfaces followed without a sign: `order.Items[0].SKU`, `prices["pen"]`.
//! The value is the text of the scalar there, `nil`, or what is displayed of a well-known type (`1.5s`).

use std::fmt::Write as _;

use riptrace_common::wire::{
    event::Hit,
    number::Scalar,
    value::{Field, Value},
};

use super::hash::{Hashes, hash, pair};

/// Values of a hit that are put into the index. A hit with more makes its block one that is looked into at every search.
const MAX_INDEXED_VALUES: usize = 512;
/// Bytes of a text that are put into the index of words; a longer one makes its block one that is looked into at every
/// search.
const MAX_INDEXED_TEXT_BYTES: usize = 4096;

/// Who is shown a hit's texts and values.
trait Visitor {
    /// A name, a value or a message.
    fn text(&mut self, text: &str);
    /// A variable or a part of one.
    fn node(&mut self, path: &str);
    /// A value at a path.
    fn leaf(&mut self, path: &str, value: &str);
}

struct Walk<'a, V> {
    visitor: &'a mut V,
    path: String,
    text: String,
}

fn walk(hit: &Hit, visitor: &mut impl Visitor) {
    if let Some(message) = &hit.message {
        visitor.text(message);
    }
    let mut walk = Walk { visitor, path: String::new(), text: String::new() };
    for variable in &hit.variables {
        walk.path.clear();
        walk.path.push_str(&variable.name);
        walk.visitor.text(&variable.name);
        walk.value(&variable.value);
    }
}

impl<V: Visitor> Walk<'_, V> {
    fn value(&mut self, value: &Value) {
        self.visitor.node(&self.path);
        if let Some(scalar) = &value.value {
            if let Scalar::Text(text) = scalar {
                self.leaf(text);
            } else {
                let mut text = std::mem::take(&mut self.text);
                text.clear();
                push_scalar(&mut text, scalar);
                self.leaf(&text);
                self.text = text;
            }
        }
        if let Some(display) = &value.display {
            self.leaf(display);
        }
        if value.nil {
            self.visitor.leaf(&self.path, "nil");
        }
        if let Some(elem) = &value.elem {
            self.value(elem);
        }
        self.fields(value.fields.as_deref());
        self.fields(value.captures.as_deref());
        for (index, elem) in value.elems.iter().flatten().enumerate() {
            self.below(
                |path| {
                    let _ = write!(path, "[{index}]");
                },
                elem,
            );
        }
        for (key, elem) in value.entries.iter().flatten() {
            self.below(|path| push_key(path, key), elem);
        }
    }

    fn fields(&mut self, fields: Option<&[Field]>) {
        for field in fields.into_iter().flatten() {
            self.visitor.text(&field.name);
            self.below(
                |path| {
                    path.push('.');
                    path.push_str(&field.name);
                },
                &field.value,
            );
        }
    }

    fn below(&mut self, step: impl FnOnce(&mut String), value: &Value) {
        let length = self.path.len();
        step(&mut self.path);
        self.value(value);
        self.path.truncate(length);
    }

    fn leaf(&mut self, text: &str) {
        self.visitor.text(text);
        self.visitor.leaf(&self.path, text);
    }
}

fn push_key(path: &mut String, key: &Value) {
    let key = key.elem.as_deref().unwrap_or(key);
    path.push('[');
    match (&key.value, &key.display) {
        (Some(Scalar::Text(text)), _) => {
            let _ = write!(path, "{text:?}");
        }
        (Some(scalar), _) => push_scalar(path, scalar),
        (None, Some(display)) => path.push_str(display),
        (None, None) => path.push('?'),
    }
    path.push(']');
}

fn push_scalar(out: &mut String, scalar: &Scalar) {
    // Writing into a string does not fail.
    let _ = match scalar {
        Scalar::Bool(value) => write!(out, "{value}"),
        Scalar::Int(value) => write!(out, "{value}"),
        Scalar::Uint(value) => write!(out, "{value}"),
        Scalar::Float(value) => write!(out, "{}", value.as_f64()),
        Scalar::Complex(re, im) => write!(out, "({}+{}i)", re.as_f64(), im.as_f64()),
        Scalar::Text(value) => write!(out, "{value}"),
    };
}

/// The words of a text: runs of letters and digits, in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// What is put into the indexes for the hits of a block.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    /// Paths, values, and pairs of both.
    pub(crate) keys: Hashes,
    /// Some hit has more values than are put into the index.
    pub(crate) too_many_values: bool,
    /// The words, each once, with spaces between.
    pub(crate) words: String,
    /// Some text is longer than what is put into the index.
    pub(crate) too_long_texts: bool,
    texts: Hashes,
    known_words: Hashes,
    with_words: bool,
    values: usize,
}

impl Terms {
    pub(crate) fn new(with_words: bool) -> Self {
        Self { with_words, ..Self::default() }
    }

    /// Whether words are taken.
    pub(crate) fn has_words(&self) -> bool {
        self.with_words
    }

    /// Adds a hit's.
    pub(crate) fn add(&mut self, hit: &Hit) {
        self.values = 0;
        walk(hit, self);
    }

    fn add_word(&mut self, word: &str) {
        let start = self.words.len();
        if word.is_ascii() {
            self.words.push_str(word);
            self.words[start..].make_ascii_lowercase();
        } else {
            self.words.push_str(&word.to_lowercase());
        }
        if self.known_words.insert(hash(&self.words.as_bytes()[start..])) {
            self.words.push(' ');
        } else {
            self.words.truncate(start);
        }
    }
}

/// The key of a path.
pub(crate) fn path_key(path: &str) -> u64 {
    hash(path.as_bytes())
}

/// The key of a value anywhere.
pub(crate) fn value_key(value: &str) -> u64 {
    pair(1, hash(value.as_bytes()))
}

/// The key of a value at a path.
pub(crate) fn pair_key(path: &str, value: &str) -> u64 {
    pair(hash(path.as_bytes()), hash(value.as_bytes()))
}

impl Visitor for Terms {
    fn text(&mut self, text: &str) {
        if !self.with_words || !self.texts.insert(hash(text.as_bytes())) {
            return;
        }
        let indexed = &text[..text.floor_char_boundary(MAX_INDEXED_TEXT_BYTES)];
        self.too_long_texts |= indexed.len() < text.len();
        for word in indexed.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            self.add_word(word);
        }
    }

    fn node(&mut self, path: &str) {
        if self.values < MAX_INDEXED_VALUES {
            self.keys.insert(hash(path.as_bytes()));
        }
    }

    fn leaf(&mut self, path: &str, value: &str) {
        self.values += 1;
        if self.values > MAX_INDEXED_VALUES {
            self.too_many_values = true;
            return;
        }
        let (path, value) = (hash(path.as_bytes()), hash(value.as_bytes()));
        self.keys.insert(pair(1, value));
        self.keys.insert(pair(path, value));
    }
}

/// What is searched for among a hit's names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// A variable or a part of one is there.
    pub(crate) path: Option<String>,
    /// A value is there; with a path, at the path.
    pub(crate) value: Option<String>,
    /// All of these words are there; one that ends with `*` stands for every word that begins so.
    pub(crate) words: Vec<Word>,
}

/// A word that is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// In lower case.
    pub(crate) text: String,
    /// It is the beginning of one.
    pub(crate) prefix: bool,
}

impl Search {
    /// The words of what a user typed.
    pub(crate) fn words_of(text: &str) -> Vec<Word> {
        let mut found: Vec<Word> = Vec::new();
        for part in text.split_whitespace() {
            let first = found.len();
            found.extend(words(part).map(|text| Word { text, prefix: false }));
            if part.ends_with('*')
                && found.len() > first
                && let Some(last) = found.last_mut()
            {
                last.prefix = true;
            }
        }
        found
    }

    /// Nothing is searched for.
    pub(crate) fn is_empty(&self) -> bool {
        self.path.is_none() && self.value.is_none() && self.words.is_empty()
    }

    /// Whether a hit has it all.
    pub(crate) fn matches(&self, hit: &Hit) -> bool {
        let mut found = Found {
            search: self,
            value: self.path.is_none() && self.value.is_none(),
            words: vec![false; self.words.len()],
        };
        walk(hit, &mut found);
        found.value && found.words.iter().all(|found| *found)
    }

    /// The keys that a block with such a hit has.
    pub(crate) fn key(&self) -> Option<u64> {
        match (&self.path, &self.value) {
            (Some(path), Some(value)) => Some(pair_key(path, value)),
            (Some(path), None) => Some(path_key(path)),
            (None, Some(value)) => Some(value_key(value)),
            (None, None) => None,
        }
    }

    /// The words as a query of SQLite's FTS5; `None`: none are searched for.
    pub(crate) fn full_text(&self) -> Option<String> {
        let quote = |word: &Word| format!("\"{}\"{}", word.text, if word.prefix { "*" } else { "" });
        (!self.words.is_empty()).then(|| self.words.iter().map(quote).collect::<Vec<_>>().join(" "))
    }
}

struct Found<'a> {
    search: &'a Search,
    value: bool,
    words: Vec<bool>,
}

impl Visitor for Found<'_> {
    fn text(&mut self, text: &str) {
        if self.words.iter().all(|found| *found) {
            return;
        }
        for word in words(text) {
            for (found, wanted) in self.words.iter_mut().zip(&self.search.words) {
                *found |= if wanted.prefix { word.starts_with(&wanted.text) } else { word == wanted.text };
            }
        }
    }

    fn node(&mut self, path: &str) {
        self.value |= self.search.value.is_none() && self.search.path.as_deref() == Some(path);
    }

    fn leaf(&mut self, path: &str, value: &str) {
        self.value |= self.search.value.as_deref() == Some(value)
            && self.search.path.as_deref().is_none_or(|wanted| wanted == path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::hit;

    fn sample() -> Hit {
        let mut hit = hit("t", 1);
        hit.message = Some("Order placed für ann-7".to_owned());
        hit.variables = serde_json::from_str(
            r#"[{"name":"o","role":"argument","value":{"kind":"ptr","elem":{"kind":"struct","fields":[
                  {"name":"ID","value":{"kind":"int","value":-7}},
                  {"name":"Items","value":{"kind":"slice","elems":[{"kind":"string","value":"Blue Pen"}]}},
                  {"name":"Prices","value":{"kind":"map","entries":[[{"kind":"string","value":"pen"},{"kind":"float64","value":1.5}]]}}]}}},
                {"name":"err","role":"local","value":{"kind":"interface","nil":true}},
                {"name":"took","role":"local","value":{"kind":"int64","value":1500000000,"display":"1.5s"}}]"#,
        )
        .unwrap();
        hit
    }

    #[test]
    fn what_is_there_is_found_at_its_path_and_in_the_index() {
        let hit = sample();
        let mut terms = Terms::new(true);
        terms.add(&hit);
        for (path, value, expect) in [
            (Some("o.ID"), Some("-7"), true),
            (Some("o.ID"), Some("7"), false),
            (Some("o"), None, true),
            (Some("o.Items"), None, true),
            (Some("o.Items[0]"), Some("Blue Pen"), true),
            (Some("o.Items[1]"), None, false),
            (Some("o.Prices[\"pen\"]"), Some("1.5"), true),
            (Some("err"), Some("nil"), true),
            (Some("took"), Some("1.5s"), true),
            (None, Some("1500000000"), true),
            (None, Some("o"), false),
        ] {
            let search =
                Search { path: path.map(str::to_owned), value: value.map(str::to_owned), words: Vec::new() };
            assert_eq!(search.matches(&hit), expect, "{path:?} {value:?}");
            if expect {
                assert!(terms.keys.contains(&search.key().unwrap()), "{path:?} {value:?}");
            }
        }
    }

    #[test]
    fn words_are_found_whole_or_by_their_beginning_whatever_their_case() {
        let hit = sample();
        for (text, expect) in [
            ("blue", true),
            ("BLUE pen", true),
            ("blu", false),
            ("blu*", true),
            ("FÜR", true),
            ("ann-7", true),
            ("ann-8", false),
            ("items prices id", true),
            ("", true),
            ("* -", true),
        ] {
            let search = Search { words: Search::words_of(text), ..Search::default() };
            assert_eq!(search.matches(&hit), expect, "{text}");
        }
        let mut terms = Terms::new(true);
        terms.add(&hit);
        terms.add(&hit);
        assert_eq!(terms.words.split(' ').filter(|word| *word == "pen").count(), 1);
        assert!(terms.words.contains("für "));
    }

    #[test]
    fn a_hit_with_very_many_values_is_not_forgotten_by_a_search() {
        let mut hit = sample();
        let elems = vec![serde_json::from_str::<Value>(r#"{"kind":"int","value":3}"#).unwrap(); 1000];
        hit.variables[0].value.elems = Some(elems);
        let mut terms = Terms::new(true);
        terms.add(&hit);
        assert!(terms.too_many_values);
    }
}
