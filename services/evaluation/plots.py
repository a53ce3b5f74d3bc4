"""Plots of evaluations as SVG; equal values give equal bytes. Needs the extra `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.evaluation.intervals import Interval

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f")
"""Distinguishable for colour-blind readers, too (Okabe and Ito 2008)."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)))
"""Line styles: one for each cycle through the colours."""
TEXT_COLOUR, GRID_COLOUR = "#333333", "#dddddd"
STYLE: Any = {
    "svg.hashsalt": "ltrr",
    "font.family": "DejaVu Sans",  # bundled with the library, so that every machine draws the same
    "font.size": 9,
    "text.color": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "axes.edgecolor": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
PANELS_PER_ROW = 3
GROUPING_THRESHOLD = 10_000
"""From this value on, x tick labels have thousands separators."""


@dataclass(frozen=True, slots=True)
class Curve:
    """y over x, with a band from `low` to `high` when both are given; all of equal length."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def curves(path: Path, title: str, x_label: str, y_label: str, series: Mapping[str, Curve]) -> None:
    """Write an SVG with one line and band per name, listed in the order of their ends; the first is drawn on top.
    Raises ValueError without a series or for a curve whose parts differ in length."""
    if not series:
        raise ValueError("no curve to draw")
    for name, curve in series.items():
        parts = [curve.x, curve.y, *(bound for bound in (curve.low, curve.high) if bound is not None)]
        if not len(curve.x) or len({len(part) for part in parts}) > 1:
            raise ValueError(f"the curve {name!r} needs values, equally many of each kind")
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (name, curve) in enumerate(series.items()):
            colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
            above = 2 * (len(series) - number)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0, zorder=above)
            axes.plot(curve.x, curve.y, color=colour, linestyle=dash, linewidth=1.7, label=name, zorder=above + 1)
        axes.grid(color=GRID_COLOUR, linewidth=0.6)
        if max(max(curve.x) for curve in series.values()) >= GROUPING_THRESHOLD:
            axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.01)
        axes.set_title(title, loc="left", fontweight="bold")
        figure.legend(*_by_end(axes, series), loc="outside right center", frameon=False)
        _write(figure, path)


def points(
    path: Path,
    title: str,
    x_label: str,
    panels: Mapping[str, Mapping[str, Interval]],
    baseline: str | None = None,
) -> None:
    """Write an SVG with one panel per part, in it a point with its interval per row, the first on top, and a line
    through the row `baseline`.

    Rows are those of the first panel; one that another panel lacks is left out there. Raises ValueError without rows.
    """
    rows = list(next(iter(panels.values()), {}))
    if not rows:
        raise ValueError("no row to draw")
    across = min(len(panels), PANELS_PER_ROW)
    down = -(-len(panels) // across)
    with rc_context(STYLE):
        size = (max(2.6 + 2.5 * across, 6.0), 0.7 + down * (0.75 + 0.24 * len(rows)))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, (name, panel) in zip(grid, panels.items(), strict=False):
            _points(axes, name if len(panels) > 1 else "", rows, panel, baseline)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        figure.supxlabel(x_label, fontsize=9)
        _write(figure, path)


def _points(axes: Axes, name: str, rows: Sequence[str], panel: Mapping[str, Interval], baseline: str | None) -> None:
    for place, row in enumerate(rows):
        if row in panel:
            found = panel[row]
            colour = COLOURS[1] if row == baseline else COLOURS[0]
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot([found.mean], [place], "o", color=colour, markersize=4.5)
    if baseline is not None and baseline in panel:
        axes.axvline(panel[baseline].mean, color=COLOURS[1], linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.grid(color=GRID_COLOUR, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(name, loc="left", fontsize=9)


def _by_end(axes: Axes, series: Mapping[str, Curve]) -> tuple[list[Any], list[str]]:
    """Legend handles and labels ordered by where the lines end, the highest first."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: -float(series[labels[i]].y[-1]))
    return [handles[i] for i in order], [labels[i] for i in order]


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
