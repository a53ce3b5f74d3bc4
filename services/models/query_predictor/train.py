"""Training of the query predictor on the catalogue and the event log."""

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
"""Pairs of a clicked item and a generated query that training needs at least; the gate needs a fifth as many
queries."""
MAX_WORDS = 8
"""Everyday words to learn."""
MIN_WORD_CLICKS = 5
"""Clicked items that an everyday word needs at least."""
MIN_ABSENT_SHARE = 0.6
"""Share of these items that must not contain the word."""
MIN_KIND_CLICKS = 3
"""Clicked items that a kind needs at least to be predicted."""
MAX_PAIR_EXAMINATIONS = 3.0
"""Cap on the examinations of one pair of query and item, so that a few popular queries do not dominate."""
RIDGE = 3.0
"""Penalty on all coefficients but the intercept. Films, five-fold cross-validation: log loss .588 for .3 to 10."""
MAX_SHARED_QUERIES = 100_000
"""Queries shared by several items that the model stores, those of the most items."""
CUTOFF = 10
"""k of the gate's recall@k."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A logged query and an item it showed, where the item generates the query."""

    kind: str
    features: tuple[float, ...]
    examinations: float
    clicked: int


def train(queries: Mapping[str, LoggedQuery], documents: Sequence[Document], schema: Schema) -> Trained:
    """queries: as from `rows.from_log`; documents: the catalogue.

    Gate: on held-out queries, recall@10 of the clicked items is higher than that of the untrained predictor (95 %
    interval, paired bootstrap over queries).

    Raises InvalidRequest when there is too little to learn from.
    """
    training = {key: query for key, query in queries.items() if not held_out(key)}
    validation = {key: query for key, query in queries.items() if held_out(key)}
    by_id = {document["id"]: document for document in documents}
    learned_words = _everyday_words(training, by_id, schema)
    generated = {object_id: generate_queries(document, schema, learned_words) for object_id, document in by_id.items()}
    sharers = Counter(query.key for found in generated.values() for query in found)
    pairs = _pairs(training, generated, sharers, {i: prior(schema, document) for i, document in by_id.items()})
    clicked = Counter(pair.kind for pair in pairs if pair.clicked)
    if clicked.total() < MIN_CLICKED_ITEMS:
        raise InvalidRequest(
            f"too little to learn from: {clicked.total()} items in the log were clicked for a generated query; "
            f"at least {MIN_CLICKED_ITEMS} are needed"
        )
    kinds = sorted(kind for kind, count in clicked.items() if count >= MIN_KIND_CLICKS)
    odds, coefficients = _fit([pair for pair in pairs if pair.kind in kinds], kinds)
    available = Counter(query.kind for found in generated.values() for query in found)
    model = QueryPredictor(
        kinds=odds,
        uses={kind: clicked[kind] / available[kind] for kind in kinds},
        numbers=coefficients,
        words=learned_words,
        shared={key: count for key, count in sharers.most_common(MAX_SHARED_QUERIES) if count > 1},
    )
    plain = QueryPredictor.untrained()
    shares = [_recalls(predictor, validation, documents, schema) for predictor in (model, plain)]
    if len(shares[0]) * 5 < MIN_CLICKED_ITEMS:
        raise InvalidRequest(f"too little to judge by: {len(shares[0])} held-out queries with a click")
    difference = paired_bootstrap(*shares)
    promote = difference.low > 0.0
    verdict = "more" if promote else "not significantly more"
    reason = (
        f"predicts {verdict} of the items clicked for {len(shares[0])} held-out queries than titles do: "
        f"{np.mean(shares[0]):.3f}, difference {difference}"
    )
    meta = {
        "kinds": {kind: {"odds": odds[kind], "taken": clicked[kind]} for kind in kinds},
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


def _everyday_words(
    queries: Mapping[str, LoggedQuery], by_id: Mapping[str, Document], schema: Schema
) -> tuple[str, ...]:
    """Words that users add to an item's title and that the item does not contain, most frequent first."""
    seen: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    for query in queries.values():
        written = {stem(token): token for token in tokenize(query.text) if token not in ENGLISH_STOPWORDS}
        for object_id, stats in query.items.items():
            document = by_id.get(object_id)
            if not stats.clicked or document is None or not set(words(title_of(document, schema))) & written.keys():
                continue
            held = word_weights(document, schema)
            for stemmed, token in written.items():
                if not any(char.isdigit() for char in token):
                    seen[token] += 1
                    absent[token] += stemmed not in held
    frequent = [
        (-absent[token], token)
        for token in absent
        if seen[token] >= MIN_WORD_CLICKS and absent[token] >= MIN_ABSENT_SHARE * seen[token]
    ]
    return tuple(token for _, token in sorted(frequent)[:MAX_WORDS])


def _pairs(
    queries: Mapping[str, LoggedQuery],
    generated: Mapping[str, Sequence[GeneratedQuery]],
    sharers: Mapping[str, int],
    priors: Mapping[str, float],
) -> list[_Pair]:
    pairs = []
    for key, query in queries.items():
        for object_id, stats in query.items.items():
            kind = next((known.kind for known in generated.get(object_id, ()) if known.key == key), None)
            if kind is not None:
                features = query_features(key, sharers[key], priors[object_id])
                pairs.append(_Pair(kind, features, stats.examinations, stats.clicked))
    return pairs


def _fit(pairs: Sequence[_Pair], kinds: Sequence[str]) -> tuple[dict[str, float], list[float]]:
    """(log-odds of each kind, coefficients of FEATURES): ridge-penalised logistic regression of clicks on examinations
    (inverse propensity: Joachims et al., WSDM 2017); examinations count as at least the clicks."""
    columns = {kind: column for column, kind in enumerate(kinds)}
    table = np.zeros((len(pairs), len(kinds) + len(FEATURES)))
    for row, pair in enumerate(pairs):
        table[row, columns[pair.kind]] = 1.0
        table[row, len(kinds) :] = pair.features
    clicked = np.array([pair.clicked for pair in pairs], dtype=np.float64)
    skipped = np.maximum(np.array([pair.examinations for pair in pairs]) - clicked, 0.0)
    share = np.minimum(1.0, MAX_PAIR_EXAMINATIONS / np.maximum(clicked + skipped, 1e-9))
    clicked, skipped = clicked * share, skipped * share
    intercept, found = logistic(table, clicked, skipped, RIDGE)
    odds = {kind: intercept + float(found[column]) for kind, column in columns.items()}
    return odds, found[len(kinds) :].tolist()


def _recalls(
    predictor: QueryPredictor, queries: Mapping[str, LoggedQuery], documents: Sequence[Document], schema: Schema
) -> list[float]:
    """Recall@CUTOFF of the clicked items, for each query with a click."""
    predicted: dict[str, list[tuple[float, str]]] = {key: [] for key in queries}
    for document in documents:
        for text, score in predictor.predict(document, schema):
            key = memory_key(text)
            if key in predicted:
                predicted[key].append((-score, document["id"]))
    shares = []
    for key, query in queries.items():
        clicked = {object_id: stats.clicked for object_id, stats in query.items.items() if stats.clicked}
        if clicked:
            best = {object_id for _, object_id in sorted(predicted[key])[:CUTOFF]}
            shares.append(sum(n for object_id, n in clicked.items() if object_id in best) / sum(clicked.values()))
    return shares
