/**
 * Elements, and figures as people read them.
 * Rule: what others wrote becomes text nodes. `markdown` alone takes HTML, and only what the server has made safe.
 */

/** An element: `h("a.link", { href }, "text", child)`. Names that begin with "on" are listeners. */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const ICONS = {
  attach: "M13.5 7.5 8 13a3.5 3.5 0 0 1-5-5l6-6a2.3 2.3 0 0 1 3.3 3.3L6.5 11a1.2 1.2 0 0 1-1.7-1.7L10 4.2",
  branch: "M4.5 2v8m0 0a2 2 0 1 0 0 4 2 2 0 0 0 0-4Zm0 0c0-3 7-1.5 7-4.5m0 0a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z",
  close: "m3.5 3.5 9 9m0-9-9 9",
  copy: "M5.5 5.5v-3h8v8h-3m-8-5h8v8h-8Z",
  done: "m3 8.5 3.5 3.5L13 4.5",
  down: "M8 3v10m-4-4 4 4 4-4",
  edit: "m9.5 4 2.5 2.5m-9 6.5.6-3L11 2.5l2.5 2.5L6 12.4Z",
  left: "M10 3 5 8l5 5",
  menu: "M2 4h12M2 8h12M2 12h12",
  more: "M3 8h.01M8 8h.01M13 8h.01",
  plus: "M8 3v10M3 8h10",
  retry: "M13 3v3.5H9.5M12.7 6.3A5.2 5.2 0 1 0 13.2 9",
  right: "m6 3 5 5-5 5",
  send: "M8 13V3M3.5 7.5 8 3l4.5 4.5",
  settings: "M2 4.5h7m3 0h2M2 11.5h2m3 0h7M10.5 3v3M5.5 10v3",
  spend: "M2.5 13.5v-4m3.7 4v-8m3.6 8v-5m3.7 5v-11",
  stop: "M4.5 4.5h7v7h-7Z",
  tool: "M9.8 6.2 3 13m6.5-9.5a3 3 0 0 1 4 3.8l-2 .2-.7-.7.2-2Z",
  warning: "M8 2.5 14.5 13.5h-13Zm0 4v3m0 2v.01",
};

/** A line drawing; it says nothing to a screen reader. */
export function icon(name) {
  const drawing = svg("svg", { viewBox: "0 0 16 16", class: `icon icon-${name}`, "aria-hidden": "true" });
  drawing.append(svg("path", { d: ICONS[name] }));
  return drawing;
}

/** A button: with an icon alone, `label` is what it is called. */
export function button(label, onclick, { name, tag = "button", ...more } = {}) {
  const properties = { type: "button", onclick, ...more };
  return name
    ? h(`${tag}.quiet`, { "aria-label": label, title: label, ...properties }, icon(name))
    : h(tag, properties, label);
}

/** The server's safe HTML; `text` where it has made none. Code gets a button that copies it. */
export function markdown(html, text) {
  const box = h("div.prose");
  if (typeof html !== "string") {
    box.append(h("p.plain", {}, text ?? ""));
    return box;
  }
  box.innerHTML = html;
  for (const link of box.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of box.querySelectorAll("pre")) {
    code.tabIndex = 0; // it scrolls sideways, also by the keyboard
    const holder = h("div.code");
    code.replaceWith(holder);
    const language = [...(code.firstElementChild?.classList ?? [])].find((name) => name.startsWith("language-"));
    holder.append(
      h("div.code-head", {}, h("span", {}, language ? language.slice(9) : "code"), copyButton(() => code.textContent)),
      code,
    );
  }
  for (const table of box.querySelectorAll("table")) {
    const holder = h("div.wide", { tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(holder);
    holder.append(table);
  }
  return box;
}

/** Copies what `text()` gives, and shows for a moment that it did. */
export function copyButton(text, label = "Copy") {
  const copy = button(label, async () => {
    const isCopied = await copied(text());
    copy.replaceChildren(icon(isCopied ? "done" : "warning"));
    announce(isCopied ? "Copied" : "The browser does not let this page copy");
    setTimeout(() => copy.replaceChildren(icon("copy")), 1500);
  }, { name: "copy" });
  return copy;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not a secure origin, or not allowed: the older way.
    const area = h("textarea.hidden", { readonly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Tells screen readers. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

const SMALL = new Intl.NumberFormat("en", { minimumFractionDigits: 4, maximumFractionDigits: 4 });
const LARGE = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const WHOLE = new Intl.NumberFormat("en");

/** USD; a decimal text as the server has it. */
export function money(amount) {
  if (amount === null || amount === undefined) return "no price";
  const value = Number(amount);
  if (value === 0) return "$0";
  if (value < 0.00005) return "<$0.01";
  return `$${(value < 0.1 ? SMALL : LARGE).format(value)}`;
}

export const compact = (count) => COMPACT.format(count);
export const whole = (count) => WHOLE.format(count);
export const percent = (part, all) => (all ? `${Math.round((100 * part) / all)} %` : "–");

export function seconds(value) {
  if (value < 60) return `${Math.max(0.1, value).toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function bytes(count) {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** Tokens of the input by what became of them. */
export function shares(usage) {
  const written = usage.cache_write_5m + usage.cache_write_1h;
  return { read: usage.cache_read, written, uncached: usage.input, all: usage.cache_read + written + usage.input };
}

/** JSON for people: text as it is, anything else indented. */
export function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
