//! Sizes and durations as people write them: a whole number and a unit. It must not know where they are used.

use std::time::Duration;

/// Units of size with their bytes, largest first.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of time with their milliseconds, largest first.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `64MiB` as bytes.
///
/// # Errors
/// A fragment that says what is wrong. A number without a unit is refused: nobody knows what its writer meant.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZES, "size", "64MiB")
}

/// The shortest exact form of `bytes`, as [`parse_size`] reads it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format(bytes, &SIZES, "B")
}

/// Reads `10m` as a duration. Everything is a whole number of milliseconds.
///
/// # Errors
/// A fragment that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &TIMES, "duration", "10m").map(Duration::from_millis)
}

/// The shortest exact form of `duration`, as [`parse_duration`] reads it; a fraction of a millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { "0s".to_owned() } else { format(millis, &TIMES, "ms") }
}

fn parse(text: &str, units: &[(&str, u64)], what: &str, example: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let known = || units.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(format!(
            "`{text}` is not a {what}: write a whole number and a unit, such as `{example}`"
        ));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "`{text}` has no unit that is known: write one of {}, such as `{example}`",
            known()
        ));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| format!("`{text}` is too large"))
}

fn format(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_sizes_and_durations() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("141GB"), Ok(141_000_000_000));
        assert_eq!(parse_size("0B"), Ok(0));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        insta::assert_snapshot!(parse_size("64").expect_err("no unit"), @"`64` has no unit that is known: write one of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB, such as `64MiB`");
        insta::assert_snapshot!(parse_size("1.5GiB").expect_err("a fraction"), @"`1.5GiB` has no unit that is known: write one of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB, such as `64MiB`");
        insta::assert_snapshot!(parse_size("MiB").expect_err("no number"), @"`MiB` is not a size: write a whole number and a unit, such as `64MiB`");
        insta::assert_snapshot!(parse_duration("20000000000000000d").expect_err("too long"), @"`20000000000000000d` is too large");
        for text in ["", "-1MiB", "1mib", "1 MiB", "１MiB", "99999999999999999999B", "16777217TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(bytes in any::<u64>(), shift in 0u32..64) {
            for bytes in [bytes, bytes >> shift << shift, bytes >> shift] {
                prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            }
        }

        #[test]
        fn durations_round_trip(millis in any::<u64>(), number in 0u64..100_000, unit in 0usize..5) {
            for millis in [millis, number * TIMES[unit].1] {
                let duration = Duration::from_millis(millis);
                prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}
