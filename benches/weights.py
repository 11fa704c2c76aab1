#!/usr/bin/env python3
"""Checkpoints to safetensors and to ONNX at the full size: one command, one table, one JSON file. See README.md here.

Needs Python 3.11 and nothing else. What is missing on the machine (torch, a C compiler) is printed as skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engine
from engine import ROOT, VENV, Broken, Cost, Meter, note, skip, spread

MANIFEST = """[project]
name = "bench"
version = "0.1.0"
license = "mit"
[hub]
repo = "bench/bench"
endpoint = "embedded"
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
{extra}[artifact.publish]
kind = "upload"
files = {{ "model.safetensors" = "weights", "onnx/model.onnx" = "generator"{published} }}
"""
PT = '[artifact.pytorch]\nkind = "pytorch"\nfrom = "checkpoint"\n'
TORCH = """import sys, torch
from safetensors.torch import save_file
saved = torch.load(sys.argv[1], weights_only=True, mmap=True)
state = saved.get("ema_shadow_params") or saved["model"]
save_file({name: t.contiguous() for name, t in state.items()}, sys.argv[2], metadata={"format": "pt"})
"""


class Project:
    """hfbuild on one checkpoint; what is not measured is up to date."""

    def __init__(self, binary: str, meter: Meter, base: Path, name: str, command: str, weights: str, extra: str) -> None:
        self.binary, self.meter, self.dir, self.name = binary, meter, base / name, name
        self.dir.mkdir()
        self.checkpoint = self.dir / "checkpoint.pt"
        make = [sys.executable, str(ROOT / "scripts" / "make_checkpoint.py"), command, str(self.checkpoint)]
        note(f"making the checkpoint: {name}")
        subprocess.run(make + (["--no-ema"] if command == "full-size" else []), check=True, stdout=subprocess.DEVNULL)
        (self.dir / "publish.toml").write_text(MANIFEST.format(weights=weights, extra=extra, published=', "model.pt" = "pytorch"' if extra else ""))
        self.seconds: dict[str, list[float]] = {}

    def build(self, *artifacts: str, force: bool = False) -> Cost:
        """Builds; with `force` the last artifact runs again, and nothing else."""
        words = [*(["--force", artifacts[-1]] if force else []), *artifacts]
        cost = self.meter.run([self.binary, "-q", "build", *words], self.dir, log=self.dir / "log")
        runs = sorted((self.dir / "cache" / "runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)
        ran = [json.loads(line) for line in (runs[-1] / "events.jsonl").read_text().splitlines()]
        ran = {event["node"]: event["seconds"] for event in ran if event["event"] == "finished"}
        if force and list(ran) != [artifacts[-1]]:
            raise Broken(f"{artifacts[-1]} should have run alone: {', '.join(ran)}")
        for node, seconds in ran.items():
            self.seconds.setdefault(node, []).append(seconds)
        return cost

    def output(self, name: str) -> Path:
        """What an artifact made: the blob of the largest size is the one of interest, and all are in the store."""
        blobs = [p for p in (self.dir / "cache" / "blobs").rglob("*") if p.is_file()]
        def matches(path: Path) -> bool:
            with open(path, "rb") as file:
                head = file.read(64)
            return head[8:9] == b"{" if name == "safetensors" else head[:1] == b"\x08"
        found = [p for p in blobs if p.stat().st_size > 1 << 20 and matches(p)]
        if not found:
            raise Broken(f"no {name} in the store")
        return found[0]


def once(bench: engine.Bench, project: Project, what: str, size: int, peer: str, ours, theirs, pairs: int) -> None:
    bench.pair(size, f"{project.name}: {what}", "hfbuild", peer, ours, theirs, pairs)


def torch_python(given: str | None) -> str | None:
    """A Python that can import torch and safetensors, and why there is none."""
    for python in filter(None, [given, str(VENV / "bin" / "python"), sys.executable]):
        if shutil.which(python) and subprocess.run([python, "-c", "import torch, safetensors.torch"], capture_output=True).returncode == 0:
            return python
    skip("torch.load + save_file", "no Python here imports torch and safetensors (--torch PYTHON names one)")
    return None


def measure(bench: engine.Bench, meter: Meter, project: Project, args, torch: str | None) -> dict:
    """One layout: everything once, then the pairs."""
    pairs, copy = args.pairs, project.dir / "copy"
    first = project.build("weights")
    made = project.output("safetensors")
    size = made.stat().st_size

    def fresh() -> Cost:
        """From the .pt alone: checkpoint and weights, nothing in the cache."""
        shutil.rmtree(project.dir / "cache")
        return project.build("weights")

    def ours() -> Cost:
        return project.build("weights", force=True)

    def alone() -> Cost:
        """The stage by hfbuild's own clock: reading, verifying, writing, digests, store; without start and planning."""
        cost = ours()
        return Cost(project.seconds["weights"][-1], cost.cpu, cost.peak_mb)

    def cp() -> Cost:
        copy.unlink(missing_ok=True)
        return meter.run(["cp", "--reflink=never", str(source), str(copy)], project.dir)

    source = project.dir / "output.safetensors"  # a copy: the store's blob comes and goes with each run
    shutil.copyfile(made, source)
    sums = ["sha256sum", str(source)]
    once(bench, project, ".pt -> safetensors, the stage", size, "cp", alone, cp, pairs)
    once(bench, project, ".pt -> safetensors, the run", size, "sha256sum", ours, lambda: meter.run(sums, project.dir), pairs)
    if torch:
        saved = project.dir / "torch.safetensors"
        line = [torch, "-c", TORCH, str(project.checkpoint), str(saved)]
        once(bench, project, ".pt -> safetensors, from nothing", size, "torch.load + save_file", fresh, lambda: meter.run(line, project.dir), pairs)
        saved.unlink(missing_ok=True)
    else:
        once(bench, project, ".pt -> safetensors, from nothing", size, "cp", fresh, cp, pairs)
    copy.unlink(missing_ok=True)
    return {"first": vars(first), "bytes": size, "checkpoint_bytes": project.checkpoint.stat().st_size}


def single(project: Project, artifact: str, above: int, needs: tuple[str, ...]) -> dict | None:
    """One artifact forced three times: wall, CPU, peak, its own seconds. `above`: bytes that may be mapped."""
    try:
        project.build(*needs, artifact)
        costs = [project.build(artifact, force=True) for _ in range(3)]
    except Broken as error:
        skip(f"{project.name}: {artifact}", str(error)[:200])
        return None
    return {
        "what": f"{project.name}: {artifact}", "wall_s": spread([c.wall for c in costs]), "cpu_s": spread([c.cpu for c in costs]),
        "peak_mb": max(c.peak_mb for c in costs), "stage_s": spread(project.seconds[artifact][-3:]), "mapped_mb": above / 1048576,
    }


def exported(bench: engine.Bench, meter: Meter, project: Project, torch: str | None, pairs: int) -> None:
    """The graph from weights that are there, verified, beside both exporters of torch, which verify nothing."""
    probe = [torch or sys.executable, "-c", "import torch, onnx, onnxscript, safetensors.torch"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        return skip("torch.onnx.export", "no Python here imports torch, onnx, onnxscript and safetensors (--torch PYTHON names one)")
    project.build("weights", "generator")
    size, out = project.output("onnx").stat().st_size, project.dir / "torch.onnx"
    line = [torch, str(Path(__file__).with_name("export_peer.py")), str(project.checkpoint), str(out)]
    for peer, words in (("torch.onnx.export", []), ("... (dynamo=False)", ["old"])):
        ours = lambda: project.build("generator", force=True)  # noqa: E731
        once(bench, project, "ONNX, exported and verified", size, peer, ours, lambda: meter.run(line + words, project.dir), pairs)
    out.unlink(missing_ok=True)


def knows_pytorch(binary: str) -> bool:
    done = subprocess.run([binary, "schema"], capture_output=True, text=True)
    return '"pytorch"' in done.stdout


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hfbuild", default=str(ROOT / "target" / "release" / "hfbuild"), help="the binary (default: target/release/hfbuild)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of each workload (default: 7)")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with torch and safetensors, and onnxscript for the export (default: the bench's own, or this one)")
    parser.add_argument("--no-trainer", action="store_true", help="without the 529 MB layout of a trainer")
    parser.add_argument("--no-onnx", action="store_true", help="without the ONNX export")
    parser.add_argument("--dir", help="where to work (default: the system's temporary directory); 2 GB are needed")
    parser.add_argument("--json", default=str(ROOT / "target" / "bench" / "weights.json"), help="where the figures go")
    return parser.parse_args()


def layouts(args) -> list[tuple[str, str, str]]:
    both = [("132 MB", "full-size", "raw"), ("529 MB trainer", "trainer", "ema")]
    return both[:1] if args.no_trainer else both


def run(args, bench: engine.Bench, meter: Meter, temp: Path, singles: list[dict], setups: dict) -> None:
    torch = torch_python(args.torch)
    extra = PT if knows_pytorch(args.hfbuild) else ""
    if not extra:
        skip("pytorch", "this hfbuild has no kind `pytorch`")
    for name, command, weights in layouts(args):
        project = Project(args.hfbuild, meter, temp, name, command, weights, extra)
        setups[name] = measure(bench, meter, project, args, torch)
        wanted = [("pytorch", ("checkpoint",))] if extra else []
        if not args.no_onnx and command == "full-size":
            wanted.append(("generator", ("weights",)))
            exported(bench, meter, project, torch, min(args.pairs, 3))
        for artifact, needs in wanted:
            found = single(project, artifact, setups[name]["checkpoint_bytes"], needs)
            singles += [found] if found else []
        shutil.rmtree(project.dir, ignore_errors=True)


def report(args, bench: engine.Bench, singles: list[dict], load) -> None:
    print(f"\n{engine.machine()['cpu']}, {engine.CORES} cores; load {load[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    print("medians of pairs; ratio: hfbuild by peer, pair by pair; `stages`: bytes of the output\n")
    print(engine.table(bench.rows))
    for row in singles:
        print(
            f"{row['what']}: {engine.seconds(row['wall_s']['median'])} s wall, of it the stage {engine.seconds(row['stage_s']['median'])} s; "
            f"{engine.seconds(row['cpu_s']['median'])} s CPU; peak {row['peak_mb']:.0f} MB"
        )


def main() -> int:
    args = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, engine.interrupt)
    args.hfbuild = str(Path(args.hfbuild).resolve())
    if not os.access(args.hfbuild, os.X_OK):
        print(f"{args.hfbuild} is not there: `cargo build --release` makes it", file=sys.stderr)
        return 2
    meter = Meter()
    bench, singles, setups = engine.Bench(meter), [], {}
    begun, load, stopped = time.time(), os.getloadavg(), False
    with tempfile.TemporaryDirectory(prefix="hfbuild-bench-", dir=args.dir) as name:
        try:
            run(args, bench, meter, Path(name), singles, setups)
        except KeyboardInterrupt:
            stopped = True
            print("interrupted: what was measured until now", flush=True)
    report(args, bench, singles, load)
    out = Path(args.json)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": 1, "machine": engine.machine(), "load_before": load, "load_after": os.getloadavg(), "began": int(begun),
        "seconds": round(time.time() - begun, 1), "command": sys.argv, "version": engine.first_line([args.hfbuild, "--version"]),
        "interrupted": stopped, "skipped": engine.SKIPPED, "setups": setups, "rows": bench.rows, "singles": singles,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}")
    return 1 if stopped or any("failed" in row for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
