// The engineers' view: sizes, buckets of equal codes, latency by stage, and quality by code length.

import { Refusal, collectionPath, get, request } from "/page/api.js";
import { el, number, plural, svg } from "/page/dom.js";
import { errorPanel } from "/page/words.js";

const RENEW_MS = 10_000;
const SIZE = { width: 640, height: 260, left: 48, right: 16, top: 12, bottom: 40 };

/** Histograms of one metric in Prometheus' text format: label value -> {buckets: [[bound, count]], count, sum}. */
export function histograms(text, metric, label) {
  const found = new Map();
  const line = new RegExp(`^${metric}_(bucket|count|sum)\\{(.*)\\} (\\S+)$`, "gm");
  for (const [, kind, labels, value] of text.matchAll(line)) {
    const named = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, said]) => [name, said]));
    const entry = found.get(named[label]) ?? { buckets: [], count: 0, sum: 0 };
    if (kind === "bucket") entry.buckets.push([named.le === "+Inf" ? Infinity : Number(named.le), Number(value)]);
    else entry[kind] = Number(value);
    found.set(named[label], entry);
  }
  return found;
}

/** The quantile of a histogram, evenly spread inside its bucket; null beyond the last bound. */
export function quantile({ buckets, count }, share) {
  let [below, before] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= share * count) {
      return bound === Infinity ? null : below + ((bound - below) * (share * count - before)) / (upTo - before || 1);
    }
    [below, before] = [bound, upTo];
  }
  return null;
}

const milliseconds = (seconds) => (seconds === null ? "over 30 s" : `${number(Number((1000 * seconds).toPrecision(3)))} ms`);

const table = (caption, heads, rows) => el(
  "div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, el(
    "table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map(([first, ...rest]) =>
      el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((cell) => el("td", {}, cell))))),
  ),
);

const section = (title, text, ...parts) => el("section", { class: "panel" }, el("h2", {}, title), el("p", {}, text), ...parts);

function barOf(share) {
  const rect = svg("rect", { width: Math.max(100 * share, 0.5), height: 10, class: "bar-fill" });
  return svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, rect);
}

function buckets(stats) {
  const most = Math.max(...stats.buckets.map(([, codes]) => codes), 1);
  const named = (least) => (least === 1 ? "1 item" : `${number(least)} to ${number(2 * least - 1)} items`);
  const rows = stats.buckets.map(([least, codes]) => [named(least), number(codes), barOf(codes / most)]);
  const text =
    `Items with the same code share a bucket, and a search cannot tell them apart. ${plural(stats.items, "item")} ` +
    `have ${plural(stats.distinct_codes, "distinct code")}; the largest bucket holds ${number(stats.largest_bucket)}.`;
  return section("Buckets", text, table("Buckets", ["Bucket", "Codes", ""], rows));
}

function latency(stats, metrics) {
  const scan = stats.latency_ms === null ? "" : `One scan over all codes takes ${number(stats.latency_ms)} ms (median, measured now). `;
  if (metrics === null) return section("Latency", `${scan}This key may not read the server's measures.`);
  const row = (name, histogram) => [
    name, number(histogram.count), milliseconds(histogram.sum / histogram.count), milliseconds(quantile(histogram, 0.5)),
    milliseconds(quantile(histogram, 0.99)),
  ];
  const stages = [...histograms(metrics, "bitfuse_stage_seconds", "stage")];
  const routes = [...histograms(metrics, "bitfuse_request_seconds", "route")];
  const searches = routes.filter(([route]) => /\/search(\/picture)?$/.test(route));
  const rows = [
    ...stages.map(([name, histogram]) => [name, histogram]),
    ...searches.map(([route, histogram]) => [route.endsWith("picture") ? "whole search by picture" : "whole search", histogram]),
  ].filter(([, histogram]) => histogram.count).map(([name, histogram]) => row(name, histogram));
  const text = `${scan}By stage, since the server started, over all its collections; median and p99 are read from histograms.`;
  if (!rows.length) return section("Latency", `${scan}Nothing was asked of this server yet.`);
  return section("Latency", text, table("Latency", ["Stage", "Times", "Mean", "Median", "p99"], rows));
}

/** Lines over code lengths; `rows` are {n_bits, name: value} with values from 0 to 1. */
function lines(rows, names) {
  const { width, height, left, right, top, bottom } = SIZE;
  const logs = rows.map((row) => Math.log2(row.n_bits));
  const [first, last] = [Math.min(...logs), Math.max(...logs)];
  const x = (bits) => left + ((width - left - right) * (Math.log2(bits) - first)) / (last - first || 1);
  const y = (value) => height - bottom - (height - top - bottom) * value;
  const grid = [0, 0.25, 0.5, 0.75, 1].map((share) => svg(
    "g", {}, svg("line", { class: "rule", x1: left, x2: width - right, y1: y(share), y2: y(share) }),
    svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, number(share)),
  ));
  const ticks = rows.map((row) => svg("text", { x: x(row.n_bits), y: height - bottom + 18, "text-anchor": "middle" }, String(row.n_bits)));
  const drawn = names.map((name, at) => {
    const points = rows.filter((row) => row[name] !== undefined).map((row) => [x(row.n_bits), y(row[name])]);
    const dots = points.map(([cx, cy]) => svg("circle", { cx, cy, r: 4 }));
    return svg("g", { class: `series series-${at % 4}` }, svg("polyline", { points: points.join(" ") }), ...dots);
  });
  const axis = svg("text", { x: (width + left) / 2, y: height - 4, "text-anchor": "middle" }, "code length in bits");
  const attributes = {
    class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Quality by code length; the table below has the figures",
  };
  return svg("svg", attributes, ...grid, ...ticks, axis, ...drawn);
}

/** What `fit --sweep` stored: {metric, queries, gallery, lengths: [{bits, map, recall_of_10_neighbours, ...}]}. */
function sweep(stored) {
  const quality = { [String(stored?.metric)]: "map", "Of the 10 nearest by the features": "recall_of_10_neighbours" };
  const measures = { ...quality, "Distinct codes": "distinct_share" };
  const part = (value) => (Number.isFinite(value) && value >= 0 && value <= 1 ? value : undefined);
  const rows = (Array.isArray(stored?.lengths) ? stored.lengths : []).filter((one) => Number.isInteger(one?.bits) && one.bits > 0)
    .map((one) => ({ n_bits: one.bits, ...Object.fromEntries(Object.entries(measures).map(([name, key]) => [name, part(one[key])])) }))
    .sort((a, b) => a.n_bits - b.n_bits);
  const names = Object.keys(measures).filter((name) => rows.some((row) => row[name] !== undefined));
  const drawn = names.filter((name) => name in quality);
  if (!drawn.length) {
    return section("Code length against quality", "This model was fitted without a sweep over code lengths (bitfuse fit --sweep).");
  }
  const text =
    "What shorter and longer codes of this method would give, measured when the model was fitted: " +
    `${number(stored.queries)} held-out queries among ${number(stored.gallery)} items.`;
  const key = drawn.map((name, at) => el("li", { class: `series-${at % 4}` }, name));
  const cell = (value) => (value === undefined ? "" : number(value));
  const figures = rows.map((row) => [String(row.n_bits), ...names.map((name) => cell(row[name]))]);
  return section(
    "Code length against quality", text, lines(rows, drawn), el("ul", { class: "legend" }, ...key),
    table("Code length against quality", ["Bits", ...names], figures),
  );
}

function tiles(stats) {
  const bytes = (n) => (n < 1e6 ? `${number(Math.round(n / 1e3))} kB` : `${number(Math.round(n / 1e5) / 10)} MB`);
  const facts = {
    Items: number(stats.items), "Code length": plural(stats.n_bits, "bit"), Method: stats.method,
    "Distinct codes": stats.items ? `${number(Math.round((1000 * stats.distinct_codes) / stats.items) / 10)} %` : "none",
    "Scan, median": stats.latency_ms === null ? "none" : `${number(stats.latency_ms)} ms`,
    "On disk": bytes(Object.values(stats.bytes ?? {}).reduce((sum, n) => sum + n, 0)),
  };
  const made = Object.entries(facts).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  return el("dl", { class: "tiles" }, ...made);
}

/** The whole view, as elements; refusals of single parts leave those out. */
async function figures(collection, signal) {
  const orNull = (promise) => promise.catch((error) => {
    if (error instanceof Refusal && [403, 404].includes(error.status)) return null;
    throw error;
  });
  const [stats, stored, metrics] = await Promise.all([
    get(collectionPath(collection, "stats"), signal), orNull(get(collectionPath(collection, "sweep"), signal)),
    orNull(request("/metrics", { signal }).then((response) => response.text())),
  ]);
  return [
    el("h1", {}, `Figures of ${collection}`), tiles(stats),
    ...(stats.drift ? [el("p", { class: "notice" }, String(stats.drift))] : []),
    buckets(stats), latency(stats, metrics), sweep(stored?.sweep),
    el("p", { class: "quieter" }, `Read at ${new Date().toLocaleTimeString()}; renewed every 10 seconds.`),
  ];
}

/** Show the view and renew it while somebody looks at it, until `signal` ends it. */
export async function watch(view, collection, signal) {
  const again = () => watch(view, collection, signal);
  try {
    const parts = await figures(collection, signal);
    if (signal.aborted) return;
    const focused = view.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    view.replaceChildren(...parts);
    if (focused) [...view.querySelectorAll("[tabindex]")].find((p) => p.getAttribute("aria-label") === focused)?.focus();
  } catch (error) {
    if (signal.aborted) return;
    view.replaceChildren(errorPanel(error, again));
    return;
  }
  setTimeout(() => {
    if (signal.aborted) return;
    if (document.hidden) document.addEventListener("visibilitychange", again, { once: true, signal });
    else again();
  }, RENEW_MS);
}
