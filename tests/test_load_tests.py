"""The load tests' own arithmetic and loader: figures that are wrong would be believed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from load_tests import figures, loader, report
from load_tests.recorder import Recorder
from services.datasets.folder import DatasetQuery

STALL = 0.2


def test_percentiles_are_those_of_numpy() -> None:
    values = list(np.random.default_rng(1).exponential(size=137))
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert figures.percentile(values, share) == pytest.approx(expected)


def test_a_summary_is_in_milliseconds() -> None:
    assert figures.summary([0.001, 0.003, 0.002]) == {"n": 3, "p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0}


def queries() -> list[DatasetQuery]:
    return [
        DatasetQuery("t1", "validation", "common", "title", weight=9.0),
        DatasetQuery("t2", "validation", "rare", "title", weight=1.0),
        DatasetQuery("y", "validation", "tpyo", "typo"),
        DatasetQuery("o", "validation", "topic", "topic"),
        DatasetQuery("f", "validation", "facet", "facet"),
        DatasetQuery("p", "validation", "personal", "personal", user_id="u1"),
    ]


def test_traffic_has_the_mix_of_slices_and_weights() -> None:
    drawn = Counter(query.text for query in loader.traffic(queries(), 20_000, seed=1))
    shares = {text: count / 20_000 for text, count in drawn.items()}
    assert shares["common"] + shares["rare"] == pytest.approx(0.35, abs=0.02)
    assert shares["common"] == pytest.approx(9 * shares["rare"], rel=0.15)
    assert shares["facet"] == pytest.approx(0.20, abs=0.02)
    assert [shares[text] for text in ("tpyo", "topic", "personal")] == pytest.approx([0.15] * 3, abs=0.02)


def test_traffic_repeats_for_a_seed_and_knows_other_slices() -> None:
    assert loader.traffic(queries(), 50, seed=3) == loader.traffic(queries(), 50, seed=3)
    assert loader.traffic(queries(), 50, seed=3) != loader.traffic(queries(), 50, seed=4)
    other = [DatasetQuery("1", "validation", "a", "x"), DatasetQuery("2", "validation", "b", "y")]
    assert {query.slice for query in loader.traffic(other, 50, seed=1)} == {"x", "y"}
    with pytest.raises(ValueError, match="no queries"):
        loader.traffic([], 1, seed=1)


def test_a_person_is_named_in_the_request() -> None:
    assert loader.body(queries()[-1]) == b'{"query":"personal","limit":10,"user_id":"u1"}'
    assert b"user_id" not in loader.body(queries()[0])


class Server:
    """Answers every request in turn on one event loop; the first one only after a stall that holds up all of them."""

    def __init__(self, status: bytes = b"200", answer: bytes = b'{"degraded":[]}') -> None:
        self.asked: list[bytes] = []
        self._running: list[asyncio.Task[None] | None] = []
        self._reply = b"HTTP/1.1 " + status + b" x\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.asked.append(await reader.readexactly(length))
                if len(self.asked) == 1:
                    self._stall()
                writer.write(self._reply)
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    def _stall(self) -> None:
        time.sleep(STALL)

    async def load(self, closed: bool, bodies: list[bytes]) -> loader.Load:
        async with await asyncio.start_server(self, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            load = await (
                loader.closed_loop(port, bodies, 4) if closed else loader.open_loop(port, bodies, rate=200.0, seed=1)
            )
            await asyncio.gather(*[task for task in self._running if task])
            return load


@pytest.mark.parametrize("closed", [True, False])
async def test_every_request_is_sent_once(closed: bool) -> None:
    server = Server()
    bodies = [b'{"n":%d}' % n for n in range(20)]
    load = await server.load(closed, bodies)
    assert sorted(server.asked) == sorted(bodies)
    assert (len(load.latencies), load.errors, load.degraded) == (20, 0, 0)
    assert load.rate == 20 / load.seconds


async def test_a_stall_shows_in_the_requests_that_were_due_behind_it() -> None:
    """A loader that waited with sending would count one slow request; here about 40 were due during the stall."""
    load = await Server().load(closed=False, bodies=[b"{}"] * 60)
    assert max(load.latencies) >= STALL
    assert sum(latency >= STALL / 4 for latency in load.latencies) >= 10


async def test_errors_and_degraded_answers_are_counted() -> None:
    load = await Server(b"503").load(closed=True, bodies=[b"{}"] * 8)
    assert (load.errors, load.degraded) == (8, 0)
    degraded = Server(answer=b'{"degraded":[{"arm":"vector","reason":"timeout"}]}')
    load = await degraded.load(closed=True, bodies=[b"{}"] * 8)
    assert (load.errors, load.degraded) == (0, 8)


def test_cpu_of_a_process_is_what_the_system_says() -> None:
    ours = os.times()
    assert loader.cpu_seconds(os.getpid()) == pytest.approx(ours.user + ours.system, abs=0.1)


def test_what_is_recorded_can_be_done_again(tmp_path: Path) -> None:
    recorder = Recorder()
    with recorder.installed():
        connection = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
        connection.execute("CREATE TABLE t (x)")
        recorder.active = True
        connection.execute("INSERT INTO t VALUES (?)", (1,))
        doubled = recorder.wrapped("part", lambda x: 2 * x)(21)
        listed = recorder.of_object("part", [3, 1, 2])
        assert listed.index(2) == 2
        recorder.active = False
        connection.execute("SELECT * FROM t")
        connection.close()
    assert doubled == 42
    assert recorder.statements == [("log.sqlite3", "INSERT INTO t VALUES (?)", (1,))]
    assert [call.function(*call.positional, **call.named) for call in recorder.calls] == [42, 2]
    with closing(sqlite3.connect(":memory:")) as after:
        assert type(after) is sqlite3.Connection


def measured(cpu: float) -> dict[str, object]:
    """A round in which everything takes `cpu` seconds."""
    names = ["null, 1 at a time", "service, 1 at a time", "service, 8 at a time", "service, open loop"]
    runs = {name: loader.Load(2.0, [0.01, 0.03], [0.001, 0.001], 1, 1, 20 * cpu) for name in names}
    times = {"requests": 1, "stages": {"total": [0.01], "rank": [0.02]}, "arms": {"lexical": [0.001]}, "cpu": cpu}
    stages = {name: {"cpu": cpu, "loop": cpu} for name in figures.STAGES if name not in ("total", "features")}
    stages |= {"rank": {"cpu": 3 * cpu, "loop": 2 * cpu}, "features": {"cpu": cpu, "loop": cpu}}
    parts = {part: {"calls": 1.0, "cpu": cpu / 10} for part in [*figures.STAGE_OF, figures.JSON]}
    alone = {"requests": 1, "ranker": "r1", "cpu": 12 * cpu, "cpu_passthrough": cpu, "stages": stages, "parts": parts}
    return {
        "runs": runs,
        "times": {"1": times, "8": times},
        "cpu": alone,
        "idle_cpu_share": 0.01,
        "machine_busy_cores": 1.5,
    }


def stated() -> dict[str, object]:
    return {
        "command": "c", "date": "d", "revision": "r", "machine": "m", "versions": {"Python": "3"}, "seeds": [1, 2, 3],
        "service_cores": [0], "loader_cores": [1], "load_average_before": 0.5,
    }  # fmt: skip


def test_the_ratio_is_that_of_each_round_and_its_middle() -> None:
    found = figures.figures(stated(), [measured(0.001), measured(0.003), measured(0.002)])
    assert found["http"]["service, 1 at a time"]["cpu"] == pytest.approx({"median": 20.0, "low": 10.0, "high": 30.0})
    assert found["sum_of_parts"] == pytest.approx({"median": 1.8, "low": 0.9, "high": 2.7})
    assert found["ratio"]["service, open loop"]["median"] == pytest.approx(10 / 0.9)
    assert found["http"]["service, open loop"]["n"] == 6
    assert found["http"]["service, open loop"]["errors"] == 3
    assert found["http"]["service, open loop"]["degraded"] == 0.5


def test_where_the_time_goes_adds_up_to_the_whole_request() -> None:
    found = figures.figures(stated(), [measured(0.002)])
    lines = {name: cpu for name, cpu, _, _ in figures.cpu_breakdown(found)}
    assert sum(lines.values()) == pytest.approx(20.0)
    assert lines["rank"] == pytest.approx(4.0), "without the features inside it"
    assert sum(library for *_, library in figures.cpu_breakdown(found)) == pytest.approx(
        found["sum_of_parts"]["median"]
    )


def test_the_page_says_whether_the_goal_was_met() -> None:
    page = report.page(figures.figures(stated(), [measured(0.002)]))
    assert "**11.11 (11.11–11.11)** (above the goal of 1.5)" in page
    assert "| service, open loop | 2 | 1 | 10.00 | 30.00 | 30.00 | 30.00 | 10.00–10.00 | 1 | 50.00 % |" in page
