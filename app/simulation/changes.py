"""Changes during a simulated run as requested by the command, and the updates of the catalogue that they cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.simulation.in_process import InProcessService
from services.datasets.folder import Dataset, DatasetQuery
from services.errors import InvalidRequest
from services.simulation.drift import (
    Arrival,
    Drift,
    IntentSwap,
    Outage,
    schedule_arrivals,
    swap_queries,
    swap_users,
)
from services.types import Document

WAVES = (0.2, 0.4, 0.6, 0.8)
"""Times at which new items arrive, as shares of a run."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes during a run."""

    outages: tuple[Outage, ...] = ()
    new_items: float = 0.0
    """Share of the catalogue that is missing at first, 0..1."""
    taste: int | None = None
    """The search from which on users want what others wanted before; None: never."""

    def moments(self, impressions: int) -> list[int]:
        """Indices of the searches at which something changes, ascending."""
        moments = {at for outage in self.outages for at in (outage.start, outage.end)}
        moments |= {self.taste} if self.taste is not None else set()
        moments |= set(_waves(impressions)) if self.new_items > 0.0 else set()
        return sorted(at for at in moments if at < impressions)

    def drift(self, dataset: Dataset, impressions: int) -> Drift:
        """The schedule for a run over this data set. Raises InvalidRequest for a share out of range."""
        arrivals: tuple[Arrival, ...] = ()
        swaps: list[IntentSwap] = []
        if self.new_items > 0.0:
            ids = (str(document["id"]) for document in dataset.documents())
            arrivals = schedule_arrivals(ids, self.new_items, _waves(impressions))
        if self.taste is not None:
            splits: dict[str, list[DatasetQuery]] = {}
            for query in dataset.queries():
                splits.setdefault(query.split, []).append(query)
            for queries in splits.values():  # test queries change as the train queries of the traffic do
                swaps += [swap_queries(queries, self.taste), swap_users(queries, self.taste)]
        return Drift(arrivals, tuple(swaps), self.outages)


def _waves(impressions: int) -> list[int]:
    return [round(share * impressions) for share in WAVES]


class LateArrivals:
    """Items that enter the catalogue in the course of a run."""

    def __init__(self, documents: Iterable[Document], drift: Drift) -> None:
        self._drift = drift
        missing = drift.missing_items(0)
        self._waiting = {document["id"]: document for document in documents if document["id"] in missing}

    async def remove_all(self, service: InProcessService) -> None:
        """Delete them from the catalogue, with everything known about them."""
        if self._waiting:
            await service.system.catalogue.delete(list(self._waiting))
            service.catalogue_changed()

    async def add_arrived(self, service: InProcessService, index: int) -> None:
        """Add those that have arrived by search `index`. Raises InvalidRequest when the catalogue rejects one."""
        if not self._waiting:
            return
        missing = self._drift.missing_items(index)
        arriving = [object_id for object_id in self._waiting if object_id not in missing]
        if arriving:
            results = await service.system.catalogue.put([self._waiting.pop(object_id) for object_id in arriving])
            if refused := [result.detail for result in results if result.status != "accepted"]:
                raise InvalidRequest(f"an item of the catalogue is refused: {refused[0]}")
            service.catalogue_changed()
