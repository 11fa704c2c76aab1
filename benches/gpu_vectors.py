"""The small generator's forward on the reference vectors of the tests, by onnxruntime, for gpu.py: one JSON object.

`max_abs_diff` in f32 is held against a bound, on CUDA TF32 is measured too. Needs numpy and onnxruntime.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from gpu_peer import session

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
BOUND = {"cpu": 1e-5, "cuda": 1e-4}


def differs(device: str, tf32: bool) -> tuple[float, str]:
    """The greatest difference from torch's own numbers, and what ran."""
    made, said = session(ort, str(FIXTURES / "tiny_trained_velocity.onnx"), device, len(os.sched_getaffinity(0)), tf32)
    with np.load(FIXTURES / "tiny_trained_reference.npz") as reference:
        inputs = {name: reference[name] for name in ("noise", "timestep", "breed")}
        found = made.run(["velocity"], inputs)[0]
        return float(np.abs(found - reference["velocity"]).max()), f"onnxruntime {ort.__version__} ({made.get_providers()[0]}{said})"


def main() -> None:
    device = sys.argv[1]
    worst, on = differs(device, False)
    if not worst <= BOUND[device]:
        raise SystemExit(f"{on} differs by {worst:.3g} from the reference, and {BOUND[device]} is allowed")
    found = {"on": on, "max_abs_diff": worst, "bound": BOUND[device]}
    if device == "cuda":
        found["max_abs_diff_tf32"] = differs(device, True)[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
