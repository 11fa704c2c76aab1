//! The embedded runtime: `rten`, on the CPU. It is always there and the same everywhere, so what verifies a graph runs on it.

use super::{Data, Input, Output, Runtime, Session};
use crate::core::error::{Error, OnPath, Result};
use crate::core::runtime::{DeviceKind, RuntimeKind, Used};
use rten::{Model, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// The embedded runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rten {
    /// Threads; `None` takes all physical cores, in a pool that all sessions share.
    pub threads: Option<usize>,
}

/// The version of rten that is built in; a test holds it against Cargo.lock.
pub const RTEN_VERSION: &str = "0.27.0";

impl Runtime for Rten {
    fn name(&self) -> &'static str {
        RuntimeKind::Rten.word()
    }

    fn version(&self) -> String {
        RTEN_VERSION.into()
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Session>> {
        let model = load(path)?;
        let pool = self.threads.map(|threads| Arc::new(ThreadPool::with_num_threads(threads.max(1))));
        Ok(Box::new(RtenSession { model, options: RunOptions::default().with_thread_pool(pool) }))
    }
}

/// rten tells the format by the name's ending: a file named otherwise (a blob, say) is read into memory.
fn load(path: &Path) -> Result<Model> {
    crate::model::magic::sniff(path)?;
    let loaded = if path.extension().is_some_and(|ending| ending == "onnx") {
        // SAFETY: the map is read while loading and running; stages get inputs as read-only files that nobody writes.
        unsafe { Model::load_mmap(path) }
    } else {
        Model::load(std::fs::read(path).on("read", path)?)
    };
    loaded.map_err(|e| Error::stage(format!("rten cannot load `{}`", path.display())).cause(e.to_string()))
}

struct RtenSession {
    model: Model,
    options: RunOptions,
}

impl Session for RtenSession {
    fn run(&mut self, inputs: &[Input<'_>], output: &str) -> Result<Output> {
        let mut values = Vec::with_capacity(inputs.len());
        for input in inputs {
            let id = self.model.node_id(input.name).map_err(|_| absent("input", input.name))?;
            values.push((id, ValueOrView::from(value(input)?)));
        }
        let id = self.model.node_id(output).map_err(|_| absent("output", output))?;
        let failed = |cause: String| Error::stage("rten cannot run the graph").cause(cause);
        let found = self.model.run(values, &[id], Some(self.options.clone())).map_err(|e| failed(e.to_string()))?;
        let found = found.into_iter().next().and_then(|value| value.into_tensor::<f32>());
        let tensor = found.ok_or_else(|| failed(format!("output `{output}` is not f32")))?;
        Ok(Output { shape: tensor.shape().to_vec(), values: tensor.into_data().to_vec() })
    }

    fn used(&self) -> Used {
        let runtime = RuntimeKind::Rten.word().to_string();
        Used { runtime, version: RTEN_VERSION.into(), device: DeviceKind::Cpu, detail: None, instead: None }
    }
}

fn value(input: &Input<'_>) -> Result<Value> {
    let misfit = |cause: String| Error::stage(format!("input `{}` does not fit its shape", input.name)).cause(cause);
    match input.data {
        Data::F32(data) => Value::from_shape(&input.shape, data.to_vec()).map_err(|e| misfit(e.to_string())),
        Data::I64(data) => {
            let narrow = data.iter().map(|&v| i32::try_from(v)).collect::<Result<Vec<_>, _>>();
            let narrow = narrow.map_err(|_| misfit("a number beyond 32 bits, which rten does not take".into()))?;
            Value::from_shape(&input.shape, narrow).map_err(|e| misfit(e.to_string()))
        }
    }
}

pub(super) fn absent(what: &str, name: &str) -> Error {
    Error::stage(format!("the graph has no {what} called `{name}`"))
        .hint("`hfbuild inspect` lists a graph's inputs and outputs")
}
