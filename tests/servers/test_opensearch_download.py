"""OpenSearch is fetched once, whoever else fetches it at the same time and whatever happened before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import eventually

ROOT = Path(__file__).resolve().parents[2]
FETCH = "from tests.servers.opensearch import fetch; print('class path', fetch())"
SECONDS = 300.0
"""Time limit of one call: it downloads the files that are not cached yet."""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A cache of the test's own; files fetched by Maven stay where they are."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}


def _start(environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH],
        cwd=ROOT,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    """The reported lines and the resulting class path."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    *reports, last = out.splitlines()
    return reports, last.removeprefix("class path ")


def test_of_two_at_once_one_fetches(environ: dict[str, str]) -> None:
    ended = [_end(process) for process in (_start(environ), _start(environ))]
    (first, found), (second, also_found) = sorted(ended, key=lambda report: -len(report[0]))
    assert found == also_found
    assert "MB" in first[0]
    assert second == []
    assert all(Path(entry).exists() for entry in found.split(os.pathsep))


def test_one_that_was_killed_is_begun_anew(tmp_path: Path, environ: dict[str, str]) -> None:
    process = _start(environ)
    cache = tmp_path / "ltrr-tests"
    eventually(lambda: list(cache.glob("*.unfinished")), SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (unfinished,) = cache.glob("*.unfinished")
    assert not unfinished.with_suffix("").exists()
    reports, found = _end(_start(environ))
    assert reports
    assert (unfinished.with_suffix("") / "OpenSearchNode.class").exists()
    assert not unfinished.exists()
    assert _end(_start(environ)) == ([], found)


def test_without_maven_it_says_what_is_missing(environ: dict[str, str], tmp_path: Path) -> None:
    process = _start({**environ, "PATH": str(tmp_path)})
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "missing: mvn" in err
