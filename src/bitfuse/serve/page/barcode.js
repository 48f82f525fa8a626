// Two codes drawn as one barcode: agreeing bits tall, dark for 1 and pale for 0; differing ones short and coloured.

import { plural, svg } from "/page/dom.js";

const bitAt = (hex, at) => (parseInt(hex[at >> 2], 16) >> (3 - (at & 3))) & 1;

export function barcode({ bits, differing_bits: differing, code }) {
  const perRow = bits <= 64 ? bits : bits <= 512 ? 64 : 128;
  const rows = Math.ceil(bits / perRow);
  const differs = new Set(differing);
  const paths = { one: "", zero: "", differ: "" };
  for (let bit = 0; bit < bits; bit += 1) {
    const x = bit % perRow;
    const y = 12 * Math.floor(bit / perRow);
    if (differs.has(bit)) paths.differ += `M${x + 0.1} ${y + 5}h.8v5h-.8z`;
    else paths[bitAt(code, bit) ? "one" : "zero"] += `M${x + 0.1} ${y}h.8v10h-.8z`;
  }
  const height = Math.min(16 * rows, 112);
  const attributes = {
    class: "barcode", viewBox: `0 0 ${perRow} ${12 * rows - 2}`, preserveAspectRatio: "none", height, role: "img",
    "aria-label": `${bits - differing.length} of ${plural(bits, "bit")} match`,
  };
  return svg("svg", attributes, ...Object.entries(paths).map(([name, d]) => svg("path", { class: `bit-${name}`, d })));
}
