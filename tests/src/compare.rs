//! Holds a captured value against the value that the program itself printed.
//!
//! What the program printed is the whole value, followed further than RipTrace goes. A captured value may stop earlier
//! where a limit says so, and may say that it could not be read; anything else that differs is wrong. Addresses must be
//! the printed ones. Order is no matter in maps.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

mod leaves;
#[cfg(test)]
mod tests;

pub use leaves::plain_function;
use leaves::{
    Element, bytes_or_elements, flag, key_text, same_number, same_type, scalar, short_key, strings, text,
};

/// Limits of the capture, to judge whether a truncation was due.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--depth`.
    pub depth: usize,
    /// `--max-string`.
    pub string: u64,
    /// `--max-items`.
    pub items: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 4, string: 256, items: 64 }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What is wrong, each with the path to it.
    pub wrong: Vec<String>,
    /// What is missing and says so: the reason, and the path.
    pub labels: Vec<(String, String)>,
    /// Well-known types without the text that developers expect: path.
    pub without_display: Vec<String>,
}

impl Findings {
    fn wrong(&mut self, path: &str, what: &str, got: &impl std::fmt::Display, want: &impl std::fmt::Display) {
        self.wrong.push(format!("{path}: {what} is {got:.120}, want {want:.120}"));
    }

    fn label(&mut self, path: &str, reason: &str) {
        self.labels.push((reason.to_owned(), path.to_owned()));
    }
}

/// Compares values of one hit.
#[derive(Debug)]
pub struct Comparison<'a> {
    limits: Limits,
    /// What every captured pointer of the hit leads to: `cycle` points there.
    objects: HashMap<(&'a str, String), &'a Value>,
}

impl<'a> Comparison<'a> {
    /// For a hit with these captured variables.
    pub fn new(limits: Limits, variables: impl Iterator<Item = &'a Value>) -> Self {
        let mut objects = HashMap::new();
        for value in variables {
            collect_objects(value, &mut objects);
        }
        Self { limits, objects }
    }

    /// Compares one variable.
    #[must_use]
    pub fn variable(&self, name: &str, truth: &Value, got: &Value) -> Findings {
        let mut findings = Findings::default();
        for key in ["type", "kind"] {
            if got.get(key).is_none() {
                findings.wrong.push(format!("{name}: it has no {key}"));
            }
        }
        self.value(truth, got, name, 0, &mut findings);
        findings
    }

    fn value(&self, truth: &Value, got: &Value, path: &str, hops: usize, findings: &mut Findings) {
        let kind = text(truth, "kind");
        if let Some(name) = got.get("type").and_then(Value::as_str)
            && !same_type(name, text(truth, "type"))
        {
            if name.contains("go.shape.") {
                // Generic code was not resolved to the real types. The value may be right even so.
                findings.label(path, "shape_type");
                return self.contents(truth, got, path, hops, findings);
            }
            findings.wrong(path, "type", &name, &text(truth, "type"));
            return;
        }
        if let Some(got_kind) = got.get("kind").and_then(Value::as_str)
            && got_kind != kind
        {
            findings.wrong(path, "kind", &got_kind, &kind);
            return;
        }
        self.contents(truth, got, path, hops, findings);
    }

    /// What is left once the types agree.
    fn contents(&self, truth: &Value, got: &Value, path: &str, hops: usize, findings: &mut Findings) {
        let kind = text(truth, "kind");
        if flag(truth, "any") {
            return;
        }
        if let Some(reason) = got.get("unavailable").and_then(Value::as_str) {
            findings.label(path, reason);
            // The pieces that are kept have to be right all the same.
            if got.get("fields").is_some() {
                self.fields(&truth["fields"], &got["fields"], path, hops, findings);
            } else if let Some(len) = got.get("len").filter(|_| kind == "string" || kind == "slice") {
                same_number(path, "len", &truth["len"], len, findings);
            }
            return;
        }
        let addresses = (truth.get("addr").and_then(Value::as_str), got.get("addr").and_then(Value::as_str));
        if let (Some(want), Some(have)) = addresses
            && want != have
        {
            findings.wrong(path, "addr", &have, &want);
        }
        if kind == "unsafe.Pointer" {
            if addresses.1.is_none() && !flag(truth, "nil") {
                findings.wrong.push(format!("{path}: it has no addr"));
            }
            return;
        }
        if flag(truth, "nil") != flag(got, "nil") {
            findings.wrong(path, "nil", &flag(got, "nil"), &flag(truth, "nil"));
            return;
        }
        if flag(truth, "deep") {
            return;
        }
        if let Some(want) = truth.get("display").and_then(Value::as_str).filter(|_| kind != "ptr") {
            match got.get("display").and_then(Value::as_str) {
                Some(have) if have != want => findings.wrong(path, "display", &have, &want),
                Some(_) => {}
                None => findings.without_display.push(format!("{path} ({})", text(truth, "type"))),
            }
        }
        if flag(truth, "nil") {
            return;
        }
        let by = got.pointer("/truncated/by").and_then(Value::as_str);
        if let Some(by) = by
            && !self.truncation_is_due(by, truth, hops, path, findings)
        {
            return;
        }
        let cut = by.is_some();
        match kind {
            "string" => strings(truth, got, path, cut, findings),
            "array" | "slice" | "chan" => {
                same_number(path, "len", &truth["len"], &got["len"], findings);
                if kind != "array" {
                    same_number(path, "cap", &truth["cap"], &got["cap"], findings);
                }
                let hops = hops + usize::from(kind != "array");
                self.elements(truth, got, path, hops, cut, findings);
            }
            "struct" => self.fields(&truth["fields"], &got["fields"], path, hops, findings),
            "map" => {
                same_number(path, "len", &truth["len"], &got["len"], findings);
                self.entries(truth, got, path, hops + 1, cut, findings);
            }
            "ptr" | "interface" => self.element(truth, got, path, hops + 1, cut, findings),
            "func" => self.function(truth, got, path, hops + 1, findings),
            _ => scalar(kind, &truth["value"], &got["value"], path, findings),
        }
    }

    /// Whether a limit was really reached. Truncation by bytes is counted as a label: it depends on the whole hit.
    fn truncation_is_due(
        &self,
        by: &str,
        truth: &Value,
        hops: usize,
        path: &str,
        findings: &mut Findings,
    ) -> bool {
        let len = truth["len"].as_u64().unwrap_or(0);
        let due = match by {
            "max_string" => len > self.limits.string,
            "max_items" => len > self.limits.items,
            "max_depth" => hops >= self.limits.depth,
            "max_bytes" => {
                findings.label(path, "max_bytes");
                true
            }
            _ => false,
        };
        if !due {
            findings.wrong.push(format!("{path}: truncated by {by} without need (len {len}, {hops} hops)"));
        }
        due
    }

    fn elements(
        &self,
        truth: &Value,
        got: &Value,
        path: &str,
        hops: usize,
        cut: bool,
        findings: &mut Findings,
    ) {
        let want = bytes_or_elements(truth);
        let have = bytes_or_elements(got);
        if have.len() != want.len() && !(cut && have.len() < want.len()) {
            findings.wrong(path, "number of elements", &have.len(), &want.len());
            return;
        }
        for (index, (want, have)) in want.iter().zip(&have).enumerate() {
            match (want, have) {
                (Element::Byte(want), Element::Byte(have)) if want == have => {}
                (Element::Byte(want), Element::Byte(have)) => {
                    findings.wrong(&format!("{path}[{index}]"), "byte", have, want);
                }
                (Element::Byte(want), Element::Value(have)) => {
                    if have.get("value").and_then(Value::as_u64) != Some(u64::from(*want)) {
                        findings.wrong(&format!("{path}[{index}]"), "byte", have, want);
                    }
                }
                (Element::Value(want), Element::Value(have)) => {
                    self.value(want, have, &format!("{path}[{index}]"), hops, findings);
                }
                (Element::Value(want), Element::Byte(have)) => {
                    findings.wrong(&format!("{path}[{index}]"), "element", have, want);
                }
            }
        }
    }

    fn fields(&self, truth: &Value, got: &Value, path: &str, hops: usize, findings: &mut Findings) {
        let want = truth.as_array().map_or(&[][..], Vec::as_slice);
        let have = got.as_array().map_or(&[][..], Vec::as_slice);
        let names = |fields: &[Value]| {
            let name = |field: &Value| {
                format!("{}{}", text(field, "name"), if flag(field, "embedded") { "*" } else { "" })
            };
            fields.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        if names(want) != names(have) {
            findings.wrong(path, "list of fields", &names(have), &names(want));
            return;
        }
        for (want, have) in want.iter().zip(have) {
            let path = format!("{path}.{}", text(want, "name"));
            self.value(&want["value"], &have["value"], &path, hops, findings);
        }
    }

    fn entries(
        &self,
        truth: &Value,
        got: &Value,
        path: &str,
        hops: usize,
        cut: bool,
        findings: &mut Findings,
    ) {
        let want = truth["entries"].as_array().map_or(&[][..], Vec::as_slice);
        let have = got["entries"].as_array().map_or(&[][..], Vec::as_slice);
        if flag(got, "torn") {
            findings.label(path, "torn");
        } else if have.len() != want.len() && !(cut && have.len() < want.len()) {
            findings.wrong(path, "number of entries", &have.len(), &want.len());
            return;
        }
        // Keys of one kind have a canonical text; others are compared one by one.
        let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, entry) in want.iter().enumerate() {
            by_key.entry(key_text(&entry[0])).or_default().push(index);
        }
        for entry in have {
            let candidates = by_key.get_mut(&key_text(&entry[0]));
            let found = candidates.and_then(|candidates| {
                let place = candidates.iter().position(|index| {
                    let mut trial = Findings::default();
                    self.value(&want[*index][0], &entry[0], "key", hops, &mut trial);
                    trial.wrong.is_empty()
                })?;
                Some(candidates.swap_remove(place))
            });
            let Some(index) = found else {
                findings.wrong(path, "entry", &entry[0], &"one that the map has");
                return;
            };
            let path = format!("{path}[{}]", short_key(&entry[0]));
            self.value(&want[index][0], &entry[0], &format!("{path} key"), hops, findings);
            self.value(&want[index][1], &entry[1], &path, hops, findings);
        }
    }

    fn element(
        &self,
        truth: &Value,
        got: &Value,
        path: &str,
        hops: usize,
        cut: bool,
        findings: &mut Findings,
    ) {
        let path = if text(truth, "kind") == "ptr" { format!("(*{path})") } else { format!("{path}.(…)") };
        let elem = match got.get("elem") {
            Some(elem) => elem,
            None if flag(got, "cycle") => {
                let key = (got["addr"].as_str().unwrap_or_default(), text(&truth["elem"], "type").to_owned());
                match self.objects.get(&key) {
                    Some(elem) => elem,
                    None => return findings.label(&path, "cycle_to_unseen_object"),
                }
            }
            None if cut => return,
            None if text(got, "type").starts_with("go.shape.") => return,
            None => return findings.wrong.push(format!("{path}: it has no elem")),
        };
        self.value(&truth["elem"], elem, &path, hops, findings);
    }

    fn function(&self, truth: &Value, got: &Value, path: &str, hops: usize, findings: &mut Findings) {
        let (want, have) = (text(truth, "function"), text(got, "function"));
        if plain_function(want) != plain_function(have) {
            findings.wrong(path, "function", &have, &want);
            return;
        }
        // Wrappers of bound methods have no line of their own.
        if !want.ends_with("-fm")
            && let Some(line) = got.get("line")
        {
            same_number(path, "line", &truth["line"], line, findings);
        }
        for capture in truth["captures"].as_array().into_iter().flatten() {
            let name = text(capture, "name");
            let captures = got["captures"].as_array().map_or(&[][..], Vec::as_slice);
            match captures.iter().find(|have| text(have, "name") == name) {
                Some(have) => {
                    self.value(&capture["value"], &have["value"], &format!("{path}·{name}"), hops, findings);
                }
                None => findings.label(&format!("{path}·{name}"), "capture_missing"),
            }
        }
    }
}

fn collect_objects<'a>(value: &'a Value, objects: &mut HashMap<(&'a str, String), &'a Value>) {
    match value {
        Value::Object(map) => {
            if let (Some(address), Some(elem)) = (map.get("addr").and_then(Value::as_str), map.get("elem")) {
                let name = elem.get("type").and_then(Value::as_str).unwrap_or_default();
                objects.entry((address, name.to_owned())).or_insert(elem);
            }
            map.values().for_each(|value| collect_objects(value, objects));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_objects(value, objects)),
        _ => {}
    }
}
