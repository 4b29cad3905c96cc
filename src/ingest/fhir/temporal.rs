//! Times that may be stated vaguely, compared as far as that can be told.

use super::calendar::{self, Moment, Precision, Temporal};
use std::cmp::Ordering;
use time::{Date, Duration};

/// How two dates or times stand to each other; none if one is no time, or if both may be true: `2022-06` against
/// `2022-06-30`.
#[must_use]
pub fn compare(left: &str, right: &str) -> Option<Ordering> {
    let (left, right) = (calendar::parse(left, Temporal::DateTime)?, calendar::parse(right, Temporal::DateTime)?);
    match (left.precision == Precision::Second, right.precision == Precision::Second) {
        (true, true) => Some(left.at.cmp(&right.at)),
        (false, false) => {
            let precision = left.precision.min(right.precision);
            let ordering = parts(left.at.date(), precision).cmp(&parts(right.at.date(), precision));
            (ordering.is_ne() || left.precision == right.precision).then_some(ordering)
        }
        (true, false) => instant_to_date(left, right),
        (false, true) => instant_to_date(right, left).map(Ordering::reverse),
    }
}

/// A date has no offset: it begins 14 hours before and ends 12 hours after the same date in UTC.
fn instant_to_date(instant: Moment, date: Moment) -> Option<Ordering> {
    let at = |hours| instant.at.checked_add(Duration::hours(hours)).map(time::OffsetDateTime::date);
    let compare = |day| parts(day, date.precision).cmp(&parts(date.at.date(), date.precision));
    let (first, last) = (compare(at(-12)?), compare(at(14)?));
    (first == last && first.is_ne()).then_some(first)
}

fn parts(date: Date, precision: Precision) -> (i32, u8, u8) {
    let (year, month, day) = date.to_calendar_date();
    match precision {
        Precision::Year => (year, 0, 0),
        Precision::Month => (year, month.into(), 0),
        Precision::Day | Precision::Second => (year, month.into(), day),
    }
}

/// `hh:mm:ss[.fraction]`; none if one is no time of day.
#[must_use]
pub fn compare_times(left: &str, right: &str) -> Option<Ordering> {
    fn split(text: &str) -> Option<(&str, &str)> {
        let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
        let shape = clock.len() == 8
            && clock.bytes().enumerate().all(|(index, byte)| match index {
                2 | 5 => byte == b':',
                _ => byte.is_ascii_digit(),
            });
        shape.then(|| (clock, fraction.trim_end_matches('0')))
    }
    Some(split(left)?.cmp(&split(right)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_times_compare_only_where_that_is_certain() {
        for (left, right, expected) in [
            ("1998", "2020", Some(Ordering::Less)),
            ("2023", "2022", Some(Ordering::Greater)),
            ("2022", "2022", Some(Ordering::Equal)),
            ("2022-06-30", "2022-06", None),
            ("2022-07", "2022-06", Some(Ordering::Greater)),
            ("2022", "2022-06", None),
            ("2022-06-30T10:00:00Z", "2022-06", None),
            ("2022-07-01T03:00:00Z", "2022-06", None),
            ("2022-07-02T00:00:00Z", "2022-06", Some(Ordering::Greater)),
            ("2022", "2023-01-02T00:00:00Z", Some(Ordering::Less)),
            ("2022-06-30T10:00:00Z", "2022-06-30T12:00:00+02:00", Some(Ordering::Equal)),
            ("soon", "2022", None),
            ("9999-12-31T23:00:00Z", "9999", None),
        ] {
            assert_eq!(compare(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn times_of_day_compare_with_their_fraction() {
        assert_eq!(compare_times("10:00:00", "10:00:00.000"), Some(Ordering::Equal));
        assert_eq!(compare_times("09:00:00", "10:00:00"), Some(Ordering::Less));
        assert_eq!(compare_times("10:00:00.5", "10:00:00.45"), Some(Ordering::Greater));
        assert_eq!(compare_times("10:00", "10:00:00"), None);
    }
}
