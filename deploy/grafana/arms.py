"""The dashboard of arms and engines: requests, results and value of each arm; health of the engines."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.board import Board
from deploy.grafana.panels import (
    BAD,
    POOR,
    PROCESSES,
    Steps,
    bars,
    distribution,
    lines,
    quantiles,
    states,
)

CHOSEN = f'{PROCESSES},arm=~"$arm"'
OUTCOMES = {"ok": "green", "timeout": "orange", "error": "red", "unavailable": "dark-red", "circuit_open": "purple"}
CIRCUIT = {"0": ("closed", "green"), "0.5": ("half open", "orange"), "1": ("open", "red")}


def arms() -> dashboard.Dashboard:
    """The dashboard."""
    board = Board("ltrr-arms", "LTRR / Arms and engines", "All arms compared, then each arm separately.", arms=True)
    _compared(board)
    _alone(board)
    _engines(board)
    return board.build()


def _per_arm(metric: str, more: str = "") -> str:
    return f"sum by (arm) (rate({metric}{{{CHOSEN}{more}}}[$__rate_interval]))"


def _compared(board: Board) -> None:
    board.row("All arms")
    retrievals = _per_arm("ltrr_arm_requests_total")
    failed = _per_arm("ltrr_arm_requests_total", ',outcome!="ok"')
    shown = f'sum(rate(ltrr_stage_duration_seconds_count{{{PROCESSES},stage="present"}}[$__rate_interval]))'
    board.add(
        8,
        8,
        lines("Retrievals", "Retrievals per second and arm.", (retrievals, "{{arm}}"), unit="reqps"),
        lines(
            "Failing share",
            "Share of the retrievals of an arm that failed or timed out.",
            (f"({failed} or 0 * {retrievals}) / ({retrievals} > 0)", "{{arm}}"),
            unit="percentunit",
            steps=Steps("transparent", [(0.05, BAD)]),
        ),
        lines(
            "Slowest 5 %",
            "95th percentile of the duration of one retrieval.",
            (
                "histogram_quantile(0.95,"
                f" sum by (arm, le) (rate(ltrr_arm_duration_seconds_bucket{{{CHOSEN}}}[$__rate_interval])))",
                "{{arm}}",
            ),
            unit="s",
        ),
        lines(
            "Hits shown per search",
            "Hits per answer that an arm found. A hit found by several arms counts for each of them.",
            (f"{_per_arm('ltrr_hits_shown_total')} / on () group_left () {shown}", "{{arm}}"),
        ),
        lines(
            "Hits shown per candidate",
            "Share of an arm's candidates that were shown: the likely benefit of requesting more.",
            (f"{_per_arm('ltrr_hits_shown_total')} / ({_per_arm('ltrr_arm_candidates_total')} > 0)", "{{arm}}"),
            unit="percentunit",
        ),
        bars(
            "Share of decisions that used it",
            "Share of decisions with a count above 0, over the displayed time range.",
            (
                f'1 - (sum by (arm) (increase(ltrr_choices_total{{{CHOSEN},count="0"}}[$__range]))'
                f" or 0 * sum by (arm) (increase(ltrr_choices_total{{{CHOSEN}}}[$__range])))"
                f" / (sum by (arm) (increase(ltrr_choices_total{{{CHOSEN}}}[$__range])) > 0)",
                "{{arm}}",
            ),
            unit="percentunit",
            steps=Steps("blue"),
        ),
    )


def _alone(board: Board) -> None:
    board.row("Arm $arm", repeat="arm")
    retrievals = f"rate(ltrr_arm_requests_total{{{CHOSEN}}}[$__rate_interval])"
    candidates = f"sum(rate(ltrr_arm_candidates_total{{{CHOSEN}}}[$__rate_interval]))"
    answered = f'sum(rate(ltrr_arm_requests_total{{{CHOSEN},outcome="ok"}}[$__rate_interval]))'
    shown = f"sum(rate(ltrr_hits_shown_total{{{PROCESSES}}}[$__rate_interval]))"
    mean = (
        f"sum(rate(ltrr_propensity_sum{{{CHOSEN}}}[$__rate_interval]))"
        f" / (sum(rate(ltrr_propensity_count{{{CHOSEN}}}[$__rate_interval])) > 0)"
    )
    board.add(
        8,
        7,
        lines(
            "Outcomes",
            "Retrievals per second by outcome. `circuit_open`: not called, because it kept failing.",
            (f"sum by (outcome) ({retrievals})", "{{outcome}}"),
            unit="reqps",
            stacked=True,
            colors=OUTCOMES,
        ),
        quantiles(
            "Latency",
            "Duration of one retrieval by this arm.",
            "ltrr_arm_duration_seconds",
            CHOSEN,
            shown=("p50", "p95", "p99"),
        ),
        lines(
            "Candidates per retrieval",
            "Mean number of candidates per successful retrieval.",
            (f"{candidates} / ({answered} > 0)", "candidates"),
            colors={"candidates": "blue"},
        ),
        lines(
            "Counts chosen",
            "Share of decisions by count of candidates; 0: not called.",
            (f"sum by (count) (rate(ltrr_choices_total{{{CHOSEN}}}[$__rate_interval]))", "{{count}}"),
            unit="percentunit",
            shares=True,
        ),
        lines(
            "Share of shown hits",
            "Share of all shown hits found by arms that this arm found.",
            (f"sum(rate(ltrr_hits_shown_total{{{CHOSEN}}}[$__rate_interval])) / ({shown} > 0)", "share"),
            unit="percentunit",
            maximum=1,
            colors={"share": "green"},
        ),
        lines(
            "Propensity of the chosen count",
            "Mean probability of the chosen counts: near 1 the policy is certain, lower it explores.",
            (mean, "mean"),
            unit="percentunit",
            maximum=1,
            colors={"mean": "purple"},
        ),
    )


def _engines(board: Board) -> None:
    board.row("Engines")
    calls = f"sum by (engine) (rate(ltrr_engine_requests_total{{{PROCESSES}}}[$__rate_interval]))"
    failed = (
        f'sum by (engine) (rate(ltrr_engine_requests_total{{{PROCESSES},outcome!~"ok|cancelled"}}[$__rate_interval]))'
    )
    retries = f"sum by (engine) (rate(ltrr_engine_retries_total{{{PROCESSES}}}[$__rate_interval]))"
    per_outcome = f"sum by (engine, outcome) (rate(ltrr_engine_requests_total{{{PROCESSES}}}[$__rate_interval]))"
    p95 = (
        "histogram_quantile(0.95,"
        f" sum by (engine, le) (rate(ltrr_engine_duration_seconds_bucket{{{PROCESSES}}}[$__rate_interval])))"
    )
    board.add(
        8,
        8,
        lines(
            "Calls",
            "Calls to OpenSearch, Qdrant and Redis per second by outcome. Embedded parts make none.",
            (per_outcome, "{{engine}} {{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Failing share of calls",
            "Share of calls that failed, timed out or were not made because the circuit was open.",
            (f"({failed} or 0 * {calls}) / ({calls} > 0)", "{{engine}}"),
            unit="percentunit",
            steps=Steps("transparent", [(0.05, BAD)]),
        ),
        lines("Slowest 5 % of calls", "95th percentile of the duration of one call.", (p95, "{{engine}}"), unit="s"),
        lines(
            "Retried share of calls",
            "Share of calls that were retried. Retries are limited to a tenth of the calls.",
            (f"({retries} or 0 * {calls}) / ({calls} > 0)", "{{engine}}"),
            unit="percentunit",
            steps=Steps("transparent", [(0.1, POOR)]),
        ),
        states(
            "Circuits",
            "Each circuit breaker (worst of all processes). Open: the engine kept failing, only probes are sent.",
            (f"max by (engine) (ltrr_circuit_state{{{PROCESSES}}})", "{{engine}}"),
            names=CIRCUIT,
        ),
        distribution(
            "Time of calls, distribution",
            "Number of calls by duration, all engines together.",
            "ltrr_engine_duration_seconds",
            PROCESSES,
        ),
    )
