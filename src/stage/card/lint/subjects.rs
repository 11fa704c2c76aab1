//! What figures on cards are about: the facts, and the words that must stand near a figure, in which order, with what
//! makes it something else.

use super::figure::{Bound, Figure, Unit};
use super::prose::ASSIGNED;
use regex::Regex;
use std::sync::LazyLock;

/// What a figure may be about. Patterns ignore case; an empty one matches nothing, but for `needs` and `lacks`.
pub struct Subject {
    /// Names of facts.
    pub facts: &'static [&'static str],
    /// Names of facts where the card has none of those.
    otherwise: &'static [&'static str],
    /// What its figures count in.
    pub unit: Unit,
    /// Words right behind the figure (`22M parameters`).
    after: &'static str,
    /// Words before it (`parameters: 22M`).
    label: &'static str,
    /// Words of the same sentence or row, without which it is something else.
    needs: &'static str,
    /// Words of the same sentence or row that make it something else.
    lacks: &'static str,
    /// What follows the figure where it is something else.
    unless_after: &'static str,
    /// What stands before it where it is something else.
    unless_before: &'static str,
    /// Smaller plain numbers are something else (`takes 3 parameters`), but not behind a colon or in a cell.
    least: f64,
    /// Only figures of millions.
    millions: bool,
    /// Whether a figure is wrong where the card has no fact of it.
    pub must_be_known: bool,
}

const ANY: Subject = Subject {
    facts: &[],
    otherwise: &[],
    unit: Unit::Count,
    after: "",
    label: "",
    needs: "",
    lacks: "",
    unless_after: "",
    unless_before: "",
    least: 0.0,
    millions: false,
    must_be_known: true,
};

const SCORE: Subject = Subject {
    unit: Unit::Ratio,
    unless_after: r"^ ?(?:points?|times|x|×)\b|^ (?:higher|lower|better|worse|more|less|fewer)\b",
    ..ANY
};

const RATE: &str = r"^[ -](?:[a-z]+[ -])?(?:steps?|iterations?)(?: ?/ ?| an? | per | each )(?:s|sec|seconds?|min|minutes?|h|hours?)\b|^[ -]steps? of (?:\w+ )?warm";
const TRAINING: &str = r"\btrain|\boptimi[sz]";
const SAMPLING: &str = r"\b(?:sampl|draw|drew|generat|denois|pictur|imag|infer)";

/// The subjects; a figure is about the first that fits.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        facts: &["parameters"],
        after: r"(?:(?:model|network|trainable|learnable|total|unique|free|non-embedding)[ -])*(?:parameters?|params?)",
        label: r"param(?:eter)?s?(?: (?:count|number|total))?",
        unless_after: r"^[ -](?:\w+[ -])?param\w* (?:in|per|of|for) (?:the |its |an? |each |every )?(?:\w+ )?(?:layer|block|head|encoder|decoder|embedding|command|function)",
        least: 1000.0,
        ..ANY
    },
    Subject {
        facts: &["parameters"],
        after: r"(?:(?:diffusion|trainable|learnable|small|tiny|class-conditional|unconditional|latent)[ -])*(?:model|network|net|transformer|dit|u-?net|generator|classifier|resnet|version|variant|backbone|weights|checkpoint)",
        label: r"(?:model )?size",
        millions: true,
        ..ANY
    },
    Subject {
        facts: &["steps"],
        after: r"(?:(?:euler|sampling|sampler|denoising|diffusion|inference|solver|ode|flow|integration|reverse|ddim|heun)[ -])+steps?",
        label: r"(?:euler|sampling|sampler|denoising|diffusion|inference|solver|ode|integration) steps",
        unless_after: RATE,
        must_be_known: false,
        ..ANY
    },
    Subject {
        facts: &["step", "ema_step"],
        otherwise: &["steps"],
        after: r"(?:(?:training|optimi[sz]er|optimi[sz]ation|gradient|update|global|total)[ -])+(?:steps?|iterations?)",
        label: r"(?:training|optimi[sz]er|optimi[sz]ation|gradient|global) (?:steps?|iterations?)",
        unless_after: RATE,
        ..ANY
    },
    Subject {
        facts: &["step", "ema_step"],
        otherwise: &["steps"],
        after: r"(?:full )?(?:steps?|iterations?)",
        label: r"steps?",
        needs: TRAINING,
        lacks: SAMPLING,
        unless_after: RATE,
        least: 13.0,
        ..ANY
    },
    Subject {
        facts: &["steps"],
        after: "steps?",
        needs: SAMPLING,
        lacks: TRAINING,
        unless_after: r"^ steps? (?:a|per) s|^ steps? to\b",
        must_be_known: false,
        ..ANY
    },
    Subject {
        facts: &["step", "steps", "ema_step"],
        after: r"(?:full )?(?:steps?|iterations?)",
        label: "steps?",
        unless_after: RATE,
        least: 1000.0,
        ..ANY
    },
    Subject {
        facts: &["epoch"],
        after: r"(?:(?:training|full|total)[ -])*epochs?",
        label: "epochs?",
        unless_after: r"^ ?:|^ (?:of|/) \d",
        ..ANY
    },
    Subject { facts: &["tensors"], after: "tensors", label: "tensors", least: 10.0, ..ANY },
    Subject { facts: &["opset"], label: r"opset(?:[ _]version)?|operator set(?: version)?", ..ANY },
    Subject {
        facts: &["loss"],
        after: r"(?:(?:final|training|train|validation|val|test|eval|mean|average)[ -])*loss",
        label: "loss",
        ..SCORE
    },
    Subject {
        facts: &["val_acc", "accuracy"],
        after: r"(?:(?:top-?1|test|validation|val|training|train|classification|overall|mean|average|final|eval|label|held-out)[ -])*(?:accuracy|acc|accurate|correct)",
        label: "accuracy|acc",
        unless_before: r"top-?(?:[2-9]|\d\d)[ -](?:\w+ )?acc\w*\W*(?:\w+\W+){0,2}$",
        ..SCORE
    },
    Subject { facts: &["agreement"], after: "agreement", label: "agreement", must_be_known: false, ..SCORE },
    Subject { facts: &["fid"], after: "fid", label: r"fid(?:[-@ ]?\d+k)?(?: score)?", ..SCORE },
    Subject {
        facts: &["inception_score", "is"],
        after: "inception score",
        label: r"inception score|(?-i:IS)",
        must_be_known: false,
        ..SCORE
    },
    Subject {
        facts: &["neighbour_correlation"],
        label: r"neighbou?r(?:ing)?[ _-](?:pixel[ _-])?correlation",
        must_be_known: false,
        ..SCORE
    },
    Subject { facts: &["saturated"], label: "saturat(?:ed|ion)", must_be_known: false, ..SCORE },
    Subject {
        facts: &["between_within_ratio"],
        label: r"between[ _/-](?:and[ -])?within(?:[ _-](?:class[ _-])?ratio)?",
        must_be_known: false,
        ..SCORE
    },
    Subject {
        facts: &["max_abs_diff"],
        label: r"max(?:imum|\.)?[ _](?:abs(?:olute)?[ _])?diff(?:erence)?",
        must_be_known: false,
        ..SCORE
    },
    Subject {
        facts: &["guidance"],
        label: "(?:guidance|cfg)(?:[ _-]scale)?",
        unless_after: r"^ (?:is|means|turns|switches|would|disables|gives)\b",
        must_be_known: false,
        ..SCORE
    },
    Subject {
        facts: &["num_heads", "config.num_heads"],
        after: "(?:attention[ -])?heads",
        label: "(?:num_|attention )heads",
        must_be_known: false,
        ..ANY
    },
    Subject { facts: &["depth", "config.depth"], label: "depth", must_be_known: false, ..ANY },
    Subject {
        facts: &["embed_dim", "config.embed_dim"],
        label: r"embed(?:ding)?[ _](?:dim(?:ension)?s?|width)",
        must_be_known: false,
        ..ANY
    },
    Subject {
        facts: &["image_size", "resolution"],
        after: r" ?[x×] ?\d+[ -]?(?:px|pixels?|pictures?|images?|rgb|resolution)",
        label: "resolution|(?:image|picture) size",
        must_be_known: false,
        ..ANY
    },
    Subject {
        facts: &["bytes"],
        unit: Unit::Bytes,
        needs: r"\b(?:sizes?|files?|weights|checkpoint|model|graph|download)\b|\w\.(?:safetensors|onnx|pt|pth|ckpt)\b",
        ..ANY
    },
];

/// Words and signs between a label and its figure.
const LINK: &str = r"(?:[ (\[:=|≈~≃<>≥≤–—→+-]|\bfrom [\d.,]+ ?%? to\b|\b(?:is|are|was|were|of|at|to|with|v|version|score|count|value|total|number|reached|reaches|reaching|reach|hits?|gets?|got|fell|falls|fall|dropped|drops|went|goes|down|up|rose|improved|improves|has|stands|about|around|roughly|approximately|approx\.|ca\.|circa|only|just|nearly|almost|exactly|over|more|less|fewer|than|no|above|below|under|at|least|most|by|now|an?|the|equals?|as|low|high|final|finally|exceeds|exceeding|up|between|ranges|ranging)\b\.?)*";
/// Of these one must stand where a phrase came between (`accuracy on the test set is 98 %`).
const SAYS: &str =
    r"(?:[:=|≈]|\b(?:is|was|are|were|reached|reaches|hits?|fell to|falls to|dropped to|drops to|went|rose to)\b)";
const PHRASE: &str = r" (?:on|of|in|for|over|at|after)(?: [\w,.'-]+){1,6}? ?";

struct Patterns {
    subject: &'static Subject,
    after: Option<Regex>,
    label: Option<Regex>,
    needs: Option<Regex>,
    lacks: Option<Regex>,
    unless_after: Option<Regex>,
    unless_before: Option<Regex>,
}

static PATTERNS: LazyLock<Vec<Patterns>> = LazyLock::new(|| SUBJECTS.iter().map(Patterns::of).collect());

/// A pattern that ignores case; none of an empty one.
fn regex(pattern: &str) -> Option<Regex> {
    (!pattern.is_empty()).then(|| Regex::new(&format!("(?i){pattern}")).ok())?
}

impl Patterns {
    fn of(subject: &'static Subject) -> Patterns {
        let Subject { after, label, .. } = subject;
        // in code, `loss=0.1` is a result and `steps=50` a setting of somebody's call
        let says = if subject.unit == Unit::Ratio { format!("(?:{ASSIGNED}|{SAYS})") } else { SAYS.into() };
        let link = if subject.unit == Unit::Ratio { format!("(?:{ASSIGNED}|{LINK})") } else { LINK.into() };
        let after =
            if after.is_empty() || after.starts_with(' ') { after.to_string() } else { format!("[ -](?:{after})\\b") };
        let label = if label.is_empty() {
            String::new()
        } else {
            format!(
                r"(?:^|[^\w-]|\w[-_])(?:{label})\b(?: ?\((?P<unit>[^()]*)\))?(?P<link>{link}|{PHRASE}{says}{LINK})$"
            )
        };
        Patterns {
            subject,
            after: regex(&if after.is_empty() { after } else { format!("^{after}") }),
            label: regex(&label),
            needs: regex(subject.needs),
            lacks: regex(subject.lacks),
            unless_after: regex(subject.unless_after),
            unless_before: regex(subject.unless_before),
        }
    }

    /// Whether the sentence can be about this.
    fn allows(&self, figure: &Figure, around: &Around<'_>) -> bool {
        let Subject { unit, millions, .. } = self.subject;
        let says = |regex: &Option<Regex>, text: &str| regex.as_ref().is_some_and(|r| r.is_match(text));
        let near = |regex: &Option<Regex>| says(regex, around.before) || says(regex, around.after);
        figure.of(*unit)
            && (!millions || figure.millions())
            && (self.needs.is_none() || near(&self.needs))
            && !near(&self.lacks)
            && !says(&self.unless_after, around.after)
            && !says(&self.unless_before, around.before)
    }

    fn behind(&self, figure: &Figure, around: &Around<'_>) -> bool {
        let Some(after) = &self.after else {
            return self.subject.unit == Unit::Bytes && figure.of(Unit::Bytes) && !of_memory(around);
        };
        after.is_match(around.after) && !figure.below(self.subject.least)
    }

    /// The figure, where the subject's label stands before it; in the unit that the label names, if it does.
    fn labelled(&self, figure: &Figure, around: &Around<'_>) -> Option<Figure> {
        let found = self.label.as_ref()?.captures(around.before)?;
        let told = found["link"].contains([':', '=', '|', '≈', '(', ASSIGNED]);
        // `epochs 1-10 warm up`, `steps 3 to 5` name what they are of
        if figure.is_range() && !told && self.subject.unit != Unit::Ratio {
            return None;
        }
        let other = match self.subject.unit {
            Unit::Ratio => figure.year() || (figure.plain && counts_things(around.after)),
            _ => !figure.whole || (!told && figure.below(self.subject.least)) || numbers_an_item(figure, around.after),
        };
        let multiplied = around.after.trim_start().starts_with(['x', '×']);
        (!other && !multiplied).then(|| match found.name("unit") {
            Some(unit) => figure.clone().with_unit(unit.as_str()),
            None => figure.clone(),
        })
    }
}

/// What stands before and behind a figure in its sentence.
pub struct Around<'a> {
    /// Up to the figure.
    pub before: &'a str,
    /// From its end.
    pub after: &'a str,
}

impl Around<'_> {
    /// Whether the figure is said to be a bound.
    pub fn bound(&self) -> Bound {
        let before = self.before.trim_end_matches([' ', '(']).to_lowercase();
        let ends = |words: &[&str]| words.iter().any(|w| before.ends_with(w));
        let arrow = before.ends_with("->") || before.ends_with("=>");
        let later = regex(r"^(?:\+| or (?:later|newer|higher|above|more|greater)\b| and (?:later|newer|above)\b)");
        if ends(&[
            "no more than",
            "not more than",
            "less than",
            "fewer than",
            "at most",
            "up to",
            "below",
            "under",
            "<",
            "≤",
            "<=",
        ]) {
            Bound::Most
        } else if (ends(&["more than", "at least", "over", "above", "exceeds", "exceeding", ">", "≥", ">="]) && !arrow)
            || later.is_some_and(|r| r.is_match(self.after))
        {
            Bound::Least
        } else {
            Bound::Equal
        }
    }
}

/// The subject that a figure is about, and the figure as its label makes one read it.
pub fn about(figure: &Figure, around: &Around<'_>) -> Option<(&'static Subject, Figure)> {
    let fit = || PATTERNS.iter().filter(|p| p.allows(figure, around));
    let behind = fit().find(|p| p.behind(figure, around)).map(|p| (p.subject, figure.clone()));
    behind.or_else(|| fit().find_map(|p| Some((p.subject, p.labelled(figure, around)?))))
}

impl Subject {
    /// The facts of the card that it is about.
    pub fn of<'a, T>(&self, facts: impl Iterator<Item = (&'a String, T)> + Clone) -> Vec<(&'a String, T)> {
        let of = |names: &[&str]| facts.clone().filter(|(name, _)| named(name, names)).collect::<Vec<_>>();
        let mine = of(self.facts);
        if mine.is_empty() { of(self.otherwise) } else { mine }
    }
}

/// Whether a fact has one of these names: `bytes`, `bytes.FILE` of several files. A checkpoint's settings are none, but for
/// the sizes that a card may speak of.
fn named(fact: &str, names: &[&str]) -> bool {
    let parts: Vec<&str> = fact.rsplit(']').next().unwrap_or_default().split('.').collect();
    parts.iter().skip(1).any(|part| names.contains(part))
        && (!fact.contains(".config.") || SIZES.iter().any(|size| fact.ends_with(size)))
}

const SIZES: &[&str] = &[".image_size", ".num_heads", ".depth", ".embed_dim"];

/// `98 pictures`, but not `98 on the test set`.
fn counts_things(after: &str) -> bool {
    const NOT_THINGS: &[&str] = &[
        "on", "at", "after", "and", "for", "with", "in", "over", "when", "against", "or", "but", "while", "from", "to",
        "by", "as",
    ];
    let Some(rest) = after.strip_prefix(' ') else { return false };
    let word: String = rest.chars().take_while(|c| c.is_alphabetic()).collect();
    !word.is_empty() && !NOT_THINGS.contains(&word.to_lowercase().as_str())
}

/// `Two steps: 1. install`.
fn numbers_an_item(figure: &Figure, after: &str) -> bool {
    figure.is(1.0) && (after.starts_with(')') || after.strip_prefix(". ").is_some_and(|rest| !rest.trim().is_empty()))
}

/// Whether bytes are those of memory or a disk, not of a file.
fn of_memory(around: &Around<'_>) -> bool {
    const PLACES: &[&str] = &[
        "memory", "ram", "vram", "swap", "disk", "storage", "space", "gpu", "gpus", "cpu", "card", "machine", "laptop",
        "a100", "h100", "dataset", "cache",
    ];
    const NEEDS: &[&str] = &["needs", "need", "requires", "require", "needing", "requiring"];
    const STOP: &[&str] = &["and", "but", "while", "which", "has", "weighs"];
    let word = |c: char| !c.is_alphanumeric() && c != ',';
    let after: Vec<String> =
        around.after.to_lowercase().split(word).filter(|w| !w.is_empty()).map(String::from).take(4).collect();
    let before: Vec<String> =
        around.before.to_lowercase().rsplit(word).filter(|w| !w.is_empty()).map(String::from).take(5).collect();
    let stop = |w: &&String| !STOP.contains(&w.as_str()) && !w.ends_with(',');
    let place = |w: &String| PLACES.contains(&w.as_str());
    let on_disk = after.first().is_some_and(|w| w == "on") && after.get(1).is_some_and(|w| w == "disk");
    let file = after.first().is_some_and(|w| ["file", "checkpoint", "download", "model"].contains(&w.as_str()));
    let needed = before.iter().take(3).take_while(stop).any(|w| NEEDS.contains(&w.as_str())) && !file;
    needed || before.iter().take_while(stop).any(place) || (!on_disk && after.iter().take_while(stop).any(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_of_the_table_can_be_read() {
        for (subject, patterns) in SUBJECTS.iter().zip(PATTERNS.iter()) {
            for (text, regex) in [
                (subject.after, &patterns.after),
                (subject.label, &patterns.label),
                (subject.needs, &patterns.needs),
                (subject.lacks, &patterns.lacks),
                (subject.unless_after, &patterns.unless_after),
                (subject.unless_before, &patterns.unless_before),
            ] {
                assert_eq!(text.is_empty(), regex.is_none(), "{text}");
            }
        }
    }
}
