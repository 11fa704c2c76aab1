//! Verifying a publish: every file by the digest that the Hub lists or, in full, of the bytes that it hands out; and what
//! the repository's page says of it.
//!
//! Knows what was published from [`crate::exec::baseline`]. Prints nothing and changes nothing.

use crate::core::error::{Error, Result};
use crate::core::facts::FactSet;
use crate::core::graph::{Upload, Work};
use crate::core::past::Comparison;
use crate::core::publish::{Drifted, Published};
use crate::core::record;
use crate::core::replaced::Replaced;
use crate::exec::baseline::{Baseline, Seen};
use crate::exec::project::Project;
use crate::exec::remote::Remote;
use crate::hub::client::Page;
use crate::store::blobs::Blobs;
use futures_util::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use yaml_rust2::{Yaml, YamlLoader};

/// So many downloads run at once.
const AT_ONCE: usize = 4;
/// What the Hub counts the parameters of.
const WEIGHTS: &str = "model.safetensors";
/// A card beyond this is none.
const CARD: u64 = 1 << 20;

/// One thing that the page should say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    /// `library_name`, `pipeline_tag`, `tags`, `parameters`.
    pub name: &'static str,
    /// As it was published; of tags those that the page has to have.
    pub published: String,
    /// As the page says it; of tags those that are missing. `None`: this hub does not say.
    pub page: Option<String>,
    /// Whether both agree; a hub that does not say is no contradiction.
    pub holds: bool,
}

/// How far a full verification is: bytes done, bytes in all.
pub type Progress<'p> = &'p (dyn Fn(u64, u64) + Send + Sync);

/// What a full verification found beyond the listing.
#[derive(Debug, Default)]
pub struct Downloaded {
    /// Files that were read to their end, and the bytes of all that came.
    pub files: usize,
    /// See `files`.
    pub bytes: u64,
    /// Files that the hub lists with the right digest, and hands out otherwise or not at all.
    pub damaged: Vec<String>,
    /// Files that could not be read, each with the reason: it is not known what they are.
    pub unread: Vec<(String, Error)>,
}

/// Files in a row that could not be read after which no more are asked for: the hub is gone, or refuses all.
const IN_A_ROW: usize = 16;

/// Downloads every file of the baseline that the listing has right, and hashes it. What came out otherwise, and what could
/// not be read, is no longer among what is as it was published.
pub async fn download_all(
    remote: &Remote,
    head: &str,
    baseline: &Baseline,
    comparison: &mut Comparison,
    progress: Progress<'_>,
) -> Downloaded {
    let wrong: BTreeSet<&str> = comparison.drifted.iter().filter_map(Drifted::path).collect();
    let files: Vec<_> = baseline.files.iter().filter(|(path, _)| !wrong.contains(path.as_str())).collect();
    let total = files.iter().map(|(_, file)| file.size).sum();
    let done = AtomicU64::new(0);
    let tick = |n: u64| progress(done.fetch_add(n, Ordering::Relaxed) + n, total);
    let failed = AtomicUsize::new(0);
    let reads = files.iter().map(|(path, file)| {
        let (tick, failed) = (&tick, &failed);
        async move {
            if failed.load(Ordering::Relaxed) >= IN_A_ROW {
                return (*path, Err(Error::hub(format!("not asked for, after {IN_A_ROW} that could not be read"))));
            }
            let found = remote.client.hash_file(&remote.repo, head, path, file.size, tick).await;
            match found.is_ok() {
                true => failed.store(0, Ordering::Relaxed),
                false => drop(failed.fetch_add(1, Ordering::Relaxed)),
            }
            (*path, found)
        }
    });
    let reads: Vec<_> = reads.collect(); // a stream of closures that borrow cannot be sent between threads
    let read: BTreeMap<_, _> = futures_util::stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
    let mut out = Downloaded::default();
    for (path, found) in read {
        let file = &baseline.files[path];
        if let Ok(Some(found)) = &found {
            out.files += 1;
            out.bytes += found.size;
        }
        match found {
            Ok(Some(found)) if found.sha256 == file.hub.sha256 && found.size == file.size => continue,
            Ok(_) => out.damaged.push(path.clone()),
            Err(error) => out.unread.push((path.clone(), error)),
        }
        comparison.same -= 1;
        comparison.bytes = comparison.bytes.saturating_sub(file.size);
    }
    out
}

/// Holds the page against what was published: the card's front matter, and the parameters that were measured.
pub async fn page(
    project: &Project,
    upload: &Upload,
    remote: &Remote,
    seen: &Seen,
    receipt: Option<&Published>,
    blobs: &Blobs,
) -> Result<Vec<Claim>> {
    let (Some(head), Some(baseline)) = (&seen.head, &seen.baseline) else { return Ok(vec![]) };
    let card = published_card(remote, baseline, receipt, blobs).await?.unwrap_or_default();
    let parameters = parameters(project, upload, baseline);
    let shown = remote.client.page_of(&remote.repo, &head.sha).await?;
    Ok(claims(&card, parameters, &shown, remote.target.kind == "model"))
}

/// The card as it was published: from the store, else from the publish's own commit.
async fn published_card(
    remote: &Remote,
    baseline: &Baseline,
    receipt: Option<&Published>,
    blobs: &Blobs,
) -> Result<Option<String>> {
    const NAME: &str = "README.md";
    let Some(file) = baseline.files.get(NAME).filter(|file| file.size <= CARD) else { return Ok(None) };
    let kept = receipt.and_then(|p| p.tree.get(NAME)).filter(|f| f.hub.sha256 == file.hub.sha256);
    let bytes = match kept.map(|f| blobs.read(&f.digest)).transpose()?.flatten() {
        Some(bytes) => Some(bytes),
        None => {
            let revision = baseline.commit.as_deref().unwrap_or(&remote.target.revision);
            remote.client.download_small(&remote.repo, revision, NAME).await?
        }
    };
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The fact of the artifact that is published as `model.safetensors`.
fn parameters(project: &Project, upload: &Upload, baseline: &Baseline) -> Option<u64> {
    let artifact = upload.files.iter().find(|(path, ..)| path == WEIGHTS).map(|(_, _, artifact, _)| artifact)?;
    let is_weights = |id: &_| matches!(&project.graph.node(*id).work, Work::Stage(d) if d.kind == "safetensors");
    project.graph.of(artifact).iter().any(is_weights).then_some(())?;
    let Replaced::Version(facts) = record::version(baseline.record.as_ref()?).0 else { return None };
    let FactSet::One(facts) = facts.get(artifact)? else { return None };
    u64::try_from(facts.get("parameters")?.as_int()?).ok()
}

/// Holds a card's front matter and a parameter count against a page.
fn claims(card: &str, parameters: Option<u64>, page: &Page, is_model: bool) -> Vec<Claim> {
    let front = front_matter(card).unwrap_or(Yaml::BadValue);
    let text = |key: &str| front[key].as_str().map(String::from);
    let mut out = Vec::new();
    let mut equal = |name, published: Option<String>, page: Option<String>, silent: bool| {
        let Some(published) = published else { return };
        let holds = page.as_ref().map_or(silent, |page| *page == published);
        out.push(Claim { name, published, page, holds });
    };
    // a hub that shows tags and no library contradicts a card that has one; one that shows neither says nothing
    let silent = page.tags.is_none();
    if is_model {
        equal("library_name", text("library_name"), page.library_name.clone(), silent);
        equal("pipeline_tag", text("pipeline_tag"), page.pipeline_tag.clone(), silent);
        let total = page.safetensors.as_ref().and_then(|s| s.total);
        equal("parameters", parameters.map(|n| n.to_string()), total.map(|n| n.to_string()), true);
    }
    let mut tags: Vec<String> =
        front["tags"].as_vec().into_iter().flatten().filter_map(Yaml::as_str).map(String::from).collect();
    tags.extend(text("license").map(|license| format!("license:{license}")));
    if !tags.is_empty() {
        let missing = page.tags.as_ref().map(|there| {
            let missing: Vec<_> = tags.iter().filter(|tag| !there.contains(tag)).cloned().collect();
            missing.join(", ")
        });
        let holds = missing.as_ref().is_none_or(String::is_empty);
        out.push(Claim { name: "tags", published: tags.join(", "), page: missing, holds });
    }
    out
}

/// The front matter of a card, where there is one that can be read.
fn front_matter(card: &str) -> Option<Yaml> {
    let rest = card.strip_prefix("---\n").or_else(|| card.strip_prefix("---\r\n"))?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return YamlLoader::load_from_str(&rest[..end]).ok()?.into_iter().next();
        }
        end += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::client::Safetensors;

    const CARD: &str =
        "---\nlibrary_name: pytorch\npipeline_tag: text-to-image\nlicense: mit\ntags:\n- cats\n- tiny\n---\n# Cats\n";

    fn page() -> Page {
        Page {
            library_name: Some("pytorch".into()),
            pipeline_tag: Some("text-to-image".into()),
            tags: Some(["cats", "tiny", "license:mit", "region:us"].map(String::from).into()),
            safetensors: Some(Safetensors { total: Some(7) }),
        }
    }

    fn broken(page: &Page) -> Vec<&'static str> {
        let claims = claims(CARD, Some(7), page, true);
        assert_eq!(claims.len(), 4);
        claims.into_iter().filter(|c| !c.holds).map(|c| c.name).collect()
    }

    #[test]
    fn a_page_that_says_what_was_published() {
        assert!(broken(&page()).is_empty());
        assert_eq!(broken(&Page::default()), Vec::<&str>::new(), "a hub that says nothing contradicts nothing");
    }

    #[test]
    fn a_page_that_says_something_else() {
        assert_eq!(broken(&Page { library_name: None, ..page() }), ["library_name"]);
        assert_eq!(broken(&Page { pipeline_tag: Some("other".into()), ..page() }), ["pipeline_tag"]);
        assert_eq!(broken(&Page { safetensors: Some(Safetensors { total: Some(8) }), ..page() }), ["parameters"]);
        assert_eq!(broken(&Page { tags: Some(vec!["cats".into(), "license:mit".into()]), ..page() }), ["tags"]);
    }

    #[test]
    fn a_card_without_front_matter_claims_nothing() {
        for card in ["", "# Cats", "---\nlicense: mit", "---\n- a\n---\n"] {
            assert!(claims(card, None, &page(), true).is_empty(), "{card:?}");
        }
    }
}
