"""Fixtures that every test may use, and which tests run in one process when several run them."""

from __future__ import annotations

import gc
import os
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before numpy is imported: processes of tests share few cores, and threads that wait for others burn them."""

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets and models that stands beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.fail(f"the data folder {SHARED} is absent: these tests need the real data sets beside the checkout")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def anyio_backend() -> str:
    """Tests and fixtures that are coroutine functions run on asyncio, as the service does."""
    return "asyncio"


def pytest_collection_finish() -> None:
    """Thousands of collected tests need not be gone through whenever garbage is collected."""
    gc.freeze()


# --- `make test` runs three processes (pytest -n 3 --dist loadscope), as tests also wait: a group of tests stays in one
# of them, and each process takes the next group that is left ---

SLOWEST = (
    "simulation/test_simulate.py",
    "opensearch",
    "system/test_production.py",
    "cli/test_cli.py",
    "policies/test_policies.py",
    "backup/test_backup.py",
    "system/test_production_start.py",
    "http/test_pages.py",
    "process/test_workers.py",
    "policies/test_plans.py",
    "simulation/test_visitors.py",
    "http/test_end_to_end.py",
    "http/test_policy_api.py",
    "operations/test_indexing.py",
    "studies/test_memory_study.py",
    "system/test_ownership.py",
    "deploy/test_monitored_service.py",
    "offpolicy/test_gate.py",
    "process/test_drain.py",
    "telemetry/test_tracing.py",
    "arms/test_adding_an_arm.py",
    "search/test_paging.py",
    "http/test_bad_input.py",
    "offpolicy/test_ope.py",
)
"""Groups that take longest, longest first: those that begin last are short, so all processes end together."""


class GroupScheduling(LoadScopeScheduling):
    """Groups go to processes as a whole, in the order in which they were collected.

    pytest-xdist 3.8 has `--dist loadgroup` for this, which pytest 9.2 silently ignores (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(ROOT / nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOWEST.index(group) if (group := group_of(item.path)) in SLOWEST else len(SLOWEST))


@cache
def group_of(path: Path) -> str:
    """Name of a test file's group: "opensearch" for those that share a node, else the file below tests/."""
    return "opensearch" if "import shared_node" in path.read_text() else path.relative_to(ROOT / "tests").as_posix()
