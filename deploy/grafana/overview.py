"""The overview dashboard: are users served well, and how fast is the error budget consumed?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.board import Board
from deploy.grafana.panels import (
    ANSWERS,
    BAD,
    FAIR,
    GOOD,
    POOR,
    PROCESSES,
    Steps,
    distribution,
    falling,
    lines,
    number,
    quantiles,
    rising,
)

JOB = 'job=~"$job"'
SEARCH = f'{PROCESSES},route="/v1/search"'
REQUESTS, SECONDS = "ltrr_requests_total", "ltrr_request_duration_seconds"
OBJECTIVES = (
    # Objective, record of the share that misses it, record of the budget, allowed share, description.
    (
        "Search availability",
        "ltrr_search_failures_per_request",
        "ltrr_search_availability_budget",
        0.001,
        "Share of /v1/search not answered 5xx over 30 days. Objective 99.9 %; shed requests count as failures.",
    ),
    (
        "Search within 300 ms",
        "ltrr_search_slow_per_request",
        "ltrr_search_latency_budget",
        0.01,
        "Share of /v1/search answered within 300 ms over 30 days. Objective 99 %.",
    ),
    (
        "Feedback accepted",
        "ltrr_feedback_failures_per_request",
        "ltrr_feedback_budget",
        0.001,
        "Share of /v1/feedback not answered 5xx over 30 days. Objective 99.9 %.",
    ),
)
MODES = {"0": ("learned", "green"), "1": ("shadow", "blue"), "2": ("static", "orange")}


def overview() -> dashboard.Dashboard:
    """The dashboard."""
    board = Board("ltrr-overview", "LTRR / Overview", "Objectives, requests, latency and quality of answers.")
    _now(board)
    _objectives(board)
    _requests(board)
    _latency(board)
    _answers(board)
    return board.build()


def _now(board: Board) -> None:
    board.row("Now")
    searches = f"sum(rate({REQUESTS}{{{SEARCH}}}[$__rate_interval]))"
    failed = f'(sum(rate({REQUESTS}{{{SEARCH},status=~"5.."}}[$__rate_interval])) or vector(0))'
    p99 = f"histogram_quantile(0.99, sum by (le) (rate({SECONDS}_bucket{{{SEARCH}}}[$__rate_interval])))"
    mode = (
        f'max(ltrr_policy_mode{{{PROCESSES},mode="shadow"}}) + 2 * max(ltrr_policy_mode{{{PROCESSES},mode="static"}})'
    )
    pages, tickets = (
        f'count(ALERTS{{alertname=~"Ltrr.+",alertstate="firing",severity="{severity}"}}) or vector(0)'
        for severity in ("page", "ticket")
    )
    board.add(
        4,
        4,
        number("Searches", "Searches answered per second, with any status.", (searches, "searches"), unit="reqps"),
        number(
            "Failing searches",
            "Share of searches answered 5xx now. The objective allows 0.1 % over 30 days.",
            (f"{failed} / {searches}", "5xx"),
            unit="percentunit",
            steps=rising(0.001, 0.0144),
        ),
        number(
            "Slowest 1 % of searches",
            "99th percentile of the duration of /v1/search, from the first request byte to the last response byte.",
            (p99, "p99"),
            unit="s",
            steps=rising(0.2, 0.3),
        ),
        number(
            "Failing retrievals",
            "Share of arm retrievals that failed or timed out. The searches were answered without them.",
            (_failing_retrievals("sum"), "failing"),
            unit="percentunit",
            steps=rising(0.01, 0.05),
        ),
        number(
            "Policy",
            "Current mode: learned, shadow (static decides, learned is logged) or static (the kill switch is on).",
            (mode, "mode"),
            names=MODES,
        ),
        number(
            "Alerts",
            "Firing alerts by severity. deploy/RUNBOOK.md has a section for each.",
            (pages, "pages"),
            (tickets, "tickets"),
            steps=Steps(GOOD, [(1, BAD)]),
        ),
    )


def _objectives(board: Board) -> None:
    board.row("Objectives over 30 days")
    for what, missed, budget, allowed, description in OBJECTIVES:
        board.add(
            4,
            4,
            number(
                what,
                description,
                (f"1 - job:{missed}:ratio_rate30d{{{JOB}}}", "{{job}}"),
                unit="percentunit",
                decimals=3,
                steps=falling(1 - allowed, 1 - allowed / 2),
            ),
            number(
                f"{what}: budget left",
                "Remaining share of the 30-day error budget. Below 0 the objective is missed.",
                (f"job:{budget}:left30d{{{JOB}}}", "{{job}}"),
                unit="percentunit",
                decimals=1,
                steps=Steps(BAD, [(0, POOR), (0.25, FAIR), (0.5, GOOD)]),
            ),
        )
    for window, meaning in (("5m", "the current rate"), ("1h", "pages from 14.4 on"), ("6h", "pages from 6 on")):
        board.add(
            8,
            8,
            lines(
                f"Burn rate over {window}",
                f"How many times faster than allowed each error budget is consumed: {meaning}. At 1 it just lasts 30"
                " days, at 14.4 one fiftieth is used up in an hour.",
                *(
                    (f"job:{missed}:ratio_rate{window}{{{JOB}}} / {allowed}", what)
                    for what, missed, _, allowed, _ in OBJECTIVES
                ),
                steps=Steps("transparent", [(1, FAIR), (6, POOR), (14.4, BAD)]),
            ),
        )


def _requests(board: Board) -> None:
    board.row("Requests")
    per_class = [
        (f'sum(rate({REQUESTS}{{{PROCESSES},status=~"{one[0]}.."}}[$__rate_interval]))', one) for one in ANSWERS
    ]
    failing = (
        f'(sum by (route) (rate({REQUESTS}{{{PROCESSES},status=~"5.."}}[$__rate_interval]))'
        f" or 0 * sum by (route) (rate({REQUESTS}{{{PROCESSES}}}[$__rate_interval])))"
        f" / (sum by (route) (rate({REQUESTS}{{{PROCESSES}}}[$__rate_interval])) > 0)"
    )
    board.add(
        12,
        8,
        lines(
            "Rate per route",
            "Requests per second by route template.",
            (f"sum by (route) (rate({REQUESTS}{{{PROCESSES}}}[$__rate_interval]))", "{{route}}"),
            unit="reqps",
            stacked=True,
            aside=True,
        ),
        lines(
            "Answers by class",
            "Requests per second by status class: 4xx are errors of callers, 5xx errors of the service.",
            *per_class,
            unit="reqps",
            stacked=True,
            colors=ANSWERS,
            aside=True,
        ),
        lines(
            "Failing share per route",
            "Share of the requests per route that were answered 5xx.",
            (failing, "{{route}}"),
            unit="percentunit",
            steps=Steps("transparent", [(0.001, POOR)]),
            aside=True,
        ),
        lines(
            "In flight and shed",
            "Searches in flight (all processes), and searches refused per second because LTRR_MAX_CONCURRENCY of them"
            " were already in flight.",
            (f"sum(ltrr_searches_in_flight{{{PROCESSES}}})", "in flight"),
            (f"sum(rate(ltrr_shed_requests_total{{{PROCESSES}}}[$__rate_interval])) or vector(0)", "shed per second"),
            colors={"in flight": "blue", "shed per second": "red"},
        ),
    )


def _latency(board: Board) -> None:
    board.row("Latency")
    stages = "ltrr_stage_duration_seconds"
    per_stage = (
        f'sum by (stage) (rate({stages}_sum{{{PROCESSES},stage!~"total|page"}}[$__rate_interval]))'
        f' / on () group_left () sum(rate({stages}_count{{{PROCESSES},stage="total"}}[$__rate_interval]))'
    )
    rates = f"sum by (route, le) (rate({SECONDS}_bucket{{{PROCESSES}}}[$__rate_interval]))"
    board.add(
        12,
        9,
        quantiles(
            "Search latency",
            "Duration of /v1/search. Objective: 99 % within 300 ms (dashed).",
            SECONDS,
            SEARCH,
            steps=Steps("transparent", [(0.3, BAD)]),
        ),
        distribution("Search latency, distribution", "Number of searches by duration.", SECONDS, SEARCH),
        lines(
            "Slowest 1 % per route",
            "99th percentile of the duration per route.",
            (f"histogram_quantile(0.99, {rates})", "{{route}}"),
            unit="s",
            aside=True,
        ),
        lines(
            "Where a search spends its time",
            "Mean time per search in each stage, stacked. Retrieval waits for the slowest chosen arm.",
            (per_stage, "{{stage}}"),
            unit="s",
            stacked=True,
            aside=True,
        ),
    )


def _answers(board: Board) -> None:
    board.row("Answers")
    events = f'sum(rate(ltrr_feedback_events_total{{{PROCESSES},status="accepted"}}[$__rate_interval]))'
    decisions = f'sum(rate(ltrr_decisions_total{{{PROCESSES},policy!="none"}}[$__rate_interval]))'
    board.add(
        8,
        8,
        lines(
            "Failing retrievals per arm",
            "Share of an arm's retrievals that failed or timed out; the answers name the arm in `degraded`.",
            (_failing_retrievals("sum by (arm)"), "{{arm}}"),
            unit="percentunit",
            steps=Steps("transparent", [(0.05, BAD)]),
        ),
        quantiles(
            "Candidates per search",
            "Candidates per search from all arms together, to be ranked: the cost of a search.",
            "ltrr_candidates",
            PROCESSES,
            unit="short",
        ),
        lines(
            "Feedback per search",
            "Accepted events per search with a decision. At 0 the click pipeline is broken.",
            (f"{events} / {decisions}", "events per search"),
            colors={"events per search": "green"},
        ),
    )


def _failing_retrievals(level: str) -> str:
    retrievals = f"{level} (rate(ltrr_arm_requests_total{{{PROCESSES}}}[$__rate_interval]))"
    failed = f'{level} (rate(ltrr_arm_requests_total{{{PROCESSES},outcome!="ok"}}[$__rate_interval]))'
    return f"({failed} or 0 * {retrievals}) / ({retrievals} > 0)"
