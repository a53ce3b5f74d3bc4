// What all pages share: making elements, calling the API, the theme.

/** An element. Text is always text: nothing here reads HTML. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** A line drawing of 24 x 24 from path data. */
export function icon(...paths) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = {
    viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": "1.8",
    "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true",
  };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  for (const d of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** Colour class of an arm (arms.css); one that this release does not have gets the colour `--other`. */
export const armClass = (arm) => `of-${arm}`;

export const armDot = (arm) => el("span", { class: `dot ${armClass(arm)}`, "aria-hidden": "true" });

/** "release_year" -> "Release year". */
export function label(name) {
  const words = name.replace(/[_.-]+/g, " ").replace(/([a-z])([A-Z])/g, "$1 $2").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const plain = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
export const number = (value) => plain.format(value);
export const signed = (value, digits = 3) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** JSON of our own API. Throws Failed with words that a person can read. */
export async function call(path, { method = "GET", body, signal, key, keepalive } = {}) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, keepalive, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "The service does not answer. Is it running?");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Failed(response.status, answer?.detail || `The service answered ${response.status}.`);
  return answer;
}

/** The console's key, kept for this tab only. */
export const adminKey = {
  get: () => sessionStorage.getItem("ltrr.key") || "",
  set: (key) => sessionStorage.setItem("ltrr.key", key),
};

/** A random id; randomUUID exists on secure origins only. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let timer = 0;

/** Say something in passing; inside an open dialog, because that one covers the page. */
export function toast(message) {
  document.querySelector(".toast")?.remove();
  clearTimeout(timer);
  const place = document.querySelector("dialog[open] .says") || document.body;
  const shown = el("div", { class: "toast", role: "status" }, message);
  place.append(shown);
  timer = setTimeout(() => shown.remove(), 5000);
}

const SUN = ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z", "M12 2v2M12 20v2M4 12H2M22 12h-2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19"];
const MOON = ["M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z"];

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The button that changes between light and dark; `changed` is called after every change, the system's own too. */
export function themeButton(button, changed = () => {}) {
  const show = () => {
    button.replaceChildren(icon(...(isDark() ? SUN : MOON)));
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("ltrr.theme", next);
    show();
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    show();
    changed();
  });
  show();
}
