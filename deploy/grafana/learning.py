"""Does the service learn, and is it safe to let it?"""

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
            "Log records that the slowest consumer has not taken in yet.",
            (f"max(ltrr_learner_lag_records{{{PROCESSES}}})", "records"),
            steps=rising(1000, 5000),
        ),
        number(
            "Open windows",
            "Answers whose reward window is still open: they are learned when it closes (LTRR_ATTRIBUTION_SECONDS).",
            (f"max(ltrr_learner_open_impressions{{{PROCESSES}}})", "answers"),
        ),
        number(
            "Age of the newest snapshot",
            "Since the policy was last published. Grows while nothing is learned, which is no fault.",
            (f"max(ltrr_snapshot_age_seconds{{{PROCESSES}}})", "age"),
            unit="s",
        ),
        number(
            "Fallbacks",
            "Decisions that the fixed policy took over because the learned one failed, over the time that is shown.",
            (fallbacks, "decisions"),
            steps=Steps("green", [(0.5, POOR), (10, BAD)]),
            decimals=0,
        ),
        number(
            "Skipped records",
            "Log records that were damaged or could not be applied, over the time that is shown. Should be 0.",
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
            "Which mode was in force when. Static and shadow decide by the fixed counts; learning goes on in each.",
            (f"max by (mode) (ltrr_policy_mode{{{PROCESSES}}})", "{{mode}}"),
            names=FORCE,
        ),
        lines(
            "Decisions",
            "Decisions each second by policy and mode. `none`: browsing and sorting, which decide nothing.",
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
            f"Share of an arm's choices that had a probability of at most {UNLIKELY}: what is tried rather than known."
            " LTRR_EXPLORATION keeps it above 0.",
            (f"{unlikely} / ({choices} > 0)", "{{arm}}"),
            unit="percentunit",
        ),
        distribution(
            "Propensity of choices",
            "How sure the policy was of what it chose, all arms together: 1 is sure.",
            "ltrr_propensity",
            PROCESSES,
            unit="percentunit",
        ),
        lines(
            "Fallback share",
            "Share of decisions that the fixed policy took over because the learned one failed.",
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
            "Events each second by what became of them. Only accepted ones are learned from.",
            (events, "{{status}}"),
            unit="reqps",
            stacked=True,
            colors=DISPOSITIONS,
        ),
        lines(
            "Searches and events",
            "Decisions and accepted events each second. Searches without events: the click pipe is dead.",
            (decisions, "decisions"),
            (accepted, "accepted events"),
            unit="reqps",
            colors={"decisions": "blue", "accepted events": "green"},
        ),
        lines(
            "Rewarded share",
            "Share of closed reward windows that brought a reward above 0.",
            (f"1 - {nothing} / ({closed} > 0)", "rewarded"),
            unit="percentunit",
            most=1,
            colors={"rewarded": "green"},
        ),
    )
    board.add(
        8,
        8,
        distribution(
            "Rewards",
            "Rewards of decisions at the moment their window closed: 0 nothing taken, 1 all one can get.",
            "ltrr_reward",
            PROCESSES,
            unit="none",
        ),
        lines(
            "Learned decisions",
            "Decisions each second whose window closed and that the policy learned from.",
            (_rate("ltrr_learned_decisions_total"), "learned"),
            unit="reqps",
            colors={"learned": "green"},
        ),
        lines(
            "Surveys by outcome",
            "Answers each second of which all arms were asked in full, to learn from: fewer, the more the policy had."
            " Incomplete: an arm failed. Dropped: too many waited. LTRR_SURVEY_SHARE is the most.",
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
            "Log records not taken in yet. Memory takes clicks at once; the policy's place moves when windows close.",
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
            "Age of the newest policy snapshot in seconds, and records skipped each second.",
            (f"max(ltrr_snapshot_age_seconds{{{PROCESSES}}})", "age of the snapshot (s)"),
            (_rate("ltrr_learner_skipped_records_total"), "skipped each second"),
            colors={"age of the snapshot (s)": "blue", "skipped each second": "red"},
        ),
    )
