"""The sampler of hfbuild in Python, by onnxruntime or by torch, for gpu.py: the same noise, batches, steps and guidance.

Prints one JSON object: what it ran on, seconds of drawing (after one batch that is not counted), and, where pictures are
there to compare with, the greatest difference of a pixel. Needs numpy, and onnxruntime or torch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_png import pixels  # noqa: E402


def noise(seed: int, label: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """As src/model/noise.rs says it."""
    n = math.prod(shape)
    raw = np.random.Philox(key=np.array([seed, label << 32 | k], np.uint64), counter=0).random_raw(n + n % 2)
    u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    r, a = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]
    return np.stack([r * np.cos(a), r * np.sin(a)], axis=1).ravel()[:n].astype(np.float32).reshape(shape)


def session(ort, graph: str, device: str, threads: int, tf32: bool):
    """A session of onnxruntime on the device, and what is to be said of it. Never one that went to the CPU instead."""

    def opened(wholly: bool):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        if device == "cpu":
            return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        if wholly:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        cuda = ("CUDAExecutionProvider", {"use_tf32": "1" if tf32 else "0", "cudnn_conv_algo_search": "HEURISTIC"})
        return ort.InferenceSession(graph, options, providers=[cuda])

    if device == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA's libraries where pip put them; what is not there the system may have
    said = ", TF32" if tf32 else ""
    try:
        made = opened(True)
    except Exception as error:  # as hfbuild: nodes that compute shapes may stay on the CPU
        if device == "cpu" or "fallback to CPU EP has been explicitly disabled" not in str(error):
            raise
        made, said = opened(False), f"{said}, some nodes on the CPU"
    if device == "cuda" and made.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("onnxruntime did not take CUDA")
    return made, said


class Onnxruntime:
    """A session on the graph; numbers go to the device and come back at every step, as hfbuild's do."""

    def __init__(self, args: argparse.Namespace) -> None:
        import onnxruntime as ort

        self.session, how = session(ort, args.graph, args.device, args.threads, args.tf32)
        self.name = f"onnxruntime {ort.__version__} ({self.session.get_providers()[0]}{how})"
        shape = next(i.shape for i in self.session.get_inputs() if i.name == "noise")
        self.shape = tuple(shape[1:])
        self.null = int(self.session.get_modelmeta().custom_metadata_map["hfbuild.null_label"])

    def draw(self, x: np.ndarray, label: int, steps: int, scale: float) -> np.ndarray:
        n = len(x)
        labels = np.array([label] * n + [self.null] * n, np.int64)
        for step in range(steps):
            t = np.full(2 * n, step / steps, np.float32)
            v = self.session.run(["velocity"], {"noise": np.concatenate([x, x]), "timestep": t, "breed": labels})[0]
            x = x + (v[n:] + np.float32(scale) * (v[:n] - v[n:])) / np.float32(steps)
        return x


class Torch:
    """TinyDiT by torch, from the safetensors file; the numbers stay on the device until the pictures are done."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        self.torch = torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
        torch.set_num_threads(args.threads)
        self.device = torch.device(args.device)
        weights = safetensors(Path(args.weights))
        self.w = {name: torch.from_numpy(value.copy()).to(self.device) for name, value in weights.items()}
        proj = self.w["patch_embed.proj.weight"]
        self.patch, self.embed = proj.shape[2], proj.shape[0]
        self.depth = 1 + max(int(k.split(".")[1]) for k in self.w if k.startswith("blocks."))
        self.heads = args.heads
        side = round(math.sqrt(self.w["pos_embed"].shape[1])) * self.patch
        self.shape, self.null = (3, side, side), self.w["breed_embedder.embedding.weight"].shape[0] - 1
        where = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
        self.name = f"torch {torch.__version__} ({where}{', TF32' if args.tf32 else ''})"

    def forward(self, x, t, y):
        torch, w, f = self.torch, self.w, self.torch.nn.functional
        linear = lambda v, name: f.linear(v, w[f"{name}.weight"], w.get(f"{name}.bias"))  # noqa: E731
        norm = lambda v, name: f.layer_norm(v, (self.embed,), w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
        b = x.shape[0]
        tokens = f.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=self.patch)
        h = tokens.flatten(2).transpose(1, 2) + w["pos_embed"]
        half = w["t_embedder.mlp.0.weight"].shape[1] // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angle = (t * 1000)[:, None] * frequency
        c = linear(torch.cat([angle.cos(), angle.sin()], 1), "t_embedder.mlp.0")
        c = f.silu(linear(f.silu(c), "t_embedder.mlp.2") + w["breed_embedder.embedding.weight"][y])
        for n in range(self.depth):
            name = f"blocks.{n}"
            s1, c1, g1, s2, c2, g2 = linear(c, f"{name}.adaLN_modulation.1")[:, None].chunk(6, 2)
            qkv = linear(norm(h, f"{name}.norm1") * (1 + c1) + s1, f"{name}.attn.qkv")
            q, k, v = qkv.reshape(b, -1, 3, self.heads, self.embed // self.heads).permute(2, 0, 3, 1, 4)
            mixed = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, self.embed)
            h = h + g1 * linear(mixed, f"{name}.attn.proj")
            inner = f.gelu(linear(norm(h, f"{name}.norm2") * (1 + c2) + s2, f"{name}.mlp.fc1"))
            h = h + g2 * linear(inner, f"{name}.mlp.fc2")
        shift, scale = linear(c, "final_layer.adaLN_modulation.1")[:, None].chunk(2, 2)
        out = linear(norm(h, "final_layer.norm_final") * (1 + scale) + shift, "final_layer.linear")
        side = x.shape[2] // self.patch
        out = out.reshape(b, side, side, self.patch, self.patch, 3).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(x.shape)

    def draw(self, noise: np.ndarray, label: int, steps: int, scale: float) -> np.ndarray:
        torch, n = self.torch, len(noise)
        with torch.inference_mode():
            x = torch.from_numpy(noise).to(self.device)
            labels = torch.tensor([label] * n + [self.null] * n, device=self.device)
            for step in range(steps):
                t = torch.full((2 * n,), step / steps, device=self.device)
                v = self.forward(torch.cat([x, x]), t, labels)
                x = x + (v[n:] + scale * (v[:n] - v[n:])) / steps
            return x.cpu().numpy()


def safetensors(path: Path) -> dict[str, np.ndarray]:
    data = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    head = json.loads(data[8 : 8 + length].tobytes())
    head.pop("__metadata__", None)
    body = data[8 + length :]
    made = {}
    for name, entry in head.items():
        begin, end = entry["data_offsets"]
        made[name] = np.frombuffer(body[begin:end].tobytes(), np.float32).reshape(entry["shape"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("by", choices=["onnxruntime", "torch"])
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--graph")
    parser.add_argument("--weights")
    parser.add_argument("--heads", type=int, help="of torch's model")
    for name in ("labels", "count", "steps", "seed", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--guidance", type=float, required=True)
    parser.add_argument("--tf32", action="store_true", help="on CUDA: round to 19 bits where it multiplies")
    parser.add_argument("--pictures", help="a folder LABEL/K.png, one folder a label, in their order")
    args = parser.parse_args()
    begun = time.perf_counter()
    model = Onnxruntime(args) if args.by == "onnxruntime" else Torch(args)
    loaded = time.perf_counter() - begun
    cut = [range(at, min(at + args.batch, args.count)) for at in range(0, args.count, args.batch)]

    def batch(label: int, ks: range) -> np.ndarray:
        x = np.stack([noise(args.seed, label, k, model.shape) for k in ks])
        x = model.draw(x, label, args.steps, args.guidance)
        return np.clip(x * np.float32(127.5) + np.float32(127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)

    model.draw(np.stack([noise(args.seed, 0, k, model.shape) for k in cut[0]]), 0, 1, args.guidance)
    begun, drawn = time.perf_counter(), {}
    for label in range(args.labels):
        for ks in cut:
            drawn |= {(label, k): picture for k, picture in zip(ks, batch(label, ks))}
    seconds, difference = time.perf_counter() - begun, None
    if args.pictures:
        folders = Path(args.pictures).read_text().splitlines()
        files = {(label, k): os.path.join(folder, f"{k}.png") for label, folder in enumerate(folders) for k in range(args.count)}
        pairs = ((drawn[at].astype(int), np.frombuffer(pixels(Path(file).read_bytes())[2], np.uint8)) for at, file in files.items())
        difference = max(int(np.abs(a.ravel() - b).max()) for a, b in pairs)
    print(json.dumps({"on": model.name, "load": loaded, "seconds": seconds, "pictures": len(drawn), "difference": difference}))


if __name__ == "__main__":
    main()
