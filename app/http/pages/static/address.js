// What is searched for, as the address says it: ?q=…&f.genres=Drama&r.year=1990..1999&sort=-year

const NUMBER = /^-?\d+(\.\d+)?$/;

export function empty() {
  return { q: "", values: {}, ranges: {}, sort: "relevance" };
}

export function read(search) {
  const state = empty();
  for (const [name, value] of new URLSearchParams(search)) {
    if (name === "q") state.q = value;
    else if (name === "sort") state.sort = value;
    else if (name.startsWith("f.")) (state.values[name.slice(2)] ??= []).push(value);
    else if (name.startsWith("r.")) {
      const [low, high] = value.split("..").map((bound) => (NUMBER.test(bound) ? Number(bound) : null));
      if (low !== null || high !== null) state.ranges[name.slice(2)] = { low, high: high ?? null };
    }
  }
  return state;
}

export function write(state) {
  const parts = new URLSearchParams();
  if (state.q) parts.set("q", state.q);
  for (const [name, values] of Object.entries(state.values)) for (const value of values) parts.append(`f.${name}`, value);
  for (const [name, { low, high }] of Object.entries(state.ranges)) parts.set(`r.${name}`, `${low ?? ""}..${high ?? ""}`);
  if (state.sort !== "relevance") parts.set("sort", state.sort);
  const text = parts.toString();
  return text ? `/?${text}` : "/";
}

/** `filters` of a search request. */
export function filters(state) {
  const made = {};
  for (const [name, values] of Object.entries(state.values)) if (values.length) made[name] = values;
  for (const [name, { low, high }] of Object.entries(state.ranges)) {
    made[name] = { ...(low !== null && { gte: low }), ...(high !== null && { lte: high }) };
  }
  return made;
}
