/**
 * The list of conversations: newest first, searched and read on by the server.
 * Rule: it is read again as a whole, never patched: what it shows is what the server said last.
 */

import { Problem, json } from "./api.js";
import { button, h, money } from "./dom.js";

const STATES = { running: "answering", waiting: "waits for you", interrupted: "interrupted" };
const LOOK = 20_000;
const PAGE = 40;

/** `onrename(item)`, `ondelete(item)`. */
export class Sidebar {
  #rows = [];
  #next = null;
  #loads = 0;
  #timer = 0;
  #current = [];
  #list = document.getElementById("conversations");
  #search = document.getElementById("search");
  #more = document.getElementById("more");
  #menu = document.getElementById("menu");

  constructor({ onrename, ondelete }) {
    Object.assign(this, { onrename, ondelete });
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.load(), 200);
    });
    this.#search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#search.value) return;
      event.stopPropagation();
      this.#search.value = "";
      this.load();
    });
    this.#more.addEventListener("click", () => this.#read(this.#next));
    const look = () => document.visibilityState === "visible" && this.load();
    document.addEventListener("visibilitychange", look);
    setInterval(look, LOOK);
  }

  /** Marks the conversation that is open, and the one it is a branch of. */
  mark(...ids) {
    this.#current = ids.filter(Boolean);
    for (const link of this.#list.querySelectorAll("a")) this.#markOne(link);
  }

  #markOne(link) {
    if (this.#current.includes(link.dataset.id)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }

  /** Whether the list says the same of a conversation; also of one that it does not show. */
  says({ id, state, title }) {
    const row = this.#rows.find((one) => one.id === id);
    return !row || (row.state === state && row.title === title);
  }

  focusSearch() {
    this.#search.focus();
    this.#search.select();
  }

  /** Reads it again, as far as it was read. */
  load() {
    return this.#read(null);
  }

  async #read(before) {
    const load = ++this.#loads;
    const limit = before ? PAGE : Math.min(200, Math.max(PAGE, this.#rows.length));
    const query = new URLSearchParams({ limit, search: this.#search.value.trim(), ...(before ? { before } : {}) });
    try {
      const { sessions, next } = await json(`api/sessions?${query}`);
      if (load !== this.#loads) return;
      const rows = before ? [...this.#rows, ...sessions] : sessions;
      const isSame = JSON.stringify(rows) === JSON.stringify(this.#rows);
      this.#rows = rows;
      this.#next = next;
      if (!isSame || !rows.length) this.#draw();
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // what it showed stays; the next look may find the server
    }
  }

  #draw() {
    const had = document.activeElement;
    const focused = had.closest("#conversations li")?.querySelector("a").dataset.id;
    this.#list.replaceChildren(...this.#rows.map((row) => this.#row(row)));
    this.#more.hidden = !this.#next;
    document.getElementById("empty").textContent = this.#rows.length ? "" : this.#search.value ? "Nothing found" : "No conversations yet";
    if (focused) this.#list.querySelector(`[data-id="${CSS.escape(focused)}"]${had.matches("button") ? " ~ button" : ""}`)?.focus();
  }

  #row(item) {
    const state = STATES[item.state];
    const title = item.title || "Untitled";
    const link = h("a", { href: `#/c/${encodeURIComponent(item.id)}`, "data-id": item.id, title },
      state ? h("span.dot", { "data-state": item.state, role: "img", "aria-label": state, title: state }) : null,
      h("span.title", {}, title), h("small.price", {}, money(item.cost)));
    this.#markOne(link);
    const menu = button(`Rename or delete “${title}”`, () => this.#open(menu, item), {
      name: "more", tag: "button.row-menu", "aria-haspopup": "true",
    });
    menu.classList.add("row-menu");
    return h("li", {}, link, menu);
  }

  #open(by, item) {
    const act = (then) => () => {
      this.#menu.hidePopover();
      by.focus();
      then(item);
    };
    this.#menu.replaceChildren(h("button", { type: "button", onclick: act(this.onrename) }, "Rename"),
      h("button", { type: "button", onclick: act(this.ondelete) }, "Delete"));
    const { bottom, left } = by.getBoundingClientRect();
    this.#menu.showPopover();
    const { width, height } = this.#menu.getBoundingClientRect();
    this.#menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#menu.style.top = `${Math.min(bottom + 4, innerHeight - height - 8)}px`;
    this.#menu.firstElementChild.focus();
  }
}
