#!/usr/bin/env python3
"""Noise as src/model/noise.rs documents it, against hfbuild's: `check_noise.py CASES.json`. Exact, not close.

CASES.json: a list of {"seed", "label", "index", "n", "file"}; the file holds n raw little-endian f32.
"""

import json
import sys

import numpy as np


def normals(seed, label, index, n):
    raw = np.random.Philox(key=np.array([seed, label << 32 | index], np.uint64), counter=0).random_raw(n + n % 2)
    u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    r, a = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]
    return np.stack([r * np.cos(a), r * np.sin(a)], axis=1).ravel()[:n].astype(np.float32)


cases = json.load(open(sys.argv[1]))
for case in cases:
    given = np.fromfile(case["file"], "<f4")
    expected = normals(case["seed"], case["label"], case["index"], case["n"])
    assert given.shape == expected.shape == (case["n"],), (case, given.shape)
    assert np.array_equal(given, expected), (case, np.flatnonzero(given != expected)[:5])
print(f"{len(cases)} equal")
