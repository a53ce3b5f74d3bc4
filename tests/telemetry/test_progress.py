"""Progress of long work, as a terminal shows it and as a file keeps it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from app.telemetry.progress import Progress
from tests.commands import ROOT

WORK = """
from app.telemetry.progress import Progress
with Progress() as progress:
    progress.done("sample items", 0)
    progress.end("sample items", 5150)
    progress.note("a note")
    for count in range(0, 3001, 500):
        progress.done("words", count, 3000)
    progress.done("never ends", 3)
"""


def on_terminal(source: str) -> str:
    """Output of `source` on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stderr=theirs) as process:
        os.close(theirs)
        drawn = b""
        try:
            while part := os.read(ours, 4096):
                drawn += part
        except OSError:  # how a terminal says that nobody has the other end any more
            pass
        os.close(ours)
        assert process.wait() == 0
    return drawn.decode()


def test_a_terminal_shows_bars_with_counts() -> None:
    drawn = on_terminal(WORK)
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    assert any(re.match(r"sample items +5,150 in \d\d:\d\d$", line.strip()) for line in lines)
    assert any(re.match(r"words +100% \|█+\| 3,000 of 3,000 in \d\d:\d\d", line) for line in lines)
    assert "a note" in lines
    assert "words: " not in drawn


def test_elsewhere_each_finished_stage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    exec(WORK)
    assert capsys.readouterr().err.splitlines() == ["sample items: 5,150", "a note", "words: 3,000"]


def test_a_stage_may_come_again(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for _ in range(2):
            progress.done("vectors", 0, 2)
            progress.done("vectors", 2, 2)
    assert capsys.readouterr().err == "vectors: 2\nvectors: 2\n"


def test_nothing_between_the_bars_of_a_demo(tmp_path: Path) -> None:
    """Its stages follow one another without a line of the log."""
    source = f"""
from pathlib import Path
from app.cli import demo
from app.telemetry import logs
from app.settings import Settings
from services.datasets.folder import write_folder
folder = Path({str(tmp_path)!r})
write_folder(folder / "songs", [{{"id": str(n), "title": f"Song of {{n % 7}} rivers", "plays": n}} for n in range(30)])
settings = Settings.load({{}}, data_dir=folder / "var")
logs.configure(settings)
with logs.logging_to():
    demo._prepare(settings, folder / "songs", generated=False)
"""
    drawn = on_terminal(source)
    assert "INFO" not in drawn
    assert "WARNING" not in drawn
    for stage in ("items read", "train encoder", "vocabulary", "words", "vectors", "tastes", "predicted queries"):
        assert re.search(rf"{stage} .*30", drawn), stage
