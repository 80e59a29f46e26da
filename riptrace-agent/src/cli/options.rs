//! What is captured of a hit, and of how many: options that `probe`, `trace` and `session add` share.

use clap::Args;
use riptrace_common::{abi::limits, wire::control::TraceOptions};

use crate::plan::CaptureLimits;

/// What is captured.
#[derive(Clone, Debug, Args)]
pub struct CaptureArguments {
    /// Only this variable, part of one, or what is computed of such (repeatable): o, o.ID, o.Items[0].Price; orders.Open
    /// for a variable of the location's package; 'len(o.Items)', 'o.Total > 100', 'm["key"]', 'err.(*net.OpError).Op'.
    /// With --return, what names a result (r, ~r0) or duration is computed where the call ends.
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true, value_parser = expression)]
    pub capture: Vec<String>,

    /// Only hits for which this holds, decided in the kernel: 'o.Total > 100 && len(o.Items) == 0', 'err != nil',
    /// 'strings.HasPrefix(o.Name, "test-")', 'err.(*net.OpError)' (see docs/expressions.md).
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true, value_parser = expression)]
    pub when: Option<String>,

    /// One line a hit: text with expressions in braces, 'order {o.ID} of {o.Name}: {len(o.Items)} items' ({{ and }} are
    /// braces). With --return, one that names a result or how long the call took is the return's, 'order {o.ID} -> {~r0} in
    /// {duration}': arguments as they were when the call began; duration_ns is a number.
    #[arg(long, value_name = "TEMPLATE")]
    pub message: Option<String>,

    /// The functions' returns too, with their results and how long each call took. Locations must be functions.
    #[arg(long = "return")]
    pub returns: bool,

    /// Record the call stack, this many frames.
    #[arg(long, value_name = "N", num_args = 0..=1, default_value_t = 0, default_missing_value = "32",
          require_equals = true, value_parser = clap::value_parser!(u32).range(..=i64::from(limits::MAX_STACK_FRAMES)))]
    pub stack: u32,

    /// Levels of pointers that are followed.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=i64::from(CaptureLimits::MAX_DEPTH)))]
    pub depth: u32,

    /// Bytes of a string.
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(limits::MAX_CHUNK_BYTES)))]
    pub max_string: u32,

    /// Elements of an array, slice, map or channel.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=i64::from(CaptureLimits::MAX_ITEMS)))]
    pub max_items: u32,

    /// Bytes of a hit.
    #[arg(long, value_name = "BYTES", default_value_t = limits::MAX_RECORD_BYTES,
          value_parser = clap::value_parser!(u32).range(i64::from(CaptureLimits::MIN_BYTES)..=i64::from(limits::MAX_RECORD_BYTES)))]
    pub max_bytes: u32,

    /// At most this many hits in each second for each location; 0: no limit.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub rate: u32,

    /// Only this share of the hits, chosen by chance: 0.01 is one in a hundred.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub sample: f64,

    /// Count the hits and say what capturing them would cost; capture nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Arm the line's first instruction, as a debugger does, instead of the cheapest one that shows the same.
    #[arg(long)]
    pub at_line_start: bool,

    /// The package variables of the location's package too.
    #[arg(long)]
    pub globals: bool,
}

/// An expression may begin with a sign. With two it would be Go's `--`, which no expression has: then it is the next option.
pub(super) fn expression(text: &str) -> Result<String, String> {
    if text.starts_with("--") {
        return Err(format!("an expression is missing before {text}"));
    }
    Ok(text.to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        Ok(0.0) => Err(String::from("0 would capture nothing; --dry-run counts hits and prices them")),
        _ => Err(String::from("a share is a number above 0 and at most 1, like 0.01")),
    }
}

impl CaptureArguments {
    /// How much is followed.
    #[must_use]
    pub fn limits(&self) -> CaptureLimits {
        CaptureLimits {
            max_depth: self.depth,
            max_string: self.max_string,
            max_items: self.max_items,
            max_bytes: self.max_bytes,
        }
    }

    /// As they are sent to a server.
    #[must_use]
    pub fn options(&self) -> TraceOptions {
        let Self {
            capture,
            when,
            message,
            returns,
            stack,
            depth,
            max_string,
            max_items,
            max_bytes,
            rate,
            sample,
            dry_run,
            at_line_start,
            globals,
        } = self.clone();
        TraceOptions {
            when,
            capture,
            message,
            returns,
            stack,
            depth,
            max_string,
            max_items,
            max_bytes,
            rate,
            sample,
            limit: 0,
            dry_run,
            globals,
            at_line_start,
        }
    }
}
