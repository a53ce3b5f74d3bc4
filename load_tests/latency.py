"""Latency and CPU cost of a search: over HTTP, by stage, and compared with the sum of its parts.

Writes one page, latency.md, and its figures, latency.json. Starts all processes itself:

    python -m load_tests.latency [--data DIR] [--data-dir FOLDER] [--rounds 3] [--requests 700] [--seed 1]

`--data-dir` keeps the indexed folder with a trained ranker between runs; it is only copied from. Without it, the
catalogue is indexed and a ranker trained first, which takes about three minutes."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import uvloop

from load_tests import figures, loader, report
from services.datasets.folder import Dataset, write_folder

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "films-mixed"
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("tantivy", "qdrant-edge-py", "vowpal-wabbit-next", "onnxruntime", "orjson", "numpy", "fastapi", "uvicorn")
WARM_UP = 300
CONCURRENCY = 8
OPEN_LOOP_LOAD = 0.5
"""Rate of the open loop as a share of the closed loop's throughput."""
RANKER_QUERIES = {"train": 2400, "validation": 600}
"""Training queries per split: a ranker trained on a sample costs as much to run, and trains in a minute."""
START_SECONDS = 60.0


def ltrr(folder: Path, *arguments: str) -> bytes:
    """Run an `ltrr` command on the folder; its standard output. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, env=environ(folder), cwd=folder, check=True, stdout=subprocess.PIPE).stdout


def environ(folder: Path, **settings: str) -> dict[str, str]:
    """An environment with `settings` alone, free of the caller's LTRR_* variables. `folder` has no ltrr.toml,
    either."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LTRR_")}
    return kept | {"PYTHONPATH": str(ROOT), "LTRR_DATA_DIR": str(folder)} | settings


def prepare(data: Path, folder: Path, seed: int) -> None:
    """Make an indexed data folder with an active ranker, unless it exists."""
    if not (folder / "items.sqlite3").exists():
        ltrr(folder, "index", str(data.resolve()))
    if (folder / "models" / "ranker").exists():
        return
    dataset, rng = Dataset.open(data), random.Random(seed)
    queries = []
    for split, count in RANKER_QUERIES.items():
        found = list(dataset.queries(split))
        queries += rng.sample(found, min(count, len(found)))
    with tempfile.TemporaryDirectory() as sample:
        write_folder(Path(sample), dataset.documents(), queries, dataset.qrels(), dataset.history())
        trained = orjson.loads(ltrr(folder, "train", "ranker", "--data", sample, "--json"))
    if not trained["promoted"]:
        reason = "promoted for timing, not for quality"
        ltrr(folder, "models", "promote", "ranker", trained["version"], "--force", "--reason", reason)


def cores() -> tuple[set[int], set[int]]:
    """(cores of the service, cores of the loader): one each, the same one on a single-core machine."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[1] if len(usable) > 1 else usable[0]}


@contextmanager
def process(command: Sequence[str], where: set[int], env: dict[str, str], ready: str) -> Iterator[int]:
    """Run a process pinned to the cores `where`; yields its id once the URL `ready` returns 200. Raises SystemExit if
    it does not start."""
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)  # children inherit it
    try:
        running = subprocess.Popen(
            [sys.executable, *command], env=env, cwd=env["LTRR_DATA_DIR"], stderr=subprocess.DEVNULL
        )
    finally:
        os.sched_setaffinity(0, own_cores)
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(ready):
            if running.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} did not start (exit code {running.returncode})")
            time.sleep(0.05)
        yield running.pid
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def over_http(folder: Path, bodies: Sequence[bytes], requests: int, where: set[int], port: int, seed: int) -> Any:
    """One round over HTTP: the null control, then the service on a copy of `folder`, each as a separate process."""
    runs: dict[str, loader.Load] = {}

    def run(name: str, pid: int, work: Any) -> loader.Load:
        before = loader.cpu_seconds(pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            load: loader.Load = runner.run(work)
        runs[name] = load
        load.server_cpu = loader.cpu_seconds(pid) - before
        return load

    warm_up, one, many, spread = loader.chunks(bodies, (WARM_UP, requests, requests, requests))
    null = (
        "-m",
        "uvicorn",
        "load_tests.loader:null_service",
        "--port",
        str(port),
        "--log-level",
        "critical",
        "--lifespan",
        "off",
    )
    with process(null, where, environ(folder), f"http://127.0.0.1:{port}/") as pid:
        run("null, 1 at a time", pid, loader.closed_loop(port, one, 1))
        run(f"null, {CONCURRENCY} at a time", pid, loader.closed_loop(port, many, CONCURRENCY))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "data")
        shutil.copytree(folder, copy)
        settings = environ(copy, LTRR_PORT=str(port))
        with process(("-m", "app", "serve"), where, settings, f"http://127.0.0.1:{port}/readyz") as pid:
            run("warm-up", pid, loader.closed_loop(port, warm_up, CONCURRENCY))
            run("service, 1 at a time", pid, loader.closed_loop(port, one, 1))
            closed = run(f"service, {CONCURRENCY} at a time", pid, loader.closed_loop(port, many, CONCURRENCY))
            rate = OPEN_LOOP_LOAD * closed.rate
            run("service, open loop", pid, loader.open_loop(port, spread, rate, seed))
            idle = loader.cpu_seconds(pid)
            time.sleep(1)
            idle = loader.cpu_seconds(pid) - idle
    del runs["warm-up"]
    return {"runs": runs, "idle_cpu_share": idle}


def in_process(folder: Path, data: Path, requests: int, where: set[int], seed: int) -> Any:
    """One round in process: the output of load_tests.parts, pinned to the cores `where`."""
    command = [
        sys.executable,
        "-m",
        "load_tests.parts",
        "--data-dir",
        str(folder.resolve()),
        "--data",
        str(data.resolve()),
    ]
    command += ["--requests", str(requests), "--seed", str(seed)]
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)
    try:
        done = subprocess.run(command, cwd=folder, env=environ(folder), check=True, stdout=subprocess.PIPE)
    finally:
        os.sched_setaffinity(0, own_cores)
    return orjson.loads(done.stdout)


def conditions(args: argparse.Namespace, service_cores: set[int], loader_cores: set[int]) -> dict[str, Any]:
    """Command, revision, machine and versions of the measurement."""
    described = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in described if "model name" in line), "unnamed processor")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": f"python -m load_tests.latency --data {args.data.name} --rounds {args.rounds} "
        f"--requests {args.requests} --seed {args.seed}",
        "seeds": [1000 * args.seed + number for number in range(args.rounds)],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": revision.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}",
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "service_cores": sorted(service_cores),
        "loader_cores": sorted(loader_cores),
        "load_average_before": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, write both files and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="data set folder (default: films-mixed)")
    parser.add_argument("--data-dir", type=Path, help="keep the indexed folder here between runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--requests", type=int, default=700, help="requests per run and round (default: 700)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=8139)
    args = parser.parse_args()
    service_cores, loader_cores = cores()
    measured_under = conditions(args, service_cores, loader_cores)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.data_dir or Path(scratch, "indexed")).resolve()
        prepare(args.data, folder, args.seed)
        os.sched_setaffinity(0, loader_cores)
        validation = list(Dataset.open(args.data).queries("validation"))
        rounds = []
        for number in range(args.rounds):
            seed = measured_under["seeds"][number]
            bodies = [loader.body(query) for query in loader.traffic(validation, WARM_UP + 3 * args.requests, seed)]
            start, busy = time.monotonic(), loader.busy_seconds()
            measured = over_http(folder, bodies, args.requests, service_cores, args.port, seed)
            measured["machine_busy_cores"] = (loader.busy_seconds() - busy) / (time.monotonic() - start)
            measured |= in_process(folder, args.data, args.requests // 2, service_cores, seed)
            rounds.append(measured)
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    found = figures.figures(measured_under, rounds)
    page = report.page(found)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "latency.md").write_text(page, "utf-8")
    (args.out / "latency.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    print(page)


if __name__ == "__main__":
    main()
