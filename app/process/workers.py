"""Several gateway processes on one port: started, watched, replaced and stopped by a supervisor that does nothing else.

Our own, over uvicorn.Server, and not uvicorn's supervisor: that one asks a thread of each worker whether it lives, so
an event loop that hangs goes unnoticed, and asks one worker after the other, so one that is stopped holds up all; it
restarts without pause, keeps the metrics of the dead, leaves workers behind when it is killed, and stops by closing the
listener in the workers while its own copy goes on collecting connections that nobody will accept.

All workers accept from one listening socket that the supervisor bound (with one socket each, the kernel would give
connections to a worker that cannot take them any more). Each is a fresh interpreter with settings, clients and event
loop of its own. Each has a place, a number from 1 up that its successor takes over. A pair of connected sockets says
the rest: the worker beats, the supervisor says when to drain, and the end of either is seen by the other at once.
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
SILENCE_SECONDS = 10.0
"""A worker whose event loop has not turned for so long is replaced."""
START_SECONDS = 120.0
STOP_SECONDS = 10.0
"""How long after draining a worker may take to end."""
TICK_SECONDS = 0.25
STEADY_SECONDS = 30.0
"""A worker that served for so long did not die of what killed the one before it."""
LONGEST_PAUSE = 30.0
COMMAND = (sys.executable, "-m", "app.worker")


class WorkerFailed(LtrrError):
    """A worker did not begin to serve."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is given by its supervisor: its number, two open descriptors, and the folder of the metrics."""

    slot: int
    listener: int
    link: int
    folder: Path

    def arguments(self) -> list[str]:
        return [str(self.slot), str(self.listener), str(self.link), str(self.folder)]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Place:
        slot, listener, link, folder = arguments
        return cls(int(slot), int(listener), int(link), Path(folder))


def take(place: Place) -> None:
    """Become the worker of `place`; before services.metrics is imported, as its metrics go where this says.

    Metrics are kept per place and not per process: a successor goes on counting where the one before it ended, so that
    no count is lost and no file is left over, however often workers are replaced.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # told by the supervisor alone
    values.ValueClass = values.MultiProcessValue(lambda: place.slot)  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Worker:
    process: subprocess.Popen[bytes]
    link: socket.socket
    heard: float
    """When it last beat; when it was started, while it does not serve yet."""
    serving_since: float | None = None

    def receive(self) -> bytes:
        try:
            return self.link.recv(1024)
        except BlockingIOError:
            return b"."
        except OSError:
            return b""


@dataclass(slots=True)
class Slot:
    worker: Worker | None = None
    due: float = 0.0
    deaths: int = 0
    """In a row, each soon after its start."""


@dataclass(slots=True)
class Supervisor:
    """Runs `workers` processes of `command` (given the arguments of a Place) on `listener`, until told to stop."""

    listener: socket.socket
    workers: int
    drain_seconds: float
    command: Sequence[str] = COMMAND
    silence: float = SILENCE_SECONDS
    stop: float = STOP_SECONDS
    _slots: dict[int, Slot] = field(default_factory=dict)
    _folder: Path = Path()
    _served: bool = False
    _stop_by: float | None = None
    _failed: bool = False

    def run(self) -> int:
        """The number of the signal that asked to stop.

        Raises WorkerFailed, or SystemExit with the code of a worker that said itself why it cannot start: nothing is
        tried again before the first of them has served. A second signal ends everything at once, by SystemExit.
        """
        with _metrics_folder() as self._folder, _signals() as signals, selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            asked: int | None = None
            try:
                while asked is None or any(slot.worker for slot in self._slots.values()):
                    looked = time.monotonic()
                    if asked is None:
                        self._start_due(selector, looked)
                    events = selector.select(TICK_SECONDS)
                    if time.monotonic() - looked > self.silence / 2:
                        self._forgive()  # we were stopped, and they perhaps as well
                    for key, _ in events:
                        if key.data is None:
                            for number in _stopping(signals):
                                if asked is not None:
                                    raise SystemExit(128 + number)
                                asked = number
                                self._drain()
                        else:
                            self._hear(selector, key.data)
                    for place in self._slots:
                        self._look_after(place, asked is not None)
            finally:
                self._kill_all()
        if self._failed:
            raise WorkerFailed("a worker did not stop in time and was killed")
        return asked

    def _start_due(self, selector: selectors.BaseSelector, now: float) -> None:
        """One alone at first: what keeps it from starting would keep the others, and is said once."""
        first = self._slots.get(1)
        alone = first is None or (first.worker is not None and first.worker.serving_since is None)
        for place in range(1, 2 if alone and not self._served else self.workers + 1):
            slot = self._slots.setdefault(place, Slot())
            if slot.worker is None and now >= slot.due:
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

    def _hear(self, selector: selectors.BaseSelector, worker: Worker) -> None:
        if not worker.receive():
            selector.unregister(worker.link)  # it is ending
            return
        worker.heard = time.monotonic()
        if worker.serving_since is None:
            worker.serving_since = worker.heard
            self._served = True

    def _look_after(self, place: int, stopping: bool) -> None:
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
        elif not self._leaving(now) and now - worker.heard > self._patience(worker):
            logger.error("worker_hangs worker=%d pid=%d", place, worker.process.pid)
            worker.process.kill()
            worker.heard = now

    def _patience(self, worker: Worker) -> float:
        return START_SECONDS if worker.serving_since is None else self.silence

    def _leaving(self, now: float) -> bool:
        """Whether draining is over: a worker that stops does not beat, it has until `_stop_by`."""
        return self._stop_by is not None and now >= self._stop_by - self.stop

    def _replace(self, place: int, slot: Slot, worker: Worker, code: int, now: float) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not self._served:
            if code > 0:
                raise SystemExit(code)
            raise WorkerFailed(f"worker {place} ended with {how} before it served")
        steady = worker.serving_since is not None and now - worker.serving_since >= STEADY_SECONDS
        slot.deaths = 0 if steady else slot.deaths + 1
        # The first time at once; when it keeps dying, something is wrong that more starts would not mend.
        pause = 0.0 if slot.deaths <= 1 else min(LONGEST_PAUSE, 0.5 * 2.0 ** (slot.deaths - 2))
        slot.due = now + pause
        logger.error("worker_ended worker=%d pid=%d how=%r next_in=%.1f", place, worker.process.pid, how, pause)

    def _drain(self) -> None:
        """The workers' copies of the listener are the last ones: it closes when they have drained."""
        self._stop_by = time.monotonic() + self.drain_seconds + self.stop
        self.listener.close()
        for slot in self._slots.values():
            if slot.worker is not None and slot.worker.serving_since is None:
                slot.worker.process.kill()
            elif slot.worker is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    slot.worker.link.send(DRAIN)

    def _forgive(self) -> None:
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.heard = time.monotonic()

    def _kill_all(self) -> None:
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.process.kill()
                slot.worker.process.wait()
                slot.worker.link.close()


@contextmanager
def _metrics_folder() -> Iterator[Path]:
    """Where workers keep their counts, new and empty; they find it by PROMETHEUS_MULTIPROC_DIR."""
    folder = Path(tempfile.mkdtemp(prefix="ltrr-metrics-"))
    os.putenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    try:
        yield folder
    finally:
        os.unsetenv("PROMETHEUS_MULTIPROC_DIR")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that gets a byte for each signal that concerns us: its number."""
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


def _stopping(signals: socket.socket) -> list[int]:
    return [number for number in signals.recv(1024) if number != signal.SIGCHLD]
