//! What runs graphs on this machine, for people and as JSON.

use crate::core::error::Result;
use crate::core::runtime::{Choice, Found, PassedOver};
use crate::core::value::human_bytes;
use crate::ui::count;
use serde_json::{Value as Json, json};

/// The version of the JSON form.
pub const SCHEMA: u32 = 1;

/// An artifact, and what it runs on.
pub type Stage<'a> = (&'a str, &'a Result<Choice>);

/// What the worker that runs libtorch says of itself, or why it says nothing; `None`: there is none.
pub type Torch = Option<std::result::Result<(String, String), String>>;

/// `--json`. `project`: why the manifest's stages are not there, where they are not.
pub fn to_json(found: &Found, torch: &Torch, stages: &[Stage<'_>], project: Option<&str>) -> Json {
    let torch = torch.as_ref().map(|said| {
        let (version, devices, why) = match said {
            Ok((version, devices)) => (Some(version), Some(devices), None),
            Err(why) => (None, None, Some(why)),
        };
        json!({"path": found.torch, "version": version, "devices": devices, "why": why})
    });
    let devices = match &found.devices {
        Ok(all) => json!({"gpus": all, "why": null}),
        Err(why) => json!({"gpus": [], "why": why}),
    };
    let library = found.onnxruntime.as_ref().map(|library| {
        let cuda = library.cuda.as_ref().err();
        json!({"path": library.path, "origin": library.origin, "version": library.version,
               "providers": library.providers, "cuda": cuda.is_none(), "cuda_why": cuda})
    });
    json!({
        "schema": SCHEMA,
        "runtimes": {"rten": found.rten, "onnxruntime": library, "rejected": found.rejected, "torch": torch},
        "devices": devices,
        "stages": stages.iter().map(stage_json).collect::<Vec<_>>(),
        "project": project,
    })
}

/// One artifact's choice as JSON.
pub fn stage_json((artifact, choice): &Stage<'_>) -> Json {
    match choice {
        Ok(choice) => json!({"artifact": artifact, "runtime": choice.runtime, "version": choice.version,
                             "device": choice.device, "passed_over": choice.passed_over, "error": null}),
        Err(error) => json!({"artifact": artifact, "runtime": null, "version": null, "device": null,
                             "passed_over": [], "error": error.message(), "hint": error.hint_text()}),
    }
}

/// The screen.
pub fn render(found: &Found, torch: &Torch, stages: &[Stage<'_>], project: Option<&str>) -> String {
    let mut out = String::from("runtimes\n");
    let mut row = |name: &str, version: &str, rest: &str| out.push_str(&format!("  {name:<12} {version:<8} {rest}\n"));
    row("rten", &found.rten, "built in, on the CPU");
    match &found.onnxruntime {
        Some(library) => {
            row("onnxruntime", &library.version, &format!("{} ({})", library.path, library.origin));
            let providers: Vec<_> = library.providers.iter().map(|p| p.trim_end_matches("ExecutionProvider")).collect();
            row("", "", &format!("providers: {}", providers.join(", ")));
        }
        None if found.rejected.is_empty() => {
            row("onnxruntime", "-", "not found: run `hfbuild runtime install onnxruntime`");
        }
        None => row("onnxruntime", "-", "none that can be used"),
    }
    for bad in &found.rejected {
        row("", "", &format!("not used: {} ({}), {}", bad.path, bad.origin, bad.why));
    }
    let worker = found.torch.as_deref().unwrap_or_default();
    match torch {
        Some(Ok((version, devices))) => {
            row("torch", version, worker);
            row("", "", devices);
        }
        Some(Err(why)) if worker.is_empty() => row("torch", "-", &format!("not used: {why}")),
        Some(Err(why)) => row("torch", "-", &format!("not used: {worker}: {why}")),
        None => row("torch", "-", "no `hfbuild-torch` beside hfbuild or on the PATH"),
    }
    out.push_str("devices\n");
    match &found.devices {
        Err(why) => out.push_str(&format!("  none: {why}\n")),
        Ok(all) if all.is_empty() => out.push_str("  none: no NVIDIA device is visible\n"),
        Ok(all) => all.iter().enumerate().for_each(|(n, gpu)| {
            let memory = match gpu.memory {
                0 => "memory not known".to_string(),
                bytes => human_bytes(bytes),
            };
            out.push_str(&format!("  {n:<2} {}, {memory}  {}\n", gpu.name, gpu.id));
        }),
    }
    match project {
        Some(why) => out.push_str(&format!("stages\n  none: {why}\n")),
        None if stages.is_empty() => out.push_str("stages\n  none runs a graph\n"),
        None => out.push_str(&format!("stages\n{}", stage_lines(stages))),
    }
    out
}

fn stage_lines(stages: &[Stage<'_>]) -> String {
    let width = stages.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(12);
    let mut out = String::new();
    for (name, choice) in stages {
        let (line, more): (String, Vec<String>) = match choice {
            Ok(choice) => (choice.to_string(), choice.passed_over.iter().map(passed_over).collect()),
            Err(error) => (error.message().to_string(), error.hint_text().map(String::from).into_iter().collect()),
        };
        out.push_str(&format!("  {name:<width$} {line}\n"));
        more.iter().for_each(|line| out.push_str(&format!("  {:<width$} {line}\n", "")));
    }
    out
}

fn passed_over(over: &PassedOver) -> String {
    let mend = over.mend.as_ref().map_or(String::new(), |mend| format!(" ({mend})"));
    format!("not {}: {}{mend}", over.what, over.why)
}

/// The last line.
pub fn last_line(found: &Found) -> String {
    let runtimes = 1 + usize::from(found.onnxruntime.is_some()) + usize::from(found.torch.is_some());
    let devices = found.devices.as_ref().map_or(0, Vec::len);
    format!("hfbuild: {}, {}", count(runtimes, "runtime"), count(devices, "NVIDIA device"))
}

/// What stages of a plan run on: a line for all that run on the same.
pub fn plan_lines(stages: &[Stage<'_>]) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, choice) in stages {
        let Ok(choice) = choice else { continue };
        let why = choice.passed_over.first().map_or(String::new(), |over| format!(" ({})", over.why));
        let line = format!("{choice}{why}");
        match groups.iter_mut().find(|(other, _)| *other == line) {
            Some((_, names)) => names.push(name),
            None => groups.push((line, vec![name])),
        }
    }
    let line = |(line, names): &(String, Vec<&str>)| format!("{:>9} {}: {line}\n", "Runtime", names.join(", "));
    groups.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runtime::{Gpu, Rejected, Wanted, choose};

    #[test]
    fn stages_that_run_on_the_same_are_one_line_of_a_plan() {
        let choice = choose(Wanted::default(), &Found::bare("0.27.0"));
        let refused = Err(crate::core::error::Error::stage("no"));
        let lines = plan_lines(&[("samples", &choice), ("speed", &choice), ("other", &refused)]);
        assert_eq!(lines, "  Runtime samples, speed: rten 0.27.0 on cpu (no libonnxruntime was found)\n");
        assert_eq!(plan_lines(&[]), "");
    }

    #[test]
    fn the_screen_is_aligned_and_names_devices_and_what_is_not_used() {
        let gpu = Gpu {
            id: "GPU-1a".into(),
            index: Some(0),
            uuid: "GPU-1a".into(),
            name: "NVIDIA L4".into(),
            memory: 24_000_000_000,
        };
        let bad =
            Rejected { path: "/x/lib.so".into(), origin: "VIRTUAL_ENV".into(), why: "it is no libonnxruntime".into() };
        let found = Found { devices: Ok(vec![gpu]), rejected: vec![bad], ..Found::bare("0.27.0") };
        let choice = choose(Wanted::default(), &found);
        let expected = "\
runtimes
  rten         0.27.0   built in, on the CPU
  onnxruntime  -        none that can be used
                        not used: /x/lib.so (VIRTUAL_ENV), it is no libonnxruntime
  torch        -        no `hfbuild-torch` beside hfbuild or on the PATH
devices
  0  NVIDIA L4, 24 GB  GPU-1a
stages
  samples      rten 0.27.0 on cpu
               not onnxruntime: `/x/lib.so` cannot be used: it is no libonnxruntime (run `hfbuild runtime install onnxruntime --gpu`)
";
        assert_eq!(render(&found, &None, &[("samples", &choice)], None), expected);
        let lost = Some(Err("HFBUILD_TORCH names `/nope`, which is no program".to_string()));
        let lost = render(&Found::bare("0.27.0"), &lost, &[], None);
        assert!(lost.contains("  torch        -        not used: HFBUILD_TORCH names `/nope`, which is"), "{lost}");
        assert_eq!(last_line(&found), "hfbuild: 1 runtime, 1 NVIDIA device");
        assert_eq!(to_json(&found, &None, &[], None)["devices"]["gpus"][0]["name"], "NVIDIA L4");
    }
}
