// A search as the fragment of the address: what stands behind # never goes to a server.

export const VIEWS = ["search", "figures"];
export const K = 24;

export const nothing = () => ({
  collection: "", text: "", code: "", like: "", mix: 50, k: K, view: "search", filters: {},
});

const whole = (text, least, most, otherwise) => {
  const value = Number(text);
  return text !== null && Number.isInteger(value) && value >= least && value <= most ? value : otherwise;
};

export function read(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = nothing();
  state.collection = given.get("c") ?? "";
  state.text = given.get("q") ?? "";
  state.like = given.get("like") ?? "";
  state.code = /^([0-9a-f]{2})+$/.test(given.get("code") ?? "") ? given.get("code") : "";
  state.mix = whole(given.get("mix"), 0, 100, 50);
  state.k = whole(given.get("k"), 1, 100000, K);
  state.view = VIEWS.includes(given.get("view")) ? given.get("view") : "search";
  for (const name of given.keys()) {
    if (name.startsWith("f.")) state.filters[name.slice(2)] = given.getAll(name);
  }
  return state;
}

export function write(state) {
  const said = new URLSearchParams();
  if (state.collection) said.set("c", state.collection);
  if (state.view !== "search") said.set("view", state.view);
  if (state.text) said.set("q", state.text);
  if (state.like) said.set("like", state.like);
  if (state.code) said.set("code", state.code);
  if (state.mix !== 50) said.set("mix", state.mix);
  if (state.k !== K) said.set("k", state.k);
  for (const [name, values] of Object.entries(state.filters)) {
    for (const value of values) said.append(`f.${name}`, value);
  }
  return `#${said}`;
}
