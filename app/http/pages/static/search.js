// The search page: sends the query in the address to the service and renders the answer.

import { empty, filters, read, write } from "/static/address.js";
import { byId, call, el, icon, label, number, themeButton } from "/static/common.js";
import { completions } from "/static/completions.js";
import { open } from "/static/detail.js";
import { drawChips, drawFacets, worthwhile } from "/static/facets.js";
import { card, decisionStrip } from "/static/hits.js";
import { personaPicker, who } from "/static/persona.js";

const LIMIT = 10;
const DEEPEST = 1000;
const TIMEOUT = 1000; // milliseconds that the arms get; a person looking at a page waits gladly for all of them

let offered = { title: null, created: null, rating: null, fields: [], facets: [], shown: [], range: null, sorts: [] };
let state = read(location.search);
let first = null; // answer of the first page of what is on screen
let reached = 0;
let asking = null;

function request(more) {
  return {
    query: state.q, filters: filters(state), facets: offered.shown, sort: state.sort, limit: LIMIT, timeout_ms: TIMEOUT,
    ...who(), ...more,
  };
}

async function search() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const results = byId("results");
  results.setAttribute("aria-busy", "true");
  drawQuery();
  try {
    const answer = await call("/v1/search", { method: "POST", body: request({}), signal });
    first = answer;
    reached = answer.hits.length;
    byId("hits").replaceChildren();
    draw(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("notices").replaceChildren(failure(error));
  }
  results.removeAttribute("aria-busy");
}

async function more() {
  const button = byId("more");
  button.disabled = true;
  try {
    const body = request({ query_id: first.query_id, offset: reached, limit: Math.min(LIMIT, DEEPEST - reached), facets: [] });
    const answer = await call("/v1/search", { method: "POST", body });
    reached += answer.hits.length;
    const before = byId("hits").childElementCount;
    append(answer);
    byId("more").hidden = done(answer);
    byId("hits").children[before]?.querySelector(".open")?.focus();
  } catch (error) {
    byId("notices").replaceChildren(failure(error));
  }
  button.disabled = false;
}

const done = (answer) => answer.hits.length < LIMIT || reached >= DEEPEST;

function failure(error) {
  const again = el("button", { type: "button", class: "link", onclick: search }, "Try again");
  return el("p", { class: "notice bad", role: "alert" }, `${error.message} `, again);
}

/** Go to another state: a new entry of the browser's history. */
function go(next) {
  state = next;
  const address = write(state);
  if (address !== location.pathname + location.search) history.pushState(null, "", address);
  search();
}

// --- drawing ---

function drawQuery() {
  const box = byId("q");
  if (document.activeElement !== box || !box.value.trim()) box.value = state.q;
  byId("clear").hidden = !box.value;
  byId("sort").value = state.sort;
  document.title = state.q ? `${state.q} – LTRR search` : "LTRR search";
  drawChips(state, go);
}

function draw(answer) {
  const listing = !state.q.trim();
  const items = answer.total === 1 ? "item" : "items";
  byId("count").replaceChildren(
    el("b", { class: "number" }, number(answer.total)), listing ? ` ${items}, most popular first` : answer.total === 1 ? " result" : " results",
    el("span", { class: "muted number" }, ` · ${answer.took_ms.toFixed(1)} ms`));
  if (listing && state.sort !== "relevance") byId("count").childNodes[1].textContent = ` ${items}`;
  drawRead(answer.understanding);
  byId("decision").replaceChildren(...decisionStrip(answer));
  byId("notices").replaceChildren(...answer.degraded.map(({ arm, reason }) =>
    el("p", { class: "notice" }, `${label(arm)} did not answer (${reason}); the others did.`)));
  drawFacets(offered.shown, offered.range, answer.facets, state, go);
  append(answer);
  if (answer.hits.length === 0) byId("hits").append(nothing());
  byId("more").hidden = answer.hits.length === 0 || done(answer);
}

function drawRead({ corrected, slots }) {
  const parts = [];
  if (corrected) {
    parts.push(el("span", { class: "guess" }, el("span", { class: "muted" }, "Did you mean "),
      el("button", { type: "button", class: "link", onclick: () => go({ ...state, q: corrected }) }, corrected)));
  }
  const chips = slots.map((slot) =>
    el("span", { class: "chip", title: `${Math.round(slot.confidence * 100)} % sure` },
      el("span", { class: "muted" }, label(slot.field)), el("b", {}, slot.value)));
  if (chips.length) parts.push(el("span", { class: "chips" }, el("span", { class: "small muted" }, "Understood"), chips));
  byId("read").replaceChildren(...parts);
}

function append(answer) {
  const hits = byId("hits");
  for (const hit of answer.hits) {
    if (hit.tail && !hits.querySelector(".divider")) {
      hits.append(el("li", { class: "divider" }, "Also matching, in static order"));
    }
    hits.append(card(hit, answer, offered, (chosen, shown) => open(chosen, shown, offered, who)));
  }
}

function nothing() {
  const filtered = Object.keys(filters(state)).length > 0;
  const way = filtered
    ? el("button", { type: "button", class: "button", onclick: () => go({ ...state, values: {}, ranges: {} }) }, "Search without filters")
    : el("button", { type: "button", class: "button", onclick: () => go(empty()) }, "Browse everything");
  const words = state.q ? `Nothing matches “${state.q}”` : "Nothing here yet";
  return el("li", { class: "none" }, el("h2", {}, words),
    el("p", { class: "muted" }, filtered ? "The filters may be too narrow." : state.q ? "Try fewer or other words." : "Write items with PUT /v1/items, or run ltrr index."),
    el("p", { class: "foot" }, way));
}

// --- start ---

byId("clear").append(icon("M6 6l12 12M18 6 6 18"));
themeButton(byId("theme"));
personaPicker(search);
const list = completions(() => who().session_id, (text) => go({ ...state, q: text }));

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  list.close();
  go({ ...state, q: byId("q").value.trim() });
});
byId("q").addEventListener("input", () => (byId("clear").hidden = !byId("q").value));
byId("clear").addEventListener("click", () => {
  byId("q").value = "";
  byId("q").focus();
  go({ ...state, q: "" });
});
byId("sort").addEventListener("change", (event) => go({ ...state, sort: event.target.value }));
byId("more").addEventListener("click", more);
addEventListener("popstate", () => {
  state = read(location.search);
  byId("q").value = state.q;
  search();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea, dialog")) return;
  event.preventDefault();
  byId("q").select();
});

const narrow = matchMedia("(max-width: 860px)");
const fold = () => (byId("filters").open = !narrow.matches);
narrow.addEventListener("change", fold);
fold();

try {
  offered = { ...(await call("/pages/fields")), shown: [] };
  offered.shown = await worthwhile(offered);
} catch {
  // Without facets the search still works, and says itself what is wrong.
}
byId("sort").replaceChildren(...offered.sorts.map(({ value, label: words }) => el("option", { value }, words)));
await search();
