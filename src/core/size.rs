//! Sizes in bytes as people write them: `16GB`, `1.5 GiB`.
//!
//! Knows the units and nothing of what is measured.

/// What [`parse`] takes, as a regular expression of JSON Schema.
pub const PATTERN: &str = "^[0-9]+(\\.[0-9]+)? ?([kKMGT]i?)?B$";

/// Reads a size: a number and a decimal (`GB`: 10^9) or a binary unit (`GiB`: 2^30) of bytes. `None`: it is none, or it
/// is more than there is anywhere.
pub fn parse(text: &str) -> Option<u64> {
    let (prefix, power) = match text.strip_suffix('B')? {
        rest if rest.ends_with('i') => (&rest[..rest.len() - 1], 1024_u64),
        rest => (rest, 1000),
    };
    let exponent = match prefix.chars().last()? {
        'k' | 'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        _ if power == 1024 => return None,
        _ => 0,
    };
    let number = if exponent == 0 { prefix } else { &prefix[..prefix.len() - 1] };
    let number = number.strip_suffix(' ').unwrap_or(number);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| !s.is_empty() && s.len() <= 15 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let unit = u128::from(power.pow(exponent));
    let scale = 10_u128.pow(part.len() as u32);
    let bytes = whole.parse::<u128>().ok()? * unit + part.parse::<u128>().ok()? * unit / scale;
    u64::try_from(bytes).ok().filter(|n| i64::try_from(*n).is_ok())
}

/// A size for people, in the largest decimal unit that leaves at least one before the point.
pub fn show(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{}{name}", bytes / unit),
        Some((unit, name)) => format!("{:.2}{name}", bytes as f64 / unit as f64),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_decimal_and_binary_units_and_nothing_else_is_a_size() {
        for (text, bytes) in [
            ("16GB", 16_000_000_000),
            ("16 GB", 16_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0B", 0),
            ("12B", 12),
            ("3kB", 3000),
            ("3KiB", 3072),
            ("0.5MB", 500_000),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "B",
            "GB",
            "16",
            "16G",
            "16gb",
            "16iB",
            "-1GB",
            "1..5GB",
            "1.GB",
            ".5GB",
            "1e3GB",
            "99999999TB",
            "1  GB",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!([show(16_000_000_000), show(1_500_000), show(12)], ["16GB", "1.50MB", "12B"]);
    }
}
