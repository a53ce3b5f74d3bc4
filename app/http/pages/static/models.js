// Model versions: the current one, the others, promotion and rollback.

import { byId, call, el, label, number } from "/static/common.js";

const FIGURES = 4;

const when = (at) => (at ? new Date(typeof at === "number" ? at * 1000 : at).toLocaleString() : "");

/** The telling numbers of a version's meta data, in words. */
function summary(meta) {
  const flat = [];
  for (const [name, value] of Object.entries({ ...meta, ...meta.metrics })) {
    if (typeof value === "number") flat.push(`${label(name).toLowerCase()} ${number(value)}`);
  }
  return flat.slice(0, FIGURES).join(" · ");
}

/** Draw the registry; `act(path, question, words)` asks and then posts. */
export function drawModels(listing, act) {
  const kinds = Object.entries(listing.kinds);
  const opened = new Set([...document.querySelectorAll("#models details[open]")].map((one) => one.dataset.kind));
  byId("models").replaceChildren(
    ...(kinds.length ? kinds.map((entry) => kind(...entry, opened, act)) : [el("p", { class: "muted" }, "No model has been published yet.")]),
  );
}

function kind(name, { current, versions }, opened, act) {
  const before = versions.some((one) => one.version !== current && one.promotions.length > 0);
  const back = el("button", {
    type: "button", class: "button", disabled: !before,
    onclick: () => act(`/v1/models/${encodeURIComponent(name)}/rollback`, `Roll ${name} back?`, "The previous version becomes current at once."),
  }, "Roll back");
  const rows = versions.map((one) =>
    el("tr", {},
      el("td", {}, el("code", {}, one.version)),
      el("td", {}, when(one.created)),
      el("td", {}, summary(one.meta)),
      el("td", {}, one.meta.gate ? (one.meta.gate.promote ? "passed" : "not passed") : ""),
      el("td", { class: "number" }, one.current ? el("span", { class: "current" }, "current") : promote(name, one, act))));
  const head = el("tr", {}, ["Version", "Created", "Figures", "Gate", ""].map((words) => el("th", {}, words)));
  return el("div", { class: "kind" },
    el("div", { class: "row" }, el("div", {}, el("h3", {}, label(name)), " ", el("code", {}, current ?? "none current")), back),
    el("details", { "data-kind": name, open: opened.has(name) },
      el("summary", { class: "small muted" }, versions.length === 1 ? "1 version" : `${versions.length} versions`),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows)))));
}

function promote(name, { version }, act) {
  const path = `/v1/models/${encodeURIComponent(name)}/${encodeURIComponent(version)}/promote`;
  return el("button", {
    type: "button", class: "button", onclick: () => act(path, `Promote ${name} ${version}?`, "It becomes current at once. A rollback restores the present version."),
  }, "Promote");
}

export const listModels = (key) => call("/v1/models", { key });
