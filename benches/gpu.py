#!/usr/bin/env python3
"""The sampler on a GPU: one command, one table, one JSON file. See README.md in this folder.

Needs the built binary and Python 3.11; for the peers a Python with numpy, onnxruntime (on a GPU onnxruntime-gpu) and torch.
What is missing on the machine is printed as skipped. Nothing is asked of a network.
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
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from engine import ROOT, Broken, first_line, machine, note, skip, spread, SKIPPED
from gpu_png import difference

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

    def __init__(self, folder: Path, checkpoint: Path, size: Size, device: str, runtime: str, seeds=(0,), pool='"auto"') -> None:
        self.dir, self.size = folder, size
        folder.mkdir(parents=True)
        os.link(checkpoint, folder / "checkpoint.pt")
        self.write(device, runtime, seeds, pool, "raw" if checkpoint.name.startswith("full") else "ema")

    def write(self, device: str, runtime: str, seeds, pool: str, weights: str) -> None:
        labels = json.dumps([f"label {n:02}" for n in range(self.size.labels)])
        families = [
            SAMPLES.format(
                name="samples" if at == 0 else f"samples_{at}", labels=labels, count=self.size.count, steps=self.size.steps,
                guidance=GUIDANCE, seed=seed, batch=self.size.batch, device=device, runtime=runtime,
            )
            for at, seed in enumerate(seeds)
        ]
        text = MANIFEST.format(pool=pool, weights=weights, samples="".join(families))
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
    """How busy the device is, in percent of the time, sampled by nvidia-smi five times a second while this is open."""

    def __init__(self, device: str) -> None:
        self.values: list[float] = []
        self.child = None
        if device == "cuda":
            ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i", "0"]
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
        return round(sum(self.values) / len(self.values), 1) if self.values else None


def compared(one: Project, other: Project) -> dict:
    """How the pictures of two projects agree: files that are the same, and the greatest difference of a pixel."""
    ours, theirs = one.files(), other.files()
    if ours.keys() != theirs.keys() or not ours:
        raise Broken(f"{len(ours)} pictures and {len(theirs)}, not the same ones")
    differing = [path for path in ours if ours[path].name != theirs[path].name]
    worst = max((difference(ours[path].read_bytes(), theirs[path].read_bytes()) for path in differing), default=0)
    if worst > 1:
        raise Broken(f"pictures differ by {worst} of 255")
    return {"pictures": len(ours), "same_bytes": len(ours) - len(differing), "max_difference": worst}


# --- the parts -------------------------------------------------------------------------------------------------------


def publish(project: Project, device: str) -> dict:
    """The whole publish, with nothing in the cache."""
    with Busy(device) as busy:
        wall = project.run()
    seconds, graph = sum(project.volatile("seconds")), sum(project.volatile("graph_seconds"))
    devices = {r["device"] for r in project.receipts().values()}
    if len(devices) != 1 or f"({device}" not in next(iter(devices)):
        raise Broken(f"it ran on {devices}, and `{device}` was asked for")
    loads = project.logs().count("loaded the graph in ")
    pictures = project.size.pictures
    return {
        "on": devices.pop(), "pictures": pictures, "wall_s": wall, "drawing_s": seconds, "pictures_per_s": pictures / seconds,
        "graph_share": graph / seconds, "device_busy_percent": busy.percent(), "graph_loads": loads,
    }


def resume(project: Project, whole: Project) -> dict:
    """SIGKILL when half of the pictures are kept, and again from there."""
    size = project.size
    project.run("build", "generator")
    child = project.start("build", "samples")
    done = lambda: sum(1 for r in project.receipts()) * size.count + project.parts()  # noqa: E731
    while child.poll() is None and done() < size.pictures / 2:
        time.sleep(0.005)
    killed = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    if not killed:
        raise Broken("it ended before it could be killed half way: draw more (--count, --steps)")
    receipts, parts = len(project.receipts()) * size.count, project.parts()
    wall = project.run("build", "samples")
    told = sum(int(line.split()[3]) for line in project.logs().splitlines() if line.startswith("goes on after "))
    again = project.logs().count("loaded the graph in ") + project.logs().count("the graph is loaded already")
    if told != parts or again != size.labels - receipts // size.count:
        raise Broken(f"{parts} pictures were kept and {told} were taken up; {again} labels ran again")
    return {"kept": receipts + parts, "of": size.pictures, "wall_s": wall, **compared(project, whole)}


def terminated(project: Project, whole: Project) -> dict:
    """SIGTERM, as a spot machine gets it: how long it takes to end, and that the next run goes on."""
    project.run("build", "generator")
    child = project.start("build", "samples")
    while child.poll() is None and project.parts() == 0:
        time.sleep(0.005)
    begun = time.perf_counter()
    child.send_signal(signal.SIGTERM)
    code, ended = child.wait(), time.perf_counter() - begun
    if code != 143:
        raise Broken(f"SIGTERM ended it with {code}")
    project.run("build", "samples")
    return {"ended_after_s": ended, **compared(project, whole)}


def fight(project: Project, devices: int) -> dict:
    """Two families of one device's pool, started by two hfbuilds at once: no two shards on a device at a time."""
    both = [project.start("build", "-j", "4", "samples", "samples_1") for _ in range(2)]
    codes = [child.wait() for child in both]
    if codes != [0, 0]:
        raise Broken(f"they ended with {codes}: {project.said()[-500:]}")
    records = [r["receipt"]["node"] for r in rows((project.dir / "cache" / "actions" / "log").read_text()) if "receipt" in r]
    twice = {node for node in records if records.count(node) > 1}
    # a shard that has drawn gives its device to the next one, and is encoded and measured beside it
    drawing = lambda r: (r["started_ms"] / 1000, r["started_ms"] / 1000 + float(r["facts"]["volatile"]["seconds"]))  # noqa: E731
    spans = sorted(map(drawing, project.receipts().values()))
    overlaps = sum(1 for (_, end), (begin, _) in zip(spans, spans[1:]) if begin < end - 0.002)
    if twice or len(spans) != 2 * project.size.labels or (devices == 1 and overlaps):
        raise Broken(f"{len(spans)} shards, {overlaps} overlap, made twice: {sorted(twice)}")
    return {"shards": len(spans), "devices": devices, "overlaps": overlaps, "wall_s": max(e for _, e in spans) - spans[0][0]}


def fallback(project: Project) -> dict:
    """CUDA is asked for and hidden: an error, and nothing is kept."""
    project.run("build", "generator")
    code = project.start("build", "samples", env={"CUDA_VISIBLE_DEVICES": ""}).wait()
    said = [line for line in project.said().splitlines() if "cannot be had here" in line]
    if code != 1 or not said or project.receipts() or project.parts():
        raise Broken(f"it ended with {code}, {len(project.receipts())} receipts: {project.said()[-400:]}")
    return {"exit_code": code, "error": said[0].strip()}


def peer(args, by: str, project: Project, device: str) -> dict:
    """The same drawing in Python, compared with hfbuild's pictures."""
    size, blobs = project.size, project.dir / "cache" / "blobs"
    found = {}
    for record in rows((project.dir / "cache" / "actions" / "log").read_text()):
        receipt = record.get("receipt", {})
        if receipt.get("node") in ("weights", "generator"):
            digest = receipt["outputs"][0]["digest"]
            found[receipt["node"]] = blobs / digest[:2] / digest
    folders = []
    for n in range(size.labels):
        folder = project.dir / "pictures" / str(n)
        folder.mkdir(parents=True, exist_ok=True)
        folders.append(str(folder))
        receipt = project.receipts()[f"samples[label {n:02}]"]
        for output in receipt["outputs"]:
            to = folder / Path(output["path"]).name
            if "/" in output["path"] and not to.exists():
                shutil.copyfile(blobs / output["digest"][:2] / output["digest"], to)
    (project.dir / "folders.txt").write_text("\n".join(folders))
    argv = [args.torch if by == "torch" else args.python, str(ROOT / "benches" / "gpu_peer.py"), by, "--device", device, "--graph", str(found["generator"])]
    argv += ["--weights", str(found["weights"]), "--labels", str(size.labels), "--count", str(size.count), "--seed", "0"]
    argv += ["--steps", str(size.steps), "--batch", str(size.batch), "--guidance", str(GUIDANCE), "--threads", str(args.threads)]
    argv += ["--heads", "6" if project.size.name == "full-size" else "4", "--pictures", str(project.dir / "folders.txt")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise Broken(f"{by}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
    return json.loads(done.stdout.splitlines()[-1])


def beside(args, project: Project, device: str, runtime: str, by: str) -> dict:
    """hfbuild's drawing and a peer's, by turns; ratios pair by pair."""
    note(f"{project.size.name} on {device}: hfbuild by {runtime} and {by}, {args.pairs} pairs")
    project.run("build", "samples")  # the graph is made, and the disk warm
    ours, theirs, shares, busy, peers_busy, last = [], [], [], [], [], {}
    families = ["--force", "samples"]
    for _ in range(args.pairs):
        with Busy(device) as meter:
            project.run("build", "samples", *families)
        busy.append(meter.percent())
        ours.append(sum(project.volatile("seconds")))
        shares.append(sum(project.volatile("graph_seconds")) / ours[-1])
        with Busy(device) as meter:
            last = peer(args, by, project, device)
        peers_busy.append(meter.percent())
        theirs.append(last["seconds"])
        if last["difference"] is not None and last["difference"] > 1:
            raise Broken(f"pictures of {by} differ by {last['difference']} of 255")
    pictures = project.size.pictures
    on = {r["device"] for r in project.receipts().values()}
    return {
        "graph": project.size.name, "hfbuild": "; ".join(sorted(on)), "peer": last["on"], "pairs": args.pairs, "pictures": pictures,
        "hfbuild_pictures_per_s": spread([pictures / s for s in ours]), "peer_pictures_per_s": spread([pictures / s for s in theirs]),
        "seconds_ratio": spread([a / b for a, b in zip(ours, theirs)]), "graph_share": spread(shares),
        "busy_percent": busy, "peer_busy_percent": peers_busy, "max_difference": last["difference"],
    }


# --- all of it -------------------------------------------------------------------------------------------------------


def devices() -> list[str]:
    """The NVIDIA devices that the driver names."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import numpy, {module}"], capture_output=True).returncode == 0


def library(python: str) -> str | None:
    """The libonnxruntime of a Python, for hfbuild to load the very same."""
    code = "import onnxruntime, pathlib; print(next(pathlib.Path(onnxruntime.__file__).parent.glob('capi/libonnxruntime.so.*')))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


class Parts:
    """Runs one part after the other; one that fails says so, and the others go on."""

    def __init__(self) -> None:
        self.done: dict[str, dict] = {}
        self.failed: dict[str, str] = {}

    def part(self, name: str, run) -> None:
        note(name)
        try:
            self.done[name] = run()
        except (Broken, subprocess.SubprocessError, OSError, KeyError, ValueError) as error:
            self.failed[name] = str(error)
            print(f"failed {name}: {error}", flush=True)


def checkpoints(temp: Path, wanted: set[str]) -> dict[str, Path]:
    made = {"small": temp / "small.pt", "full-size": temp / "full.pt"}
    if "small" in wanted:
        shutil.copyfile(ROOT / "checkpoints" / "tinydit_final.pt", made["small"])
    if "full-size" in wanted:
        note("making the checkpoint: full-size")
        script = str(ROOT / "scripts" / "make_checkpoint.py")
        subprocess.run([sys.executable, script, "full-size", str(made["full-size"]), "--no-ema"], check=True, stdout=subprocess.DEVNULL)
    return made


def sampler(parts: Parts, args, temp: Path, size: Size, made: dict[str, Path], device: str, count: int) -> None:
    """Publish, kill, terminate, fight, fall back; on `device`."""
    runtime = "onnxruntime" if device == "cuda" else "auto"
    new = lambda name, **more: Project(temp / name, made[size.name], size, device, runtime, **more)  # noqa: E731
    whole = new("whole")
    parts.part("publish", lambda: publish(whole, device))
    if "publish" in parts.done:
        parts.part("kill -9 and resume", lambda: resume(new("killed"), whole))
        parts.part("SIGTERM and resume", lambda: terminated(new("terminated"), whole))
    pool = '"auto"' if device == "cuda" else '["0"]'
    parts.part("two runs, one pool", lambda: fight(new("fight", seeds=(0, 1), pool=pool), max(count, 1)))
    hidden = Project(temp / "hidden", made[size.name], size, "cuda", "auto")
    parts.part("CUDA hidden", lambda: fallback(hidden))


def peers(parts: Parts, args, temp: Path, sizes: list[Size], made: dict[str, Path], device: str) -> None:
    """Each graph, hfbuild's runtimes beside Python's."""
    for size in sizes:
        for runtime in ["onnxruntime"] if device == "cuda" else ["onnxruntime", "rten"]:
            for by in ["onnxruntime", *([] if device == "cpu" and runtime == "rten" else ["torch"])]:
                name = f"{size.name} on {device}: hfbuild ({runtime}) beside {by}"
                python, option = (args.torch, "--torch") if by == "torch" else (args.python, "--python")
                if not imports(python, by):
                    skip(name, f"{python} does not import numpy and {by} ({option} names another)")
                    continue
                if runtime == "onnxruntime" and "ORT_DYLIB_PATH" not in Project.env:
                    skip(name, f"{args.python} has no libonnxruntime for hfbuild to load")
                    continue
                folder = temp / f"{size.name}-{device}-{runtime}-{by}"
                project = Project(folder, made[size.name], size, device, runtime)
                parts.part(name, lambda: beside(args, project, device, runtime, by))


def shown(value: object) -> str:
    if isinstance(value, dict) and "median" in value:
        return f"{value['median']:.3g} ({value['min']:.3g}..{value['max']:.3g})"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def table(parts: Parts) -> str:
    lines = []
    for name, row in parts.done.items():
        lines.append(name)
        width = max(map(len, row), default=0)
        lines += [f"  {key.ljust(width)}  {shown(value)}" for key, value in row.items() if value is not None]
    lines += [f"{name}\n  failed: {why}" for name, why in parts.failed.items()]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hfbuild", default=str(ROOT / "target" / "release" / "hfbuild"), help="the binary (default: target/release/hfbuild)")
    parser.add_argument("--python", default=sys.executable, help="a Python with numpy, onnxruntime and torch, for the peers")
    parser.add_argument("--torch", help="another Python for torch alone (default: that of --python)")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="where to draw (default: cuda where there is one)")
    parser.add_argument("--quick", action="store_true", help="the small graph, 3 labels of 6 pictures, 8 steps, batches of 2: to see that it works, on a CPU too")
    parser.add_argument("--parts", default="sampler,peers", help="by commas (default: sampler,peers)")
    parser.add_argument("--graphs", default="small,full-size", help="of the peers, by commas (default: both)")
    parser.add_argument("--labels", type=int, help="labels of each drawing (default: 13; peers on a CPU: 1)")
    parser.add_argument("--count", type=int, help="pictures a label (default: 8)")
    parser.add_argument("--steps", type=int, help="steps (default: 50; peers on a CPU: 50 of the small graph, 3 of the full-size one)")
    parser.add_argument("--batch", type=int, help="pictures at once (default: 8)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of each comparison (default: 3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of the peers (default: all cores, as hfbuild's)")
    parser.add_argument("--dir", help="where to work (default: the system's temporary directory)")
    parser.add_argument("--json", default=str(ROOT / "target" / "bench" / "gpu.json"), help="where the figures go")
    args = parser.parse_args()
    args.torch = args.torch or args.python
    args.parts, args.graphs = args.parts.split(","), args.graphs.split(",")
    return args


def sized(args, size: Size, **less: int) -> Size:
    """A size as the command line has it; `less` where it says nothing."""
    quick = {"labels": 3, "count": 6, "steps": 8, "batch": 2} if args.quick else {}
    given = {key: getattr(args, key) for key in ("labels", "count", "steps", "batch") if getattr(args, key) is not None}
    return Size(**{**vars(size), **less, **quick, **given})


def main() -> int:
    args = arguments()
    Project.binary = str(Path(args.hfbuild).resolve())
    if not os.access(Project.binary, os.X_OK):
        print(f"{args.hfbuild} is not there: `cargo build --release` makes it", file=sys.stderr)
        return 2
    found, lib = devices(), library(args.python)
    device = args.device or ("cuda" if found else "cpu")
    Project.env = {"ORT_DYLIB_PATH": lib} if lib else {}
    if not found:
        skip("everything on a GPU", "this machine has no NVIDIA device")
    begun, parts, stopped = time.time(), Parts(), False
    wanted = {"small"} if args.quick else {"full-size", *args.graphs}
    with tempfile.TemporaryDirectory(prefix="hfbuild-bench-", dir=args.dir) as name:
        temp = Path(name)
        try:
            made = checkpoints(temp, wanted)
            if "sampler" in args.parts and (device == "cuda" or args.quick or args.device):
                sampler(parts, args, temp, sized(args, SMALL if args.quick else FULL), made, device, len(found))
            elif "sampler" in args.parts:
                skip("publish, kill, terminate, fight, fall back", "at full size they want a GPU; --quick or --device cpu runs them on this CPU")
            if "peers" in args.parts:
                few = [{}, {}] if device == "cuda" else [{"labels": 1}, {"labels": 1, "steps": 3}]
                sizes = [sized(args, size, **less) for size, less in zip([SMALL, FULL], few) if size.name in args.graphs and (size is SMALL or not args.quick)]
                peers(parts, args, temp, sizes, made, device)
        except KeyboardInterrupt:
            stopped = True
            print("interrupted: what was measured until now", flush=True)
    print(f"\n{machine()['cpu']}, {machine()['cores']} cores; {', '.join(found) or 'no NVIDIA device'}; {first_line([Project.binary, '--version'])}")
    print(f"load {os.getloadavg()[0]:.1f} at the end; ratios: hfbuild's seconds by the peer's, pair by pair, median (min..max)\n")
    print(table(parts))
    out = Path(args.json)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": 1, "machine": machine(), "devices": found, "device": device, "quick": args.quick, "began": int(begun),
        "seconds": round(time.time() - begun, 1), "command": sys.argv, "hfbuild": first_line([Project.binary, "--version"]),
        "libonnxruntime": lib and Path(lib).name, "interrupted": stopped, "skipped": SKIPPED, "parts": parts.done, "failed": parts.failed,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}")
    return 1 if stopped or parts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
