//! Numbers in words: `thirty-three million`, `two hundred thousand`, `ninety-eight percent`.
//!
//! Below thirteen, without a multiplier or a unit behind, they are left alone: `one`, `two steps` are how people count in
//! prose. Knows no units' meaning and no facts.

use regex::Regex;
use std::ops::Range;
use std::sync::LazyLock;

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(&str, f64); 3] = [("thousand", 1e3), ("million", 1e6), ("billion", 1e9)];
/// The least that counts where nothing follows it.
const LEAST: f64 = 13.0;

/// A number in words.
#[derive(Debug, PartialEq)]
pub struct Spelled {
    /// Where it stands, its unit with it.
    pub range: Range<usize>,
    /// Of its last multiplier: 33 of `thirty-three million`.
    pub number: f64,
    /// One in the last place that is said, in the same.
    pub last: f64,
    /// `million`, `percent`, `megabytes`, ..., as it is written, or nothing.
    pub unit: String,
}

static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let word = SMALL.iter().chain(&TENS).chain(&["hundred"]).chain(SCALES.iter().map(|(word, _)| word));
    let word = word.copied().collect::<Vec<_>>().join("|");
    let unit = "percent|per cent|(?:kilo|mega|giga|tera|kibi|mebi|gibi)?bytes?|[kmgt]i?b";
    Regex::new(&format!(
        r"(?i)\b(?P<words>(?:an? (?:hundred|thousand|million|billion)|{word})(?:(?:-| and | )(?:{word}))*)\b(?:[ -](?P<unit>{unit})\b| ?(?P<percent>%))?"
    ))
    .ok()
});

/// All numbers in words.
pub fn all(text: &str) -> Vec<Spelled> {
    let found = WORDS.as_ref().into_iter().flat_map(|regex| regex.captures_iter(text));
    found.filter_map(|found| read(&found)).collect()
}

fn read(found: &regex::Captures<'_>) -> Option<Spelled> {
    let (whole, words) = (found.get(0)?, found.name("words")?.as_str().to_lowercase());
    let words: Vec<&str> = words.split([' ', '-']).filter(|word| *word != "and").collect();
    let scale = words.last().and_then(|last| SCALES.iter().find(|(word, _)| word == last));
    let total = match &words[..] {
        ["a" | "an", rest @ ..] => value(&[&["one"], rest].concat())?,
        words => value(words)?,
    };
    let said = found.name("unit").map(|unit| unit.as_str()).or(found.name("percent").map(|_| "%"));
    let (number, unit) = match (scale, said) {
        (Some((word, scale)), None) => (total / scale, *word),
        (_, unit) => (total, unit.unwrap_or_default()),
    };
    // a row of ciphers, or of alternatives (`two three`), has no value; what is small is a way of speaking
    (!unit.is_empty() || number >= LEAST).then(|| Spelled {
        range: whole.range(),
        number,
        last: 1.0,
        unit: unit.into(),
    })
}

/// The value of words without a last multiplier; `None` where they do not make one number.
fn value(words: &[&str]) -> Option<f64> {
    // what was said in full before, what is being said, and the place below which more may follow
    let (mut done, mut now, mut open, mut below) = (0.0, 0.0, 1e12, 1e12);
    if words.is_empty() {
        return None;
    }
    for word in words {
        if let Some((_, scale)) = SCALES.iter().find(|(name, _)| name == word) {
            (now > 0.0 && *scale < below).then_some(())?;
            (done, now, open, below) = (done + now * scale, 0.0, 1e12, *scale);
        } else if *word == "hundred" {
            ((1.0..20.0).contains(&now)).then_some(())?;
            (now, open) = (now * 100.0, 100.0);
        } else {
            let ten = TENS.iter().position(|ten| ten == word).map(|at| (at as f64 + 2.0) * 10.0);
            let one = SMALL.iter().position(|small| small == word).map(|at| at as f64);
            let said = ten.or(one)?;
            (said < open).then_some(())?;
            (now, open) = (now + said, if ten.is_some() { 10.0 } else { 0.0 });
        }
    }
    Some(done + now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_the_one_number_that_they_make() {
        for (text, number, unit) in [
            ("thirty-three million", 33.0, "million"),
            ("Twenty-two Million", 22.0, "million"),
            ("two hundred thousand", 200.0, "thousand"),
            ("two hundred and fifty", 250.0, ""),
            ("one million two hundred thousand", 1200.0, "thousand"),
            ("a million", 1.0, "million"),
            ("a hundred thousand", 100.0, "thousand"),
            ("ninety-eight percent", 98.0, "percent"),
            ("five per cent", 5.0, "per cent"),
            ("one hundred megabytes", 100.0, "megabytes"),
            ("a hundred and thirty-two MB", 132.0, "MB"),
            ("seventeen", 17.0, ""),
            ("fifteen hundred", 1500.0, ""),
        ] {
            let found = all(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(
                (found[0].number, found[0].unit.as_str(), found[0].range.clone()),
                (number, unit, 0..text.len())
            );
        }
        for text in [
            "one of two",
            "twelve",
            "two three",
            "none, tent and sevenths",
            "hundreds of millions",
            "a seventh",
            "a two",
            "",
            "and",
        ] {
            assert_eq!(all(text), [], "{text}");
        }
    }
}
