// Results as cards, whatever the catalogue's fields are, and why each of them is there.

import { adminKey, armClass, armDot, call, el, label, number, signed } from "/static/common.js";

const VALUES = 3;
const FACTS = 4;
const EFFECTS = 8;
const ENTITIES = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&amp;": "&" };

/** The server's highlighted text (escaped, but for <mark>) as nodes: marks become elements, all else stays text. */
export function marked(html) {
  const plain = (text) => text.replace(/&(?:lt|gt|quot|#x27|amp);/g, (entity) => ENTITIES[entity]);
  return html.split(/<mark>(.*?)<\/mark>/gs).map((part, place) => (place % 2 ? el("mark", {}, plain(part)) : plain(part)));
}

const list = (value) => (Array.isArray(value) ? value : [value]).filter((one) => one !== null && one !== undefined && one !== "");

export function titleOf(hit, offered) {
  const held = hit.document[offered.title] ?? hit.document.title ?? hit.document.name;
  return list(held)[0]?.toString() || hit.object_id;
}

function yearOf(document, offered) {
  const value = offered.created ? list(document[offered.created])[0] : undefined;
  if (value === undefined) return null;
  const text = String(value);
  return /^\d{4}-/.test(text) ? text.slice(0, 4) : /^\d{1,4}$/.test(text) ? text : null;
}

/** Short facts: first the values that the search's words were found in, then fields of one value (a type, a maker), then the rest. */
function facts(hit, offered) {
  const keywords = offered.fields.filter((field) => field.role === "keyword" && field.name !== "id").map((field) => field.name);
  const found = keywords.filter((name) => hit.highlights[name]);
  const single = keywords.filter((name) => typeof hit.document[name] === "string");
  const order = [...found, ...single, ...keywords].filter((name, place, all) => all.indexOf(name) === place);
  const made = [];
  const rating = offered.rating ? list(hit.document[offered.rating])[0] : undefined;
  if (typeof rating === "number" && rating > 0) made.push(el("span", { title: label(offered.rating) }, `★ ${rating.toFixed(1)}`));
  for (const name of order) {
    if (made.length >= FACTS) break;
    const held = list(hit.document[name]);
    if (!held.length) continue;
    const content = hit.highlights[name]
      ? marked(hit.highlights[name].split(", ").slice(0, VALUES).join(", "))
      : held.slice(0, VALUES).join(", ");
    made.push(el("span", { title: label(name) }, content));
  }
  return made;
}

function snippet(hit, offered) {
  const texts = offered.fields.filter((field) => field.role === "text" && field.name !== offered.title).map((field) => field.name);
  const found = texts.find((name) => hit.highlights[name]);
  if (found) return marked(hit.highlights[found]);
  const held = texts.map((name) => list(hit.document[name]).join(" ")).sort((a, b) => b.length - a.length)[0];
  return held ? [held.slice(0, 400)] : null;
}

/** One card; `open(hit)` is called when a person chooses it, `answer` is the one that the hit came in. */
export function card(hit, answer, offered, open) {
  const title = hit.highlights[offered.title] ? marked(hit.highlights[offered.title]) : [titleOf(hit, offered)];
  const year = yearOf(hit.document, offered);
  const about = facts(hit, offered);
  const text = snippet(hit, offered);
  const arms = Object.keys(hit.arms);
  const decided = answer.decision.policy !== "none"; // a plain listing needs no reasons
  const why = decided ? el("button", { type: "button", class: "button quiet why", "aria-expanded": "false" }, "Why this result") : null;
  const item = el("li", { class: "card hit", "data-id": hit.object_id },
    el("span", { class: "place", "aria-hidden": "true" }, String(hit.position)),
    el("div", {},
      el("h2", {},
        el("button", { type: "button", class: "open", onclick: () => { item.classList.add("seen"); open(hit, answer); } }, title),
        year ? el("span", { class: "year" }, ` ${year}`) : null),
      about.length ? el("p", { class: "facts" }, about) : null,
      text ? el("p", { class: "text" }, text) : null,
      decided ? el("div", { class: "found" }, arms.map((arm) => el("span", { class: "badge", "data-arm": arm }, armDot(arm), arm)), why) : null));
  why?.addEventListener("click", () => toggleReasons(why, item, hit, answer));
  return item;
}

function toggleReasons(button, item, hit, answer) {
  const shown = item.querySelector(".reasons");
  button.setAttribute("aria-expanded", String(!shown));
  if (shown) return shown.remove();
  const effects = el("div", {}, el("h3", {}, "What moved its score"), el("p", { class: "small muted" }, "Looking it up…"));
  item.lastElementChild.append(el("div", { class: "reasons" }, el("div", { class: "two" }, foundBy(hit, answer), effects)));
  contributions(answer.query_id, hit.object_id).then((nodes) => effects.replaceChildren(effects.firstChild, ...nodes));
}

function foundBy(hit, answer) {
  const rows = Object.entries(hit.arms).map(([arm, { rank, score }]) =>
    el("tr", {}, el("td", {}, el("span", { class: "badge" }, armDot(arm), arm)),
      el("td", { class: "number" }, `${rank} of ${answer.decision.arms[arm]?.count ?? "?"}`),
      el("td", { class: "number" }, score.toPrecision(3))));
  const words = hit.tail
    ? "Beyond the candidates of this decision; here in static order."
    : "No arm named it; it matches the words.";
  return el("div", {}, el("h3", {}, "Found by"),
    rows.length
      ? el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Arm"), el("th", { class: "number" }, "Rank"), el("th", { class: "number" }, "Score"))), el("tbody", {}, rows))
      : el("p", { class: "small muted" }, words));
}

const explained = new Map();

/** The features that changed this item's score most, from GET /v1/explain, which needs the admin key. */
async function contributions(queryId, objectId) {
  if (!explained.has(queryId)) {
    explained.set(queryId, call(`/v1/explain/${encodeURIComponent(queryId)}`, { key: adminKey.get() }));
  }
  let hits;
  try {
    hits = (await explained.get(queryId)).hits;
  } catch (error) {
    explained.delete(queryId);
    const words = error.status === 401 ? "For operators: enter the admin key on the console first." : error.message;
    return [el("p", { class: "small muted" }, words)];
  }
  const found = hits.find((one) => one.object_id === objectId)?.contributions ?? {};
  const effects = Object.entries(found).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, EFFECTS);
  if (!effects.length) return [el("p", { class: "small muted" }, "The ranker keeps no features for this place of the list.")];
  const most = Math.abs(effects[0][1]) || 1;
  return effects.map(([name, value]) => {
    const fill = el("i");
    fill.style.width = `${(100 * Math.abs(value)) / most}%`;
    return el("div", { class: "effect" }, el("span", { title: name }, label(name)),
      el("div", { class: value < 0 ? "meter down" : "meter", "aria-hidden": "true" }, fill),
      el("span", { class: "number" }, signed(value, 2)));
  });
}

/** How the answer's candidates were chosen, as a strip with a table behind it. */
export function decisionStrip(answer) {
  const { decision } = answer;
  const arms = Object.entries(decision.arms);
  const requested = arms.filter(([, choice]) => choice.count > 0);
  if (decision.policy === "none" || arms.length === 0) return [];
  const total = requested.reduce((sum, [, choice]) => sum + choice.count, 0);
  const pieces = requested.map(([arm, choice]) => {
    const piece = el("i", { class: armClass(arm) });
    piece.style.flexGrow = String(choice.count);
    return piece;
  });
  const mode = decision.mode === "learned" ? `learned policy (${decision.policy})` : decision.mode === "shadow" ? "static counts, learned policy looking on" : "static counts";
  const legend = el("ul", { class: "legend" }, arms.map(([arm, choice]) =>
    el("li", { class: choice.count ? "" : "off" }, armDot(arm), `${arm} `, el("b", {}, number(choice.count)))));
  const rows = arms.map(([arm, choice]) =>
    el("tr", {}, el("td", {}, el("span", { class: "badge" }, armDot(arm), arm)), el("td", { class: "number" }, number(choice.count)), el("td", { class: "number" }, choice.propensity.toFixed(3))));
  return [el("details", {},
    el("summary", { title: "How the candidates were chosen" },
      el("span", { class: "what" }, `${number(total)} candidates from ${requested.length} of ${arms.length} arms · ${mode}`), legend,
      el("span", { class: "bar", "aria-hidden": "true" }, pieces)),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Arm"), el("th", { class: "number" }, "Candidates"), el("th", { class: "number" }, "Chance of this count"))), el("tbody", {}, rows)))];
}
