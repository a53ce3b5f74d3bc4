"""A new kind of model is one row: published, promoted, live in the running service, listed, and rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.train import train_model
from app.settings import Settings
from app.system import model_kinds
from app.system.model_kinds import MODEL_KINDS, ModelKind, ModelSlots
from app.system.stores import model_store
from services.models.store import ModelStore, StoredModel
from services.models.trained import Trained
from services.types import Understanding
from tests.service import Service, with_tracks

SOON = 10.0
"""Seconds within which a running service must have followed the store."""
FILE = "synonyms.txt"
WORD = "zither"
"""No item has it."""


class Synonyms:
    """The toy model: replaces one word of a query by another."""

    def __init__(self, word: str, meaning: str) -> None:
        self.word, self.meaning = word, meaning

    @classmethod
    def load(cls, settings: Settings, stored: StoredModel) -> Synonyms:
        return cls(*stored.files[FILE].decode().split("="))


async def activate(slots: ModelSlots, synonyms: Synonyms | None) -> None:
    """Without a model queries are understood as they stand."""
    understand = getattr(slots.active.understand, "__wrapped__", slots.active.understand)

    def replaced(text: str) -> Understanding:
        assert synonyms is not None
        return understand(text.replace(synonyms.word, synonyms.meaning))

    replaced.__wrapped__ = understand  # type: ignore[attr-defined]
    slots.active.understand = understand if synonyms is None else replaced


async def train(settings: Settings, data: Path | None, seed: int) -> Trained:
    return Trained({FILE: f"{WORD}=orchard".encode()}, {"metrics": {"pairs": 1}}, True, "one pair of words")


TOY = ModelKind(
    name="synonyms",
    load=Synonyms.load,
    stand_in=lambda settings: None,
    activate=activate,
    trainer=f"{__name__}:train",
)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(model_kinds, "MODEL_KINDS", (*MODEL_KINDS, TOY))
    with with_tracks(tmp_path / "data") as service:
        yield service


def publish(store: ModelStore, meaning: str) -> str:
    return store.publish(TOY.name, {FILE: f"{WORD}={meaning}".encode()}, {})


def understood(service: Service) -> str:
    return str(service.search(f"{WORD} song", learn=False)["understanding"]["normalized"])


def within(seconds: float, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.05)


def listed(service: Service) -> dict[str, Any]:
    kinds: dict[str, Any] = service.request("GET", "/v1/models").json()["kinds"]
    return kinds


def test_its_versions_go_live_are_listed_and_rolled_back(service: Service) -> None:
    store = model_store(service.settings)
    assert understood(service) == f"{WORD} song", "nothing stored: its part is absent"
    first = publish(store, "winter")
    store.promote(TOY.name, first, "a test")  # as another process does it
    within(SOON, lambda: understood(service) == "winter song")

    second = publish(store, "garden")
    promoted = service.request("POST", f"/v1/models/{TOY.name}/{second}/promote", json={"reason": "a test"})
    assert promoted.status_code == 200, promoted.text
    assert understood(service) == "garden song", "at once, where it was promoted"
    assert listed(service)[TOY.name]["current"] == second
    assert {version["version"] for version in listed(service)[TOY.name]["versions"]} == {first, second}

    back = service.request("POST", f"/v1/models/{TOY.name}/rollback")
    assert back.json()["version"] == first
    assert understood(service) == "winter song"


def test_one_that_cannot_be_used_gives_way_to_what_stands_in(service: Service) -> None:
    store = model_store(service.settings)
    store.promote(TOY.name, publish(store, "winter"), "a test")
    within(SOON, lambda: understood(service) == "winter song")
    store.promote(TOY.name, store.publish(TOY.name, {"another": b""}, {}), "a test")
    within(SOON, lambda: understood(service) == f"{WORD} song")


def test_the_kinds_beside_it_are_undisturbed(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    ranker, hits = service.system.search.active.ranker, service.search("winter song", learn=False)["hits"]
    store = model_store(service.settings)
    with caplog.at_level("INFO", logger="app.system.reloading"):
        store.promote(TOY.name, publish(store, "winter"), "a test")
        within(SOON, lambda: understood(service) == "winter song")
    assert [record.getMessage().split()[:2] for record in caplog.records] == [["model_in_force", f"kind={TOY.name}"]]
    assert service.system.search.active.ranker is ranker
    again = service.search("winter song", learn=False)["hits"]
    assert [hit["object_id"] for hit in again] == [hit["object_id"] for hit in hits]


def test_its_row_says_how_it_is_trained(service: Service) -> None:
    assert TOY.name in model_kinds.trainable()
    outcome = service.run(train_model(TOY.name, service.settings, None, seed=0, promote=True))
    assert (outcome.promoted, outcome.metrics) == (True, {"pairs": 1})
    within(SOON, lambda: understood(service) == "orchard song")
    assert listed(service)[TOY.name]["current"] == outcome.version
