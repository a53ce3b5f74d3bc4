"""The learning dashboard: does the service learn, and is it safe?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.board import Board
from deploy.grafana.panels import (
    BAD,
    POOR,
    PROCESSES,
    Steps,
    distribution,
    lines,
    number,
    rising,
    states,
)

FORCE = {"0": (" ", "transparent"), "1": ("in force", "blue")}
DISPOSITIONS = {
    "accepted": "green",
    "duplicate": "blue",
    "late": "yellow",
    "not_shown": "orange",
    "unknown_query": "red",
    "invalid": "dark-red",
}
SURVEYS = {"made": "green", "incomplete": "orange", "dropped": "yellow"}
UNLIKELY = "0.1"


def learning() -> dashboard.Dashboard:
    """The dashboard."""
    board = Board("ltrr-learning", "LTRR / Learning and safety", "Policy, exploration, rewards, feedback and learner.")
    _state(board)
    _policy(board)
    _rewards(board)
    _learner(board)
    return board.build()


def _rate(metric: str, matchers: str = PROCESSES, by: str = "") -> str:
    return f"sum{by} (rate({metric}{{{matchers}}}[$__rate_interval]))"


def _state(board: Board) -> None:
    board.row("State")
    skipped = f"sum(increase(ltrr_learner_skipped_records_total{{{PROCESSES}}}[$__range]))"
    fallbacks = f"sum(increase(ltrr_policy_fallbacks_total{{{PROCESSES}}}[$__range]))"
    board.add(
        4,
        4,
        number(
            "Learner lag",
            "Log records that the slowest consumer has not processed yet.",
            (f"max(ltrr_learner_lag_records{{{PROCESSES}}})", "records"),
            steps=rising(1000, 5000),
        ),
        number(
            "Open windows",
            "Answers whose reward window is still open: learned from when it closes (LTRR_ATTRIBUTION_SECONDS).",
            (f"max(ltrr_learner_open_impressions{{{PROCESSES}}})", "answers"),
        ),
        number(
            "Age of the newest snapshot",
            "Time since the policy was last published. Grows while there is nothing to learn, which is not an error.",
            (f"max(ltrr_snapshot_age_seconds{{{PROCESSES}}})", "age"),
            unit="s",
        ),
        number(
            "Fallbacks",
            "Decisions made by the fixed policy because the learned one failed, over the displayed time range.",
            (fallbacks, "decisions"),
            steps=Steps("green", [(0.5, POOR), (10, BAD)]),
            decimals=0,
        ),
        number(
            "Skipped records",
            "Log records that were damaged or could not be applied, over the displayed time range. Should be 0.",
            (skipped, "records"),
            steps=Steps("green", [(0.5, BAD)]),
            decimals=0,
        ),
        number("Items", "Items in the catalogue.", (f"max(ltrr_items{{{PROCESSES}}})", "items"), decimals=0),
    )


def _policy(board: Board) -> None:
    board.row("Policy")
    unlikely = _rate("ltrr_propensity_bucket", f'{PROCESSES},le="{UNLIKELY}"', " by (arm)")
    choices = _rate("ltrr_propensity_count", by=" by (arm)")
    fallbacks = _rate("ltrr_policy_fallbacks_total")
    decisions = _rate("ltrr_decisions_total", f'{PROCESSES},policy!="none"')
    board.add(
        12,
        7,
        states(
            "Mode",
            "Mode over time. Static and shadow use the fixed counts; learning continues in every mode.",
            (f"max by (mode) (ltrr_policy_mode{{{PROCESSES}}})", "{{mode}}"),
            names=FORCE,
        ),
        lines(
            "Decisions",
            "Decisions per second by policy and mode. `none`: browsing and sorting, which need no decision.",
            (_rate("ltrr_decisions_total", by=" by (policy, mode)"), "{{policy}} ({{mode}})"),
            unit="reqps",
            stacked=True,
            aside=True,
        ),
    )
    board.add(
        8,
        8,
        lines(
            "Exploration",
            f"Share of an arm's choices with a probability of at most {UNLIKELY}: exploration rather than exploitation."
            " LTRR_EXPLORATION keeps it above 0.",
            (f"{unlikely} / ({choices} > 0)", "{{arm}}"),
            unit="percentunit",
        ),
        distribution(
            "Propensity of choices",
            "Probability of the chosen counts, all arms together: 1 is certain.",
            "ltrr_propensity",
            PROCESSES,
            unit="percentunit",
        ),
        lines(
            "Fallback share",
            "Share of decisions made by the fixed policy because the learned one failed.",
            (f"{fallbacks} / ({decisions} > 0)", "fallbacks"),
            unit="percentunit",
            steps=Steps("transparent", [(0.01, BAD)]),
            colors={"fallbacks": "orange"},
        ),
    )


def _rewards(board: Board) -> None:
    board.row("Feedback and reward")
    events = _rate("ltrr_feedback_events_total", by=" by (status)")
    closed = _rate("ltrr_reward_count")
    nothing = _rate("ltrr_reward_bucket", f'{PROCESSES},le="0.0"')
    accepted = _rate("ltrr_feedback_events_total", f'{PROCESSES},status="accepted"')
    decisions = _rate("ltrr_decisions_total", f'{PROCESSES},policy!="none"')
    board.add(
        8,
        8,
        lines(
            "Feedback by disposition",
            "Events per second by status. Only accepted ones are learned from.",
            (events, "{{status}}"),
            unit="reqps",
            stacked=True,
            colors=DISPOSITIONS,
        ),
        lines(
            "Searches and events",
            "Decisions and accepted events per second. Searches without events: the click pipeline is broken.",
            (decisions, "decisions"),
            (accepted, "accepted events"),
            unit="reqps",
            colors={"decisions": "blue", "accepted events": "green"},
        ),
        lines(
            "Rewarded share",
            "Share of closed reward windows with a reward above 0.",
            (f"1 - {nothing} / ({closed} > 0)", "rewarded"),
            unit="percentunit",
            maximum=1,
            colors={"rewarded": "green"},
        ),
    )
    board.add(
        8,
        8,
        distribution(
            "Rewards",
            "Rewards of decisions when their window closed: 0 no click, 1 the maximum.",
            "ltrr_reward",
            PROCESSES,
            unit="none",
        ),
        lines(
            "Learned decisions",
            "Decisions per second whose window closed and that the policy learned from.",
            (_rate("ltrr_learned_decisions_total"), "learned"),
            unit="reqps",
            colors={"learned": "green"},
        ),
        lines(
            "Surveys by outcome",
            "Answers per second for which all arms were queried at full depth to learn from: fewer as the policy gets"
            " more. Incomplete: an arm failed. Dropped: too many were waiting. LTRR_SURVEY_SHARE is the maximum.",
            (_rate("ltrr_surveys_total", by=" by (outcome)"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
            colors=SURVEYS,
        ),
    )


def _learner(board: Board) -> None:
    board.row("Learner")
    board.add(
        8,
        8,
        lines(
            "Lag per consumer",
            "Unprocessed log records. Memory applies clicks at once; the policy's offset advances when windows close.",
            (f"max by (consumer) (ltrr_learner_lag_records{{{PROCESSES}}})", "{{consumer}}"),
            steps=Steps("transparent", [(5000, BAD)]),
        ),
        lines(
            "Open windows over time",
            "Answers whose reward window is open.",
            (f"max(ltrr_learner_open_impressions{{{PROCESSES}}})", "answers"),
            colors={"answers": "blue"},
        ),
        lines(
            "Snapshot age and skipped records",
            "Age of the newest policy snapshot in seconds, and records skipped per second.",
            (f"max(ltrr_snapshot_age_seconds{{{PROCESSES}}})", "age of the snapshot (s)"),
            (_rate("ltrr_learner_skipped_records_total"), "skipped per second"),
            colors={"age of the snapshot (s)": "blue", "skipped per second": "red"},
        ),
    )
