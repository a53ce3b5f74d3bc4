"""Several workers: whatever happens to one of them, the service goes on; when it ends, nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from app.process.gateway import share
from app.settings import Settings
from tests.commands import eventually
from tests.servers.plain_gateway import Gateway, alive, free, plain
from tests.servers.plain_worker import SILENCE_SECONDS, STOP_SECONDS


def replaced(gateway: Gateway, gone: set[int]) -> bool:
    """Whether two workers serve, none of which is of `gone`."""
    return not gateway.workers() & gone and gateway.serving() == 2


class TestReplacing:
    def test_a_killed_worker_is_replaced_while_the_other_one_answers(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2) as gateway:
            before = gateway.workers()
            victim = before.pop()
            os.kill(victim, signal.SIGKILL)
            start = time.monotonic()
            assert gateway.answering() in before
            eventually(lambda: replaced(gateway, {victim}))
            assert time.monotonic() - start < 10
            assert before < gateway.workers()
            assert gateway.stop() == 0

    def test_workers_whose_loop_hangs_or_that_are_stopped_are_replaced(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2) as gateway:
            hangs, stopped = gateway.workers()
            os.kill(stopped, signal.SIGSTOP)
            with socket.create_connection(("127.0.0.1", gateway.port)) as asked:
                asked.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
                start = time.monotonic()
                eventually(lambda: not gateway.workers() & {hangs, stopped})
                assert SILENCE_SECONDS - 2 < time.monotonic() - start < SILENCE_SECONDS + 5
            eventually(lambda: gateway.serving() == 2)
            assert gateway.stop() == 0

    def test_all_are_kept_when_everything_was_stopped_for_a_while(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2) as gateway:
            before = gateway.workers()
            os.killpg(gateway.process.pid, signal.SIGSTOP)
            time.sleep(SILENCE_SECONDS + 0.5)
            os.killpg(gateway.process.pid, signal.SIGCONT)
            time.sleep(1.0)
            assert gateway.workers() == before
            assert "hangs" not in gateway.output

    def test_what_cannot_start_is_tried_again_with_pauses_until_it_can(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2) as gateway:
            victim = gateway.workers().pop()
            (tmp_path / "broken").touch()
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: gateway.output.count("exit code 2") == 2)
            pauses = [line.rpartition("=")[2] for line in gateway.output.splitlines() if "next_in" in line]
            assert pauses[:3] == ["0.0", "0.5", "1.0"]
            assert gateway.answering()
            (tmp_path / "broken").unlink()
            eventually(lambda: replaced(gateway, {victim}))


class TestStarting:
    def test_limits_are_those_of_all_workers_together(self) -> None:
        for workers, each in ((1, 64), (2, 32), (3, 22), (64, 1)):
            settings = share(Settings.load({}, max_concurrency=64, workers=workers))
            assert (settings.workers, settings.max_concurrency) == (workers, each)

    def test_nothing_is_tried_again_when_the_first_worker_cannot_start(self, tmp_path: Path) -> None:
        (tmp_path / "broken").touch()
        with plain(tmp_path, 2, wait=False) as gateway:
            assert gateway.process.wait(20) == 2
            assert gateway.output == "ltrr: broken\n"
            assert free(gateway.port)
            assert not list(gateway.temporary.iterdir())


class TestEnding:
    @pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
    def test_signals_to_everyone_at_once_are_one_order_to_stop(
        self, tmp_path: Path, how: signal.Signals, code: int
    ) -> None:
        with plain(tmp_path, 2) as gateway:
            workers = gateway.workers()
            answers: list[str] = []
            slow = threading.Thread(target=lambda: answers.append(gateway.get("/answer?seconds=1")))
            slow.start()
            eventually(lambda: gateway.metric("ltrr_searches_in_flight") == 1)
            os.killpg(gateway.process.pid, how)
            assert gateway.process.wait(10) == code
            slow.join()
            assert "pid" in answers[0]
            assert not any(alive(worker) for worker in workers)
            assert free(gateway.port)
            assert not list(gateway.temporary.iterdir()), "the folder of the metrics"
            assert "Traceback" not in gateway.output

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path, workers: int) -> None:
        with plain(tmp_path, workers, drain=30) as gateway:
            started = gateway.workers()
            gateway.process.send_signal(signal.SIGTERM)
            eventually(lambda: gateway.metric("ltrr_draining") == 1)
            start = time.monotonic()
            assert gateway.stop() == 128 + signal.SIGTERM
            assert time.monotonic() - start < 2
            assert not any(alive(worker) for worker in started)
            assert free(gateway.port)

    def test_workers_end_and_the_port_is_free_when_the_supervisor_is_killed(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2, drain=30) as gateway:
            workers = gateway.workers()
            answers: list[str] = []
            slow = threading.Thread(target=lambda: answers.append(gateway.get("/answer?seconds=1")))
            slow.start()
            eventually(lambda: gateway.metric("ltrr_searches_in_flight") == 1)
            gateway.process.kill()
            start = time.monotonic()
            eventually(lambda: free(gateway.port))
            assert time.monotonic() - start < 2
            slow.join()
            assert "pid" in answers[0], "what was under way is still answered"
            eventually(lambda: not any(alive(worker) for worker in workers))
            assert not list(gateway.temporary.iterdir()), "the folder of the metrics"

    def test_a_worker_that_does_not_end_is_killed(self, tmp_path: Path) -> None:
        with plain(tmp_path, 2) as gateway:
            for worker in gateway.workers():
                os.kill(worker, signal.SIGSTOP)
            start = time.monotonic()
            assert gateway.stop() == 1
            assert STOP_SECONDS - 0.5 < time.monotonic() - start < STOP_SECONDS + 3
            assert "did not stop in time" in gateway.output
