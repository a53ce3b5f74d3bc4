"""An item of the sample catalogue while it is generated: its document, and facts that the document does not show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

from services.datasets.sample.draws import Draws


@dataclass(slots=True)
class Item:
    """An item while it is generated."""

    document: dict[str, Any]
    theme: str | None = None
    """Subject of the item; a key of words.THEMES."""
    title: str = ""
    """The title without "(Live)", "Volume 2" and the like: versions of one work share it."""
    version: bool = False
    """Whether the item is such a version of a work."""

    @property
    def id(self) -> str:
        """Id in the catalogue, such as "track-0123"."""
        return str(self.document["id"])

    @property
    def type(self) -> str:
        """track, album, artist, playlist, station or podcast."""
        return str(self.document["type"])

    def has(self, field: str, value: object) -> bool:
        """Whether the field is, or lists, the value; "decade" counts as a field."""
        held = self.decade if field == "decade" else self.document.get(field)
        return value in held if isinstance(held, list) else held == value

    @property
    def decade(self) -> int:
        """First year of the item's decade."""
        return int(self.document["year"]) // 10 * 10


def quality(items: Sequence[Item]) -> dict[str, float]:
    """Each item's rating weighted by its votes: the Bayesian average with 50 votes of the mean, 3.7."""
    return {i.id: (i.document["rating"] * i.document["votes"] + 3.7 * 50) / (i.document["votes"] + 50) for i in items}


def reception(draws: Draws, plays: int, talent: int) -> dict[str, int | float]:
    """Plays, votes (about the square root of plays, as few listeners vote) and a rating from 1.5 to 5 in hundredths;
    `talent` 0 to 100 moves its middle."""
    middle = 290 + talent
    rating = middle + draws.between(-45, 45) + draws.between(-45, 45)
    votes = 3 + isqrt(plays) * draws.between(20, 80) // 50
    return {"plays": plays, "rating": min(500, max(150, rating)) / 100, "votes": votes}


Shelves = Mapping[tuple[str, object], Sequence[Item]]
"""Items by (field, value), "decade" being a field; in their order."""


def shelved(items: Iterable[Item], fields: Sequence[str]) -> Shelves:
    """`items` grouped by each value of `fields`."""
    shelves: defaultdict[tuple[str, object], list[Item]] = defaultdict(list)
    for item in items:
        for name in fields:
            held = item.decade if name == "decade" else item.document.get(name, [])
            for value in held if isinstance(held, list) else [held]:
                shelves[name, value].append(item)
    return shelves


def matching(shelves: Shelves, wanted: Iterable[tuple[str, object]]) -> list[Item]:
    """Items with all of the (field, value) pairs, in their order."""
    pairs = sorted(wanted, key=lambda pair: len(shelves.get(pair, ())))
    return [item for item in shelves.get(pairs[0], ()) if all(item.has(*pair) for pair in pairs[1:])]


def unique(values: Sequence[str], limit: int) -> list[str]:
    """The first `limit` distinct values, in order."""
    return list(dict.fromkeys(values))[:limit]
