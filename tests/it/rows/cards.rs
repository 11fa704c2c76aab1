//! Cards, reports and links that say what is not so.

use super::{copies, files, manifest, published, publishing, refused};
use crate::support::Project;
use crate::{card, evaluation};
use hfbuild::core::record::hub_digests;

const EVALUATION: &str = "[artifact.evaluation]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"cp {in.report} report.json\"]\n\
    inputs = { report = \"figures.json\" }\noutputs = [\"report.json\"]\nfacts_file = \"report.json\"\n";
const CARD: &str = "[artifact.card]\nkind = \"card\"\ntemplate = \"card.md.hbs\"\nfacts = [\"evaluation\"]\n";
const README: &str = "\"README.md\" = \"card\"";

/// A card over an evaluation that measured these figures.
fn carded(figures: &str, body: &str) -> Project {
    let project = publishing(&format!("{EVALUATION}{CARD}"), README, &[]);
    project.write("figures.json", figures);
    write_card(&project, body);
    project
}

fn write_card(project: &Project, body: &str) {
    project.write("card.md.hbs", &format!("---\nlicense: mit\n---\n{body}\n"));
}

#[test]
fn row_04_the_cards_numbers_were_typed_and_contradicted_one_another() {
    card::a_figure_typed_next_to_a_fact_that_says_otherwise_is_refused_with_line_and_column();
    card::a_licence_that_contradicts_its_text_is_refused_before_anything_runs();
    // five sizes for one file: at most one of them is its size
    let project = carded("{\"bytes\": 132252672}", "The weights have {{bytes evaluation.bytes}}.");
    published(&project);
    for size in ["126.9 MB", "529 MB", "22 MB", "1.2 GB"] {
        write_card(&project, &format!("The model file is {size}."));
        refused(&project, 1, &["card.md.hbs:4:19", &format!("`{size}`"), "`evaluation.bytes` is 132252672"]);
    }
    // a figure that no fact of the card says anything of is nobody's
    write_card(&project, "It has 22M parameters, and an accuracy of 98 %.");
    refused(&project, 1, &["`22M`, and no fact of the card is called `parameters`", "`98 %`", "under `facts`"]);
    // a fact that is missing, in the template and in what was measured; one that could not be measured is said to be so
    write_card(&project, "{{evaluation.parameters}}");
    refused(&project, 1, &["card.md.hbs:4", "evaluation.parameters"]);
    project.write("figures.json", "{\"bytes\": 132252672, \"parameters\": null}");
    published(&project);
    assert!(project.read("dist/README.md").ends_with("---\nnot measured\n"), "{}", project.read("dist/README.md"));
    // a licence typed into the text
    write_card(&project, "Released under the Apache-2.0 license.");
    refused(&project, 1, &["the template says `Apache-2.0`, the manifest says license `mit`"]);
    // a README.md that is no card is checked by nobody, so it is not taken
    for (tables, artifact) in [
        (files("README.md"), "file"),
        ("[artifact.page]\nkind = \"template\"\ntemplate = \"README.md\"\n".to_string(), "page"),
        (copies("r = \"README.md\"", "cp {in.r} out.md", "[\"out.md\"]"), "made"),
    ] {
        let project = publishing(&tables, &format!("\"README.md\" = \"{artifact}\""), &[]);
        project.write("README.md", "---\nlicense: mit\n---\n22M parameters, trained for 200k steps\n");
        refused(&project, 2, &["`README.md` is the card, and `", "kind = \"card\"", "publish.toml:"]);
    }
}

#[test]
fn row_05_a_benchmark_of_one_file_was_labelled_as_anothers() {
    evaluation::a_report_made_elsewhere_is_held_against_the_file_that_it_is_about();
    card::a_figure_of_one_file_is_not_said_of_another();
    // a figure that is measured on one of two published graphs, and said of either
    let tables = |of: &str| {
        format!(
            "{}[artifact.other]\nkind = \"files\"\npaths = [\"other.txt\"]\n\
             [artifact.bench]\nkind = \"report\"\npath = \"bench.json\"\nschema = {{ ms = \"number\" }}\n\
             subject = {{ of = \"{of}\", key = \"sha256\" }}\n{}",
            files("one.txt"),
            CARD.replace("evaluation", "bench")
        )
    };
    let paths = format!("{README}, \"one.txt\" = \"file\", \"other.txt\" = \"other\"");
    let project = publishing(&tables("file"), &paths, &[]);
    project.write("one.txt", "one");
    project.write("other.txt", "other");
    project.write("bench.json", &format!("{{\"ms\": 12.5, \"sha256\": \"{}\"}}", hub_digests(b"one").sha256));
    let said_of =
        |path: &str| write_card(&project, &format!("{{{{bench.ms}}}} ms on {{{{measured_on bench.ms \"{path}\"}}}}"));
    said_of("one.txt");
    published(&project);
    assert!(project.read("dist/README.md").contains("12.5 ms on `one.txt`"));
    said_of("other.txt");
    refused(&project, 1, &["`bench.ms` was measured on", "`other.txt` of the published tree is"]);
    said_of("one.txt");
    project.write("publish.toml", &manifest(&tables("other"), &paths, &[]));
    refused(&project, 1, &["about another file than `other`", &hub_digests(b"other").sha256]);
}

#[test]
fn row_06_one_report_name_stood_for_two_models_and_its_keys_changed_type() {
    evaluation::a_report_is_typed_and_bound_to_the_file_that_it_names();
    // two stages that write one report
    let twice = format!("{EVALUATION}{}", EVALUATION.replace("artifact.evaluation", "artifact.classifier"));
    let project = publishing(&format!("{twice}{CARD}"), README, &[]);
    project.write("figures.json", "{\"accuracy\": 0.9}");
    write_card(&project, "{{evaluation.accuracy}}");
    refused(&project, 2, &["`report.json`", "`evaluation`", "`classifier`"]);
    // a figure that came back from JSON as a text is no number to a gate, and is not turned into one
    let project = publishing(&format!("{EVALUATION}{CARD}"), README, &["evaluation.accuracy >= 0.5"]);
    project.write("figures.json", "{\"accuracy\": \"0.9\"}");
    write_card(&project, "{{evaluation.accuracy}}");
    refused(&project, 1, &["Refused gates[evaluation.accuracy >= 0.5]"]);
    // labels that were numbers are texts in JSON: the key is what the file says
    project.write("figures.json", "{\"accuracy\": 0.9, \"by_label\": {\"0\": 0.8}}");
    write_card(&project, "{{evaluation.by_label.0}}");
    published(&project);
    assert!(project.read("dist/README.md").ends_with("---\n0.8\n"));
}

#[test]
fn row_11_nested_samples_were_not_uploaded_and_the_card_linked_to_them() {
    card::a_link_to_what_will_not_be_there_is_refused();
    let tables = |line: &str| {
        let made = copies("set = \"set/\"", line, "[\"samples\"]");
        format!(
            "{made}[artifact.apart]\nkind = \"statistics\"\nfrom = \"made\"\n{}",
            CARD.replace("evaluation", "apart")
        )
    };
    let gates = &["apart.count == 6", "apart.classes == 3"];
    let paths = format!("{README}, \"samples/\" = \"made\"");
    let project = publishing(&tables("cp -rL set samples"), &paths, gates);
    for (label, colour) in [("red", [200, 10, 10]), ("green", [10, 200, 10]), ("blue", [10, 10, 200])] {
        for k in 0..2u8 {
            project.write(&format!("set/{label}/{k}.png"), "");
            std::fs::write(project.path(&format!("set/{label}/{k}.png")), evaluation::picture(colour, k, 8)).unwrap();
        }
    }
    write_card(&project, "![red](samples/samples/red/0.png) <img src=\"samples/samples/blue/1.png\">");
    published(&project);
    let pictures = project.tree("dist/samples").keys().filter(|path| path.ends_with(".png")).count();
    assert_eq!(pictures, 6, "{:?}", project.tree("dist/samples").keys());
    // a link that is one folder off
    write_card(&project, "![red](samples/samples/0.png)");
    refused(&project, 1, &["`samples/samples/0.png`, which is not in the published tree"]);
    // fewer than were meant
    write_card(&project, "{{apart.count}} pictures");
    project.write("publish.toml", &manifest(&tables("cp -rL set samples; rm samples/red/*"), &paths, gates));
    refused(&project, 1, &[]);
    project.write("publish.toml", &manifest(&tables("cp -rL set samples; rm samples/*/1.png"), &paths, gates));
    refused(&project, 1, &["Refused gates[apart.count == 6]", "`apart.count` is 3"]);
    // none at all
    project.write("publish.toml", &manifest(&tables("mkdir -p samples/red samples/blue"), &paths, gates));
    refused(&project, 1, &["output `samples` is a directory without a file"]);
    project.write("publish.toml", &manifest(&tables("cp -rL set pictures"), &paths, gates));
    refused(&project, 1, &["the program ended well but did not make `samples`"]);
}
