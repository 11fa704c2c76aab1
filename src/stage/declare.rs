//! From a checked manifest to the parts of the graph: `each` is spread into shards, `check` into clauses.
//!
//! Pure but for the texts that it is handed.

use super::{CHECK, Declare, Shard, UPLOAD, bounds, check_fact, kind, pages};
use crate::core::action::Shape;
use crate::core::error::{Error, Result};
use crate::core::gate;
use crate::core::graph::{Body, Part, Upload};
use crate::core::manifest::dom::{Data, join};
use crate::core::manifest::{Amount, MEMORY, Manifest, Pool, Spec, target};
use crate::core::name::{ArtifactName, RelPath, nearest, slug};
use crate::core::size;
use crate::core::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Texts of templates by path; `None`: the file is not there, or is no UTF-8.
pub type Texts = BTreeMap<String, Option<String>>;

/// The files that declaring needs to see: templates, indexes of safetensors shards, and the licence's text where there is
/// a card.
pub fn texts_wanted(manifest: &Manifest) -> Vec<RelPath> {
    let index = |spec: &Spec| super::checkpoint::index_path(spec).map(String::from);
    let wanted = |spec: &Spec| spec.text("template").map(String::from).or_else(|| index(spec));
    let named = manifest.artifacts.iter().filter_map(|spec| wanted(spec)?.parse().ok());
    named.chain(super::card::license_files(manifest)).collect()
}

/// Declares every artifact. All mistakes are reported together.
pub fn parts(manifest: &Manifest, texts: &Texts) -> Result<Vec<Part>> {
    let mut out = Vec::new();
    let mut problems = Vec::new();
    for spec in &manifest.artifacts {
        match part(manifest, spec, texts) {
            Ok(part) => out.push(part),
            Err(error) => problems.push(error),
        }
    }
    if problems.is_empty() { Ok(out) } else { Err(join(problems)) }
}

fn part(manifest: &Manifest, spec: &Spec, texts: &Texts) -> Result<Part> {
    let body = if spec.kind == CHECK.name {
        gates(manifest, spec)?
    } else if spec.kind == UPLOAD.name {
        upload(manifest, spec)?
    } else {
        stages(manifest, spec, texts)?
    };
    Ok(Part { name: spec.name.clone(), span: spec.span.clone(), body, after: spec.texts("after") })
}

fn stages(manifest: &Manifest, spec: &Spec, texts: &Texts) -> Result<Body> {
    let kind = kind(spec.kind)?;
    let resources = resources(manifest, spec)?;
    let frozen = matches!(spec.node("frozen").map(|n| &n.data), Some(Data::Bool(true)));
    let declare = |shard: Option<&Shard>| {
        let mut declaration = kind.declare(&Declare { manifest, spec, shard, texts })?;
        declaration.resources.extend(resources.clone());
        declaration.frozen = frozen;
        Ok::<_, Error>(declaration)
    };
    if spec.node("each").is_none() {
        return Ok(Body::One(Box::new(declare(None)?)));
    }
    let shards = shards(manifest, spec)?;
    let shards: Vec<_> =
        shards.into_iter().map(|shard| Ok((shard.key.clone(), declare(Some(&shard))?))).collect::<Result<_>>()?;
    let mut made: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, declaration) in &shards {
        let Shape::Paths(paths) = &declaration.shape else { continue };
        if let Some((path, other)) = paths.iter().find_map(|p| Some((p, made.insert(p, key)?))) {
            let message = format!("shards `{other}` and `{key}` of `{}` both make `{path}`", spec.name);
            return Err(manifest.source.error(spec.place("outputs"), message).hint("put `{each}` into the path"));
        }
    }
    Ok(Body::Family(shards))
}

/// A graph of more shards is a mistake of a product.
const MOST_SHARDS: usize = 1_000_000;

/// The shards of `each`: a list's items, or the product of the lists of a table.
fn shards(manifest: &Manifest, spec: &Spec) -> Result<Vec<Shard>> {
    let error = |message: String| manifest.source.error(spec.place("each"), message);
    let mut shards = match manifest.value(spec, "each") {
        Some(Value::List(items)) => {
            let keys = items.iter().map(|item| item_key(item).map_err(error)).collect::<Result<Vec<_>>>()?;
            keys.into_iter().map(|key| Shard { index: 0, key, items: vec![] }).collect()
        }
        Some(Value::Map(_)) => product(manifest, spec)?,
        _ => return Err(error("`each` takes an array, or `\"params.NAME\"` of one".into())),
    };
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (index, shard) in shards.iter_mut().enumerate() {
        shard.index = index;
        if let Some(other) = seen.insert(slug(&shard.key).to_lowercase(), shard.key.clone()) {
            return Err(error(format!("`{other}` and `{}` would be one shard", shard.key)).hint(
                "shards become folders: their names must differ in letters and digits, not only in case or signs",
            ));
        }
    }
    if shards.is_empty() {
        return Err(error("`each` is empty, so nothing would be made".into()));
    }
    Ok(shards)
}

fn item_key(item: &Value) -> Result<String, String> {
    let key = match item {
        Value::Text(t) if !t.is_empty() => t.clone(),
        Value::Int(i) => i.to_string(),
        other => return Err(format!("an item of `each` is {}; it takes strings or integers", other.type_name())),
    };
    let bad = key.chars().any(|c| c.is_control() || c == '[' || c == ']') || key.len() > 200;
    match bad {
        true => Err(format!(
            "`{}` cannot name a shard: it has at most 200 bytes, no control characters and no brackets",
            key.escape_debug()
        )),
        false => Ok(key),
    }
}

/// Every combination of the lists' items, in the order of the file, the last list running fastest.
fn product(manifest: &Manifest, spec: &Spec) -> Result<Vec<Shard>> {
    let error = |message: String| manifest.source.error(spec.place("each"), message);
    let mut all = vec![Shard { index: 0, key: String::new(), items: vec![] }];
    for (name, items) in manifest.lists(spec, "each") {
        let keys = items.iter().map(|item| item_key(item).map_err(error)).collect::<Result<Vec<_>>>()?;
        if keys.len().saturating_mul(all.len()) > MOST_SHARDS {
            return Err(error(format!("this product has more than {MOST_SHARDS} shards")));
        }
        let with = |shard: &Shard, key: &String| {
            let mut items = shard.items.clone();
            items.push((name.clone(), key.clone()));
            let joined = if shard.key.is_empty() { key.clone() } else { format!("{},{key}", shard.key) };
            Shard { index: 0, key: joined, items }
        };
        all = all.iter().flat_map(|shard| keys.iter().map(move |key| with(shard, key))).collect();
    }
    all.retain(|shard| !shard.items.is_empty());
    Ok(all)
}

/// What a stage takes of the pools, which have to be there, to be counted alike, and to have as much.
fn resources(manifest: &Manifest, spec: &Spec) -> Result<BTreeMap<String, usize>> {
    let mut taken = BTreeMap::new();
    for (pool, amount) in spec.resources() {
        let error = |message: String| {
            manifest.source.error(spec.place("resources"), format!("artifact `{}` {message}", spec.name))
        };
        let Some(known) = manifest.pools.get(&pool) else {
            let error = error(format!("takes of pool `{pool}`, which [pools] lacks"));
            return Err(match nearest(&pool, manifest.pools.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("add `{pool} = ...` to [pools]")),
            });
        };
        let all = match known {
            Pool::Auto => usize::MAX,
            Pool::Count(all) => *all,
            Pool::Ids(ids) => ids.len(),
            Pool::Size(bytes) => usize::try_from(*bytes).unwrap_or(usize::MAX),
        };
        let of_bytes = matches!(known, Pool::Size(_)) || (*known == Pool::Auto && pool == MEMORY);
        let (count, shown) = match amount {
            Amount::Count(count) if !of_bytes => (count, (count.to_string(), all.to_string())),
            Amount::Size(bytes) if of_bytes => {
                let count = usize::try_from(bytes).unwrap_or(usize::MAX);
                (count, (size::show(bytes), size::show(all as u64)))
            }
            Amount::Count(count) => {
                let error = error(format!("takes {count} of pool `{pool}`, which is a size"));
                return Err(error.hint(format!("write a size too, with its unit: `{pool} = \"4GB\"`")));
            }
            Amount::Size(_) => {
                let error = error(format!("takes a size of pool `{pool}`, which is counted"));
                return Err(error.hint(format!("write a count: `{pool} = 1`")));
            }
        };
        if count > all {
            return Err(error(format!("takes {} of pool `{pool}`, which has {}", shown.0, shown.1)));
        }
        taken.insert(pool, count);
    }
    Ok(taken)
}

fn gates(manifest: &Manifest, spec: &Spec) -> Result<Body> {
    let mut clauses = Vec::new();
    let mut seen = BTreeSet::new();
    for (text, span) in spec.texts("require") {
        let clause = gate::parse(&text).map_err(|why| {
            manifest
                .source
                .error(span.clone(), format!("this is no condition: {why}"))
                .hint("gates are written in CEL: `checkpoint.step >= 1000 && checkpoint.ema_present`")
        })?;
        if clause.artifacts().next().is_none() && !clause.is_about_published() {
            return Err(manifest.source.error(span, "this condition names no fact, so it proves nothing"));
        }
        for root in clause.artifacts() {
            if let Err(why) = root.parse::<ArtifactName>() {
                return Err(manifest.source.error(span, format!("`{root}` in this condition: {why}")));
            }
        }
        check_names(manifest, &clause, &span)?;
        bounds::check(manifest, &clause, &span)?;
        if !seen.insert(text.clone()) {
            return Err(manifest.source.error(span, "this condition is there twice"));
        }
        clauses.push((clause, span));
    }
    if clauses.is_empty() {
        return Err(manifest
            .source
            .error(spec.place("require"), "`require` is empty: a check without conditions proves nothing"));
    }
    Ok(Body::Gates(clauses))
}

/// Names in a clause that can never be measured or are not there are mistakes of the manifest, not refusals.
fn check_names(manifest: &Manifest, clause: &gate::Clause, span: &std::ops::Range<usize>) -> Result<()> {
    let near = |known: &mut dyn Iterator<Item = &String>, word: &str| {
        nearest(word, known.map(String::as_str)).map(str::to_string)
    };
    for name in &clause.names {
        let (root, rest) = (name[0].as_str(), &name[1..]);
        let (known, near) = match (root, rest.first()) {
            ("params", Some(first)) => (manifest.params.contains_key(first), near(&mut manifest.params.keys(), first)),
            ("declared", Some(first)) => {
                (manifest.declared.contains_key(first), near(&mut manifest.declared.keys(), first))
            }
            // what an earlier version measured may have been another kind's facts
            ("published", _) => (true, None),
            _ => match pages::fact_name(manifest, root, rest).map(|fact| check_fact(manifest, root, &fact)) {
                Some(Err(near)) => (false, near),
                _ => (true, None),
            },
        };
        if !known {
            let error = manifest.source.error(
                span.clone(),
                format!("`{}` in this condition is nothing that is measured or set", name.join(".")),
            );
            return Err(match near {
                Some(near) => error.hint(format!("did you mean `{root}.{near}`?")),
                None => error.hint(format!("`hfbuild explain {root}` lists what it has")),
            });
        }
    }
    Ok(())
}

fn upload(manifest: &Manifest, spec: &Spec) -> Result<Body> {
    let to = target::of_upload(manifest, spec)?;
    let mut files = Vec::new();
    for (path, key_span, artifact, span) in spec.map("files") {
        let checked: Result<RelPath, String> = path.strip_suffix('/').unwrap_or(&path).parse();
        if let Err(why) = checked {
            return Err(manifest
                .source
                .error(key_span, format!("`{}` is no path in the repo: {why}", path.escape_debug())));
        }
        if path == crate::core::plan::RECORD || path == ".gitattributes" {
            return Err(manifest.source.error(key_span, format!("`{path}` is written by hfbuild or by the server")));
        }
        // a Space's README is its settings, checked as such
        if path == "README.md"
            && to.kind != "space"
            && let Some(other) = manifest.artifact(&artifact).filter(|spec| spec.kind != "card")
        {
            let message = format!("`README.md` is the card, and `{artifact}` is of kind `{}`", other.kind);
            return Err(manifest
                .source
                .error(span, message)
                .hint("make it with kind = \"card\": there its figures, links, licence and front matter are checked"));
        }
        let name = artifact.parse().map_err(|why: String| manifest.source.error(span.clone(), why))?;
        files.push((path, key_span, name, span));
    }
    if files.is_empty() {
        return Err(manifest.source.error(spec.place("files"), "`files` is empty: there is nothing to publish"));
    }
    let alone = manifest.uploads().count() == 1;
    let place = if alone { "dist".to_string() } else { format!("dist/{}", spec.name) };
    let dist = spec.text("dist").unwrap_or(&place).parse();
    let dist = dist.map_err(|why: String| manifest.source.error(spec.place("dist"), why))?;
    Ok(Body::Upload(Upload { files, dist, to }))
}
