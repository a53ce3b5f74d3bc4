"""What tests need and pip cannot bring, programs above all: where it is, and what brings what is missing.

`python3 -m tests.system_packages [NEED…]` checks all of it, or the needs that are named (`venv` among them). Root on
Debian or Ubuntu gets what is missing; anybody else is told the command that brings it. It runs before there is an
environment, so it keeps to the standard library, and to syntax of Pythons that are too old for everything else.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence

OLDEST_PYTHON = (3, 11)
PROGRAMS = ("chromium", "redis-server", "prometheus", "promtool", "mvn", "openssl")
NEEDS = (*PROGRAMS, "openmp")
"""The programs, and the library that LightGBM shares with the system."""
OPENMP = (
    "libgomp.so.1",
    "/opt/homebrew/opt/libomp/lib/libomp.dylib",
    "/usr/local/opt/libomp/lib/libomp.dylib",
)
OTHER_NAMES = {
    "chromium": (
        "chromium-browser",
        "google-chrome-stable",
        "google-chrome",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    )
}
APT = "apt-get install -y --no-install-recommends"
DEBIAN = {
    "chromium": (APT, "chromium"),
    "redis-server": (APT, "redis-server"),
    "prometheus": (APT, "prometheus"),
    "promtool": (APT, "prometheus"),
    "mvn": (APT, "maven"),
    "openssl": (APT, "openssl"),
    "openmp": (APT, "libgomp1"),
    "venv": (APT, f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"),
}
PACKAGES = {
    "debian": DEBIAN,
    "ubuntu": {**DEBIAN, "chromium": ("snap install", "chromium")},  # apt's Chromium there is a wrapper of the snap
    "fedora": {
        "chromium": ("dnf install", "/usr/bin/chromium-browser"),  # dnf finds the package of a file
        **{program: ("dnf install", f"/usr/bin/{program}") for program in PROGRAMS[1:]},
        "openmp": ("dnf install", "libgomp"),
    },
    "macos": {
        "chromium": ("brew install --cask", "google-chrome"),
        "redis-server": ("brew install", "redis"),
        "prometheus": ("brew install", "prometheus"),
        "promtool": ("brew install", "prometheus"),
        "mvn": ("brew install", "maven"),
        "openssl": ("brew install", "openssl"),
        "openmp": ("brew install", "libomp"),
    },
}
"""(system, need) -> (install command, packages)."""


def find(program: str) -> str | None:
    """The path of a program on PATH under any of its names; None where it is missing."""
    return next(filter(None, map(shutil.which, (program, *OTHER_NAMES.get(program, ())))), None)


def program(name: str) -> str:
    """The path of a program on PATH. Raises FileNotFoundError, saying what brings it, where it is missing."""
    found = find(name)
    if found is None:
        raise FileNotFoundError("\n".join(advice([name], system(), root=os.geteuid() == 0)))
    return found


def absent(needs: Iterable[str]) -> list[str]:
    """The needs that this machine does not meet."""
    others = {"venv": _has_venv, "openmp": _has_openmp}
    return [need for need in needs if not (others[need]() if need in others else find(need))]


def system(release: str = "/etc/os-release") -> str:
    """The key of PACKAGES that fits this machine; `other` where none does."""
    if sys.platform == "darwin":
        return "macos"
    try:
        with open(release, encoding="utf-8") as lines:
            facts = dict(line.rstrip().split("=", 1) for line in lines if "=" in line)
    except OSError:
        return "other"
    names = f"{facts.get('ID', '')} {facts.get('ID_LIKE', '')}".replace('"', "").split()
    return next((name for name in names if name in PACKAGES), "other")


def commands(needs: Iterable[str], name: str) -> dict[str, list[str]]:
    """Install command -> packages for these needs on the system `name`, each once."""
    grouped: dict[str, list[str]] = {}
    for need in needs:
        if need in PACKAGES.get(name, {}):
            command, package = PACKAGES[name][need]
            packages = grouped.setdefault(command, [])
            if package not in packages:
                packages.append(package)
    return grouped


def advice(needs: Sequence[str], name: str, root: bool) -> list[str]:
    """Missing packages and the commands that install them, one line each."""
    lines = [f"missing: {', '.join(needs)}", "to install:"]
    for command, packages in commands(needs, name).items():
        sudo = "" if root or command.startswith("brew") else "sudo "
        lines.append(f"  {sudo}{command} {' '.join(packages)}")
    unknown = [need for need in needs if need not in PACKAGES.get(name, {})]
    if unknown:
        lines.append(f"  {', '.join(unknown)}: with the package manager of this system")
    return lines


def install(packages: Sequence[str]) -> None:
    """Install packages by apt-get, saying what it fetches; its errors go to standard error. It may fail: look again."""
    # RUNLEVEL=1: packages are not to start their servers; the tests start their own.
    environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    print(f"installing {' '.join(packages)} by apt-get; this can take some minutes", flush=True)
    subprocess.run(["apt-get", "update", "-qq"], env=environment, stdout=subprocess.DEVNULL)
    command = [*APT.split(), "-q", *packages]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("Need to get", "After this operation")):
                print(f"  {line.rstrip()}", flush=True)


def main(needs: Sequence[str], name: str, root: bool) -> int:
    """The exit code: 0 when everything is there (perhaps installed just now), 2 when something is missing."""
    if "venv" in needs and sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        print(
            f"Python {oldest} or newer is needed; say which with: make PYTHON=/path/to/python{oldest}", file=sys.stderr
        )
        return 2
    missing = absent(needs)
    if missing and root and shutil.which("apt-get"):
        packages = commands(missing, name).get(APT)
        if packages:
            install(packages)
            missing = absent(needs)
    if missing:
        print("\n".join(advice(missing, name, root)), file=sys.stderr)
        return 2
    return 0


def _has_venv() -> bool:
    """Whether `python3 -m venv` works: Debian ships it without ensurepip."""
    importlib.invalidate_caches()
    return all(importlib.util.find_spec(module) for module in ("venv", "ensurepip"))


def _has_openmp() -> bool:
    for library in OPENMP:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or NEEDS, system(), root=os.geteuid() == 0))
