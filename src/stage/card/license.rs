//! Licences by their text: which of a few well-known ones a LICENSE file is, by phrases that no other has, and what a
//! card says of its own licence in words.
//!
//! An unknown text is no claim. Knows no files.

use regex::Regex;

/// Whether a path at the top of the published tree has a licence's name, in any case and with any ending; `LICENSE-MIT` too,
/// but not `LICENSE-third-party`.
pub fn is_file(path: &str) -> bool {
    const KNOWN: [&str; 9] = ["mit", "apache", "bsd", "gpl", "lgpl", "agpl", "mpl", "cc", "unlicense"];
    let lower = path.to_lowercase();
    let stem = lower.split('.').next().unwrap_or_default();
    let (word, of) = stem.split_once(['-', '_']).unwrap_or((stem, ""));
    let is_known = of.is_empty() || KNOWN.iter().any(|known| of.starts_with(known));
    !path.contains('/') && ["license", "licence", "copying", "unlicense"].contains(&word) && is_known
}

/// Names under which a licence's text is looked for in the project's root, where none is published.
pub const FILES: [&str; 8] =
    ["LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt", "COPYING", "UNLICENSE"];

/// Phrases, all of which a text must hold, and the Hub's identifier. The first that fits is it.
const PHRASES: &[(&str, &[&str])] = &[
    ("apache-2.0", &["apache license", "version 2.0, january 2004"]),
    ("lgpl-3.0", &["gnu lesser general public license", "version 3, 29 june 2007"]),
    ("lgpl-2.1", &["gnu lesser general public license", "version 2.1, february 1999"]),
    ("agpl-3.0", &["gnu affero general public license", "version 3, 19 november 2007"]),
    ("gpl-3.0", &["gnu general public license", "version 3, 29 june 2007"]),
    ("gpl-2.0", &["gnu general public license", "version 2, june 1991"]),
    ("mpl-2.0", &["mozilla public license version 2.0", "1.1. \"contributor\""]),
    ("cc0-1.0", &["cc0 1.0 universal", "statement of purpose"]),
    ("cc-by-sa-4.0", &["attribution-sharealike 4.0 international", "section 1 -- definitions"]),
    ("cc-by-nc-4.0", &["attribution-noncommercial 4.0 international", "section 1 -- definitions"]),
    ("cc-by-4.0", &["attribution 4.0 international", "section 1 -- definitions"]),
    ("unlicense", &["this is free and unencumbered software released into the public domain"]),
    (
        "bsd-3-clause",
        &["redistribution and use in source and binary forms", "neither the name of", "this software is provided by"],
    ),
    ("bsd-2-clause", &["redistribution and use in source and binary forms", "this software is provided by"]),
    (
        "mit",
        &[
            "permission is hereby granted, free of charge, to any person obtaining a copy",
            "the software is provided \"as is\"",
        ],
    ),
];

/// The licence that a text is, where it is one of the known.
pub fn of_text(text: &str) -> Option<&'static str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ").to_lowercase().replace(['“', '”'], "\"");
    PHRASES.iter().find(|(_, phrases)| phrases.iter().all(|p| text.contains(p))).map(|(id, _)| *id)
}

/// Whether two identifiers can be true of one text: the same, or a family and its member (`bsd`, `bsd-2-clause`). What
/// `other` and `unknown` mean is not known.
pub fn agree(declared: &str, found: &str) -> bool {
    let declared = declared.to_lowercase();
    let family =
        ["bsd", "gpl", "lgpl", "cc"].contains(&declared.as_str()) && found.starts_with(&format!("{declared}-"));
    declared == found || family || ["other", "unknown"].contains(&declared.as_str())
}

/// Words for licences, as people write them.
const WORDS: &[(&str, &str)] = &[
    ("apache-2.0", r"apache(?:[ -]licen[sc]e)?(?:,? version)?[ -]?2(?:\.0)?"),
    ("mit", r"mit"),
    ("bsd-3-clause", r"bsd[ -]3[ -]clause"),
    ("bsd-2-clause", r"bsd[ -]2[ -]clause"),
    ("lgpl-3.0", r"lgpl[ -]?v?3(?:\.0)?"),
    ("agpl-3.0", r"agpl[ -]?v?3(?:\.0)?"),
    ("gpl-3.0", r"gpl[ -]?v?3(?:\.0)?"),
    ("gpl-2.0", r"gpl[ -]?v?2(?:\.0)?"),
    ("mpl-2.0", r"mpl[ -]?2(?:\.0)?"),
    ("cc-by-nc-4.0", r"cc[ -]by[ -]nc[ -]4\.0"),
    ("cc-by-sa-4.0", r"cc[ -]by[ -]sa[ -]4\.0"),
    ("cc-by-4.0", r"cc[ -]by[ -]4\.0"),
    ("cc0-1.0", r"cc0(?:[ -]1\.0)?"),
    ("unlicense", r"unlicense"),
];

/// Where a text says under which licence it stands: the words' place and the identifier. Only what is unmistakably such a
/// statement: `released under the MIT license`, `License: Apache-2.0`. A line that names the licence of others (a list
/// item with a link to them) is none.
pub fn claims(text: &str) -> Vec<(std::ops::Range<usize>, &'static str)> {
    let words: Vec<String> = WORDS.iter().map(|(_, word)| format!("({word})")).collect();
    let words = words.join("|");
    let markup = r"[\s*_`\[]*";
    let before = format!(
        r"(?:(?:licen[sc]ed|released|published|distributed|available)\s+(?:as|under)\s+(?:the\s+)?(?:terms\s+of\s+(?:the\s+)?)?|licen[sc]e(?:\**\s*[:|=]\s*|\**\s+is\s+(?:the\s+)?)){markup}"
    );
    let subject = r"(?:this|it|model|weights?|checkpoint|repository|repo|project|card|everything|all)\b[^.;|\n]{0,40}?\b(?:is|are)\s+(?:all\s+)?";
    let patterns = [
        format!(r"(?i)\b{before}(?:{words})(?:\b|\s|$)"),
        format!(r"(?i)\b{subject}{markup}(?:{words}){}[- ]?licen[sc]ed\b", r"[*_`\]]*"),
    ];
    let regexes: Vec<Regex> = patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect();
    let mut found = Vec::new();
    for captures in regexes.iter().flat_map(|regex| regex.captures_iter(text)) {
        let Some(group) = (1..captures.len()).find_map(|i| Some((i, captures.get(i)?))) else { continue };
        let line = text[..group.1.start()].rfind('\n').map_or(0, |at| at + 1);
        let item = text[line..].trim_start().starts_with(['-', '*']) && text[line..group.1.start()].contains("](");
        if !item {
            found.push((group.1.range(), WORDS[group.0 - 1].0));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_told_by_their_phrases_and_an_unknown_text_is_no_claim() {
        let apache = include_str!("../../../LICENSE");
        assert_eq!(of_text(apache), Some("apache-2.0"));
        let mit = "MIT License\n\nCopyright (c) 2025 A\n\nPermission is hereby granted, free of charge, to any person\nobtaining \
                   a copy ...\nTHE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY";
        assert_eq!(of_text(mit), Some("mit"));
        let bsd =
            "Redistribution and use in source and binary forms, with or without\nTHIS SOFTWARE IS PROVIDED BY THE";
        assert_eq!(of_text(bsd), Some("bsd-2-clause"));
        assert_eq!(of_text(&format!("{bsd} Neither the name of")), Some("bsd-3-clause"));
        let lgpl = "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 ... the GNU General Public License";
        assert_eq!(of_text(lgpl), Some("lgpl-3.0"));
        assert_eq!(of_text("All rights reserved."), None);
        let names = ["LICENSE", "license", "Licence.md", "LICENSE.txt", "COPYING", "COPYING.txt", "LICENSE-MIT"];
        assert!(!is_file("LICENSE-third-party.md"));
        assert!(names.iter().all(|name| is_file(name)) && !is_file("licenses.csv") && !is_file("third_party/LICENSE"));
        assert!(agree("bsd", "bsd-2-clause") && agree("other", "mit") && agree("Apache-2.0", "apache-2.0"));
        assert!(!agree("apache-2.0", "mit"));
    }

    #[test]
    fn what_a_text_says_of_its_own_licence_is_found_and_that_of_others_is_not() {
        let ids = |text: &str| claims(text).into_iter().map(|(_, id)| id).collect::<Vec<_>>();
        assert_eq!(ids("This model is released under the MIT license."), ["mit"]);
        assert_eq!(ids("**License:** Apache 2.0\n"), ["apache-2.0"]);
        assert_eq!(ids("| License | Apache-2.0 |"), ["apache-2.0"]);
        assert_eq!(ids("- [Noto](https://a.b), Google: Apache-2.0, published under the MIT license"), [""; 0]);
        assert_eq!(ids("This is MIT licensed. Its License: [Apache-2.0](LICENSE)"), ["apache-2.0", "mit"]);
        assert_eq!(ids("The emoji of others are MIT licensed"), [""; 0]);
        assert_eq!(ids("Parts come from MIT, and are mitigated by the Apache web server"), [""; 0]);
    }
}
