"""The whole sample catalogue: artists, albums, tracks, playlists, stations and podcasts."""

from __future__ import annotations

from collections import Counter

from services.datasets.sample.artists import discographies
from services.datasets.sample.draws import Draws
from services.datasets.sample.items import Item
from services.datasets.sample.programmes import playlists, podcasts, stations


def catalogue(seed: int) -> list[Item]:
    """About 5,000 items, the most played first, each with an id such as "track-0123"."""
    music = discographies(Draws(seed, 1))
    tracks = [item for item in music if item.type == "track" and not item.version]
    draws = Draws(seed, 2)
    items = _numbered([*music, *playlists(draws, tracks), *stations(draws, tracks), *podcasts(draws)])
    return sorted(items, key=lambda item: (-item.document["plays"], item.id))


def _numbered(items: list[Item]) -> list[Item]:
    counts: Counter[str] = Counter()
    for item in items:
        counts[item.type] += 1
        item.document = {"id": f"{item.type}-{counts[item.type]:04}", **item.document}
    return items
