"""Missing packages are installed, or named with the command that installs them; nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import system_packages
from tests.system_packages import APT, NEEDS, PACKAGES, PROGRAMS, absent, advice, commands, find, main, program, system

ROOT = Path(__file__).resolve().parents[2]
APT_GET = """#!/bin/sh
echo "$RUNLEVEL $*" >> {folder}/calls
case "$1" in
  install)
    shift
    echo "Reading package lists..."
    echo "Need to get 93 MB of archives."
    for package in "$@"; do
      case "$package" in -*|{lacking}) continue;; maven) package=mvn;; esac
      for program in "$package" $([ "$package" = prometheus ] && echo promtool); do
        printf '#!/bin/sh\\n' > {folder}/"$program"
        /bin/chmod +x {folder}/"$program"
      done
    done;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with an apt-get that writes down its calls and brings what it is asked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    _write(tmp_path / "apt-get", APT_GET.format(folder=tmp_path, lacking="nothing"))
    return tmp_path


def _write(file: Path, text: str = "#!/bin/sh\n") -> None:
    file.write_text(text)
    file.chmod(0o755)


def _calls(folder: Path) -> list[str]:
    calls = folder / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_nothing_is_installed_where_nothing_is_missing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in PROGRAMS:
        _write(folder / name)
    assert main(PROGRAMS, "debian", root=True) == 0
    assert (_calls(folder), capfd.readouterr()) == ([], ("", ""))


def test_root_on_debian_gets_what_is_missing_and_no_more(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("chromium", "openssl"):
        _write(folder / name)
    assert main(PROGRAMS, "debian", root=True) == 0
    expected = "1 install -y --no-install-recommends -q redis-server prometheus maven"
    assert _calls(folder) == ["1 update -qq", expected]
    out, err = capfd.readouterr()
    assert "redis-server prometheus maven" in out
    assert "Need to get 93 MB of archives." in out
    assert "Reading package lists" not in out
    assert err == ""


def test_what_the_distribution_does_not_bring_is_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _write(folder / "apt-get", APT_GET.format(folder=folder, lacking="maven"))
    assert main(PROGRAMS, "debian", root=True) == 2
    assert capfd.readouterr().err.splitlines() == ["missing: mvn", "to install:", f"  {APT} maven"]


def test_root_on_ubuntu_gets_all_but_the_browser_which_is_a_snap(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(PROGRAMS, "ubuntu", root=True) == 2
    assert not any("chromium" in call for call in _calls(folder))
    assert capfd.readouterr().err.splitlines() == ["missing: chromium", "to install:", "  snap install chromium"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("debian", [f"  sudo {APT} chromium redis-server prometheus maven openssl"]),
        ("ubuntu", ["  sudo snap install chromium", f"  sudo {APT} redis-server prometheus maven openssl"]),
        (
            "fedora",
            [
                "  sudo dnf install /usr/bin/chromium-browser /usr/bin/redis-server /usr/bin/prometheus "
                "/usr/bin/promtool /usr/bin/mvn /usr/bin/openssl"
            ],
        ),
        (
            "macos",
            ["  brew install --cask google-chrome", "  brew install redis prometheus maven openssl"],
        ),
        (
            "other",
            [
                "  chromium, redis-server, prometheus, promtool, mvn, openssl: with the package manager of this system",
            ],
        ),
    ],
)
def test_others_are_told_the_command_and_nothing_is_installed(
    name: str, lines: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(PROGRAMS, name, root=False) == 2
    missing = ["missing: chromium, redis-server, prometheus, promtool, mvn, openssl", "to install:"]
    assert capfd.readouterr().err.splitlines() == missing + lines
    assert _calls(folder) == []


def test_root_elsewhere_is_told_the_command_without_sudo(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["mvn"], "fedora", root=True) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "  dnf install /usr/bin/mvn"
    assert _calls(folder) == []


def test_a_browser_may_have_another_name(folder: Path) -> None:
    _write(folder / "google-chrome-stable")
    assert find("chromium") == str(folder / "google-chrome-stable")
    assert absent(PROGRAMS) == [name for name in PROGRAMS if name != "chromium"]


def test_every_need_can_be_met_on_every_system() -> None:
    for name, packages in PACKAGES.items():
        assert set(NEEDS) <= set(packages), name


def test_a_library_that_is_missing_is_brought(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert absent(["openmp"]) == [], "the tests of the ranker would fail"
    monkeypatch.setattr(system_packages, "OPENMP", ("libabsent.so.1",))
    assert main(["openmp"], "debian", root=True) == 2
    assert _calls(folder) == ["1 update -qq", "1 install -y --no-install-recommends -q libgomp1"]


def test_the_module_for_environments_is_named_by_the_version_of_python() -> None:
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    assert commands(["venv"], "debian") == {APT: [package]}
    assert advice(["venv"], "ubuntu", root=False)[-1] == f"  sudo {APT} {package}"


def test_a_python_without_ensurepip_has_no_environments(tmp_path: Path) -> None:
    """A Python as Debian ships it: `venv` exists, and fails half-way."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    code = "import sys; from tests.system_packages import main; sys.exit(main(['venv'], 'debian', root=False))"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == "missing: venv"
    assert ended.stderr.rstrip().endswith(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")


def test_as_a_command_it_needs_no_environment(folder: Path) -> None:
    for name in PROGRAMS:
        _write(folder / name)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {_RUN}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


_RUN = "import runpy; sys.argv = ['x']; runpy.run_module('tests.system_packages', run_name='__main__')"


def test_a_missing_program_is_a_clear_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing: redis-server"):
        program("redis-server")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no os-release")
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ID=debian\nVERSION_ID=12\n", "debian"),
        ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "ubuntu"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "ubuntu"),
        ('ID="rhel"\nID_LIKE="fedora"\n', "fedora"),
        ("ID=alpine\n", "other"),
        ("\n# nothing\n", "other"),
    ],
)
def test_the_system_is_read_from_os_release(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(text)
    assert system(str(tmp_path / "os-release")) == name
    assert system(str(tmp_path / "absent")) == "other"
