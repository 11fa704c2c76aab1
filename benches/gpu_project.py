"""What gpu.py runs hfbuild on: a project that draws, what its store says of a run, and how busy the device was meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from engine import Broken

MANIFEST = """[project]
name = "bench"
version = "0.1.0"
license = "mit"
[hub]
repo = "bench/bench"
endpoint = "embedded"
[pools]
gpu = {pool}
[artifact.checkpoint]
kind = "checkpoint"
path = "checkpoint.pt"
weights = "{weights}"
[artifact.weights]
kind = "safetensors"
from = "checkpoint"
[artifact.generator]
kind = "onnx"
from = "weights"
guidance = "external"
precision = "{precision}"
verify = {{ atol = {atol} }}
{samples}
[artifact.publish]
kind = "upload"
files = {{ "model.safetensors" = "weights", "onnx/model.onnx" = "generator", "samples/" = "samples" }}
"""
SAMPLES = """[artifact.{name}]
kind = "samples"
from = "generator"
each = {labels}
count = {count}
steps = {steps}
guidance = {guidance}
seed = {seed}
batch = {batch}
device = "{device}"
runtime = "{runtime}"
resources = {{ gpu = 1 }}
"""
GUIDANCE = 1.5
ATOL = {"fp32": 1e-4, "fp16": 5e-2}


@dataclass
class Size:
    """What is drawn."""

    name: str
    labels: int
    count: int
    steps: int
    batch: int = 8

    @property
    def pictures(self) -> int:
        return self.labels * self.count


FULL = Size("full-size", 13, 8, 50)
SMALL = Size("small", 13, 8, 50)


def rows(text: str) -> list[dict]:
    """Whole lines of a log of the store: a checksum, a space, JSON."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line[17:]))
        except ValueError:
            continue  # the tail of a run that was killed
    return found


class Project:
    """hfbuild on one checkpoint."""

    binary = ""
    env: dict[str, str] = {}

    def __init__(self, folder: Path, checkpoint: Path, size: Size, device: str, runtime: str, seeds=(0,), pool='"auto"', precision="fp32") -> None:
        self.dir, self.size = folder, size
        folder.mkdir(parents=True)
        os.link(checkpoint, folder / "checkpoint.pt")
        self.write(device, runtime, seeds, pool, "raw" if checkpoint.name.startswith("full") else "ema", precision)

    def write(self, device: str, runtime: str, seeds, pool: str, weights: str, precision: str) -> None:
        labels = json.dumps([f"label {n:02}" for n in range(self.size.labels)])
        families = [
            SAMPLES.format(
                name="samples" if at == 0 else f"samples_{at}", labels=labels, count=self.size.count, steps=self.size.steps,
                guidance=GUIDANCE, seed=seed, batch=self.size.batch, device=device, runtime=runtime,
            )
            for at, seed in enumerate(seeds)
        ]
        text = MANIFEST.format(pool=pool, weights=weights, precision=precision, atol=ATOL[precision], samples="".join(families))
        (self.dir / "publish.toml").write_text(text)

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        full = {**os.environ, **self.env, **(env or {})}
        log = open(self.dir / "log", "ab")
        with log:
            return subprocess.Popen(
                [self.binary, "-q", *words], cwd=self.dir, env=full, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )

    def run(self, *words: str, env: dict[str, str] | None = None) -> float:
        begun = time.perf_counter()
        code = self.start(*words, env=env).wait()
        if code:
            raise Broken(f"hfbuild ended with {code}: {self.said()[-500:].strip()}")
        return time.perf_counter() - begun

    def said(self) -> str:
        return (self.dir / "log").read_text(errors="replace")

    def receipts(self) -> dict[str, dict]:
        """The last receipt of each shard of samples."""
        file = self.dir / "cache" / "actions" / "log"
        every = (r.get("receipt") for r in rows(file.read_text())) if file.exists() else ()
        return {r["node"]: r for r in every if r and r["node"].startswith("samples")}

    def volatile(self, name: str) -> list[float]:
        return [float(r["facts"]["volatile"][name]) for r in self.receipts().values()]

    def parts(self) -> int:
        """Pictures that are kept of shards that have no receipt yet."""
        kept = 0
        for file in (self.dir / "cache" / "parts").glob("*/*"):
            try:
                kept += int(json.loads(file.read_bytes().split(b"\n", 2)[1])["name"].rsplit("-", 1)[1])
            except (OSError, IndexError, ValueError, KeyError):
                continue  # it went with its receipt meanwhile
        return kept

    def files(self) -> dict[str, Path]:
        """Every picture, as it lies in the store."""
        blobs = self.dir / "cache" / "blobs"
        outputs = (o for r in self.receipts().values() for o in r["outputs"])
        return {o["path"]: blobs / o["digest"][:2] / o["digest"] for o in outputs if "/" in o["path"]}

    def logs(self) -> str:
        """The stages' logs of the last run."""
        last = max((self.dir / "cache" / "runs").iterdir())
        return "".join(file.read_text(errors="replace") for file in sorted(last.glob("samples*.log")))


class Busy:
    """How busy the device is, in percent of the time from its first to its last moment of work, sampled by nvidia-smi five
    times a second while this is open: loading, before and after, is left out."""

    smi: str | None = None
    """The device as nvidia-smi takes it; `None`: nobody to ask."""

    def __init__(self, device: str) -> None:
        self.values: list[float] = []
        self.child = None
        if device == "cuda" and self.smi:
            ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i", self.smi]
            self.child = subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> "Busy":
        if self.child:
            self.reader = threading.Thread(target=self.read, daemon=True)
            self.reader.start()
        return self

    def read(self) -> None:
        for line in self.child.stdout:
            self.values += [float(line)] if line.strip().isdigit() else []

    def __exit__(self, *_: object) -> None:
        if self.child:
            self.child.terminate()
            self.child.wait()
            self.reader.join()

    def percent(self) -> float | None:
        at_work = [at for at, value in enumerate(self.values) if value > 0]
        if not at_work:
            return 0.0 if self.values else None
        values = self.values[at_work[0] : at_work[-1] + 1]
        return round(sum(values) / len(values), 1)
