//! Dates and times as athenahealth and its users write them: US dates, ISO dates, with or without an offset.
//!
//! What is not certain is not read: two digits of a year, a day before a month, a day that the calendar does not have.

use jiff::civil;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use time::OffsetDateTime;

/// A time that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The start of what is stated.
    pub at: OffsetDateTime,
    /// year, month, day, second
    pub precision: &'static str,
    /// The zone's clocks show it never or twice: it was taken as is usual (jiff's "compatible").
    pub is_ambiguous: bool,
}

/// Why a text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// `01/02/26`
    TwoDigitYear,
    /// `02/30/2026`, `13/01/2026`, `25:00`
    NoSuchTime,
    /// Anything else.
    Unknown,
}

impl Unreadable {
    /// What an issue says.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::TwoDigitYear => "The year has two digits: the century is not guessed.",
            Self::NoSuchTime => "There is no such date or time (dates are month/day/year).",
            Self::Unknown => "Not a date or time in a known form (MM/DD/YYYY, YYYY-MM-DD, each also with a time).",
        }
    }
}

/// What a date says, and how much of it.
struct Day {
    date: civil::Date,
    precision: &'static str,
}

/// Read a date, or a date and a time. Without an offset it is meant in `zone`.
///
/// # Errors
/// [`Unreadable`].
pub fn parse(text: &str, zone: &TimeZone) -> Result<Moment, Unreadable> {
    let text = text.trim();
    if text.len() > 64 || !text.is_ascii() {
        return Err(Unreadable::Unknown);
    }
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, Some(clock.trim())),
        None => (text, None),
    };
    let day = day(date)?;
    let Some(clock) = clock else {
        let midnight = day.date.at(0, 0, 0, 0).to_zoned(zone.clone()).map_err(|_| Unreadable::NoSuchTime)?;
        return moment(midnight.timestamp(), day.precision, false);
    };
    if day.precision != "day" {
        return Err(Unreadable::Unknown);
    }
    let (time, offset) = time_of_day(clock)?;
    let local = day.date.to_datetime(time);
    if let Some(offset) = offset {
        let at = offset.to_timestamp(local).map_err(|_| Unreadable::NoSuchTime)?;
        return moment(at, "second", false);
    }
    let stated = zone.to_ambiguous_zoned(local);
    let is_ambiguous = !matches!(stated.offset(), AmbiguousOffset::Unambiguous { .. });
    let at = stated.compatible().map_err(|_| Unreadable::NoSuchTime)?;
    moment(at.timestamp(), "second", is_ambiguous)
}

/// Whether a text is a time of day.
///
/// # Errors
/// [`Unreadable`].
pub fn check_clock(text: &str) -> Result<(), Unreadable> {
    if text.len() > 32 || !text.is_ascii() {
        return Err(Unreadable::Unknown);
    }
    time_of_day(text.trim()).map(|_| ())
}

fn moment(at: jiff::Timestamp, precision: &'static str, is_ambiguous: bool) -> Result<Moment, Unreadable> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(at.as_nanosecond()).map_err(|_| Unreadable::NoSuchTime)?;
    // PostgreSQL and `time` both hold these.
    if (1..=9999).contains(&at.year()) {
        Ok(Moment { at, precision, is_ambiguous })
    } else {
        Err(Unreadable::NoSuchTime)
    }
}

/// `MM/DD/YYYY`, `YYYY-MM-DD`, `YYYY-MM`, `YYYY`.
fn day(text: &str) -> Result<Day, Unreadable> {
    let is_digits = |part: &&str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| part.parse::<i16>().map_err(|_| Unreadable::Unknown);
    let (year, month, day, precision) = if text.contains('/') {
        let parts: Vec<&str> = text.split('/').collect();
        let [month, day, year] = parts[..] else { return Err(Unreadable::Unknown) };
        if ![month, day, year].iter().all(is_digits) || month.len() > 2 || day.len() > 2 {
            return Err(Unreadable::Unknown);
        }
        (year, month, day, "day")
    } else {
        let parts: Vec<&str> = text.split('-').collect();
        if !parts.iter().all(is_digits) || parts[0].len() < 4 {
            return Err(Unreadable::Unknown);
        }
        match parts[..] {
            [year] => (year, "1", "1", "year"),
            [year, month] if month.len() == 2 => (year, month, "1", "month"),
            [year, month, day] if month.len() == 2 && day.len() == 2 => (year, month, day, "day"),
            _ => return Err(Unreadable::Unknown),
        }
    };
    match year.len() {
        4 => {}
        2 => return Err(Unreadable::TwoDigitYear),
        _ => return Err(Unreadable::Unknown),
    }
    let small = |part: &str| i8::try_from(number(part)?).map_err(|_| Unreadable::NoSuchTime);
    let year = number(year)?;
    let date = civil::Date::new(year, small(month)?, small(day)?).map_err(|_| Unreadable::NoSuchTime)?;
    if year == 0 { Err(Unreadable::NoSuchTime) } else { Ok(Day { date, precision }) }
}

/// `HH:MM[:SS[.fraction]][ AM|PM][Z|±HH[:]MM]`.
fn time_of_day(text: &str) -> Result<(civil::Time, Option<Offset>), Unreadable> {
    let end =
        text.bytes().position(|byte| !(byte.is_ascii_digit() || byte == b':' || byte == b'.')).unwrap_or(text.len());
    let (clock, rest) = text.split_at(end);
    let mut rest = rest.trim();
    let half =
        ["am", "pm"].into_iter().find(|half| rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(half)));
    if half.is_some() {
        rest = rest[2..].trim_start();
    }
    let offset = if rest.is_empty() { None } else { Some(offset(rest)?) };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let parts: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute] if fraction == "0" => (hour, minute, "00"),
        [hour, minute, second] => (hour, minute, second),
        _ => return Err(Unreadable::Unknown),
    };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if hour.len() > 2 || minute.len() != 2 || second.len() != 2 || fraction.len() > 9 {
        return Err(Unreadable::Unknown);
    }
    if ![hour, minute, second, fraction].into_iter().all(is_digits) {
        return Err(Unreadable::Unknown);
    }
    let number = |part: &str| part.parse::<i8>().map_err(|_| Unreadable::Unknown);
    let hour = match (half, number(hour)?) {
        (Some("am"), 12) => 0,
        (Some("pm"), hour @ 1..=11) => hour + 12,
        (None, hour) | (Some(_), hour @ 1..=12) => hour,
        (Some(_), _) => return Err(Unreadable::NoSuchTime),
    };
    let nanosecond = format!("{fraction:0<9}").parse::<i32>().map_err(|_| Unreadable::Unknown)?;
    let time = civil::Time::new(hour, number(minute)?, number(second)?, nanosecond);
    Ok((time.map_err(|_| Unreadable::NoSuchTime)?, offset))
}

fn offset(text: &str) -> Result<Offset, Unreadable> {
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Ok(Offset::UTC);
    }
    let sign = match text.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Err(Unreadable::Unknown),
    };
    let digits = text[1..].replacen(':', "", 1);
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unreadable::Unknown);
    }
    let number = |part: &str| part.parse::<i32>().map_err(|_| Unreadable::Unknown);
    let (hours, minutes) = (number(&digits[..2])?, if digits.len() == 4 { number(&digits[2..])? } else { 0 });
    if hours > 14 || minutes > 59 {
        return Err(Unreadable::NoSuchTime);
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map_err(|_| Unreadable::NoSuchTime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    fn read(text: &str) -> Result<Moment, Unreadable> {
        parse(text, &TimeZone::get("America/New_York").unwrap())
    }

    #[test]
    fn times_are_read_in_the_zone_of_the_practice_unless_they_have_an_offset() {
        for (text, at, precision) in [
            ("07/28/2015", datetime!(2015-07-28 4:00 UTC), "day"),
            ("7/8/2015", datetime!(2015-07-08 4:00 UTC), "day"),
            ("01/28/2015", datetime!(2015-01-28 5:00 UTC), "day"),
            ("07/28/2015 03:00:56", datetime!(2015-07-28 7:00:56 UTC), "second"),
            ("07/28/2015 15:04", datetime!(2015-07-28 19:04 UTC), "second"),
            ("07/28/2015 3:04 PM", datetime!(2015-07-28 19:04 UTC), "second"),
            ("07/28/2015 12:04:05 am", datetime!(2015-07-28 4:04:05 UTC), "second"),
            ("07/28/2015 12:04PM", datetime!(2015-07-28 16:04 UTC), "second"),
            ("2015-07-28", datetime!(2015-07-28 4:00 UTC), "day"),
            ("2015-07", datetime!(2015-07-01 4:00 UTC), "month"),
            ("2015", datetime!(2015-01-01 5:00 UTC), "year"),
            ("2015-07-28T15:04:05", datetime!(2015-07-28 19:04:05 UTC), "second"),
            ("2015-07-28T15:04:05.250Z", datetime!(2015-07-28 15:04:05.25 UTC), "second"),
            ("2015-07-28 15:04:05+02:00", datetime!(2015-07-28 13:04:05 UTC), "second"),
            ("2015-07-28T15:04:05-0400", datetime!(2015-07-28 19:04:05 UTC), "second"),
            ("02/29/2024", datetime!(2024-02-29 5:00 UTC), "day"),
        ] {
            assert_eq!(read(text), Ok(Moment { at, precision, is_ambiguous: false }), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_read() {
        for (text, why) in [
            ("01/02/26", Unreadable::TwoDigitYear),
            ("02/30/2026", Unreadable::NoSuchTime),
            ("02/29/2025", Unreadable::NoSuchTime),
            ("13/01/2026", Unreadable::NoSuchTime),
            ("00/01/2026", Unreadable::NoSuchTime),
            ("2026-02-30", Unreadable::NoSuchTime),
            ("01/01/0000", Unreadable::NoSuchTime),
            ("01/01/2026 25:00", Unreadable::NoSuchTime),
            ("01/01/2026 13:00 PM", Unreadable::NoSuchTime),
            ("01/01/2026 10:60", Unreadable::NoSuchTime),
            ("01/01/2026T10:00:00+19:00", Unreadable::NoSuchTime),
            ("yesterday", Unreadable::Unknown),
            ("01.02.2026", Unreadable::Unknown),
            ("Jan 2, 2026", Unreadable::Unknown),
            ("20260102", Unreadable::Unknown),
            ("26-01-02", Unreadable::Unknown),
            ("2026-1-2", Unreadable::Unknown),
            ("01/2026", Unreadable::Unknown),
            ("01/02/026", Unreadable::Unknown),
            ("2026-01T10:00", Unreadable::Unknown),
            ("01/02/2026 10", Unreadable::Unknown),
            ("01/02/2026 10:00 EST", Unreadable::Unknown),
            ("", Unreadable::Unknown),
            ("０１/02/2026", Unreadable::Unknown),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
    }

    #[test]
    fn hours_that_the_clocks_skip_or_repeat_are_said_to_be_so() {
        // 2026-03-08 02:30 does not exist in New York; 2026-11-01 01:30 is there twice.
        for (text, at) in
            [("03/08/2026 02:30", datetime!(2026-03-08 7:30 UTC)), ("11/01/2026 01:30", datetime!(2026-11-01 5:30 UTC))]
        {
            assert_eq!(read(text), Ok(Moment { at, precision: "second", is_ambiguous: true }), "{text}");
        }
        assert!(!read("11/01/2026 01:30-05:00").unwrap().is_ambiguous);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, almost in "[0-9/:T .aApPmMZ+-]{0,24}") {
            let _ = read(&text);
            let _ = read(&almost);
            let _ = check_clock(&text);
            let _ = check_clock(&almost);
        }

        /// Every date of the calendar, and none else.
        #[test]
        fn dates_are_those_of_the_calendar(year in 1i32..=9999, month in 0u8..=13, day in 0u8..=32) {
            let known = time::Month::try_from(month).ok().and_then(|month| time::Date::from_calendar_date(year, month, day).ok());
            let read = parse(&format!("{month:02}/{day:02}/{year:04}"), &TimeZone::UTC);
            prop_assert_eq!(read.ok().map(|moment| moment.at.date()), known);
        }
    }
}
