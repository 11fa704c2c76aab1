"""TinyDiT to ONNX by torch.onnx.export in a Python of its own, for weights.py: `export_peer.py CHECKPOINT.pt OUT.onnx [old]`.

The network is that of tests/python/make_torchscript.py; the size is read off the weights. `old`: the exporter that traces
(dynamo=False), the quicker of torch's two. Needs torch; the newer exporter needs onnxscript too.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
from make_torchscript import TinyDiT  # noqa: E402


def main() -> None:
    source, target, *words = sys.argv[1:]
    saved = torch.load(source, weights_only=True, mmap=True)
    state, config = saved["model"], saved["config"]
    patch = state["patch_embed.proj.weight"].shape[2]
    size = patch * math.isqrt(state["pos_embed"].shape[1])
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    width, hidden = state["pos_embed"].shape[2], state["blocks.0.mlp.fc1.weight"].shape[0]
    model = TinyDiT(size, patch, width, depth, config["num_heads"], hidden, state["breed_embedder.embedding.weight"].shape[0])
    model.load_state_dict(state)
    example = (torch.zeros(2, 3, size, size), torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64))
    names = {"input_names": ["noise", "timestep", "breed"], "output_names": ["velocity"]}
    if words == ["old"]:
        axes = {name: {0: "batch_size"} for name in [*names["input_names"], "velocity"]}
        torch.onnx.export(model.eval(), example, target, opset_version=18, dynamic_axes=axes, dynamo=False, **names)
    else:
        batch = torch.export.Dim("batch_size")
        shapes = {name: {0: batch} for name in names["input_names"]}
        torch.onnx.export(model.eval(), example, target, opset_version=18, dynamic_shapes=shapes, dynamo=True, external_data=False, **names)


if __name__ == "__main__":
    main()
