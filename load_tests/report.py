"""The results page, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from load_tests.figures import STAGES, cpu_breakdown

MAX_CPU_RATIO = 1.5
"""The goal: CPU of a request relative to the sum of its parts, at most."""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ms(value: float) -> str:
    """Milliseconds with two digits."""
    return f"{value:.2f}"


def ranged(figure: Mapping[str, float], digits: int = 2) -> str:
    """Median and range."""
    return f"{figure['median']:.{digits}f} ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"


def page(found: Mapping[str, Any]) -> str:
    """The page for the values of `figures.figures`."""
    conditions, http = found["conditions"], found["http"]
    one, many = found["times"]
    searches = found["times"][one]["stages"]["total"]["n"]
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    over_http = table(
        (
            "run",
            "requests",
            "per second",
            "p50 ms",
            "p95",
            "p99",
            "max",
            "p50 of the rounds",
            "errors",
            "degraded",
            "server CPU ms",
        ),
        [
            (
                name,
                run["n"],
                f"{run['rate']['median']:.0f}",
                *(ms(run[column]) for column in ("p50", "p95", "p99", "max")),
                f"{run['p50_of_rounds']['low']:.2f}–{run['p50_of_rounds']['high']:.2f}",
                run["errors"],
                f"{100 * run['degraded']:.2f} %",
                ranged(run["cpu"]),
            )
            for name, run in http.items()
        ],
    )
    stages = table(
        ("stage", "p50 ms", "p99", f"p50, {many} at a time", "p99"),
        [
            (name, *(ms(found["times"][c]["stages"][name][column]) for c in (one, many) for column in ("p50", "p99")))
            for name in STAGES
            if name in found["times"][one]["stages"]
        ],
    )
    arms = table(
        ("arm", "called in", "p50 ms", "p99", f"p50, {many} at a time", "p99"),
        [
            (
                name,
                f"{100 * arm['n'] / searches:.0f} %",
                ms(arm["p50"]),
                ms(arm["p99"]),
                *(ms(found["times"][many]["arms"].get(name, arm)[column]) for column in ("p50", "p99")),
            )
            for name, arm in found["times"][one]["arms"].items()
        ],
    )
    parts = table(
        ("library calls of one request, alone", "calls", "CPU ms (range of rounds)"),
        [
            *((part, f"{each['calls']:.1f}", ranged(each["cpu"], 3)) for part, each in found["parts"].items()),
            ("**sum**", "", f"**{ranged(found['sum_of_parts'], 3)}**"),
        ],
    )
    where = table(
        ("where", "CPU ms", "of it on the event loop", "library calls alone", "ours"),
        [
            (name, ms(cpu), ms(loop), ms(library), ms(cpu - library))
            for name, cpu, loop, library in cpu_breakdown(found)
        ],
    )
    ratios = "\n".join(
        f"- {name}: {ranged(http[name]['cpu'])} ms / {ms(found['sum_of_parts']['median'])} ms = **{ranged(ratio)}** "
        f"({'within' if ratio['median'] <= MAX_CPU_RATIO else 'above'} the goal of {MAX_CPU_RATIO})"
        for name, ratio in found["ratio"].items()
    )
    opened = http["service, open loop"]
    return f"""# Latency of a search, and its CPU against the sum of its parts

- command: `{conditions["command"]}`, {conditions["date"]}, revision {conditions["revision"]}
- machine: {conditions["machine"]}. **A small shared machine**: other work may run meanwhile. Load average before:
  {conditions["load_average_before"]:.1f}; cores busy during the HTTP runs, including other work:
  {ranged(found["machine_busy_cores"], 1)}. Compare figures within this page, not with other machines.
- pinned: service and in-process runs to core {conditions["service_cores"]}, loader to core
  {conditions["loader_cores"]}; the service shares one core among its event loop, its engines' threads and its learner
- {versions}
- queries: validation split, drawn by traffic share 35 % title, 15 % typo, 15 % topic, 20 % facet, 15 % personal and by
  weight within each, different ones in each run (seeds {", ".join(map(str, conditions["seeds"]))}); 10 hits, default
  settings; ranker {found["ranker"]}
- each round consists of null control, HTTP runs, in-process runs, each on a fresh copy of one indexed folder; times are
  pooled over the rounds, CPU is the median over rounds (with the range)

## Over HTTP, timed by the client
{over_http}

The null control is a service that immediately returns 6 kB: its times are the cost of loader, HTTP and scheduling.
Closed loops are timed from the send. The open loop has Poisson arrivals at half the rate reached with {many} at a time,
timed from the *scheduled* send; the loader was at most {ms(opened["late_p99"])} ms late (p99). Server CPU is user and
system time of the whole process during the run per request, including the learner. An idle service uses
{100 * found["idle_cpu_share"]:.1f} % of a core. Of {opened["n"]} requests per run, {opened["n"] // 100} are beyond p99.

## Stage by stage, inside the process
{stages}

`rank` includes `features`; `retrieve` waits for all arms and for the count of everything that matches; the rest of
`total` is between the stages. Wall time, with the learner running, without HTTP: with {many} at a time most of it is
waiting for the single core.

{arms}

## CPU against the sum of the parts
{parts}

Every library call of the searches was recorded with its inputs and replayed in isolation, in order, part by part:
{searches} searches, each input once (repeated ones would be too fast), with results converted to Python objects where
the library does that lazily. CPU of all threads. Work that a search does twice counts twice in its parts.

CPU of a request over HTTP / sum of the parts:
{ratios}

Breakdown, one at a time:

{where}

CPU of all threads by stage, in process with the learner off. Work outside the event loop is done by the engines'
threads: library calls, and our code that builds queries and sorts results there. The last two lines are differences,
the last one between runs, so machine noise accumulates there. A search in process costs
{ranged(found["search_cpu"])} ms with the active ranker,
{ranged(found["search_cpu_passthrough"])} ms with the passthrough ranker, and
{ranged(found["search_cpu_with_learner"])} ms with ranker and learner running.
"""
