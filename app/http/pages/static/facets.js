// Values to narrow a search by, a range for years, and chips of the active filters.

import { byId, call, el, label, number } from "/static/common.js";

const SHOWN = 6;
const MOST = 20;
const FIELDS = 4;
const TELLING = 0.1; // share of items that a facet's ten commonest values must cover

/** The keyword fields of this catalogue that are worth choosing from; requested once per tab. */
export async function worthwhile(offered) {
  if (offered.facets.length === 0) return [];
  const name = `ltrr.facets.${offered.facets.join(",")}`;
  const known = sessionStorage.getItem(name);
  if (known) return JSON.parse(known);
  const answer = await call("/v1/search", {
    method: "POST", body: { query: "", facets: offered.facets, limit: 1, learn: false, timeout_ms: 2000 },
  });
  const covered = (field) =>
    (answer.facets[field] ?? []).slice(0, 10).reduce((sum, value) => sum + value.count, 0) / Math.max(answer.total, 1);
  const good = offered.facets
    .filter((field) => (answer.facets[field] ?? []).length > 1 && covered(field) >= TELLING)
    .sort((a, b) => covered(b) - covered(a))
    .slice(0, FIELDS)
    .sort((a, b) => offered.facets.indexOf(a) - offered.facets.indexOf(b));
  if (answer.total > 0) sessionStorage.setItem(name, JSON.stringify(good));
  return good;
}

const opened = new Set();

/** Draw the facets; `change(state)` is called with the state that a choice leads to. */
export function drawFacets(fields, range, facets, state, change) {
  const drawn = fields.map((field) => values(field, facets[field] ?? [], state, change)).filter(Boolean);
  if (range) drawn.push(bounds(range, state, change));
  byId("facets").replaceChildren(...drawn);
  byId("filters").hidden = drawn.length === 0;
}

function values(field, counted, state, change) {
  const chosen = state.values[field] ?? [];
  const gone = chosen.filter((value) => !counted.some((one) => String(one.value) === value));
  const all = [...gone.map((value) => ({ value, count: 0 })), ...counted];
  if (all.length === 0) return null;
  const shown = all.slice(0, opened.has(field) ? MOST : Math.max(SHOWN, chosen.length));
  const set = el("fieldset", {}, el("legend", {}, label(field)));
  for (const { value, count } of shown) {
    const box = el("input", { type: "checkbox", checked: chosen.includes(String(value)), onchange: () => change(toggled(state, field, String(value))) });
    set.append(el("label", { class: "value" }, box, el("span", { title: String(value) }, String(value)), el("small", {}, number(count))));
  }
  if (all.length > SHOWN) {
    const more = el("button", { type: "button", class: "link" }, opened.has(field) ? "Fewer" : "More");
    more.addEventListener("click", () => {
      opened.has(field) ? opened.delete(field) : opened.add(field);
      const again = values(field, counted, state, change);
      set.replaceWith(again);
      again.querySelector(".link")?.focus();
    });
    set.append(more);
  }
  return set;
}

function bounds(field, state, change) {
  const held = state.ranges[field] ?? { low: null, high: null };
  const input = (end, words) =>
    el("input", {
      class: "field", type: "number", step: "any", placeholder: words, "aria-label": `${label(field)} ${words.toLowerCase()}`,
      value: held[end], onchange: (event) => {
        const value = event.target.value === "" ? null : Number(event.target.value);
        change(ranged(state, field, { ...held, [end]: value }));
      },
    });
  return el("fieldset", {}, el("legend", {}, label(field)), el("div", { class: "range" }, input("low", "From"), "–", input("high", "To")));
}

export function toggled(state, field, value) {
  const chosen = state.values[field] ?? [];
  const next = chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value];
  return { ...state, values: { ...state.values, [field]: next } };
}

export function ranged(state, field, range) {
  const ranges = { ...state.ranges, [field]: range };
  if (range.low === null && range.high === null) delete ranges[field];
  return { ...state, ranges };
}

/** What narrows the search now, each with a way out. */
export function drawChips(state, change) {
  const chips = [];
  const chip = (text, next) =>
    chips.push(
      el("li", {}, el("button", { type: "button", class: "chip on", onclick: () => change(next) },
        text, el("span", { class: "x", "aria-hidden": "true" }, "×"), el("span", { class: "sr-only" }, "remove"))),
    );
  for (const [field, chosen] of Object.entries(state.values))
    for (const value of chosen) chip(`${label(field)}: ${value}`, toggled(state, field, value));
  for (const [field, { low, high }] of Object.entries(state.ranges))
    chip(`${label(field)}: ${low ?? "…"} – ${high ?? "…"}`, ranged(state, field, { low: null, high: null }));
  if (chips.length > 1) {
    const none = { ...state, values: {}, ranges: {} };
    chips.push(el("li", {}, el("button", { type: "button", class: "chip", onclick: () => change(none) }, "Clear all")));
  }
  byId("chips").replaceChildren(...chips);
}
