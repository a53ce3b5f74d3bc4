"""Simulated visitors of a demo: who they are, that they come and go, and that nobody else can have them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app.cli.demo import IMPATIENT, impatient
from app.http.application import create_app
from app.process.gateway import serve
from app.settings import Settings
from app.simulation import visitors as visiting
from app.simulation.visitors import Visitors, visitors
from services.datasets.folder import Dataset, DatasetQuery, Judgment, write_folder
from services.errors import SettingsInvalid, StorageFailed
from services.simulation.loop import PAGE_SIZE
from services.simulation.visitors import QUERIES_A_SLICE, TITLES, visitor_traffic
from services.types import EventStatus, Impression, Interaction
from tests import service as services
from tests.builders.catalogue import ARTISTS, TRACKS
from tests.commands import eventually
from tests.modules import imports
from tests.service import Service, problem

KEY = "the-right-key"
QUICK = {"attribution_seconds": 0.5, "snapshot_seconds": 0.2, "survey_share": 1.0}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracks of which some queries are judged: each wants the tracks of one artist."""
    path = tmp_path_factory.mktemp("data") / "tracks"
    queries = [DatasetQuery(f"q{n}", "train", artist) for n, artist in enumerate(ARTISTS)]
    queries.append(DatasetQuery("unjudged", "train", "never asked"))
    queries.append(DatasetQuery("held-out", "test", "harbour"))
    judgments = [
        Judgment(query.query_id, track["id"], 2.0)
        for query in queries
        for track in TRACKS
        if track["artist"] == query.text or (query.query_id == "held-out" and "Harbour" in track["title"])
    ]
    write_folder(path, TRACKS, queries, judgments)
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "bare"
    write_folder(path, TRACKS)
    return path


class TestPeople:
    def test_they_ask_judged_queries_and_click_what_is_wanted(self, judged: Path) -> None:
        guests = visitor_traffic(Dataset.open(judged), "title", seed=3)
        searches = list(islice(guests.searches, 300))
        assert {search.query.text for search in searches} == set(ARTISTS)
        slate = [track["id"] for track in TRACKS[:10]]
        mira = next(search for search in searches if search.query.text == "Mira Holt")
        clicked = [guests.judge.clicks(slate, mira.query.query_id, index) for index in range(2000)]
        often = [sum(place in clicks for clicks in clicked) for place in range(10)]
        wanted = [place for place, track in enumerate(TRACKS[:10]) if track["artist"] == "Mira Holt"]
        assert min(often[place] for place in wanted) > 2 * max(n for p, n in enumerate(often) if p not in wanted)

    def test_without_judgments_they_search_for_titles_and_click_what_they_named(self, bare: Path) -> None:
        guests = visitor_traffic(Dataset.open(bare), "title", seed=3)
        asked = {search.query.query_id: search.query.text for search in islice(guests.searches, 500)}
        titles = {track["id"]: track["title"] for track in TRACKS}
        assert 50 < len(asked) <= TITLES
        assert all(titles[object_id] == text for object_id, text in asked.items())
        named = next(iter(asked))
        slate = [named, *(i for i in titles if i != named)][:10]
        clicks = [guests.judge.clicks(slate, named, index) for index in range(500)]
        assert sum(0 in clicked for clicked in clicks) > 400

    def test_they_ask_again(self, tmp_path: Path) -> None:
        """Of many queries, visitors use the most frequent ones."""
        queries = [DatasetQuery(f"q{n}", "train", f"query {n}", weight=float(n)) for n in range(1, 301)]
        write_folder(tmp_path, TRACKS, queries, [Judgment(query.query_id, "t001", 1.0) for query in queries])
        asked = {
            search.query.query_id for search in islice(visitor_traffic(Dataset.open(tmp_path), None, 1).searches, 2000)
        }
        assert asked <= {f"q{n}" for n in range(301 - QUERIES_A_SLICE, 301)}
        assert len(asked) > QUERIES_A_SLICE * 0.9

    def test_the_same_seed_gives_the_same_people(self, judged: Path) -> None:
        one, same, other = (
            list(islice(visitor_traffic(Dataset.open(judged), None, seed).searches, 50)) for seed in (1, 1, 2)
        )
        assert one == same != other


@contextmanager
def demo(folder: Path, source: Path, running: bool = False, **settings: Any) -> Iterator[Service]:
    """A service with the TRACKS that visitors may come to."""
    with pytest.MonkeyPatch.context() as patch:
        visit = partial(visitors, source=source, running=running)
        patch.setattr(services, "create_app", lambda own: create_app(own, visit))
        with services.running(folder, **QUICK | settings) as service:
            key = settings.get("admin_key")
            service.put(*TRACKS, headers={"Authorization": f"Bearer {key}"} if key else None)
            yield service


def traffic(service: Service, running: bool | None = None) -> dict[str, Any]:
    """State of the visitors after a request to start or stop them."""
    if running is None:
        response = service.request("GET", "/pages/traffic")
    else:
        response = service.request("PUT", "/pages/traffic", json={"running": running})
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


def logged(service: Service) -> list[Any]:
    return [record for _, record in service.run(service.system.log.read(0, 100_000))]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visiting, "RUSH", 40.0)
    monkeypatch.setattr(visiting, "THINK_SECONDS", 0.05)
    monkeypatch.setattr(visiting, "PATIENCE", 30.0)  # a disk that stalls is no failure of theirs
    monkeypatch.setattr(Visitors.__init__, "__defaults__", (40.0, 40.0))


class TestVisits:
    def test_they_come_and_go(self, tmp_path: Path, judged: Path, brisk: None) -> None:
        with demo(tmp_path, judged) as service:
            assert traffic(service) == {
                **dict.fromkeys(("searches", "clicks", "failures"), 0),
                "running": False,
                "rate": 0.0,
                "trouble": None,
            }
            assert traffic(service, running=True)["running"]
            eventually(lambda: traffic(service)["searches"] >= 30 and traffic(service)["clicks"] >= 10)
            assert traffic(service)["rate"] > 0.0
            activity = service.request("GET", "/pages/activity").json()
            assert activity["traffic"]["running"]
            left = traffic(service, running=False)
            assert (left["running"], left["rate"], left["failures"]) == (False, 0.0, 0)
            records = logged(service)
            searches = [record for record in records if isinstance(record, Impression)]
            clicks = [record for record in records if isinstance(record, Interaction)]
            # Whoever is told to go may be in the middle of a search.
            assert left["searches"] <= len(searches) <= left["searches"] + 1
            assert left["clicks"] <= len(clicks) <= left["clicks"] + PAGE_SIZE
            assert all(click.status == EventStatus.ACCEPTED for click in clicks)
            assert {search.text for search in searches} <= set(ARTISTS)
            time.sleep(0.3)
            assert traffic(service)["searches"] == left["searches"]
            assert traffic(service, running=True)["running"], "they may come again"
            eventually(lambda: traffic(service)["searches"] > left["searches"])

    def test_what_they_click_is_remembered_and_learned_when_its_short_window_closes(
        self, tmp_path: Path, judged: Path, brisk: None
    ) -> None:
        with demo(tmp_path, judged, running=True) as service:
            eventually(lambda: traffic(service)["clicks"] >= 20)
            learner = eventually(lambda: (p := service.run(service.system.observe())) and p.learned >= 10 and p)
            assert learner.skipped == 0
            traffic(service, running=False)
            eventually(lambda: (p := service.run(service.system.observe())) and p.open == 0)
            found = [hit for hit in service.search("Juno Vale")["hits"] if "memory" in hit["arms"]]
            assert found

    def test_their_pace_is_kept(self, tmp_path: Path, judged: Path) -> None:
        with demo(tmp_path, judged) as service:

            async def visit() -> tuple[int, float]:
                began = time.monotonic()
                guests = Visitors(
                    service.system, lambda: visitor_traffic(Dataset.open(judged), "title", 1), rate=5.0, rush=20.0
                )
                await guests.start()
                await asyncio.sleep(1.5)
                await guests.stop()
                return guests.state()["searches"], time.monotonic() - began

            searches, took = service.run(visit())
            assert 1 <= searches <= 20.0 * took + 1

    def test_they_go_home(self, tmp_path: Path, judged: Path, brisk: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(visiting, "LONGEST_SECONDS", 0.4)
        with demo(tmp_path, judged, running=True) as service:
            eventually(lambda: not traffic(service)["running"])
            assert traffic(service)["trouble"] is None

    def test_failures_are_shown_and_end_it(
        self, tmp_path: Path, judged: Path, brisk: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visiting, "MAX_FAILURES", 5)
        with demo(tmp_path, judged) as service:

            async def away(*_: object) -> None:
                raise StorageFailed("the disk is full")

            monkeypatch.setattr(service.system.search, "answer", away)
            traffic(service, running=True)
            eventually(lambda: not traffic(service)["running"])
            state = traffic(service)
            assert (state["searches"], state["failures"], state["trouble"]) == (0, 5, "StorageFailed")

    def test_a_catalogue_without_titles_has_none(self, tmp_path: Path) -> None:
        source = tmp_path / "plain"
        write_folder(source, [{"id": "1", "price": 3}])
        with demo(tmp_path / "var", source) as service:
            response = service.request("PUT", "/pages/traffic", json={"running": True})
            problem(response, 422, "invalid-request")
            assert not traffic(service)["running"]

    def test_they_stop_with_the_service(self, tmp_path: Path, judged: Path, brisk: None) -> None:
        with demo(tmp_path, judged, running=True) as service:
            eventually(lambda: traffic(service)["searches"] > 0)
            guests: Visitors = service.app.state.visiting
        assert not guests.running


class TestNobodyElse:
    def test_a_service_has_no_visitors_and_no_way_to_let_them_in(self, tmp_path: Path) -> None:
        with services.running(tmp_path) as service:
            problem(service.request("GET", "/pages/traffic"), 404, "not-found")
            problem(service.request("PUT", "/pages/traffic", json={"running": True}), 404, "not-found")
            assert service.request("GET", "/pages/activity").json()["traffic"] is None
            assert logged(service) == []

    def test_they_need_the_admin_key(self, tmp_path: Path, judged: Path) -> None:
        with demo(tmp_path, judged, admin_key=KEY) as service:
            for method, body in (("GET", None), ("PUT", {"running": True})):
                problem(service.request(method, "/pages/traffic", json=body), 401, "unauthorized")
            held = {"Authorization": f"Bearer {KEY}"}
            assert service.request("GET", "/pages/traffic", headers=held).json()["searches"] == 0

    @pytest.mark.parametrize("body", [{}, {"running": "yes"}, {"running": True, "rate": 1000}, []])
    def test_what_cannot_be_asked(self, tmp_path: Path, judged: Path, body: Any) -> None:
        with demo(tmp_path, judged) as service:
            assert service.request("PUT", "/pages/traffic", json=body).status_code == 422
            assert not traffic(service)["running"]

    def test_it_is_no_part_of_the_public_interface(self) -> None:
        paths = create_app(Settings.load({})).openapi()["paths"]
        assert not [path for path in paths if not path.startswith(("/v1/", "/livez", "/readyz", "/metrics"))]

    def test_the_application_knows_no_simulation(self) -> None:
        """Visitors have to be passed in, as the demo does."""
        for module in ("app.http.application", "app.http.pages.traffic", "app.process.gateway", "app.cli.serve"):
            assert not [imported for imported in imports(module) if "simulation" in imported]

    def test_several_workers_are_no_demo(self, tmp_path: Path, judged: Path) -> None:
        settings = Settings.load(
            {},
            data_dir=tmp_path,
            workers=2,
            redis_url="redis://h/0",
            qdrant_url="http://h",
            opensearch_url="http://h",
            signing_keys="a:" + "s" * 32,
        )
        with pytest.raises(SettingsInvalid, match="one process"):
            serve(settings, partial(visitors, source=judged, running=True))


def test_a_demo_is_impatient_unless_it_is_told_otherwise() -> None:
    assert impatient(Settings.load({})).model_dump() == Settings.load({}, **IMPATIENT).model_dump()
    told = impatient(Settings.load({"LTRR_ATTRIBUTION_SECONDS": "1800"}))
    assert (told.attribution_seconds, told.snapshot_seconds) == (1800.0, IMPATIENT["snapshot_seconds"])
