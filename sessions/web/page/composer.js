/**
 * Where the user writes.
 * Rule: words leave this box when the server has them, not before. Each message has an id that is made once, so that
 * sending it again is the same turn; the draft and its id survive a reload.
 */

import { announce, bytes, button, h, icon } from "./dom.js";
import { checkTogether, prepared } from "./files.js";

const KEY = "warmline.draft.";
const TALLEST = 320;

/**
 * `send({ id, text, files, interrupt })` raises where it has not been sent; `stop()`; `editLast()` says whether there
 * was something to edit. `config`: of the server.
 */
export class Composer {
  #files = [];
  #box = null;
  #id = null;
  #isRunning = false;
  #text = document.getElementById("words");
  #send = document.getElementById("send");
  #stop = document.getElementById("stop");
  #chips = document.getElementById("chips");
  #error = document.getElementById("composer-error");

  constructor({ config, send, stop, editLast }) {
    Object.assign(this, { config, send, stop, editLast });
    const form = document.getElementById("composer");
    const picker = document.getElementById("picker");
    const kinds = config.file_types.join(",");
    picker.accept = `${kinds},text/*,.md,.csv,.json,.txt,.log,.py,.js,.ts,.yaml,.toml,.sql`;
    form.addEventListener("submit", (event) => (event.preventDefault(), this.#submit(false)));
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#text.addEventListener("input", () => this.#changed());
    this.#stop.addEventListener("click", () => this.stop());
    document.getElementById("attach").addEventListener("click", () => picker.click());
    picker.addEventListener("change", async () => {
      const files = [...picker.files];
      picker.value = "";
      await this.add(files);
    });
    this.#text.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
    this.#acceptDrops(document.getElementById("main"));
  }

  #acceptDrops(area) {
    const carries = (event) => event.dataTransfer.types.includes("Files");
    let depth = 0;
    const over = (by) => {
      depth = by === 0 ? 0 : Math.max(0, depth + by);
      area.classList.toggle("dropping", depth > 0);
    };
    area.addEventListener("dragenter", (event) => carries(event) && (event.preventDefault(), over(1)));
    area.addEventListener("dragleave", (event) => carries(event) && over(-1));
    area.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    area.addEventListener("drop", (event) => {
      over(0);
      if (!carries(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
    // A file that misses the page must not take its place.
    for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
  }

  /** Shows the draft of this conversation. */
  open(id) {
    const early = this.#box ? "" : this.#text.value; // typed before this page was ready
    this.#box = { name: id ?? "new" };
    this.#files = [];
    const { text = "", message = null } = kept(this.#box.name);
    this.#text.value = text || early;
    this.#id = message;
    if (early) this.#save();
    this.#say("");
    this.#draw();
  }

  /** The conversation that was new has this id now. */
  adopt(id) {
    this.#forget(this.#box.name);
    this.#box.name = id;
  }

  focus() {
    this.#text.focus();
  }

  /** Whether a turn is under way, which can be stopped. `isWaiting`: it waits for a decision. */
  running(isRunning, isWaiting) {
    this.#isRunning = isRunning;
    this.#text.placeholder = isWaiting ? "Decide above, or say something else" : isRunning ? "Your next message waits for its turn" : "Write a message";
    this.#draw();
  }

  /** Takes files that were chosen, dropped or pasted; says which cannot be sent, and why. */
  async add(files) {
    this.#say("");
    const wrong = [];
    for (const file of files) {
      try {
        const ready = await prepared(file, this.config);
        checkTogether([...this.#files, ready], this.config);
        this.#files.push(ready);
        this.#id = null;
      } catch (error) {
        wrong.push(error.message);
      }
      this.#draw();
    }
    this.#say(wrong.join(" "));
    if (!wrong.length && files.length) announce(files.length === 1 ? "File attached" : `${files.length} files attached`);
    this.focus();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#submit(true);
    } else if (event.key === "Enter" && !event.shiftKey && !matchMedia("(pointer: coarse)").matches) {
      event.preventDefault();
      this.#submit(false);
    } else if (event.key === "ArrowUp" && !this.#text.value && this.editLast()) {
      event.preventDefault();
    }
  }

  #changed() {
    this.#id = null; // other words are another message
    this.#save();
    this.#draw();
  }

  #save() {
    const text = this.#text.value;
    if (text) sessionStorage.setItem(KEY + this.#box.name, JSON.stringify({ text, message: this.#id }));
    else this.#forget(this.#box.name);
  }

  async #submit(interrupt) {
    const text = this.#text.value.trim();
    const files = this.#files;
    if (!text && !files.length) return;
    const id = (this.#id ??= crypto.randomUUID());
    const box = this.#box;
    this.#save(); // until the server has it
    this.#text.value = "";
    this.#files = [];
    this.#id = null;
    this.#say("");
    this.#draw();
    try {
      await this.send({ id, text, files, interrupt });
      if (kept(box.name).message === id) this.#forget(box.name);
    } catch (error) {
      if (this.#box !== box) return; // the user went elsewhere: it waits where it was written
      const later = this.#text.value;
      this.#text.value = later ? `${text}\n\n${later}` : text;
      this.#files = [...files, ...this.#files];
      this.#id = later ? null : id;
      this.#save();
      this.#say(`Not sent: ${error.message}`);
      this.#draw();
    }
  }

  #forget(name) {
    sessionStorage.removeItem(KEY + name);
  }

  #say(text) {
    this.#error.textContent = text;
  }

  #draw() {
    const hasWords = Boolean(this.#text.value.trim() || this.#files.length);
    this.#stop.hidden = !this.#isRunning;
    this.#send.hidden = this.#isRunning && !hasWords;
    this.#send.disabled = !hasWords;
    this.#send.title = this.#isRunning ? "Send after this answer (Ctrl+Enter: interrupt it)" : "Send";
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(TALLEST, this.#text.scrollHeight)}px`;
    this.#chips.replaceChildren(...this.#files.map((file) => h("li.chip", {},
      file.local ? h("img", { src: file.local, alt: "" }) : icon("attach"),
      h("span", {}, file.name), h("small", {}, bytes(file.size)),
      button(`Remove ${file.name}`, () => {
        this.#files = this.#files.filter((one) => one !== file);
        this.#id = null;
        this.#draw();
        this.focus();
      }, { name: "close" }))));
  }
}

/** The draft of a conversation: its text, and the id of the message that it was sent as. */
const kept = (name) => JSON.parse(sessionStorage.getItem(KEY + name) ?? "{}");
