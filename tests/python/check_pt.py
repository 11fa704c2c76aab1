#!/usr/bin/env python3
"""Reads a `.pt` without torch, through zipfile and an unpickler that knows three globals, and compares it with what is
expected: `check_pt.py FILE EXPECTED.json`. Where torch can be imported, `torch.load(weights_only=True)` has to agree;
else that is printed as skipped.

EXPECTED.json: {"values": the dict without tensors, "model": {name: {"shape", "sha256"}}, "ema_params": the same}
"""

import hashlib
import io
import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

path, expected = sys.argv[1], json.load(open(sys.argv[2]))
archive = zipfile.ZipFile(path)
assert archive.testzip() is None  # every checksum
stem = archive.namelist()[0].split("/")[0]
seen = set()


class Storage(str):
    pass


class Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        seen.add(f"{module}.{name}")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if module == "torch" and name.endswith("Storage"):
            return Storage(name)
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid):
        word, kind, key, location, count = pid
        assert (word, kind, location) == ("storage", "FloatStorage", "cpu"), pid
        data = archive.read(f"{stem}/data/{key}")
        assert len(data) == 4 * count
        return data


def rebuild(data, offset, shape, strides, requires_grad, hooks):
    expect, size = [], 1
    for extent in reversed(shape):
        expect.insert(0, size)
        size *= extent
    assert (offset, list(strides), requires_grad, len(hooks)) == (0, expect, False, 0)
    assert len(data) == 4 * size
    return {"shape": list(shape), "sha256": hashlib.sha256(data).hexdigest()}


def aligned(info):
    """Where an entry's bytes begin, by its local header."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return (info.header_offset + 30 + name + extra) % 64 == 0


for info in archive.infolist():
    assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 0, 0, 0, 0, 0) and aligned(info), info
assert archive.read(f"{stem}/version") == b"3\n" and archive.read(f"{stem}/byteorder") == b"little"
saved = Restricted(io.BytesIO(archive.read(f"{stem}/data.pkl"))).load()
assert seen == {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"}, seen
parts = ("model", "ema_params")
for part in parts:
    assert saved[part] == expected[part], part
assert {key: value for key, value in saved.items() if key not in parts} == expected["values"], saved.keys()
print(f"{len(saved['model'])} tensors")

try:
    import torch
except Exception as error:  # not installed, or its libraries are not there
    print(f"torch skipped: {error}")
    sys.exit()
loaded = torch.load(path, weights_only=True, mmap=True)
for part in parts:
    rows = loaded[part] and {
        name: {"shape": list(t.shape), "sha256": hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()}
        for name, t in loaded[part].items()
    }
    assert rows == expected[part], part
assert {key: value for key, value in loaded.items() if key not in parts} == expected["values"]
print(f"torch {torch.__version__} agrees")
