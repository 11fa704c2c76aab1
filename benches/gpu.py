#!/usr/bin/env python3
"""The sampler on a GPU: one command, one table, one JSON file. See README.md in this folder.

Needs the built binary and Python 3.11; for the peers a Python with numpy, onnxruntime (on a GPU onnxruntime-gpu) and torch.
What is missing on the machine is printed as skipped. Nothing is asked of a network. Of several devices one is used.
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

from engine import ROOT, Broken, first_line, machine, note, skip, spread, SKIPPED
from gpu_png import apart
from gpu_project import FULL, GUIDANCE, SMALL, Busy, Project, Size, rows

def compared(one: Project, other: Project) -> dict:
    """How the pictures of two projects agree: files that are the same, and the greatest difference of a pixel."""
    ours, theirs = one.files(), other.files()
    if ours.keys() != theirs.keys() or not ours:
        raise Broken(f"{len(ours)} pictures and {len(theirs)}, not the same ones")
    differing = [path for path in ours if ours[path].name != theirs[path].name]
    worst = max((apart(ours[path].read_bytes(), theirs[path].read_bytes())[0] for path in differing), default=0)
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
    while child.poll() is None and project.parts() == 0 and not project.receipts():
        time.sleep(0.005)
    if child.poll() is not None:
        raise Broken("it ended before it could be told to: draw more (--count, --steps)")
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


def unloadable(project: Project, folder: Path) -> dict:
    """A libonnxruntime whose part for CUDA is not beside it: an error before anything runs, and never the CPU instead."""
    library = Path(Project.env["ORT_DYLIB_PATH"])
    alone = folder / "onnxruntime" / "capi" / library.name
    alone.parent.mkdir(parents=True)
    shutil.copyfile(library, alone)
    code = project.start("build", "samples", env={"ORT_DYLIB_PATH": str(alone)}).wait()
    said = [line for line in project.said().splitlines() if "cannot be had here" in line]
    if code != 1 or not said or any((project.dir / "cache" / "blobs").rglob("*")):
        raise Broken(f"it ended with {code}: {project.said()[-400:]}")
    return {"exit_code": code, "error": said[0].strip()}


def peer(args, by: str, project: Project, device: str, *more: str) -> dict:
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
    argv += ["--heads", "6" if project.size.name == "full-size" else "4", "--pictures", str(project.dir / "folders.txt"), *more]
    # as hfbuild's own worker has it: torch's threads spin while they wait, and lose much where the machine has other work
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
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


def devices(temp: Path) -> tuple[list[dict], str]:
    """The NVIDIA devices that hfbuild may use, by its own `doctor`, and why there are none."""
    folder = temp / "nothing"
    folder.mkdir()
    done = subprocess.run([Project.binary, "doctor", "--json"], cwd=folder, capture_output=True, text=True, env={**os.environ, **Project.env})
    if done.returncode:
        return [], f"`hfbuild doctor` ends with {done.returncode}: {done.stderr.strip()[-200:]}"
    found = json.loads(done.stdout)["devices"]
    return found["gpus"], found["why"] or "no NVIDIA device is visible"


def use_one(gpus: list[dict]) -> None:
    """The first device, and no other, for hfbuild, its peers and nvidia-smi alike."""
    first = gpus[0]
    os.environ |= {"CUDA_VISIBLE_DEVICES": first["id"], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if len(gpus) > 1:
        note(f"of {len(gpus)} devices the first is used: {first['name']} ({first['id']})")
    if shutil.which("nvidia-smi") is None or not first["uuid"].startswith("GPU-"):
        skip("how busy the device is", "nvidia-smi is not there, or does not tell it of a part of a device")
    else:
        Busy.smi = first["uuid"]


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


def sampler(parts: Parts, args, temp: Path, size: Size, made: dict[str, Path], device: str) -> None:
    """Publish, kill, terminate, fight, fall back; on `device`."""
    runtime = "onnxruntime" if device == "cuda" else "auto"
    new = lambda name, **more: Project(temp / name, made[size.name], size, device, runtime, **more)  # noqa: E731
    whole = new("whole")
    parts.part("publish", lambda: publish(whole, device))
    if "publish" in parts.done:
        parts.part("kill -9 and resume", lambda: resume(new("killed"), whole))
        parts.part("SIGTERM and resume", lambda: terminated(new("terminated"), whole))
    else:
        skip("kill -9 and resume, SIGTERM and resume", "there is no undisturbed run to compare with")
    pool = '"auto"' if device == "cuda" else '["0"]'
    parts.part("two runs, one pool", lambda: fight(new("fight", seeds=(0, 1), pool=pool), 1))
    hidden = Project(temp / "hidden", made[size.name], size, "cuda", "auto")
    parts.part("CUDA hidden", lambda: fallback(hidden))
    if device == "cuda" and "ORT_DYLIB_PATH" in Project.env:
        lost = Project(temp / "lost", made[size.name], size, "cuda", "auto")
        parts.part("CUDA's provider lost", lambda: unloadable(lost, temp / "alone"))
    else:
        skip("CUDA's provider lost", "it wants a device, and a libonnxruntime (--python); the test `driver` has its own")


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


def parity(parts: Parts, args, temp: Path, small: Path, device: str) -> None:
    """How far apart the same pictures are on other devices, runtimes and precisions: recorded, and where a bound is known held."""
    size = sized(args, SMALL, labels=2)
    libonnxruntime = "ORT_DYLIB_PATH" in Project.env
    runs = {"rten fp32": ("cpu", "rten", "fp32")}
    if libonnxruntime:
        runs |= {"cpu fp32": ("cpu", "onnxruntime", "fp32"), f"{device} fp16": (device, "onnxruntime", "fp16")}
    if device == "cuda":
        runs["cuda fp32"] = ("cuda", "onnxruntime", "fp32")
    made = {}
    for name, (where, runtime, precision) in runs.items():
        made[name] = Project(temp / f"parity {name}", small, size, where, runtime, precision=precision)
        parts.part(f"parity: {name}", lambda: drawn(made[name]))
    for one, other, most, mean in BOUNDS:
        if all(f"parity: {name}" in parts.done for name in (one, other)):
            parts.part(f"parity: {one} against {other}", lambda: against(made[one], made[other], most, mean))
        else:
            skip(f"parity: {one} against {other}", "not both were drawn" if libonnxruntime else "there is no libonnxruntime (--python)")
    for by in ("onnxruntime", "torch"):
        python, name = args.torch if by == "torch" else args.python, f"parity: TF32 by {by} against cuda fp32"
        if "parity: cuda fp32" not in parts.done or not imports(python, by):
            skip(name, "it wants cuda fp32, and a Python that imports it")
            continue
        parts.part(name, lambda: peer(args, by, made["cuda fp32"], "cuda", "--tf32"))
    if libonnxruntime:
        for where in ["cpu", *(["cuda"] if device == "cuda" else [])]:
            parts.part(f"parity: reference vectors on {where}", lambda: vectors(args, where))


BOUNDS = [("cpu fp32", "rten fp32", 1, 0.02), ("cuda fp32", "cpu fp32", 1, 0.02), ("cuda fp16", "cuda fp32", None, None), ("cpu fp16", "cpu fp32", None, None)]
"""What is held against what, the greatest difference of a value, and of the mean over all values, of 255; `None`: recorded."""


def drawn(project: Project) -> dict:
    project.run("build", "samples")
    seconds = sum(project.volatile("seconds"))
    on = {r["device"] for r in project.receipts().values()}
    return {"on": "; ".join(sorted(on)), "pictures_per_s": project.size.pictures / seconds}


def against(one: Project, other: Project, most: int | None, mean: float | None) -> dict:
    ours, theirs = one.files(), other.files()
    pairs = [apart(ours[path].read_bytes(), theirs[path].read_bytes()) for path in ours]
    found = {"pictures": len(pairs), "max_difference": max(p[0] for p in pairs), "mean_difference": sum(p[1] for p in pairs) / len(pairs)}
    if most is not None and (found["max_difference"] > most or found["mean_difference"] > mean):
        raise Broken(f"{found['max_difference']} at most and {found['mean_difference']:.3g} in the mean, and {most} and {mean} of 255 are allowed")
    return found


def vectors(args, where: str) -> dict:
    """The forward on the reference vectors of the tests, by the libonnxruntime that hfbuild loads."""
    done = subprocess.run([args.python, str(ROOT / "benches" / "gpu_vectors.py"), where], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise Broken((done.stderr.strip().splitlines() or ["?"])[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


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
    parser.add_argument("--parts", default="sampler,parity,peers", help="by commas (default: all, sampler,parity,peers)")
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
    lib = library(args.python)
    Project.env = {"ORT_DYLIB_PATH": lib} if lib else {}
    begun, parts, stopped = time.time(), Parts(), False
    wanted = {"small"} if args.quick else {"full-size", *args.graphs, *(["small"] if "parity" in args.parts else [])}
    if args.dir:
        Path(args.dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hfbuild-bench-", dir=args.dir) as name:
        temp = Path(name)
        found, why = devices(temp)
        device = args.device or ("cuda" if found else "cpu")
        if found:
            use_one(found)
        else:
            skip("everything on a GPU", why)
        try:
            made = checkpoints(temp, wanted)
            if "sampler" in args.parts and (device == "cuda" or args.quick or args.device):
                sampler(parts, args, temp, sized(args, SMALL if args.quick else FULL), made, device)
            elif "sampler" in args.parts:
                skip("publish, kill, terminate, fight, fall back", "at full size they want a GPU; --quick or --device cpu runs them on this CPU")
            if "parity" in args.parts:
                parity(parts, args, temp, made.get("small"), device)
            if "peers" in args.parts:
                few = [{}, {}] if device == "cuda" else [{"labels": 1}, {"labels": 1, "steps": 3}]
                sizes = [sized(args, size, **less) for size, less in zip([SMALL, FULL], few) if size.name in args.graphs and (size is SMALL or not args.quick)]
                peers(parts, args, temp, sizes, made, device)
        except KeyboardInterrupt:
            stopped = True
            print("interrupted: what was measured until now", flush=True)
    names = [gpu["name"] for gpu in found]
    print(f"\n{machine()['cpu']}, {machine()['cores']} cores; {', '.join(names) or 'no NVIDIA device'}; {first_line([Project.binary, '--version'])}")
    print(f"load {os.getloadavg()[0]:.1f} at the end; ratios: hfbuild's seconds by the peer's, pair by pair, median (min..max)\n")
    print(table(parts))
    out = Path(args.json)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": 1, "machine": machine(), "devices": names, "device": device, "quick": args.quick, "began": int(begun),
        "seconds": round(time.time() - begun, 1), "command": sys.argv, "hfbuild": first_line([Project.binary, "--version"]),
        "libonnxruntime": lib and Path(lib).name, "interrupted": stopped, "skipped": SKIPPED, "parts": parts.done, "failed": parts.failed,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}")
    return 1 if stopped or parts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
