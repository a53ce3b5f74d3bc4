"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


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
