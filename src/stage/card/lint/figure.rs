//! Typed figures: numbers with their multiplier or unit, what they can stand for, and whether a fact agrees.

use super::words::Spelled;
use crate::core::value::Value;
use regex::{Captures, Regex};
use std::ops::Range;

/// What a figure counts in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Unit {
    /// `22M`, `200k`, `1,000`, `3.3e8`.
    Count,
    /// `126 MB`.
    Bytes,
    /// `0.97`, `97 %`.
    Ratio,
}

/// How a fact may lie to a figure: `more than 98 %` is true of 99 %.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// As said, rounded or cut.
    Equal,
    /// Not below.
    Least,
    /// Not above.
    Most,
}

/// A typed figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Where it stands in its passage.
    pub range: Range<usize>,
    number: f64,
    /// One in the last digit that was typed.
    last: f64,
    /// The other end of a range, and one in the last digit of it.
    upper: Option<(f64, f64)>,
    /// Its unit in lower case, or nothing.
    unit: String,
    /// Digits alone, without a fraction, an exponent, separators or a unit.
    pub plain: bool,
    /// No fraction is typed, or a multiplier is.
    pub whole: bool,
}

/// A number: thousands apart by a comma, an apostrophe, a space or (twice at least) a period; a fraction behind a period or
/// a comma; an exponent; a unit.
pub const NUMBER: &str = r"(?xi)
    (?P<number> \d{1,3}(?:[,'’\ ]\d{3})+(?:\.\d+)? | \d{1,3}(?:\.\d{3}){2,} | \d+(?:[.,]\d+)? | \.\d+ )
    (?: e(?P<e>[-+]?\d{1,2})\b | \ ?[x×·*]\ ?10\^(?P<power>[-+]?\d{1,2}) )?
    (?: [\ -]?(?P<unit> thousand|million|billion|mio|mn|bn|[kmb]
        | kilobytes?|megabytes?|gigabytes?|terabytes?|kibibytes?|mebibytes?|gibibytes?|bytes?|[kmgt]i?b
        | percent|per\ cent )\b | \ ?(?P<percent>%) )?";

impl Figure {
    /// The figure of a match of `NUMBER`.
    pub fn read(found: &Captures<'_>) -> Option<Figure> {
        let (whole, number) = (found.get(0)?, found.name("number")?.as_str());
        let digits = plain_digits(number);
        let exponent = found.name("e").or(found.name("power"));
        let power: i32 = exponent.map_or(Some(0), |e| e.as_str().parse().ok())?;
        let decimals = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
        let unit = match (found.name("unit"), found.name("percent")) {
            (Some(unit), _) if !unit.as_str().to_lowercase().starts_with("per") => unit.as_str().to_lowercase(),
            (None, None) => String::new(),
            _ => "%".to_string(),
        };
        Some(Figure {
            range: whole.range(),
            number: digits.parse::<f64>().ok()? * 10f64.powi(power),
            last: 10f64.powi(power - decimals),
            upper: None,
            plain: number.bytes().all(|b| b.is_ascii_digit()) && exponent.is_none() && unit.is_empty(),
            whole: decimals == 0 || exponent.is_some() || !unit.is_empty(),
            unit,
        })
    }

    /// The figure of a number in words.
    pub fn spelled(found: Spelled) -> Figure {
        let unit = match found.unit.to_lowercase() {
            unit if unit.starts_with("per") => "%".to_string(),
            unit => unit,
        };
        let (range, number, last) = (found.range, found.number, found.last);
        Figure { range, number, last, upper: None, plain: unit.is_empty(), whole: true, unit }
    }

    /// The range from this figure to another, in whose unit it counts where it has none of its own; `None` where they are
    /// of different units, or the second is not the larger one.
    pub fn up_to(&self, upper: &Figure) -> Option<Figure> {
        let unit = if self.unit.is_empty() { &upper.unit } else { &self.unit };
        if *unit != upper.unit || self.number >= upper.number {
            return None;
        }
        let range = self.range.start..upper.range.end;
        let (plain, whole) = (self.plain && upper.plain, self.whole && upper.whole);
        let upper = Some((upper.number, upper.last));
        Some(Figure { range, upper, plain, whole, unit: unit.clone(), ..*self })
    }

    /// Whether it is a range.
    pub fn is_range(&self) -> bool {
        self.upper.is_some()
    }

    /// Reads it in another unit where it has none: `params (M): 22`.
    pub fn with_unit(mut self, unit: &str) -> Figure {
        let unit = unit.trim().to_lowercase();
        let unit = unit.trim_start_matches("in ");
        let known = ["k", "m", "b", "thousand", "thousands", "million", "millions", "billion", "billions", "%"];
        if self.unit.is_empty() && known.contains(&unit) {
            (self.unit, self.plain, self.whole) = (unit.trim_end_matches('s').to_string(), false, true);
        }
        self
    }

    /// Digits that may be a year.
    pub fn year(&self) -> bool {
        self.plain && (1900.0..2100.0).contains(&self.number)
    }

    /// A plain number below this.
    pub fn below(&self, least: f64) -> bool {
        self.plain && self.number < least
    }

    /// Exactly this plain number.
    pub fn is(&self, number: f64) -> bool {
        self.plain && self.number == number
    }

    /// Of millions or billions.
    pub fn millions(&self) -> bool {
        matches!(self.unit.as_str(), "m" | "b" | "million" | "billion" | "mio" | "mn" | "bn")
    }

    /// Whether its unit is one of these.
    pub fn of(&self, unit: Unit) -> bool {
        !self.scales(unit).is_empty()
    }

    /// What one of its unit stands for; megabytes are of a thousand or of 1024, a percentage may be a fact's own unit.
    fn scales(&self, unit: Unit) -> Vec<f64> {
        let bytes = |power| vec![1000f64.powi(power), 1024f64.powi(power)];
        match (unit, self.unit.as_str()) {
            (Unit::Count, "k" | "thousand") => vec![1e3],
            (Unit::Count, "m" | "million" | "mio" | "mn") => vec![1e6],
            (Unit::Count, "b" | "billion" | "bn") => vec![1e9],
            (Unit::Bytes, "byte" | "bytes") => vec![1.0],
            (Unit::Bytes, word) if word != "b" && (word.ends_with('b') || word.contains("byte")) => {
                match word.as_bytes()[0] {
                    b'k' => bytes(1),
                    b'm' => bytes(2),
                    b'g' => bytes(3),
                    _ => bytes(4),
                }
            }
            (Unit::Ratio, "%") => vec![1.0, 0.01],
            (Unit::Count | Unit::Ratio, "") => vec![1.0],
            _ => vec![],
        }
    }

    /// Whether a fact is this figure, rounded or cut to the digits that were typed, or keeps to it as a bound.
    pub fn agrees(&self, unit: Unit, bound: Bound, fact: &Value) -> bool {
        let Some(fact) = fact.as_f64() else { return false };
        let slack = fact.abs() * 1e-9;
        self.scales(unit).iter().any(|scale| {
            let (said, last) = (self.number * scale, self.last * scale);
            if let Some((high, last_high)) = self.upper {
                return fact >= said - last / 2.0 - slack && fact < (high + last_high) * scale + slack;
            }
            let over = if fact < 0.0 { said - fact } else { fact - said };
            match bound {
                Bound::Equal => over >= -last / 2.0 - slack && over < last,
                Bound::Least => fact >= said - slack,
                Bound::Most => fact <= said + slack,
            }
        })
    }
}

/// Digits with a period before the fraction, if there is one.
fn plain_digits(number: &str) -> String {
    let grouped = Regex::new(r"^[1-9]\d{0,2}(?:(?:[,'’ ]\d{3})+(?:\.\d+)?|(?:\.\d{3}){2,})$");
    if !grouped.is_ok_and(|regex| regex.is_match(number)) {
        return number.replace(',', ".").replace([' ', '\'', '’'], "");
    }
    let apart = number.replace([',', '\'', '’', ' '], "");
    if apart.matches('.').count() > 1 { apart.replace('.', "") } else { apart }
}
