// One item beside the results, and what people do with it: every act is one feedback event.

import { byId, call, el, icon, label, number, toast, uuid } from "/static/common.js";
import { titleOf } from "/static/hits.js";

const CLOSE = ["M6 6l12 12M18 6 6 18"];
const ACTS = [
  { action: "play", words: "Play", paths: ["M8 5v14l11-7z"] },
  { action: "like", words: "Like", paths: ["M12 20S4 15 4 9.3C4 6.4 6.2 5 8.2 5 10 5 11.3 6 12 7.3 12.7 6 14 5 15.8 5c2 0 4.2 1.4 4.2 4.3C20 15 12 20 12 20z"] },
  { action: "dislike", words: "Not for me", paths: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM5.6 5.6l12.8 12.8"] },
];
const REFUSED = {
  duplicate: "That was counted already.",
  late: "Too late: this answer no longer takes feedback.",
  unknown_query: "The service does not know this answer.",
  not_shown: "The service did not show this item.",
  invalid: "The service could not use this event.",
};

const sent = new Set();

/** Tell the service what a person did, at most once for the same answer, item and action. */
export async function tell(action, hit, answer, who) {
  const mark = `${answer.query_id} ${hit.object_id} ${action}`;
  if (sent.has(mark)) return null;
  sent.add(mark);
  const event = {
    event_id: uuid(), query_id: answer.query_id, object_id: hit.object_id, action_name: action,
    timestamp: new Date().toISOString(), position: hit.position, ...who,
  };
  try {
    const { results } = await call("/v1/feedback", { method: "POST", body: event, keepalive: true });
    return results[0].status;
  } catch (error) {
    sent.delete(mark);
    toast(`Not noted: ${error.message}`);
    return null;
  }
}

/** Show `hit` and note the click. `who()` says who is searching. */
export async function open(hit, answer, offered, who) {
  const dialog = byId("detail");
  const close = el("button", { type: "button", class: "button quiet square", "aria-label": "Close", onclick: () => dialog.close() }, icon(...CLOSE));
  const acts = ACTS.map(({ action, words, paths }) => {
    const button = el("button", { type: "button", class: "button", "aria-pressed": "false", "data-action": action }, icon(...paths), words);
    button.addEventListener("click", async () => {
      const status = await tell(action, hit, answer, who());
      if (status === null) return;
      button.setAttribute("aria-pressed", String(status === "accepted"));
      toast(REFUSED[status] ?? `Noted: ${words.toLowerCase()}.`);
    });
    return button;
  });
  dialog.replaceChildren(
    el("div", { class: "inside" },
      el("header", {}, el("h2", { id: "detail-title" }, titleOf(hit, offered)), close),
      el("div", { class: "acts" }, acts), fields(hit, offered), el("div", { class: "says", "aria-live": "polite" })));
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.showModal();
  const status = await tell("click", hit, answer, who());
  if (status === "accepted") toast("Click noted. Search the same again: the memory arm knows it now.");
  else if (status !== null) toast(REFUSED[status]);
}

/** Every field of the document, in the schema's order, then the rest. */
function fields(hit, offered) {
  const known = offered.fields.map((field) => field.name).filter((name) => name !== "id");
  const names = [...known, ...Object.keys(hit.document).filter((name) => name !== "id"), "id"]
    .filter((name, place, all) => all.indexOf(name) === place);
  const made = [];
  for (const name of names) {
    const value = hit.document[name];
    if (name === offered.title || value === null || value === undefined || value === "" || value.length === 0) continue;
    made.push(el("div", {}, el("dt", {}, name === "id" ? "Id" : label(name)), el("dd", {}, shown(value, name, offered))));
  }
  return el("dl", {}, made);
}

function shown(value, name, offered) {
  if (Array.isArray(value)) return el("ul", {}, value.map((one) => el("li", { class: "chip" }, text(one))));
  if (typeof value === "number") return name === offered.created ? String(value) : number(value);
  return text(value);
}

const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
