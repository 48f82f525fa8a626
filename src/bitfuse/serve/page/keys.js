// Keyboard use beyond what the browser gives: / to the box, arrows between the hits, m for more like this, Escape back.

import { byId } from "/page/dom.js";

const typing = (node) => node.matches("input:not([type=checkbox]):not([type=range]), select, textarea");

/** The hit one row up or down: the nearest in that direction of those in the same column. */
function vertical(cards, from, down) {
  const here = from.getBoundingClientRect();
  const same = cards.filter((card) => {
    const there = card.getBoundingClientRect();
    return Math.abs(there.left - here.left) < 4 && (down ? there.top > here.top : there.top < here.top);
  });
  return down ? same[0] : same.at(-1);
}

function inGrid(event, at) {
  const cards = [...byId("grid").children];
  const index = cards.indexOf(at);
  const steps = {
    ArrowRight: () => cards[index + 1], ArrowLeft: () => cards[index - 1], ArrowDown: () => vertical(cards, at, true),
    ArrowUp: () => vertical(cards, at, false), Home: () => cards[0], End: () => cards.at(-1),
  };
  if (event.key in steps) {
    event.preventDefault();
    const next = steps[event.key]();
    if (next) next.querySelector(".open").focus();
    else if (event.key === "ArrowUp") byId("text").focus();
  } else if (event.key === "m") at.querySelector(".like").click();
  else if (event.key === "Escape") byId("text").focus();
}

/** `removePart()` takes away what a search was given beside words. */
export function listen(removePart) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const at = document.activeElement ?? document.body;
    const card = at.closest(".card");
    const box = byId("text");
    if (event.key === "/" && !typing(at)) {
      event.preventDefault();
      box.focus();
      box.select();
    } else if (card) inGrid(event, card);
    else if ((at === box || at === byId("results")) && event.key === "ArrowDown") {
      event.preventDefault();
      byId("grid").querySelector(".open")?.focus();
    } else if (event.key === "Escape" && (at === document.body || (at === box && !box.value))) removePart();
  });
}
