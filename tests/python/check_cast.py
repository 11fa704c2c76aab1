#!/usr/bin/env python3
"""Compares a folder of cast safetensors shards with the fp32 file that they were cast from, by numpy and bit arithmetic:
`check_cast.py FP32.safetensors FOLDER fp16|bf16 MAX_SHARD`. Prints the number of shards and both errors."""

import json
import struct
import sys
from pathlib import Path

import numpy as np


def read(path):
    data = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    raw = {n: data[8 + size + h["data_offsets"][0] : 8 + size + h["data_offsets"][1]] for n, h in header.items()}
    return raw, header


def bf16(values):
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


full, folder, kind, limit = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
index = json.loads((folder / "model.safetensors.index.json").read_text())
text = json.dumps(index, indent=2, sort_keys=True) + "\n"
assert (folder / "model.safetensors.index.json").read_text() == text, "as huggingface_hub writes it"
shards = sorted(set(index["weight_map"].values()))
assert shards == [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))] and len(shards) > 1
assert sorted(p.name for p in folder.iterdir()) == shards + ["model.safetensors.index.json"]
found, header = {}, {}
for shard in shards:
    raw, rows = read(folder / shard)
    assert all(index["weight_map"][name] == shard for name in raw)
    assert sum(map(len, raw.values())) <= limit or len(raw) == 1
    found.update(raw)
    header.update(rows)
source, shapes = read(full)
assert found.keys() == source.keys() == index["weight_map"].keys()
assert sum(map(len, found.values())) == index["metadata"]["total_size"]
absolute = relative = 0.0
for name, data in source.items():
    assert header[name]["dtype"] == {"fp16": "F16", "bf16": "BF16"}[kind] and header[name]["shape"] == shapes[name]["shape"]
    values = np.frombuffer(data, "<f4")
    if kind == "fp16":
        want = values.astype(np.float16)
        back = want.astype(np.float64)
    else:
        want = bf16(values)
        back = (want.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    assert want.tobytes() == found[name], name
    error = np.abs(back - values.astype(np.float64))
    absolute = max(absolute, float(error.max()))
    some = values != 0
    if some.any():
        relative = max(relative, float((error[some] / np.abs(values[some].astype(np.float64))).max()))
try:
    from huggingface_hub import split_torch_state_dict_into_shards as _  # needs torch for its own tensors
    from huggingface_hub.serialization._base import split_state_dict_into_shards_factory as split
except ImportError as error:
    sys.exit(f"huggingface_hub: {error}")
plan = split(
    {name: found[name] for name in sorted(found)},
    get_storage_size=len,
    get_storage_id=lambda _: None,
    filename_pattern="model{suffix}.safetensors",
    max_shard_size=limit,
)
assert plan.tensor_to_filename == index["weight_map"], "huggingface_hub splits in another way"
print(json.dumps({"shards": len(shards), "absolute": absolute, "relative": relative}))
