// What the page says. A near hit is no promise: words that mean nothing here can lie near something too.

import { el, number, plural } from "/page/dom.js";

export function statusOf(found, noun = "hit") {
  const nearest = Math.min(...found.hits.map((hit) => hit.distance));
  return (
    `${plural(found.hits.length, noun)} in ${number(Math.round(found.took_ms * 10) / 10)} ms. ` +
    `The nearest differs in ${number(nearest)} of ${plural(found.n_bits, "bit")}; ` +
    `the nearest of as many random codes would in about ${number(found.no_match_from)}.`
  );
}

/** What is to be said beside the hits: no good match loudly, a query of a new kind quietly, for that is no verdict. */
export function remarks(found) {
  const said = [];
  if (!found.good_match) {
    const nearest = Math.min(...found.hits.map((hit) => hit.distance));
    const text =
      `No good match: the nearest hit differs in ${plural(nearest, "bit")}, no fewer than the nearest of as many random ` +
      `codes would (about ${number(found.no_match_from)}).`;
    said.push(el("p", { class: "notice" }, text));
  }
  if (found.novelty !== null && found.novelty > 1) {
    const text =
      `The model has not learned from anything like this search (novelty ${number(Number(found.novelty.toPrecision(2)))}, ` +
      "where 1 is the edge of what it knows): even near hits may mean little.";
    said.push(el("p", { class: "quieter" }, text));
  }
  return said;
}

export function emptyText(filtered) {
  const why = filtered ? "Nothing passes the filters. Clear some of them to see more." : "There is nothing to find here yet.";
  return el("p", { class: "notice" }, why);
}

export const mixText = (mix) => (mix === 50 ? "words and picture together" : `${100 - mix} % words, ${mix} % picture`);

/** A refusal of the server, with a button that tries again. */
export function errorPanel({ message, detail = "", retryAfter = 0, requestId = "" }, tryAgain) {
  return el(
    "div", { class: "panel error", role: "alert" }, el("h2", {}, message), detail ? el("p", {}, detail) : null,
    retryAfter ? el("p", {}, `Try again in ${retryAfter} s.`) : null,
    el("button", { type: "button", class: "main", onclick: tryAgain }, "Try again"),
    requestId ? el("p", { class: "quieter" }, `Request ${requestId}`) : null,
  );
}

export function ways({ text, image, both, none }) {
  if (none) {
    return ["This collection cannot encode words or pictures here. Type the id of an item to see more like it."];
  }
  return [
    ...(text ? ["Describe it in a few words, and press Enter."] : []),
    ...(image ? ["Drop or paste a picture anywhere on this page, or choose one beside the search box."] : []),
    ...(both && text && image ? ["Or give both, and say how much each counts."] : []),
    ...(both && text !== image ? ["Or give words and a picture together."] : []),
    ...(both && !text && !image ? ["Give words and a picture together: this model needs both."] : []),
  ];
}
