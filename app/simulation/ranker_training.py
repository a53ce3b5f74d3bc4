"""A ranker for simulations, trained on simulated clicks alone: the service runs with a learning policy, and a ranker is
trained on its log as by `ltrr train ranker`. Such a ranker misjudges items that were never on a page, so one trained on
answers of one policy is of less use to another. A ranker that is fair to both has seen answers of both, as in an A/B
test."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.offline.sandbox import EMBEDDED
from app.settings import Settings
from app.simulation.in_process import World, copy_prepared, open_existing
from app.simulation.runs import RunSpec
from services.backends.files import copy_sparse
from services.datasets.folder import Dataset
from services.errors import InvalidRequest
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.loop import simulate
from services.simulation.traffic import Search, Traffic

SEED = 0
"""Seed of users and training; differs from the seeds of the measured runs."""

ANSWERED_BY: dict[str, Callable[[int], str]] = {
    "both": lambda index: ("learned", "static")[index % 2],
    "LTRR": lambda index: "learned",
    "static": lambda index: "static",
}
"""Name of the policy that answers the ranker's training searches -> (index of a search -> mode of the service)."""

TrainRanker = Callable[[Settings], Awaitable[str | None]]
"""Trains on the log in the settings' data folder; None when the ranker is active there, otherwise the reason why
not."""


async def with_ranker(settings: Settings, spec: RunSpec, train: TrainRanker, progress: Callable[[int], None]) -> Path:
    """Path of a copy of the folder `prepared` with an active ranker, trained on `spec.ranker` searches. An existing
    copy for the same specification is reused. `progress` gets the number of searches done.

    Raises InvalidRequest when the ranker does not pass its gate.
    """
    prepared = spec.prepared
    description = (
        f"{prepared.joinpath('prepared').read_text()}\n{spec.ranker_by} {spec.ranker} {spec.click_model} {spec.noise}"
    )
    ranked, work = prepared.with_name("prepared-ranker"), prepared.with_name("ranker-work")
    done = ranked / "ranked"
    if done.exists() and done.read_text() == description:
        return ranked
    shutil.rmtree(ranked, ignore_errors=True)
    copy_prepared(prepared, work)
    dataset = Dataset.open(spec.data)
    judge = Judge.from_dataset(
        dataset, click_model(spec.click_model, noise=spec.noise), SEED, weights=settings.action_weights
    )
    queries = [query for query in dataset.queries("train") if judge.has_relevant(query.query_id)]
    async with open_existing(settings, prepared, work, World(SEED)) as (system, service):

        async def before(search: Search) -> None:
            system.switch.mode = ANSWERED_BY[spec.ranker_by](search.index)

        await simulate(service, Traffic(queries, SEED), judge, spec.ranker, before=before, progress=progress)
        await service.learn()
    refused = await train(settings.model_copy(update={"data_dir": work} | EMBEDDED))
    if refused is not None:
        raise InvalidRequest(f"the ranker is not better than the fused order ({refused}); try more impressions")
    shutil.copytree(prepared, ranked, copy_function=copy_sparse)
    shutil.copytree(work / "models" / "ranker", ranked / "models" / "ranker")
    shutil.rmtree(work)
    done.write_text(description)
    return ranked
