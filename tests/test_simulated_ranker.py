"""A ranker for simulations, trained on simulated clicks: what is kept of it, and what is said when it is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.cli.progress import Progress
from app.cli.train import train_encoders, train_ranker
from app.settings import Settings
from app.simulated_ranker import with_ranker
from app.simulation import World, prepare, simulated
from app.stores import model_store
from app.wiring import RANKER
from services.errors import InvalidRequest
from services.policies.fixed import FixedPolicy
from services.rankers.onnx import OnnxRanker
from tests.test_simulate import SETTINGS, tracks_folder

IMPRESSIONS = 400


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tracks_folder(tmp_path_factory.mktemp("data") / "tracks")


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "prepared"
    with Progress() as progress:
        asyncio.run(prepare(SETTINGS, data, folder, train_encoders, progress))
    return folder


class Training:
    """`ltrr train ranker` on the log, with a gate that the test decides."""

    def __init__(self, refuse: str | None = None) -> None:
        self.refuse = refuse
        self.times = 0

    async def __call__(self, own: Settings) -> str | None:
        self.times += 1
        outcome = await train_ranker(own, None, 0, promote=False)
        if self.refuse is None:
            model_store(own).promote(RANKER, outcome.version, "a test")
        return self.refuse


def ranked(data: Path, prepared: Path, train: Training, impressions: int = IMPRESSIONS) -> tuple[Path, int]:
    """(the folder, searches that it took)."""
    done = [0]
    folder = asyncio.run(
        with_ranker(SETTINGS, prepared, data, impressions, "position", 0.1, train, lambda n: done.append(n))
    )
    return folder, done[-1]


def test_every_run_has_the_ranker_and_the_folder_before_stays_as_it_was(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    train = Training()
    folder, searches = ranked(data, prepared, train)
    assert (searches, train.times) == (IMPRESSIONS, 1)

    async def ranker_of(where: Path, world: World) -> bool:
        async with simulated(SETTINGS, where, tmp_path / "work", world, FixedPolicy()) as (system, _):
            return isinstance(system.search.knowledge.ranker, OnnxRanker)

    for where, expected in ((folder, True), (prepared, False)):
        world = World(1)
        assert asyncio.run(ranker_of(where, world)) is expected
        assert world.ranked is expected, "its features are computed only where it looks at them"
    assert ranked(data, prepared, train) == (folder, 0), "the same command finds it there"
    assert train.times == 1
    assert ranked(data, prepared, train, IMPRESSIONS + 20)[1] == IMPRESSIONS + 20, "another one does not"


def test_a_ranker_that_is_refused_is_not_used(data: Path, prepared: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"not better than the fused order \(worse by 3\)"):
        ranked(data, prepared, Training("worse by 3"), IMPRESSIONS + 40)
    assert ranked(data, prepared, Training(), IMPRESSIONS + 40)[1] == IMPRESSIONS + 40, "nothing of it is left"
