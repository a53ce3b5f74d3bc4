"""Learn from catalogue and log which queries people use for items, and whom they mean by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.errors import InvalidRequest
from services.evaluation.intervals import paired_bootstrap
from services.memory.keys import memory_key
from services.models.clicks import held_out
from services.models.logistic import logistic
from services.models.query_predictor.model import FEATURES, QueryPredictor, query_features
from services.models.query_predictor.queries import GeneratedQuery, generate_queries
from services.models.query_predictor.rows import LoggedQuery
from services.models.text_encoder.features import title_of, word_weights, words
from services.models.trained import Trained
from services.schema.priors import prior
from services.text import tokenize
from services.types import Document, Schema
from services.understanding.language import ENGLISH_STOPWORDS, stem

MIN_CLICKED_ITEMS = 50
"""Items taken by a query that could have been guessed, which training needs at least; the gate needs a fifth of it."""
MAX_WORDS = 8
"""Everyday words that are learned."""
MIN_WORD_CLICKS = 5
"""Items taken by queries with the word, at least."""
MIN_ABSENT_SHARE = 0.6
"""Share of them that do not hold it, at least."""
MIN_KIND_CLICKS = 3
"""Items taken by queries of a kind, at least, or the kind is not predicted."""
MAX_PAIR_EXAMINATIONS = 3.0
"""One pair of query and item counts as at most so many examinations: a few queries that all the world asks are not all."""
RIDGE = 3.0
"""Of coefficients other than the intercept. Films, five parts of the pairs in turn: log loss .588 for .3 to 10."""
MAX_SHARED_QUERIES = 100_000
"""Queries of several items that are remembered as such, those of the most items."""
CUTOFF = 10
"""Best predictions of a query that the gate examinations at."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A query that was asked and could have been guessed from an item that it showed."""

    kind: str
    features: tuple[float, ...]
    examinations: float
    taken: int


def train(asked: Mapping[str, LoggedQuery], documents: Sequence[Document], schema: Schema) -> Trained:
    """asked: as `rows.from_log` gives it; documents: the catalogue.

    Gate: of the items that people took by queries that were held out, more are among the ten best predictions for the
    query than by the predictor that knows nothing of the log (95 % interval, paired bootstrap over queries).

    Raises InvalidRequest when there is too little to learn from.
    """
    training = {key: query for key, query in asked.items() if not held_out(key)}
    validation = {key: query for key, query in asked.items() if held_out(key)}
    by_id = {document["id"]: document for document in documents}
    learned_words = _everyday_words(training, by_id, schema)
    guessed = {object_id: generate_queries(document, schema, learned_words) for object_id, document in by_id.items()}
    sharers = Counter(guess.key for found in guessed.values() for guess in found)
    pairs = _pairs(training, guessed, sharers, {i: prior(schema, document) for i, document in by_id.items()})
    taken = Counter(pair.kind for pair in pairs if pair.clicked)
    if taken.total() < MIN_CLICKED_ITEMS:
        raise InvalidRequest(
            f"too little to learn from: {taken.total()} items in the log were taken by a query that could have been "
            f"guessed from them; at least {MIN_CLICKED_ITEMS} are needed"
        )
    kinds = sorted(kind for kind, count in taken.items() if count >= MIN_KIND_CLICKS)
    odds, coefficients = _fit([pair for pair in pairs if pair.kind in kinds], kinds)
    offered = Counter(guess.kind for found in guessed.values() for guess in found)
    model = QueryPredictor(
        kinds=odds,
        uses={kind: taken[kind] / offered[kind] for kind in kinds},
        numbers=coefficients,
        words=learned_words,
        shared={key: count for key, count in sharers.most_common(MAX_SHARED_QUERIES) if count > 1},
    )
    plain = QueryPredictor.untrained()
    shares = [_found(predictor, validation, documents, schema) for predictor in (model, plain)]
    if len(shares[0]) * 5 < MIN_CLICKED_ITEMS:
        raise InvalidRequest(f"too little to judge by: people took something by {len(shares[0])} held out queries")
    difference = paired_bootstrap(*shares)
    promote = difference.low > 0.0
    verdict = "more" if promote else "not surely more"
    reason = (
        f"predicts {verdict} of what people took by {len(shares[0])} held out queries than titles do: "
        f"{np.mean(shares[0]):.3f}, difference {difference}"
    )
    meta = {
        "kinds": {kind: {"odds": odds[kind], "taken": taken[kind]} for kind in kinds},
        "numbers": dict(zip(FEATURES, coefficients, strict=True)),
        "words": list(learned_words),
        "queries": {"training": len(training), "validation": len(validation)},
        "metrics": {
            "found": float(np.mean(shares[0])),
            "found_by_titles": float(np.mean(shares[1])),
            "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
        },
        "gate": {"promote": promote, "reason": reason},
    }
    return Trained(model.to_files(), meta, promote, reason)


def _everyday_words(asked: Mapping[str, LoggedQuery], by_id: Mapping[str, Document], schema: Schema) -> tuple[str, ...]:
    """Words that people write beside an item's name, and that the item itself does not hold, most frequent first."""
    seen: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    for query in asked.values():
        written = {stem(token): token for token in tokenize(query.text) if token not in ENGLISH_STOPWORDS}
        for object_id, shown in query.items.items():
            document = by_id.get(object_id)
            if not shown.clicked or document is None or not set(words(title_of(document, schema))) & written.keys():
                continue
            held = word_weights(document, schema)
            for stemmed, token in written.items():
                if not any(sign.isdigit() for sign in token):
                    seen[token] += 1
                    absent[token] += stemmed not in held
    often = [
        (-absent[token], token)
        for token in absent
        if seen[token] >= MIN_WORD_CLICKS and absent[token] >= MIN_ABSENT_SHARE * seen[token]
    ]
    return tuple(token for _, token in sorted(often)[:MAX_WORDS])


def _pairs(
    asked: Mapping[str, LoggedQuery],
    guessed: Mapping[str, Sequence[GeneratedQuery]],
    sharers: Mapping[str, int],
    priors: Mapping[str, float],
) -> list[_Pair]:
    pairs = []
    for key, query in asked.items():
        for object_id, shown in query.items.items():
            kind = next((guess.kind for guess in guessed.get(object_id, ()) if guess.key == key), None)
            if kind is not None:
                features = query_features(key, sharers[key], priors[object_id])
                pairs.append(_Pair(kind, features, shown.examinations, shown.clicked))
    return pairs


def _fit(pairs: Sequence[_Pair], kinds: Sequence[str]) -> tuple[dict[str, float], list[float]]:
    """(log-odds a kind, coefficients of FEATURES): logistic regression of taken on examinations, as far as more was looked at
    than taken (inverse propensity: Joachims et al., WSDM 2017), with a ridge."""
    places = {kind: place for place, kind in enumerate(kinds)}
    table = np.zeros((len(pairs), len(kinds) + len(FEATURES)))
    for row, pair in enumerate(pairs):
        table[row, places[pair.kind]] = 1.0
        table[row, len(kinds) :] = pair.features
    taken = np.array([pair.clicked for pair in pairs], dtype=np.float64)
    left = np.maximum(np.array([pair.examinations for pair in pairs]) - taken, 0.0)
    share = np.minimum(1.0, MAX_PAIR_EXAMINATIONS / np.maximum(taken + left, 1e-9))
    taken, left = taken * share, left * share
    intercept, found = logistic(table, taken, left, RIDGE)
    odds = {kind: intercept + float(found[place]) for kind, place in places.items()}
    return odds, found[len(kinds) :].tolist()


def _found(
    predictor: QueryPredictor, asked: Mapping[str, LoggedQuery], documents: Sequence[Document], schema: Schema
) -> list[float]:
    """Per query by which something was taken, the share of it that is among the CUTOFF best predictions."""
    predicted: dict[str, list[tuple[float, str]]] = {key: [] for key in asked}
    for document in documents:
        for text, score in predictor.predict(document, schema):
            key = memory_key(text)
            if key in predicted:
                predicted[key].append((-score, document["id"]))
    shares = []
    for key, query in asked.items():
        taken = {object_id: shown.clicked for object_id, shown in query.items.items() if shown.clicked}
        if taken:
            best = {object_id for _, object_id in sorted(predicted[key])[:CUTOFF]}
            shares.append(sum(n for object_id, n in taken.items() if object_id in best) / sum(taken.values()))
    return shares
