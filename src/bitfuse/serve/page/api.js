// The server: requests, refusals (problem details), the key, and pictures.

const KEY = "bitfuse-key";
let asking = null;
let askKey = null;

/** A refusal of the server, or no answer at all (status 0). */
export class Refusal extends Error {
  constructor(status, title, detail = "", requestId = "", retryAfter = 0) {
    super(title);
    Object.assign(this, { status, title, detail, requestId, retryAfter });
  }
}

/** How to get a key from the user: a function of whether the last one was wrong, which promises a key. */
export function onKeyNeeded(ask) {
  askKey = ask;
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const forgetKey = () => sessionStorage.removeItem(KEY);

export async function request(path, options = {}) {
  const used = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(used === null ? {} : { Authorization: `Bearer ${used}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server cannot be reached", "Is it running, and are you still connected?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    // a request that was under way when another one got the key only needs to be repeated
    if (sessionStorage.getItem(KEY) === used) {
      asking ??= askKey(used !== null).then((key) => {
        sessionStorage.setItem(KEY, key);
        asking = null;
      });
      await asking;
    }
    options.signal?.throwIfAborted();
    return request(path, options);
  }
  const said = await response.json().catch(() => ({}));
  throw new Refusal(
    response.status, said.title ?? `The server answered ${response.status}`, said.detail ?? "", said.request_id ?? "",
    Number(response.headers.get("retry-after")) || 0,
  );
}

export const get = async (path, signal) => (await request(path, { signal })).json();

export const collectionPath = (name, ...rest) =>
  ["/v1/collections", name, ...rest].map((part, at) => (at ? encodeURIComponent(part) : part)).join("/");

/** Search; a picture goes as a form, everything else as JSON. */
export async function search(collection, query, picture, signal) {
  if (picture === null) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(query);
    return (await request(collectionPath(collection, "search"), { method: "POST", headers, body, signal })).json();
  }
  const body = new FormData();
  body.append("image", picture, "picture");
  body.append("query", JSON.stringify(query));
  return (await request(`${collectionPath(collection, "search")}/picture`, { method: "POST", body, signal })).json();
}

const loads = new WeakMap();
const nearView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    nearView.unobserve(target);
    loads.get(target)();
  }
}, { rootMargin: "200px" });

/** Show a thumbnail once it comes near the view. An <img> cannot send a key: with one, the picture is fetched. */
export function showThumbnail(img, path, failed) {
  img.addEventListener("error", failed, { once: true });
  loads.set(img, async () => {
    if (!hasKey()) {
      img.src = path;
      return;
    }
    try {
      const address = URL.createObjectURL(await (await request(path)).blob());
      img.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
      img.src = address;
    } catch {
      failed();
    }
  });
  nearView.observe(img);
}
