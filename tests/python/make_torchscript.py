#!/usr/bin/env python3
"""The TorchScript fixtures, made with torch 2.13.0 by hand: `make_torchscript.py FOLDER` (tests only read them).

    tiny_trained_script.pt      TinyDiT v2 with the weights of tiny_trained.safetensors, torch.jit.script
    small_script.pt             a network that hfbuild does not know: picture and label in, scores out
    small_wrong_script.pt       the same with one weight changed by a hundredth
    small.onnx                  its ONNX export, by torch
"""

import json
import math
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, e = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * (e // self.heads) ** -0.5) @ qkv[1].transpose(-2, -1)
        return self.proj((scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(b, n, e))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.adaLN_modulation(c).unsqueeze(1).chunk(6, -1)
        x = x + m[2] * self.attn(self.norm1(x) * (1 + m[1]) + m[0])
        return x + m[5] * self.mlp(self.norm2(x) * (1 + m[4]) + m[3])


class FinalLayer(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.adaLN_modulation(c).unsqueeze(1).chunk(2, -1)
        return self.linear(self.norm_final(x) * (1 + m[1]) + m[0])


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class BreedEmbedder(nn.Module):
    def __init__(self, rows: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(rows, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding(y)


class TimeEmbedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, device=t.device) / 128)
        angles = 1000.0 * t[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1))


class TinyDiT(nn.Module):
    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, hidden: int, rows: int):
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.patch_embed = PatchEmbed(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width))
        self.breed_embedder = BreedEmbedder(rows, width)
        self.t_embedder = TimeEmbedder(width)
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth)])
        self.final_layer = FinalLayer(width, patch * patch * 3)

    def forward(self, noise: Tensor, timestep: Tensor, breed: Tensor) -> Tensor:
        x = self.patch_embed(noise) + self.pos_embed
        c = self.t_embedder(timestep) + self.breed_embedder(breed)
        for block in self.blocks:
            x = block(x, c)
        b, g, p = noise.shape[0], self.grid, self.patch
        x = self.final_layer(x, c).reshape(b, g, g, p, p, 3).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(b, 3, g * p, g * p)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.label = nn.Embedding(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, picture: Tensor, label: Tensor) -> Tensor:
        hidden = F.relu(self.conv(picture)).mean((2, 3)) + self.label(label)
        return self.head(hidden)


def tinydit() -> TinyDiT:
    state = load_file(FIXTURES / "tiny_trained.safetensors")
    config = json.loads((FIXTURES / "tiny_trained_config.json").read_text())
    model = TinyDiT(
        config["image_size"],
        config["patch_size"],
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        state["blocks.0.mlp.fc1.weight"].shape[0],
        state["breed_embedder.embedding.weight"].shape[0],
    )
    model.load_state_dict(state)
    return model.eval()


def save(module: nn.Module, path: Path):
    """Without what only debuggers read: it holds the paths of the machine that it was made on."""
    torch.jit.script(module).save(path)
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            if not name.endswith(".debug_pkl"):
                archive.writestr(zipfile.ZipInfo(name), data)


def main():
    folder = Path(sys.argv[1])
    save(tinydit(), folder / "tiny_trained_script.pt")
    torch.manual_seed(0)
    small = Small().eval()
    example = (torch.zeros(2, 4, 8, 8), torch.zeros(2, dtype=torch.int64))
    save(small, folder / "small_script.pt")
    axes = {"picture": {0: "batch"}, "label": {0: "batch"}, "scores": {0: "batch"}}
    names = {"input_names": ["picture", "label"], "output_names": ["scores"]}
    torch.onnx.export(small, example, folder / "small.onnx", opset_version=18, dynamic_axes=axes, dynamo=False, **names)
    with torch.no_grad():
        small.head.weight[0, 0] += 1e-2
    save(small, folder / "small_wrong_script.pt")


if __name__ == "__main__":
    main()
