"""The dashboard of resources: utilisation, saturation and errors of the processes."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.board import Board
from deploy.grafana.panels import (
    BAD,
    POOR,
    PROCESSES,
    RUNNING,
    Steps,
    distribution,
    lines,
    number,
    quantiles,
)

WORKER = "{{job}} {{instance}} worker {{worker}}"


def resources() -> dashboard.Dashboard:
    """The dashboard."""
    board = Board("ltrr-resources", "LTRR / Resources", "CPU, memory, files, event loop and overload of each process.")
    _processes(board)
    _use(board)
    _saturation(board)
    return board.build()


def _processes(board: Board) -> None:
    board.row("Processes")
    down = 'count(up{job=~"$job",instance=~"$instance"} == 0) or vector(0)'
    board.add(
        4,
        4,
        number(
            "Up",
            "Processes that can be scraped.",
            ('sum(up{job=~"$job",instance=~"$instance"})', "up"),
            steps=Steps(BAD, [(1, "green")]),
        ),
        number("Down", "Processes that cannot be scraped.", (down, "down"), steps=Steps("green", [(1, BAD)])),
        number(
            "Workers",
            "Running gateway worker processes, over all gateways.",
            (f"sum(ltrr_workers{{{PROCESSES}}})", "workers"),
        ),
        number(
            "Draining",
            "Processes that are shutting down: no longer ready, still finishing requests.",
            (f"sum(ltrr_draining{{{PROCESSES}}})", "draining"),
            steps=Steps("green", [(1, POOR)]),
        ),
        number(
            "Versions",
            "Versions running side by side. More than one outside a rollout means that a rollout was not completed.",
            (f"count(count by (version) (ltrr_build_info{{{PROCESSES}}}))", "versions"),
            steps=Steps("green", [(2, POOR)]),
        ),
        number(
            "Restarts",
            "Restarts of instances under the same address, over the displayed time range.",
            (f"sum(resets({RUNNING}{{{PROCESSES}}}[$__range]))", "restarts"),
            steps=Steps("green", [(1, POOR), (3, BAD)]),
        ),
    )


def _use(board: Board) -> None:
    board.row("Utilisation")
    board.add(
        8,
        8,
        lines(
            "CPU",
            "CPU cores used by each worker. A worker cannot use much more than one.",
            (_each_worker("rate(ltrr_process_cpu_seconds_total", "[$__rate_interval])"), WORKER),
        ),
        lines(
            "Memory",
            "Resident memory of each worker. A steady slope under steady load is a leak.",
            (_each_worker("ltrr_process_resident_memory_bytes"), WORKER),
            unit="bytes",
        ),
        lines(
            "File descriptors",
            "Open connections and files of each worker. A steady slope under steady load is a leak.",
            (_each_worker("ltrr_process_open_fds"), WORKER),
        ),
    )


def _each_worker(before: str, after: str = "") -> str:
    return f"sum by (job, instance, worker) ({before}{{{PROCESSES}}}{after})"


def _saturation(board: Board) -> None:
    board.row("Saturation")
    lag = "ltrr_event_loop_lag_seconds"
    board.add(
        12,
        8,
        quantiles(
            "Event loop lag",
            "Delay of the event loop: all requests of a process wait that long.",
            lag,
            PROCESSES,
            steps=Steps("transparent", [(0.1, BAD)]),
        ),
        distribution("Event loop lag, distribution", "Number of measurements by delay.", lag, PROCESSES),
        lines(
            "Searches in flight",
            "Searches in flight per instance.",
            (f"sum by (job, instance) (ltrr_searches_in_flight{{{PROCESSES}}})", "{{job}} {{instance}}"),
        ),
        lines(
            "Shed",
            "Requests refused per second because of overload, per route.",
            (
                f"sum by (route) (rate(ltrr_shed_requests_total{{{PROCESSES}}}[$__rate_interval])) or vector(0)",
                "{{route}}",
            ),
            unit="reqps",
        ),
    )
