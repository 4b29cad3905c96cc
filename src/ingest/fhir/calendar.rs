//! FHIR's `date`, `dateTime` and `instant` (R4 datatypes), with the real calendar: 2020-02-30 is none.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// How a date is written (FHIR R4, datatypes: date, dateTime, instant).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporal {
    /// `YYYY[-MM[-DD]]`
    Date,
    /// A date, or a date with a time and an offset.
    DateTime,
    /// A date with a time to the second at least, and an offset.
    Instant,
}

/// How precisely a time was stated; the coarser is the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// `2026`
    Year,
    /// `2026-11`
    Month,
    /// `2026-11-21`
    Day,
    /// With a time of day.
    Second,
}

impl Precision {
    /// The word in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Second => "second",
        }
    }
}

/// The start of the stated period, in UTC where no offset is written, and the precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For sorting; the text stays the truth.
    pub at: OffsetDateTime,
    /// What was stated.
    pub precision: Precision,
}

/// Read a `date`, `dateTime` or `instant`.
#[must_use]
pub fn parse(text: &str, temporal: Temporal) -> Option<Moment> {
    let moment = parse_any(text)?;
    match temporal {
        Temporal::DateTime => Some(moment),
        Temporal::Date => (moment.precision != Precision::Second).then_some(moment),
        Temporal::Instant => (moment.precision == Precision::Second).then_some(moment),
    }
}

/// The instant of an `instant` or of a `dateTime` with a time.
#[must_use]
pub fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    parse(text, Temporal::Instant).map(|moment| moment.at)
}

fn parse_any(text: &str) -> Option<Moment> {
    // The grammar is ASCII, so bytes are characters from here on.
    if !text.is_ascii() {
        return None;
    }
    let (date_text, rest) = text.split_at(text.len().min(10));
    let (date, precision) = parse_date(date_text)?;
    if rest.is_empty() {
        let at = PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc();
        return Some(Moment { at, precision });
    }
    if precision != Precision::Day {
        return None;
    }
    let (time, offset) = parse_time(rest.strip_prefix('T')?)?;
    let at = PrimitiveDateTime::new(date, time).assume_offset(offset);
    // PostgreSQL and `time` both hold years 1 to 9999; an offset may leave that at the edges.
    let at = at.checked_to_offset(UtcOffset::UTC)?;
    (1..=9999).contains(&at.year()).then_some(Moment { at, precision: Precision::Second })
}

fn parse_date(text: &str) -> Option<(Date, Precision)> {
    let bytes = text.as_bytes();
    let year = i32::from(digits(bytes.get(..4)?)?);
    if year == 0 {
        return None;
    }
    let (month, day, precision) = match bytes.len() {
        4 => (1, 1, Precision::Year),
        7 if bytes[4] == b'-' => (digits(&bytes[5..7])?, 1, Precision::Month),
        10 if bytes[4] == b'-' && bytes[7] == b'-' => (digits(&bytes[5..7])?, digits(&bytes[8..10])?, Precision::Day),
        _ => return None,
    };
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()?;
    Some((date, precision))
}

/// `hh:mm:ss[.fraction](Z|(+|-)hh:mm)`. A leap second counts as the last second of its minute.
fn parse_time(text: &str) -> Option<(Time, UtcOffset)> {
    let (clock, offset) = if let Some(clock) = text.strip_suffix('Z') {
        (clock, UtcOffset::UTC)
    } else {
        let (clock, zone) = text.split_at(text.len().checked_sub(6)?);
        (clock, parse_offset(zone.as_bytes())?)
    };
    let bytes = clock.as_bytes();
    if bytes.len() < 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let nanosecond = match bytes.get(8..) {
        None | Some([]) => 0,
        Some([b'.', fraction @ ..]) if !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit) => {
            // Digits beyond nanoseconds are cut.
            let places = &fraction[..fraction.len().min(9)];
            let value = places.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
            value * 10u32.pow(9 - u32::try_from(places.len()).ok()?)
        }
        Some(_) => return None,
    };
    let (hour, minute, second) = (digits(&bytes[..2])?, digits(&bytes[3..5])?, digits(&bytes[6..8])?);
    if second > 60 {
        return None;
    }
    let [hour, minute, second] = [hour, minute, second.min(59)].map(|value| u8::try_from(value).unwrap_or(u8::MAX));
    Some((Time::from_hms_nano(hour, minute, second, nanosecond).ok()?, offset))
}

fn parse_offset(bytes: &[u8]) -> Option<UtcOffset> {
    let sign = match bytes {
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    let (hours, minutes) = (digits(&bytes[1..3])?, digits(&bytes[4..6])?);
    // The widest offset that FHIR's grammar admits is 14:00.
    if hours > 14 || minutes > 59 || (hours == 14 && minutes > 0) {
        return None;
    }
    let (hours, minutes) = (i8::try_from(hours).ok()?, i8::try_from(minutes).ok()?);
    UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
}

/// Up to four ASCII digits.
fn digits(bytes: &[u8]) -> Option<u16> {
    if bytes.is_empty() || bytes.len() > 4 || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    #[test]
    fn the_stated_precision_is_kept() {
        for (text, at, precision) in [
            ("2011", datetime!(2011-01-01 0:00 UTC), Precision::Year),
            ("2011-04", datetime!(2011-04-01 0:00 UTC), Precision::Month),
            ("2011-04-19", datetime!(2011-04-19 0:00 UTC), Precision::Day),
            ("2011-04-19T09:21:52.137+02:00", datetime!(2011-04-19 7:21:52.137 UTC), Precision::Second),
            ("2016-12-31T23:59:60Z", datetime!(2016-12-31 23:59:59 UTC), Precision::Second),
        ] {
            assert_eq!(parse(text, Temporal::DateTime), Some(Moment { at, precision }), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "20",
            "0000",
            "2020-2-3",
            "2020-02-30",
            "2021-02-29",
            "2020-13",
            "2020-00-01",
            "2020-01-01T",
            "2020-01-01T10:00Z",
            "2020-01-01T10:00:00",
            "2020-01-01 10:00:00Z",
            "2020-01-01T24:00:00Z",
            "2020-01-01T10:00:00.Z",
            "2020-01-01T10:00:00+15:00",
            "2020-01T10:00:00Z",
            "２０２０",
            "2020-01-01T10:00:61Z",
        ] {
            assert_eq!(parse(text, Temporal::DateTime), None, "{text}");
        }
        assert_eq!(parse("2020-01-01T10:00:00Z", Temporal::Date), None);
        assert_eq!(parse("2020-01-01", Temporal::Instant), None);
    }

    /// What an independent library makes of a date: the start of what is stated, in UTC.
    fn independent_date(year: i16, month: i8, day: i8) -> Option<jiff::Timestamp> {
        let midnight = jiff::civil::Date::new(year, month, day).ok()?.at(0, 0, 0, 0);
        Some(midnight.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    }

    fn nanoseconds(text: &str) -> Option<(i128, Precision)> {
        parse(text, Temporal::DateTime).map(|moment| (moment.at.unix_timestamp_nanos(), moment.precision))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn dates_are_those_of_an_independent_calendar(year in 1i16..=9999, month in 0i8..=13, day in 0i8..=32) {
            let expected = |at: Option<jiff::Timestamp>, precision| at.map(|at| (at.as_nanosecond(), precision));
            let day_of = independent_date(year, month, day);
            prop_assert_eq!(nanoseconds(&format!("{year:04}-{month:02}-{day:02}")), expected(day_of, Precision::Day));
            let month_of = independent_date(year, month, 1);
            prop_assert_eq!(nanoseconds(&format!("{year:04}-{month:02}")), expected(month_of, Precision::Month));
            let year_of = independent_date(year, 1, 1);
            prop_assert_eq!(nanoseconds(&format!("{year:04}")), expected(year_of, Precision::Year));
        }

        /// Leap days, hours and minutes out of range, leap seconds, fractions, every offset.
        #[test]
        fn instants_are_those_of_an_independent_library(
            date in (2i16..9999, 1i8..=12, prop_oneof![1i8..=31, 28i8..=30]),
            clock in (0u8..=25, 0u8..=61, 0u8..=62),
            fraction in prop::option::of("[0-9]{1,9}"),
            offset in prop_oneof![Just(None), (any::<bool>(), 0u8..=15, 0u8..=60).prop_map(Some)],
        ) {
            let ((year, month, day), (hour, minute, second)) = (date, clock);
            let zone = offset.map_or_else(|| "Z".to_owned(), |(is_east, hours, minutes)| {
                format!("{}{hours:02}:{minutes:02}", if is_east { '+' } else { '-' })
            });
            let fraction = fraction.map(|digits| format!(".{digits}")).unwrap_or_default();
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
            // Looser than FHIR in two places: hour 24 and offsets beyond 14:00.
            let is_fhir = hour < 24 && offset.is_none_or(|(_, hours, minutes)| hours < 14 || (hours == 14 && minutes == 0));
            // A leap second is the last second of its minute there too, but its fraction is not kept.
            let text = if second == 60 { text.replace(&fraction, "") } else { text };
            let expected = text.parse::<jiff::Timestamp>().ok().filter(|_| is_fhir);
            prop_assert_eq!(
                nanoseconds(&text),
                expected.map(|at| (at.as_nanosecond(), Precision::Second)),
                "{}", text
            );
        }
    }

    #[test]
    fn leap_years_and_the_widest_offsets_are_right() {
        for (text, expected) in [
            ("2000-02-29", Some("2000-02-29T00:00:00Z")),
            ("1900-02-29", None),
            ("2024-02-29T23:59:59-14:00", Some("2024-03-01T13:59:59Z")),
            ("2024-02-29T00:00:00+14:00", Some("2024-02-28T10:00:00Z")),
            ("2024-02-29T00:00:00+14:01", None),
        ] {
            let expected = expected.map(|text: &str| text.parse::<jiff::Timestamp>().unwrap().as_nanosecond());
            assert_eq!(nanoseconds(text).map(|(at, _)| at), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, tail in "[0-9TZ:.+-]{0,30}") {
            let _ = parse(&text, Temporal::DateTime);
            let _ = parse(&tail, Temporal::DateTime);
            let _ = parse(&format!("2020-01-01T{tail}"), Temporal::DateTime);
        }
    }
}
