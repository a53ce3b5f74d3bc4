"""Words that the sample catalogue's titles and names are made of. All names are invented."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Theme:
    """A subject of songs."""

    name: str
    nouns: tuple[str, ...]
    """Words of titles, the plainest first."""
    about: tuple[str, ...]
    moods: tuple[str, ...]
    foreign: tuple[str, str, str, str]
    """The word in Spanish, French, German and Portuguese."""
    weight: int = 3

    @property
    def the(self) -> str:
        """The theme with its article, as in a sentence."""
        return definite(self.nouns[0])


def definite(noun: str) -> str:
    """The noun after a preposition: "the River", but "Summer"."""
    return noun if noun in _BARE else f"the {noun}"


_BARE = frozenset(
    (
        *("Love", "Darling", "Heartbreak", "Tears", "Nightfall", "Midnight", "Twelve O'Clock", "Thunder", "Drizzle"),
        *("Summer", "July", "Winter", "December", "Snowfall", "Home", "Saltwater", "Moonlight", "Coffee", "Daybreak"),
        *("Freedom", "Sunburn", "Frost"),
    )
)


def _theme(name: str, nouns: str, about: str, moods: str, foreign: str, weight: int = 3) -> tuple[str, Theme]:
    nouns_, about_, moods_ = (tuple(p.strip() for p in text.split(",")) for text in (nouns, about, moods))
    spanish, french, german, portuguese = foreign.split()
    return name, Theme(name, nouns_, about_, moods_, (spanish, french, german, portuguese), weight)


THEMES: dict[str, Theme] = dict(
    (
        _theme("love", "Love, Lover, Darling, Valentine", "falling in love too late, love that stays, "
               "a love letter never sent, first love", "Love, Romantic", "Amor Amour Liebe Amor", 8),
        _theme("heartbreak", "Heartbreak, Goodbye, Tears, Broken Heart", "a broken heart, "
               "the week after a breakup, saying goodbye at a station", "Sad", "Adiós Adieu Abschied Adeus", 5),
        _theme("night", "Night, Nightfall, Streetlight, Nocturne", "walking home at night, a city at "
               "night, a night that nobody wants to end", "Late Night", "Noche Nuit Nacht Noite", 6),
        _theme("midnight", "Midnight, Twelve O'Clock, Witching Hour", "a midnight train, a phone call "
               "at midnight, dancing past midnight", "Late Night, Dark", "Medianoche Minuit Mitternacht Madrugada", 5),
        _theme("rain", "Rain, Umbrella, Thunder, Drizzle", "rain on a tin roof, a rainy night indoors, "
               "waiting out the rain", "Rainy Day, Sad", "Lluvia Pluie Regen Chuva", 6),
        _theme("river", "River, Riverside, Delta, Ferryman", "a river that knows the way, the old "
               "ferry across the river, swimming in the river", "Calm, Hopeful", "Río Rivière Fluss Rio", 4),
        _theme("summer", "Summer, July, Sunburn, Heatwave", "the last week of summer, a summer by the "
               "lake, the summer they turned eighteen", "Summer, Happy", "Verano Été Sommer Verão", 5),
        _theme("winter", "Winter, Snowfall, December, Frost", "the first snow of winter, a winter "
               "without heating, skating on the frozen canal", "Calm, Sad", "Invierno Hiver Winter Inverno", 3),
        _theme("home", "Home, Hometown, Front Porch, Kitchen Light", "coming home, a hometown that "
               "changed, the light left on at home", "Nostalgic, Hopeful", "Hogar Maison Heimat Casa", 4),
        _theme("fire", "Fire, Ember, Matchstick, Wildfire", "a fire that will not go out, playing with "
               "fire, a beach fire at dawn", "Energetic, Angry", "Fuego Feu Feuer Fogo", 4),
        _theme("ocean", "Ocean, Tide, Lighthouse, Saltwater", "a letter from across the ocean, the "
               "keeper of a lighthouse, the tide coming in", "Dreamy, Calm", "Mar Océan Meer Mar", 4),
        _theme("moon", "Moon, Moonlight, Half Moon", "a full moon over the harbour, talking to the "
               "moon, moonlight on the kitchen floor", "Dreamy, Romantic", "Luna Lune Mond Lua", 4),
        _theme("city", "City, Skyline, Tramline, Rooftop", "moving to the big city, a city waking up, "
               "strangers on the last tram", "Late Night, Energetic", "Ciudad Ville Stadt Cidade", 3),
        _theme("road", "Road, Highway, Crossroads, Mile", "three days on the road, an empty highway, "
               "taking the wrong road on purpose", "Road Trip", "Camino Route Straße Estrada", 4),
        _theme("train", "Train, Platform, Night Train, Railway", "the last train out, two strangers "
               "on a train, a ticket in a coat pocket", "Road Trip, Nostalgic", "Tren Train Zug Trem", 3),
        _theme("dream", "Dream, Daydream, Lullaby, Pillow", "a dream that keeps coming back, dreaming "
               "with open eyes, a lullaby for grown-ups", "Dreamy, Sleep", "Sueño Rêve Traum Sonho", 4),
        _theme("ghosts", "Ghost, Haunting, Empty House, Shadow", "the ghost in the spare room, "
               "an empty house, shadows on the stairs", "Dark", "Fantasma Fantôme Geist Fantasma", 3),
        _theme("garden", "Garden, Rose, Orchard, Wildflower", "a garden behind the station, "
               "roses left at the door, planting an orchard", "Calm, Hopeful", "Jardín Jardin Garten Jardim", 3),
        _theme("stars", "Stars, Satellite, Comet, Constellation", "counting the stars, a satellite "
               "that lost its way, a comet seen once", "Dreamy, Hopeful", "Estrellas Étoiles Sterne Estrelas", 3),
        _theme("morning", "Morning, Sunrise, Coffee, Daybreak", "coffee on a slow morning, the "
               "first bus, sunrise after a long shift", "Happy, Hopeful", "Mañana Matin Morgen Manhã", 3),
        _theme("dancing", "Dance, Slow Dance, Disco Ball, Dancefloor", "one more dance, dancing in "
               "the kitchen, the last couple on the dancefloor", "Party, Happy", "Baile Danse Tanz Dança", 4),
        _theme("freedom", "Freedom, Runaway, Open Sky, Wings", "quitting a job by postcard, running "
               "away for a day, birds over an open field", "Energetic, Hopeful", "Libertad Liberté Freiheit Liberdade"),
    )
)  # fmt: skip

LANGUAGES = ("Spanish", "French", "German", "Portuguese")
"""Languages, in the order of `Theme.foreign`."""
FOREIGN_TITLES: dict[str, tuple[str, ...]] = {
    "Spanish": ("{x}", "Sin {x}", "{x} y {y}", "Canción de {x}", "Otra Vez {x}", "{x} Azul", "Entre {x} y {y}"),
    "French": ("{x}", "Sans {x}", "{x} et {y}", "Chanson pour {x}", "Encore {x}", "Entre {x} et {y}"),
    "German": ("{x}", "Ohne {x}", "{x} und {y}", "Nur {x}", "Noch Einmal {x}", "Zwischen {x} und {y}"),
    "Portuguese": ("{x}", "Sem {x}", "{x} e {y}", "Canção de {x}", "Outra Vez {x}", "Entre {x} e {y}"),
}
TITLES = (
    *("{adj} {x}", "{adj} {x}", "{adj} {y}", "{x} and {y}", "After {the}", "Waiting for {the}", "Back to {the}"),
    *("Dancing with {the}", "Letters to {the}", "No More {x}", "{x} Song", "Another {x}", "{x} in {place}"),
    *("Nothing but {x}", "Talking to {the}", "{x} for Two", "All the Way to {the}", "Close to {the}"),
    *("Ask {the}", "Don't Wake {the}", "{x}, {x}, {x}", "Three Kinds of {x}", "{the2} and I", "A Little {x}"),
    *(
        "Made of {x}",
        "Every Other {x}",
        "{x} on the Radio",
        "Under {the}",
        "{adj} {x}, {adj} {y}",
        "Songs about {the}",
        "{x} Weather",
    ),
)
ALBUMS = (
    *(
        "{x}",
        "{adj} {x}",
        "{x} & {y}",
        "The {adj} {x}",
        "A Field Guide to {the}",
        "{x} in {place}",
        "Ten Songs for {the}",
    ),
    *(
        "{adj} {y}",
        "Postcards from {the}",
        "The Year of {the}",
        "Between {x} and {y}",
        "A Map of {the}",
        "Toward {the}",
    ),
)
ADJECTIVES = (
    *("Velvet", "Crooked", "Copper", "Hollow", "Amber", "Borrowed", "Sleepless", "Gilded", "Paper", "Quiet", "Scarlet"),
    *("Distant", "Clockwork", "Wooden", "Electric", "Golden", "Broken", "Endless", "Secret", "Wild", "Slow", "Blue"),
    *("Silver", "Lonely", "Careless", "Tender", "Bitter", "Bright", "Second-Hand", "Lucky", "Silent", "Stolen"),
)
PLACES = (
    *("Calder Bay", "Ostrel", "Lanternhead", "Marrowstone", "Villa Serena", "Port Amity", "Saltmarsh"),
    *("Quarrytown", "Ninemile", "Old Verity", "the North End", "Juniper Falls", "Brackwater", "San Telmora"),
)
HALLS = (
    *("the Copper Hall", "the Saltmarsh Pier", "the Lantern Room", "the Marrowstone Theatre", "Brackwater Docks"),
    *("the Juniper Club", "the Old Verity Ballroom", "Radio Calder"),
)
BAND_ADJECTIVES = (
    *("Velvet", "Crooked", "Lantern", "Saltwater", "Copper", "Drowsy", "Marble", "Tin", "Hollow", "Amber", "Borrowed"),
    *("Sleepless", "Wandering", "Gilded", "Paper", "Polite", "Lunar", "Scarlet", "Thirsty", "Feral", "Distant"),
    *("Clockwork", "Humming", "Wooden", "Nocturnal", "Midnight", "Rainy", "Summer", "Burning", "River", "Winter"),
)
BAND_NOUNS = (
    *("Herons", "Cartographers", "Magpies", "Orchards", "Ferries", "Locksmiths", "Tailors", "Mapmakers", "Beekeepers"),
    *("Moths", "Otters", "Umbrellas", "Lighthouses", "Pilgrims", "Elevators", "Astronomers", "Gardeners", "Swimmers"),
    *("Librarians", "Foxgloves", "Telegrams", "Tramlines", "Archivists", "Woodpeckers", "Typewriters", "Ferrymen"),
)
FIRST_NAMES = (
    *("Marla", "Odeline", "Ansel", "Ottilie", "Caspian", "Zoë", "Thaddeus", "Imani", "Rosalba", "Evander", "Saoirse"),
    *("Ignatius", "Philippa", "Lucinda", "Björn", "Amadou", "Wilhelmina", "Xiomara", "Desmond", "Anneliese", "Teodoro"),
    *("Guinevere", "Mireille", "Kofi", "Siobhan", "Lazlo", "Esperanza", "Noor", "Barnaby", "Clementine", "Yusuf"),
    *("Renée", "Mikhail", "Persephone", "Hideo", "Valentina", "Cornelius", "Aoife", "Joaquín", "Delphine", "Rhiannon"),
)
SURNAMES = (
    *("Quintrell", "Vargadale", "Thistlewood", "Okonjeda", "Lindqvarn", "Marchetalli", "Pemberly", "Kowalczand"),
    *("Abernathay", "Delacroisse", "Fairweathers", "Nakamoray", "Wolfsberger", "Ellingsgaard", "Castellanza"),
    *("Rutherglenn", "Montclaire-Reed", "Szymborowska", "Featherstoneau", "Mbekilani", "Halloweigh", "Sorrentell"),
    *("Brightwater", "Ashgrove", "Larkspur", "Winterbourne", "Holloway-Finch", "Penhallowes", "Duskfield", "Moonbury"),
    *("Riversong", "Lovejoye", "Nightingall", "Firethorne", "Summerhayes", "Rainsford", "Tidewell", "Starkweathers"),
)
PHRASE_ARTISTS = (
    *("Midnight River", "Summer Fire", "Half Moon Hotel", "The Last Tram Home", "Love Arcade Ensemble", "Rain Parlour"),
    *("Ghost Orchard", "Slow Dance Society", "Home by Morning", "The Lovers' Almanac", "Velvet Thunder Choir"),
    *("Ocean Avenue Lights Out", "Nocturne No. 9 Bus", "Winter Umbrella", "Second-Hand Love", "Kitchen Light"),
)
"""Artists whose names could be titles, and some of whose names are."""
ENSEMBLES: dict[str, tuple[str, ...]] = {
    "Jazz": ("Quartet", "Trio", "Big Band"),
    "Classical": ("Ensemble", "Chamber Players", "String Quartet"),
    "Soundtrack": ("Orchestra", "Film Orchestra"),
    "Soul": ("Revue", "Choir"),
    "Funk": ("Collective", "Brass Union"),
    "Latin": ("Orquesta", "Sexteto"),
    "Reggae": ("Sound System",),
    "Country": ("String Band",),
    "Folk": ("String Band", "Singers"),
}
PRODUCERS = (
    *(
        "Voltarine",
        "Kilohertz Kid",
        "Neonika",
        "Pixelhaven",
        "Subterra",
        "Oktagram",
        "Luminaut",
        "Glasswire",
        "Modulette",
    ),
    *(
        "Tesselate Nine",
        "Hexaphonic",
        "Driftcode",
        "Auralia",
        "Monoblok",
        "Sinewave Sister",
        "Cassiopeiah",
        "Bassphemy",
    ),
    *(
        "Lowtide",
        "Zephyrine",
        "Phosphene",
        "Quantique",
        "Rhythmatik",
        "Noctilux",
        "Vectoria",
        "Ohmwrecker",
        "Synthia Ray",
    ),
)
RHYMERS = (
    *("MC Thesaurus", "Young Almanac", "Lady Parable", "Big Ledger", "Verse Nightly", "Prophet Nine", "Kid Cathedral"),
    *("Ms. Metaphor", "Dialectic", "Sunday Bruiser", "Tall Order", "Queen Ampersand", "Nightshift Rell", "Folio"),
)
