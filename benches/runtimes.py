#!/usr/bin/env python3
"""A forward of the small and of the full-size graph: hfbuild with libonnxruntime and with rten, beside Python's onnxruntime.

The same graph, threads and batch. CPU seconds a forward are the difference between a long and a short run, so that
starting, loading and warming up are in neither. One line a graph and batch; runs alternate, ratios are of one round.
The library of hfbuild is that of the Python beside it (`--python`, with onnxruntime and numpy). See README.md here.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = """[project]
name = "bench"
version = "0.1.0"
license = "mit"
[artifact.checkpoint]
kind = "checkpoint"
path = "checkpoint.pt"
weights = "{weights}"
[artifact.weights]
kind = "safetensors"
from = "checkpoint"
[artifact.graph]
kind = "onnx"
from = "weights"
[artifact.copy]
kind = "command"
run = ["cp", "{{in.graph}}", "model.onnx"]
inputs = {{ graph = "graph" }}
outputs = ["model.onnx"]
"""
STAGE = """[artifact.{name}]
kind = "latency"
from = "graph"
batch = {batch}
threads = {threads}
warmup = 2
runs = {runs}
runtime = "{runtime}"
device = "cpu"
"""
PEER = """
import sys, numpy, onnxruntime
path, batch, threads, runs = sys.argv[1], *map(int, sys.argv[2:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
shape = lambda port: [side if isinstance(side, int) else batch for side in port.shape]
dtype = lambda port: numpy.float32 if "float" in port.type else numpy.int64
feed = {port.name: numpy.ones(shape(port), dtype(port)) for port in session.get_inputs()}
for _ in range(runs + 2):
    session.run(None, feed)
"""


def cpu(argv, cwd, env):
    """User and system seconds of a program that has to end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"{argv[0]} failed:\n{ran.stdout}{ran.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def library(python):
    code = "import glob, os, onnxruntime as o; print(glob.glob(os.path.dirname(o.__file__) + '/capi/libonnxruntime.*')[0])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def measure(args, base, name, checkpoint, weights, batch, few, many, env):
    folder = base / f"{name}-{batch}"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "checkpoint.pt")
    manifest = PROJECT.format(weights=weights)
    for runtime in ("onnxruntime", "rten"):
        for runs in (few, many):
            manifest += STAGE.format(name=f"{runtime}_{runs}", batch=batch, threads=args.threads, runs=runs, runtime=runtime)
    (folder / "publish.toml").write_text(manifest)
    cpu([args.hfbuild, "-q", "build", "copy"], folder, env)
    peer = [args.python, "-c", PEER, "model.onnx", str(batch), str(args.threads)]
    ours = lambda runtime: lambda runs: cpu([args.hfbuild, "-q", "build", "--force", f"{runtime}_{runs}", f"{runtime}_{runs}"], folder, env)
    theirs = lambda runs: cpu([*peer, str(runs)], folder, env)
    rounds = []
    for _ in range(args.rounds):
        rounds.append([(run(many) - run(few)) / (many - few) for run in (ours("onnxruntime"), theirs, ours("rten"))])
    ms = [1e3 * statistics.median(column) for column in zip(*rounds)]
    ort = statistics.median(a / b for a, b, _ in rounds)
    rten = statistics.median(c / b for _, b, c in rounds)
    print(f"| {name} | {batch} | {ms[0]:.2f} | {ms[1]:.2f} | {ms[2]:.2f} | {ort:.2f} | {rten:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hfbuild", default=str(ROOT / "target/release/hfbuild"))
    parser.add_argument("--python", default=sys.executable, help="a Python with onnxruntime and numpy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    env = {**os.environ, "ORT_DYLIB_PATH": library(args.python)}
    with tempfile.TemporaryDirectory() as base:
        base = Path(base)
        full = base / "full.pt"
        make = [sys.executable, str(ROOT / "scripts/make_checkpoint.py"), "full-size", str(full), "--no-ema"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        print("| graph | batch | hfbuild, libonnxruntime: CPU ms | Python's onnxruntime | hfbuild, rten | first by second | third by second |")
        print("|---|---|---|---|---|---|---|")
        small = ROOT / "checkpoints/tinydit_final.pt"
        for name, checkpoint, weights, batch, few, many in (
            ("small", small, "ema", 1, 50, 450), ("small", small, "ema", 8, 10, 90),
            ("full size", full, "raw", 1, 2, 14), ("full size", full, "raw", 8, 1, 3),
        ):
            measure(args, base, name.replace(" ", "-"), checkpoint, weights, batch, few, many, env)


if __name__ == "__main__":
    main()
