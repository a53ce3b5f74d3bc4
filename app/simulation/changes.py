"""What changes while a run is simulated, as the command asks for it, and how the catalogue follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.simulation.world import Simulated
from services.datasets.folder import Dataset, DatasetQuery
from services.errors import InvalidRequest
from services.simulation.drift import Arrival, Drift, Exchange, Outage, Reversal, new_items, persons_swapped, swapped
from services.types import Document

WAVES = (0.2, 0.4, 0.6, 0.8)
"""When new items arrive, as shares of a run."""


@dataclass(frozen=True, slots=True)
class Changes:
    outages: tuple[Outage, ...] = ()
    new_items: float = 0.0
    """Share of the catalogue that is not there at first."""
    taste: int | None = None
    """The search from which on people want what others wanted."""

    def moments(self, impressions: int) -> list[int]:
        """Searches from which on something is otherwise, ascending."""
        happens = {at for outage in self.outages for at in (outage.start, outage.end)}
        happens |= {self.taste} if self.taste is not None else set()
        happens |= set(_waves(impressions)) if self.new_items > 0.0 else set()
        return sorted(at for at in happens if at < impressions)

    def drift(self, dataset: Dataset, impressions: int) -> Drift:
        """Raises InvalidRequest for a share that is none."""
        arrivals: tuple[Arrival, ...] = ()
        changes: list[Exchange | Reversal] = []
        if self.new_items > 0.0:
            ids = (str(document["id"]) for document in dataset.documents())
            arrivals = new_items(ids, self.new_items, _waves(impressions))
        if self.taste is not None:
            splits: dict[str, list[DatasetQuery]] = {}
            for query in dataset.queries():
                splits.setdefault(query.split, []).append(query)
            for queries in splits.values():  # so that what is asked at the end has changed as what was asked before
                changes += [swapped(queries, self.taste), persons_swapped(queries, self.taste)]
        return Drift(arrivals, tuple(changes), self.outages)


def _waves(impressions: int) -> list[int]:
    return [round(share * impressions) for share in WAVES]


class Shelf:
    """Items that are not in the catalogue yet."""

    def __init__(self, documents: Iterable[Document], drift: Drift) -> None:
        self._drift = drift
        absent = drift.absent(0)
        self._waiting = {document["id"]: document for document in documents if document["id"] in absent}

    async def clear(self, service: Simulated) -> None:
        """Take them out of the catalogue, with all that is known of them."""
        if self._waiting:
            await service.system.catalogue.delete(list(self._waiting))
            service.catalogue_changed()

    async def bring(self, service: Simulated, index: int) -> None:
        """Put those into the catalogue that are there for the search of this number."""
        if not self._waiting:
            return
        absent = self._drift.absent(index)
        arriving = [object_id for object_id in self._waiting if object_id not in absent]
        if arriving:
            results = await service.system.catalogue.put([self._waiting.pop(object_id) for object_id in arriving])
            if refused := [result.detail for result in results if result.status != "accepted"]:
                raise InvalidRequest(f"an item of the catalogue is refused: {refused[0]}")
            service.catalogue_changed()
