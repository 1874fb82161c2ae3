//! `strftime_now` of chat templates: the date and time of day in UTC, in the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// `now` as `format` asks; `%-d` is `%d` without its padding.
///
/// # Errors
/// A directive that is not supported, by name.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let moment = Moment::at(now);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let directive = letters.next();
        let (directive, padded) = match directive {
            Some('-') => (letters.next(), false),
            other => (other, true),
        };
        let field = directive.and_then(|directive| moment.field(directive));
        let field = field.ok_or_else(|| format!("strftime_now: {format:?} has a directive that is not supported"))?;
        text.push_str(if padded { &field } else { unpadded(&field) });
    }
    Ok(text)
}

/// A date of the Gregorian calendar and a time of day.
struct Moment {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From 0, a Sunday.
    weekday: usize,
    /// Of the day.
    seconds: u64,
}

impl Moment {
    fn at(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let days = seconds / 86_400;
        // Counting from 1 March of the year 0 puts the leap day at the end of a year, and 400 years are 146,097 days.
        // The months from March on then begin after (153 m + 2) / 5 days (Hinnant, "chrono-compatible date algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        Self {
            year: era * 400 + year_of_era + u64::from(from_march >= 10),
            month: (from_march as usize + 2) % 12,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            weekday: (days as usize + 4) % 7,
            seconds: seconds % 86_400,
        }
    }

    fn field(&self, directive: char) -> Option<String> {
        let (hour, minute, second) = (self.seconds / 3_600, self.seconds / 60 % 60, self.seconds % 60);
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month + 1),
            'B' => MONTHS[self.month].to_owned(),
            'b' | 'h' => MONTHS[self.month][..3].to_owned(),
            'd' => format!("{:02}", self.day),
            'A' => WEEKDAYS[self.weekday].to_owned(),
            'a' => WEEKDAYS[self.weekday][..3].to_owned(),
            'H' => format!("{hour:02}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// A number without its leading zero.
fn unpadded(field: &str) -> &str {
    match field.strip_prefix('0') {
        Some(rest) if !rest.is_empty() => rest,
        _ => field,
    }
}
