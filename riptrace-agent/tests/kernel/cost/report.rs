//! What the measurements say: a table for people, and lines of JSON for `cargo xtask bench`.

use std::{fs::OpenOptions, io::Write as _};

/// A file that the rows are appended to, one JSON object a line.
const FILE: &str = "RIPTRACE_BENCH_JSON";
/// How many rounds, instead of as many as a measurement thinks right.
const ROUNDS: &str = "RIPTRACE_BENCH_ROUNDS";

/// Rounds of a measurement.
pub(super) fn rounds(usual: usize) -> usize {
    std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(usual).max(1)
}

struct Row {
    what: String,
    unit: &'static str,
    against: Option<String>,
    samples: Vec<f64>,
}

/// Rows in the order in which they are said.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// `against` is the row that it is compared with.
    pub(super) fn row(&mut self, what: &str, unit: &'static str, against: Option<&str>, samples: Vec<f64>) {
        self.rows.push(Row { what: what.to_owned(), unit, against: against.map(str::to_owned), samples });
    }

    /// Prints the table, and appends the rows to the file if there is one.
    pub(super) fn say(&self) {
        println!("{:72} {:>9} {:>6} {:>9} {:>6}", "", "least", "ratio", "median", "ratio");
        for row in &self.rows {
            let against = row.against.as_ref();
            let base = self.rows.iter().find(|other| against == Some(&other.what));
            let ratio = |of: fn(&[f64]) -> f64| {
                base.map_or_else(String::new, |base| format!("{:.2}", of(&row.samples) / of(&base.samples)))
            };
            println!(
                "{:72} {:9.0} {:>6} {:9.0} {:>6}  {}",
                row.what,
                least(&row.samples),
                ratio(least),
                median(&row.samples),
                ratio(median),
                row.unit
            );
        }
        let Some(file) = std::env::var_os(FILE) else { return };
        let mut file = OpenOptions::new().create(true).append(true).open(file).expect("the file of the rows");
        for Row { what, unit, against, samples } in &self.rows {
            let line =
                serde_json::json!({ "what": what, "unit": unit, "against": against, "samples": samples });
            writeln!(file, "{line}").expect("written");
        }
    }
}

/// Other load only ever adds: the least is what the code costs.
pub(super) fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

/// What it cost here.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
