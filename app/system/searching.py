"""Assembles the parts that answer queries: the engine, surveys, explanations and completions."""

from __future__ import annotations

from dataclasses import dataclass

from app.system.catalogue import CatalogueParts
from app.system.stored_mode import StoredMode
from app.system.stores import Stores
from app.system.surroundings import Surroundings
from services.backends.base import ItemStore
from services.backends.fallback_items import FallbackItems
from services.completion.suggest import Autocomplete
from services.policies.modes import PolicySwitch
from services.query_ids import Signer
from services.search.engine import SearchEngine
from services.search.explain import Explainer
from services.search.state import SearchStores
from services.search.survey import Surveyor


@dataclass(frozen=True, slots=True)
class SearchParts:
    """The services that answer queries."""

    engine: SearchEngine
    surveyor: Surveyor
    explainer: Explainer
    autocomplete: Autocomplete


def assemble_search(
    stores: Stores,
    parts: CatalogueParts,
    switch: PolicySwitch,
    mode: StoredMode,
    signer: Signer,
    around: Surroundings,
) -> SearchParts:
    """The search services over an open catalogue, with decisions by `switch`."""
    index = parts.indexes.lexical
    surveyor = Surveyor(parts.arms.pool, stores.items, stores.log, switch.should_survey)
    engine = SearchEngine(
        active=parts.active,
        arms=parts.arms.pool,
        decider=switch,
        mode=mode,
        stores=SearchStores(around.wrap_index(index), _shown_items(stores, parts), stores.memory, stores.log),
        signer=signer,
        surveyor=surveyor,
        clock=around.clock,
        steps=around.steps,
    )
    explainer = Explainer(stores.log, signer, lambda: parts.active.ranker, around.clock)
    return SearchParts(engine, surveyor, explainer, Autocomplete(index, stores.memory))


def _shown_items(stores: Stores, parts: CatalogueParts) -> ItemStore:
    """The store of documents for hits: with Redis and OpenSearch, one falls back to the other."""
    if stores.redis is not None and parts.indexes.opensearch is not None:
        return FallbackItems(stores.items, parts.indexes.opensearch.documents)
    return stores.items
