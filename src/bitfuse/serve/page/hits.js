// The found items: cards, and the dialog with everything about one.

import { showThumbnail } from "/page/api.js";
import { barcode } from "/page/barcode.js";
import { byId, el, number, plural } from "/page/dom.js";

const SHORT = 3;

export const captionOf = (item) => item.text || item.id;

/** The item's picture, or the first letter of its caption where it has none. */
export function picture(item, size, lettered = true) {
  const letter = () => el("span", { class: "letter", "aria-hidden": "true" }, lettered ? captionOf(item).slice(0, 1) : "");
  const frame = el("span", { class: "frame" });
  if (item.thumbnail === null) {
    frame.append(letter());
    return frame;
  }
  const img = el("img", { alt: "", decoding: "async" });
  frame.append(img);
  showThumbnail(img, `${item.thumbnail}?size=${size}`, () => frame.replaceChildren(letter()));
  return frame;
}

function attributeList(attributes, names) {
  const rows = names.filter((name) => attributes[name] !== null && attributes[name] !== undefined);
  const value = (name) => {
    const it = attributes[name];
    return typeof it === "boolean" ? (it ? "yes" : "no") : number(it);
  };
  const pairs = rows.map((name) => el("div", {}, el("dt", {}, name), el("dd", {}, value(name))));
  return pairs.length ? el("dl", { class: "attributes" }, ...pairs) : null;
}

/** "3 of 32 bits differ", or where several codes were asked for, their mean distance. */
function distance(hit) {
  const bits = hit.explanation.bits;
  return el(
    "p", { class: "distance" }, el("strong", {}, number(hit.distance)), ` of ${plural(bits, "bit")} differ`,
  );
}

/** The card of a hit; `actions` has `open(hit)` and `like(hit)`, `declared` the attributes worth a line. */
export function card(hit, declared, actions) {
  const caption = captionOf(hit.item);
  const open = el(
    "button", { type: "button", class: "open", onclick: () => actions.open(hit) }, picture(hit.item, 320),
    el("span", { class: "caption" }, caption),
  );
  const like = el("button", { type: "button", class: "like", onclick: () => actions.like(hit) }, "More like this");
  like.setAttribute("aria-label", `More like this: ${caption}`);
  const made = el(
    "li", { class: "card" }, open, distance(hit), barcode(hit.explanation),
    attributeList(hit.item.attributes, declared.slice(0, SHORT)), like,
  );
  return made;
}

/** Open the dialog with all that is known of a hit. */
export function openDetail(hit, actions) {
  const dialog = byId("detail");
  const { item, explanation } = hit;
  byId("detail-picture").replaceChildren(picture(item, 768));
  const like = el("button", { type: "button", class: "main" }, "More like this");
  like.addEventListener("click", () => {
    dialog.close();
    actions.like(hit);
  });
  const code = (name, hex) => el("div", {}, el("dt", {}, name), el("dd", { class: "hex" }, hex));
  const parts = Object.entries(explanation.distance_by_view ?? {});
  const byPart = parts.map(([name, bits]) => `${name === "image" ? "picture" : name} alone ${number(bits)}`).join(", ");
  byId("detail-facts").replaceChildren(
    ...[
      el("h2", { id: "detail-title" }, captionOf(item)), distance(hit), barcode(explanation),
      byPart ? el("p", { class: "quieter" }, `By part of the search: ${byPart}.`) : null,
      attributeList(item.attributes, Object.keys(item.attributes)), like,
      el("details", {}, el("summary", {}, "Codes"), el(
        "dl", { class: "attributes" }, code("id", item.id), code("item", explanation.code),
        code("search", explanation.query_code),
      )),
    ].filter((part) => part !== null),
  );
  dialog.showModal();
}
