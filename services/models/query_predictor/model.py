"""Query predictor: the queries by which users will look for an item without clicks, and how likely they mean it. The
memory uses them until there are clicks. Serving only.

As in doc2query (Nogueira et al., arXiv 1904.08375), queries are generated from the item; as in Doc2Query-- (Gospodinov
et al., ECIR 2023, arXiv 2301.03266), a relevance model decides which of them are kept. Both are learned from the
service's own catalogue and clicks: a logistic regression for "an examined item is clicked" on the query's kind (see
queries.py), the number of items that share it, the item's popularity and the length of the query.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from services.errors import ModelInvalid
from services.models.query_predictor.queries import VALUES_PER_FIELD, GeneratedQuery, generate_queries
from services.schema.priors import prior
from services.types import Document, Schema

FILE = "query-predictor.json"
FORMAT = 1
RULES = 1
"""Version of the rules by which queries are generated and scored; a new one means predicting the whole catalogue
again."""
MAX_SCORE = 0.1
"""Score of a certain prediction: less than that of one click at the top, 1 / (1 + services.memory.scores.PRIOR),
on the same query, however frequent. .05 and .2 are as good on seen queries; from .2 on the order of unseen
ones suffers (films, validation: NDCG@10 .661 for .660)."""
ANY_ADDITION = "title+*"
"""Kind of a title followed by its year or any keyword value, for a model that knows no fields."""
FEATURES = ("sharers", "prior", "length")
"""Features besides the kind: ln of the number of items that share the query; the item's prior; tokens of the memory
key / 4."""


@dataclass(frozen=True, slots=True)
class QueryPredictor:
    """A logistic regression over generated queries.

    `kinds`: log-odds of each kind; queries of other kinds are never predicted. `uses`: how often users write a query of
    the kind, relative to other kinds. `numbers`: coefficients of FEATURES. `shared`: memory key -> number of items, for
    keys of several items. `words`: see queries.generate_queries. `max_queries`: predictions per item."""

    kinds: Mapping[str, float]
    uses: Mapping[str, float]
    numbers: Sequence[float] = (0.0,) * len(FEATURES)
    words: Sequence[str] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    max_queries: int = 16
    version: str = f"untrained-{RULES}"

    @classmethod
    def untrained(cls) -> QueryPredictor:
        """A predictor without training data: the title alone is the likeliest query."""
        return cls(
            kinds={"title": math.log(9.0), ANY_ADDITION: math.log(3.0)},
            uses={"title": 1.0, ANY_ADDITION: 1.0 / VALUES_PER_FIELD},
            max_queries=5,
        )

    def predict(self, document: Document, schema: Schema) -> list[tuple[str, float]]:
        """(query, score in (0, MAX_SCORE]), at most `max_queries`, the most useful ones first."""
        popularity = prior(schema, document)
        found: list[tuple[float, str, float]] = []
        for guess in generate_queries(document, schema, self.words):
            kind = self._kind(guess)
            if kind is not None:
                likely = self.likelihood(kind, guess.key, popularity)
                found.append((likely * self.uses.get(kind, 0.0), guess.text, MAX_SCORE * likely))
        found.sort(key=lambda entry: -entry[0])
        return [(text, score) for _, text, score in found[: self.max_queries]]

    def likelihood(self, kind: str, key: str, popularity: float) -> float:
        """Probability that an examined item is clicked for a query of this kind, 0..1."""
        features = query_features(key, self.shared.get(key, 1), popularity)
        odds = self.kinds[kind] + sum(weight * value for weight, value in zip(self.numbers, features, strict=True))
        return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, odds))))

    def _kind(self, guess: GeneratedQuery) -> str | None:
        if guess.kind in self.kinds:
            return guess.kind
        return ANY_ADDITION if ANY_ADDITION in self.kinds and guess.kind.startswith("title+") else None

    def to_files(self) -> dict[str, bytes]:
        """File name -> contents, for the model store."""
        content = {
            "format": FORMAT,
            "kinds": dict(self.kinds),
            "uses": dict(self.uses),
            "numbers": list(self.numbers),
            "words": list(self.words),
            "shared": dict(self.shared),
            "most": self.max_queries,
        }
        return {FILE: json.dumps(content, ensure_ascii=False, sort_keys=True).encode("utf-8")}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> QueryPredictor:
        """Raises ModelInvalid when the file is damaged or of another format."""
        try:
            content = json.loads(files[FILE])
            if content["format"] != FORMAT:
                raise ModelInvalid(f"query predictor: format {content['format']}, not {FORMAT}")
            kinds = {str(kind): _finite(odds) for kind, odds in content["kinds"].items()}
            uses = {str(kind): _finite(use) for kind, use in content["uses"].items()}
            weights = tuple(_finite(weight) for weight in content["numbers"])
            shared = {str(key): int(count) for key, count in content["shared"].items()}
            words, max_queries = tuple(map(str, content["words"])), int(content["most"])
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ModelInvalid(f"query predictor: {type(error).__name__}: {error}") from error
        if (
            not isinstance(content["words"], list)
            or len(weights) != len(FEATURES)
            or max_queries < 1
            or any(count < 1 for count in shared.values())
        ):
            raise ModelInvalid("query predictor: its numbers do not fit")
        version = f"query-predictor-{sha256(files[FILE]).hexdigest()[:12]}-{RULES}"
        return cls(kinds, uses, weights, words, shared, max_queries, version)


def query_features(key: str, sharers: int, popularity: float) -> tuple[float, float, float]:
    """The features besides the kind, see FEATURES. popularity: services.schema.priors.prior of the item."""
    return math.log(sharers), popularity, len(key.split(" ")) / 4


def _finite(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a finite number was expected")
    return number
