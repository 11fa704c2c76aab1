//! Which execution provider ran the nodes of a graph, as onnxruntime's profile says it.
//!
//! The profile is a JSON array of Chrome's trace events; one of a node's kernel has a name that ends in `_kernel_time`, and
//! in `args` its provider, its operator and the types of what it gave (onnxruntime, `core/common/profiler_common.h` and
//! `core/framework/sequential_executor.cc`).

use crate::core::error::{Error, Result};
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// What copies between a device and the CPU; it runs on either side.
const COPIES: &[&str] = &["MemcpyFromHost", "MemcpyToHost"];

/// Holds that a graph ran on `provider`: every node that gives numbers. What computes shapes and indices, in integers, a
/// device's provider leaves to the CPU on purpose, where they are needed.
///
/// # Errors
/// It is no profile; none of the graph ran there, or a part of the computation did not; with its operators.
pub fn check(profile: &str, provider: &str) -> Result<()> {
    let failed = |cause: String| Error::stage("cannot read onnxruntime's profile").cause(cause);
    let events: Vec<Json> = serde_json::from_str(profile).map_err(|e| failed(e.to_string()))?;
    let is_kernel = |event: &&Json| event["name"].as_str().is_some_and(|name| name.ends_with("_kernel_time"));
    let kernels = || events.iter().filter(is_kernel).map(|event| &event["args"]);
    let is_own = |args: &&Json| args["provider"].as_str() == Some(provider);
    let foreign = kernels().filter(|args| !is_own(args) && gives_numbers(args));
    let foreign: BTreeSet<&str> = foreign.filter_map(|args| args["op_name"].as_str()).collect();
    let what = match kernels().any(|args| is_own(&args)) {
        false => "none of the graph ran there".to_string(),
        true if foreign.is_empty() => return Ok(()),
        true => format!("these operators ran elsewhere: {}", foreign.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Err(Error::stage(format!("the graph was to run on {provider}, and did not: {what}"))
        .hint("set `device = \"cpu\"`, or export the graph without these operators"))
}

fn gives_numbers(args: &Json) -> bool {
    let types = args["output_type_shape"].as_array().into_iter().flatten().filter_map(Json::as_object);
    let is_float = |name: &String| name.contains("float") || name == "double";
    let is_copy = args["op_name"].as_str().is_some_and(|operator| COPIES.contains(&operator));
    !is_copy && types.flat_map(|one| one.keys()).any(is_float)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &str = "CUDAExecutionProvider";
    const CPU: &str = "CPUExecutionProvider";

    fn profile(kernels: &[(&str, &str, &str)]) -> String {
        let event = |(provider, operator, dtype): &(&str, &str, &str)| {
            let args =
                format!(r#""op_name":"{operator}","provider":"{provider}","output_type_shape":[{{"{dtype}":[2]}}]"#);
            format!(r#"{{"cat":"Node","dur":3,"ts":9,"ph":"X","name":"n_kernel_time","args":{{{args}}}}}"#)
        };
        let session = r#"{"cat":"Session","name":"model_run","args":{}}"#.to_string();
        format!("[{}]", std::iter::once(session).chain(kernels.iter().map(event)).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn a_part_of_the_computation_on_the_cpu_is_seen_and_shapes_and_copies_are_not() {
        let good = [(GPU, "MatMul", "float"), (CPU, "Shape", "int64"), (CPU, "MemcpyToHost", "float")];
        check(&profile(&good), GPU).unwrap();
        let mixed = check(&profile(&[(GPU, "MatMul", "float"), (CPU, "Softmax", "float16")]), GPU).unwrap_err();
        assert!(mixed.message().contains("ran elsewhere: Softmax"), "{}", mixed.message());
        let none = check(&profile(&[(CPU, "MatMul", "float")]), GPU).unwrap_err();
        assert!(none.message().contains("none of the graph ran there"));
        assert!(check("{", GPU).is_err());
    }
}
