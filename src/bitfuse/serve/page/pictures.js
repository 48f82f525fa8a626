// Pictures that a user gives: dropped, pasted or chosen; made smaller where they are larger than a server takes.

import { byId } from "/page/dom.js";

const MOST_BYTES = 8 << 20;
const MOST_PIXELS = 20e6;
const SIDE = 2048;

const pictureOf = (files) => [...(files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;

/** The picture as it is to be sent; what this browser cannot read goes as it is, and the server says why not. */
export async function shrunk(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file;
  }
  const { width, height } = bitmap;
  if (file.size <= MOST_BYTES && width * height <= MOST_PIXELS) return file;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * width));
  canvas.height = Math.max(1, Math.round(scale * height));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob((blob) => done(blob ?? file), "image/jpeg", 0.9));
}

/** Take pictures from anywhere on the page; `refused()` is told when something else was dropped. */
export function listen(taken, refused) {
  const sign = byId("drop");
  let depth = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (change) => {
    depth = Math.max(0, change === 0 ? 0 : depth + change);
    sign.hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => holdsFiles(event) && show(1));
  document.addEventListener("dragleave", (event) => holdsFiles(event) && show(-1));
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show(0);
    const file = pictureOf(event.dataTransfer.files);
    if (file === null) refused();
    else taken(file);
  });
  document.addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData?.files);
    if (file === null) return;
    event.preventDefault();
    taken(file);
  });
  const input = byId("file");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const file = pictureOf(input.files);
    if (file !== null) taken(file);
    input.value = "";
  });
}
