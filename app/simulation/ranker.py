"""A ranker for simulations, from simulated clicks alone: the service lives as it comes, its policy learning, and a
ranker is trained on its log as `ltrr train ranker` does it. What never was on a page it misjudges: trained on answers
by one policy it is of less use to another. The fairest one for both has seen answers by both, as in an A/B test."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.offline.sandbox import EMBEDDED
from app.settings import Settings
from app.simulation.runs import Asked
from app.simulation.world import LISTS, World, lived
from services.datasets.folder import Dataset
from services.errors import InvalidRequest
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.simulate import simulate
from services.simulation.users import Search, Traffic

SEED = 0
"""Of people and training; the runs that are measured have others."""

ANSWERED_BY: dict[str, Callable[[int], str]] = {
    "both": lambda index: ("learned", "static")[index % 2],
    "LTRR": lambda index: "learned",
    "static": lambda index: "static",
}
"""Who answers the searches that the ranker learns from -> mode of the service for the search of each index."""

TrainRanker = Callable[[Settings], Awaitable[str | None]]
"""Trains on the log of the settings' data folder; None when the ranker is in force there, else why it is not."""


async def with_ranker(settings: Settings, what: Asked, train: TrainRanker, progress: Callable[[int], None]) -> Path:
    """A copy of the folder `prepared` in which a ranker trained on `what.ranker` searches is in force. One that is
    there already is left as it is.

    Raises InvalidRequest when the ranker does not pass its gate.
    """
    prepared = what.prepared
    asked = (
        f"{prepared.joinpath('prepared').read_text()}\n{what.ranker_by} {what.ranker} {what.click_model} {what.noise}"
    )
    ranked, work = prepared.with_name("prepared-ranker"), prepared.with_name("ranker-work")
    done = ranked / "ranked"
    if done.exists() and done.read_text() == asked:
        return ranked
    for folder in (ranked, work):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared, work, ignore=shutil.ignore_patterns(f"{LISTS}*"))
    dataset = Dataset.open(what.data)
    judge = Judge.of(dataset, click_model(what.click_model, noise=what.noise), SEED, weights=settings.action_weights)
    queries = [query for query in dataset.queries("train") if judge.answerable(query.query_id)]
    async with lived(settings, prepared, work, World(SEED)) as (system, service):

        async def before(search: Search) -> None:
            system.switch.mode = ANSWERED_BY[what.ranker_by](search.index)

        await simulate(service, Traffic(queries, SEED), judge, what.ranker, before=before, progress=progress)
        await service.learn()
    refused = await train(settings.model_copy(update={"data_dir": work} | EMBEDDED))
    if refused is not None:
        raise InvalidRequest(f"the ranker is not better than the fused order ({refused}); try more impressions")
    shutil.copytree(prepared, ranked)
    shutil.copytree(work / "models" / "ranker", ranked / "models" / "ranker")
    shutil.rmtree(work)
    done.write_text(asked)
    return ranked
