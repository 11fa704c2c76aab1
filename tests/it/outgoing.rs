//! What a publish must not let out: pickles, whatever they are called; and a build that asks no hub at all.

use crate::hubs::{Hub, light};
use crate::support::Project;
use hfbuild::hub::embedded::Options;

#[test]
fn pickles_of_any_protocol_are_refused_and_those_in_arrays_too() {
    let array = |kind: &str| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}\n");
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        npy.extend((header.len() as u16).to_le_bytes());
        npy.extend(header.as_bytes());
        npy.extend(b"cos\nsystem\n(S'id'\ntR.");
        npy
    };
    let hostile = b"cos\nsystem\n(S'id'\ntR.".to_vec();
    for (name, content, refused) in [
        ("pytorch_model.bin", hostile.clone(), "is a pickle that calls `os.system`"),
        ("weights.dat", hostile, "is a pickle that calls `os.system`"),
        ("objects.npy", array("|O"), "os.system"),
        ("two.pkl", b"\x80\x02K\x01.\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.".to_vec(), "os.system"),
        ("numbers.npy", array("<f8"), ""),
        ("labels.txt", b"cat\ndog\nbird\n".to_vec(), ""),
    ] {
        let project = Project::with(&format!(
            "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n[hub]\nrepo = \"me/p\"\nendpoint = \"embedded\"\n\
             [artifact.a]\nkind = \"files\"\npaths = [\"{name}\"]\n[artifact.publish]\nkind = \"upload\"\nfiles = {{ \"{name}\" = \"a\" }}\n"
        ));
        std::fs::write(project.path(name), &content).unwrap();
        let run = project.run(&[]);
        assert_eq!(
            (run.code == 0, project.commits("me/p")),
            (refused.is_empty(), usize::from(refused.is_empty())),
            "{name}"
        );
        assert!(run.stderr.contains(refused), "{name}: {}", run.stderr);
    }
}

#[test]
fn an_offline_build_makes_what_is_published_and_publishes_nothing() {
    let hub = Hub::start(Options::default());
    let project = light();
    let run = hub.publish(&project, &["build", "--offline"]).code(0).says("is not published to `d-oit/tinydit-cats`");
    assert_eq!(hub.asked(), Vec::<String>::new());
    assert!(run.summary().contains("ran 4 stages"), "{}", run.summary());
    assert_eq!(project.read("dist/a.bin"), "content of a");
    hub.publish(&project, &["build", "--offline"]).code(0);
    hub.publish(&project, &["build", "--offline", "--pr"]).code(2);
    // what it left undone is still to do, and nothing is made twice
    let run = hub.publish(&project, &[]).code(0);
    assert!(run.summary().contains("ran 0 stages"), "{}", run.summary());
    assert_eq!(hub.commits(), 1);
}

const TWO_PAGES: &str = "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n[hub]\nrepo = \"me/p\"\nendpoint = \"embedded\"\n\
    [artifact.one]\nkind = \"files\"\npaths = [\"one.txt\"]\n[artifact.two]\nkind = \"files\"\npaths = [\"two.txt\"]\n\
    [artifact.page]\nkind = \"card\"\ntemplate = \"page.hbs\"\n[artifact.other]\nkind = \"card\"\ntemplate = \"page.hbs\"\n\
    [artifact.first]\nkind = \"upload\"\ndist = \"d1\"\nfiles = { \"x.txt\" = \"one\", \"README.md\" = \"page\" }\n\
    [artifact.second]\nkind = \"upload\"\nrepo = \"me/q\"\ndist = \"d2\"\nfiles = { \"x.txt\" = \"two\", \"README.md\" = \"OTHER\" }\n";

#[test]
fn a_page_speaks_of_the_files_beside_it_and_not_of_those_of_another_upload() {
    let project = Project::with(&TWO_PAGES.replace("OTHER", "other"));
    project.write("page.hbs", "---\nlicense: mit\n---\n{{sha256 \"x.txt\"}}\n");
    project.write("one.txt", "one\n");
    project.write("two.txt", "two\n");
    project.run(&[]).code(0);
    for dist in ["d1", "d2"] {
        let digest = sha256(project.read(&format!("{dist}/x.txt")).as_bytes());
        assert!(project.read(&format!("{dist}/README.md")).contains(&digest), "{dist}");
    }
    // one page for both can speak of neither
    project.write("publish.toml", &TWO_PAGES.replace("OTHER", "page"));
    project.run(&["plan"]).code(2).says("names the path `x.txt`, which no upload publishes, or each another file");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[test]
fn weights_that_are_no_numbers_are_refused_whoever_made_them_and_let_pass_by_name() {
    let project = |allowed: &str| {
        let project = Project::with(&format!(
            "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n[hub]\nrepo = \"me/p\"\nendpoint = \"embedded\"\n{allowed}\
             [artifact.a]\nkind = \"files\"\npaths = [\"a.safetensors\"]\n\
             [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"model.safetensors\" = \"a\" }}\n"
        ));
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  "#;
        let values = [1f32, f32::NAN].map(f32::to_le_bytes).concat();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &values].concat();
        std::fs::write(project.path("a.safetensors"), bytes).unwrap();
        project
    };
    let refused = project("");
    refused
        .run(&[])
        .code(1)
        .says("`model.safetensors` holds a value that is NaN or infinite")
        .says("nonfinite-weights");
    assert_eq!(refused.commits("me/p"), 0);
    project("[hub.allow_findings]\n\"model.safetensors\" = [\"nonfinite-weights\"]\n").run(&[]).code(0);
}
