#!/usr/bin/env python3
"""hfbuild's engine beside other build tools: one command, one table, one JSON file. See README.md in this folder.

Needs Python 3.11 and nothing else. What is missing on the machine (a tool, a C compiler) is printed as skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "bench-venv"
CORES = len(os.sched_getaffinity(0))
TICK = 0.06  # seconds: longer than the clock tick within which a file's stat proves nothing
TIMEOUT = 3600.0


# --- measuring -------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """A tool did not do what the workload asks of it."""


@dataclass
class Cost:
    """What one process and all that it waited for took."""

    wall: float
    cpu: float
    peak_mb: float
    reran: bool = False  # a stage below ran again, although nothing that it reads changed


class Meter:
    """Runs a command and says what it cost; by the C helper where there is a compiler."""

    def __init__(self) -> None:
        self.helper: str | None = None
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            skip("C helper", "no C compiler: no stat floor, and peak memory below Python's own cannot be told")
            return
        out = ROOT / "target" / "bench" / "engine-helper"
        out.parent.mkdir(parents=True, exist_ok=True)
        source = str(Path(__file__).with_suffix(".c"))
        for static in (["-static"], []):
            new = out.with_suffix(f".{os.getpid()}")  # another bench may be running the old one
            if subprocess.run([compiler, "-O2", *static, "-pthread", source, "-o", str(new)], capture_output=True).returncode == 0:
                os.replace(new, out)
                self.helper = str(out)
                return
        skip("C helper", f"{compiler} could not compile engine.c")

    def run(self, argv: list[str], cwd: Path, env: dict[str, str] | None = None, log: Path | None = None) -> Cost:
        """Runs `argv`; raises where it fails or takes too long."""
        sink = open(log, "wb") if log else open(os.devnull, "wb")
        full = {**os.environ, **(env or {})}
        with sink:
            if self.helper:
                done = subprocess.run(
                    [self.helper, "meter", *argv], cwd=cwd, env=full, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=sink, timeout=TIMEOUT, text=True,
                )
                last = (done.stdout.splitlines() or [""])[-1].split()
                if done.returncode or len(last) != 5:
                    raise Broken(f"{argv[0]} could not be started")
                wall, user, system, peak, code = map(float, last)
                cost = Cost(wall, user + system, peak / 1024)
            else:
                before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                child = subprocess.Popen(argv, cwd=cwd, env=full, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
                _, status, used = os.wait4(child.pid, 0)
                wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
                child.returncode = code = os.waitstatus_to_exitcode(status)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                cost = Cost(wall, cpu, used.ru_maxrss / 1024)
        if code:
            tail = log.read_text(errors="replace")[-600:] if log else ""
            raise Broken(f"{Path(argv[0]).name} ended with {int(code)}: {tail.strip()}")
        return cost


SKIPPED: list[dict[str, str]] = []


def skip(what: str, why: str) -> None:
    """Says what is not measured, and keeps it for the JSON."""
    if {"what": what, "why": why} not in SKIPPED:
        SKIPPED.append({"what": what, "why": why})
        print(f"skipped {what}: {why}", flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the graph -------------------------------------------------------------------------------------------------------


@dataclass
class Graph:
    """Stage 0 normalises the root; the others are chains of ten below it, or (`flat`) all read it directly."""

    size: int
    flat: bool = False
    distinct: bool = False

    def source(self, i: int) -> int:
        return 0 if self.flat or i % 10 == 1 else i - 1

    def command(self, i: int, read: str, write: str) -> str:
        """The shell line of a stage. `distinct`: each chain gets a content of its own at its head."""
        if i == 0:
            return f"tr -s ' ' < {read} > {write}"
        head = self.distinct and self.source(i) == 0
        return f"{{ cat {read}; echo {i}; }} > {write}" if head else f"cat {read} > {write}"

    def kept(self, i: int, read: str, write: str) -> str:
        """The line for tools that look at times: the normalising stage leaves an equal output alone."""
        if i:
            return self.command(i, read, write)
        new = f"{write}.new"
        return f"{self.command(0, read, new)} && (cmp -s {new} {write} && rm {new} || mv {new} {write})"

    def stages(self):
        """Number, what it reads and what it writes, relative to the project."""
        for i in range(self.size):
            yield i, "root.txt" if i == 0 else f"out/s{self.source(i)}", f"out/s{i}"


class Tool:
    """A build tool on a graph in a directory of its own."""

    name = "?"
    contents = True  # whether it compares contents, so that a touched root runs nothing

    def __init__(self, graph: Graph, directory: Path) -> None:
        self.graph, self.dir, self.edits, self.builds = graph, directory, 0, 0
        directory.mkdir(parents=True)
        self.edit()
        self.write()

    def write(self) -> None:
        raise NotImplementedError

    def argv(self) -> list[str]:
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        return {}

    def edit(self) -> None:
        """Changes the root; what the normalising stage makes of it stays the same, byte by byte."""
        self.edits += 1
        (self.dir / "root.txt").write_text("one" + " " * self.edits + "root\n")

    def touch(self) -> None:
        os.utime(self.dir / "root.txt")

    def last(self) -> Path:
        return self.dir / "out" / f"s{self.graph.size - 1}"

    def clean(self) -> None:
        """As if nothing was ever built: a new directory. The old one stays until the end, because ext4 looks for an
        inode longer while many were deleted in the last minutes, and that would be charged to whoever comes next."""
        self.builds += 1
        self.dir = self.dir.with_name(f"{self.dir.name.split('~')[0]}~{self.builds}")
        self.dir.mkdir()
        self.edit()
        self.write()

    def run(self, meter: Meter) -> Cost:
        return meter.run(self.argv(), self.dir, self.env(), self.dir.parent / f"{self.dir.name}.log")

    def check(self) -> None:
        """Everything is made, and the last stage's output is right."""
        there = sum(1 for e in os.scandir(self.last().parent) if e.is_file()) if self.last().exists() else 0
        if there != self.graph.size or not self.last().read_text().startswith("one root\n"):
            raise Broken(f"{self.name} made {there} of {self.graph.size} outputs, or a wrong one")


class Hfbuild(Tool):
    name = "hfbuild"
    binary = ""

    def write(self) -> None:
        head = '[project]\nname = "bench"\nversion = "0.1.0"\nlicense = "mit"\n'
        parts = [head, '[hub]\nrepo = "bench/bench"\nendpoint = "embedded"\n']
        for i, read, write in self.graph.stages():
            line = self.graph.command(i, "{in.a}", "{out}").replace("{ cat", "{{ cat").replace("; }", "; }}")
            origin = "root.txt" if i == 0 else f"s{self.graph.source(i)}"
            parts.append(
                f'[artifact.s{i}]\nkind = "command"\nrun = ["sh", "-c", "{line}"]\n'
                f'inputs = {{ a = "{origin}" }}\noutputs = ["{write}"]\n'
            )
        (self.dir / "publish.toml").write_text("".join(parts))

    def argv(self) -> list[str]:
        return [self.binary, "-q", "-j", str(CORES)]


class HfbuildEach(Hfbuild):
    """The flat graph as one stage and one `each`."""

    name = "hfbuild each"
    placeholder = "{each}"

    def write(self) -> None:
        key = self.placeholder
        line = f"{{{{ cat {{in.a}}; echo {key}; }}}} > {{out}}" if self.graph.distinct else "cat {in.a} > {out}"
        keys = ", ".join(f'"{i}"' for i in range(1, self.graph.size))
        (self.dir / "publish.toml").write_text(
            '[project]\nname = "bench"\nversion = "0.1.0"\nlicense = "mit"\n[hub]\nrepo = "bench/bench"\nendpoint = "embedded"\n'
            '[artifact.first]\nkind = "command"\nrun = ["sh", "-c", "tr -s \' \' < {in.a} > {out}"]\n'
            'inputs = { a = "root.txt" }\noutputs = ["out/s0"]\n'
            f'[artifact.leaf]\nkind = "command"\neach = [{keys}]\nrun = ["sh", "-c", "{line}"]\n'
            f'inputs = {{ a = "first" }}\noutputs = ["out/s{key}"]\n'
        )

    @classmethod
    def fails(cls, meter: Meter, temp: Path) -> str | None:
        """Asks the binary itself, with three shards: why it cannot."""
        why = None
        for at, cls.placeholder in enumerate(("{each}", "{key}")):
            try:
                tool = cls(Graph(4, True, True), temp / f"probe-each-{at}")
                tool.run(meter)
                tool.check()
                return None
            except Broken as error:
                why = why or str(error).splitlines()[0]
        return why


class Ninja(Tool):
    name, contents = "ninja", False
    binary = ""

    def write(self) -> None:
        (self.dir / "out").mkdir()
        parts = ["rule r\n  command = $line\n  restat = 1\n"]
        for i, read, write in self.graph.stages():
            parts.append(f"build {write}: r {read}\n  line = {self.graph.kept(i, read, write)}\n")
        (self.dir / "build.ninja").write_text("".join(parts))

    def argv(self) -> list[str]:
        return [self.binary, "--quiet", "-j", str(CORES)]


class N2(Ninja):
    name = "n2"

    def argv(self) -> list[str]:
        return [self.binary, "-j", str(CORES)]


class Make(Tool):
    name, contents = "make", False
    binary = ""

    def write(self) -> None:
        (self.dir / "out").mkdir()
        lines = [f"all: out/s{i}\n" for i in range(self.graph.size)]
        lines += [f"{write}: {read}\n\t@{self.graph.kept(i, read, write)}\n" for i, read, write in self.graph.stages()]
        (self.dir / "Makefile").write_text("".join([".PHONY: all\nall:\n", *lines]))

    def argv(self) -> list[str]:
        return [self.binary, "-s", "-r", "-j", str(CORES)]


class Doit(Tool):
    name = "doit"

    def write(self) -> None:
        (self.dir / "out").mkdir()
        stages = [(self.graph.command(i, r, w), r, w) for i, r, w in self.graph.stages()]
        (self.dir / "dodo.py").write_text(
            f"STAGES = {stages!r}\n\n\ndef task_s():\n    for line, read, write in STAGES:\n"
            "        yield {'name': write, 'actions': [line], 'file_dep': [read], 'targets': [write]}\n"
        )

    def argv(self) -> list[str]:
        return [str(VENV / "bin" / "doit"), "-v0", "--reporter", "error-only", "-n", str(CORES)]


class Snakemake(Tool):
    name = "snakemake"

    def write(self) -> None:
        (self.dir / "out").mkdir()
        parts = [f"rule all:\n    input: [f'out/s{{i}}' for i in range({self.graph.size})]\n"]
        for i, read, write in self.graph.stages():
            line = self.graph.command(i, "{input}", "{output}").replace("{ cat", "{{ cat").replace("; }", "; }}")
            parts.append(f'rule s{i}:\n    input: "{read}"\n    output: "{write}"\n    shell: "{line}"\n')
        (self.dir / "Snakefile").write_text("".join(parts))

    def argv(self) -> list[str]:
        return [str(VENV / "bin" / "snakemake"), "--cores", str(CORES), "--quiet", "progress", "rules"]

    def env(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.dir / ".cache"), "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"}


class Dvc(Tool):
    name = "dvc"

    def write(self) -> None:
        (self.dir / "out").mkdir()
        subprocess.run([str(VENV / "bin" / "dvc"), "init", "--no-scm", "-q"], cwd=self.dir, check=True, env={**os.environ, **self.env()})
        parts = ["stages:\n"]
        for i, read, write in self.graph.stages():
            line = self.graph.command(i, read, write)
            parts.append(f'  s{i}:\n    cmd: "{line}"\n    deps: [{read}]\n    outs: [{write}]\n')
        (self.dir / "dvc.yaml").write_text("".join(parts))

    def argv(self) -> list[str]:
        return [str(VENV / "bin" / "dvc"), "repro", "-q"]

    def env(self) -> dict[str, str]:
        return {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(self.dir.parent / "dvc-site")}


# --- the peers that are there ----------------------------------------------------------------------------------------


def installed(package: str) -> str | None:
    """The version of a package in the bench's own environment, installed now if need be."""
    python = VENV / "bin" / "python"
    ask = [str(python), "-c", f"import importlib.metadata as m; print(m.version('{package}'))"]
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, capture_output=True)
        found = subprocess.run(ask, capture_output=True, text=True)
        if found.returncode:
            note(f"installing {package} in {VENV}")
            subprocess.run([str(python), "-m", "pip", "install", "-q", package], check=True, capture_output=True, timeout=600)
            found = subprocess.run(ask, capture_output=True, text=True)
        return found.stdout.strip() or None
    except (subprocess.SubprocessError, OSError) as error:
        skip(package, f"could not be installed: {str(error)[:200]}")
        return None


def first_line(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    return (done.stdout.splitlines() or done.stderr.splitlines() or [""])[0].strip()


def peers(wanted: list[str]) -> tuple[list[type[Tool]], dict[str, str]]:
    """The fast peers that are on this machine, and their versions."""
    found: list[type[Tool]] = []
    versions: dict[str, str] = {}

    def add(tool: type[Tool], version: str | None) -> None:
        if version and tool.name in wanted:
            found.append(tool)
            versions[tool.name] = version

    if "ninja" in wanted:
        version = installed("ninja")
        Ninja.binary = next((str(p) for p in VENV.glob("lib/python*/site-packages/ninja/data/bin/ninja")), str(VENV / "bin" / "ninja"))
        add(Ninja, version and first_line([Ninja.binary, "--version"]))
    for tool in (N2, Make):
        if tool.name not in wanted:
            continue
        tool.binary = shutil.which(tool.name) or ""
        if tool.binary:
            add(tool, first_line([tool.binary, "--version"]))
        else:
            skip(tool.name, "not on PATH")
    if "doit" in wanted:
        add(Doit, installed("doit"))
    return found, versions


# --- pairs -----------------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(costs: list[Cost]) -> dict:
    return {
        "wall_s": spread([c.wall for c in costs]),
        "cpu_s": spread([c.cpu for c in costs]),
        "peak_mb": max(c.peak_mb for c in costs),
        "reran": any(c.reran for c in costs),
        "runs": [[round(c.wall, 6), round(c.cpu, 6), round(c.peak_mb, 2)] for c in costs],
    }


def ratios(ours: list[Cost], theirs: list[Cost]) -> dict:
    """Ours by theirs, pair by pair."""
    return {
        "wall": spread([a.wall / max(b.wall, 1e-6) for a, b in zip(ours, theirs)]),
        "cpu": spread([a.cpu / max(b.cpu, 1e-6) for a, b in zip(ours, theirs)]),
    }


class Bench:
    """Collects rows; each is one peer beside hfbuild on one workload."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.rows: list[dict] = []

    def pair(self, size: int, workload: str, ours: str, theirs: str, once_ours, once_theirs, pairs: int) -> None:
        """A B A B ...: what disturbs the machine disturbs both."""
        a: list[Cost] = []
        b: list[Cost] = []
        note(f"{size} stages, {workload}: {ours} and {theirs}, {pairs} pairs")
        row = {"size": size, "workload": workload, "ours": ours, "peer": theirs, "pairs": pairs}
        try:
            for _ in range(pairs):
                a.append(once_ours())
                b.append(once_theirs())
        except (Broken, subprocess.TimeoutExpired, OSError) as error:
            row["failed"] = str(error)
            print(f"failed: {size} {workload}, {ours} and {theirs}: {error}", flush=True)
        if a and len(a) == len(b):
            row |= {"hfbuild": summary(a), "other": summary(b), "ratio": ratios(a, b)}
        self.rows.append(row)


def noop(tool: Tool, meter: Meter) -> Cost:
    return unchanged(tool, meter)


def touched(tool: Tool, meter: Meter) -> Cost:
    tool.touch()
    time.sleep(TICK)
    return unchanged(tool, meter)


def edited(tool: Tool, meter: Meter) -> Cost:
    tool.edit()
    time.sleep(TICK)
    return unchanged(tool, meter)


def unchanged(tool: Tool, meter: Meter) -> Cost:
    """Runs; the chains must not have run again."""
    if not tool.last().exists():
        raise Broken(f"{tool.name} has not built")
    before = tool.last().stat().st_mtime_ns
    cost = tool.run(meter)
    cost.reran = tool.last().stat().st_mtime_ns != before
    if cost.reran and isinstance(tool, Hfbuild):
        raise Broken(f"{tool.name} ran the last stage again, though nothing that it reads changed")
    return cost


def cold(tool: Tool, meter: Meter) -> Cost:
    tool.clean()
    time.sleep(TICK)
    cost = tool.run(meter)
    tool.check()
    return cost


WORKLOADS = {"no-op": noop, "touch root": touched, "edit root, same output": edited}


def ready(tool: Tool, meter: Meter) -> Cost | None:
    """Builds once, and once more so that every tool's own bookkeeping is done."""
    try:
        cost = tool.run(meter)
        tool.check()
        time.sleep(TICK)
        unchanged(tool, meter)
        return cost
    except (Broken, subprocess.TimeoutExpired) as error:
        skip(f"{tool.name} on {tool.graph.size} stages", str(error))
        return None


# --- the parts -------------------------------------------------------------------------------------------------------


def same_content_works(meter: Meter, temp: Path) -> bool:
    """Stages side by side that make equal outputs: a build tool must take that."""
    for at in range(3):
        try:
            tool = Hfbuild(Graph(200), temp / f"probe-same-{at}")
            tool.run(meter)
            tool.check()
        except Broken as error:
            note(f"equal outputs side by side: {error}")
            return False
    return True


def engine(bench: Bench, args, found: list[type[Tool]], temp: Path, distinct: bool, each: bool, setups: dict) -> None:
    """The graph at each size. `setups` takes what the single builds before the pairs cost."""
    meter = bench.meter
    for size in args.sizes:
        shapes: list[tuple[type[Hfbuild], bool]] = [(Hfbuild, False)] + ([(HfbuildEach, True)] if each else [])
        for ours_type, flat in shapes:
            graph = Graph(size, flat, distinct)
            base = temp / f"{size}-{ours_type.name.replace(' ', '-')}"
            ours = ours_type(graph, base / "ours")
            rivals = found if not flat else [t for t in found if t.name in ("ninja", "n2")]
            note(f"{size} stages: first build by {ours.name}")
            built = ready(ours, meter)
            if built is None:
                continue
            setups[f"{ours.name} {size}"] = {"wall_s": built.wall, "cpu_s": built.cpu, "peak_mb": built.peak_mb}
            for rival_type in rivals:
                rival = rival_type(graph, base / rival_type.name)
                note(f"{size} stages: first build by {rival.name}")
                built = ready(rival, meter)
                if built is None:
                    continue
                setups[f"{rival.name}{' flat' if flat else ''} {size}"] = {
                    "wall_s": built.wall, "cpu_s": built.cpu, "peak_mb": built.peak_mb,
                }
                for name, once in WORKLOADS.items():
                    bench.pair(size, name, ours.name, rival.name, lambda: once(ours, meter), lambda: once(rival, meter), args.pairs)
                if size <= args.cold_max:
                    bench.pair(size, "cold", ours.name, rival.name, lambda: cold(ours, meter), lambda: cold(rival, meter), args.cold_pairs)
                    ready(ours, meter)
            floors(bench, args, ours, base, size)


def floors(bench: Bench, args, ours: Hfbuild, base: Path, size: int) -> None:
    """What no tool can go below: a stat of each file, and a spawn of each stage."""
    meter = bench.meter
    if meter.helper is None:
        skip("stat floor", "needs a C compiler")
        return
    files = base / "files"
    names = ["root.txt", *(f"out/s{i}" for i in range(size))]
    files.write_text("".join(f"{ours.dir / n}\n" for n in names))
    floor = [meter.helper, "stat", str(files), "2"]
    bench.pair(size, "no-op", ours.name, "(stat floor, 2 threads)", lambda: noop(ours, meter), lambda: meter.run(floor, base), args.pairs)
    if size <= args.cold_max and ours.name == "hfbuild":
        listed = base / "lines"

        def spawn() -> Cost:
            for at in range(1000):
                out = base / f"spawned~{at}"
                if not out.exists():
                    break
            out.mkdir()
            stages = (ours.graph.command(i, str(ours.dir / r), str(out / f"s{i}")) for i, r, _ in ours.graph.stages())
            listed.write_text("".join(f"{line}\n" for line in stages))
            return meter.run([meter.helper, "spawn", str(listed), str(CORES)], base)

        bench.pair(size, "cold", ours.name, "(spawn floor)", lambda: cold(ours, meter), spawn, args.cold_pairs)


def overhead(bench: Bench) -> list[dict]:
    """Milliseconds of CPU a stage above the bare spawn, cold: of hfbuild in the same pairs, of the others by medians."""
    out = []
    for row in bench.rows:
        if row["workload"] == "cold" and row["peer"] == "(spawn floor)" and "hfbuild" in row:
            size, floor = row["size"], row["other"]
            a, b = row["hfbuild"]["runs"], floor["runs"]
            per = [(x[1] - y[1]) / size * 1000 for x, y in zip(a, b)]
            out.append({"tool": "hfbuild", "size": size, "ms_cpu_a_stage_above_spawn": spread(per), "spawn_ms": floor["cpu_s"]["median"] / size * 1000})
            for other in bench.rows:
                if other["workload"] == "cold" and other["size"] == size and other["ours"] == "hfbuild" and "other" in other and other["peer"][0] != "(":
                    per = [(x[1] - floor["cpu_s"]["median"]) / size * 1000 for x in other["other"]["runs"]]
                    out.append({"tool": other["peer"], "size": size, "ms_cpu_a_stage_above_spawn": spread(per)})
    return out


def slow(bench: Bench, args, temp: Path, distinct: bool, versions: dict[str, str]) -> None:
    """snakemake and DVC, once."""
    meter = bench.meter
    for tool_type in (Snakemake, Dvc):
        version = installed(tool_type.name)
        if version is None:
            continue
        versions[tool_type.name] = version
        graph = Graph(args.slow_size, False, distinct)
        base = temp / f"slow-{tool_type.name}"
        try:
            ours, rival = Hfbuild(graph, base / "ours"), tool_type(graph, base / "peer")
        except (OSError, subprocess.SubprocessError) as error:
            skip(tool_type.name, str(error)[:200])
            continue
        for name, once in {"cold": cold, "no-op": noop, "touch root": touched, "edit root, same output": edited}.items():
            bench.pair(args.slow_size, name, "hfbuild", rival.name, lambda: once(ours, meter), lambda: once(rival, meter), 1)


def hashing(bench: Bench, args, temp: Path) -> None:
    """Eight large files, all touched: every byte has to be read once, and nothing else."""
    meter, count, mb = bench.meter, 8, args.hash_mb
    if shutil.disk_usage(temp).free < (count * mb << 20) * 1.2:
        skip("large files", f"{temp} lacks room for {count} files of {mb} MB")
        return
    base = temp / "large"
    base.mkdir()
    names = [f"large{i}.bin" for i in range(count)]
    for at, name in enumerate(names):
        block = os.urandom(1 << 20)
        with open(base / name, "wb") as file:
            for k in range(mb):
                file.write(k.to_bytes(8, "little") + at.to_bytes(8, "little") + block[16:])
    inputs = ", ".join(f'a{i} = "{n}"' for i, n in enumerate(names))
    (base / "publish.toml").write_text(
        '[project]\nname = "bench"\nversion = "0.1.0"\nlicense = "mit"\n[hub]\nrepo = "bench/bench"\nendpoint = "embedded"\n'
        f'[artifact.one]\nkind = "command"\nrun = ["sh", "-c", "echo made > {{out}}"]\ninputs = {{ {inputs} }}\noutputs = ["out/one"]\n'
    )
    argv = [Hfbuild.binary, "-q"]
    b3sum = shutil.which("b3sum")
    if b3sum is None:
        skip("b3sum", "not on PATH; `cat` of the same files, one after the other, stands in as a lower bound for reading")
    rivals = {f"b3sum, {CORES} threads": [b3sum, *names]} if b3sum else {"cat > /dev/null": ["cat", *names]}
    rivals["sha256sum (1 thread)"] = ["sha256sum", *names]

    def ours() -> Cost:
        for name in names:
            os.utime(base / name)
        time.sleep(TICK)
        before = (base / "out" / "one").stat().st_mtime_ns
        cost = meter.run(argv, base, log=temp / "large.log")
        if (base / "out" / "one").stat().st_mtime_ns != before:
            raise Broken("the stage ran, though no content changed")
        return cost

    try:
        meter.run(argv, base, log=temp / "large.log")
    except Broken as error:
        skip("large files", str(error))
        return
    for name, line in rivals.items():
        if shutil.which(line[0]):
            bench.pair(1, f"touch {count} x {mb} MB", "hfbuild", name, ours, lambda: meter.run(line, base), 3)
        else:
            skip(name, "not on PATH")
    for row in bench.rows:
        if row["workload"].startswith(f"touch {count} x") and "hfbuild" in row:
            row["gb_per_s"] = {k: count * mb * 1048576 / 1e9 / row[k]["wall_s"]["median"] for k in ("hfbuild", "other")}
    shutil.rmtree(base, ignore_errors=True)


# --- what is said ----------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def table(rows: list[dict]) -> str:
    head = ["stages", "workload", "hfbuild wall", "cpu", "MB", "peer", "wall", "cpu", "MB", "wall ratio", "(min..max)", "cpu ratio", "(min..max)"]
    lines = [head]
    for row in rows:
        if "ratio" not in row:
            lines.append([str(row["size"]), row["workload"], "failed", "", "", row["peer"], row.get("failed", "")[:40], *[""] * 6])
            continue
        ours, other, r = row["hfbuild"], row["other"], row["ratio"]
        cells = [str(row["size"]), row["workload"] + (" (each)" if row["ours"] != "hfbuild" else "")]
        cells += [seconds(ours["wall_s"]["median"]), seconds(ours["cpu_s"]["median"]), f"{ours['peak_mb']:.0f}", row["peer"] + (" (reran all)" if other["reran"] else "")]
        cells += [seconds(other["wall_s"]["median"]), seconds(other["cpu_s"]["median"]), f"{other['peak_mb']:.0f}"]
        for key in ("wall", "cpu"):
            digits = 2 if r[key]["median"] >= 0.1 else 3
            cells += [f"{r[key]['median']:.{digits}f}", f"{r[key]['min']:.{digits}f}..{r[key]['max']:.{digits}f}"]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left = {1, 5}
    return "\n".join(
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in lines
    )


def machine() -> dict:
    model = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    memory = next((l.split(":", 1)[1].strip() for l in Path("/proc/meminfo").read_text().splitlines() if l.startswith("MemTotal")), "?")
    return {"cores": CORES, "cpu": model, "memory": memory, "kernel": platform.release(), "python": platform.python_version()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hfbuild", default=str(ROOT / "target" / "release" / "hfbuild"), help="the binary (default: target/release/hfbuild)")
    parser.add_argument("--sizes", default="1000,10000", help="stages, by commas; empty: none (default: 1000,10000)")
    parser.add_argument("--peers", default="ninja,n2,make,doit", help="the fast peers, by commas")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of each quick workload (default: 7)")
    parser.add_argument("--cold-pairs", type=int, default=3, help="pairs of cold builds (default: 3)")
    parser.add_argument("--cold-max", type=int, default=1000, help="the largest size that is built cold in pairs (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="200 stages, 3 pairs, 1 cold pair: to see that the bench works")
    parser.add_argument("--distinct", action="store_true", help="every chain makes another content, also where equal ones would work")
    parser.add_argument("--slow", action="store_true", help="snakemake and DVC too, once")
    parser.add_argument("--slow-size", type=int, default=300, help="stages for those (default: 300)")
    parser.add_argument("--hash", action="store_true", help="also eight large files, all touched")
    parser.add_argument("--hash-mb", type=int, default=512, help="MB of each (default: 512)")
    parser.add_argument("--dir", help="where to work (default: the system's temporary directory)")
    parser.add_argument("--json", default=str(ROOT / "target" / "bench" / "engine.json"), help="where the figures go")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.pairs, args.cold_pairs = "200", 3, 1
    args.sizes = [int(s) for s in args.sizes.split(",") if s]
    args.peers = [p for p in args.peers.split(",") if p]
    return args


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def main() -> int:
    args = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    Hfbuild.binary = str(Path(args.hfbuild).resolve())
    if not os.access(Hfbuild.binary, os.X_OK):
        print(f"{args.hfbuild} is not there: `cargo build --release` makes it", file=sys.stderr)
        return 2
    meter = Meter()
    bench = Bench(meter)
    begun, load = time.time(), os.getloadavg()
    found, versions = peers(args.peers)
    versions["hfbuild"] = first_line([Hfbuild.binary, "--version"])
    setups: dict[str, dict] = {}
    if args.dir:
        Path(args.dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hfbuild-bench-", dir=args.dir) as name:
        temp = Path(name)
        distinct, each, stopped = args.distinct, False, False
        try:
            if not distinct and (args.sizes or args.slow) and not same_content_works(meter, temp):
                skip("equal outputs", "this hfbuild fails where stages side by side make equal content: every chain has a content of its own instead, for all tools")
                distinct = True
            if args.sizes:
                why = HfbuildEach.fails(meter, temp)
                each = why is None
                if why:
                    skip("hfbuild each", f"`each` of commands does not work in this hfbuild: {why}")
                engine(bench, args, found, temp, distinct, each, setups)
            if args.slow:
                slow(bench, args, temp, distinct, versions)
            else:
                skip("snakemake, dvc", "slow; --slow runs them once")
            if args.hash:
                hashing(bench, args, temp)
            else:
                skip("large files", "--hash runs them")
        except KeyboardInterrupt:
            stopped = True
            print("interrupted: what was measured until now", flush=True)
    above = overhead(bench)
    print(f"\n{machine()['cpu']}, {CORES} cores; load {load[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    print(", ".join(f"{k} {v.removeprefix(k).strip()}" for k, v in versions.items()))
    print(f"medians of pairs; ratio: hfbuild by peer, pair by pair; {'each chain has a content of its own' if distinct else 'all stages make the same content'}\n")
    print(table(bench.rows))
    for row in bench.rows:
        if "gb_per_s" in row:
            print(f"{row['workload']}: hfbuild {row['gb_per_s']['hfbuild']:.2f} GB/s, {row['peer']} {row['gb_per_s']['other']:.2f} GB/s")
    for name, cost in setups.items():
        if not any(row["workload"] == "cold" and name.endswith(f" {row['size']}") for row in bench.rows):
            print(f"first build, once: {name}: {seconds(cost['wall_s'])} s wall, {seconds(cost['cpu_s'])} s CPU, {cost['peak_mb']:.0f} MB")
    if above:
        print("\ncold, CPU above the bare spawn" + f" ({above[0]['spawn_ms']:.2f} ms a stage), ms a stage, median (min..max):")
        for line in above:
            s = line["ms_cpu_a_stage_above_spawn"]
            print(f"  {line['size']:>6} {line['tool']:<10} {s['median']:.2f} ({s['min']:.2f}..{s['max']:.2f})")
    out = Path(args.json)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": 1, "machine": machine(), "load_before": load, "load_after": os.getloadavg(), "began": int(begun),
        "seconds": round(time.time() - begun, 1), "command": sys.argv, "versions": versions, "distinct_contents": distinct,
        "interrupted": stopped, "skipped": SKIPPED, "first_builds": setups, "rows": bench.rows, "cold_overhead": above,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}")
    return 1 if stopped or any("failed" in row for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
