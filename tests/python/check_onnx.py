#!/usr/bin/env python3
"""onnx's checker, and onnxruntime against expected numbers: `check_onnx.py CASES.json`.

CASES.json: a list of {"graph", "opset", "inputs": {name: array}, "output", "expected": array}. An array is "FILE.npz:KEY" or a
raw little-endian file (i64 where the graph takes int64, else f32) of the case's `shape`, of which an input of one dimension
takes the first. Prints the largest difference of each; above the case's `tolerance`, 1e-5 by default, is a failure. With
`external`, the weights must be in a file of this name beside the graph.
"""

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime

TOLERANCE = 1e-5


def array(given, dtype, shape):
    if ".npz:" in given:
        file, key = given.rsplit(":", 1)
        return np.load(file)[key]
    return np.fromfile(given, dtype).reshape(shape)


cases = json.load(open(sys.argv[1]))
for case in cases:
    graph, shape = case["graph"], case.get("shape")
    onnx.checker.check_model(graph, full_check=True)
    model = onnx.load(graph, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", case["opset"])], model.opset_import
    outside = [{e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data]
    assert {e["location"] for e in outside} == ({case["external"]} if "external" in case else set()), outside[:1]
    assert all(int(e["offset"]) % 64 == 0 for e in outside)
    if outside:
        assert os.path.getsize(graph) < 0.2 * os.path.getsize(os.path.join(os.path.dirname(graph), case["external"]))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feeds = {}
    for port in session.get_inputs():
        dtype = "<i8" if port.type == "tensor(int64)" else "<f4"
        feeds[port.name] = array(case["inputs"][port.name], dtype, shape and shape[: len(port.shape)])
    assert feeds.keys() == case["inputs"].keys(), feeds.keys()
    expected = array(case["expected"], "<f4", shape)
    (got,) = session.run([case["output"]], feeds)
    assert got.dtype == np.float32 and got.shape == expected.shape and np.abs(expected).max() > 0.01, (graph, got.shape)
    difference = float(np.abs(got - expected).max())
    print(f"{graph}: {difference:.1e}")
    assert difference < case.get("tolerance", TOLERANCE), (graph, difference)
print(f"{len(cases)} graphs")
