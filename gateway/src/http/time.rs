//! Times as the API writes them: UTC, `YYYY-MM-DD HH:mm:ss`.
//!
//! A page may hold 30,000 of them, so they are written into a buffer on the stack by the usual arithmetic on days
//! instead of through a calendar library, which the tests compare against.

use std::fmt;

use serde::{Serialize, Serializer};

/// Milliseconds since 1970-01-01 UTC, written to the second, rounded down. Years before 0 or after 9999, which no
/// broker means, are written with as many digits as they need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Millis(pub(super) i64);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let civil = Civil::new(self.0);
        if let Some(text) = civil.short() {
            // Only ASCII was written.
            serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
        } else {
            serializer.collect_str(&civil)
        }
    }
}

impl Millis {
    /// Writes the text.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let civil = Civil::new(self.0);
        match civil.short() {
            Some(text) => out.extend_from_slice(&text),
            None => out.extend_from_slice(civil.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = Civil::new(self.0);
        match civil.short() {
            Some(text) => f.write_str(std::str::from_utf8(&text).unwrap_or_default()),
            None => civil.fmt(f),
        }
    }
}

struct Civil {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Civil {
    fn new(millis: i64) -> Self {
        let seconds = millis.div_euclid(1000);
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days are counted from 0000-03-01, in eras of 400 years, so that the leap day ends its year.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        // What is left are small numbers, which divide in half the time.
        let (day_of_era, second_of_day) = (days.rem_euclid(146_097) as u32, second_of_day as u32);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = i64::from(year_of_era) + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        Self { year, month, day, hour, minute, second }
    }

    /// The text of a time in a year of four digits.
    fn short(&self) -> Option<[u8; 19]> {
        let year = u32::try_from(self.year).ok().filter(|year| *year <= 9999)?;
        let mut text = *b"0000-00-00 00:00:00";
        let mut put = |at: usize, number: u32| {
            // Two digits at a time, each below 100.
            text[at] += (number / 10) as u8;
            text[at + 1] += (number % 10) as u8;
        };
        put(0, year / 100);
        put(2, year % 100);
        put(5, self.month);
        put(8, self.day);
        put(11, self.hour);
        put(14, self.minute);
        put(17, self.second);
        Some(text)
    }
}

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn written(millis: i64) -> String {
        serde_json::to_string(&Millis(millis)).unwrap().trim_matches('"').to_owned()
    }

    #[test]
    fn known_times() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (1_616_033_757_999, "2021-03-18 02:15:57"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (253_402_300_799_999, "9999-12-31 23:59:59"),
            (253_402_300_800_000, "10000-01-01 00:00:00"),
        ] {
            assert_eq!(written(millis), text);
        }
    }

    #[test]
    fn no_time_is_out_of_range() {
        assert_eq!(written(i64::MAX), "292278994-08-17 07:12:55");
        assert_eq!(written(i64::MIN), "-292275055-05-16 16:47:04");
    }

    proptest! {
        #[test]
        fn as_the_calendar_says(millis in -62_167_219_200_000..253_402_207_200_000_i64) {
            let civil = Timestamp::from_millisecond(millis.div_euclid(1000) * 1000)
                .unwrap()
                .to_zoned(TimeZone::UTC)
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string();
            prop_assert_eq!(written(millis), civil);
        }
    }
}
