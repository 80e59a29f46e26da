//! `time.Time`, `time.Duration`.

use std::collections::HashMap;

use riptrace_common::wire::value::Value;

use super::{elements, field, signed, text, unsigned};
use crate::decode::time::rfc3339;

/// time/time.go: seconds from the year 1 to 1970, and from the year 1 to 1885 (where monotonic times count from).
const UNIX_TO_INTERNAL: i64 = (1969 * 365 + 1969 / 4 - 1969 / 100 + 1969 / 400) * 86_400;
const WALL_TO_INTERNAL: i64 = (1884 * 365 + 1884 / 4 - 1884 / 100 + 1884 / 400) * 86_400;
const HAS_MONOTONIC: u64 = 1 << 63;
const NANOSECONDS_MASK: u64 = (1 << 30) - 1;
/// Zones are at most a day away from UTC.
const MAX_OFFSET_SECONDS: i64 = 86_400;

pub(super) fn time(value: &Value, locations: &HashMap<u64, Value>) -> Option<String> {
    let wall = unsigned(field(value, "wall")?)?;
    let ext = signed(field(value, "ext")?)?;
    let seconds = if wall & HAS_MONOTONIC == 0 {
        ext
    } else {
        // 33 bits of seconds between the flag and 30 bits of nanoseconds.
        WALL_TO_INTERNAL + ((wall << 1) >> 31).cast_signed()
    };
    let unix = seconds.checked_sub(UNIX_TO_INTERNAL)?;
    let nanoseconds = u32::try_from(wall & NANOSECONDS_MASK).ok().filter(|ns| *ns < 1_000_000_000)?;
    let zone = field(value, "loc")?;
    if zone.nil {
        return Some(rfc3339(unix, nanoseconds, 0));
    }
    let location = zone.elem.as_deref().or_else(|| zone.addr.and_then(|address| locations.get(&address.0)));
    match location.and_then(|location| offset_at(location, unix)) {
        Some(offset) => Some(rfc3339(unix, nanoseconds, offset)),
        // The instant is exact, the zone is not there.
        None => Some(format!("{} (shown in UTC: its zone was not captured)", rfc3339(unix, nanoseconds, 0))),
    }
}

/// Seconds east of UTC at a time (time/zoneinfo.go, `Location.lookup`).
fn offset_at(location: &Value, unix: i64) -> Option<i32> {
    let cached = signed(field(location, "cacheStart")?)?..signed(field(location, "cacheEnd")?)?;
    if cached.contains(&unix)
        && let Some(zone) = field(location, "cacheZone").and_then(|zone| zone.elem.as_deref())
    {
        return zone_offset(zone);
    }
    let zones = elements(field(location, "zone")?)?;
    if zones.is_empty() {
        // `UTC` has no zones. A location without a name may be `Local` before its first use.
        return (text(field(location, "name")?)? == "UTC").then_some(0);
    }
    let transitions = elements(field(location, "tx")?)?;
    let next = transitions
        .iter()
        .position(|transition| field(transition, "when").and_then(signed).is_none_or(|when| when > unix));
    // After the last transition the rule in `extend` may say something else.
    let last = match next {
        Some(next) => next.checked_sub(1)?,
        None if text(field(location, "extend")?)?.is_empty() => transitions.len().checked_sub(1)?,
        None => return None,
    };
    let index = usize::try_from(unsigned(field(transitions.get(last)?, "index")?)?).ok()?;
    zone_offset(zones.get(index)?)
}

fn zone_offset(zone: &Value) -> Option<i32> {
    let offset = signed(field(zone, "offset")?)?;
    (-MAX_OFFSET_SECONDS..=MAX_OFFSET_SECONDS).contains(&offset).then(|| i32::try_from(offset).ok())?
}

/// As `Duration.String`: `1h15m30.918s`, `1.5ms`, `0s`.
pub(super) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let size = nanoseconds.unsigned_abs();
    if size < 1_000_000_000 {
        let (unit, name) = match size {
            0 => return "0s".to_owned(),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{name}", decimal(size, unit));
    }
    let (minutes, rest) = (size / 60_000_000_000, size % 60_000_000_000);
    let seconds = decimal(rest, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `size / unit` (a power of ten) with as many decimals as it needs.
fn decimal(size: u64, unit: u64) -> String {
    let (whole, rest) = (size / unit, size % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(unit.ilog10()).unwrap_or(0);
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (nanoseconds, expect) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
            (-1_500_000_000, "-1.5s"),
        ] {
            assert_eq!(duration(nanoseconds), expect);
        }
    }
}
