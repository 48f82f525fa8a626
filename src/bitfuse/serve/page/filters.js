// Filters: controls made from a collection's facets, and the filter text (`where`) of what is chosen in them.

import { el, number } from "/page/dom.js";

const SHOWN = 8;
const isNumber = (facet) => facet.type === "int" || facet.type === "float";
const quoted = (text, quote) => quote + text.replaceAll(quote, quote + quote) + quote;

function range(value) {
  const [least = "", most = ""] = value.split("..");
  const bound = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? String(Number(text)) : "");
  return [bound(least), bound(most)];
}

/** The chosen values that a facet can mean; others (of an old link, say) are left out. */
export function fitting(facets, chosen) {
  const kept = {};
  for (const [name, values] of Object.entries(chosen)) {
    const facet = Object.hasOwn(facets, name) ? facets[name] : null;
    if (facet === null) continue;
    let good = values.filter((value) => value !== "");
    if (isNumber(facet)) good = good.slice(0, 1).filter((value) => range(value).join("") !== "");
    if (facet.type === "bool") good = good.filter((value) => value === "true" || value === "false").slice(0, 1);
    if (good.length) kept[name] = good;
  }
  return kept;
}

export function where(facets, chosen) {
  const parts = Object.entries(chosen).flatMap(([name, values]) => {
    const column = quoted(name, '"');
    if (isNumber(facets[name])) {
      const [least, most] = range(values[0]);
      return [...(least ? [`${column} >= ${least}`] : []), ...(most ? [`${column} <= ${most}`] : [])];
    }
    if (facets[name].type === "bool") return [`${column} = ${values[0]}`];
    return [`${column} in (${values.map((value) => quoted(value, "'")).join(", ")})`];
  });
  return parts.length ? parts.join(" and ") : null;
}

function texts(name, facet, values, changed) {
  const known = facet.values.map(({ value, count }) => [String(value), count]);
  const listed = [...known, ...values.filter((v) => !known.some(([k]) => k === v)).map((v) => [v, null])];
  const rows = listed.map(([value, count], at) => {
    const box = el("input", { type: "checkbox", value });
    box.checked = values.includes(value);
    box.addEventListener("change", () => {
      const boxes = [...box.closest("fieldset").querySelectorAll("input:checked")];
      changed(name, boxes.map((each) => each.value));
    });
    const hidden = at >= SHOWN && !box.checked;
    return el(
      "label", { class: "choice", hidden }, box, el("span", { class: "value" }, value),
      count === null ? null : el("span", { class: "count" }, number(count)),
    );
  });
  const rest = rows.filter((row) => row.hidden);
  const more = el("button", { type: "button", class: "quiet small" }, `${rest.length} more`);
  more.addEventListener("click", () => {
    for (const row of rest) row.hidden = false;
    more.remove();
    rest[0].querySelector("input").focus();
  });
  return [...rows, rest.length ? more : null];
}

function truth(name, values, changed) {
  const select = el(
    "select", { "aria-label": name }, el("option", { value: "" }, "any"), el("option", { value: "true" }, "yes"),
    el("option", { value: "false" }, "no"),
  );
  select.value = values[0] ?? "";
  select.addEventListener("change", () => changed(name, select.value === "" ? [] : [select.value]));
  return [select];
}

function numbers(name, facet, values, changed) {
  const given = range(values[0] ?? "");
  const inputs = ["from", "to"].map((end, at) => {
    const attributes = { type: "number", step: facet.type === "int" ? 1 : "any", inputmode: "decimal" };
    const placeholder = number(at ? facet.max : facet.min);
    const input = el("input", { ...attributes, placeholder, "aria-label": `${name} ${end}` });
    input.value = given[at];
    return input;
  });
  for (const input of inputs) {
    input.addEventListener("change", () => changed(name, [inputs.map((each) => each.value).join("..")]));
  }
  return [el("div", { class: "range" }, inputs[0], el("span", { "aria-hidden": "true" }, "to"), inputs[1])];
}

/** One fieldset for each attribute that an item has; `changed(name, values)` is told of every choice. */
export function controls(facets, chosen, changed) {
  return Object.entries(facets).filter(([, facet]) => facet.present > 0).map(([name, facet]) => {
    const values = chosen[name] ?? [];
    let fields;
    if (isNumber(facet)) fields = numbers(name, facet, values, changed);
    else if (facet.type === "bool") fields = truth(name, values, changed);
    else fields = texts(name, facet, values, changed);
    return el("fieldset", {}, el("legend", {}, name), ...fields);
  });
}
