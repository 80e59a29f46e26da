//! Events as lines of text. Each function returns whole lines, the last one with its newline.

use std::fmt::Write as _;

use riptrace_common::wire::{
    event::{
        Attached, BudgetAction, BudgetStep, DetachReason, Detached, ErrorEvent, Event, Frame, Hit, Location,
        Moved, Role, SiteInfo, Stats, Trigger,
    },
    value::Unavailable,
};

use super::{
    TextOptions,
    escape::plain,
    value::{reason, value},
};
use crate::decode::time::local_clock;

const INDENT: &str = "    ";

/// Any event.
#[must_use]
pub fn event(event: &Event, options: &TextOptions) -> String {
    match event {
        Event::Attached(event) => attached(event),
        Event::Hit(event) => hit(event, options),
        Event::Stats(event) => stats(event),
        Event::Detached(event) => detached(event),
        Event::Budget(event) => budget(event),
        Event::Moved(event) => moved(event),
        Event::Error(event) => error(event),
        // Only agents write the one, and nobody the other.
        Event::PreviousRun(_) | Event::Unknown => String::new(),
    }
}

/// A hit: a line that says when, where and who, then one variable a line, then the stack.
#[must_use]
pub fn hit(hit: &Hit, options: &TextOptions) -> String {
    let mut out = String::with_capacity(512);
    // Writing to a string can't fail, so the results of `write!` carry nothing.
    let _ = write!(out, "{} ", local_clock(hit.time_ns, options.utc_offset_seconds));
    if options.show_host {
        let _ = write!(out, "{} ", plain(&hit.host));
    }
    out.push_str(&what(hit, options));
    match hit.goroutine {
        Some(goroutine) => {
            let _ = write!(out, ", goroutine {goroutine}");
        }
        None => out.push_str(", no goroutine"),
    }
    if hit.system_stack {
        out.push_str(" (system stack)");
    }
    let _ = write!(out, ", {}[{}]", plain(&hit.process), hit.pid);
    if let Some(message) = &hit.message {
        let _ = write!(out, ": {}", shortened(plain(message), options.max_value_chars));
    }
    out.push('\n');
    let shown_before = |role| role == Role::Return && hit.event == Trigger::Return;
    for variable in hit.variables.iter().filter(|variable| !shown_before(variable.role)) {
        let shown = shortened(value(&variable.value), options.max_value_chars);
        let _ = writeln!(out, "{INDENT}{} = {shown}", plain(&variable.name));
    }
    out.push_str(&stack(hit));
    out
}

/// Where, and how a call ended that ended there.
pub(super) fn what(hit: &Hit, options: &TextOptions) -> String {
    match hit.event {
        Trigger::Return | Trigger::Panic | Trigger::Goexit => ended(hit, options),
        Trigger::Line | Trigger::Entry => format!("{}{}", place(&hit.location), trigger(hit.event)),
    }
}

/// The call stack, a frame a line; nothing unless it was asked for.
pub(super) fn stack(hit: &Hit) -> String {
    let mut out = String::new();
    if let Some(stack) = &hit.stack {
        let _ = writeln!(out, "{INDENT}stack:");
        for (index, frame) in stack.iter().enumerate() {
            let _ = writeln!(out, "{INDENT}{index:>3}  {}", frame_text(frame));
        }
        if hit.stack_truncated {
            let _ = writeln!(out, "{INDENT}     …");
        }
    } else if hit.stack_unavailable {
        let _ = writeln!(out, "{INDENT}stack: not kept; the next hit with the same stack shows it");
    }
    out
}

/// A value's text, cut for people: nobody reads ten pages of one variable, and JSON has them all.
pub(super) fn shortened(mut text: String, max_chars: Option<usize>) -> String {
    if let Some((cut, _)) = max_chars.and_then(|max| text.char_indices().nth(max)) {
        let rest = text[cut..].chars().count();
        text.truncate(cut);
        let _ = write!(text, " … ({rest} more characters; --json or --capture shows them)");
    }
    text
}

fn frame_text(frame: &Frame) -> String {
    if frame.file.is_empty() {
        return format!("{} ({})", plain(&frame.function), frame.pc);
    }
    let inlined = if frame.inlined { " (inlined)" } else { "" };
    format!("{}{inlined} at {}:{}", plain(&frame.function), plain(&frame.file), frame.line)
}

fn place(location: &Location) -> String {
    let inlined = location
        .inlined_into
        .as_deref()
        .map_or_else(String::new, |into| format!(" (inlined into {})", plain(into)));
    format!("{}:{} {}{inlined}", plain(&location.file), location.line, plain(&location.function))
}

/// The end of a call: `=> main.Parse returned (n = 7, err = nil) after 1.2 ms at /src/parse.go:42`.
fn ended(hit: &Hit, options: &TextOptions) -> String {
    let mut out = format!("=> {}", plain(&hit.location.function));
    match hit.event {
        Trigger::Panic => out.push_str(" left by a panic"),
        Trigger::Goexit => out.push_str(" left by runtime.Goexit"),
        _ => {
            let results: Vec<String> = hit
                .variables
                .iter()
                .filter(|variable| variable.role == Role::Return)
                .map(|variable| {
                    let shown = shortened(value(&variable.value), options.max_value_chars);
                    // The compiler's own names say nothing.
                    if variable.name.starts_with('~') {
                        shown
                    } else {
                        format!("{} = {shown}", plain(&variable.name))
                    }
                })
                .collect();
            out.push_str(" returned");
            // A message has what was asked for.
            if hit.message.is_none() || !results.is_empty() {
                let _ = write!(out, " ({})", results.join(", "));
            }
        }
    }
    if let Some(duration_ns) = hit.duration_ns {
        let _ = write!(out, " after {}", short_time(duration_ns));
    }
    let at = if hit.event == Trigger::Return { " at" } else { ", declared at" };
    let _ = write!(out, "{at} {}:{}", plain(&hit.location.file), hit.location.line);
    out
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Line => "",
        Trigger::Entry => " entered",
        Trigger::Return => " returns",
        Trigger::Panic => " panics",
        Trigger::Goexit => " ends",
    }
}

/// The counters: where every hit went.
#[must_use]
pub fn stats(stats: &Stats) -> String {
    let Stats {
        tracepoint: _,
        hits,
        emitted,
        filtered,
        throttled,
        dropped,
        failed,
        passed,
        undecodable,
        stacks_unavailable,
        open_calls,
        calls_given_up,
        mean_run_ns,
        trap_ns,
        p99_cost_ns,
        share_of_core,
        would_capture: _,
        estimated_cost_ns: _,
        seconds: _,
    } = stats;
    let mut out = format!(
        "hits {hits} = emitted {emitted} + filtered {filtered} + throttled {throttled} + dropped {dropped} + failed {failed}"
    );
    if *passed > 0 {
        let _ = write!(out, "; {passed} traps were no hits: the branch to the line went elsewhere");
    }
    if *undecodable > 0 {
        let _ = write!(out, "; {undecodable} of the emitted could not be decoded");
    }
    if *stacks_unavailable > 0 {
        let _ = write!(out, "; {stacks_unavailable} without their stack, which was not kept");
    }
    if let Some(open @ 1..) = open_calls {
        let _ = write!(out, "; {open} calls not ended");
    }
    if let Some(given_up @ 1..) = calls_given_up {
        let _ = write!(out, "; {given_up} calls given up, too many were open");
    }
    if *hits > 0 {
        let _ = write!(out, "; mean {}", short_time(mean_run_ns + trap_ns));
        if *p99_cost_ns > 0 {
            let _ = write!(out, ", p99 {}", short_time(*p99_cost_ns));
        }
        let _ = write!(out, " a hit, {} of a core", percent(*share_of_core));
    }
    out.push('\n');
    out
}

/// What a dry run found.
#[must_use]
pub fn price(stats: &Stats) -> String {
    let seconds = stats.seconds.max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = |count: u64| format!("{:.0}/s", count as f64 / seconds);
    let cost = stats.estimated_cost_ns.unwrap_or_default();
    format!(
        "{}: {} hits in {:.1} s ({}), of which {} would be captured at about {} each (trap {}): {} of a core\n",
        plain(&stats.tracepoint),
        stats.hits,
        stats.seconds,
        per_second(stats.hits),
        per_second(stats.would_capture.unwrap_or_default()),
        short_time(cost),
        short_time(stats.trap_ns),
        percent(stats.share_of_core),
    )
}

/// A tracepoint steps down.
#[must_use]
pub fn budget(step: &BudgetStep) -> String {
    let what = match step.step {
        BudgetAction::ArgumentsOnly => "captures its arguments only from now on",
        BudgetAction::CountOnly => "counts its hits only from now on",
        BudgetAction::Detach => "is disarmed",
    };
    format!(
        "budget: {} {what}: {:.0} hits/s at {} each, {} of a core in all, where {} is allowed (--budget)\n",
        plain(&step.tracepoint),
        step.hits_per_second,
        short_time(step.mean_cost_ns),
        percent(step.share_of_core),
        percent(step.budget),
    )
}

/// A tracepoint's sites are others.
#[must_use]
pub fn moved(moved: &Moved) -> String {
    let mut out = format!(
        "moved: {}: the branch that leads to the line went elsewhere {:.0} times/s and to the line {:.0}; the line's own \
         instruction is armed now\n",
        plain(&moved.tracepoint),
        moved.passed_per_second,
        moved.hits_per_second,
    );
    for site in &moved.sites {
        let speed = if site.fast { "emulated" } else { "single-stepped" };
        let _ = writeln!(out, "{INDENT}{} {} ({speed})", site.location.pc, plain(&site.instruction));
    }
    out
}

/// Two digits that mean something.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        ..0.01 => format!("{percent:.4} %"),
        ..10.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.0} %"),
    }
}

fn short_time(nanoseconds: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = nanoseconds.saturating_mul(10) / unit;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{} µs", tenths(1_000)),
        1_000_000..1_000_000_000 => format!("{} ms", tenths(1_000_000)),
        _ => format!("{} s", tenths(1_000_000_000)),
    }
}

/// What was armed, and what can't be read there.
#[must_use]
pub fn attached(attached: &Attached) -> String {
    let count = attached.sites.len();
    let noun = if count == 1 { "site" } else { "sites" };
    let mut out = format!(
        "attached {} in {}: {count} {noun}\n",
        plain(&attached.requested),
        plain(&attached.executable)
    );
    for site in &attached.sites {
        out.push_str(&site_text(site));
    }
    if *attached.redaction == *"off" {
        out.push_str("redaction off: nothing is held back\n");
    }
    for warning in &attached.warnings {
        let _ = writeln!(out, "warning: {}", plain(warning));
    }
    out
}

fn site_text(site: &SiteInfo) -> String {
    let speed = if site.fast { "fast" } else { "single-stepped" };
    let mut out = format!(
        "{INDENT}{} {}{}, {speed}: {}\n",
        site.location.pc,
        place(&site.location),
        if site.event == Trigger::Return { ", return" } else { "" },
        plain(&site.instruction)
    );
    if site.entry.is_some() {
        let _ = writeln!(out, "{INDENT}{INDENT}{}", plain(&site.choice));
    }
    let names = |wanted: &dyn Fn(Option<Unavailable>) -> bool| -> Vec<String> {
        site.variables
            .iter()
            .filter(|variable| wanted(variable.unavailable))
            .map(|variable| match variable.unavailable {
                None => plain(&variable.name),
                Some(unavailable) => format!("{} ({})", plain(&variable.name), reason(unavailable)),
            })
            .collect()
    };
    for (label, names) in [
        ("readable", names(&|unavailable| unavailable.is_none())),
        ("not readable", names(&|unavailable| unavailable.is_some())),
    ] {
        if !names.is_empty() {
            let _ = writeln!(out, "{INDENT}{INDENT}{label}: {}", names.join(", "));
        }
    }
    out
}

/// Why it ended.
#[must_use]
pub fn detached(detached: &Detached) -> String {
    let reason = match detached.reason {
        DetachReason::Limit => "the limit of hits was reached",
        DetachReason::Ttl => "its time ended",
        DetachReason::Budget => "it cost more than it may",
        DetachReason::ProcessExited => "every process ended",
        DetachReason::Removed => "on request",
        DetachReason::Error => "something failed",
    };
    format!("detached: {reason}\n")
}

/// What failed.
#[must_use]
pub fn error(error: &ErrorEvent) -> String {
    let lines: Vec<String> = error.message.lines().map(plain).collect();
    format!("error: {}\n", lines.join("\n"))
}
