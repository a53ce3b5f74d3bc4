"""Playlists, stations and podcasts of the sample catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from services.datasets.sample.artists import LAST_YEAR
from services.datasets.sample.draws import Draws
from services.datasets.sample.genres import GENRES, MOODS
from services.datasets.sample.items import Item, Shelves, matching, reception, shelved, unique
from services.datasets.sample.words import FIRST_NAMES, PLACES, SURNAMES, THEMES

PLAYLISTS, STATIONS, PODCASTS = 400, 150, 300
FIELDS = ("genres", "moods", "instruments", "artist", "decade")
DECADES = (1960, 1970, 1980, 1990, 2000, 2010, 2020)

_CLASSICS: tuple[tuple[str, dict[str, object], str | None], ...] = (
    ("Rainy Night Songs", {"moods": "Rainy Day"}, "rain"),
    ("Love Songs for Grown-Ups", {"moods": "Love"}, "love"),
    ("Love, Slowly", {"moods": "Love"}, "love"),
    ("Piano for Sad Days", {"moods": "Sad", "instruments": "Piano"}, "heartbreak"),
    ("80s Synth Nights", {"decade": 1980, "instruments": "Synth"}, None),
    ("80s Love Songs", {"decade": 1980, "moods": "Love"}, "love"),
    ("Jazz after Midnight", {"genres": "Jazz", "moods": "Late Night"}, "midnight"),
    ("Midnight Drive", {"moods": "Late Night", "instruments": "Synth"}, "midnight"),
    ("Summer on the Balcony", {"moods": "Summer"}, "summer"),
    ("Fire on the Dancefloor", {"moods": "Party"}, "fire"),
    ("Down by the River", {"moods": "Calm", "genres": "Folk"}, "river"),
    ("Coming Home", {"moods": "Nostalgic"}, "home"),
    ("Deep Focus Piano", {"moods": "Focus", "instruments": "Piano"}, None),
    ("Songs to Fall Asleep To", {"moods": "Sleep"}, "dream"),
    ("The Long Road Trip", {"moods": "Road Trip"}, "road"),
    ("Breakup Songs and Ice Cream", {"moods": "Sad"}, "heartbreak"),
    ("Slow Morning Coffee", {"moods": "Calm"}, "morning"),
    ("Kitchen Disco", {"genres": "Disco"}, "dancing"),
    ("Gym Hour", {"moods": "Workout"}, None),
    ("Beats to Study By", {"moods": "Focus", "genres": "Lo-Fi"}, None),
)
"""Playlists that users search by name: title, properties of their tracks, theme."""
_PLAYLIST_TITLES = (
    *("{mood} {genre}", "{genre} for {when}", "{mood} {genre} {decade}s", "{genre} of the {decade}s"),
    *("{when_}: {genre}", "Essential {genre}", "{mood} {decade}s", "Hidden Gems of {genre}", "{theme} {genre}"),
    *("Songs about {the}", "{theme} and {genre}", "{genre} with {instrument}"),
)
_WHEN = {
    "Happy": "a Good Day",
    "Sad": "a Broken Heart",
    "Love": "Two",
    "Romantic": "Candlelight",
    "Calm": "Slow Sundays",
    "Energetic": "Monday Mornings",
    "Dreamy": "Daydreaming",
    "Dark": "Long Shadows",
    "Angry": "Slammed Doors",
    "Nostalgic": "Looking Back",
    "Hopeful": "New Beginnings",
    "Late Night": "Late Nights",
    "Rainy Day": "Rainy Nights",
    "Summer": "Summer Evenings",
    "Party": "a House Party",
    "Workout": "a Hard Workout",
    "Focus": "Deep Work",
    "Sleep": "Falling Asleep",
    "Road Trip": "the Open Road",
}
_PLAYLIST_TEXTS = (
    "{count} recordings for {when}, from {one} to {two}.",
    "{count} {moods} picks by {one}, {two} and others, updated every Friday.",
    "Put it on for {when} and let it run. With {one}, {two} and {three}.",
    "A hand-picked hour: {one}, {two}, {three}, and a few names you may not know yet.",
)


def playlists(draws: Draws, tracks: Sequence[Item]) -> list[Item]:
    """Playlists of tracks that are alike: by mood, genre, decade, instrument or artist."""
    shelves = shelved(tracks, FIELDS)
    made: list[Item] = [_playlist(draws, shelves, title, wanted, theme, 60_000) for title, wanted, theme in _CLASSICS]
    taken = {item.title for item in made}
    known = sorted(tracks, key=lambda track: (-int(track.document["plays"]), track.document["title"]))
    for artist in unique([str(track.document["artist"]) for track in known], 60):
        title = draws.pick(("The Best of {}", "{}: Where to Begin", "{}: Deep Cuts")).format(artist)
        made.append(_playlist(draws, shelves, title, {"artist": artist}, None))
        taken.add(title)
    while len(made) < PLAYLISTS:
        seed = draws.pick(tracks)
        genre, mood, instrument = (draws.pick(seed.document[name]) for name in ("genres", "moods", "instruments"))
        theme = THEMES[seed.theme or "love"]
        shape = draws.pick(_PLAYLIST_TITLES)
        when = _WHEN[mood]
        title = shape.format(
            mood=mood,
            genre=genre,
            decade=str(seed.decade) if seed.decade >= 2000 else str(seed.decade)[2:],
            when=when,
            when_=when[0].upper() + when[1:],
            theme=theme.nouns[0],
            the=theme.the,
            instrument=instrument,
        )
        asks = {"genres": genre, "decade": seed.decade, "instruments": instrument}
        parts = {"genres": "{genre}", "decade": "{decade}", "instruments": "{instrument}"}
        wanted = {name: value for name, value in asks.items() if parts[name] in shape}
        if "{mood}" in shape or "{when" in shape or not wanted:
            wanted["moods"] = mood
        themed = theme.name if "{the" in shape else None
        if title not in taken:
            taken.add(title)
            made.append(_playlist(draws, shelves, title, wanted, themed))
    return made


def _playlist(
    draws: Draws,
    shelves: Shelves,
    title: str,
    wanted: dict[str, object],
    theme: str | None,
    least: int = 1_500,
) -> Item:
    """A playlist of tracks that have all of `wanted`, about `theme` where there are such, played `least` times."""
    holds = matching(shelves, wanted.items())
    themed = [t for t in holds if t.theme == theme]
    holds = draws.sample(themed or holds, 12)
    moods = unique([*_given(wanted, "moods"), *_common(holds, "moods")], 2)
    artists = unique([str(track.document["artist"]) for track in holds], 3)
    names = (artists * 3)[:3]
    text = (
        draws.pick(_PLAYLIST_TEXTS) if len(artists) == 3 else "{count} recordings by {one}, for first-time listeners."
    )
    document: dict[str, object] = {
        "type": "playlist",
        "title": title,
        **({"artist": wanted["artist"]} if "artist" in wanted else {}),
        "genres": unique([*_given(wanted, "genres"), *_common(holds, "genres")], 2),
        "moods": moods,
        "instruments": unique([*_given(wanted, "instruments"), *_common(holds, "instruments")], 2),
        "year": _year(draws, wanted.get("decade")),
        "language": str(holds[0].document["language"]),
        **reception(draws, int(least * draws.tail(90)), 80),
        "description": text.format(
            count=draws.between(20, 90),
            when=_WHEN[moods[0]].lower().replace("monday", "Monday").replace("sunday", "Sunday"),
            moods=MOODS[moods[0]][0],
            one=names[0],
            two=names[1],
            three=names[2],
        ),
    }
    return Item(document, theme, title)


def stations(draws: Draws, tracks: Sequence[Item]) -> list[Item]:
    """Radio stations of a genre, of a genre's decade, of a mood, or around an artist."""
    shelves = shelved(tracks, FIELDS)
    plans: list[tuple[str, dict[str, object], str]] = []
    for genre in GENRES.values():
        plans.append((f"{genre.name} Radio", {"genres": genre.name}, f"Nothing but {genre.word}, day and night."))
        for decade in draws.sample([d for d in DECADES if d + 5 >= genre.first], 2):
            short = str(decade)[2:] if decade < 2000 else str(decade)
            text = f"The {short}s as {genre.word} fans remember them, without a break."
            plans.append((f"{short}s {genre.name} FM", {"genres": genre.name, "decade": decade}, text))
    for mood in MOODS:
        place = draws.pick(PLACES)
        text = f"{MOODS[mood][0].capitalize()} music around the clock, from {place}."
        plans.append((f"{mood} Radio", {"moods": mood}, text))
    plans = [plan for plan in plans if matching(shelves, plan[1].items())]
    known = sorted(tracks, key=lambda track: (-int(track.document["plays"]), track.document["title"]))
    for artist in unique([str(track.document["artist"]) for track in known], STATIONS - len(plans)):
        text = f"{artist} and everyone who sounds a little like {artist}."
        plans.append((f"{artist} Radio", {"artist": artist}, text))
    made = []
    for title, wanted, text in plans:
        station = _playlist(draws, shelves, title, wanted, None)
        station.document |= {"type": "station", "description": text}
        made.append(station)
    return made


_PODCAST_TITLES = (
    *("The {genre} Hour", "{genre} Stories", "Inside {genre}", "A Short History of {genre}", "{genre} and {theme}"),
    *("{theme} Tapes", "The {theme} Sessions", "Liner Notes: {genre}", "Behind the {instrument}", "{topic}, Explained"),
    *("Two Ears on {genre}", "The {place} Tapes", "Who Wrote This {theme} Song?", "{genre} Nights with {host}"),
    *("One Album a Week: {genre}", "{first} Listens to {genre}", "The Lost {genre} Records", "Late with {first}"),
)
TOPICS = (
    *("Songwriting", "Music History", "Interviews", "Record Collecting", "Production", "Touring", "Music Theory"),
    *("Album Reviews", "Radio Drama", "Instruments", "Festivals", "Lost Recordings"),
)
_PODCAST_TEXTS = (
    "{host} talks with musicians about {genre}, {topic} and {about}.",
    "Every week {host} opens one {genre} record and asks how it was made. This season: {topic}, and {about}.",
    "A podcast about {genre} and {topic}. This season: {about}.",
    "{host} and guests on {genre}: {topic}, gossip and the occasional story about {about}.",
)


def podcasts(draws: Draws) -> list[Item]:
    """Podcasts about a genre and a topic, each with one or two hosts."""
    hosts = unique([f"{draws.pick(FIRST_NAMES)} {draws.pick(SURNAMES)}" for _ in range(160)], 140)
    made: list[Item] = []
    taken: set[str] = set()
    genres = list(GENRES.values())
    while len(made) < PODCASTS:
        genre = draws.weighted(genres, [g.weight for g in genres])
        theme = draws.pick(list(THEMES.values()))
        team, topics = draws.sample(hosts, draws.between(1, 2)), draws.sample(TOPICS, draws.between(1, 2))
        instrument = draws.pick(genre.instruments)
        title = draws.pick(_PODCAST_TITLES).format(
            genre=genre.name,
            theme=theme.nouns[0],
            instrument=instrument,
            topic=topics[0],
            place=draws.pick(PLACES),
            host=team[0],
            first=team[0].split()[0],
        )
        title = title[0].upper() + title[1:].replace("The the", "The")
        if title in taken:
            continue
        taken.add(title)
        text = draws.pick(_PODCAST_TEXTS).format(
            host=team[0], genre=genre.word, topic=topics[0].lower(), about=draws.pick(theme.about)
        )
        document = {
            "type": "podcast",
            "title": title,
            "hosts": team,
            "topics": topics,
            "genres": [genre.name],
            "moods": unique([draws.pick(genre.moods), theme.moods[0]], 2),
            "instruments": [instrument],
            "year": draws.between(2008, LAST_YEAR),
            "language": "English",
            **reception(draws, int(700 * draws.tail(250)), 70),
            "description": text,
        }
        made.append(Item(document, theme.name if theme.nouns[0] in title else None, title))
    return made


def _given(wanted: dict[str, object], field: str) -> list[str]:
    return [str(wanted[field])] if field in wanted else []


def _common(holds: Sequence[Item], field: str) -> list[str]:
    """Values of the field, commonest first, then as they were met."""
    met = [str(value) for track in holds for value in track.document[field]]
    return sorted(dict.fromkeys(met), key=lambda value: -met.count(value))


def _year(draws: Draws, decade: object) -> int:
    """Year of a playlist: in its decade, or recent."""
    return min(LAST_YEAR, decade + draws.below(10)) if isinstance(decade, int) else draws.between(2015, LAST_YEAR)
