"""What the processes use, how full they are, and what fails: utilisation, saturation, errors."""

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
            "Scraped processes that answer.",
            ('sum(up{job=~"$job",instance=~"$instance"})', "up"),
            steps=Steps(BAD, [(1, "green")]),
        ),
        number("Down", "Scraped processes that do not answer.", (down, "down"), steps=Steps("green", [(1, BAD)])),
        number(
            "Workers",
            "Gateway worker processes that run, over all gateways.",
            (f"sum(ltrr_workers{{{PROCESSES}}})", "workers"),
        ),
        number(
            "Draining",
            "Processes on their way out: not ready any more, still answering what they have.",
            (f"sum(ltrr_draining{{{PROCESSES}}})", "draining"),
            steps=Steps("green", [(1, POOR)]),
        ),
        number(
            "Versions",
            "Versions that run side by side. More than one outside a rollout is a rollout that stopped halfway.",
            (f"count(count by (version) (ltrr_build_info{{{PROCESSES}}}))", "versions"),
            steps=Steps("green", [(2, POOR)]),
        ),
        number(
            "Restarts",
            "How often instances were started anew under the same address, over the time that is shown.",
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
            "Processor cores that each worker keeps busy. One worker cannot use much more than one.",
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
            "How late the event loop runs what is due: all requests of a process wait as long.",
            lag,
            PROCESSES,
            steps=Steps("transparent", [(0.1, BAD)]),
        ),
        distribution("Event loop lag, distribution", "How often the loop was how late.", lag, PROCESSES),
        lines(
            "Searches in flight",
            "Searches being answered, per instance.",
            (f"sum by (job, instance) (ltrr_searches_in_flight{{{PROCESSES}}})", "{{job}} {{instance}}"),
        ),
        lines(
            "Shed",
            "Requests refused each second because of overload, per route.",
            (
                f"sum by (route) (rate(ltrr_shed_requests_total{{{PROCESSES}}}[$__rate_interval])) or vector(0)",
                "{{route}}",
            ),
            unit="reqps",
        ),
    )
