//! `classify`: does a classifier see in each sample the label that it was drawn for? A stage of its own, with facts of its
//! own: the samples' facts say nothing of labels.

use super::sessions::Lent;
use super::{Declare, Kind, Workspace, batches, evaluation, param, runtimes, text_param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::digest::Canonical;
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::{RelPath, slug};
use crate::core::value::Value;
use crate::model::classifier::{self, Preprocess, Resize, Signature};
use crate::model::onnx::import::OnnxFile;
use crate::model::sample::Picture;
use std::collections::BTreeMap;
use std::ops::Range;

/// See the module.
pub struct Classify;

/// Pictures that go through the classifier at once, where the manifest does not say.
const BATCH: usize = 32;
const NUMBERS: FieldType = FieldType::Param(&FieldType::List(&FieldType::Number(false)));

impl Kind for Classify {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "classify",
            doc: "a classifier's agreement with the asked label, over samples",
            fields: &[
                Field::required("samples", FieldType::Artifact, "the samples (kind `samples`, or a command)"),
                Field::required("classifier", FieldType::Text, "an artifact that is an ONNX graph, or an .onnx file"),
                Field::required(
                    "labels",
                    FieldType::Param(&FieldType::List(&FieldType::Text)),
                    "the classifier's classes, by index, by the names of the samples' labels",
                ),
                Field::optional(
                    "resize",
                    FieldType::Choice(&["none", "bilinear", "nearest"]),
                    "how pictures of another size are fitted",
                ),
                Field::optional("mean", NUMBERS, "of the classifier's training, three numbers; 0 by default"),
                Field::optional("std", NUMBERS, "of the classifier's training, three numbers; 1 by default"),
                Field::optional(
                    "batch",
                    FieldType::Param(&FieldType::Int(1, 4096)),
                    "pictures at once, 32 by default; halved where the memory is too small, and no part of the action",
                ),
                runtimes::RUNTIME,
                runtimes::DEVICE,
            ],
            facts: &[
                "agreement",
                "lowest_agreement",
                "count",
                "by_label.*",
                "classifier_blake3",
                "samples_blake3",
                "runtime",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let samples = cx.artifact_of("samples", &["samples", "command"])?;
        let word = cx.spec.text("classifier").unwrap_or_default();
        let classifier = match cx.manifest.artifact(word) {
            Some(_) => InputFrom::Artifact(cx.artifact_of("classifier", &["onnx", "onnx_file", "command"])?),
            None => InputFrom::File(cx.parsed::<RelPath>("classifier")?),
        };
        let three = |key: &str, default: f64| -> Result<Value> {
            let Some(value) = cx.value(key) else { return Ok(vec![default; 3].into()) };
            let numbers: Vec<f64> = value.as_list().unwrap_or_default().iter().filter_map(Value::as_f64).collect();
            match numbers.len() == 3 && (key == "mean" || numbers.iter().all(|n| *n > 0.0)) {
                true => Ok(numbers.into()),
                false => Err(cx.error(key, format!("`{key}` takes three numbers, one a channel; `std` above zero"))),
            }
        };
        let mut declaration = Declaration::new("classify", self.version(), Shape::File("classify.json".into()))
            .param("labels", cx.value("labels").unwrap_or(Value::Null))
            .param("resize", cx.spec.text("resize").unwrap_or("none"))
            .param("mean", three("mean", 0.0)?)
            .param("std", three("std", 1.0)?)
            .input("classifier", classifier, cx.spec.place("classifier"))
            .input("samples", InputFrom::Artifact(samples), cx.spec.place("samples"));
        declaration.batch = cx.int("batch").map(|batch| batch as usize);
        runtimes::declare(cx, declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let graph = evaluation::graph(workspace, "classifier")?;
        let file = OnnxFile::open(&graph.file)?;
        file.require_external()?;
        let signature = classifier::signature(&file.info()?)?;
        let (labelled, pictures) = evaluation::pictures(workspace, "samples")?;
        let labels = labels(action)?;
        let classes = classes(&labelled, &labels)?;
        let all = labelled.values().flatten().map(|(_, picture)| picture);
        classifier::of_any_size(&signature, preprocess(action)?.resize, all)?;
        let mut lent = evaluation::lend(workspace, action, "classifier", &graph.file)?;
        let judged = judge(workspace, action, &mut lent, &signature, &labelled, labels.len());
        let judged = lent.checked(judged)?;
        drop(lent);
        let mut facts = Facts::default();
        let both = Canonical::new("hfbuild classified 1").digest(&graph.digest).digest(&pictures).finish();
        let of = facts.subject(&format!("the samples, judged by {}", graph.path), both);
        let agreed = |label: &str| judged[label].iter().filter(|(_, class)| *class == classes[label]).count();
        let mut lowest = 1f64;
        let (mut count, mut all) = (0, 0);
        for (label, seen) in &judged {
            let right = agreed(label);
            let fraction = right as f64 / seen.len() as f64;
            facts.set(&format!("by_label.{label}"), fraction, of);
            lowest = lowest.min(fraction);
            (count, all) = (count + seen.len(), all + right);
        }
        facts.set("count", count, of);
        facts.set("agreement", all as f64 / count as f64, of);
        facts.set("lowest_agreement", lowest, of);
        facts.set("classifier_blake3", graph.digest.hex(), of);
        facts.set("samples_blake3", pictures.hex(), of);
        facts.set_volatile("runtime", workspace.device.clone());
        let seen = judged.values().flatten();
        let seen: BTreeMap<String, Value> =
            seen.map(|(p, class)| (p.clone(), labels[*class].as_str().into())).collect();
        workspace.write("classify.json", &super::json_text(&Value::Map(seen)))?;
        Ok(facts)
    }
}

fn labels(action: &Action) -> Result<Vec<String>> {
    let list = param(action, "labels")?.as_list().unwrap_or_default();
    let labels: Vec<String> = list.iter().filter_map(Value::as_text).map(slug).collect();
    let twice = labels.iter().enumerate().find(|(at, label)| labels[..*at].contains(label));
    match twice {
        Some((_, label)) => Err(Error::stage(format!("`labels` has `{label}` twice"))),
        None => Ok(labels),
    }
}

/// The class of each label of the samples.
fn classes(labelled: &evaluation::Labelled, labels: &[String]) -> Result<BTreeMap<String, usize>> {
    let class = |label: &String| {
        let at = labels.iter().position(|l| l == label);
        let at = at.ok_or_else(|| {
            Error::stage(format!("the samples have the label `{label}`, which the classifier does not"))
                .hint("`labels` names the classifier's classes by index, as the samples call them")
        })?;
        Ok((label.clone(), at))
    };
    labelled.keys().map(class).collect()
}

/// The class that the classifier sees in each picture, by label, with the picture's path. What an interrupted run has seen
/// is not looked at again.
fn judge(
    workspace: &Workspace,
    action: &Action,
    lent: &mut Lent,
    signature: &Signature,
    labelled: &evaluation::Labelled,
    classes: usize,
) -> Result<BTreeMap<String, Vec<(String, usize)>>> {
    let preprocess = preprocess(action)?;
    let mut kept = workspace.kept(&lent.by)?;
    let rows: Vec<_> = labelled
        .iter()
        .map(|(label, pictures)| batches::find(&mut kept, label, pictures.len(), &|bytes, count| bytes == 4 * count))
        .collect();
    let total = labelled.values().map(Vec::len).sum();
    batches::goes_on(workspace, rows.iter().map(batches::Found::things).sum(), total)?;
    let asked = workspace.batch.unwrap_or(BATCH);
    let mut batch = asked.min(lent.fits.unwrap_or(asked));
    let mut out = BTreeMap::new();
    for (done, ((label, pictures), found)) in labelled.iter().zip(rows).enumerate() {
        let mut seen: Vec<(usize, Vec<usize>)> =
            found.parts.iter().map(|(things, bytes)| (things.start, unpacked(bytes))).collect();
        let mut one = |things: Range<usize>| {
            let batch: Vec<&Picture> = pictures[things.clone()].iter().map(|(_, picture)| picture).collect();
            let scores = classifier::scores(lent.session()?, signature, &preprocess, &batch)?;
            if let Some(row) = scores.iter().find(|row| row.len() != classes) {
                return Err(Error::stage(format!(
                    "the classifier tells {} classes apart, and `labels` names {classes}",
                    row.len()
                )));
            }
            let best: Vec<usize> = scores.iter().map(|row| classifier::greatest(row)).collect();
            workspace.keep(&lent.by, &batches::name(label, &things), &packed(&best))?;
            seen.push((things.start, best));
            Ok(())
        };
        for gap in &found.gaps {
            batches::each(workspace, gap, &mut batch, &mut one)?;
        }
        seen.sort();
        let seen = seen.into_iter().flat_map(|(_, classes)| classes);
        let seen: Vec<_> = pictures.iter().map(|(path, _)| path.clone()).zip(seen).collect();
        match seen.iter().find(|(_, class)| *class >= classes) {
            Some((path, class)) => return Err(Error::bug(format!("`{path}` is of class {class} of {classes}"))),
            None => drop(out.insert(label.clone(), seen)),
        }
        (workspace.progress)(done as u64 + 1, labelled.len() as u64);
    }
    if batch < asked {
        lent.fits = Some(batch);
    }
    Ok(out)
}

/// A part: the classes as u32, little-endian.
fn packed(classes: &[usize]) -> Vec<u8> {
    classes.iter().flat_map(|class| u32::try_from(*class).unwrap_or(u32::MAX).to_le_bytes()).collect()
}

/// The same, read.
fn unpacked(bytes: &[u8]) -> Vec<usize> {
    bytes.chunks_exact(4).filter_map(|four| Some(u32::from_le_bytes(four.try_into().ok()?) as usize)).collect()
}

fn preprocess(action: &Action) -> Result<Preprocess> {
    let three = |name: &str| -> Result<[f32; 3]> {
        let list = param(action, name)?.as_list().unwrap_or_default();
        let numbers: Vec<f32> = list.iter().filter_map(Value::as_f64).map(|n| n as f32).collect();
        numbers.try_into().map_err(|_| Error::bug(format!("`{name}` is not three numbers")))
    };
    let resize = match text_param(action, "resize")? {
        "bilinear" => Resize::Bilinear,
        "nearest" => Resize::Nearest,
        _ => Resize::None,
    };
    Ok(Preprocess { resize, mean: three("mean")?, std: three("std")? })
}
