// The learning console: figures every few seconds, and the switches.

import * as charts from "/static/charts.js";
import { adminKey, armClass, armDot, byId, call, el, number, themeButton, toast } from "/static/common.js";
import { drawModels, listModels } from "/static/models.js";

const PAUSE = 3000; // milliseconds between two looks
const BUSY_PAUSE = 1500; // the same while simulated visitors search
const MODELS_EVERY = 5; // looks

const MODES = {
  learned: { words: "The learned policy decides how many candidates to take from each arm.", ask: "From the next request on, the learned policy decides again." },
  shadow: { words: "Static counts are served; what the learned policy would have chosen is logged beside them.", ask: "Requests get the static counts; the learned policy only looks on." },
  static: { words: "Kill switch on: every request gets the static counts. Memory, ranker and learning go on.", ask: "From the next request on, every request gets the static counts. Memory, ranker and learning go on." },
};

let last = null;
let looks = 0;
let timer = 0;
let changed = "";

const key = () => adminKey.get();
const ms = (seconds) => (seconds === null ? "–" : seconds < 0.0001 ? "< 0.1 ms" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);
const percent = (share) => `${(share * 100).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// --- looking ---

async function look() {
  clearTimeout(timer);
  try {
    last = await call("/pages/activity", { key: key() });
    unlock();
    await draw(last);
    if (looks % MODELS_EVERY === 0) drawModels(await listModels(key()), act);
    looks += 1;
    byId("trouble").replaceChildren();
    byId("fresh").textContent = `as of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (error.status === 401) return lock();
    byId("trouble").replaceChildren(el("p", { class: "notice bad" }, `${error.message} Trying again.`));
  }
  timer = setTimeout(() => (document.hidden ? null : look()), last?.traffic?.running ? BUSY_PAUSE : PAUSE);
}

function lock() {
  byId("board").hidden = true;
  byId("lock").hidden = false;
  byId("wrong").hidden = !key();
  byId("wrong").textContent = !key() ? "" : "This key is not the right one. It is the value of LTRR_ADMIN_KEY on the server.";
  byId("key").value = "";
  byId("key").focus();
}

function unlock() {
  byId("lock").hidden = true;
  byId("board").hidden = false;
}

// --- drawing ---

async function draw({ mode, activity, learner, process, traffic, charts: available }) {
  drawMode(mode);
  drawTraffic(traffic);
  drawTiles(activity, learner, process);
  drawArms(process.arms);
  drawFeedback(process.feedback, activity.actions);
  drawLatest(activity.latest);
  drawRegretWords(activity.comparison);
  const places = ["arms", "reward", "regret", "counts", "credit", "left"].map((name) => byId(`chart-${name}`));
  if (!(await charts.loadPlotly(available))) {
    for (const place of places) charts.instead(place, "Charts need the extra “pages”: pip install 'ltrr[pages]'.");
    return;
  }
  charts.candidates(places[0], activity);
  charts.reward(places[1], activity);
  charts.regret(places[2], activity.comparison);
  charts.counts(places[3], activity);
  charts.credit(places[4], activity);
  charts.left(places[5], activity);
}

function drawMode(mode) {
  if (!byId("modes").childElementCount) {
    byId("modes").append(...Object.keys(MODES).map((name) =>
      el("button", { type: "button", class: name, "data-mode": name, onclick: () => switchTo(name) }, name.charAt(0).toUpperCase() + name.slice(1))));
  }
  for (const button of byId("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  const words = MODES[mode].words + changed;
  if (byId("mode-words").textContent !== words) byId("mode-words").textContent = words;
}

/** Simulated visitors: only a demo has them. */
function drawTraffic(traffic) {
  byId("traffic").hidden = !traffic;
  if (!traffic) return;
  const { running, rate, searches, clicks, failures, trouble } = traffic;
  const words = running ? `Simulated visitors: ${rate ? `${number(rate)} searches a second` : "just arriving"}` : "No simulated visitors";
  if (byId("traffic-words").textContent !== words) byId("traffic-words").textContent = words;
  const done = searches ? `${number(searches)} searches and ${number(clicks)} clicks so far${failures ? `, ${number(failures)} failed${trouble ? ` (${trouble})` : ""}` : ""}. ` : "";
  byId("traffic-note").textContent = done + (running
    ? "They are not people, but what they click is learned from."
    : "Let some search and click, and watch the service learn from them.");
  byId("traffic-switch").textContent = running ? "Stop" : "Start";
}

function drawTiles(activity, learner, process) {
  const recent = activity.curve.slice(-10);
  const n = recent.reduce((sum, point) => sum + point.n, 0);
  const mean = (name) => (n ? recent.reduce((sum, point) => sum + point[name] * point.n, 0) / n : 0);
  const lag = Object.entries(learner.lag);
  const tiles = [
    ["Candidates a request", n ? mean("candidates").toFixed(1) : "–", `last ${number(n)} decisions`],
    ["Reward a decision", n ? mean("reward").toFixed(3) : "–", n ? `${percent(mean("clicked"))} with any action` : "no decisions yet"],
    ["Away from the static mix", n ? percent(mean("left")) : "–", learner.snapshot ? "of the requests just now" : "nothing learned yet"],
    ["Memory found", n ? percent(remembered(recent)) : "–", "of what people chose just now"],
    ["Decisions learned", number(learner.learned), `${number(learner.open)} windows open (${age(learner.attribution_seconds)} each)`],
    ["Learner lag", number(Math.max(...lag.map(([, records]) => records))), lag.map(([name, records]) => `${name} ${number(records)}`).join(" · ") + " records"],
    ["Snapshot", learner.snapshot_age === null ? "none" : age(learner.snapshot_age), learner.snapshot ? `old, version …${learner.snapshot.slice(-8)}` : "written once something is learned"],
    ["Search time", ms(process.search_seconds[0]), `p99 ${ms(process.search_seconds[1])}`],
    ["Items", process.items === null ? "–" : number(process.items), "in the catalogue"],
    ["Memory", process.memory_bytes === null ? "–" : `${number(Math.round(process.memory_bytes / 1048576))} MB`, process.started === null ? "of this process" : `up ${age(Date.now() / 1000 - process.started)}`],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, note]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "note" }, note))));
}

/** Memory's share of what the arms are credited with. */
function remembered(curve) {
  const credits = curve.flatMap((point) => Object.entries(point.credit).map(([arm, value]) => [arm, Math.max(0, value)]));
  const total = credits.reduce((sum, [, value]) => sum + value, 0);
  return total ? credits.reduce((sum, [arm, value]) => sum + (arm === "memory" ? value : 0), 0) / total : 0;
}

function table(place, heads, rows, empty) {
  if (rows.length === 0) return byId(place).replaceChildren(el("p", { class: "muted" }, empty));
  const cell = (name) => (content, column) => el(name, { class: heads[column].startsWith("#") ? "number" : content?.cls }, content?.cls !== undefined ? content.content : content);
  byId(place).replaceChildren(el("table", {},
    el("thead", {}, el("tr", {}, heads.map((words) => el("th", { class: words.startsWith("#") ? "number" : null }, words.replace("#", ""))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell("td")))))));
}

function drawArms(arms) {
  const rows = Object.entries(arms).map(([arm, { outcomes, seconds }]) => {
    const requests = Object.values(outcomes).reduce((sum, n) => sum + n, 0);
    const failed = requests - (outcomes.ok ?? 0);
    const rate = requests ? failed / requests : 0;
    return [el("span", { class: "badge" }, armDot(arm), arm), number(requests), ms(seconds[0]), ms(seconds[1]), failed ? `${number(failed)} (${percent(rate)})` : "none"];
  });
  table("arms", ["Arm", "#Retrievals", "#p50", "#p99", "#Failures"], rows, "No arm has been queried since the service started.");
}

function drawFeedback(statuses, actions) {
  const rows = [
    ...Object.entries(statuses).filter(([status, n]) => n > 0 || status === "accepted").map(([status, n]) => ["Status", status.replace("_", " "), number(n)]),
    ...Object.entries(actions).map(([action, n]) => ["Action", action.replace(/_/g, " "), number(n)]),
  ];
  table("feedback", ["", "Events", "#Number"], rows, "No feedback yet. Click a result on the search page.");
}

function drawLatest(latest) {
  const rows = latest.map((one) => {
    const total = Object.values(one.counts).reduce((sum, count) => sum + count, 0);
    const pieces = Object.entries(one.counts).filter(([, count]) => count > 0).map(([arm, count]) => {
      const piece = el("i", { class: armClass(arm) });
      piece.style.flexGrow = String(count);
      return piece;
    });
    const arms = Object.entries(one.counts).map(([arm, count]) => `${arm} ${count}`).join(", ");
    return [
      new Date(one.at * 1000).toLocaleTimeString(), { cls: "query", content: one.query || "(forgotten)" },
      el("span", { class: "bar", title: arms, role: "img", "aria-label": arms }, pieces), number(total), one.propensity.toPrecision(2),
      one.mode === "learned" ? one.policy : one.mode, one.events.join(", "), { cls: "bad", content: one.degraded.join(", ") },
    ];
  });
  table("latest", ["Time", "Query", "Arms", "#Candidates", "#Propensity", "Policy", "Feedback", "Degraded"], rows, "Nobody has searched yet.");
}

function drawRegretWords({ n, effective, least, acted, least_acted, learned, static: fixed, regret, learned_decisions }) {
  const span = ({ value, low, high }, digits) => `${value.toFixed(digits)} (95 %: ${low.toFixed(digits)} to ${high.toFixed(digits)})`;
  const method = "Self-normalised importance weighting over logged propensities, with the intervals of the promotion gate; reward less the candidates' price.";
  const words = regret
    ? `Learned ${span(learned, 3)} a decision, static ${span(fixed, 3)}; regret over ${number(n)} decisions ${span(regret, 1)}. ${method} Effective sample ${effective.toFixed(0)}.`
    : `Not estimated, too little data: ${number(n)} of ${number(learned_decisions)} learned decisions can be used, an effective sample of ${effective.toFixed(0)} where ${least} are needed, with feedback on an effective ${acted.toFixed(0)} where ${least_acted} are needed (as for a promotion).`;
  byId("regret-words").textContent = words;
}

// --- switches ---

function sure(question, words, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = question;
  byId("confirm-words").textContent = words;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function switchTo(mode) {
  if (mode === last.mode || !(await sure(`Switch to ${mode}?`, MODES[mode].ask, `Switch to ${mode}`))) return;
  try {
    const answer = await call("/v1/policy", { method: "PUT", body: { mode }, key: key() });
    changed = ` In force since ${new Date().toLocaleTimeString()}.`;
    toast(`In force: ${answer.mode}.`);
    await look();
  } catch (error) {
    toast(`Not switched: ${error.message}`);
  }
}

async function switchTraffic() {
  const running = !last.traffic.running;
  byId("traffic-switch").disabled = true;
  try {
    await call("/pages/traffic", { method: "PUT", body: { running }, key: key() });
    await look();
  } catch (error) {
    toast(`Not ${running ? "started" : "stopped"}: ${error.message}`);
  }
  byId("traffic-switch").disabled = false;
}

async function act(path, question, words) {
  if (await sure(question, words, "Yes, do it")) await post(path, false);
}

/** A promotion that its gate refuses (409) is confirmed by the operator, with the gate's own words. */
async function post(path, force) {
  try {
    const answer = await call(path, { method: "POST", body: path.endsWith("/promote") ? { force } : undefined, key: key() });
    toast(`In force: ${answer.kind} ${answer.version}.`);
    looks = 0;
    await look();
  } catch (error) {
    if (force || error.status !== 409 || !path.endsWith("/promote")) toast(`Not done: ${error.message}`);
    else if (await sure("Promote it all the same?", error.message, "Promote past the gate")) await post(path, true);
  }
}

// --- start ---

themeButton(byId("theme"), () => last && draw(last));
byId("traffic-switch").addEventListener("click", switchTraffic);
byId("lock").addEventListener("submit", (event) => {
  event.preventDefault();
  adminKey.set(byId("key").value.trim());
  look();
});
document.addEventListener("visibilitychange", () => !document.hidden && last && look());
look();
