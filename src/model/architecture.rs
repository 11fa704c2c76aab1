//! The networks that hfbuild knows, told apart by the keys of a state dict.
//!
//! One place asks "which network is this?"; each network's own module knows its keys, shapes and formulas. A new network
//! is a variant here.

use super::checkpoint::Settings;
use super::tensor::StateDict;
use super::tinydit::CONFIG_KEY;
use super::{resnet, tinydit};
use crate::core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A known network with its sizes. Written as the JSON of its configuration alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Architecture {
    /// The generator.
    TinyDit(tinydit::Config),
    /// The classifier.
    ResNet18(resnet::Config),
}

impl Architecture {
    /// The network of a state dict; `None` where it is none that hfbuild knows.
    ///
    /// # Errors
    /// It looks like one that hfbuild knows, and a key, a shape or a setting does not fit.
    pub fn infer(dict: &StateDict, settings: &Settings) -> Result<Option<Architecture>> {
        Ok(if tinydit::looks_like(dict) {
            Some(Architecture::TinyDit(tinydit::Config::infer(dict, settings)?))
        } else if resnet::looks_like(dict) {
            Some(Architecture::ResNet18(resnet::Config::infer(dict, settings)?))
        } else {
            None
        })
    }

    /// What the metadata of a safetensors file that hfbuild wrote says; `None` where it says nothing.
    ///
    /// # Errors
    /// It says something that is no configuration.
    pub fn of_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<Architecture>> {
        let Some(json) = metadata.get(CONFIG_KEY) else { return Ok(None) };
        serde_json::from_str(json)
            .map(Some)
            .map_err(|e| Error::stage("the weights' configuration cannot be read").cause(e.to_string()))
    }

    /// The configuration as JSON, for the metadata of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // numbers and strings alone: it cannot fail
    }

    /// The word for facts: `tinydit-v1`, `tinydit-v2`, `resnet18`.
    pub fn name(&self) -> String {
        match self {
            Architecture::TinyDit(config) => format!("tinydit-{}", config.layout.name()),
            Architecture::ResNet18(_) => "resnet18".into(),
        }
    }

    /// The sizes that are facts, under the names that checkpoints use for them.
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        match self {
            Architecture::TinyDit(config) => vec![
                ("image_size", config.image_size),
                ("patch_size", config.patch_size),
                ("channels", config.channels),
                ("num_classes", config.num_classes),
                ("embed_dim", config.embed_dim),
                ("depth", config.depth),
                ("num_heads", config.num_heads),
                ("mlp_dim", config.mlp_dim),
            ],
            Architecture::ResNet18(config) => {
                let mut sizes =
                    vec![("width", config.width), ("channels", config.channels), ("num_classes", config.num_classes)];
                sizes.extend(config.image_size.map(|size| ("image_size", size)));
                sizes
            }
        }
    }
}
