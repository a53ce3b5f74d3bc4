"""Artists of the sample catalogue, with the albums and tracks that they made."""

from __future__ import annotations

from dataclasses import dataclass

from services.datasets.sample.draws import Draws
from services.datasets.sample.genres import GENRES, WORDLESS
from services.datasets.sample.items import Item, reception, unique
from services.datasets.sample.sentences import describe
from services.datasets.sample.words import (
    ADJECTIVES,
    ALBUMS,
    BAND_ADJECTIVES,
    BAND_NOUNS,
    ENSEMBLES,
    FIRST_NAMES,
    FOREIGN_TITLES,
    HALLS,
    LANGUAGES,
    PHRASE_ARTISTS,
    PLACES,
    PRODUCERS,
    RHYMERS,
    SURNAMES,
    THEMES,
    TITLES,
    Theme,
    definite,
)

ARTISTS = 400
LAST_YEAR = 2026
_ELECTRIC = frozenset(("Electronic", "House", "Techno", "Ambient", "Lo-Fi", "Synthpop"))
_THEMES = tuple(THEMES.values())
_THEME_WEIGHTS = tuple(theme.weight for theme in _THEMES)


@dataclass(slots=True)
class Artist:
    """An artist and the parameters from which its albums and tracks are drawn."""

    name: str
    genres: tuple[str, ...]
    """The main genre first, then others that the artist plays."""
    language: str
    began: int
    fame: float
    """Popularity factor: 1 for most artists, up to 60."""
    talent: int
    """0 to 100; shifts the ratings of all the artist's items."""
    themes: tuple[Theme, ...]


def discographies(draws: Draws) -> list[Item]:
    """All artists, each followed by its albums, each of these by its tracks. Ids are given by catalogue.numbered."""
    artists = _artists(draws)
    names = [artist.name for artist in artists if artist.name in PHRASE_ARTISTS]
    return [item for artist in artists for item in _discography(draws, artist, names)]


def _artists(draws: Draws) -> list[Artist]:
    taken: set[str] = set()
    artists = []
    genres = list(GENRES.values())
    for number in range(ARTISTS):
        genre = draws.weighted(genres, [g.weight for g in genres])
        name = PHRASE_ARTISTS[number // 25] if number % 25 == 24 else _name(draws, genre.name)
        while name in taken:
            name = _name(draws, genre.name)
        taken.add(name)
        also = draws.sample(genre.near, draws.between(0, 2))
        began = draws.between(max(genre.first, 1958), LAST_YEAR - 4)
        themes = [draws.weighted(_THEMES, _THEME_WEIGHTS) for _ in range(4)]
        if name.startswith(("Love", "Second-Hand Love")):
            themes[0] = THEMES["love"]
        language = _language(draws, genre.name)
        artists.append(
            Artist(name, (genre.name, *also), language, began, draws.tail(60), draws.below(101), tuple(themes))
        )
    return artists


def _name(draws: Draws, genre: str) -> str:
    if genre in _ELECTRIC and draws.chance(0.4):
        return draws.pick(PRODUCERS)
    if genre == "Hip Hop" and draws.chance(0.6):
        return draws.pick(RHYMERS)
    person = f"{draws.pick(FIRST_NAMES)} {draws.pick(SURNAMES)}"
    if draws.chance(0.45):
        return person
    if genre in ENSEMBLES and draws.chance(0.5):
        leader = person if draws.chance(0.5) else draws.pick(BAND_ADJECTIVES)
        return f"{leader} {draws.pick(ENSEMBLES[genre])}"
    if draws.chance(0.15):
        return f"{draws.pick(FIRST_NAMES)} & the {draws.pick(BAND_NOUNS)}"
    return f"The {draws.pick(BAND_ADJECTIVES)} {draws.pick(BAND_NOUNS)}"


def _language(draws: Draws, genre: str) -> str:
    if genre in WORDLESS:
        return "Instrumental"
    if genre == "Latin":
        return draws.pick(("Spanish", "Spanish", "Spanish", "Portuguese", "English"))
    return draws.pick(LANGUAGES) if draws.chance(0.14) else "English"


def _discography(draws: Draws, artist: Artist, names: list[str]) -> list[Item]:
    genre = GENRES[artist.genres[0]]
    years = sorted(
        min(LAST_YEAR, artist.began + draws.between(0, 14)) for _ in range(draws.weighted((1, 2, 3), (40, 40, 20)))
    )
    made: list[Item] = []
    titles: set[str] = set()
    for number, year in enumerate(years):
        earlier = [item for item in made if item.type == "track" and not item.version]
        live = number > 0 and draws.chance(0.22)
        made.extend(_album(draws, artist, year, earlier if live else [], made, titles, names))
    moods = unique([mood for item in made for mood in item.document["moods"]], 3)
    instruments = unique([name for item in made for name in item.document["instruments"]], 3)
    theme = artist.themes[0]
    document = {
        "type": "artist",
        "title": artist.name,
        "artist": artist.name,
        "genres": list(artist.genres),
        "moods": moods,
        "instruments": instruments,
        "year": artist.began,
        "language": artist.language,
        **reception(draws, sum(i.document["plays"] for i in made if i.type == "track") // 4, artist.talent),
        "description": describe(draws, "artist", artist.name, genre.name, moods, instruments, theme, artist.began),
    }
    return [Item(document, theme.name, artist.name), *made]


def _album(
    draws: Draws, artist: Artist, year: int, earlier: list[Item], made: list[Item], titles: set[str], names: list[str]
) -> list[Item]:
    """An album and its tracks: new ones, or with `earlier` tracks a live recording of those."""
    theme = draws.pick(artist.themes)
    albums = [item for item in made if item.type == "album" and not item.version]
    base, version, hall = _album_title(draws, theme, artist.language), False, draws.pick(HALLS)
    first = None  # the title track's title
    title = base
    if earlier:
        title, base, version = f"Live at {hall}", artist.name, True
    elif albums and draws.chance(0.25):
        base, version = albums[-1].title, True
        title = f"{base}, Volume 2" if f"{base}, Volume 2" not in titles else f"{base}, Volume 3"
    elif draws.chance(0.3):
        title = base = first = _title(draws, theme, artist.language)
    while title in titles:
        title = base = _album_title(draws, draws.pick(_THEMES), artist.language)
        first, version = None, False
    titles.add(title)
    if earlier:
        tracks = [_again(draws, track, "Live", title, year) for track in draws.sample(earlier, 5)]
    else:
        tracks = []
        for number in range(draws.between(3, 5)):
            given = first if number == 0 else None
            about = theme if given or draws.chance(0.3) else None
            tracks.append(_track(draws, artist, about, title, year, titles, names, given))
            if draws.chance(0.1):
                how = "Remix" if artist.genres[0] in _ELECTRIC else draws.pick(("Acoustic", "Demo", "Part 2"))
                tracks.append(_again(draws, tracks[-1], how, title, year))
    moods = unique([mood for track in tracks for mood in track.document["moods"]], 3)
    instruments = unique([name for track in tracks for name in track.document["instruments"]], 3)
    document = {
        "type": "album",
        "title": title,
        "artist": artist.name,
        "album": title,
        "genres": unique([genre for track in tracks for genre in track.document["genres"]], 2),
        "moods": moods,
        "instruments": instruments,
        "year": year,
        "language": artist.language,
        **reception(draws, sum(track.document["plays"] for track in tracks) // 3, artist.talent),
        "description": describe(
            draws,
            "live" if earlier else "album",
            artist.name,
            artist.genres[0],
            moods,
            instruments,
            theme,
            year,
            count=min(7, max(3, len(tracks))),
            hall=hall if earlier else "",
        ),
    }
    return [Item(document, theme.name, base if version else title, version), *tracks]


def _track(
    draws: Draws,
    artist: Artist,
    theme: Theme | None,
    album: str,
    year: int,
    titles: set[str],
    names: list[str],
    given: str | None,
) -> Item:
    theme = theme or draws.weighted((draws.pick(artist.themes), draws.weighted(_THEMES, _THEME_WEIGHTS)), (2, 1))
    genre = GENRES[artist.genres[0] if len(artist.genres) == 1 or draws.chance(0.75) else draws.pick(artist.genres[1:])]
    title = draws.pick(names) if draws.chance(0.012) else _title(draws, theme, artist.language)
    while title in titles or title == artist.name:
        title = _title(draws, draws.pick(_THEMES), artist.language)
    title = given or title
    titles.add(title)
    moods = unique([draws.pick(theme.moods), *draws.sample(genre.moods, draws.between(1, 2))], 3)
    if draws.chance(0.4):
        moods = [*moods[1:], moods[0]]
    instruments = draws.sample(genre.instruments, draws.between(1, 3))
    kind = "wordless" if artist.language == "Instrumental" else "track"
    plays = int(900 * artist.fame * draws.tail(25)) + draws.below(900)
    document = {
        "type": "track",
        "title": title,
        "artist": artist.name,
        "album": album,
        "genres": unique([genre.name, artist.genres[0]], 2),
        "moods": moods,
        "instruments": instruments,
        "year": year,
        "language": artist.language,
        **reception(draws, plays, artist.talent),
        "duration_seconds": draws.between(140, 320) + (draws.between(0, 400) if kind == "wordless" else 0),
        "description": describe(draws, kind, artist.name, genre.name, moods, instruments, theme, year, album),
    }
    return Item(document, theme.name, title)


_VERSION_TEXTS = {
    "Live": "{title} as {artist} played it on stage in {year}, with the crowd taking the last chorus.",
    "Acoustic": "{title} stripped to {instrument} and one voice.",
    "Demo": "The first sketch of {title}, recorded at home on four tracks.",
    "Remix": "{title} taken apart and put back together for the dancefloor.",
    "Part 2": "The story of {title} goes on: slower, later and further from home.",
}


def _again(draws: Draws, track: Item, how: str, album: str, year: int) -> Item:
    """Another version of a track."""
    first = track.document
    instrument = "piano" if "Piano" in first["instruments"] else "guitar"
    text = _VERSION_TEXTS[how].format(title=track.title, artist=first["artist"], year=year, instrument=instrument)
    changed = {
        "title": f"{track.title} ({how})",
        "album": album,
        "year": year,
        **reception(draws, first["plays"] * draws.between(5, 45) // 100, 60),
        "duration_seconds": first["duration_seconds"] + draws.between(-20, 90),
        "description": text,
    }
    if how == "Acoustic":
        changed["instruments"] = [instrument.title()]
    return Item({**first, **changed}, track.theme, track.title, True)


def _title(draws: Draws, theme: Theme, language: str) -> str:
    other = draws.pick([t for t in _THEMES if t is not theme])
    if language in FOREIGN_TITLES:
        place = LANGUAGES.index(language)
        shape = draws.pick(FOREIGN_TITLES[language])
        return shape.format(x=theme.foreign[place], y=other.foreign[place])
    noun = theme.nouns[0] if draws.chance(0.6) else draws.pick(theme.nouns[1:])
    return noun if draws.chance(0.12) else _filled(draws, draws.pick(TITLES), theme, noun, other)


def _album_title(draws: Draws, theme: Theme, language: str) -> str:
    if language in FOREIGN_TITLES:
        return _title(draws, theme, language)
    other = draws.pick([t for t in _THEMES if t is not theme])
    return _filled(draws, draws.pick(ALBUMS), theme, draws.pick(theme.nouns), other)


def _filled(draws: Draws, shape: str, theme: Theme, noun: str, other: Theme) -> str:
    the = definite(noun)
    return shape.format(
        x=noun,
        y=draws.pick(other.nouns),
        adj=draws.pick(ADJECTIVES),
        place=draws.pick(PLACES),
        the=the,
        the2=the[0].upper() + the[1:],
    )
