#!/usr/bin/env python3
"""Reads a safetensors file by the official package and compares it with what is expected:
`check_safetensors.py FILE EXPECTED.json`.

EXPECTED.json: {"tensors": {name: {"dtype", "shape", "sha256"}}, "metadata": {name: text}}
"""

import hashlib
import json
import sys

from safetensors import safe_open
from safetensors.numpy import load_file

expected = json.load(open(sys.argv[2]))
tensors = load_file(sys.argv[1])
found = {
    name: {"dtype": str(t.dtype), "shape": list(t.shape), "sha256": hashlib.sha256(t.tobytes()).hexdigest()}
    for name, t in tensors.items()
}
assert found.keys() == expected["tensors"].keys(), found.keys() ^ expected["tensors"].keys()
for name, row in expected["tensors"].items():
    assert found[name] == row, (name, found[name], row)
with safe_open(sys.argv[1], framework="numpy") as file:
    assert file.metadata() == expected["metadata"], file.metadata()
print(f"{len(found)} tensors")
