"""Listeners of the sample catalogue: their tastes and what they played."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from services.datasets.sample.draws import Draws
from services.datasets.sample.genres import GENRES
from services.datasets.sample.items import Item, unique

LISTENER_COUNT = 250
START, END = 1_767_225_600, 1_782_864_000
"""2026-01-01 and 2026-07-01, UTC."""
HISTORY_SHARE = 0.7
"""Share of that time that is history; the events after it judge the personal queries."""
_MIN_EVENTS, _MAX_EVENTS = 36, 100
"""Number of events per listener."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener and their tastes."""

    user_id: str
    genres: tuple[str, ...]
    decades: tuple[int, ...]
    artists: frozenset[str]


@dataclass(frozen=True, slots=True)
class Event:
    """One action of a listener."""

    user_id: str
    object_id: str
    action_name: str
    timestamp: int
    """Epoch seconds."""


def listening(seed: int, items: Sequence[Item]) -> tuple[list[Listener], list[Event], list[Event]]:
    """(listeners, their history, their later events), events in order of time."""
    draws = Draws(seed, 3)
    shelves: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        for genre in item.document["genres"]:
            shelves[genre].append(item)
    listeners = [_listener(draws, number, shelves) for number in range(1, LISTENER_COUNT + 1)]
    events = [event for listener in listeners for event in _events(draws, listener, shelves, items)]
    events.sort(key=lambda event: (event.timestamp, event.user_id, event.object_id, event.action_name))
    border = START + int((END - START) * HISTORY_SHARE)
    return listeners, [e for e in events if e.timestamp < border], [e for e in events if e.timestamp >= border]


def _listener(draws: Draws, number: int, shelves: dict[str, list[Item]]) -> Listener:
    first = draws.weighted(list(GENRES.values()), [genre.weight for genre in GENRES.values()])
    genres = unique([first.name, draws.pick(first.near), draws.pick(list(GENRES))], draws.between(2, 3))
    decade = max(first.first // 10 * 10, 1960 + 10 * draws.below(7))
    artists = [item.title for name in genres for item in shelves[name][:400] if item.type == "artist"]
    return Listener(f"u{number}", tuple(genres), (decade, min(2020, decade + 10)), frozenset(draws.sample(artists, 5)))


def _events(draws: Draws, listener: Listener, shelves: dict[str, list[Item]], items: Sequence[Item]) -> list[Event]:
    liked = list({item.id: item for name in listener.genres for item in shelves[name]}.values())
    sums = list(accumulate(_appeal(listener, item) for item in liked))
    events: list[Event] = []
    count = draws.between(_MIN_EVENTS, _MAX_EVENTS)
    while len(events) < count:
        at = draws.between(START, END - 7_200)
        if draws.chance(0.85):
            item = liked[min(len(liked) - 1, bisect_right(sums, draws.below(1 << 30) / (1 << 30) * sums[-1]))]
            enjoyed = 0.16 if item.document["rating"] < 3.5 else 0.26
        else:  # a popular item: the catalogue begins with them
            item, enjoyed = items[int(len(items) / draws.tail(50)) - 1], 0.04
        fond = item.document.get("artist") in listener.artists
        events.append(Event(listener.user_id, item.id, "play", at))
        if draws.chance(enjoyed + 0.3 * fond):
            events.append(Event(listener.user_id, item.id, "like", at + draws.between(20, 200)))
            if draws.chance(0.06):
                events.append(Event(listener.user_id, item.id, "purchase", at + draws.between(300, 6_000)))
        elif not fond and draws.chance(0.25 if enjoyed < 0.1 else 0.04):
            events.append(Event(listener.user_id, item.id, "dislike", at + draws.between(10, 90)))
    return events


def _appeal(listener: Listener, item: Item) -> float:
    """Relative probability that the listener plays an item of a favourite genre."""
    appeal: float = 1.0 + min(10.0, item.document["plays"] / 20_000)
    appeal *= item.document["rating"] - 1.0
    appeal *= 3.0 if item.decade in listener.decades else 1.0
    appeal *= 12.0 if item.document.get("artist") in listener.artists else 1.0
    return appeal * (1.0 if item.type == "track" else 0.3)
