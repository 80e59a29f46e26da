//! What was measured: rows with their spread, what they are compared with, and their goals; as text, Markdown and JSON.

use std::{collections::HashMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

/// Samples of one thing, as a measurement hands them in.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Samples {
    /// What was measured. Rows of a section name each other by it.
    pub(crate) what: String,
    pub(crate) unit: String,
    /// The row that it is compared with.
    #[serde(default)]
    pub(crate) against: Option<String>,
    pub(crate) samples: Vec<f64>,
}

/// What a row has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The ratio, at most.
    Ratio(f64),
    /// The median, at most.
    AtMost(f64),
    /// The median, at least.
    AtLeast(f64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    pub(crate) runs: usize,
    /// What the ratios are to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<String>,
    /// Of the medians, and of the least: other load only ever adds, so the least is what the code costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_of_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) met: Option<bool>,
}

impl Row {
    /// Judged by the least where a ratio is the goal.
    fn judge(&mut self) {
        self.met = self.goal.and_then(|goal| match goal {
            // Two digits are shown; what reads like the goal is the goal.
            Goal::Ratio(most) => self.ratio_of_least.map(|ratio| ratio < most + 0.005),
            Goal::AtMost(most) => Some(self.median <= most),
            Goal::AtLeast(least) => Some(self.median >= least),
        });
    }

    fn goal_text(&self) -> String {
        match self.goal {
            None => String::new(),
            Some(Goal::Ratio(most)) => format!("≤ {most} ×"),
            Some(Goal::AtMost(most)) => format!("≤ {} {}", number(most), self.unit),
            Some(Goal::AtLeast(least)) => format!("≥ {} {}", number(least), self.unit),
        }
    }

    fn cells(&self) -> [String; 9] {
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let met = match self.met {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        };
        [
            self.what.clone(),
            self.unit.clone(),
            number(self.median),
            number(self.min),
            if self.runs > 1 {
                format!("{} – {}", number(self.p10), number(self.p90))
            } else {
                String::new()
            },
            ratio(self.ratio),
            ratio(self.ratio_of_least),
            self.goal_text(),
            met.to_owned(),
        ]
    }
}

const HEADINGS: [&str; 9] = ["what", "unit", "median", "least", "p10 – p90", "ratio", "of least", "goal", ""];

/// The rows of samples. A row's baseline is found by its name; `goals` by the row's name.
pub(crate) fn rows(measured: Vec<Samples>, goals: &[(&str, Goal)]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for Samples { what, unit, against, mut samples } in measured {
        samples.retain(|sample| sample.is_finite());
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (samples.len().saturating_sub(1) as f64 * share).round() as usize;
            samples.get(index).copied()
        };
        let (Some(min), Some(p10), Some(median), Some(p90)) = (at(0.0), at(0.1), at(0.5), at(0.9)) else {
            continue;
        };
        let goal = goals.iter().find(|(name, _)| *name == what).map(|(_, goal)| *goal);
        let (ratio, ratio_of_least, met) = (None, None, None);
        let runs = samples.len();
        rows.push(Row { what, unit, median, min, p10, p90, runs, against, ratio, ratio_of_least, goal, met });
    }
    let baselines: HashMap<String, (f64, f64)> =
        rows.iter().map(|row| (row.what.clone(), (row.median, row.min))).collect();
    for row in &mut rows {
        if let Some(&(median, min)) = row.against.as_ref().and_then(|against| baselines.get(against)) {
            row.ratio = Some(row.median / median);
            row.ratio_of_least = Some(row.min / min);
        }
        row.judge();
    }
    rows
}

/// A figure with as many digits as say something.
fn number(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".to_owned(),
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (index, digit) in whole.char_indices() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) && whole.get(index - 1..index) != Some("-") {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

/// For a terminal.
pub(crate) fn text(rows: &[Row]) -> String {
    let cells: Vec<[String; 9]> =
        std::iter::once(HEADINGS.map(String::from)).chain(rows.iter().map(Row::cells)).collect();
    let mut out = String::new();
    for line in &cells {
        for (column, cell) in line.iter().enumerate() {
            let width =
                cells.iter().map(|line| line.get(column).map_or(0, |cell| cell.chars().count())).max();
            let width = width.unwrap_or(0);
            // Words to the left, figures to the right.
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                1 | 7 | 8 => write!(out, "  {cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// For the documentation.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "| {} |", HEADINGS.join(" | "));
    let _ = writeln!(out, "|{}", " --- |".repeat(HEADINGS.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.cells().join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(what: &str, against: Option<&str>, samples: &[f64]) -> Samples {
        Samples {
            what: what.to_owned(),
            unit: "ns".to_owned(),
            against: against.map(str::to_owned),
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn rows_are_compared_and_judged() {
        let measured = vec![
            samples("empty", None, &[700.0, 500.0, 600.0]),
            samples("registers", Some("empty"), &[900.0, 800.0, 1200.0]),
            samples("nothing", None, &[]),
        ];
        let goals = [("registers", Goal::Ratio(1.6)), ("empty", Goal::AtMost(599.0))];
        let rows = rows(measured, &goals);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].median, rows[0].min, rows[0].met), (600.0, 500.0, Some(false)));
        assert_eq!((rows[1].ratio, rows[1].ratio_of_least, rows[1].met), (Some(1.5), Some(1.6), Some(true)));
    }

    #[test]
    fn figures_have_few_digits() {
        let texts = [0.0, 0.123, 12.34, 123.4, 1234.0, -1234.0, 1_234_567.0].map(number);
        assert_eq!(texts, ["0", "0.12", "12.3", "123", "1,234", "-1,234", "1,234,567"]);
    }
}
