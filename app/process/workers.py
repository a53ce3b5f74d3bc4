"""Several gateway processes on one port: started, watched, replaced and stopped by a supervisor that does nothing else.

uvicorn's own supervisor is not used, because it pings a thread of each worker, so a hung event loop goes unnoticed; it
pings one worker after another, so a stopped one blocks them all; it restarts without delay, keeps the metrics of dead
workers, leaves workers behind when it is killed, and stops by closing the listener in the workers while its own copy
continues to collect connections that are never accepted.

All workers accept from one listening socket that the supervisor bound (with one socket each, the kernel would give
connections to a worker that cannot take them any more). Each is a fresh interpreter with settings, clients and event
loop of its own. Each has a place, a number from 1 up that its successor takes over. Supervisor and worker communicate
over a socket pair: the worker sends heartbeats, the supervisor the order to drain, and each notices at once when the
other ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from services.errors import LtrrError

logger = logging.getLogger(__name__)

DRAIN = b"d"
BEAT_SECONDS = 1
MAX_SILENCE_SECONDS = 10.0
"""A worker without a heartbeat for this long is replaced."""
MAX_START_SECONDS = 120.0
MAX_STOP_SECONDS = 10.0
"""Time that a worker has to exit after draining."""
TICK_SECONDS = 0.25
STEADY_SECONDS = 30.0
"""A worker that has served for this long counts as healthy: its death is not a repeated failure."""
MAX_PAUSE_SECONDS = 30.0
COMMAND = (sys.executable, "-m", "app.worker")


class WorkerFailed(LtrrError):
    """A worker could not start to serve, or had to be killed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Data that a worker gets from its supervisor: its number, two open descriptors, and the folder of the metrics."""

    slot: int
    listener: int
    link: int
    folder: Path

    def arguments(self) -> list[str]:
        """The command-line arguments that `parse` reads."""
        return [str(self.slot), str(self.listener), str(self.link), str(self.folder)]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Place:
        """The place that `arguments` described."""
        slot, listener, link, folder = arguments
        return cls(int(slot), int(listener), int(link), Path(folder))


def become_worker(place: Place) -> None:
    """Become the worker of `place`; call it before services.metrics is imported, because it decides where metrics are
    kept.

    Metrics are kept per place and not per process: a successor continues the counts of its predecessor, so that no
    count is lost and no file is left over, however often workers are replaced.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor controls it
    values.ValueClass = values.MultiProcessValue(lambda: place.slot)  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Worker:
    """A worker process as its supervisor sees it."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    last_beat: float
    """Time of its last heartbeat; of its start, before it serves."""
    serving_since: float | None = None

    def receive(self) -> bytes:
        """Bytes that the worker sent: heartbeats, or b"" when its end of the link is closed."""
        try:
            return self.link.recv(1024)
        except BlockingIOError:
            return b"."
        except OSError:
            return b""


@dataclass(slots=True)
class Slot:
    """A place and the worker in it, if one runs."""

    worker: Worker | None = None
    start_at: float = 0.0
    deaths: int = 0
    """Number of consecutive deaths, each soon after the start."""


@dataclass(slots=True)
class Supervisor:
    """Runs `workers` processes of `command` (with the arguments of a Place) on `listener`, until stopped."""

    listener: socket.socket
    workers: int
    drain_seconds: float
    command: Sequence[str] = COMMAND
    silence: float = MAX_SILENCE_SECONDS
    stop: float = MAX_STOP_SECONDS
    _slots: dict[int, Slot] = field(default_factory=dict)
    _folder: Path = Path()
    _served: bool = False
    _stop_by: float | None = None
    _failed: bool = False

    def run(self) -> int:
        """Run until a stop signal and return its number.

        Raises WorkerFailed, or SystemExit with the exit code of a worker that reported itself why it cannot start:
        nothing is retried before a worker has served. A second signal ends everything at once, by SystemExit.
        """
        with _metrics_folder() as self._folder, _signals() as signals, selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            stop_signal: int | None = None
            try:
                while stop_signal is None or any(slot.worker for slot in self._slots.values()):
                    tick_started = time.monotonic()
                    if stop_signal is None:
                        self._start_due(selector, tick_started)
                    events = selector.select(TICK_SECONDS)
                    if time.monotonic() - tick_started > self.silence / 2:
                        self._reset_heartbeats()  # this process was suspended, and the workers perhaps as well
                    for key, _ in events:
                        if key.data is None:
                            for number in _stop_signals(signals):
                                if stop_signal is not None:
                                    raise SystemExit(128 + number)
                                stop_signal = number
                                self._drain()
                        else:
                            self._receive_beat(selector, key.data)
                    for place in self._slots:
                        self._supervise(place, stop_signal is not None)
            finally:
                self._kill_all()
        if self._failed:
            raise WorkerFailed("a worker did not stop in time and was killed")
        return stop_signal

    def _start_due(self, selector: selectors.BaseSelector, now: float) -> None:
        """Start workers that are due. The first one starts alone: what stops it would stop the others, and is logged
        once."""
        first = self._slots.get(1)
        alone = first is None or (first.worker is not None and first.worker.serving_since is None)
        for place in range(1, 2 if alone and not self._served else self.workers + 1):
            slot = self._slots.setdefault(place, Slot())
            if slot.worker is None and now >= slot.start_at:
                slot.worker = self._spawn(place)
                selector.register(slot.worker.link, selectors.EVENT_READ, slot.worker)

    def _spawn(self, place: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = Place(place, self.listener.fileno(), theirs.fileno(), self._folder).arguments()
            descriptors = (self.listener.fileno(), theirs.fileno())
            process = subprocess.Popen([*self.command, *arguments], pass_fds=descriptors)  # noqa: S603
        ours.setblocking(False)
        return Worker(process, ours, time.monotonic())

    def _receive_beat(self, selector: selectors.BaseSelector, worker: Worker) -> None:
        if not worker.receive():
            selector.unregister(worker.link)  # it is ending
            return
        worker.last_beat = time.monotonic()
        if worker.serving_since is None:
            worker.serving_since = worker.last_beat
            self._served = True

    def _supervise(self, place: int, stopping: bool) -> None:
        slot = self._slots[place]
        worker = slot.worker
        if worker is None:
            return
        code = worker.process.poll()
        now = time.monotonic()
        if code is not None:
            worker.link.close()
            slot.worker = None
            mark_process_dead(place, str(self._folder))  # type: ignore[no-untyped-call]
            if not stopping:
                self._replace(place, slot, worker, code, now)
        elif self._stop_by is not None and now > self._stop_by:
            self._failed = True
            worker.process.kill()
        elif not self._drained(now) and now - worker.last_beat > self._patience(worker):
            logger.error("worker_hangs worker=%d pid=%d", place, worker.process.pid)
            worker.process.kill()
            worker.last_beat = now

    def _patience(self, worker: Worker) -> float:
        return MAX_START_SECONDS if worker.serving_since is None else self.silence

    def _drained(self, now: float) -> bool:
        """Whether draining is over: a stopping worker sends no heartbeats; it has until `_stop_by`."""
        return self._stop_by is not None and now >= self._stop_by - self.stop

    def _replace(self, place: int, slot: Slot, worker: Worker, code: int, now: float) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not self._served:
            if code > 0:
                raise SystemExit(code)
            raise WorkerFailed(f"worker {place} ended with {how} before it served")
        steady = worker.serving_since is not None and now - worker.serving_since >= STEADY_SECONDS
        slot.deaths = 0 if steady else slot.deaths + 1
        # The first time at once; when it keeps dying, restarting faster would not help.
        pause = 0.0 if slot.deaths <= 1 else min(MAX_PAUSE_SECONDS, 0.5 * 2.0 ** (slot.deaths - 2))
        slot.start_at = now + pause
        logger.error("worker_ended worker=%d pid=%d how=%r next_in=%.1f", place, worker.process.pid, how, pause)

    def _drain(self) -> None:
        """Order all workers to drain. Their copies of the listener are the last ones: it closes when they have
        drained."""
        self._stop_by = time.monotonic() + self.drain_seconds + self.stop
        self.listener.close()
        for slot in self._slots.values():
            if slot.worker is not None and slot.worker.serving_since is None:
                slot.worker.process.kill()
            elif slot.worker is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    slot.worker.link.send(DRAIN)

    def _reset_heartbeats(self) -> None:
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.last_beat = time.monotonic()

    def _kill_all(self) -> None:
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.process.kill()
                slot.worker.process.wait()
                slot.worker.link.close()


@contextmanager
def _metrics_folder() -> Iterator[Path]:
    """A new, empty folder for the workers' metrics; they find it by PROMETHEUS_MULTIPROC_DIR."""
    folder = Path(tempfile.mkdtemp(prefix="ltrr-metrics-"))
    os.putenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    try:
        yield folder
    finally:
        os.unsetenv("PROMETHEUS_MULTIPROC_DIR")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that receives the number of each handled signal as a byte."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def _stop_signals(signals: socket.socket) -> list[int]:
    return [number for number in signals.recv(1024) if number != signal.SIGCHLD]
