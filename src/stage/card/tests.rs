use super::*;

const CARD: &str = "---\nlicense: mit\nwidget:\n- text: a\n  output:\n    url: samples/a/0.png\n---\n# A\n[x](./config.json#top) \
                    [u](https://a.b) <img src=\"grid.png\">\n";

/// The problems of a front matter: `LINE:COLUMN message`, each with its hint.
fn problems(yaml: &str) -> Vec<(String, String)> {
    let text = format!("---\n{yaml}---\n# Body\n");
    let source: Arc<str> = text.as_str().into();
    let checked = front::read(&text).and_then(|front| {
        front::check(&source, &front, "mit", &|path| path == "LICENSE" || path.starts_with("samples/"))
    });
    let Err(error) = checked else { return vec![] };
    let all = std::iter::once(&error).chain(error.others());
    all.map(|e| {
        let start = e.place().map_or(0, |p| p.start);
        let (line, begin) = (1 + text[..start].matches('\n').count(), text[..start].rfind('\n').map_or(0, |i| i + 1));
        let column = 1 + text[begin..start].chars().count();
        (format!("{line}:{column} {}", e.message()), e.hint_text().unwrap_or_default().to_string())
    })
    .collect()
}

#[track_caller]
fn one(yaml: &str, place: &str, message: &str, hint: &str) {
    let found = problems(&format!("license: mit\n{yaml}"));
    assert_eq!(found.len(), 1, "{yaml}: {found:?}");
    let (said, hinted) = &found[0];
    assert!(said.starts_with(&format!("{place} ")) && said.contains(message), "{yaml}: {said}");
    assert!(hinted.contains(hint), "{yaml}: {hinted}");
}

#[test]
fn links_of_text_html_and_gallery_are_found_and_urls_are_not() {
    let front = front::read(CARD).unwrap();
    let links = links::all(CARD, &front, &[]);
    let paths: Vec<_> = links.iter().map(|l| l.path.as_str()).collect();
    assert_eq!(paths, ["config.json", "grid.png", "samples/a/0.png"]);
    let error = check_links(CARD, &[], &["config.json", "samples/a/0.png"]).unwrap_err();
    assert!(error.message().contains("`grid.png`"), "{error}");
    let place = error.place().unwrap();
    assert_eq!(&CARD[place.start..place.end], "grid.png");
}

#[test]
fn a_front_matter_that_the_hub_takes_has_no_problem() {
    let good = "license: mit\npipeline_tag: text-to-image\nlibrary_name: diffusers\nlanguage:\n- en\n- pt-BR\ntags:\n- a\n\
        datasets: acme/set\nmetrics: [accuracy]\nbase_model: [acme/base]\nbase_model_relation: finetune\n\
        thumbnail: https://a.b/c.png\ninference: false\nmy_own_key: 1\nwidget:\n- text: a cat\n  output:\n    url: samples/0.png\n\
        model-index:\n- name: m\n  results:\n  - task:\n      type: t\n    dataset:\n      type: d\n      name: D\n    \
        metrics:\n    - type: accuracy\n      value: 0.5\n    source:\n      url: https://a.b\n";
    assert_eq!(problems(good), []);
    assert_eq!(problems("license: mit\ninference:\n  parameters:\n    steps: 5\n"), []);
}

#[test]
fn every_problem_of_a_front_matter_has_its_line_its_column_and_a_suggestion() {
    one("pipeline_tag: image-generation\n", "3:15", "which is no pipeline tag", "did you mean");
    one("pipeline_tag: [text-to-image]\n", "3:15", "takes a text, not a list", "");
    one("library_name: onnx\n", "3:15", "`onnx`", "a file format is no library");
    one("library_name: difusers\n", "3:15", "which is no library", "did you mean `diffusers`?");
    one("language: English\n", "3:11", "no language code", "ISO 639");
    one("tags: cats\n", "3:7", "takes a list, not a text", "");
    one("tags:\n- cats\n- 7\n", "5:3", "an item of `tags` of the front matter takes a text, not a number", "");
    one("datasets: https://huggingface.co/a/b\n", "3:11", "no repo on the Hub", "namespace/name");
    one("base_model: a/b\nbase_model_relation: finetuned\n", "4:22", "no relation", "did you mean `finetune`?");
    one("base_model_relation: merge\n", "3:22", "and no `base_model`", "");
    one("inference: maybe\n", "3:12", "`true`, `false` or a mapping", "");
    one("thumbnail: nope.png\n", "3:12", "`nope.png`, which is not in the published tree", "publish it");
    one("widget:\n  text: a\n", "4:3", "takes a list, not a mapping", "");
    one("widget:\n- text: 5\n", "4:9", "takes a text, not a number", "");
    one("widget:\n- output:\n    url: nope/0.png\n", "5:10", "`nope/0.png`, which is not in the published tree", "");
    one("licence: mit\n", "3:1", "the key `licence` of the front matter is mistyped", "did you mean `license`?");
    one("model_index: []\n", "3:1", "is spelled otherwise", "did you mean `model-index`?");
    one("tags: [a]\ntags: [b]\n", "4:1", "the key `tags` is there twice", "");
    one("tags: *x\n", "3:7", "no YAML", "");
    one("tags: !!python/object/apply:os.system [ls]\n", "3:39", "tags (`!name`, `!!type`) are not read here", "");
    one("x: !!str a\n", "3:10", "tags (`!name`", "");
    one("...\ny: 1\n", "4:2", "a second document follows", "");
}

#[test]
fn a_model_index_of_the_wrong_shape_is_refused_where_it_is_wrong() {
    let index = |value: &str, dataset: &str| {
        format!(
            "model-index:\n- name: m\n  results:\n  - task: {{type: t}}\n    dataset: {dataset}\n    metrics: [{{type: a, value: {value}}}]\n"
        )
    };
    one(&index("high", "{type: d, name: D}"), "8:32", "takes a number, not a text", "");
    one(&index("'0.5'", "{type: d, name: D}"), "8:32", "takes a number, not a text", "");
    one(&index("0.5", "{type: d}"), "7:14", "lacks `name`", "");
    one(&index("1e-9", "{type: d, name: D}"), "8:32", "takes a number, not a text", "");
    one("model-index:\n- name: m\n", "4:3", "lacks `results`", "");
}

#[test]
fn a_licence_has_an_identifier_of_the_hub_and_other_has_a_name() {
    let of = |yaml: &str| problems(yaml).into_iter().map(|(m, h)| format!("{m}; {h}")).collect::<Vec<_>>();
    let missing = of("tags: [a]\n");
    assert!(missing[0].contains("names no `license`") && missing[0].contains("add `license: mit`"), "{missing:?}");
    assert!(of("license: MIT\n")[0].contains("did you mean `mit`?"));
    assert!(of("license: apache-2.0\n")[0].contains("the manifest says `mit`"));
    let text = "---\nlicense: other\nlicense_link: nope\n---\n";
    let checked =
        front::check(&text.into(), &front::read(text).unwrap(), "other", &|path| path == "LICENSE").unwrap_err();
    assert!(checked.message().contains("needs a `license_name`"), "{checked}");
    assert!(checked.others()[0].message().contains("`nope`"), "{checked:?}");
    assert!(front::read("# no front matter").is_err() && front::read("---\nlicense: [\n---\n").is_err());
    assert!(front::read("---\n---\n").is_err());
}

#[test]
fn results_are_added_to_the_front_matter_and_not_twice() {
    let results = "model-index:\n- name: \"m\"\n";
    let text = with_results(CARD.into(), results).unwrap();
    assert!(text.contains("url: samples/a/0.png\nmodel-index:\n- name: \"m\"\n---\n# A\n"), "{text}");
    assert!(with_results(text.clone(), results).unwrap_err().message().contains("`model-index`"));
    assert!(with_results(text, "").is_err());
    for spelled in ["model-index: []", "\"model-index\": [{name: x}]", "? model-index\n: []", "{model-index: 1}"] {
        let said = with_results(format!("---\n{spelled}\n---\n"), "").unwrap_err();
        assert!(said.message().contains("`model-index`"), "{spelled}: {said}");
    }
    assert_eq!(with_results(CARD.into(), "").unwrap(), CARD);
}

#[test]
fn a_number_of_results_is_one_to_yaml_1_1_too() {
    let written = ["1e-9", "1.5e300", "1e+20", "0.93", "7"].map(yaml::number);
    assert_eq!(written, ["1.0e-9", "1.5e+300", "1.0e+20", "0.93", "7"]);
}

/// The paths that a card's body links to, of the repo `https://hub/me/p`.
fn links_of(body: &str) -> Vec<String> {
    let text = format!("---\nlicense: mit\n---\n{body}\n");
    let repos = ["https://hub/me/p".to_string(), "/me/p".into()];
    links::all(&text, &front::read(&text).unwrap(), &repos).into_iter().map(|link| link.path).collect()
}

#[test]
fn html_links_are_found_however_they_are_written() {
    for html in [
        "<img src='n.png'>",
        "<img src=n.png>",
        "<IMG SRC=\"n.png\">",
        "<img src = \"n.png\">",
        "a <img src='n.png'> b",
        "<p>\n<img\n  width=3\n  src='n.png'>\n</p>",
        "<source srcset=\"n.png 2x\">",
        "<video poster=n.png></video>",
    ] {
        assert_eq!(links_of(html), ["n.png"], "{html}");
    }
    assert_eq!(links_of("<img srcset='a.png 1x, b.png 2x'>"), ["a.png", "b.png"]);
    assert_eq!(links_of("[a](/nope.txt) ![a](/s/nope.png)"), ["/nope.txt", "/s/nope.png"]);
    let text = "---\nlicense: mit\nwidget:\n- src: s/x.png\n---\n";
    assert_eq!(links::all(text, &front::read(text).unwrap(), &[])[0].path, "s/x.png");
}

#[test]
fn a_full_url_into_the_very_repo_is_a_link_into_the_tree() {
    let body = "[a](https://hub/me/p/resolve/main/n.txt) ![b](https://hub/me/p/blob/main/a%20b.png?raw=true) \
                [c](//hub/me/p/raw/main/c) [d](/me/p/blob/main/d)";
    assert_eq!(links_of(body), ["n.txt", "a b.png", "c", "d"]);
    assert_eq!(links_of("[a](https://hub/me/p) [b](https://hub/me/pq/blob/main/x) [c](/me/other)"), [""; 0]);
}

#[test]
fn what_leads_elsewhere_is_no_link_into_the_tree_and_paths_are_read_as_a_browser_reads_them() {
    let elsewhere = "<a@b.co> [t](tel:1) [j](javascript:void) <!-- <img src=\"n.png\"> --> [r](.) [g](.gitattributes) \
                     <div data-src='n.png'></div> x[^1]\n\n[^1]: see\n\n<!--\n[a](n.txt)\n-->";
    assert_eq!(links_of(elsewhere), [""; 0]);
    assert_eq!(links_of("[a](s/../ev.json) [b](./d%2Etxt) [c](s/a/) [d](../x)"), ["ev.json", "d.txt", "s/a", "../x"]);
    assert!(links::is_in(["s/a/b.txt"].into_iter(), "s/a") && links::is_in(["s/"].into_iter(), "s/a/b.txt"));
    assert!(!links::is_in(["s/a/b.txt"].into_iter(), "s/b") && !links::is_in(["a"].into_iter(), ""));
}

#[test]
fn a_front_matter_that_does_not_open_or_close_is_told_with_its_place() {
    for (text, at, message) in [
        ("\u{feff}---\nlicense: mit\n---\n", 0, "a byte order mark"),
        ("\n---\nlicense: mit\n---\n", 0, "an empty line"),
        ("--- \nlicense: mit\n---\n", 3, "behind the `---` that opens"),
        ("---\nlicense: mit\n--- \n", 20, "behind the `---` that closes"),
        ("---\nlicense: mit\n# a\n", 0, "never closed"),
    ] {
        for error in [front::read(text).err().unwrap(), front::check_static("c.hbs", text, "mit").unwrap_err()] {
            assert!(error.message().contains(message), "{error}");
            assert_eq!(error.place().unwrap().start, at, "{text:?}");
        }
    }
}
