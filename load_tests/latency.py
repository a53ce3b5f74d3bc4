"""How long a search takes and what it costs: over HTTP, stage by stage, and against the sum of its parts.

Writes one page, latency.md, and the figures behind it, latency.json. Starts everything itself:

    python -m load_tests.latency [--data DIR] [--data-dir FOLDER] [--rounds 3] [--requests 700] [--seed 1]

`--data-dir` keeps the indexed folder, with a ranker trained, between runs; it is only copied from. Without it the
catalogue is indexed and a ranker trained anew (about three minutes before the measuring begins).
"""

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
LOAD = 0.5
"""Rate of the open loop, as a share of what the service managed in the closed one."""
RANKER_QUERIES = {"train": 2400, "validation": 600}
"""A ranker trained on a sample costs as much to run as any, and is trained in a minute."""
START_SECONDS = 60.0


def ltrr(folder: Path, *arguments: str) -> bytes:
    """What the command printed. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, env=environ(folder), cwd=folder, check=True, stdout=subprocess.PIPE).stdout


def environ(folder: Path, **settings: str) -> dict[str, str]:
    """Without the caller's own settings (and run in `folder`, where no ltrr.toml is): what is stated is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LTRR_")}
    return kept | {"PYTHONPATH": str(ROOT), "LTRR_DATA_DIR": str(folder)} | settings


def prepare(data: Path, folder: Path, seed: int) -> None:
    """An indexed data folder with a ranker in force, unless there is one already."""
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
        reason = "in force to be timed, not for its answers"
        ltrr(folder, "models", "promote", "ranker", trained["version"], "--force", "--reason", reason)


def cores() -> tuple[set[int], set[int]]:
    """(the service's, the loader's): one each where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[1] if len(usable) > 1 else usable[0]}


@contextmanager
def process(command: Sequence[str], where: set[int], env: dict[str, str], ready: str) -> Iterator[int]:
    """Its process id, once `ready` (an address) answers 200. Held to the cores `where` from its first thread on."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)  # children inherit it
    try:
        running = subprocess.Popen(
            [sys.executable, *command], env=env, cwd=env["LTRR_DATA_DIR"], stderr=subprocess.DEVNULL
        )
    finally:
        os.sched_setaffinity(0, ours)
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
    """One round: the null control, then the service on a copy of `folder`, each in its own process."""
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
        "load_tests.loader:null",
        "--port",
        str(port),
        "--log-level",
        "critical",
        "--lifespan",
        "off",
    )
    with process(null, where, environ(folder), f"http://127.0.0.1:{port}/") as pid:
        run("null, 1 at a time", pid, loader.closed(port, one, 1))
        run(f"null, {CONCURRENCY} at a time", pid, loader.closed(port, many, CONCURRENCY))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "data")
        shutil.copytree(folder, copy)
        settings = environ(copy, LTRR_PORT=str(port))
        with process(("-m", "app", "serve"), where, settings, f"http://127.0.0.1:{port}/readyz") as pid:
            run("warm-up", pid, loader.closed(port, warm_up, CONCURRENCY))
            run("service, 1 at a time", pid, loader.closed(port, one, 1))
            closed = run(f"service, {CONCURRENCY} at a time", pid, loader.closed(port, many, CONCURRENCY))
            rate = LOAD * closed.rate
            run("service, open loop", pid, loader.opened(port, spread, rate, seed))
            idle = loader.cpu_seconds(pid)
            time.sleep(1)
            idle = loader.cpu_seconds(pid) - idle
    del runs["warm-up"]
    return {"runs": runs, "idle_cpu_share": idle}


def in_process(folder: Path, data: Path, requests: int, where: set[int], seed: int) -> Any:
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
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)
    try:
        done = subprocess.run(command, cwd=folder, env=environ(folder), check=True, stdout=subprocess.PIPE)
    finally:
        os.sched_setaffinity(0, ours)
    return orjson.loads(done.stdout)


def conditions(asked: argparse.Namespace, ours: set[int], theirs: set[int]) -> dict[str, Any]:
    described = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in described if "model name" in line), "unnamed processor")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": f"python -m load_tests.latency --data {asked.data.name} --rounds {asked.rounds} "
        f"--requests {asked.requests} --seed {asked.seed}",
        "seeds": [1000 * asked.seed + number for number in range(asked.rounds)],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": revision.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}",
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "service_cores": sorted(ours),
        "loader_cores": sorted(theirs),
        "load_average_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="data set folder (default: films-mixed)")
    parser.add_argument("--data-dir", type=Path, help="keep the indexed folder here between runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the page goes")
    parser.add_argument("--rounds", type=int, default=3, help="everything is measured this often, in turns")
    parser.add_argument("--requests", type=int, default=700, help="of each kind, a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=8139)
    asked = parser.parse_args()
    ours, theirs = cores()
    stated = conditions(asked, ours, theirs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (asked.data_dir or Path(scratch, "indexed")).resolve()
        prepare(asked.data, folder, asked.seed)
        os.sched_setaffinity(0, theirs)
        validation = list(Dataset.open(asked.data).queries("validation"))
        rounds = []
        for number in range(asked.rounds):
            seed = stated["seeds"][number]
            bodies = [loader.body(query) for query in loader.traffic(validation, WARM_UP + 3 * asked.requests, seed)]
            start, busy = time.monotonic(), loader.busy_seconds()
            measured = over_http(folder, bodies, asked.requests, ours, asked.port, seed)
            measured["machine_busy_cores"] = (loader.busy_seconds() - busy) / (time.monotonic() - start)
            measured |= in_process(folder, asked.data, asked.requests // 2, ours, seed)
            rounds.append(measured)
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
    found = figures.figures(stated, rounds)
    page = report.page(found)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "latency.md").write_text(page, "utf-8")
    (asked.out / "latency.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    print(page)


if __name__ == "__main__":
    main()
