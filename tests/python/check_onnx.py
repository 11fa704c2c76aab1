#!/usr/bin/env python3
"""onnx's checker, and onnxruntime against expected numbers: `check_onnx.py CASES.json`.

CASES.json: a list of {"graph", "opset", "noise", "timestep", "breed", "velocity"}; all but `graph` and `opset` are
"FILE.npz:KEY" or a raw little-endian file of `shape` (f32; i64 for `breed`). Prints the largest difference of each; above 1e-5
is a failure.
"""

import json
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
    model = onnx.load(graph)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", case["opset"])], model.opset_import
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feeds = {
        "noise": array(case["noise"], "<f4", shape),
        "timestep": array(case["timestep"], "<f4", shape and shape[:1]),
        "breed": array(case["breed"], "<i8", shape and shape[:1]),
    }
    expected = array(case["velocity"], "<f4", shape)
    (got,) = session.run(["velocity"], feeds)
    assert got.shape == expected.shape and np.abs(expected).max() > 0.01, (graph, got.shape)
    difference = float(np.abs(got - expected).max())
    print(f"{graph}: {difference:.1e}")
    assert difference < TOLERANCE, (graph, difference)
print(f"{len(cases)} graphs")
