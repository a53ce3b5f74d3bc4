// The console's charts, drawn by Plotly, which comes as a Python package and is served from this origin.

import { el, number } from "/static/common.js";

const FONT = { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: 12 };
const CONFIG = { displayModeBar: false, responsive: true };

let loading = null;

/** Load Plotly once. Resolves to false where the extra `pages` is not installed. */
export function loadPlotly(available) {
  loading ??= !available ? Promise.resolve(false) : new Promise((resolve) => {
    const script = el("script", { src: "/static/vendor/plotly.min.js" });
    script.onload = () => resolve(true);
    script.onerror = () => resolve(false);
    document.head.append(script);
  });
  return loading;
}

/** The colour that a variable of the style sheet has now, as rgb(…); `--other` where there is no such variable. */
function colour(name) {
  const probe = el("span", { hidden: true });
  probe.style.color = `var(--${name}, var(--other))`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const armColour = (arm) => colour(arm);
const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);
const clock = (at) => new Date(at * 1000).toLocaleTimeString();

function layout(more = {}) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("edge"), linecolor: colour("line"), automargin: true, fixedrange: true };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    font: { ...FONT, color: colour("muted") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, hovermode: "x unified",
    hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { ...FONT, color: colour("text") } },
    xaxis: { ...axis, showgrid: false, ...xaxis }, yaxis: { ...axis, rangemode: "tozero", ...yaxis }, ...rest,
  };
}

function draw(place, traces, shape) {
  if (place.querySelector(".little")) place.replaceChildren();
  globalThis.Plotly.react(place, traces, shape, CONFIG);
}

/** Words instead of a chart. */
export function instead(place, words) {
  if (place.classList.contains("js-plotly-plot")) globalThis.Plotly.purge(place);
  place.replaceChildren(el("p", { class: "little" }, words));
}

const DECISIONS = { title: { text: "decisions" }, rangemode: "tozero" };

function reached(curve) {
  let n = 0;
  return curve.map((point) => (n += point.n));
}

export function candidates(place, activity) {
  if (activity.curve.length < 2) return instead(place, "Search a few times, and the arms' shares appear here.");
  const x = reached(activity.curve);
  const text = activity.curve.map((point) => clock(point.at));
  const traces = activity.arms.map((arm) => ({
    x, y: activity.curve.map((point) => point.arms[arm]), name: arm, customdata: text, stackgroup: "arms", mode: "lines",
    line: { width: 1, color: armColour(arm) }, fillcolor: faded(armColour(arm), 0.55), hovertemplate: "%{y:.1f}",
  }));
  draw(place, traces, layout({
    showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" }, xaxis: DECISIONS,
    yaxis: { title: { text: "candidates" } },
  }));
}

export function reward(place, activity) {
  if (activity.curve.length < 2) return instead(place, "No decisions yet.");
  const x = reached(activity.curve);
  const line = (key, name, shade, dash) => ({
    x, y: activity.curve.map((point) => point[key]), name, mode: "lines", line: { width: 2, color: shade, dash }, hovertemplate: "%{y:.3f}",
  });
  draw(place, [line("reward", "reward", colour("accent")), line("clicked", "share with any action", colour("memory"), "dot")], layout({
    showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: DECISIONS,
  }));
}

export function regret(place, comparison) {
  const { curve } = comparison;
  if (curve.length < 2) return instead(place, "Too little data for an estimate.");
  const x = curve.map((point) => point.n);
  const accent = colour("accent");
  const edge = (key, more) => ({ x, y: curve.map((point) => point[key]), mode: "lines", line: { width: 0 }, hoverinfo: "skip", ...more });
  draw(place, [
    edge("low"), edge("high", { fill: "tonexty", fillcolor: faded(accent, 0.16) }),
    { x, y: curve.map((point) => point.value), mode: "lines", name: "regret", line: { width: 2, color: accent }, hovertemplate: "%{y:.2f}" },
  ], layout({ xaxis: DECISIONS, yaxis: { title: { text: "reward lost" }, rangemode: "normal" } }));
}

export function counts(place, activity) {
  if (activity.decisions === 0) return instead(place, "No decisions yet.");
  const levels = [...new Set(Object.values(activity.counts).flat().map(([count]) => count))].sort((a, b) => a - b);
  const arms = [...activity.arms].reverse();
  const share = (arm, level) => (activity.counts[arm].find(([count]) => count === level)?.[1] ?? 0) / activity.decisions;
  const z = arms.map((arm) => levels.map((level) => share(arm, level)));
  draw(place, [{
    type: "heatmap", x: levels.map(String), y: arms, z, zmin: 0, zmax: 1, xgap: 2, ygap: 2, showscale: false,
    colorscale: [[0, colour("raised")], [1, colour("accent")]],
    text: z.map((row) => row.map((value) => (value >= 0.005 ? `${Math.round(value * 100)} %` : ""))), texttemplate: "%{text}",
    hovertemplate: "%{y}: %{x} candidates in %{z:.1%}<extra></extra>",
  }], layout({ hovermode: "closest", xaxis: { type: "category", title: { text: "candidates" } }, yaxis: { showgrid: false, rangemode: "normal" } }));
}

export function credit(place, activity) {
  const { curve } = activity;
  if (!curve.some((point) => Object.values(point.credit).some((value) => value > 0))) return instead(place, "Nobody has chosen anything yet.");
  const x = reached(curve);
  const worth = (point, arm) => Math.max(0, point.credit[arm] ?? 0);
  const total = (point) => activity.arms.reduce((sum, arm) => sum + worth(point, arm), 0);
  const arms = activity.arms.filter((arm) => curve.some((point) => worth(point, arm) > 0));
  draw(place, arms.map((arm) => ({
    x, y: curve.map((point) => (total(point) ? worth(point, arm) / total(point) : 0)), name: arm, stackgroup: "arms", mode: "lines",
    line: { width: 1, color: armColour(arm) }, fillcolor: faded(armColour(arm), 0.55), hovertemplate: "%{y:.0%}",
  })), layout({
    showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" }, xaxis: DECISIONS,
    yaxis: { tickformat: ".0%", range: [0, 1] },
  }));
}

export function left(place, activity) {
  if (activity.curve.length < 2) return instead(place, "No decisions yet.");
  draw(place, [{
    x: reached(activity.curve), y: activity.curve.map((point) => point.left), mode: "lines", fill: "tozeroy", name: "away",
    line: { width: 2, color: colour("accent") }, fillcolor: faded(colour("accent"), 0.16), hovertemplate: "%{y:.0%}",
  }], layout({ xaxis: DECISIONS, yaxis: { tickformat: ".0%", range: [0, 1] } }));
}
