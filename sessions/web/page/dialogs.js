/**
 * Questions to the user.
 * Rule: `<dialog>` shown as modal, so that the browser keeps the focus inside, closes it on Escape, and gives the focus
 * back to where it was.
 */

import { token } from "./api.js";
import { h } from "./dom.js";

let count = 0;

/** Shows a dialog with this form; resolves to what `value()` gives when it is confirmed, else to `null`. */
function ask({ title, body, confirm, isDangerous = false, value = () => true }) {
  const id = `dialog-${++count}`;
  return new Promise((resolve) => {
    let answer = null;
    const form = h("form", {
      method: "dialog",
      onsubmit: (event) => {
        event.preventDefault(); // the policy lets no form go anywhere
        answer = value();
        dialog.close();
      },
    }, h("h2", { id }, title), ...body, h("div.row", {},
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      h(`button.${isDangerous ? "danger" : "primary"}`, { type: "submit" }, confirm)));
    const dialog = h("dialog", {
      "aria-labelledby": id,
      onclose: () => {
        dialog.remove();
        resolve(answer);
      },
      onclick: (event) => event.target === dialog && dialog.close(),
    }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

export const confirm = (title, text, action) =>
  ask({ title, body: [h("p", {}, text)], confirm: action, isDangerous: true });

/** A line of text; `null` where it is cancelled. */
export function line(title, label, text) {
  const input = h("input", { value: text, maxlength: "500", required: true, autofocus: true });
  return ask({ title, body: [h("label.field", {}, label, input)], confirm: "Save", value: () => input.value.trim() || null });
}

/** Asks for a token; whether one was given. */
export async function askForToken() {
  const input = h("input", { type: "password", autocomplete: "off", autofocus: true, required: true });
  const given = await ask({
    title: "Who are you?",
    body: [h("p", {}, token.get() ? "Your token is not accepted any more." : "This service asks for a token.",
      " It is kept in this browser."), h("label.field", {}, "Token", input)],
    confirm: "Go on",
    value: () => input.value.trim(),
  });
  if (given) token.set(given);
  return Boolean(given);
}

const THEME = "warmline.theme";

export function applyTheme() {
  document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? "auto";
}

/** Token, colours and keys. Reloads the page where the token is another one. */
export async function settings(owner) {
  const input = h("input", { type: "password", value: token.get(), autocomplete: "off", placeholder: "none" });
  const theme = h("select", {}, ...[["auto", "As the system"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) =>
    h("option", { value, selected: (localStorage.getItem(THEME) ?? "auto") === value }, text)));
  const keys = [["/", "search"], ["Enter", "send"], ["Shift Enter", "new line"], ["Ctrl Enter", "interrupt, and send"],
    ["↑", "edit your last words"], ["Esc", "stop the answer"]];
  const saved = await ask({
    title: "Settings",
    body: [
      h("p.muted", {}, `You are “${owner}”.`),
      h("label.field", {}, "Colours", theme),
      h("label.field", {}, "Token (kept in this browser)", input),
      h("dl.keys", {}, keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])),
    ],
    confirm: "Save",
    value: () => ({ theme: theme.value, token: input.value.trim() }),
  });
  if (!saved) return;
  localStorage.setItem(THEME, saved.theme);
  applyTheme();
  if (saved.token !== token.get()) {
    token.set(saved.token);
    location.reload();
  }
}
