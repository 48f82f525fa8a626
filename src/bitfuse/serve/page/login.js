// Asking the user for a key.

import { byId } from "/page/dom.js";

/** A key from the user; `wrong` where the server refused the last one. */
export const askKey = (wrong) => new Promise((done) => {
  const dialog = byId("key");
  byId("key-why").textContent = wrong
    ? "The server did not take that key. Try another."
    : "Whoever runs it can give you one. It is kept until you close this tab.";
  byId("key-text").value = "";
  dialog.oncancel = (event) => event.preventDefault();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    done(byId("key-text").value.trim());
  }, { once: true });
  dialog.showModal();
});
