//! Calendar arithmetic for times: Unix seconds to RFC 3339. (Proleptic Gregorian, as Go's package `time`.)

use std::fmt::Write as _;

const SECONDS_A_DAY: i64 = 86_400;
/// Room of a time with nanoseconds.
const TEXT_BYTES: usize = "2026-11-20T12:00:00.123456789Z".len();

/// RFC 3339 with exactly nine digits of a second, in UTC: `2026-11-20T12:00:00.123456789Z`.
pub(crate) fn rfc3339_utc(unix_ns: u64) -> String {
    let seconds = i64::try_from(unix_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = unix_ns % 1_000_000_000;
    let mut text = civil_text(seconds, 'T');
    text.push('.');
    push_digits(&mut text, nanoseconds, 9);
    text.push('Z');
    text
}

/// As Go's `time.RFC3339Nano`: no trailing zeros, the zone as `Z` or `+02:00`. `offset_seconds` is east of UTC.
pub(crate) fn rfc3339(unix_seconds: i64, nanoseconds: u32, offset_seconds: i32) -> String {
    let mut text = civil_text(unix_seconds.saturating_add(i64::from(offset_seconds)), 'T');
    if nanoseconds != 0 {
        let digits = format!("{nanoseconds:09}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
    text.push_str(&zone_text(offset_seconds));
    text
}

/// `2026-11-20 12:00:00.123456` in a zone: what the terminal shows.
pub(crate) fn local_clock(unix_ns: u64, offset_seconds: i32) -> String {
    let seconds = i64::try_from(unix_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let microseconds = unix_ns % 1_000_000_000 / 1_000;
    let mut text = civil_text(seconds.saturating_add(i64::from(offset_seconds)), ' ');
    let _ = write!(text, ".{microseconds:06}");
    text
}

fn zone_text(offset_seconds: i32) -> String {
    if offset_seconds == 0 {
        return "Z".to_owned();
    }
    let sign = if offset_seconds < 0 { '-' } else { '+' };
    let minutes = offset_seconds.unsigned_abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

fn civil_text(seconds: i64, separator: char) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_A_DAY));
    let second = seconds.rem_euclid(SECONDS_A_DAY).unsigned_abs();
    let mut text = String::with_capacity(TEXT_BYTES);
    if year < 0 {
        text.push('-');
    }
    push_digits(&mut text, year.unsigned_abs(), 4);
    for (before, number) in [
        ('-', month.unsigned_abs()),
        ('-', day.unsigned_abs()),
        (separator, second / 3_600),
        (':', second / 60 % 60),
        (':', second % 60),
    ] {
        text.push(before);
        push_digits(&mut text, number, 2);
    }
    text
}

/// Decimal digits with zeros in front, at least so many. Every hit has its time twice; `format!` takes ten times as long.
fn push_digits(text: &mut String, number: u64, at_least: usize) {
    let mut digits = [b'0'; 20];
    let (mut left, mut begin) = (number, digits.len());
    while left > 0 || digits.len() - begin < at_least {
        begin -= 1;
        digits[begin] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    text.extend(digits[begin..].iter().map(|digit| char::from(*digit)));
}

/// Year, month, day of a day counted from 1970-01-01. Days are counted in years that begin in March, so that the leap
/// day is the last one (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_times_become_rfc_3339() {
        for (seconds, nanoseconds, offset, expect) in [
            (0, 0, 0, "1970-01-01T00:00:00Z"),
            (1_795_608_000, 123_456_789, 0, "2026-11-25T12:00:00.123456789Z"),
            (951_782_400, 500_000_000, 7_200, "2000-02-29T02:00:00.5+02:00"),
            (-62_135_596_800, 0, 0, "0001-01-01T00:00:00Z"),
            (1_700_000_000, 0, -16_200, "2023-11-14T17:43:20-04:30"),
            (253_402_300_800, 0, 0, "10000-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds, nanoseconds, offset), expect);
        }
        assert_eq!(rfc3339_utc(1_795_608_000_000_000_001), "2026-11-25T12:00:00.000000001Z");
        let _ = rfc3339(i64::MAX, 0, 1);
        let _ = rfc3339(i64::MIN, 0, -1);
    }
}
