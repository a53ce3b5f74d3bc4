"""A real OpenSearch node for tests: the published server, one node on a loopback port.

The node is started from its published libraries (see opensearch/pom.xml) by a launcher of a few lines: the published
distributions refuse to run as root, as containers of tests do, and take several times as long to start. What it runs is
the same engine; it needs no module besides HTTP, because our mappings use the core's analysers alone.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

SOURCES = Path(__file__).parent / "opensearch"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltrr-tests"
OLDEST_JAVA = 21
PATIENCE = 60.0
"""Seconds that a node may take to start or to stop."""


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
        """On the same port and folder as before, with everything that was acknowledged there."""
        assert self._process is None, "it is running"
        java, classpath = _launcher()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(java / "bin" / "java"),
                    f"-Xms{self._heap}m",
                    f"-Xmx{self._heap}m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",  # starts faster; what tests ask never runs hot
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
        """At once, as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and answers nothing until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """For good: its folder goes too."""
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


def _launcher() -> tuple[Path, str]:
    """The Java home and the class path to start a node with; resolved and compiled once per change of the sources."""
    java = _java_home()
    sources = [SOURCES / "pom.xml", SOURCES / "OpenSearchNode.java"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources) + str(java).encode()).hexdigest()
    cached = CACHE / f"opensearch-{digest[:16]}"
    try:
        classpath = (cached / "classpath").read_text()
    except FileNotFoundError:
        classpath = ""
    if not classpath or not all(Path(entry).exists() for entry in classpath.split(os.pathsep)):
        classpath = _build(java, cached)
    return java, os.pathsep.join([str(cached), classpath])


def _build(java: Path, cached: Path) -> str:
    maven = shutil.which("mvn")
    assert maven, "Maven (mvn) is needed to get OpenSearch for the tests of its backend"
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Made aside and moved into place: other test runs may do the same at the same time.
    with tempfile.TemporaryDirectory(dir=cached.parent) as name:
        folder = Path(name) / "built"
        folder.mkdir()
        found = folder / "classpath"
        resolve = ["dependency:build-classpath", f"-Dmdep.outputFile={found}", "-Dmdep.includeScope=runtime"]
        _run([maven, "-q", "-B", "-f", str(SOURCES / "pom.xml"), *resolve])
        classpath = found.read_text().strip()
        source = str(SOURCES / "OpenSearchNode.java")
        _run([str(java / "bin" / "javac"), "-d", str(folder), "-cp", classpath, source])
        shutil.rmtree(cached, ignore_errors=True)
        try:
            folder.replace(cached)
        except OSError:
            assert (cached / "classpath").exists()  # another run was faster
    return classpath


def _java_home() -> Path:
    """The newest JDK of at least OLDEST_JAVA: JAVA_HOME and its kin (JAVA_HOME_21_X64 …), or those of the system."""
    named = [Path(path) for name, path in os.environ.items() if name.startswith("JAVA_HOME") and path]
    installed = sorted(Path("/usr/lib/jvm").glob("*"))
    homes = {home.resolve() for home in (*named, *installed) if (home / "bin" / "javac").exists()}
    versions = {home: version for home in homes if (version := _java_version(home)) >= OLDEST_JAVA}
    assert versions, f"a JDK of version {OLDEST_JAVA} or newer is needed to run OpenSearch; found {sorted(homes)}"
    return max(versions, key=lambda home: (versions[home], str(home)))


def _java_version(home: Path) -> int:
    try:
        release = (home / "release").read_text()
    except OSError:
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    return int(found[1]) if found else 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command[:4])}: {(done.stdout + done.stderr)[-4000:]}"
