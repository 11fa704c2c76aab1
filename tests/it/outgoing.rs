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
