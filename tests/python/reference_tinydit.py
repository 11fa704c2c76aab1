#!/usr/bin/env python3
"""TinyDiT, layouts v1 and v2, in numpy, float64 inside: an oracle that shares no code with hfbuild, ONNX or torch.

    reference_tinydit.py check STATE.safetensors REFERENCE.npz     largest difference from torch's numbers; 1 above 1e-4
    reference_tinydit.py velocity STATE.safetensors HEADS SIDE INPUTS OUT [SCALE]    of raw little-endian files; see run_velocity
    reference_tinydit.py facts CHECKPOINT.pt                       what the file holds, as JSON
    reference_tinydit.py sample CHECKPOINT.pt GRID.png [options]   a row a label, with hfbuild's noise and sampler
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import make_checkpoint  # noqa: E402


def state_of(saved, weights):
    tensors = saved["ema_params"] if weights == "ema" and saved["ema_params"] else saved["model"]
    return {name: np.frombuffer(t.load(), "<f4").reshape(t.shape).astype(np.float64) for name, t in tensors.items()}


ERF_X = np.linspace(-6.0, 6.0, 1_000_001)
ERF_Y = np.array([math.erf(x) for x in ERF_X])


def erf(x):
    """By a dense table: within 1e-10, and a hundred times faster than math.erf one by one."""
    return np.interp(x, ERF_X, ERF_Y).astype(x.dtype)


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * weight + bias


class TinyDiT:
    def __init__(self, state, heads):
        self.state, self.heads = state, heads
        self.width, _, self.patch, _ = state["patch_embed.proj.weight"].shape
        # v1 has no positional embedding, takes t as it is, and leaves its patches interleaved
        self.older = "pos_embed" not in state
        self.depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))

    def linear(self, name, x):
        y = x @ self.state[f"{name}.weight"].T
        return y + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else y

    def norm(self, name, x, shift, scale):
        y = layer_norm(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
        return y * (1 + scale[:, None]) + shift[:, None]

    def condition(self, t, y):
        angles = (1.0 if self.older else 1000.0) * t[:, None] * np.exp(-math.log(10000.0) * np.arange(128) / 128)
        hidden = self.linear("t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)], -1))
        hidden = hidden / (1 + np.exp(-hidden))
        return self.linear("t_embedder.mlp.2", hidden) + self.state["breed_embedder.embedding.weight"][y]

    def attention(self, name, x):
        batch, tokens, _ = x.shape
        qkv = self.linear(f"{name}.qkv", x).reshape(batch, tokens, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].swapaxes(-1, -2) * qkv[0].shape[-1] ** -0.5
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ qkv[2]
        return self.linear(f"{name}.proj", mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, -1))

    def mlp(self, name, x):
        hidden = self.linear(f"{name}.fc1", x)
        return self.linear(f"{name}.fc2", 0.5 * hidden * (1 + erf(hidden / math.sqrt(2))))

    def velocity(self, x, t, y):
        batch, channels, height, width = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        patches = x.reshape(batch, channels, rows, p, columns, p).transpose(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, rows * columns, -1)
        kernel = self.state["patch_embed.proj.weight"].reshape(self.width, -1)
        tokens = patches @ kernel.T + self.state["patch_embed.proj.bias"]
        if not self.older:
            tokens = tokens + self.state["pos_embed"]
        c = self.condition(t, y)
        c = c / (1 + np.exp(-c))
        for block in (f"blocks.{index}" for index in range(self.depth)):
            m = np.split(self.linear(f"{block}.adaLN_modulation.1", c), 6, -1)
            tokens = tokens + m[2][:, None] * self.attention(f"{block}.attn", self.norm(f"{block}.norm1", tokens, m[0], m[1]))
            tokens = tokens + m[5][:, None] * self.mlp(f"{block}.mlp", self.norm(f"{block}.norm2", tokens, m[3], m[4]))
        shift, scale = np.split(self.linear("final_layer.adaLN_modulation.1", c), 2, -1)
        out = self.linear("final_layer.linear", self.norm("final_layer.norm_final", tokens, shift, scale))
        if self.older:
            return out.transpose(0, 2, 1).reshape(batch, channels, height, width)
        out = out.reshape(batch, rows, columns, p, p, channels).transpose(0, 5, 1, 3, 2, 4)
        return out.reshape(batch, channels, height, width)


def noise(seed, label, index, shape):
    """Philox by (seed, label, index), Box-Muller over consecutive pairs: the same numbers in Rust and in inference.py."""
    bits = np.random.Philox(key=np.array([seed, (label << 32) | index], np.uint64), counter=0)
    raw = bits.random_raw(math.prod(shape))
    u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(u[0::2])), 2.0 * math.pi * u[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).astype(np.float32).reshape(shape)


def sample(model, config, label, count, steps, guidance, seed):
    shape = (3, config["image_size"], config["image_size"])
    x = np.stack([noise(seed, label, index, shape) for index in range(count)]).astype(np.float64)
    y = np.array([label] * count + [config["num_classes"]] * count)
    for step in range(steps):
        v = model.velocity(np.concatenate([x, x]), np.full(2 * count, step / steps), y)
        x = x + (v[count:] + guidance * (v[:count] - v[count:])) / steps
    return np.clip(x * 127.5 + 127.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def neighbour_correlation(pictures):
    p = pictures.astype(np.float64)
    left, right = p[:, :, :-1].ravel(), p[:, :, 1:].ravel()
    up, down = p[:, :-1].ravel(), p[:, 1:].ravel()
    return float((np.corrcoef(left, right)[0, 1] + np.corrcoef(up, down)[0, 1]) / 2)


def run_sample(options):
    saved = make_checkpoint.read_checkpoint(options.checkpoint)
    config = saved["config"]
    model = TinyDiT(state_of(saved, options.weights), config["num_heads"])
    rows = []
    for label in range(config["num_classes"]):
        pictures = sample(model, config, label, options.count, options.steps, options.guidance, options.seed)
        saturated = float(((pictures == 0) | (pictures == 255)).mean())
        print(f"label {label}: neighbour correlation {neighbour_correlation(pictures):.3f}, saturated {saturated:.3f}")
        rows.append(np.concatenate(list(pictures), 1))
    Image.fromarray(np.concatenate(rows, 0)).save(options.grid)


def run_check(options):
    from safetensors.numpy import load_file

    state = {name: tensor.astype(np.float64) for name, tensor in load_file(options.state).items()}
    given = np.load(options.reference)
    model = TinyDiT(state, options.heads)
    got = model.velocity(given["noise"].astype(np.float64), given["timestep"].astype(np.float64), given["breed"])
    difference = float(np.abs(got - given["velocity"]).max())
    print(f"largest difference {difference:.2e}")
    sys.exit(difference > 1e-4)


def run_velocity(options):
    """The folder INPUTS holds `noise` and `time` (f32) and `labels` (i64); of a scale, guidance by the null label (the last)."""
    from safetensors.numpy import load_file

    state = {name: tensor.astype(np.float64) for name, tensor in load_file(options.state).items()}
    model, folder = TinyDiT(state, options.heads), Path(options.inputs)
    t, y = np.fromfile(folder / "time", "<f4").astype(np.float64), np.fromfile(folder / "labels", "<i8")
    x = np.fromfile(folder / "noise", "<f4").reshape(len(t), 3, options.side, options.side).astype(np.float64)
    v = model.velocity(x, t, y)
    if options.scale is not None:
        null = np.full_like(y, len(state["breed_embedder.embedding.weight"]) - 1)
        v_null = model.velocity(x, t, null)
        v = v_null + options.scale * (v - v_null)
    v.astype("<f4").tofile(options.out)


def run_facts(options):
    saved = make_checkpoint.read_checkpoint(options.checkpoint)
    tensors = saved["model"].values()
    facts = {"step": saved["step"], "loss": saved.get("loss"), "config": saved["config"], "tensors": len(tensors)}
    facts["parameters"] = sum(tensor.numel for tensor in tensors)
    facts["ema_present"] = bool(saved["ema_params"])
    facts["zero_tensors"] = [name for name, tensor in saved["model"].items() if not any(tensor.load())]
    print(json.dumps(facts, indent=2))


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)
    sub = commands.add_parser("check")
    sub.set_defaults(run=run_check)
    sub.add_argument("state")
    sub.add_argument("reference")
    sub.add_argument("--heads", type=int, default=4)
    sub = commands.add_parser("velocity")
    sub.set_defaults(run=run_velocity)
    sub.add_argument("state")
    sub.add_argument("heads", type=int)
    sub.add_argument("side", type=int)
    sub.add_argument("inputs")
    sub.add_argument("out")
    sub.add_argument("scale", type=float, nargs="?")
    sub = commands.add_parser("facts")
    sub.set_defaults(run=run_facts)
    sub.add_argument("checkpoint")
    sub = commands.add_parser("sample")
    sub.set_defaults(run=run_sample)
    sub.add_argument("checkpoint")
    sub.add_argument("grid")
    sub.add_argument("--weights", choices=["ema", "raw"], default="ema")
    sub.add_argument("--count", type=int, default=4)
    sub.add_argument("--steps", type=int, default=50)
    sub.add_argument("--guidance", type=float, default=1.5)
    sub.add_argument("--seed", type=int, default=0)
    options = top.parse_args()
    try:
        options.run(options)
    except make_checkpoint.Refused as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
