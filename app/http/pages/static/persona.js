// Who is searching: nobody in particular (this tab's session), or a user whose history the service knows.

import { byId, el, icon, uuid } from "/static/common.js";

const PERSON = ["M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8z", "M4.5 20c.8-3.6 3.9-5.5 7.5-5.5s6.7 1.9 7.5 5.5"];
const MOST = 6;

function session() {
  let id = sessionStorage.getItem("ltrr.session");
  if (!id) sessionStorage.setItem("ltrr.session", (id = uuid()));
  return id;
}

const people = () => JSON.parse(localStorage.getItem("ltrr.people") || "[]");
const user = () => sessionStorage.getItem("ltrr.user") || "";

/** The ids that go with every search and event. */
export function who() {
  return { session_id: session(), client_id: "search-page", ...(user() && { user_id: user() }) };
}

/** The picker in the bar; `changed` is called when somebody else searches. */
export function personaPicker(changed) {
  const button = byId("persona");
  const picker = byId("personas");

  function become(id) {
    sessionStorage.setItem("ltrr.user", id);
    if (id) localStorage.setItem("ltrr.people", JSON.stringify([id, ...people().filter((one) => one !== id)].slice(0, MOST)));
    picker.hidePopover();
    show();
    changed();
  }

  function show() {
    const name = user() || "Anonymous";
    button.replaceChildren(icon(...PERSON), el("span", {}, name));
    button.setAttribute("aria-label", `Searching as ${name}; change`);
    const choice = (id, words) =>
      el("li", {}, el("button", { type: "button", class: "button quiet", "aria-pressed": String(user() === id), onclick: () => become(id) }, words));
    byId("known").replaceChildren(choice("", "Anonymous"), ...people().map((id) => choice(id, id)));
  }

  byId("become").addEventListener("submit", (event) => {
    event.preventDefault();
    const id = byId("user").value.trim();
    byId("user").value = "";
    if (id) become(id);
  });
  show();
}
