// The page put together: one state, kept in the fragment of the address; every action changes it and shows it again.

import { Refusal, collectionPath, forgetKey, get, hasKey, onKeyNeeded, search } from "/page/api.js";
import { byId, el, number } from "/page/dom.js";
import { watch } from "/page/figures.js";
import { controls, fitting, where } from "/page/filters.js";
import { captionOf, card, openDetail, picture as itemPicture } from "/page/hits.js";
import * as keys from "/page/keys.js";
import { askKey } from "/page/login.js";
import * as pictures from "/page/pictures.js";
import { K, nothing, read, write } from "/page/state.js";
import { emptyText, errorPanel, mixText, remarks, statusOf, ways } from "/page/words.js";

let state = nothing();
let summaries = [];
let summary = null;
let facets = {};
let picture = null;
const seen = new Map(); // code -> the picture it came from, so that going back finds it again
let running = new AbortController();
let shown = null; // the search whose hits are in the grid, without its k

const answersTo = (...parts) => summary.answers.some((one) => one.join() === parts.join());
const abilities = () => ({
  text: answersTo("text"), image: answersTo("image"), both: answersTo("text", "image"), none: summary.answers.length === 0,
});

function go(change, push = true) {
  state = { ...state, ...change };
  const address = write(state);
  if (address !== (location.hash || "#")) history[push ? "pushState" : "replaceState"](null, "", address);
  return render();
}

/** What the present state asks for, or null where there is nothing to look for yet. */
function query() {
  const asked = { k: Math.min(state.k, summary.max_k), explain: true };
  const filter = where(facets, state.filters);
  if (filter !== null) asked.where = filter;
  if (state.like) return { ...asked, like: state.like };
  if (picture === null && state.code) return { ...asked, code: state.code };
  if (state.text) asked.text = state.text;
  if (picture !== null && state.text && summary.weighted && state.mix !== 50) {
    asked.weights = { text: 1 - state.mix / 100, image: state.mix / 100 };
  }
  return picture !== null || state.text ? asked : null;
}

function showError(error) {
  if (error.name === "AbortError") return;
  const refusal = error instanceof Refusal ? error : new Refusal(0, "The page failed", String(error));
  byId("status").textContent = "";
  byId("notice").replaceChildren();
  byId("error").replaceChildren(errorPanel(refusal, start));
  for (const id of ["grid", "more", "welcome", "share"]) byId(id).hidden = true;
  shown = null;
}

function showWelcome() {
  const able = abilities();
  byId("welcome-title").textContent = `${number(summary.items)} items in ${summary.name}`;
  byId("ways").replaceChildren(...ways(able).map((way) => el("li", {}, way)));
  byId("status").textContent = "";
  byId("welcome").hidden = false;
  for (const id of ["grid", "more", "share"]) byId(id).hidden = true;
  shown = null;
}

const actions = {
  open: (hit) => openDetail(hit, actions),
  like: (hit) => {
    picture = null;
    scrollTo(0, 0);
    byId("results").focus({ preventScroll: true });
    go({ like: hit.id, text: "", code: "", mix: 50, k: K });
  },
};

function showHits(found) {
  const same = JSON.stringify([write({ ...state, k: 0, code: "" }), found.hits[0]?.explanation.query_code]);
  const from = same === shown ? byId("grid").childElementCount : 0;
  const declared = Object.keys(facets);
  const cards = found.hits.slice(from).map((hit) => card(hit, declared, actions));
  if (from) byId("grid").append(...cards);
  else byId("grid").replaceChildren(...cards);
  shown = same;
  const empty = found.hits.length === 0;
  byId("status").textContent = empty ? "" : statusOf(found);
  const said = empty ? [emptyText(Object.keys(state.filters).length > 0)] : remarks(found);
  byId("notice").replaceChildren(...said);
  byId("grid").hidden = empty;
  byId("more").hidden = empty || found.hits.length < state.k || found.hits.length >= Math.min(summary.max_k, summary.items);
  byId("share").hidden = false;
}

async function run(signal) {
  byId("error").replaceChildren();
  const asked = query();
  const results = byId("results");
  if (asked === null) {
    results.removeAttribute("aria-busy");
    byId("notice").replaceChildren();
    showWelcome();
    return;
  }
  byId("welcome").hidden = true;
  results.setAttribute("aria-busy", "true");
  if (byId("grid").hidden) byId("status").textContent = "Searching…";
  try {
    const found = await search(summary.name, asked, asked.like || asked.code ? null : picture, signal);
    signal.throwIfAborted();
    const code = found.hits[0]?.explanation.query_code;
    if (picture !== null && code && (summary.fused || !state.text)) {
      // a link cannot hold a picture, but it can hold the code of the whole search
      seen.set(code, picture);
      state.code = code;
      history.replaceState(null, "", write(state));
    }
    showHits(found);
  } finally {
    if (!signal.aborted) results.removeAttribute("aria-busy");
  }
}

async function showParts(signal) {
  const given = state.like || picture !== null || state.code;
  byId("parts").hidden = !given;
  byId("mix-field").hidden = !(picture !== null && state.text && summary.weighted);
  byId("mix").value = state.mix;
  byId("mix").setAttribute("aria-valuetext", mixText(state.mix));
  if (!given) return;
  byId("remove").setAttribute("aria-label", state.like ? "Remove the item" : "Remove the picture");
  const frame = byId("chip-picture");
  if (state.like) {
    byId("chip-text").textContent = `More like: ${state.like}`;
    frame.replaceChildren();
    const item = await get(collectionPath(summary.name, "items", state.like), signal).catch(() => null);
    if (item === null || signal.aborted) return;
    byId("chip-text").textContent = `More like: ${captionOf(item)}`;
    frame.replaceChildren(itemPicture(item, 96, false));
  } else if (picture !== null) {
    byId("chip-text").textContent = "Your picture";
    const address = URL.createObjectURL(picture);
    const img = el("img", { alt: "", src: address, onload: () => URL.revokeObjectURL(address) });
    img.addEventListener("error", () => img.remove());
    frame.replaceChildren(img);
  } else {
    byId("chip-text").textContent = "A search with a picture, by its code: the picture itself is not in the link";
    frame.replaceChildren();
  }
}

function showFilters() {
  const fields = controls(facets, state.filters, (name, values) => {
    const focused = document.activeElement;
    const [label, value] = [focused?.getAttribute("aria-label"), focused?.value];
    go({ filters: fitting(facets, { ...state.filters, [name]: values }), k: K });
    const again = [...byId("filter-fields").querySelectorAll("input, select")];
    again.find((each) => each.getAttribute("aria-label") === label && (label !== null || each.value === value))?.focus();
  });
  byId("filter-fields").replaceChildren(...fields);
  const active = Object.keys(state.filters).length;
  byId("filters").hidden = fields.length === 0 || (query() === null && active === 0);
  byId("filters-summary").textContent = active ? `Filters (${active})` : "Filters";
  byId("clear-filters").hidden = active === 0;
}

async function render() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const onSearch = state.view === "search";
  byId("search-view").hidden = !onSearch;
  byId("figures-view").hidden = onSearch;
  for (const [id, is] of [["tab-search", onSearch], ["tab-figures", !onSearch]]) {
    if (is) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  byId("forget").hidden = !hasKey();
  document.title = `${onSearch ? state.text || "Search" : "Figures"} · ${summary.name} · Bitfuse`;
  if (!onSearch) {
    await watch(byId("figures-view"), summary.name, signal);
    return;
  }
  byId("text").value = state.text;
  showFilters();
  showParts(signal).catch(showError);
  await run(signal).catch((error) => signal.aborted || showError(error));
}

async function choose(name) {
  const found = summaries.find((one) => one.name === name);
  summary = found ?? summaries[0];
  byId("collection").value = summary.name;
  facets = (await get(collectionPath(summary.name, "facets"))).facets;
  const able = abilities();
  byId("choose").hidden = !(able.image || able.both);
  let asks = "What are you looking for?";
  if (able.none) asks = "Id of an item";
  else if (!able.text && !able.both) asks = "This collection is searched by pictures";
  byId("text").placeholder = asks;
  byId("text-label").textContent = asks;
  if (name && !found) throw new Refusal(404, `There is no collection "${name}" here`, "The link may be old, or your key may not open it.");
}

/** Read the address and show what it says; the collection's facts are fetched when it changes. */
async function follow() {
  state = read(location.hash);
  try {
    if (state.collection ? state.collection !== summary?.name : summary !== summaries[0]) await choose(state.collection);
  } catch (error) {
    showError(error);
    return;
  }
  state.collection = summaries.length > 1 ? summary.name : "";
  state.filters = fitting(facets, state.filters);
  picture = state.code ? (seen.get(state.code) ?? null) : null;
  await render();
}

async function start() {
  try {
    summaries = (await get("/v1/collections")).collections;
    if (!summaries.length) throw new Refusal(403, "Nothing to search", "This key opens no collection of this server.");
  } catch (error) {
    showError(error);
    return;
  }
  byId("collection-field").hidden = summaries.length < 2;
  byId("collection").replaceChildren(...summaries.map(({ name }) => el("option", { value: name }, name)));
  summary = null;
  const kept = picture;
  await follow();
  if (kept !== null && picture === null && !state.like && !state.code) {
    picture = kept;
    await render();
  }
}

async function takePicture(file) {
  if (!abilities().image && !abilities().both) return;
  picture = await pictures.shrunk(file);
  await go({ view: "search", like: "", code: "", k: K });
}

function removePart() {
  if (!state.like && !state.code && picture === null) return;
  picture = null;
  go({ like: "", code: "", mix: 50, k: K });
  byId("text").focus();
}

onKeyNeeded(askKey);
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (summary === null) return;
  if (abilities().none) go({ like: text, text: "", k: K });
  else go({ text, like: "", code: "", k: K });
});
byId("mix").addEventListener("change", (event) => go({ mix: Number(event.target.value), code: "", k: K }, false));
byId("remove").addEventListener("click", removePart);
byId("clear-filters").addEventListener("click", () => {
  go({ filters: {}, k: K });
  byId("filters-summary").focus();
});
byId("more").addEventListener("click", () => go({ k: Math.min(state.k + K, summary.max_k) }, false));
byId("share").addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href).catch(() => {});
  byId("share").textContent = "Copied";
  setTimeout(() => { byId("share").textContent = "Copy link"; }, 2000);
});
byId("collection").addEventListener("change", (event) => {
  history.pushState(null, "", write({ ...nothing(), collection: event.target.value, view: state.view }));
  follow();
});
byId("tab-search").addEventListener("click", () => summary && go({ view: "search" }));
byId("tab-figures").addEventListener("click", () => summary && go({ view: "figures" }));
byId("forget").addEventListener("click", () => { forgetKey(); location.reload(); });
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("results").focus(); });
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  picture = null;
  history.pushState(null, "", write({ ...nothing(), collection: state.collection }));
  follow();
});
byId("detail-close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", (event) => event.target === byId("detail") && byId("detail").close());
addEventListener("popstate", follow);
pictures.listen(takePicture, () => showError(new Refusal(0, "That is no picture", "Drop a JPEG, PNG, WebP, GIF, BMP or TIFF.")));
keys.listen(removePart);
byId("filters").open = matchMedia("(min-width: 60rem)").matches;
start();
