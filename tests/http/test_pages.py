"""The pages, in a real browser against a real service: what people see, what is sent, and that nothing leaves home."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Response, expect, sync_playwright

from app.http.pages.figures import quantile
from app.http.pages.pages import offered
from services.datasets.folder import write_folder
from services.types import Field, Role, Schema
from tests.commands import TLS, eventually
from tests.system_packages import program

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS = 60
KEY = "the-right-key"
NARROW = {"width": 360, "height": 740}
WIDE = {"width": 1280, "height": 900}
GENRES = ("Animation", "Comedy", "Drama", "Horror")
PLACES = ("Bay", "Hill", "Road", "Park", "Lake", "Bridge", "Field", "Tower", "Mill", "Gate", "Moor")
FILMS: list[dict[str, Any]] = [
    {
        "id": f"film-{n}",
        "title": title,
        "overview": f"A film about {title.lower()} and what became of it in the end, told at some length.",
        "genres": [GENRES[n % 4], GENRES[(n // 4) % 4]],
        "director": f"Director {n % 5}",
        "year": 1980 + n,
        "rating": 5 + n % 5 / 2,
        "popularity": 1000.0 - n,
    }
    for n, title in enumerate(
        ["Toy Story", "Toy Story 2", "Finding Nemo", "Alien Harbour", "Winter Light", "Silent Orchard"]
        + [f"Lantern {word}" for word in PLACES]
        + [f"Marble {word}" for word in PLACES]
    )
]
NASTY = {
    "id": "nasty",
    "title": "Bold <b>claims</b> & <img src=x onerror=alert(1)>",
    "overview": "Markup in <i>a title</i> is only text, <mark>always</mark>.",
    "genres": ["Drama"],
    "year": 2001,
    "popularity": 1.0,
}


@contextmanager
def serving(folder: Path, *command: str, **settings: str) -> Iterator[str]:
    """A service of its own, as a process (`command`: another one than serve that serves in the end); its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"LTRR_DATA_DIR": str(folder / "data"), "LTRR_PORT": str(port), **settings}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LTRR_")}
    log = folder / "service.log"
    run = [sys.executable, "-m", "app", *(command or ("serve",))]
    with (
        log.open("wb") as output,
        subprocess.Popen(run, cwd=ROOT, env=clean | own, stdout=output, stderr=output) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + START_SECONDS
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"the service did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", verify=TLS).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("service"), LTRR_ATTRIBUTION_SECONDS="1", LTRR_SURVEY_SHARE="1") as url:
        lines = "\n".join(json.dumps(item) for item in [*FILMS, NASTY])
        answer = httpx.put(f"{url}/v1/items", content=lines, headers={"content-type": "application/x-ndjson"})
        assert answer.json()["accepted"] == len(FILMS) + 1
        yield url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with an admin key."""
    with serving(tmp_path_factory.mktemp("locked"), LTRR_ADMIN_KEY=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and everything that it asked for and complained about."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def sent(self, path: str, method: str = "POST") -> list[Any]:
        """Bodies sent to `path`."""
        found = (r for r in self.requests if r.method == method and r.url.split("?")[0] == self.url + path)
        return [json.loads(r.post_data or "null") for r in found]

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def search(self, words: str) -> None:
        """Search and wait for the answer to be drawn, not for what the page asked before."""

        def ours(response: Response) -> bool:
            asked = response.request
            return response.url == f"{self.url}/v1/search" and asked.post_data_json["query"] == words

        with self.page.expect_response(ours):
            self.page.get_by_role("combobox", name="Search").fill(words)
            self.page.keyboard.press("Enter")
        expect(self.page.locator("#results")).not_to_have_attribute("aria-busy", "true")

    def titles(self) -> list[str]:
        return self.page.locator(".hit .open").all_inner_texts()


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    context = browser.new_context(**({"viewport": WIDE} | options))
    context.set_default_timeout(10_000)
    visit = Visit(context.new_page(), url)
    visit.page.on("request", lambda request: visit.requests.append(request))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("console", lambda m: visit.complaints.append(m.text) if m.type in ("error", "warning") else None)
    try:
        yield visit
    finally:
        context.close()


@pytest.fixture
def visit(browser: Browser, service: str) -> Iterator[Visit]:
    """A visit that has to go without a complaint and without a request to anywhere else."""
    with visiting(browser, service) as visit:
        yield visit
        assert visit.complaints == []
        assert [r.url for r in visit.requests if not r.url.startswith((service, "data:"))] == []


class TestSearchPage:
    def test_an_empty_search_browses_the_most_popular_first(self, visit: Visit) -> None:
        visit.open("/")
        expect(visit.page.locator(".hit")).to_have_count(10)
        assert visit.titles()[:3] == ["Toy Story", "Toy Story 2", "Finding Nemo"]
        expect(visit.page.locator("#count")).to_contain_text(f"{len(FILMS) + 1} items")

    def test_completions_by_keyboard(self, visit: Visit) -> None:
        visit.open("/")
        box = visit.page.get_by_role("combobox", name="Search")
        box.press_sequentially("toy")
        options = visit.page.get_by_role("listbox", name="Completions").get_by_role("option")
        expect(options.first).to_be_visible()
        expect(box).to_have_attribute("aria-expanded", "true")
        box.press("ArrowDown")
        expect(box).to_have_attribute("aria-activedescendant", "completion-0")
        expect(options.first).to_have_attribute("aria-selected", "true")
        assert box.input_value().lower().startswith("toy story")
        box.press("Escape")
        expect(options).to_have_count(0)
        assert box.input_value() == "toy"
        box.press("ArrowDown")
        expect(options.first).to_be_visible()
        options.first.click()
        expect(visit.page).to_have_url(re.compile(r"\?q=[Tt]oy\+[Ss]tory"))
        expect(visit.page.locator("mark").first).to_be_visible()

    def test_filters_sort_and_history(self, visit: Visit) -> None:
        visit.open("/")
        visit.page.get_by_role("group", name="Genres").get_by_label("Horror").check()
        expect(visit.page.locator("#chips")).to_contain_text("Genres: Horror")
        horror = [film for film in FILMS if "Horror" in film["genres"]]
        expect(visit.page.locator("#count")).to_contain_text(f"{len(horror)} items")
        visit.page.get_by_label("Year from").fill("1990")
        visit.page.get_by_label("Year from").press("Tab")
        expect(visit.page.locator("#chips")).to_contain_text("Year: 1990 – …")
        visit.page.get_by_label("Sort by").select_option("Oldest")
        expect(visit.page).to_have_url(re.compile("sort=year"))
        oldest = min((film for film in horror if film["year"] >= 1990), key=lambda film: film["year"])
        expect(visit.page.locator(".hit .open").first).to_have_text(oldest["title"])
        visit.page.reload()
        expect(visit.page.locator(".hit .open").first).to_have_text(oldest["title"])
        visit.page.go_back()
        visit.page.go_back()
        expect(visit.page.locator("#chips li")).to_have_count(1)
        visit.page.get_by_role("button", name="Genres: Horror").click()
        expect(visit.page.locator("#count")).to_contain_text(f"{len(FILMS) + 1} items")

    def test_one_click_is_one_event_and_the_memory_arm_answers_next(self, visit: Visit) -> None:
        visit.open("/")
        visit.search("lantern")
        expect(visit.page.locator("#decision")).to_contain_text("candidates from")
        chosen = visit.page.locator(".hit").nth(3)
        object_id = chosen.get_attribute("data-id")
        with visit.page.expect_response(f"{visit.url}/v1/feedback") as answered:
            chosen.click(position={"x": 400, "y": 60})  # anywhere on the card
        assert answered.value.json()["results"][0]["status"] == "accepted"
        dialog = visit.page.get_by_role("dialog")
        expect(dialog).to_contain_text("Click noted")
        visit.page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(chosen.locator(".open")).to_be_focused()
        chosen.locator(".open").press("Enter")  # looking at it again is not another click
        expect(dialog).to_be_visible()
        visit.page.keyboard.press("Escape")
        (event,) = visit.sent("/v1/feedback")
        assert (event["object_id"], event["action_name"], event["position"]) == (object_id, "click", 4)
        again = visit.page.locator(f'.hit[data-id="{object_id}"]')
        for _ in range(20):  # the policy now and then explores not asking the memory
            visit.page.get_by_role("button", name="Search", exact=True).click()
            expect(visit.page.locator("#results")).not_to_have_attribute("aria-busy", "true")
            expect(again).to_have_count(1)
            if again.locator('[data-arm="memory"]').count():
                break
        expect(again.locator('[data-arm="memory"]')).to_be_visible()

    def test_liking_is_an_event_of_its_own(self, visit: Visit) -> None:
        visit.open("/")
        visit.search("marble")
        visit.page.locator(".hit .open").first.click()
        like = visit.page.get_by_role("button", name="Like")
        like.click()
        expect(like).to_have_attribute("aria-pressed", "true")
        assert [event["action_name"] for event in visit.sent("/v1/feedback")] == ["click", "like"]
        assert len({event["event_id"] for event in visit.sent("/v1/feedback")}) == 2

    def test_why_this_result(self, visit: Visit) -> None:
        visit.open("/?q=finding+nemo")
        card = visit.page.locator(".hit").first
        card.get_by_role("button", name="Why this result").click()
        reasons = card.locator(".reasons")
        expect(reasons.locator("tbody tr")).to_have_count(card.locator(".badge[data-arm]").count())
        expect(reasons.locator(".effect").first).to_be_visible()
        card.get_by_role("button", name="Why this result").click()
        expect(reasons).to_have_count(0)

    def test_more_goes_on_without_repeats(self, visit: Visit) -> None:
        visit.open("/")
        visit.search("film")
        first = visit.titles()
        visit.page.get_by_role("button", name="Show more").click()
        expect(visit.page.locator(".hit")).to_have_count(20)
        assert visit.titles()[:10] == first
        assert len(set(visit.titles())) == 20
        earlier, later = visit.sent("/v1/search")[-2:]
        assert "query_id" not in earlier
        assert later["offset"] == 10

    def test_a_misspelt_query_offers_its_correction(self, visit: Visit) -> None:
        visit.open("/")
        visit.search("silemt orchard")
        visit.page.get_by_role("button", name="silent orchard", exact=True).click()
        expect(visit.page.locator("#q")).to_have_value("silent orchard")
        expect(visit.page.locator("#read")).to_contain_text("Understood")
        assert visit.titles()[0] == "Silent Orchard"

    def test_nothing_found_shows_a_way_out(self, visit: Visit) -> None:
        visit.open("/?q=film&f.genres=Nowhere")
        expect(visit.page.locator(".none")).to_contain_text("Nothing matches")
        visit.page.get_by_role("button", name="Search without filters").click()
        expect(visit.page.locator(".hit")).to_have_count(10)

    def test_a_person_goes_with_searches_and_events(self, visit: Visit) -> None:
        visit.open("/")
        visit.page.get_by_role("button", name=re.compile("Anonymous")).click()
        visit.page.get_by_label("User id").fill("ada")
        visit.page.get_by_role("button", name="Use", exact=True).click()
        expect(visit.page.locator("#persona")).to_have_text("ada")
        visit.search("toy")
        with visit.page.expect_response(f"{visit.url}/v1/feedback"):
            visit.page.locator(".hit .open").first.click()
        assert visit.sent("/v1/search")[-1]["user_id"] == "ada"
        assert visit.sent("/v1/feedback")[-1]["user_id"] == "ada"
        sessions = {body["session_id"] for body in visit.sent("/v1/search") if "session_id" in body}
        assert len(sessions) == 1

    def test_markup_in_data_is_only_text(self, visit: Visit) -> None:
        visit.open("/?q=bold+claims+markup+always")
        card = visit.page.locator('.hit[data-id="nasty"]')
        expect(card.locator(".open")).to_have_text(NASTY["title"])
        expect(card.locator(".text")).to_have_text(NASTY["overview"])
        card.locator(".open").click()
        expect(visit.page.locator("#detail-title")).to_have_text(NASTY["title"])
        assert visit.page.locator(".hit img, .hit b, .hit i, #detail img").count() == 0


class TestConsole:
    def test_figures_and_charts_are_drawn(self, visit: Visit) -> None:
        for number in range(4):
            httpx.post(f"{visit.url}/v1/search", json={"query": f"lantern {number}"}).raise_for_status()
        visit.open("/console")
        expect(visit.page.locator("#chart-arms .js-line").first).to_be_attached()
        expect(visit.page.locator("#chart-counts .hm")).to_be_attached()
        expect(visit.page.locator("#latest tbody tr").first).to_contain_text("lantern 3")
        expect(visit.page.locator("#arms")).to_contain_text("lexical")
        expect(visit.page.locator("#tiles")).to_contain_text(str(len(FILMS) + 1))
        expect(visit.page.locator("#regret-words")).to_contain_text(re.compile("Not estimated|Effective sample"))

    @pytest.fixture
    def plain(self, browser: Browser, service: str) -> Iterator[Visit]:
        """A visit that does not get the chart library (which takes seconds to start)."""
        with visiting(browser, service) as visit:
            visit.page.route("**/plotly.min.js", lambda route: route.abort())
            visit.open("/console")
            yield visit

    def test_the_kill_switch_asks_and_is_in_force(self, plain: Visit) -> None:
        switch = plain.page.get_by_role("group", name="Policy mode")
        switch.get_by_role("button", name="Static").click()
        plain.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert httpx.get(f"{plain.url}/v1/policy").json() == {"mode": "learned"}
        try:
            switch.get_by_role("button", name="Static").click()
            plain.page.get_by_role("button", name="Switch to static").click()
            expect(switch.get_by_role("button", name="Static")).to_have_attribute("aria-pressed", "true")
            expect(plain.page.locator("#mode-words")).to_contain_text("In force since")
            assert httpx.get(f"{plain.url}/v1/policy").json() == {"mode": "static"}
            answer = httpx.post(f"{plain.url}/v1/search", json={"query": "lantern"}).json()
            assert answer["decision"]["mode"] == "static"
        finally:
            httpx.put(f"{plain.url}/v1/policy", json={"mode": "learned"}).raise_for_status()

    def test_models_can_be_promoted(self, plain: Visit) -> None:
        def two() -> bool:
            httpx.post(f"{plain.url}/v1/search", json={"query": "lantern"}).raise_for_status()
            policy = httpx.get(f"{plain.url}/v1/models").json()["kinds"].get("policy", {"versions": ()})
            return len(policy["versions"]) >= 2

        eventually(two)
        expect(plain.page.locator("#models .kind").first).to_contain_text("Policy", timeout=20_000)
        promote = plain.page.locator("#models").get_by_role("button", name="Promote").first
        # The list is drawn anew whenever there is news, which a click may hit.
        eventually(lambda: promote.is_visible() or plain.page.locator("#models summary").first.click())
        promote.click()
        with plain.page.expect_response(re.compile("/promote$")) as answered:
            plain.page.get_by_role("button", name="Yes, do it").click()
        assert answered.value.status == 409, "a log as short as this says too little to judge by"
        refusal = plain.page.get_by_role("dialog")
        expect(refusal).to_contain_text("too little to judge by")
        refusal.get_by_role("button", name="Cancel").click()
        promote.click()
        plain.page.get_by_role("button", name="Yes, do it").click()
        expect(refusal).to_contain_text("too little to judge by")
        with plain.page.expect_response(re.compile("/promote$")) as answered:
            plain.page.get_by_role("button", name="Promote past the gate").click()
        assert answered.value.ok
        expect(plain.page.locator(".toast")).to_contain_text("In force: policy")

    def test_visitors_of_a_demo_are_said_to_be_simulated_and_can_be_stopped(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        write_folder(tmp_path / "films", FILMS)
        with serving(tmp_path, "demo", "--data", str(tmp_path / "films")) as url, visiting(browser, url) as visit:
            visit.page.route("**/plotly.min.js", lambda route: route.abort())
            visit.open("/console")
            traffic = visit.page.get_by_role("region", name="Simulated visitors")
            expect(traffic).to_contain_text("No simulated visitors")
            traffic.get_by_role("button", name="Start").click()
            expect(traffic).to_contain_text(re.compile(r"Simulated visitors: [\d.]+ searches a second"), timeout=20_000)
            expect(traffic).to_contain_text("not people")
            expect(visit.page.locator("#latest tbody tr").first).to_contain_text("vw")
            traffic.get_by_role("button", name="Stop").click()
            expect(traffic).to_contain_text("No simulated visitors")
            assert not httpx.get(f"{url}/pages/traffic").json()["running"]

    def test_elsewhere_there_is_nothing_of_visitors(self, plain: Visit) -> None:
        expect(plain.page.locator("#tiles")).to_be_visible()
        expect(plain.page.locator("#traffic")).to_be_hidden()

    def test_without_the_chart_library_it_says_so(self, plain: Visit) -> None:
        expect(plain.page.locator("#chart-arms")).to_contain_text("Charts need the extra")
        expect(plain.page.locator("#arms")).to_be_visible()


class TestAdminKey:
    def test_the_console_asks_for_the_key(self, browser: Browser, locked: str) -> None:
        with visiting(browser, locked) as visit:
            visit.page.route("**/plotly.min.js", lambda route: route.abort())
            visit.open("/console")
            visit.page.get_by_label("Key").fill("a wrong one")
            visit.page.get_by_role("button", name="Open the console").click()
            expect(visit.page.locator("#wrong")).to_be_visible()
            expect(visit.page.locator("#wrong")).to_contain_text("not the right one")
            expect(visit.page.locator("#board")).to_be_hidden()
            visit.page.get_by_label("Key").fill(KEY)
            visit.page.get_by_role("button", name="Open the console").click()
            expect(visit.page.locator("#board")).to_be_visible()
            assert KEY not in "".join(request.url for request in visit.requests)

    def test_pages_are_open_and_figures_are_not(self, locked: str) -> None:
        assert [httpx.get(locked + path).status_code for path in ("/", "/console", "/docs", "/pages/fields")] == [
            200
        ] * 4
        assert httpx.get(f"{locked}/pages/activity").status_code == 401
        assert httpx.get(f"{locked}/pages/activity", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


class TestEveryPage:
    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("/", ".hit"),
            ("/?q=toy+story", ".hit"),
            ("/console", "#chart-counts .hm"),
            ("/docs", "#operations-feedback-feedback_v1_feedback_post"),
        ],
    )
    def test_narrow_and_dark(self, visit: Visit, path: str, shown: str) -> None:
        httpx.post(f"{visit.url}/v1/search", json={"query": "lantern"}).raise_for_status()
        visit.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        visit.page.set_viewport_size(NARROW)
        visit.open(path)
        expect(visit.page.locator(shown).first).to_be_visible()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        background = "getComputedStyle(document.body).backgroundColor"
        assert max(map(int, re.findall(r"\d+", visit.page.evaluate(background))[:3])) < 60

    def test_the_theme_is_kept(self, visit: Visit) -> None:
        visit.open("/")
        visit.page.get_by_role("button", name="Use dark colours").click()
        visit.open("/?q=toy")
        expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
        expect(visit.page.get_by_role("button", name="Use light colours")).to_be_visible()

    @pytest.mark.parametrize("path", ["/", "/console", "/docs"])
    def test_headers_keep_browsers_at_home(self, service: str, path: str) -> None:
        headers = httpx.get(service + path).headers
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert not any(part.startswith("script-src") or "unsafe-eval" in part for part in policy)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    @pytest.mark.parametrize("name", ["plotly.min.js", "swagger-ui-bundle.js", "swagger-ui.css"])
    def test_libraries_come_compressed_and_are_kept(self, service: str, name: str) -> None:
        with httpx.stream("GET", f"{service}/static/vendor/{name}", headers={"accept-encoding": "gzip"}) as answer:
            packed = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert "max-age" in answer.headers["cache-control"]
        assert len(packed) < len(gzip.decompress(packed)) / 2
        again = httpx.get(f"{service}/static/vendor/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    @pytest.mark.parametrize("path", ["pages.py", "..%2fpages.py", "%2e%2e/pages.py", "vendor/other.js", "none.css"])
    def test_no_other_files_are_served(self, service: str, path: str) -> None:
        assert httpx.get(f"{service}/static/{path}").status_code == 404


def test_what_the_search_page_offers_follows_the_schema() -> None:
    fields = (
        Field("name", Role.TEXT),
        Field("brand", Role.KEYWORD),
        Field("released", Role.DATE),
        Field("stars", Role.NUMBER),
        Field("sales", Role.POPULARITY),
    )
    found = offered(Schema(fields, title="name", popularity="sales", rating="stars", created="released"))
    assert found["facets"] == ["brand"]
    assert found["range"] is None  # a date is not a number to type
    assert [sort["value"] for sort in found["sorts"]] == ["relevance", "-sales", "-stars", "-released", "released"]
    assert [sort["value"] for sort in offered(Schema())["sorts"]] == ["relevance"]


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0.0), (float("inf"), 0.0)], 0.5, None),
        ([(1.0, 10.0), (2.0, 10.0), (float("inf"), 10.0)], 0.5, 0.5),
        ([(1.0, 10.0), (2.0, 20.0), (float("inf"), 20.0)], 0.75, 1.5),
        ([(1.0, 10.0), (float("inf"), 20.0)], 0.99, 1.0),
    ],
)
def test_quantiles_are_linear_within_a_bucket(counts: list[tuple[float, float]], q: float, expected: float) -> None:
    assert quantile(counts, q) == expected
