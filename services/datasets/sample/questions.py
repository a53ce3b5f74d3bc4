"""Queries of the sample catalogue and their judgements, which follow from how it was generated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isqrt

from services.datasets.sample.draws import Draws
from services.datasets.sample.genres import GENRES
from services.datasets.sample.items import Item, matching, quality, shelved
from services.datasets.sample.listeners import Event, Listener
from services.datasets.sample.words import LANGUAGES, THEMES
from services.text import fold, normalize

TITLE_COUNT, TYPO_COUNT, PERSONAL_COUNT = 190, 120, 120
FACET_COUNT = 130
_BEST_RANKS, _MAX_JUDGED, _MAX_JUDGED_TOPIC = 10, 40, 200
"""Number of best-rated matches with grade 2, and number of judged matches, the others with grade 1. For a topic more
are judged: one song about rain is as good an answer as the next."""
_NEIGHBOUR_KEYS = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wqretuyoipsadfhgjlkxzvcbmn", strict=True))


@dataclass(slots=True)
class Question:
    """A query of the sample catalogue and its judgements."""

    slice: str
    text: str
    grades: dict[str, int]
    """Item id -> grade 0, 1 or 2."""
    about: str = ""
    """The text that decides the split, if different: a typo belongs to the split of its title."""
    user_id: str = ""
    weight: float = 1.0
    split: str = field(init=False)

    def __post_init__(self) -> None:
        share = sha256((self.about or self.text).encode()).digest()[0]
        self.split = "train" if share < 154 else "validation" if share < 205 else "test"

    @property
    def id(self) -> str:
        """Query id, the same for equal slice, listener and text."""
        digest = sha256(f"{self.slice}\t{self.user_id}\t{self.text}".encode()).hexdigest()
        return f"{self.slice}-{digest[:8]}"


def questions(
    seed: int, items: Sequence[Item], listeners: Sequence[Listener], later: Sequence[Event]
) -> list[Question]:
    """All queries; texts are unique except in the personal slice, where they are unique per listener."""
    draws = Draws(seed, 4)
    best = quality(items)
    ranked = sorted(items, key=lambda item: (-best[item.id], item.id))
    topics, titles = _topics(ranked), _titles(draws, items)
    queries: dict[str, Question] = {}
    for question in (*topics, *_facets(draws, ranked), *titles):
        if question.grades:
            queries.setdefault(question.text, question)
    meant = [question for question in queries.values() if question.slice == "title" and len(question.text) > 5]
    for question in draws.sample(meant, TYPO_COUNT):
        text = _slip(draws, question.text)
        queries.setdefault(text, Question("typo", text, question.grades, question.text, weight=question.weight))
    return [*queries.values(), *_personal(draws, items, listeners, later)]


def plain(text: str) -> str:
    """The text as users type it: without capitals, accents or punctuation."""
    words = "".join(c if c.isalnum() else "" if c in "'’." else " " for c in fold(normalize(text)))
    return " ".join(words.split())


def _titles(draws: Draws, items: Sequence[Item]) -> list[Question]:
    """Titles of works and names of artists, popular ones first, and titles with their artist's name."""
    named: defaultdict[str, list[Item]] = defaultdict(list)
    works: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        named[plain(str(item.document["title"]))].append(item)
        works[str(item.document.get("artist", ""))].append(item)
    head = list(items[: len(items) // 3])
    made = []
    for item in draws.sample(head, TITLE_COUNT * 5 // 4):
        text, wanted = plain(str(item.document["title"])), named[plain(str(item.document["title"]))]
        grades = {other.id: 2 for other in wanted}
        artist = str(item.document.get("artist", ""))
        for other in works[artist] if artist else ():
            if other.title == item.title or item.type == "artist":
                grades.setdefault(other.id, 1)
        if item.type in ("track", "album") and draws.chance(0.3):
            text = plain(f"{item.document['title']} {artist}")
            grades = {item.id: 2} | {
                other.id: 1 for other in works[artist] if other is not item and _alike(item, other)
            }
        made.append(Question("title", text, grades, weight=_weight(item)))
    return made[:TITLE_COUNT]


def _alike(item: Item, other: Item) -> bool:
    return other.title == item.title or other.document["title"] == item.document.get("album")


def _weight(item: Item) -> float:
    """Frequency of searches for a title: grows with the square root of its plays."""
    return 1 + isqrt(int(item.document["plays"])) // 20


_TOPICS: tuple[tuple[str, str | None, str | None, str | None], ...] = (
    ("songs for a rainy night", "Rainy Day", None, "rain"),
    ("sad piano", "Sad", "Piano", None),
    ("sad love songs", "Sad", None, "love"),
    ("music for studying", "Focus", None, None),
    ("calm piano", "Calm", "Piano", None),
    ("gym workout", "Workout", None, None),
    ("music to fall asleep", "Sleep", None, None),
    ("dinner party jazz piano", "Romantic", "Piano", None),
    ("driving at night", "Late Night", None, "road"),
    ("midnight train", None, None, "train"),
    ("breakup", "Sad", None, "heartbreak"),
    ("summer party", "Party", None, "summer"),
    ("dreamy synth", "Dreamy", "Synth", None),
    ("late night saxophone", "Late Night", "Saxophone", None),
    ("romantic strings", "Romantic", "Strings", None),
    ("happy guitar", "Happy", "Guitar", None),
    ("spooky halloween", "Dark", None, "ghosts"),
    ("road trip", "Road Trip", None, None),
    ("lonely night", "Sad", None, "night"),
    ("feeling hopeful in the morning", "Hopeful", None, "morning"),
)
"""Query, and the mood, instrument and theme that it means."""


def _topics(ranked: Sequence[Item]) -> list[Question]:
    """Moods and themes in everyday words; items with all of them have grade 2, those with the theme alone grade 1."""
    queries: list[tuple[str, str | None, str | None, str | None]] = list(_TOPICS)
    for subject in THEMES.values():
        texts = (subject.name, f"songs about {subject.the.lower()}", f"{subject.name} music")
        queries += [(text, None, None, subject.name) for text in texts]
    for name in ("Love", "Sad", "Happy", "Calm", "Late Night", "Rainy Day", "Party", "Focus"):
        queries += [(f"{name.lower()} songs", name, None, None), (f"{name.lower()} playlist", name, None, None)]
    made = []
    for text, mood, instrument, theme in queries:
        full = [i for i in ranked if _fits(i, mood, instrument, theme)]
        if text.endswith("playlist"):
            full = [item for item in full if item.type == "playlist"]
        grades = {item.id: 2 for item in full[:_MAX_JUDGED_TOPIC]}
        if theme and mood:
            for item in [i for i in ranked if i.theme == theme][:_MAX_JUDGED]:
                grades.setdefault(item.id, 1)
        if text in THEMES:  # "love" is also the title of many a song
            grades |= {item.id: 2 for item in ranked if item.title.lower() == text}
        made.append(Question("topic", text, grades, weight=3.0))
    return made


def _fits(item: Item, mood: str | None, instrument: str | None, theme: str | None) -> bool:
    return (
        (mood is None or item.has("moods", mood))
        and (instrument is None or item.has("instruments", instrument))
        and (theme is None or item.theme == theme)
    )


def _facets(draws: Draws, ranked: Sequence[Item]) -> list[Question]:
    """Kinds, genres, decades, languages, instruments and artists; the best-rated matches first."""
    shelves = shelved(ranked, ("type", "artist", "language", "genres", "instruments", "decade"))
    made = []
    for text, wanted in _facet_texts(draws, ranked):
        found = matching(shelves, wanted)[:_MAX_JUDGED]
        grades = {item.id: 2 if rank < _BEST_RANKS else 1 for rank, item in enumerate(found)}
        made.append(Question("facet", text, grades, weight=2.0))
    fixed, drawn = made[:3], draws.sample([question for question in made[3:] if question.grades], FACET_COUNT - 3)
    return [*fixed, *drawn]


def _facet_texts(draws: Draws, ranked: Sequence[Item]) -> Iterable[tuple[str, list[tuple[str, object]]]]:
    yield "80s synth", [("decade", 1980), ("instruments", "Synth")]
    yield "jazz podcasts", [("type", "podcast"), ("genres", "Jazz")]
    yield "french pop songs", [("language", "French"), ("genres", "Pop"), ("type", "track")]
    for genre in GENRES.values():
        name, key = plain(genre.name), ("genres", genre.name)
        for kind in ("podcast", "album", "station", "playlist"):
            yield f"{name} {kind}s", [("type", kind), key]
        for decade in range(max(1960, genre.first // 10 * 10), 2030, 10):
            short = f"{decade}s" if decade >= 2000 else f"{decade % 100}s"
            yield f"{short} {name}", [("decade", decade), key]
        yield f"{name} with {genre.instruments[0].lower()}", [("instruments", genre.instruments[0]), key]
        language = draws.pick(LANGUAGES)
        yield f"{language.lower()} {name}", [("language", language), key]
    for artist in draws.sample([item.title for item in ranked if item.type == "artist"], 60):
        kind, text = draws.pick((("track", "songs by {}"), ("album", "albums by {}"), ("track", "{} songs")))
        yield text.format(plain(artist)), [("type", kind), ("artist", artist)]


def _personal(
    draws: Draws, items: Sequence[Item], listeners: Sequence[Listener], later: Sequence[Event]
) -> list[Question]:
    """A genre that a listener searches: relevant are items of it that they played after their history ends, with grade
    2 if they liked or bought them or love the artist, 0 if they disliked them."""
    by_id = {item.id: item for item in items}
    played: defaultdict[str, list[Event]] = defaultdict(list)
    for event in later:
        played[event.user_id].append(event)
    made = []
    for listener in draws.sample(listeners, len(listeners)):
        for genre in listener.genres:
            grades: dict[str, int] = {}
            disliked = {e.object_id for e in played[listener.user_id] if e.action_name == "dislike"}
            for event in played[listener.user_id]:
                item = by_id[event.object_id]
                if not item.has("genres", genre):
                    continue
                fond = event.action_name in ("like", "purchase") or item.document.get("artist") in listener.artists
                grade = 0 if item.id in disliked else 2 if fond else 1
                grades[item.id] = max(grade, grades.get(item.id, 0))
            shape = draws.pick(("{}", "{} music", "good {}", "some {}"))
            text = shape.format(plain(genre))
            if 2 in grades.values() and len(grades) > 2:
                made.append(Question("personal", text, grades, user_id=listener.user_id))
    return made[:PERSONAL_COUNT]


def _slip(draws: Draws, text: str) -> str:
    """The text with one typing error: two letters swapped, one left out, doubled, or its neighbour's key hit."""
    places = [i for i in range(1, len(text) - 1) if text[i] in _NEIGHBOUR_KEYS and text[i + 1] in _NEIGHBOUR_KEYS]
    slips: tuple[Callable[[str, str], str], ...] = (
        lambda a, b: b + a,
        lambda a, b: b,
        lambda a, b: a + a + b,
        lambda a, b: _NEIGHBOUR_KEYS[a] + b,
    )
    while places:
        at = draws.pick(places)
        wrong = text[:at] + draws.pick(slips)(text[at], text[at + 1]) + text[at + 2 :]
        if wrong != text:
            return wrong
        places.remove(at)
    return text + text[-1]
