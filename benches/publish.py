#!/usr/bin/env python3
"""hfbuild's publish beside `hf upload`, against hfbuild's own hub on loopback: one table, one JSON file. See README.md.

Needs Python 3.11; huggingface_hub is installed into target/bench-venv unless `--python` has it. Every run gets a hub
and caches of its own, so nothing is there already. Requests are counted by a proxy, in runs of their own that are not
timed. `strace`, where it is there, counts the files that a run opens and the bytes that it reads of them.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import http.server
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import engine

ROOT = Path(__file__).resolve().parent.parent
METER = engine.Meter()
VENV = ROOT / "target" / "bench-venv-hub"
CLIENT = "huggingface_hub==2.4.0"
REPO = "bench/files"


def peer_python(given: str | None) -> str:
    """A Python with huggingface_hub."""
    if given:
        return given
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", CLIENT], check=True)
    return str(python)


class Hub:
    """`hfbuild hub serve` on a folder of its own."""

    def __init__(self, binary: str, folder: Path, xet: bool) -> None:
        folder.mkdir(parents=True)
        (folder / "publish.toml").write_text(manifest([]))
        args = [binary, "hub", "serve", "--port", "0"] + ([] if xet else ["--no-xet"])
        self.child = subprocess.Popen(args, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.child.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.url

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()


class Counter:
    """A proxy before a hub that counts requests, and the bytes that are sent with them, by what they are."""

    def __init__(self, url: str) -> None:
        host = url.removeprefix("http://")
        counted: collections.Counter[str] = collections.Counter()
        sent: collections.Counter[str] = collections.Counter()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if "chunked" in (self.headers.get("transfer-encoding") or ""):
                    body = self.chunks()
                upstream = http.client.HTTPConnection(host)
                skipped = {"host", "content-length", "transfer-encoding", "connection"}
                headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                data = answer.read()
                if "json" in (answer.getheader("content-type") or ""):
                    # addresses that the hub names lead here, so that content comes this way too
                    data = data.replace(host.encode(), here.encode())
                counted[kind(self.command, self.path)] += 1
                sent[kind(self.command, self.path)] += len(body)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in skipped:
                        self.send_header(name, value.replace(host, here))
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)
                upstream.close()

            def chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = forward

            def log_message(self, *_: object) -> None:
                pass

        self.counted, self.sent = counted, sent
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        here = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{here}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def taken(self) -> dict[str, int]:
        """Requests since the last time."""
        seen = dict(self.counted)
        self.counted.clear()
        self.sent.clear()
        return seen


def kind(method: str, path: str) -> str:
    path = path.split("?")[0]
    for word in ("xorbs", "shards"):
        if f"/{word}" in path:
            return f"xet {word}"
    for word in ("preupload", "commit/", "commits", "tree", "revision", "refs", "whoami", "repos/create", "validate-yaml"):
        if f"/{word}" in path:
            return word.rstrip("/")
    if "info/lfs" in path or "/lfs/" in path:
        return "lfs " + method
    return method + " " + re.sub(r"[0-9a-f]{32,}", "*", path)


def manifest(names: list[str]) -> str:
    """One artifact a file, so that a changed one is read alone; of very many files one artifact of all."""
    text = f'[project]\nname = "bench"\nversion = "1.0.0"\nlicense = "apache-2.0"\n[hub]\nrepo = "{REPO}"\n'
    one_each = len(names) <= 1000
    artifacts = {name.split(".")[0]: [name] for name in names} if one_each else {"data": names}
    for artifact, files in artifacts.items():
        paths = ", ".join(f'"src/{name}"' for name in files)
        text += f'[artifact.{artifact}]\nkind = "files"\npaths = [{paths}]\n'
    places = [f'"data/{files[0]}" = "{artifact}"' for artifact, files in artifacts.items()]
    places = ", ".join(places) if one_each else '"data/" = "data"'
    return text + (f'[artifact.publish]\nkind = "upload"\nfiles = {{ {places} }}\n' if names else "")


def make(folder: Path, files: int, size: int) -> None:
    """A project: incompressible files that no two of which share anything."""
    names = [f"f{n:05}.bin" if size > 65536 else f"f{n:05}.txt" for n in range(files)]
    (folder / "src").mkdir(parents=True)
    rng = random.Random(files * 7 + size)
    for name in names:
        data = rng.randbytes(size)
        (folder / "src" / name).write_bytes(data if size > 65536 else data.hex().encode()[:size])
    (folder / "publish.toml").write_text(manifest(names))


def timed(args: list[str], cwd: Path, env: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory (MB) of one process and all it waited for.

    Started by engine.c where there is a C compiler: a child of Python begins with Python's own peak, hundreds of MB here.
    """
    if METER.helper is None:
        begun = time.perf_counter()
        child = subprocess.Popen(args, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall, cpu, peak = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
        code = child.returncode = os.waitstatus_to_exitcode(status)
    else:
        done = subprocess.run([METER.helper, "meter", *args], cwd=cwd, env=env, capture_output=True, text=True)
        said = done.stderr
        wall, user, system, peak, code = map(float, done.stdout.splitlines()[-1].split())
        cpu = user + system
    if code != 0:
        raise RuntimeError(f"{args} failed with {int(code)}:\n{said}")
    return {"wall": wall, "cpu": cpu, "mb": peak / 1024}


def traced(args: list[str], cwd: Path, env: dict[str, str], below: list[str]) -> dict[str, int]:
    """Files below these folders that a run opens, and the bytes that it reads of them or maps."""
    log = cwd / "strace.log"
    calls = "trace=openat,read,pread64,readv,mmap,copy_file_range"
    done = subprocess.run(["strace", "-f", "-y", "-e", calls, "-o", log, *args], cwd=cwd, env=env, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    opened, read = set(), 0
    for line in log.read_text(errors="replace").splitlines():
        path = re.search(r"<([^<>]+)>", line)
        ours = path and any(f"/{folder}/" in path[1] for folder in below)
        if "openat(" in line and (made := re.search(r"= \d+<([^<>]+)>$", line)):
            if any(f"/{folder}/" in made[1] for folder in below) and "O_DIRECTORY" not in line and "O_PATH" not in line:
                opened.add(made[1])
        elif ours and (size := re.search(r"= (\d+)$", line)):
            read += int(size[1])
        elif ours and "mmap(" in line and (size := re.search(r"mmap\([^,]+, (\d+)", line)):
            read += int(size[1])
    return {"opened": len(opened), "bytes": read}


def clean_env(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HFBUILD"))}
    fixed = {"HOME": str(home), "HF_HOME": str(home / "hf"), "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return kept | fixed | more


class Bench:
    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work, self.python, self.runs = args, work, peer_python(args.python), 0
        self.rows: list[dict] = []

    def fresh(self, name: str) -> Path:
        self.runs += 1
        return self.work / f"{self.runs}-{name}"

    @staticmethod
    def clear(*folders: Path) -> None:
        """What a run left, so that a few gigabytes are enough."""
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def project(self, source: Path) -> Path:
        """A copy of the project whose files are links, so that every run begins with no cache."""
        folder = self.fresh("project")
        (folder / "src").mkdir(parents=True)
        for file in (source / "src").iterdir():
            os.link(file, folder / "src" / file.name)
        shutil.copy(source / "publish.toml", folder)
        return folder

    def ours(self, project: Path, url: str) -> tuple[list[str], Path, dict[str, str]]:
        return [self.args.hfbuild, "--endpoint", url], project, clean_env(project)

    def theirs(self, project: Path, url: str, home: Path, xet: bool) -> tuple[list[str], Path, dict[str, str]]:
        env = clean_env(home, HF_ENDPOINT=url, HF_TOKEN="hf_none", HF_HUB_DISABLE_XET="0" if xet else "1")
        hf = str(Path(self.python).parent / "hf")
        return [hf, "upload", REPO, str(project / "src"), "data"], project, env

    def pairs(self, source: Path, xet: bool, label: str) -> None:
        """First, unchanged, one changed: hfbuild and `hf upload` by turns, each with a hub of its own."""
        seen = collections.defaultdict(list)
        for _ in range(self.args.pairs):
            for who in ("hfbuild", "hf"):
                project, home, folder = self.project(source), self.fresh("home"), self.fresh("hub")
                home.mkdir()
                with Hub(self.args.hfbuild, folder, xet) as hub:
                    run = self.ours(project, hub.url) if who == "hfbuild" else self.theirs(project, hub.url, home, xet)
                    seen["first", who].append(timed(*run))
                    seen["unchanged", who].append(timed(*run))
                    changed = sorted((project / "src").iterdir())[:4][-1]
                    data = changed.read_bytes()
                    changed.unlink()
                    changed.write_bytes(data[::-1])
                    seen["one changed", who].append(timed(*run))
                self.clear(project, home, folder)
        for what in ("first", "unchanged", "one changed"):
            mine, peer = seen[what, "hfbuild"], seen[what, "hf"]
            ratios = [a["wall"] / b["wall"] for a, b in zip(mine, peer)]
            row = {"what": f"{label}: {what}", "ratio": statistics.median(ratios), "ratios": ratios}
            for who, runs in (("hfbuild", mine), ("hf", peer)):
                row[who] = {key: statistics.median(r[key] for r in runs) for key in ("wall", "cpu")}
                row[who]["mb"] = max(r["mb"] for r in runs)
                row[f"{who} runs"] = runs
            self.rows.append(row)
            print(f"{row['what']:34} {row['hfbuild']['wall']:8.2f} s {row['hf']['wall']:8.2f} s {row['ratio']:6.2f}"
                  f" {row['hfbuild']['cpu']:8.2f} {row['hf']['cpu']:8.2f} {row['hfbuild']['mb']:7.0f} {row['hf']['mb']:7.0f}",
                  flush=True)

    def counts(self, source: Path, label: str) -> None:
        """Requests of a first publish and of an unchanged one; what the unchanged one and a changed one read."""
        project, folder = self.project(source), self.fresh("hub")
        with Hub(self.args.hfbuild, folder, False) as hub:
            counter = Counter(hub.url)
            run = self.ours(project, counter.url)
            timed(*run)
            first = counter.taken()
            time.sleep(0.1)  # past the clock's tick: the stat of a file just written proves nothing
            timed(*run)
            timed(*run)
            counter.taken()
            timed(*run)
            unchanged = counter.taken()
            row = {"what": f"{label}: requests", "first": first, "unchanged": unchanged}
            if shutil.which("strace"):
                row["unchanged reads"] = traced(*run, ["src", "dist", "blobs"])
                changed = sorted((project / "src").iterdir())[:4][-1]
                data = changed.read_bytes()
                changed.unlink()
                changed.write_bytes(data[::-1])
                row["one changed reads"] = traced(*run, ["src"]) | {"size": len(data)}
            self.rows.append(row)
            self.clear(project, folder)
            print(f"{row['what']}: first {sum(first.values())} {first}, unchanged {sum(unchanged.values())} {unchanged}")
            for key in ("unchanged reads", "one changed reads"):
                if key in row:
                    print(f"{label}: {key}: {row[key]}", flush=True)


    def inserted(self, source: Path, megabytes: int, times: int) -> None:
        """Bytes that leave over xet, all requests together, for a kilobyte inserted into a large file at places of chance."""
        seen: dict[str, list[int]] = {}
        for who in ("hfbuild", "hf"):
            project, home, folder = self.project(source), self.fresh("home"), self.fresh("hub")
            home.mkdir()
            rng, seen[who] = random.Random(5), []
            with Hub(self.args.hfbuild, folder, True) as hub:
                counter = Counter(hub.url)
                url = counter.url
                run = self.ours(project, url) if who == "hfbuild" else self.theirs(project, url, home, True)
                timed(*run)
                file = next((project / "src").iterdir())
                for _ in range(times):
                    data = file.read_bytes()
                    at = rng.randrange(len(data))
                    file.unlink()
                    file.write_bytes(data[:at] + rng.randbytes(1000) + data[at:])
                    counter.taken()
                    timed(*run)
                    seen[who].append(sum(counter.sent.values()))
            self.clear(project, home, folder)
        self.rows.append({"what": f"1 kB into {megabytes} MB, xet: bytes sent", **seen})
        for who, sent in seen.items():
            print(f"1 kB into {megabytes} MB, xet: {who} sent {statistics.median(sent) / 1000:.0f} kB"
                  f" ({min(sent) / 1000:.0f} to {max(sent) / 1000:.0f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hfbuild", default=str(ROOT / "target/release/hfbuild"), help="the binary to measure")
    parser.add_argument("--python", help="a Python that has huggingface_hub")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--mb", type=float, default=5, help="megabytes a file")
    parser.add_argument("--small", type=int, default=10_000, help="files of the run with many small ones; 0: none")
    parser.add_argument("--insertions", type=int, default=5, help="kilobytes put into 100 MB, one after the other; 0: none")
    parser.add_argument("--protocols", default="lfs,xet")
    parser.add_argument("--dir", help="where to work")
    parser.add_argument("--json", default=str(ROOT / "target/bench/publish.json"))
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="hfbuild-publish-", dir=args.dir))
    try:
        bench = Bench(args, work)
        many = work / "many"
        make(many, args.files, int(args.mb * 1_000_000))
        label = f"{args.files} x {args.mb:g} MB"
        print(f"{'':34} {'hfbuild':>10} {'hf upload':>10} {'ratio':>6} {'CPU s':>8} {'CPU s':>8} {'MB':>7} {'MB':>7}")
        for protocol in args.protocols.split(","):
            bench.pairs(many, protocol == "xet", f"{label}, {protocol}")
        bench.counts(many, label)
        bench.clear(many)
        if args.insertions:
            make(work / "one", 1, 100_000_000)
            bench.inserted(work / "one", 100, args.insertions)
        if args.small:
            small = work / "small"
            make(small, args.small, 400)
            bench.counts(small, f"{args.small} small files")
            project = bench.project(small)
            with Hub(args.hfbuild, bench.fresh("hub"), False) as hub:
                cost = timed(*bench.ours(project, hub.url))
            bench.rows.append({"what": f"{args.small} small files: first", "hfbuild": cost})
            print(f"{args.small} small files: first {cost['wall']:.2f} s, {cost['mb']:.0f} MB")
        out = Path(args.json)
        out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "client": CLIENT}
        out.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=1))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
