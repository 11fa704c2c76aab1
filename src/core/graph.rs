//! The graph of artifacts, their shards, gates and uploads, on petgraph.
//!
//! Knows names, edges and places of outputs, and refuses what cannot be built: unknown names, cycles, two makers of one
//! output. Does not know digests, verdicts or what is on disk.

use crate::core::action::{Declaration, Input, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::gate::Clause;
use crate::core::manifest::Hub;
use crate::core::manifest::dom::{Source, join};
use crate::core::name::{ArtifactName, FilePattern, NodeName, RelPath, nearest};
use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// A node by its number: dense, in the order of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Work {
    /// A stage, or one shard of it.
    Stage(Box<Declaration>),
    /// One clause of a `check`.
    Gate(Clause),
    /// A publish.
    Upload(Upload),
}

/// A publish as declared.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Path in the repo (a directory ends in `/`) and the artifact that fills it, with both places in the manifest.
    pub files: Vec<(String, Range<usize>, ArtifactName, Range<usize>)>,
    /// Where the tree is laid out in the project.
    pub dist: RelPath,
    /// Where it goes.
    pub to: Hub,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Where it is declared.
    pub span: Range<usize>,
    /// What it is.
    pub work: Work,
    /// Where its outputs are placed in the project: a path ending in `/` takes every file below it, `""` takes files at
    /// their own paths, anything else takes the one file.
    pub places: Vec<String>,
    /// Whether some upload sends its outputs, so that SHA-256 is wanted.
    pub published: bool,
    /// What must be settled before.
    pub deps: Vec<NodeId>,
    /// Who waits for it.
    pub consumers: Vec<NodeId>,
}

/// What a kind made of one artifact.
#[derive(Debug)]
pub enum Body {
    /// One node.
    One(Box<Declaration>),
    /// A node a shard, by key.
    Family(Vec<(String, Declaration)>),
    /// A node a clause, with the clause's place.
    Gates(Vec<(Clause, Range<usize>)>),
    /// A publish.
    Upload(Upload),
}

/// One artifact, ready for the graph.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: ArtifactName,
    /// Its place.
    pub span: Range<usize>,
    /// What it is.
    pub body: Body,
    /// Order-only dependencies.
    pub after: Vec<(String, Range<usize>)>,
}

/// The graph.
#[derive(Debug)]
pub struct Graph {
    /// Nodes by [`NodeId`].
    pub nodes: Vec<Node>,
    /// The nodes of each artifact, shards in the order of their list.
    pub artifacts: BTreeMap<ArtifactName, Vec<NodeId>>,
    /// Artifacts with `each`.
    pub families: BTreeSet<ArtifactName>,
    by_shard: HashMap<NodeName, NodeId>,
    /// A topological order, stable for the same manifest.
    pub order: Vec<NodeId>,
}

/// Builds the graph; every unknown name and conflict is reported.
pub fn build(parts: Vec<Part>, source: &Source) -> Result<Graph> {
    let mut nodes = Vec::new();
    let mut artifacts: BTreeMap<ArtifactName, Vec<NodeId>> = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut after = BTreeMap::new();
    for part in parts {
        after.insert(part.name.clone(), part.after);
        if matches!(part.body, Body::Family(_)) {
            families.insert(part.name.clone());
        }
        let ids = artifacts.entry(part.name.clone()).or_default();
        let mut add = |key: Option<String>, span: Range<usize>, work: Work| {
            ids.push(NodeId(nodes.len() as u32));
            let name = NodeName { artifact: part.name.clone(), key };
            nodes.push(Node { name, span, work, places: vec![], published: false, deps: vec![], consumers: vec![] });
        };
        match part.body {
            Body::One(declaration) => add(None, part.span.clone(), Work::Stage(declaration)),
            Body::Family(shards) => {
                shards.into_iter().for_each(|(key, d)| add(Some(key), part.span.clone(), Work::Stage(Box::new(d))))
            }
            Body::Gates(clauses) => {
                clauses.into_iter().for_each(|(clause, span)| add(Some(clause.text.clone()), span, Work::Gate(clause)))
            }
            Body::Upload(upload) => add(None, part.span.clone(), Work::Upload(upload)),
        }
    }
    let mut graph = Graph { nodes, artifacts, families, by_shard: HashMap::new(), order: vec![] };
    graph.by_shard = graph.shards();
    graph.connect(&after, source)?;
    graph.place(source)?;
    graph.order = graph.topological(source)?;
    Ok(graph)
}

impl Graph {
    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }
    /// Every node's number.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }
    /// The stage's declaration, if the node is a stage.
    pub fn stage(&self, id: NodeId) -> Option<&Declaration> {
        if let Work::Stage(d) = &self.node(id).work { Some(d) } else { None }
    }
    /// The clause, if the node is a gate.
    pub fn clause(&self, id: NodeId) -> Option<&Clause> {
        if let Work::Gate(clause) = &self.node(id).work { Some(clause) } else { None }
    }
    /// Whether a gate compares with the version that would be replaced.
    pub fn asks_published(&self) -> bool {
        self.ids().any(|id| self.clause(id).is_some_and(Clause::is_about_published))
    }
    /// The publish, if the node is one.
    pub fn upload(&self, id: NodeId) -> Option<&Upload> {
        if let Work::Upload(upload) = &self.node(id).work { Some(upload) } else { None }
    }
    /// Every publish.
    pub fn uploads(&self) -> impl Iterator<Item = (NodeId, &Upload)> {
        self.ids().filter_map(|id| Some((id, self.upload(id)?)))
    }
    /// What a publish is made of and guarded by: all that it needs, but not what it needs only because it waits for
    /// another publish.
    pub fn behind(&self, upload: NodeId) -> Vec<bool> {
        let mut behind = vec![false; self.nodes.len()];
        let mut stack = vec![upload];
        while let Some(id) = stack.pop() {
            if (id == upload || self.upload(id).is_none()) && !std::mem::replace(&mut behind[id.index()], true) {
                stack.extend(&self.node(id).deps);
            }
        }
        behind
    }
    /// The nodes of an artifact.
    pub fn of(&self, artifact: &ArtifactName) -> &[NodeId] {
        self.artifacts.get(artifact).map_or(&[], Vec::as_slice)
    }

    /// The nodes that a word of the command line names (`samples`, `samples[Siamese]`), with a suggestion where none is.
    pub fn find(&self, word: &str) -> Result<Vec<NodeId>> {
        let known = || {
            let names: Vec<_> = self.artifacts.keys().map(|k| format!("`{k}`")).collect();
            format!("artifacts: {}", names.join(", "))
        };
        let artifact = word.split('[').next().unwrap_or(word);
        let Some((name, ids)) = self.artifacts.get_key_value(artifact) else {
            let error = Error::new(
                crate::core::error::ErrorKind::Usage,
                format!("no artifact is called `{}`", artifact.escape_debug()),
            );
            return Err(match nearest(artifact, self.artifacts.keys().map(ArtifactName::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(known()),
            });
        };
        if artifact == word {
            return Ok(ids.clone());
        }
        let hit: Vec<_> = ids.iter().copied().filter(|id| self.node(*id).name.to_string() == word).collect();
        if hit.is_empty() {
            let asked = word[artifact.len()..].trim_start_matches('[').trim_end_matches(']');
            let keys: Vec<_> = ids.iter().filter_map(|id| self.node(*id).name.key.clone()).collect();
            let error = Error::new(
                crate::core::error::ErrorKind::Usage,
                format!("`{name}` has no shard `{}`", asked.escape_debug()),
            );
            return Err(error.hint(match nearest(asked, keys.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{name}[{near}]`?"),
                None if keys.is_empty() => format!("`{name}` is one node"),
                None if keys.len() > SHOWN => format!("{} shards: {}, ...", keys.len(), keys[..SHOWN].join(", ")),
                None => format!("shards: {}", keys.join(", ")),
            }));
        }
        Ok(hit)
    }

    /// The nodes given and all that they depend on.
    pub fn closure(&self, targets: &[NodeId]) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        let mut stack = targets.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut wanted[id.index()], true) {
                stack.extend(&self.node(id).deps);
            }
        }
        wanted
    }

    fn connect(&mut self, after: &BTreeMap<ArtifactName, Vec<(String, Range<usize>)>>, source: &Source) -> Result<()> {
        let mut problems = Vec::new();
        let mut edges = Vec::new();
        for id in self.ids() {
            for (word, span, role) in self.mentions(id, after) {
                if let Ok(name @ NodeName { key: Some(_), .. }) = word.parse::<NodeName>() {
                    match self.by_shard.get(&name) {
                        Some(dep) => edges.push((*dep, id)),
                        None => problems.push(self.unknown_shard(id, &name, span, source)),
                    }
                    continue;
                }
                match self.artifacts.get(word.as_str()) {
                    Some(ids) => match self.refusal(id, &word, role) {
                        Some(why) => problems.push(source.error(span, why)),
                        None => edges.extend(ids.iter().map(|dep| (*dep, id))),
                    },
                    None => problems.push(self.unknown(id, &word, span, source)),
                }
            }
        }
        if !problems.is_empty() {
            let mut told = HashSet::new(); // every shard of an artifact says the same
            problems.retain(|p| told.insert((p.message().to_string(), p.place().map(|p| p.start))));
            return Err(join(problems));
        }
        edges.sort_unstable();
        edges.dedup();
        for (dep, id) in edges {
            self.nodes[id.index()].deps.push(dep);
            self.nodes[dep.index()].consumers.push(id);
        }
        Ok(())
    }

    /// Every artifact that a node mentions, with the place and what for.
    fn mentions(
        &self,
        id: NodeId,
        after: &BTreeMap<ArtifactName, Vec<(String, Range<usize>)>>,
    ) -> Vec<(String, Range<usize>, Role)> {
        let node = self.node(id);
        let mut all: Vec<(String, Range<usize>, Role)> = Vec::new();
        match &node.work {
            Work::Stage(d) => {
                for input in &d.inputs {
                    match &input.from {
                        InputFrom::Artifact(name) => all.push((name.to_string(), input.span.clone(), Role::Data)),
                        InputFrom::Shard(name) => all.push((name.to_string(), input.span.clone(), Role::Data)),
                        InputFrom::File(_) | InputFrom::Files(_) => {}
                    }
                }
                all.extend(d.facts.iter().map(|(name, _, span)| (name.to_string(), span.clone(), Role::Facts)));
            }
            Work::Gate(clause) => {
                all.extend(clause.artifacts().map(|root| (root.clone(), node.span.clone(), Role::Facts)));
            }
            Work::Upload(upload) => {
                all.extend(upload.files.iter().map(|(_, _, name, span)| (name.to_string(), span.clone(), Role::Data)));
            }
        }
        let order = after.get(&node.name.artifact).map_or(&[][..], Vec::as_slice);
        all.extend(order.iter().map(|(name, span)| (name.clone(), span.clone(), Role::Order)));
        all
    }

    /// Why `id` may not take `word` for `role`, if it may not.
    fn refusal(&self, id: NodeId, word: &str, role: Role) -> Option<String> {
        let maker = self.artifacts.get(word).and_then(|ids| ids.first())?;
        let what = match (&self.node(*maker).work, role) {
            (Work::Gate(_), Role::Data | Role::Facts) => "is a `check`, which has a verdict and no output: use `after`",
            (Work::Upload(_), Role::Data | Role::Facts) => "is an `upload`, which has no output: use `after`",
            _ => return None,
        };
        Some(format!("artifact `{}` reads `{word}`, which {what}", self.node(id).name.artifact))
    }

    fn shards(&self) -> HashMap<NodeName, NodeId> {
        let ids = self.families.iter().flat_map(|artifact| self.of(artifact));
        ids.map(|id| (self.node(*id).name.clone(), *id)).collect()
    }

    /// The node of one shard.
    pub fn shard(&self, name: &NodeName) -> Option<NodeId> {
        self.by_shard.get(name).copied()
    }

    fn unknown_shard(&self, id: NodeId, name: &NodeName, span: Range<usize>, source: &Source) -> Error {
        let (reader, artifact) = (&self.node(id).name.artifact, &name.artifact);
        let error =
            source.error(span, format!("artifact `{reader}` reads `{name}`, which is no shard of `{artifact}`"));
        let keys = self.of(artifact).iter().filter_map(|id| self.node(*id).name.key.as_deref());
        match nearest(name.key.as_deref().unwrap_or_default(), keys) {
            Some(near) => error.hint(format!("did you mean `{artifact}[{near}]`?")),
            None if self.families.contains(artifact) => error.hint("shards are named by the items of its `each`"),
            None => error.hint(format!("`{artifact}` has no `each`: name it as a whole")),
        }
    }

    fn unknown(&self, id: NodeId, word: &str, span: Range<usize>, source: &Source) -> Error {
        let error = source.error(
            span,
            format!("artifact `{}` reads `{}`, which nothing makes", self.node(id).name.artifact, word.escape_debug()),
        );
        match nearest(word, self.artifacts.keys().map(ArtifactName::as_str)) {
            Some(near) => error.hint(format!("did you mean artifact `{near}`?")),
            None => error.hint(format!("add [artifact.{word}], or name one that is there")),
        }
    }

    /// Fills in where outputs are placed, and refuses two makers of one place.
    fn place(&mut self, source: &Source) -> Result<()> {
        let uploads: Vec<Upload> = self
            .nodes
            .iter()
            .filter_map(|n| if let Work::Upload(u) = &n.work { Some(u.clone()) } else { None })
            .collect();
        let mut problems = Vec::new();
        for upload in &uploads {
            for (path, span, artifact, _) in &upload.files {
                for id in self.of(artifact).to_vec() {
                    match self.place_in(id, path, upload) {
                        Ok(place) => {
                            let node = &mut self.nodes[id.index()];
                            node.published = true;
                            node.places.push(place);
                        }
                        Err(why) => {
                            problems.push(source.error(span.clone(), why));
                            break;
                        }
                    }
                }
            }
        }
        let mut places: Vec<(String, NodeId)> = Vec::new();
        for id in self.ids() {
            let node = &mut self.nodes[id.index()];
            if let Work::Stage(d) = &node.work
                && let Shape::Paths(paths) = &d.shape
            {
                places.extend(paths.iter().map(|p| (p.clone(), id)));
                node.places.push(String::new());
            }
            places.extend(node.places.iter().filter(|p| !p.is_empty()).map(|p| (p.clone(), id)));
        }
        self.conflicts(places, source, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
    }

    fn place_in(&self, id: NodeId, path: &str, upload: &Upload) -> Result<String, String> {
        let Some(d) = self.stage(id) else { return Err("only a stage's output can be published".into()) };
        let name = &self.node(id).name.artifact;
        if self.families.contains(name) && !path.ends_with('/') {
            return Err(format!("`{name}` has shards: publish it under a directory, `\"{path}/\"`"));
        }
        let place = match &d.shape {
            shape @ Shape::File(_) => repo_place(shape, path),
            Shape::Paths(paths) if paths.len() == 1 && !paths[0].ends_with('/') && !path.ends_with('/') => {
                path.to_string()
            }
            _ if path.ends_with('/') => path.to_string(),
            _ => return Err(format!("`{name}` makes several files: publish it under a directory, `\"{path}/\"`")),
        };
        Ok(format!("{}/{place}", upload.dist))
    }

    fn conflicts(&self, places: Vec<(String, NodeId)>, source: &Source, problems: &mut Vec<Error>) {
        let mut exact: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut folded: BTreeMap<String, (&str, NodeId)> = BTreeMap::new();
        for (place, id) in &places {
            let (path, artifact) = (place.trim_end_matches('/'), &self.node(*id).name.artifact);
            let other = exact.insert(path, *id).filter(|other| self.node(*other).name.artifact != *artifact);
            let two = self.node(*id);
            if let Some(other) = other {
                let message = format!("`{}` and `{artifact}` both make `{path}`", self.node(other).name.artifact);
                problems.push(source.error(two.span.clone(), message).hint("two artifacts cannot make one output"));
            } else if let Some((near, other)) =
                folded.insert(path.to_lowercase(), (path, *id)).filter(|(p, _)| *p != path)
            {
                let message = format!(
                    "`{near}` (of `{}`) and `{path}` are one file where case does not matter",
                    self.node(other).name
                );
                problems.push(
                    source.error(two.span.clone(), message).hint("give them names that differ in more than case"),
                );
            }
        }
        self.overwrites(&exact, source, problems);
        for (path, id) in &exact {
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
            for (parent, other) in parents.filter_map(|p| exact.get_key_value(p)) {
                let (node, outer) = (self.node(*id), self.node(*other));
                let message = format!("`{}` makes `{path}` inside `{parent}`, which `{}` makes", node.name, outer.name);
                problems.push(source.error(node.span.clone(), message).hint("give them places side by side"));
            }
        }
    }

    /// Outputs that would stand where the project keeps what is not made: its manifest, the store, git, a source.
    fn overwrites(&self, exact: &BTreeMap<&str, NodeId>, source: &Source, problems: &mut Vec<Error>) {
        let kept = |path: &str| KEPT.iter().any(|k| path == *k || path.starts_with(&format!("{k}/")));
        for (path, id) in exact.iter().filter(|(path, _)| kept(path)) {
            let node = self.node(*id);
            let message = format!("`{}` would make `{path}`, which is not for stages to write", node.name.artifact);
            problems.push(source.error(node.span.clone(), message).hint("give it another place"));
        }
        let dists: Vec<&RelPath> = self
            .nodes
            .iter()
            .filter_map(|n| if let Work::Upload(u) = &n.work { Some(&u.dist) } else { None })
            .collect();
        for id in self.ids() {
            for input in self.stage(id).map(|d| d.inputs.as_slice()).unwrap_or_default() {
                if let InputFrom::Files(pattern) = &input.from {
                    problems.extend(self.covers(id, pattern, input, exact, source));
                }
                let InputFrom::File(file) = &input.from else { continue };
                if let Some(dist) = dists.iter().find(|dist| file.is_within(dist.as_str())) {
                    let reader = &self.node(id).name.artifact;
                    let message =
                        format!("artifact `{reader}` reads `{file}`, and the published tree is laid out in `{dist}`");
                    problems.push(
                        source
                            .error(input.span.clone(), message)
                            .hint("keep sources elsewhere, or set another `dist` in the upload"),
                    );
                    continue;
                }
                let path = file.as_str();
                let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
                let Some((place, maker)) = parents.chain([path]).find_map(|p| exact.get_key_value(p)) else { continue };
                let (maker, reader) = (&self.node(*maker).name.artifact, &self.node(id).name.artifact);
                let message =
                    format!("artifact `{reader}` reads the file `{path}`, and artifact `{maker}` makes `{place}`");
                problems.push(source.error(input.span.clone(), message).hint(match maker == reader {
                    true => "a stage cannot make what it reads: give the output another name".to_string(),
                    false => format!("name the artifact, `{maker}`, in place of the file"),
                }));
            }
        }
    }

    /// A directory or glob that lies over what a stage makes would see it or not, as the order falls.
    fn covers(
        &self,
        reader: NodeId,
        pattern: &FilePattern,
        input: &Input,
        exact: &BTreeMap<&str, NodeId>,
        source: &Source,
    ) -> Option<Error> {
        let within = |path: &str, base: &str| base.is_empty() || path == base || path.starts_with(&format!("{base}/"));
        let dir = pattern.as_str().ends_with('/');
        let (place, maker) = exact.iter().find(|(path, _)| {
            let inside = within(path, pattern.base()) && dir;
            inside || within(pattern.base(), path)
        })?;
        let (reader, maker) = (&self.node(reader).name.artifact, &self.node(*maker).name.artifact);
        let message = format!("artifact `{reader}` reads `{pattern}`, and artifact `{maker}` makes `{place}` there");
        Some(
            source
                .error(input.span.clone(), message)
                .hint(format!("name the artifact, `{maker}`, as an input of its own")),
        )
    }

    fn topological(&self, source: &Source) -> Result<Vec<NodeId>> {
        let mut graph: DiGraph<NodeId, ()> = DiGraph::with_capacity(self.nodes.len(), self.nodes.len());
        self.ids().for_each(|id| {
            graph.add_node(id);
        });
        for id in self.ids() {
            for dep in &self.node(id).deps {
                graph.add_edge(NodeIndex::new(dep.index()), NodeIndex::new(id.index()), ());
            }
        }
        match toposort(&graph, None) {
            Ok(order) => Ok(order.into_iter().map(|i| graph[i]).collect()),
            Err(_) => Err(self.cycle(&graph, source)),
        }
    }

    fn cycle(&self, graph: &DiGraph<NodeId, ()>, source: &Source) -> Error {
        let is_cycle = |group: &Vec<NodeIndex>| group.len() > 1 || graph.contains_edge(group[0], group[0]);
        let mut groups: Vec<_> = kosaraju_scc(graph).into_iter().filter(is_cycle).collect();
        groups.sort_by_key(|g| g.iter().min().copied());
        let Some(group) = groups.first() else { return Error::bug("a cycle without members") };
        let members: BTreeSet<NodeId> = group.iter().map(|i| graph[*i]).collect();
        let mut path = vec![*members.first().unwrap_or(&NodeId(0))];
        loop {
            let here = path[path.len() - 1];
            let Some(next) = self.node(here).deps.iter().find(|d| members.contains(d)) else { break };
            if let Some(start) = path.iter().position(|p| p == next) {
                path.drain(..start);
                path.push(*next);
                break;
            }
            path.push(*next);
        }
        let mut names: Vec<_> = path.iter().map(|id| format!("`{}`", self.node(*id).name.artifact)).collect();
        if names.len() > 8 {
            let more = names.len() - 7;
            names.splice(4..names.len() - 3, [format!("({more} more)")]);
        }
        source
            .error(self.node(path[0]).span.clone(), format!("a cycle: {}", names.join(" needs ")))
            .hint("an artifact cannot depend on itself: take one of these edges out")
    }
}

/// How many shards a hint names.
const SHOWN: usize = 10;

/// What stages never write.
const KEPT: [&str; 3] = ["publish.toml", "cache", ".git"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Facts,
    Order,
}

/// Where an output file of `path` is placed under `place` (see [`Node::places`]).
pub fn placed_path(place: &str, path: &str) -> String {
    match place {
        "" => path.to_string(),
        dir if dir.ends_with('/') => format!("{dir}{path}"),
        file => file.to_string(),
    }
}

/// Where an artifact's output stands in a repo that names it under `path`: a single file published under a directory
/// keeps its name.
pub fn repo_place(shape: &Shape, path: &str) -> String {
    match shape {
        Shape::File(name) if path.ends_with('/') => format!("{path}{name}"),
        _ => path.to_string(),
    }
}
