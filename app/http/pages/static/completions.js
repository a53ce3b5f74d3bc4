// Completions under the search box: the combobox pattern of the ARIA Authoring Practices, list autocomplete.

import { byId, call, el } from "/static/common.js";

const PAUSE = 90; // milliseconds without a key before asking
const MOST = 8;

/** `session()` gives the session's id; `chosen(text)` is called when a person takes a completion. */
export function completions(session, chosen) {
  const box = byId("q");
  const list = byId("completions");
  let timer = 0;
  let asking = null;
  let active = -1;
  let typed = "";

  function close() {
    clearTimeout(timer);
    asking?.abort();
    list.hidden = true;
    list.replaceChildren();
    active = -1;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  }

  function take(text) {
    box.value = text;
    close();
    chosen(text);
  }

  function move(step) {
    const options = [...list.children];
    active = active + step < -1 ? options.length - 1 : active + step >= options.length ? -1 : active + step;
    options.forEach((option, place) => option.setAttribute("aria-selected", String(place === active)));
    box.value = active < 0 ? typed : options[active].dataset.text;
    if (active < 0) box.removeAttribute("aria-activedescendant");
    else box.setAttribute("aria-activedescendant", options[active].id);
  }

  function show(suggestions) {
    if (!suggestions.length || document.activeElement !== box) return close();
    list.replaceChildren(
      ...suggestions.map(({ text }, place) =>
        el("li", {
          id: `completion-${place}`, role: "option", "aria-selected": "false", "data-text": text,
          onpointerdown: (event) => event.preventDefault(), // the box keeps the focus
          onclick: () => take(text),
        }, ...parts(text, typed)),
      ),
    );
    active = -1;
    list.hidden = false;
    box.setAttribute("aria-expanded", "true");
  }

  async function ask() {
    asking?.abort();
    asking = new AbortController();
    const parameters = new URLSearchParams({ q: typed, limit: String(MOST), session_id: session() });
    try {
      const answer = await call(`/v1/autocomplete?${parameters}`, { signal: asking.signal });
      show(answer.suggestions);
    } catch {
      // A completion that does not come is not worth a message; the search itself says what is wrong.
    }
  }

  box.addEventListener("input", () => {
    typed = box.value;
    clearTimeout(timer);
    if (typed.trim()) timer = setTimeout(ask, PAUSE);
    else close();
  });
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      box.value = typed;
      close();
    } else if (!list.hidden && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "ArrowDown" && box.value.trim()) {
      event.preventDefault();
      typed = box.value;
      ask();
    }
  });
  box.addEventListener("blur", close);
  return { close };
}

/** The completion with what it adds in bold. */
function parts(text, typed) {
  const start = typed.trimStart();
  if (!text.toLowerCase().startsWith(start.toLowerCase())) return [text];
  return [text.slice(0, start.length), el("b", {}, text.slice(start.length))];
}
