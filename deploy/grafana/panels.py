"""The panel types of the dashboards, with common styling, naming and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as shared
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
PROCESSES = 'job=~"$job",instance=~"$instance"'
"""Label matchers of the processes selected by the dashboard's variables."""

RUNNING = "ltrr_event_loop_lag_seconds_count"
"""Increases steadily while a process runs; a decrease means that the process was restarted."""

GOOD, FAIR, POOR, BAD = "green", "yellow", "orange", "red"
QUANTILES = {"p50": "green", "p90": "yellow", "p95": "orange", "p99": "red"}
ANSWERS = {"2xx": "green", "4xx": "orange", "5xx": "red"}

Query: TypeAlias = tuple[str, str]
"""(expression, legend)."""
Panel: TypeAlias = timeseries.Panel | stat.Panel | heatmap.Panel | statetimeline.Panel | bargauge.Panel
Kind = TypeVar("Kind", timeseries.Panel, stat.Panel, heatmap.Panel, statetimeline.Panel, bargauge.Panel)


@dataclass(frozen=True)
class Steps:
    """Thresholds: `first` is the base colour, each pair of `then` a value and the colour from there on."""

    first: str
    then: Sequence[tuple[float, str]] = ()

    def built(self) -> build.ThresholdsConfig:
        """The configuration for Grafana."""
        steps = [dashboard.Threshold(value=None, color=self.first)]
        steps += [dashboard.Threshold(value=value, color=color) for value, color in self.then]
        return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


PLAIN = Steps("text")


def rising(poor: float, bad: float) -> Steps:
    """Thresholds for values where higher is worse."""
    return Steps(GOOD, [(poor, POOR), (bad, BAD)])


def falling(bad: float, poor: float) -> Steps:
    """Thresholds for values where lower is worse."""
    return Steps(BAD, [(bad, POOR), (poor, GOOD)])


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    stacked: bool = False,
    shares: bool = False,
    steps: Steps | None = None,
    colors: Mapping[str, str] | None = None,
    maximum: float | None = None,
    aside: bool = False,
) -> timeseries.Panel:
    """A time series panel. `shares` stacks to 100 %; `steps` draws dashed threshold lines; `maximum` limits the axis;
    `aside` puts the legend to the right."""
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(shared.LegendDisplayMode.TABLE)
        .placement(shared.LegendPlacement.RIGHT if aside else shared.LegendPlacement.BOTTOM)
        .calcs(["mean", "max", "lastNotNull"])
        .sort_by("Last *")
        .sort_desc(True)
    )
    panel = (
        _panel(timeseries.Panel(), title, description, queries, unit)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(shared.TooltipDisplayMode.MULTI).sort(shared.SortOrder.DESCENDING))
        .line_width(1 if stacked or shares else 2)
        .fill_opacity(60 if stacked or shares else 8)
        .gradient_mode(shared.GraphGradientMode.NONE if stacked or shares else shared.GraphGradientMode.OPACITY)
        .show_points(shared.VisibilityMode.NEVER)
        .line_interpolation(shared.LineInterpolation.LINEAR)
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .axis_soft_min(0)
        .span_nulls(False)
    )
    if stacked or shares:
        mode = shared.StackingMode.PERCENT if shares else shared.StackingMode.NORMAL
        panel = panel.stacking(common.StackingConfig().mode(mode).group("A"))
    if maximum is not None:
        panel = panel.max(maximum)
    if steps is not None:
        style = common.GraphThresholdsStyleConfig().mode(shared.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(steps.built()).thresholds_style(style)
    for name, color in (colors or {}).items():
        panel = panel.override_by_name(name, [_fixed(color)])
    return panel


def quantiles(
    title: str,
    description: str,
    metric: str,
    matchers: str,
    *,
    unit: str = "s",
    steps: Steps | None = None,
    shown: Sequence[str] = ("p50", "p90", "p99"),
) -> timeseries.Panel:
    """A time series panel with quantiles of a histogram."""
    rates = f"sum by (le) (rate({metric}_bucket{{{matchers}}}[$__rate_interval]))"
    queries = [(f"histogram_quantile(0.{name[1:]}, {rates})", name) for name in shown]
    colors = {name: QUANTILES[name] for name in shown}
    return lines(title, description, *queries, unit=unit, steps=steps, colors=colors)


def distribution(title: str, description: str, metric: str, matchers: str, *, unit: str = "s") -> heatmap.Panel:
    """A heatmap of a histogram over time."""
    query = (f"sum by (le) (rate({metric}_bucket{{{matchers}}}[$__rate_interval]))", "{{le}}")
    colors = (
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Turbo")
        .exponent(0.5)
        .steps(64)
        .reverse(False)
    )
    return (
        _panel(heatmap.Panel(), title, description, [query], "reqps", PromQueryFormat.HEATMAP)
        .calculate(False)
        .color(colors)
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(shared.AxisPlacement.LEFT))
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .show_tooltip()
        .show_y_histogram()
        .hide_legend()
        .max_data_points(200)
    )


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps = PLAIN,
    decimals: int | None = None,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> stat.Panel:
    """A stat panel: the last value with a sparkline. `names`: value -> (text, colour)."""
    several = len(queries) > 1 or bool(names)
    panel = (
        _panel(stat.Panel(), title, description, queries, unit)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(shared.BigValueColorMode.VALUE)
        .graph_mode(shared.BigValueGraphMode.NONE if several else shared.BigValueGraphMode.AREA)
        .text_mode(shared.BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 else shared.BigValueTextMode.VALUE)
        .justify_mode(shared.BigValueJustifyMode.CENTER)
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(steps.built())
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.mappings(_words(names)) if names else panel


def bars(title: str, description: str, *queries: Query, unit: str = "short", steps: Steps = PLAIN) -> bargauge.Panel:
    """A bar gauge with the last value of each series."""
    return (
        _panel(bargauge.Panel(), title, description, queries, unit)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(shared.VizOrientation.HORIZONTAL)
        .display_mode(shared.BarGaugeDisplayMode.BASIC)
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(steps.built())
        .min(0)
    )


def states(title: str, description: str, *queries: Query, names: Mapping[str, tuple[str, str]]) -> statetimeline.Panel:
    """A state timeline. `names`: value -> (text, colour)."""
    return (
        _panel(statetimeline.Panel(), title, description, queries, "short")
        .mappings(_words(names))
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(PLAIN.built())
        .show_value(shared.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(common.VizLegendOptions().show_legend(False))
        .tooltip(common.VizTooltipOptions().mode(shared.TooltipDisplayMode.SINGLE))
    )


def _panel(
    panel: Kind,
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Kind:
    targets: list[Builder[Dataquery]] = [
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(expression)
        .legend_format(legend)
        .ref_id(chr(ord("A") + place))
        .format(form)
        .range()
        for place, (expression, legend) in enumerate(queries)
    ]
    panel.title(title).description(description).datasource(DATASOURCE).unit(unit).targets(targets)
    return panel


def _fixed(color: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def _words(names: Mapping[str, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    results = {
        value: dashboard.ValueMappingResult(text=word, color=color, index=place)
        for place, (value, (word, color)) in enumerate(names.items())
    }
    return [dashboard.ValueMap(options=results)]
