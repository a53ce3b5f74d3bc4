"""A dashboard: the variables, annotations and links common to all, and rows of panels laid out in order."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import DATASOURCE, PROCESSES, RUNNING, Panel

WIDTH = 24
TAG = "ltrr"


class Annotation(dashboard.AnnotationQuery, Builder[dashboard.AnnotationQuery]):
    """A Prometheus annotation, with the fields that the data source reads beyond the common model."""

    def __init__(
        self, name: str, expr: str, color: str, title: str, *, enable: bool = True, value_is_time: bool = False
    ) -> None:
        super().__init__(name=name, datasource=DATASOURCE, enable=enable, hide=False, icon_color=color, expr=expr)
        self.title = title
        self.value_is_time = value_is_time

    def to_json(self) -> dict[str, object]:
        """The annotation with its further fields."""
        own = {"titleFormat": self.title, "step": "60s", "useValueForTime": "on" if self.value_is_time else False}
        return super().to_json() | own

    def build(self) -> dashboard.AnnotationQuery:
        """Itself: there is nothing left to build."""
        return self


ANNOTATIONS = (
    Annotation("Alerts", 'ALERTS{alertname=~"Ltrr.+",alertstate="firing"}', "red", "{{alertname}} ({{severity}})"),
    Annotation(
        "Mode changes",
        f"max by (mode) (changes(ltrr_policy_mode{{{PROCESSES}}}[2m])) > 0"
        f" and on (mode) max by (mode) (ltrr_policy_mode{{{PROCESSES}}}) == 1",
        "purple",
        "policy mode: {{mode}}",
    ),
    Annotation(
        "Policy fallbacks",
        f"sum(increase(ltrr_policy_fallbacks_total{{{PROCESSES}}}[2m])) > 0",
        "orange",
        "the fixed policy took over",
    ),
    Annotation("Restarts", f"resets({RUNNING}{{{PROCESSES}}}[2m]) > 0", "blue", "{{job}} {{instance}} restarted"),
    # Under traffic there is one every few seconds: off by default.
    Annotation(
        "Snapshots",
        f"max(ltrr_snapshot_timestamp_seconds{{{PROCESSES}}} > 0) * 1000",
        "green",
        "policy snapshot published",
        enable=False,
        value_is_time=True,
    ),
)


class Board:
    """Builds a dashboard. Add rows and panels in reading order; ids and positions are assigned accordingly."""

    def __init__(self, uid: str, title: str, description: str, *, arms: bool = False) -> None:
        self.uid = uid
        self._next, self._x, self._y, self._height = 1, 0, 0, 0
        links = (
            build.DashboardLink("LTRR")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .icon("external link")
            .tooltip("the other dashboards with the same time range and variables")
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
        self._dashboard = (
            build.Dashboard(title)
            .uid(uid)
            .description(description)
            .tags([TAG])
            .readonly()
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .timezone("browser")
            .refresh("30s")
            .time("now-3h", "now")
            .version(1)
            .variables(_variables(arms))
            .annotations([*ANNOTATIONS])
            .links([links])
        )

    def row(self, title: str, repeat: str | None = None) -> None:
        """Start a row with the panels added next, repeated for each value of the variable `repeat`."""
        self._break()
        row = build.Row(title).id(self._id()).collapsed(False)
        row.grid_pos(dashboard.GridPos(x=0, y=self._y, w=WIDTH, h=1)).datasource(DATASOURCE)
        self._dashboard.with_row(row.repeat(repeat) if repeat else row)
        self._y += 1

    def add(self, width: int, height: int, *panels: Panel) -> None:
        """Add panels of equal size, side by side while there is room."""
        for panel in panels:
            if self._x + width > WIDTH:
                self._break()
            panel.id(self._id()).grid_pos(dashboard.GridPos(x=self._x, y=self._y, w=width, h=height))
            self._dashboard.with_panel(panel)
            self._x += width
            self._height = max(self._height, height)

    def build(self) -> dashboard.Dashboard:
        """The finished dashboard."""
        return self._dashboard.build()

    def _id(self) -> int:
        self._next += 1
        return self._next - 1

    def _break(self) -> None:
        self._x, self._y, self._height = 0, self._y + self._height, 0


def _variables(arms: bool) -> list[Builder[dashboard.VariableModel]]:
    source = dashboard.VariableOption(text="Prometheus", value="ltrr-prometheus", selected=True)
    datasource = (
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("the Prometheus that scrapes the service")
        .type("prometheus")
        .current(source)
    )
    chosen: list[Builder[dashboard.VariableModel]] = [
        datasource,
        _choice("job", "Job", "gateways, learner, or both", "label_values(ltrr_build_info, job)", every=".+"),
        _choice(
            "instance",
            "Instance",
            "single processes",
            'label_values(ltrr_build_info{job=~"$job"}, instance)',
            every=".+",
        ),
    ]
    if arms:
        matched = f"label_values(ltrr_arm_requests_total{{{PROCESSES}}}, arm)"
        chosen.append(_choice("arm", "Arm", "arms shown in separate rows", matched))
    return chosen


def _choice(name: str, label: str, description: str, query: str, every: str | None = None) -> build.QueryVariable:
    variable = (
        build.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(dashboard.VariableOption(text=["All"], value=["$__all"], selected=True))
    )
    return variable.all_value(every) if every else variable
