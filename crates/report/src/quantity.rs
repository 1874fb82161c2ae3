//! How numbers are written for people, alike in the display, in reports and in tables.

use std::time::Duration;

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `512 B`, `1.5 MiB`, `2.25 GiB`.
pub fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{number} B"),
        _ => format!("{} {unit}", significant(value)),
    }
}

/// `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {:02} s", seconds % 60),
        (0, ..) => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{days} d {:02} h", hours % 24),
    }
}

/// Four significant digits, without an exponent where none is needed: `0.6831`, `12.35`, `507`, `2e-5`.
pub fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor();
    if !(-3.0..9.0).contains(&exponent) {
        let text = format!("{value:.3e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(mantissa));
    }
    let decimals = (3.0 - exponent).max(0.0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(decimal: &str) -> &str {
    match decimal.contains('.') {
        true => decimal.trim_end_matches('0').trim_end_matches('.'),
        false => decimal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [5, 1024, 3 << 19, 9 << 28, 1 << 50].map(bytes),
            ["5 B", "1 KiB", "1.5 MiB", "2.25 GiB", "1024 TiB"]
        );
        assert_eq!(
            [0, 59, 60, 185, 7620, 273_600].map(|seconds| duration(Duration::from_secs(seconds))),
            ["0 s", "59 s", "1 min 00 s", "3 min 05 s", "2 h 07 min", "3 d 04 h"]
        );
        assert_eq!(
            [0.0, 0.683_147, 12.345_67, 507.0, 2e-5, 1.234_56e12, -0.5].map(significant),
            ["0", "0.6831", "12.35", "507", "2e-5", "1.235e12", "-0.5"]
        );
        assert_eq!(significant(f64::NAN), "NaN");
    }
}
